"""Parts of tiles, so that what some of them chose is judged on others."""

from typing import Any

import numpy as np
from numpy.typing import NDArray


def deal_parts(
    probs: NDArray[Any], truth: NDArray[Any], *, folds: int = 5
) -> list[NDArray[np.intp]]:
    """Return the places of the tiles of each part, which are alike in how much salt they have.

    Args:
        probs: (N, H, W) probabilities; they break ties between tiles with as much salt.
        truth: (N, H, W), salt where not 0.
        folds: Number of parts; fewer where there are fewer tiles.

    Returns:
        Parts of (N / folds,) each. The order of the tiles changes none of them.

    Raises:
        ValueError: There are no tiles or no pixels, or the shapes differ.
    """
    if probs.shape != truth.shape or probs.ndim != 3 or not probs.size:
        raise ValueError(f"probs {probs.shape} and truth {truth.shape} must be (N, H, W), N > 0")
    order = np.lexsort((probs.sum(axis=(1, 2)), np.count_nonzero(truth, axis=(1, 2))))
    return [order[k::folds] for k in range(min(folds, len(order)))]
