"""What a section's salt comes to: outline, share, top, confidence, comparison with the truth."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diapir.export.horizon import salt_interval
from diapir.io.labels import UNLABELLED
from diapir.metrics.score import dice, iou, tile_counts

_OUTLINE_SIDE = 1000  # pixels; finer contours are not seen, and cost the browser


@dataclass(frozen=True)
class SectionFacts:
    """Numbers of a section.

    Args:
        share: Of its live samples that are salt.
        top: Shallowest and median top salt in the unit of the section; None without salt, or on a
            slice.
        shallowest_at: Number of the trace of the shallowest.
        confidence: Mean over the live samples of the larger of p and 1 - p.
        iou: Against the truth; None without one.
        dice: Likewise.
    """

    share: float
    top: tuple[float, float] | None
    shallowest_at: float | None
    confidence: float
    iou: float | None = None
    dice: float | None = None


def section_facts(
    probs: NDArray[np.floating],
    threshold: float,
    across: NDArray[np.floating],
    down: NDArray[np.floating] | None,
    *,
    live: NDArray[np.bool_] | None = None,
    truth: NDArray[np.bool_] | None = None,
) -> SectionFacts:
    """Return the numbers of a section.

    Args:
        probs: (T, S) probability of salt.
        threshold: A sample is salt where its probability is greater.
        across: (T,) numbers of the traces.
        down: (S,) times or depths; None on a slice, which has no top.
        live: (T, S) where there are samples; None: everywhere.
        truth: (T, S).
    """
    live = np.ones(probs.shape, np.bool_) if live is None else live
    salt = (probs > threshold) & live
    count = max(1, int(live.sum()))
    sure = np.maximum(probs, 1 - probs)
    top = shallowest = None
    if down is not None and salt.any():
        tops, _ = salt_interval(probs, salt, threshold, down)
        at = int(np.nanargmin(tops))
        top, shallowest = (float(tops[at]), float(np.nanmedian(tops))), float(across[at])
    scores: dict[str, float] = {}
    if truth is not None:
        counts = tile_counts(salt[None], (truth & live)[None])
        scores = {"iou": float(iou(counts)[0]), "dice": float(dice(counts)[0])}
    return SectionFacts(
        share=float(salt.sum() / count),
        top=top,
        shallowest_at=shallowest,
        confidence=float(np.where(live, sure, 0).sum() / count),
        **scores,
    )


def describe_facts(facts: SectionFacts, unit: str) -> list[tuple[str, str]]:
    """Return the numbers of a section in words, as (name, value)."""
    rows = [("Salt", f"{100 * facts.share:.1f} %")]
    if facts.top is not None:
        rows.append(("Top salt, median", f"{facts.top[1]:,.0f} {unit}"))
        shallowest = f"{facts.top[0]:,.0f} {unit} at {facts.shallowest_at:g}"
        rows.append(("Shallowest", shallowest))
    rows.append(("Confidence", f"{100 * facts.confidence:.1f} %"))
    if facts.iou is not None and facts.dice is not None:
        rows.append(("IoU", f"{facts.iou:.3f}"))
        rows.append(("Dice", f"{facts.dice:.3f}"))
    return rows


def outline(
    probs: NDArray[np.floating],
    threshold: float,
    across: tuple[float, float],
    down: tuple[float, float],
) -> tuple[list[NDArray[np.float64]], list[NDArray[np.float64]]]:
    """Return the lines along which the probability crosses the threshold, as xs and ys.

    Args:
        probs: (T, S).
        threshold: Of the probability.
        across: Value of the first trace, and the step.
        down: Value of the first sample, and the step.
    """
    from contourpy import contour_generator

    steps = [max(1, -(-size // _OUTLINE_SIDE)) for size in probs.shape]
    coarse = probs[:: steps[0], :: steps[1]]
    if min(coarse.shape) < 2 or not coarse.min() <= threshold < coarse.max():
        return [], []
    x = across[0] + across[1] * steps[0] * np.arange(coarse.shape[0])
    y = down[0] + down[1] * steps[1] * np.arange(coarse.shape[1])
    lines: Any = contour_generator(x=x, y=y, z=np.ascontiguousarray(coarse.T)).lines(threshold)
    return [line[:, 0] for line in lines], [line[:, 1] for line in lines]


def corrected(
    probs: NDArray[np.floating] | None, labels: NDArray[np.uint8] | None
) -> NDArray[np.float32] | None:
    """Return probabilities with a person's word over the model's; None where neither spoke.

    Args:
        probs: (T, S).
        labels: (T, S) 0, 1 or `UNLABELLED`.
    """
    if labels is None or (labels == UNLABELLED).all():
        return None if probs is None else np.asarray(probs, np.float32)
    base = np.zeros(labels.shape, np.float32) if probs is None else probs.astype(np.float32)
    return np.where(labels == UNLABELLED, base, labels.astype(np.float32))


def average(found: Sequence[NDArray[np.float32]]) -> Mapping[str, NDArray[np.float32]]:
    """Return the mean of several models' probabilities, and how far they lie apart."""
    stack = np.stack(found)
    result = {"probability": stack.mean(axis=0)}
    if len(found) > 1:
        result["disagreement"] = stack.max(axis=0) - stack.min(axis=0)
    return result
