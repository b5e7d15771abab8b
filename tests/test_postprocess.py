"""Threshold, smallest body and empty tiles: applied as told, chosen only where they help."""

from dataclasses import replace

import numpy as np
import pytest

from diapir.config import PredictConfig
from diapir.inference.postprocess import (
    MIN_PEAKS,
    _Hits,
    _hits_of_clean_ups,
    choose,
    make_masks,
    score_curve,
)
from diapir.io.tiles import Tiles
from diapir.metrics.calibration import scale_probs
from diapir.metrics.score import competition_score
from diapir.metrics.thresholds import THRESHOLDS, best_threshold, threshold_curve
from diapir.models.maskrule import MaskRule
from diapir.runs.score import choose_masks


def draw(tiles: int = 60, specks: int = 0, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return probabilities and truth: blocks of salt in two of three tiles, and false specks."""
    rng = np.random.default_rng(seed)
    truth = np.zeros((tiles, 32, 32), np.uint8)
    for k in range(tiles):
        if k % 3:
            top, left = rng.integers(0, 16, 2)
            truth[k, top : top + 14, left : left + 14] = 1
    logits = 6.0 * truth - 3 + rng.normal(0, 0.7, truth.shape)
    for k in range(tiles):
        for _ in range(specks):
            row, column = rng.integers(0, 31, 2)
            logits[k, row : row + 2, column : column + 2] = 4
    return (1 / (1 + np.exp(-logits))).astype(np.float32), truth


def test_masks_follow_the_rule() -> None:
    probs = np.zeros((3, 10, 10), np.float32)
    probs[0, 0, :3] = 0.9  # a body of 3 pixels
    probs[0, 4:8, 4:8] = 0.9  # and one of 16
    probs[1, 0, 0] = 0.9
    probs[2] = 0.2
    plain = make_masks(probs, 0.5)
    assert plain.sum(axis=(1, 2)).tolist() == [19, 1, 0]
    assert make_masks(probs, 0.5, MaskRule(min_body=4)).sum(axis=(1, 2)).tolist() == [16, 0, 0]
    assert make_masks(probs, 0.5, MaskRule(empty_below=2)).sum(axis=(1, 2)).tolist() == [19, 0, 0]
    assert make_masks(probs, 0.1, MaskRule(empty_below=2))[2].all()
    probs[0, 5, 5] = 0.95
    doubtful = MaskRule(min_peak=0.92)
    assert make_masks(probs, 0.5, doubtful).sum(axis=(1, 2)).tolist() == [16, 0, 0]
    assert make_masks(probs, 0.93, doubtful).sum(axis=(1, 2)).tolist() == [1, 0, 0]
    probs[0, 5, 5] = 0.9
    assert (make_masks(probs, 0.5, MaskRule(temperature=3)) == plain).all()  # is in probs already


def test_threshold_is_exceeded_in_the_precision_of_the_probabilities() -> None:
    probs = np.full((1, 2, 2), 0.3, np.float32)
    assert not make_masks(probs, float(np.float64(0.3))).any()


def test_specks_are_cleaned_up_and_the_gain_is_told() -> None:
    probs, truth = draw(specks=2)
    found = choose(probs, truth)
    assert found.rule.min_body > 4 or found.rule.empty_below > 0
    assert found.gain > 0.1
    assert 0 < found.gain_low <= found.gain
    calibrated = scale_probs(probs, found.rule.temperature)
    masks = make_masks(calibrated, found.threshold, found.rule)
    assert competition_score(masks, truth) == pytest.approx(found.score)
    # and on other tiles of the kind
    fresh, other = draw(specks=2, seed=9)
    plain = best_threshold(threshold_curve(calibrated, truth))
    fresh = scale_probs(fresh, found.rule.temperature)
    assert competition_score(make_masks(fresh, found.threshold, found.rule), other) > (
        competition_score(make_masks(fresh, plain), other)
    )


def test_without_a_certain_gain_the_threshold_stands_alone() -> None:
    probs, truth = draw()
    found = choose(probs, truth)
    assert not found.rule.cleans
    curve = threshold_curve(scale_probs(probs, found.rule.temperature), truth)
    assert found.threshold == best_threshold(curve)
    assert found.score == curve.max()
    # one speck in one tile gains, but not beyond doubt
    probs[3, 0, 0] = 0.999
    assert not choose(probs, truth).rule.cleans


def test_a_clean_up_is_judged_on_tiles_that_did_not_choose_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """However well it suits all of them together."""
    probs, truth = draw(specks=2)
    helps = choose(probs, truth)
    assert helps.gain_low > 0
    best = _Hits.best
    plain = MaskRule(helps.rule.temperature)

    def nothing_for_others(self: _Hits, without: int | None = None) -> tuple[float, MaskRule]:
        return best(self) if without is None else (0.5, plain)

    monkeypatch.setattr(_Hits, "best", nothing_for_others)
    found = choose(probs, truth)
    assert (found.gain, found.rule.cleans) == (0, False)


def test_search_finds_what_trying_each_finds() -> None:
    probs, truth = draw(tiles=12, specks=1, seed=3)
    every = [MaskRule(min_peak=peak) for peak in MIN_PEAKS]
    hits = _hits_of_clean_ups(probs, truth, every, [np.arange(5), np.arange(5, 12)])
    threshold, rule = hits.best()
    best = competition_score(make_masks(probs, threshold, rule), truth)
    for other in (0.2, 0.4, 0.5, 0.6, 0.8):
        for body in (0, 5, 20, 80):
            for limit in (0, 25, 100, 400):
                for peak in (0, 0.7, 0.8):
                    masks = make_masks(probs, other, MaskRule(1, body, limit, peak))
                    assert competition_score(masks, truth) <= best + 1e-12
    assert hits.score == pytest.approx(best)
    # and of the tiles outside one part, what the same search finds on these alone
    alone = _hits_of_clean_ups(probs[5:], truth[5:], every, [np.arange(7)])
    assert hits.best(without=0) == alone.best()


def test_doubtful_bodies_are_dropped_where_that_gains() -> None:
    probs, truth = np.full((30, 32, 32), 0.02, np.float32), np.zeros((30, 32, 32), np.uint8)
    truth[::2, 4:20, 4:20] = 1
    probs[::2, 4:20, 4:20] = 0.65  # salt that is certain in its middle only
    probs[::2, 8:16, 8:16] = 0.97
    probs[1::2, 8:28, 8:28] = 0.65  # and none, of which no pixel is certain
    found = choose(probs, truth)
    assert found.rule.min_peak > 0
    assert found.gain_low > 0
    assert found.score == 1
    masks = make_masks(scale_probs(probs, found.rule.temperature), found.threshold, found.rule)
    assert (masks == truth).all()


def test_recipes_fix_threshold_and_peak() -> None:
    probs, truth = draw(tiles=8)
    tiles = Tiles(tuple("abcdefgh"), truth, truth, None, "drawn")
    fixed = PredictConfig(threshold=0.5, min_peak=0.7)
    found = choose_masks(probs, tiles, fixed)
    assert (found.threshold, found.rule.min_peak, found.rule.min_body) == (0.5, 0.7, 0)
    without = choose_masks(probs[:0], tiles.subset(np.arange(0)), fixed)
    assert (without.threshold, without.rule) == (0.5, MaskRule(min_peak=0.7))
    assert choose_masks(probs, tiles, PredictConfig(threshold=0.5)).rule.min_peak == 0


def test_with_a_given_peak_the_rest_is_chosen_to_suit_it() -> None:
    probs, truth = draw(specks=2)
    tiles = Tiles(tuple(map(str, range(len(probs)))), truth, truth, None, "drawn")
    found = choose_masks(probs, tiles, PredictConfig(min_peak=0.97))
    assert found.rule.min_peak == 0.97
    calibrated = scale_probs(probs, found.rule.temperature)
    curve = score_curve(calibrated, truth, found.rule)
    assert found.score == pytest.approx(curve[THRESHOLDS.tolist().index(found.threshold)])
    free = choose(probs, truth)
    as_if_free = make_masks(calibrated, free.threshold, replace(free.rule, min_peak=0.97))
    assert competition_score(as_if_free, truth) <= found.score


def test_order_of_tiles_does_not_matter() -> None:
    probs, truth = draw(specks=1)
    order = np.random.default_rng(0).permutation(len(probs))
    assert choose(probs, truth) == choose(probs[order], truth[order])


@pytest.mark.parametrize(
    "bad", [{"temperature": 0}, {"temperature": float("nan")}, {"min_body": -1}, {"min_peak": 1}]
)
def test_rule_that_cannot_be(bad: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="cannot be"):
        MaskRule(**bad)
