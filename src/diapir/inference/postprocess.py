"""From probabilities to masks: threshold, doubtful bodies, empty tiles; and how they are chosen.

Everything here is chosen on tiles that did not train the network, out-of-fold or validation tiles,
and stored in the model file. Nothing is chosen on a hold-out.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diapir.errors import OptionError
from diapir.inference.tile_bodies import label_tile_bodies, only_bodies, peaks_of_bodies
from diapir.metrics.bootstrap import bootstrap_interval
from diapir.metrics.calibration import TemperatureTrial, scale_probs, try_temperature
from diapir.metrics.crossfit import deal_parts
from diapir.metrics.score import Counts, mean_score, tile_counts, tile_hits, tile_scores
from diapir.metrics.thresholds import THRESHOLDS, best_threshold, threshold_curve
from diapir.models.maskrule import AS_THRESHOLDED, MaskRule

MIN_BODIES = (0, 5, 10, 20, 40, 80)
"""Smallest bodies that are tried, in pixels."""
MIN_PEAKS = (0.0, 0.6, 0.7, 0.8)
"""Probabilities that are tried as those which a body must exceed somewhere."""
EMPTY_BELOW = (0.0, 10.0, 25.0, 50.0, 100.0, 200.0, 400.0)
"""Sums of probability that are tried, in pixels."""
_THRESHOLDS = np.arange(10, 91, 2) / 100


@dataclass(frozen=True)
class Choice:
    """How probabilities of one model are to be used.

    Args:
        threshold: On calibrated probabilities.
        rule: Calibration and clean-up.
        score: On the tiles that it was chosen on, which flatters slightly; NaN where the threshold
            was given.
        gain: In score over the threshold and a peak that was given, of the best clean-up that was
            tried, both judged on tiles that did not choose them.
        gain_low: Lower end of the 95 % interval of `gain`; the clean-up is only kept above 0.
        trial: The temperature that was tried; None where none was chosen.
    """

    threshold: float
    rule: MaskRule
    score: float
    gain: float = 0.0
    gain_low: float = 0.0
    trial: TemperatureTrial | None = None

    @property
    def calibration(self) -> str:
        """What became of the temperature, as a sentence; empty where none was tried."""
        return "" if self.trial is None else describe_trial(self.trial)


def describe_trial(trial: TemperatureTrial) -> str:
    """Return a sentence: which temperature was fitted, what it gains, and whether it is kept."""
    if trial == TemperatureTrial():
        return "No temperature was fitted: the tiles do not have salt and background enough."
    gains = (
        f"on tiles that did not fit it the calibration error falls by {trial.error_gain:.4f} (95 % "
        f"interval from {trial.error_low:.4f}) and the negative log-likelihood by "
        f"{trial.likelihood_gain:.4f} nats a pixel (from {trial.likelihood_low:.4f})"
    )
    if trial.helps:
        return f"Temperature {trial.temperature:.3f} is kept: {gains}."
    return (
        f"Temperature {trial.temperature:.3f} was fitted and not kept, as it does not help beyond "
        f"doubt: {gains}. Probabilities stay as they are."
    )


def check_threshold(threshold: float | None) -> None:
    """Refuse a threshold that is no probability; None leaves it to the models.

    Raises:
        OptionError: It lies outside 0..1, or is NaN.
    """
    # written so that NaN, which is neither less nor more, is refused
    if threshold is not None and not 0 <= threshold <= 1:
        raise OptionError(
            f"a threshold of {threshold:g}", "threshold", expected="a probability, 0 to 1"
        )


def make_masks(
    probs: NDArray[np.floating], threshold: float, rule: MaskRule = AS_THRESHOLDED
) -> NDArray[np.bool_]:
    """Return the masks of calibrated probabilities.

    Args:
        probs: (N, H, W) in 0..1, already divided by the rule's temperature.
        threshold: Pixels above it are salt.
        rule: Smallest body and its peak, then empty tiles.
    """
    # float(): a float64 scalar would compare float32 probabilities in another precision
    masks: NDArray[np.bool_] = probs > float(threshold)
    if rule.min_body > 1 or rule.min_peak > threshold:
        found = label_tile_bodies(masks)
        certain = peaks_of_bodies(found, masks, probs) > float(rule.min_peak)
        masks = only_bodies(found, certain & (found.size >= rule.min_body))
    if rule.empty_below > 0:
        masks &= (_sums(probs) >= rule.empty_below)[:, None, None]
    return masks


def score_curve(
    probs: NDArray[np.floating], truth: NDArray[Any], rule: MaskRule = AS_THRESHOLDED
) -> NDArray[np.float64]:
    """Return the score of the masks at each of `THRESHOLDS`, (T,).

    Args:
        probs: (N, H, W) in 0..1, already divided by the rule's temperature.
        truth: (N, H, W) masks, bool or integers; salt where not 0.
        rule: What cleans the masks.
    """
    if not rule.cleans:
        return threshold_curve(probs, truth)
    masks = (make_masks(probs, threshold, rule) for threshold in THRESHOLDS.tolist())
    return np.array([mean_score(tile_counts(each, truth)) for each in masks])


def choose(
    probs: NDArray[np.floating],
    truth: NDArray[np.integer],
    *,
    threshold: float | None = None,
    min_peak: float | None = None,
) -> Choice:
    """Return temperature, threshold and clean-up that suit raw probabilities best.

    Temperature and clean-up are kept only where the interval of their gain, paired by tile, lies
    above 0 on tiles that did not choose them: each fifth is judged with what the others choose.

    Args:
        probs: (N, H, W) raw probabilities of tiles that did not train the network.
        truth: (N, H, W) masks of 0 and 1.
        threshold: Is kept, and no clean-up is tried; None tries some.
        min_peak: Is kept, whatever it gains; None tries some.

    Raises:
        ValueError: There are no tiles, or the shapes differ.
    """
    trial = try_temperature(probs, truth)
    rule = MaskRule(trial.kept, min_peak=min_peak or 0.0)
    if threshold is not None:
        return Choice(threshold, rule, float("nan"), trial=trial)
    probs = scale_probs(probs, trial.kept)
    parts = deal_parts(probs, truth)
    given = _hits_of_rule(probs, truth, rule, parts)
    peaks = MIN_PEAKS if min_peak is None else (min_peak,)
    tried = _hits_of_clean_ups(probs, truth, [replace(rule, min_peak=p) for p in peaks], parts)
    plain = Choice(*given.best(), given.score, trial=trial)
    best = Choice(*tried.best(), tried.score, trial=trial)
    if best.rule == plain.rule or len(parts) < 2:
        return plain
    gains = np.concatenate(
        [
            _tile_scores(probs[part], truth[part], *tried.best(without=k))
            - _tile_scores(probs[part], truth[part], *given.best(without=k))
            for k, part in enumerate(parts)
        ]
    )
    gain, (low, _) = float(gains.mean()), bootstrap_interval(gains)
    return replace(best if low > 0 else plain, gain=gain, gain_low=low)


@dataclass(frozen=True, eq=False)
class _Hits:
    """How many IoU thresholds the tiles of each part pass, by rule and threshold; integers.

    Args:
        rules: R of them, those that clean less before those that clean more.
        thresholds: (T,).
        hits: (P, R, T) sums over the tiles of each of P parts.
        tiles: In all parts.
    """

    rules: Sequence[MaskRule]
    thresholds: NDArray[np.float64]
    hits: NDArray[np.int64]
    tiles: int

    @property
    def score(self) -> float:
        """The best of all tiles."""
        return float(self.hits.sum(axis=0).max() / (10 * self.tiles))

    def best(self, without: int | None = None) -> tuple[float, MaskRule]:
        """Return the best threshold and rule, of all tiles or of those outside one part."""
        hits = self.hits.sum(axis=0) - (0 if without is None else self.hits[without])
        place = int(hits.max(axis=1).argmax())  # of equal ones the first
        return best_threshold(hits[place], self.thresholds), self.rules[place]


def _tile_scores(
    probs: NDArray[np.floating], truth: NDArray[np.integer], threshold: float, rule: MaskRule
) -> NDArray[np.float64]:
    found: NDArray[np.float64] = tile_scores(tile_counts(make_masks(probs, threshold, rule), truth))
    return found


def _hits_of_rule(
    probs: NDArray[np.floating],
    truth: NDArray[np.integer],
    rule: MaskRule,
    parts: Sequence[NDArray[np.intp]],
) -> _Hits:
    """Return what each of `THRESHOLDS` comes to with one rule."""
    curves = [score_curve(probs[part], truth[part], rule) * 10 * len(part) for part in parts]
    hits = np.rint(curves).astype(np.int64)[:, None]
    return _Hits([rule], THRESHOLDS, hits, len(probs))


def _hits_of_clean_ups(
    probs: NDArray[np.floating],
    truth: NDArray[np.integer],
    rules: Sequence[MaskRule],
    parts: Sequence[NDArray[np.intp]],
) -> _Hits:
    """Return what smallest bodies and empty tiles come to with each of some rules.

    One labelling a threshold serves all bodies; the empty tiles need only the tiles' sums.
    """
    sums = _sums(probs)
    emptied = np.array([sums < limit for limit in EMPTY_BELOW])  # (E, N)
    if_empty = 10 * ~truth.any(axis=(1, 2))
    bodies = [replace(rule, min_body=size) for rule, size in product(rules, MIN_BODIES)]
    hits = np.empty((len(parts), len(bodies), len(EMPTY_BELOW), len(_THRESHOLDS)), np.int64)
    for k, threshold in enumerate(_THRESHOLDS.tolist()):
        for place, counts in enumerate(_counts_of_bodies(probs, threshold, truth, bodies)):
            found = np.where(emptied, if_empty, tile_hits(counts))
            hits[:, place, :, k] = [found[:, part].sum(axis=1) for part in parts]
    tried = [replace(rule, empty_below=limit) for rule, limit in product(bodies, EMPTY_BELOW)]
    by_rule = hits.reshape(len(parts), len(tried), len(_THRESHOLDS))
    return _Hits(tried, _THRESHOLDS, by_rule, len(probs))


def _counts_of_bodies(
    probs: NDArray[np.floating],
    threshold: float,
    truth: NDArray[np.integer],
    rules: Sequence[MaskRule],
) -> list[Counts]:
    """Return the tiles' counts without the bodies that each of some rules drops."""
    masks = probs > threshold
    found = label_tile_bodies(masks)
    peaks = peaks_of_bodies(found, masks, probs)
    tiles, height, width = found.shape
    inside = np.zeros((tiles * height, width + 1), np.int64)
    np.cumsum(truth.reshape(tiles * height, width), axis=1, out=inside[:, 1:])
    hits = inside[found.row, found.stop] - inside[found.row, found.start]
    shared = np.bincount(found.body, weights=hits, minlength=len(found.size))
    actual = np.count_nonzero(truth, axis=(1, 2))
    pixels = np.full(tiles, height * width, np.int64)

    def per_tile(values: NDArray[np.number]) -> NDArray[np.int64]:
        return np.bincount(found.tile, weights=values, minlength=tiles).astype(np.int64)

    return [
        Counts(per_tile(shared * keep), per_tile(found.size * keep), actual, pixels)
        for keep in ((peaks > rule.min_peak) & (found.size >= rule.min_body) for rule in rules)
    ]


def _sums(probs: NDArray[np.floating]) -> NDArray[np.float64]:
    sums: NDArray[np.float64] = probs.sum(axis=(1, 2), dtype=np.float64)
    return sums
