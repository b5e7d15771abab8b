"""How good predictions are: every metric with its uncertainty, by kind of tile, and tile by tile.

Nothing here chooses anything: the threshold comes in, picked on validation tiles, and the threshold
curve only shows how much hangs on it.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from diapir.data.census import classes_by_pixels, coverage_class_names
from diapir.errors import DataError
from diapir.inference.postprocess import make_masks, score_curve
from diapir.io.tiles import Tiles
from diapir.metrics.bootstrap import bootstrap_interval
from diapir.metrics.score import (
    Counts,
    dice,
    iou,
    pixel_accuracy,
    summarize,
    tile_counts,
    tile_scores,
)
from diapir.metrics.thresholds import THRESHOLDS
from diapir.models.maskrule import AS_THRESHOLDED, MaskRule


class Estimate(NamedTuple):
    """A metric and the interval in which it would fall on other tiles of the same kind."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class GroupScore:
    """The metrics of a group of tiles.

    Args:
        label: What the tiles have in common, such as ``"10-20 %"`` or ``"300-420 ft"``.
        tiles: Number of tiles in the group, at least 1.
        score: Mean score of the competition.
        iou: Mean intersection over union.
        predicted_salt: Share of the tiles in which any salt is predicted, 0..1.
    """

    label: str
    tiles: int
    score: Estimate
    iou: Estimate
    predicted_salt: float


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What `evaluate` finds out about N tiles.

    Args:
        source: Where the tiles come from.
        ids: N names.
        threshold: Threshold on the probability that gave the masks.
        level: Level of all intervals, such as 0.95.
        metrics: ``score``, ``iou``, ``dice``, ``accuracy``, ``presence_precision``,
            ``presence_recall`` with their intervals.
        by_coverage: Groups by share of salt: none, then tenths; groups without tiles are left out.
        by_depth: Groups by quintile of depth, equal depths together; empty without depths.
        thresholds: Thresholds of the curve, (T,) float64.
        curve: Mean score at each of them, (T,) float64.
        tile_scores: The competition's score of each tile, (N,) float64.
        tile_iou: Intersection over union of each tile, (N,) float64, 1 where nothing is and
            nothing is predicted.
        worst: All tiles from the worst on, (N,) indices: by score, then by wrong pixels.
        best: Tiles with salt from the best on, (M,) indices: by IoU. Tiles without salt score 1 for
            an empty prediction, which shows nothing.
        predicted_salt: Number of tiles in which any salt is predicted.
        every_mask_empty: The score that no prediction at all would get, the share of tiles without
            salt, with its interval: the measure of every other score.
    """

    source: str
    ids: tuple[str, ...]
    threshold: float
    level: float
    metrics: dict[str, Estimate]
    by_coverage: tuple[GroupScore, ...]
    by_depth: tuple[GroupScore, ...]
    thresholds: NDArray[np.float64]
    curve: NDArray[np.float64]
    tile_scores: NDArray[np.float64]
    tile_iou: NDArray[np.float64]
    worst: NDArray[np.intp]
    best: NDArray[np.intp]
    predicted_salt: int
    every_mask_empty: Estimate

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def warning(self) -> str | None:
        """What is wrong with a model that finds nothing where there is salt, else None."""
        if self.predicted_salt or not len(self.best):
            return None
        return (
            f"no salt is found: of {len(self):,} tiles {len(self.best):,} have salt, and every "
            "predicted mask is empty"
        )

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain values that `json.dumps` takes, the tiles by their ids."""
        scored = zip(self.ids, self.tile_scores, self.tile_iou, strict=True)
        return {
            "source": self.source,
            "tiles": len(self),
            "threshold": self.threshold,
            "level": self.level,
            "metrics": {name: e._asdict() for name, e in self.metrics.items()},
            "every_mask_empty": self.every_mask_empty._asdict(),
            "tiles_with_salt": {"predicted": self.predicted_salt, "actual": len(self.best)},
            "warning": self.warning,
            "by_coverage": [_group_dict(group) for group in self.by_coverage],
            "by_depth": [_group_dict(group) for group in self.by_depth],
            "threshold_curve": {
                "thresholds": [round(t, 6) for t in self.thresholds.tolist()],
                "scores": [round(s, 6) for s in self.curve.tolist()],
            },
            "tile_scores": {
                name: {"score": round(float(score), 1), "iou": round(float(overlap), 6)}
                for name, score, overlap in scored
            },
            "worst": [self.ids[k] for k in self.worst[:20]],
            "best": [self.ids[k] for k in self.best[:20]],
        }


def evaluate(
    probs: NDArray[np.floating],
    tiles: Tiles,
    threshold: float,
    *,
    rule: MaskRule = AS_THRESHOLDED,
    level: float = 0.95,
    samples: int = 2000,
    seed: int = 0,
) -> Evaluation:
    """Return all metrics of probabilities on labelled tiles, on the tiles' own grid.

    A pixel counts as salt where its probability is greater than the threshold, and the rule does
    not clean it away.

    Args:
        probs: Probability of salt, 0..1, (N, H, W).
        tiles: N tiles with masks of the same size, in the same order; depths are optional.
        threshold: In 0..1, chosen on other tiles than these where the result shall be honest.
        rule: Chosen on the same tiles as the threshold; its temperature is in `probs` already.
        level: Level of the bootstrap intervals.
        samples: Bootstrap samples of tiles.
        seed: Seed of the bootstrap; the same seed gives the same intervals.

    Raises:
        DataError: The tiles have no masks, there are none, the shapes differ, or the probabilities
            hold values that are no number or lie outside 0..1.
    """
    # float(): a float64 scalar would compare float32 probabilities in another precision.
    threshold = float(threshold)
    truth = _check(probs, tiles, threshold)
    counts = tile_counts(make_masks(probs, threshold, rule), truth)
    resample = _Resampler(level, samples, seed)
    scores = np.asarray(tile_scores(counts), dtype=np.float64)
    overlaps = np.asarray(iou(counts), dtype=np.float64)
    return Evaluation(
        source=tiles.source,
        ids=tiles.ids,
        threshold=threshold,
        level=level,
        metrics=_estimate_metrics(counts, resample),
        by_coverage=tuple(_score_groups(_coverage_groups(counts), counts, resample)),
        by_depth=tuple(_score_groups(_depth_groups(tiles.z_feet), counts, resample)),
        thresholds=THRESHOLDS.copy(),
        curve=score_curve(probs, truth, rule),
        tile_scores=scores,
        tile_iou=overlaps,
        worst=np.lexsort((-(counts.union - counts.intersection), scores)),
        best=_salty_by_iou(counts, overlaps),
        predicted_salt=int((counts.predicted > 0).sum()),
        every_mask_empty=resample.mean(counts.actual == 0),
    )


class _Resampler(NamedTuple):
    level: float
    samples: int
    seed: int

    def mean(self, values: NDArray[Any]) -> Estimate:
        """Return the mean of values (N,) with its interval; without values it is 1, as certain."""
        # The convention of `salt_presence`: where nothing could go wrong, nothing did.
        if len(values) == 0:
            return Estimate(1.0, 1.0, 1.0)
        values = np.asarray(values, dtype=np.float64)
        low, high = bootstrap_interval(
            values, level=self.level, samples=self.samples, seed=self.seed
        )
        return Estimate(float(values.mean()), float(low), float(high))


def _check(probs: NDArray[np.floating], tiles: Tiles, threshold: float) -> NDArray[np.bool_]:
    if tiles.masks is None:
        raise DataError(
            "the tiles have no masks to compare with",
            where=tiles.source,
            expected="labelled tiles",
            mend="Evaluate on the training part, which has masks or a train.csv.",
        )
    if len(tiles) == 0:
        raise DataError("there are no tiles to evaluate on", where=tiles.source)
    if probs.shape != tiles.masks.shape:
        raise DataError(
            f"the probabilities have shape {probs.shape}",
            where=tiles.source,
            expected=f"{tiles.masks.shape}, the shape of the masks",
            mend="Predict these very tiles, at their own size.",
        )
    # One comparison finds values outside and those that are no number: NaN is in no range.
    if not (float(probs.min()) >= 0 and float(probs.max()) <= 1):
        raise DataError(
            f"probabilities from {probs.min():g} to {probs.max():g}",
            where=tiles.source,
            expected="numbers in 0..1",
            mend="Apply the sigmoid to logits; look for NaN in the model's weights.",
        )
    if not 0 <= threshold <= 1:
        raise DataError(f"threshold {threshold:g} lies outside 0..1")
    return tiles.masks.astype(bool)


def _estimate_metrics(counts: Counts, resample: _Resampler) -> dict[str, Estimate]:
    """Return each metric of `summarize` with its interval.

    Each is a mean: over all tiles, or for precision and recall of "has salt" over those tiles that
    are said to have salt, or have it.
    """
    predicted, actual = counts.predicted > 0, counts.actual > 0
    right = (predicted & actual).astype(np.float64)
    means = {
        "score": tile_scores(counts),
        "iou": iou(counts),
        "dice": dice(counts),
        "accuracy": pixel_accuracy(counts),
        "presence_precision": right[predicted],
        "presence_recall": right[actual],
    }
    values = summarize(counts)
    return {
        name: resample.mean(np.asarray(each))._replace(value=values[name])
        for name, each in means.items()
    }


def _coverage_groups(counts: Counts) -> Iterator[tuple[str, NDArray[np.bool_]]]:
    classes = classes_by_pixels(np.asarray(counts.actual), np.asarray(counts.pixels))
    for k, name in enumerate(["none", *coverage_class_names()[1:]]):
        yield name, classes == k


def _depth_groups(
    z_feet: NDArray[np.float32] | None,
) -> Iterator[tuple[str, NDArray[np.bool_]]]:
    if z_feet is None:
        return
    edges = np.unique(np.quantile(z_feet, [0.2, 0.4, 0.6, 0.8]))
    place = np.searchsorted(edges, z_feet, side="left")
    for k in np.unique(place):
        within = place == k
        yield f"{z_feet[within].min():.0f}-{z_feet[within].max():.0f} ft", within


def _score_groups(
    groups: Iterator[tuple[str, NDArray[np.bool_]]], counts: Counts, resample: _Resampler
) -> Iterator[GroupScore]:
    for label, within in groups:
        if not within.any():
            continue
        part = counts.select(within)
        yield GroupScore(
            label=label,
            tiles=int(within.sum()),
            score=resample.mean(tile_scores(part)),
            iou=resample.mean(iou(part)),
            predicted_salt=float((part.predicted > 0).mean()),
        )


def _salty_by_iou(counts: Counts, overlaps: NDArray[np.float64]) -> NDArray[np.intp]:
    salty = np.flatnonzero(counts.actual > 0)
    order: NDArray[np.intp] = salty[np.argsort(-overlaps[salty], kind="stable")]
    return order


def _group_dict(group: GroupScore) -> dict[str, Any]:
    return {
        "label": group.label,
        "tiles": group.tiles,
        "score": group.score._asdict(),
        "iou": group.iou._asdict(),
        "predicted_salt": group.predicted_salt,
    }
