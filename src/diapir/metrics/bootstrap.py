"""How far a mean over tiles would move with other tiles of the same kind."""

import numpy as np
from numpy.typing import ArrayLike

_DRAWS_AT_ONCE = 1_000_000  # 8 MB of int64


def bootstrap_interval(
    values: ArrayLike, *, level: float = 0.95, samples: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """Return the percentile bootstrap interval of the mean of per-tile values.

    Tiles are drawn anew with replacement; their order changes nothing.

    Args:
        values: (N,), any finite numbers, such as the tiles' scores.
        level: Share of the resampled means that lie inside, between 0 and 1.
        samples: Number of resamplings.
        seed: Of the random generator; the same seed gives the same interval.

    Returns:
        Lower and upper end.

    Raises:
        ValueError: No values, values that are not finite or not (N,), a level outside (0, 1), or
            no samples.

    Source:
        Efron and Tibshirani 1993, An Introduction to the Bootstrap, section 13.3.

    >>> bootstrap_interval([0.7, 0.7, 0.7])
    (0.7, 0.7)
    """
    values = np.asarray(values, np.float64)
    if values.ndim != 1 or not values.size or not np.isfinite(values).all():
        raise ValueError(f"expected finite values of shape (N,), N > 0, found shape {values.shape}")
    if not 0 < level < 1 or samples < 1:
        raise ValueError(f"level {level} must be between 0 and 1, samples {samples} at least 1")
    values = np.sort(values)
    # Means of what lies above the smallest value: equal values then have exactly their own mean.
    above, tiles = values - values[0], len(values)
    rng, chunk = np.random.default_rng(seed), max(1, _DRAWS_AT_ONCE // tiles)
    sizes = (min(chunk, samples - start) for start in range(0, samples, chunk))
    draws = [above[rng.integers(tiles, size=(size, tiles))].mean(axis=1) for size in sizes]
    means = values[0] + np.concatenate(draws)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
