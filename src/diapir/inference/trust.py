"""How far the probabilities of a model can be trusted, and which tiles are worth a second look."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diapir.metrics.calibration import (
    Reliability,
    kept_curve,
    reliability,
    scale_probs,
    tile_doubt,
)

_SHARES = np.arange(1, 21) / 20


@dataclass(frozen=True, eq=False)
class Trust:
    """Calibration and doubt on N labelled tiles.

    Args:
        temperature: That calibrates the probabilities; 1 where the model file has none.
        before: Reliability without it.
        after: Reliability with it; the same as `before` at temperature 1.
        doubt: (N,) of each tile for each kind of doubt, from 0 for certain on.
        kept: For each kind of doubt shares of tiles kept, (20,), and their mean scores, (20,).
        ideal: The same for whoever knew the scores: no order of the tiles does better.
    """

    temperature: float
    before: Reliability
    after: Reliability
    doubt: dict[str, NDArray[np.float64]]
    kept: dict[str, tuple[NDArray[np.float64], NDArray[np.float64]]]
    ideal: tuple[NDArray[np.float64], NDArray[np.float64]]

    def to_dict(self) -> dict[str, Any]:
        """Return everything but the doubt of each tile as plain values that `json.dumps` takes."""
        return {
            "temperature": self.temperature,
            "expected_calibration_error": {
                "before": self.before.error,
                "after": self.after.error,
            },
            "reliability": {"before": _table(self.before), "after": _table(self.after)},
            "score_of_tiles_kept": {
                name: [{"share": s, "score": v} for s, v in zip(*_lists(curve), strict=True)]
                for name, curve in (*self.kept.items(), ("ideal", self.ideal))
            },
        }


def judge_trust(
    probs: NDArray[np.float32],
    truth: NDArray[np.integer],
    tile_scores: NDArray[np.float64],
    temperature: float,
    disagreement: NDArray[np.float64] | None = None,
) -> Trust:
    """Return calibration before and after, and what is gained by leaving doubtful tiles to people.

    Args:
        probs: (N, H, W) calibrated probabilities.
        truth: (N, H, W) masks of 0 and 1.
        tile_scores: (N,) scores of the tiles.
        temperature: That is in `probs` already.
        disagreement: (N,) of networks and mirrored tiles, where it is known.
    """
    after = reliability(probs, truth)
    before = after
    if temperature != 1:
        before = reliability(scale_probs(probs, 1 / temperature), truth)
    doubt = {"probabilities": tile_doubt(probs)}
    if disagreement is not None and disagreement.any():
        doubt["disagreement"] = disagreement
    return Trust(
        temperature=temperature,
        before=before,
        after=after,
        doubt=doubt,
        kept={name: _thinned(kept_curve(tile_scores, each)) for name, each in doubt.items()},
        ideal=_thinned(kept_curve(tile_scores, -tile_scores)),
    )


def _thinned(
    curve: tuple[NDArray[np.float64], NDArray[np.float64]],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the curve at twentieths of the tiles."""
    tiles = len(curve[0])
    place = np.maximum(np.ceil(_SHARES * tiles).astype(np.intp), 1) - 1
    return curve[0][place], curve[1][place]


def _lists(curve: tuple[NDArray[np.float64], NDArray[np.float64]]) -> tuple[list[float], ...]:
    return tuple(np.round(values, 6).tolist() for values in curve)


def _table(found: Reliability) -> list[dict[str, Any]]:
    rows = zip(found.edges[:-1], found.edges[1:], found.predicted, found.found, found.pixels,
               strict=True)  # fmt: skip
    return [
        {
            "from": round(float(low), 6),
            "to": round(float(high), 6),
            "predicted": round(float(predicted), 6),
            "found": round(float(share), 6),
            "pixels": int(pixels),
        }
        for low, high, predicted, share, pixels in rows
    ]
