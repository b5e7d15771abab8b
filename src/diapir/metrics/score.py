"""The competition's score and its neighbours, from pixel counts.

Everything after `tile_counts` uses operators only and so takes counts in numpy arrays or in torch
tensors alike, of any shape: (N,) for tiles, (N, T) for tiles at several thresholds.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = Any
"""A numpy array or a torch tensor."""

STEPS = range(10, 20)
"""The competition's IoU thresholds 0.50, 0.55, ..., 0.95 in twentieths."""


@dataclass(frozen=True, slots=True)
class Counts:
    """Pixel counts of tiles, all of one shape: (N,), or (N, T) at T thresholds.

    Args:
        intersection: Pixels that are salt in prediction and truth, integers.
        predicted: Pixels that are salt in the prediction, integers.
        actual: Pixels that are salt in the truth, integers.
        pixels: Pixels in the tile, integers.
    """

    intersection: Array
    predicted: Array
    actual: Array
    pixels: Array

    @property
    def union(self) -> Array:
        """Pixels that are salt in prediction or truth."""
        return self.predicted + self.actual - self.intersection

    def select(self, index: Array) -> "Counts":
        """Return the counts of some tiles, chosen by a mask or by numbers."""
        return self._map(lambda values: values[index])

    def pooled(self) -> "Counts":
        """Return the counts of all tiles together, as of one large tile."""
        return self._map(lambda values: values.sum(0))

    def _map(self, change: Any) -> "Counts":
        fields = (self.intersection, self.predicted, self.actual, self.pixels)
        return Counts(*(change(values) for values in fields))


class Presence(NamedTuple):
    """How well tiles with any salt are told from tiles without, each in 0..1."""

    precision: float
    recall: float


def tile_counts(pred: NDArray[Any], truth: NDArray[Any]) -> Counts:
    """Return the pixel counts of each tile.

    Args:
        pred: (N, H, W) masks, bool or integers; salt where not 0.
        truth: (N, H, W) masks, bool or integers; salt where not 0.

    Returns:
        Counts of (N,) int64.

    Raises:
        ValueError: The shapes differ or are not (N, H, W).
        TypeError: A mask holds floats, which must be thresholded first.

    >>> pred = np.array([[[1, 1, 0]], [[0, 0, 0]]])
    >>> truth = np.array([[[0, 1, 1]], [[0, 0, 0]]])
    >>> tile_counts(pred, truth).union.tolist()
    [3, 0]
    """
    pred, truth = _as_bool(pred, "pred"), _as_bool(truth, "truth")
    if pred.shape != truth.shape or pred.ndim != 3:
        raise ValueError(
            f"pred {pred.shape} and truth {truth.shape} must have one shape (N, height, width)"
        )
    # One count_nonzero a tile is vectorised inside; over an axis it is ten times slower.
    pairs = zip(pred, truth, strict=True)
    return Counts(
        intersection=_per_tile(np.count_nonzero(p & t) for p, t in pairs),
        predicted=_per_tile(np.count_nonzero(p) for p in pred),
        actual=_per_tile(np.count_nonzero(t) for t in truth),
        pixels=np.full(len(pred), pred.shape[1] * pred.shape[2], np.int64),
    )


def tile_hits(counts: Counts) -> Array:
    """Return how many of the ten IoU thresholds each tile passes, 0 to 10.

    IoU must lie strictly above a threshold k/20. Integers decide that exactly: 20 I > k U. An empty
    prediction of an empty tile passes all ten.

    Args:
        counts: Integers of any shape.

    Returns:
        Integers of the same shape.
    """
    twentieths, union = 20 * counts.intersection, counts.union
    passed = sum(twentieths > k * union for k in STEPS)
    return passed + 10 * (union == 0)


def tile_scores(counts: Counts) -> Array:
    """Return the competition's score of each tile, in steps of 0.1 from 0 to 1.

    Args:
        counts: Integers of any shape.

    Returns:
        Floats of the same shape.

    Source:
        TGS Salt Identification Challenge, evaluation page; ``tgs.md``, Metric.

    >>> half = Counts(np.array([50]), np.array([100]), np.array([50]), np.array([200]))
    >>> tile_scores(half).tolist()  # an IoU of exactly 0.5 does not pass 0.5
    [0.0]
    """
    return tile_hits(counts) / 10


def competition_score(pred: NDArray[Any], truth: NDArray[Any]) -> float:
    """Return the competition's score, the mean of the tiles' scores.

    Args:
        pred: (N, H, W) masks, bool or integers, on the original grid of the truth.
        truth: (N, H, W) masks, bool or integers.

    Raises:
        ValueError: The shapes differ, are not (N, H, W), or N is 0.
        TypeError: A mask holds floats.

    >>> truth = np.zeros((2, 101, 101), bool)
    >>> truth[0, 50:] = True
    >>> competition_score(np.zeros_like(truth), truth)
    0.5
    """
    return mean_score(tile_counts(pred, truth))


def mean_score(counts: Counts) -> float:
    """Return the mean of the tiles' scores from counts of shape (N,).

    Raises:
        ValueError: There is no tile.
    """
    tiles = len(counts.intersection)
    if not tiles:
        raise ValueError("no tiles to score")
    return int(tile_hits(counts).sum()) / (10 * tiles)


def iou(counts: Counts, *, empty: float = 1.0) -> Array:
    """Return intersection over union of each tile; ``iou(counts.pooled())`` over all pixels.

    Args:
        counts: Integers of any shape.
        empty: Value where neither prediction nor truth has salt.

    Returns:
        Floats in 0..1 of the same shape.
    """
    return _ratio(counts.intersection, counts.union, empty)


def dice(counts: Counts, *, empty: float = 1.0) -> Array:
    """Return the Dice coefficient of each tile; ``dice(counts.pooled())`` over all pixels.

    Args:
        counts: Integers of any shape.
        empty: Value where neither prediction nor truth has salt.

    Returns:
        Floats in 0..1 of the same shape.
    """
    return _ratio(2 * counts.intersection, counts.predicted + counts.actual, empty)


def pixel_accuracy(counts: Counts) -> Array:
    """Return the share of pixels that are right, per tile.

    Args:
        counts: Integers of any shape.

    Returns:
        Floats in 0..1 of the same shape.
    """
    return 1 - (counts.union - counts.intersection) / counts.pixels


def salt_presence(counts: Counts) -> Presence:
    """Return precision and recall of "this tile has salt", whatever its shape.

    Where no tile is said to have salt, nothing was said wrongly and the precision is 1; where no
    tile has salt, nothing was missed and the recall is 1.

    Args:
        counts: Integers of shape (N,).
    """
    said, salty = counts.predicted > 0, counts.actual > 0
    right = (said & salty).sum()
    return Presence(
        precision=float(_ratio(right, said.sum(), 1.0)),
        recall=float(_ratio(right, salty.sum(), 1.0)),
    )


def summarize(counts: Counts) -> dict[str, float]:
    """Return all metrics of a set of tiles, each the mean over tiles.

    Args:
        counts: Integers of shape (N,).

    Returns:
        ``score``, ``iou``, ``dice``, ``accuracy``, ``presence_precision``, ``presence_recall``.

    Raises:
        ValueError: There is no tile.
    """
    presence = salt_presence(counts)
    return {
        "score": mean_score(counts),
        "iou": float(iou(counts).mean()),
        "dice": float(dice(counts).mean()),
        "accuracy": float(pixel_accuracy(counts).mean()),
        "presence_precision": presence.precision,
        "presence_recall": presence.recall,
    }


def _ratio(part: Array, whole: Array, empty: float) -> Array:
    # No division by 0, which numpy warns of: where the whole is 0, so is the part.
    nothing = whole == 0
    return part / (whole + nothing) + empty * nothing


def _as_bool(mask: NDArray[Any], name: str) -> NDArray[np.bool_]:
    mask = np.asarray(mask)
    if mask.dtype.kind not in "bui":
        raise TypeError(f"{name} holds {mask.dtype}, expected a mask of bool or integers")
    return mask.astype(np.bool_, copy=False)


def _per_tile(numbers: Any) -> NDArray[np.int64]:
    return np.fromiter(numbers, np.int64)
