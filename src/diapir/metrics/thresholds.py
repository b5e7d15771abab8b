"""The score as a function of the threshold on probabilities, and the best threshold."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from diapir.metrics.score import Counts, tile_counts, tile_hits

THRESHOLDS: NDArray[np.float64] = np.linspace(1, 99, 99) / 100
"""0.01, 0.02, ..., 0.99; each is the float64 nearest to its decimal."""
THRESHOLDS.setflags(write=False)


def threshold_curve(
    probs: NDArray[Any], truth: NDArray[Any], thresholds: NDArray[Any] = THRESHOLDS
) -> NDArray[np.float64]:
    """Return the competition's score at each threshold; salt is where ``probs > threshold``.

    Args:
        probs: (N, H, W) float, on the original grid of the truth.
        truth: (N, H, W) masks, bool or integers; salt where not 0.
        thresholds: (T,), in any order.

    Returns:
        (T,) mean scores in 0..1.

    Raises:
        ValueError: The shapes differ or are not (N, H, W), N or T is 0, or a probability is NaN.
        TypeError: The truth holds floats or the probabilities do not.

    >>> truth = np.zeros((1, 2, 2), bool)
    >>> threshold_curve(np.full((1, 2, 2), 0.3), truth, np.array([0.2, 0.3, 0.4])).tolist()
    [0.0, 1.0, 1.0]
    """
    counts = threshold_counts(probs, truth, thresholds)
    tiles = len(counts.actual)
    if not tiles:
        raise ValueError("no tiles to score")
    curve: NDArray[np.float64] = tile_hits(counts).sum(axis=0) / (10 * tiles)
    return curve


def threshold_counts(
    probs: NDArray[Any], truth: NDArray[Any], thresholds: NDArray[Any] = THRESHOLDS
) -> Counts:
    """Return the pixel counts of each tile at each threshold.

    Thresholds are compared in the dtype of the probabilities, as ``probs > 0.3`` compares.

    Args:
        probs: (N, H, W) float.
        truth: (N, H, W) masks, bool or integers; salt where not 0.
        thresholds: (T,), in any order.

    Returns:
        Counts of (N, T) int64.

    Raises:
        ValueError: The shapes differ or are not (N, H, W), T is 0, or a probability is NaN.
        TypeError: The truth holds floats or the probabilities do not.
    """
    probs, truth = np.asarray(probs), np.asarray(truth)
    if probs.dtype.kind != "f":
        raise TypeError(f"probs holds {probs.dtype}, expected floats")
    if np.isnan(probs).any():
        raise ValueError("a probability is NaN")
    limits = np.asarray(thresholds).astype(probs.dtype)
    if limits.ndim != 1 or not limits.size:
        raise ValueError(f"thresholds {limits.shape} must have the shape (T,), T > 0")
    # Threshold by threshold: bins of all thresholds at once take as long and far more code.
    at_each = [tile_counts(probs > limit, truth) for limit in limits]
    columns = [[c.intersection, c.predicted, c.actual, c.pixels] for c in at_each]
    return Counts(*np.transpose(columns, (1, 2, 0)))


def best_threshold(curve: NDArray[Any], thresholds: NDArray[Any] = THRESHOLDS) -> float:
    """Return the middle of the widest plateau of best scores.

    The middle of a plateau stays right when other tiles move its ends. Of plateaus of one width,
    the one nearest to 0.5 is taken; of two middle thresholds, the lower.

    Args:
        curve: (T,) scores.
        thresholds: (T,), rising.

    Returns:
        One of the thresholds; the curve has its maximum there.

    Raises:
        ValueError: The lengths differ, are 0, a score is NaN, or the thresholds do not rise.

    >>> best_threshold(np.array([0.7, 0.8, 0.8, 0.8, 0.1]), np.array([0.1, 0.3, 0.5, 0.7, 0.9]))
    0.5
    """
    curve, thresholds = np.asarray(curve), np.asarray(thresholds)
    if curve.ndim != 1 or curve.shape != thresholds.shape or not curve.size:
        raise ValueError(
            f"curve {curve.shape} and thresholds {thresholds.shape} must have one shape (T,), T > 0"
        )
    if np.isnan(curve).any() or not (np.diff(thresholds) > 0).all():
        raise ValueError("the curve must hold numbers and the thresholds must rise")
    # A step of +1 opens a plateau, -1 closes it one place behind its end.
    steps = np.diff(np.concatenate(([0], curve == curve.max(), [0])))
    first, last = np.flatnonzero(steps == 1), np.flatnonzero(steps == -1) - 1
    middle = thresholds[(first + last) // 2]
    return float(middle[np.lexsort((np.abs(middle - 0.5), first - last))[0]])
