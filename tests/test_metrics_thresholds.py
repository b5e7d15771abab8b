"""Threshold curves against scoring each threshold by itself, and the choice of a threshold."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from diapir.metrics.score import competition_score, tile_counts
from diapir.metrics.thresholds import (
    THRESHOLDS,
    best_threshold,
    threshold_counts,
    threshold_curve,
)


@pytest.fixture
def case():
    rng = np.random.default_rng(3)
    truth = np.zeros((12, 9, 11), np.uint8)
    for i in range(8):
        truth[i, i:, 2 : 4 + i] = 1
    noise = rng.normal(0, 0.25, truth.shape)
    return (np.clip(0.2 + 0.6 * truth + noise, 0, 1)).astype(np.float32), truth


def test_curve_is_the_score_at_each_threshold(case):
    probs, truth = case
    curve = threshold_curve(probs, truth)
    each = [competition_score(probs > float(t), truth) for t in THRESHOLDS]
    assert curve.tolist() == each
    assert len(set(each)) > 10


def test_counts_are_those_of_each_mask(case):
    probs, truth = case
    counts = threshold_counts(probs, truth, np.array([0.3, 0.6]))
    assert counts.union.shape == (12, 2)
    for column, threshold in enumerate([0.3, 0.6]):
        alone = tile_counts(probs > threshold, truth)
        for name in ("intersection", "predicted", "actual", "pixels"):
            assert getattr(counts, name)[:, column].tolist() == getattr(alone, name).tolist()


def test_thresholds_may_come_in_any_order(case):
    probs, truth = case
    order = np.random.default_rng(0).permutation(len(THRESHOLDS))
    shuffled = threshold_curve(probs, truth, THRESHOLDS[order])
    np.testing.assert_array_equal(shuffled, threshold_curve(probs, truth)[order])


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_a_probability_at_the_threshold_is_not_salt(dtype):
    # 0.3 as float32 lies above 0.3 as float64: compared as float64 it would count as salt.
    probs = np.full((1, 2, 2), 0.3, dtype)
    empty = np.zeros((1, 2, 2), bool)
    assert threshold_curve(probs, empty, np.array([0.3])).tolist() == [1]
    assert threshold_curve(probs, ~empty, np.array([0.3, 0.29])).tolist() == [0, 1]


def test_default_thresholds_are_the_decimals_and_cannot_be_changed():
    assert THRESHOLDS.tolist() == [float(f"0.{k:02d}") for k in range(1, 100)]
    with pytest.raises(ValueError, match="read-only"):
        THRESHOLDS[0] = 0


@pytest.mark.parametrize(
    ("probs", "truth", "error", "message"),
    [
        (np.zeros((1, 2, 2)), np.zeros((1, 3, 2), bool), ValueError, "one shape"),
        (np.zeros((2, 2)), np.zeros((2, 2), bool), ValueError, "N, height, width"),
        (np.full((1, 2, 2), np.nan), np.zeros((1, 2, 2), bool), ValueError, "NaN"),
        (np.zeros((1, 2, 2), np.uint8), np.zeros((1, 2, 2), bool), TypeError, "uint8"),
        (np.zeros((1, 2, 2)), np.zeros((1, 2, 2)), TypeError, "float64"),
        (np.zeros((0, 2, 2)), np.zeros((0, 2, 2), bool), ValueError, "no tiles"),
    ],
)
def test_bad_input_is_refused(probs, truth, error, message):
    with pytest.raises(error, match=message):
        threshold_curve(probs, truth)


@pytest.mark.parametrize("thresholds", [np.array([]), np.array(0.5), np.array([[0.5]])])
def test_thresholds_must_be_a_row(thresholds):
    with pytest.raises(ValueError, match="thresholds"):
        threshold_curve(np.zeros((1, 2, 2)), np.zeros((1, 2, 2), bool), thresholds)


@pytest.mark.parametrize(
    ("curve", "best"),
    [
        ([0, 1, 1, 1, 0, 0, 0], 0.3),  # middle of the plateau
        ([0, 0, 1, 1, 0, 0, 0], 0.3),  # the lower of two middles
        ([1, 0, 0, 0, 1, 1, 1], 0.6),  # the widest plateau, up to the edge
        ([1, 1, 0, 0, 1, 1, 0], 0.5),  # of equally wide ones, the nearest to 0.5
        ([1, 1, 1, 1, 1, 1, 1], 0.4),
        ([0, 0, 0, 0, 0, 0, 1], 0.7),
    ],
)
def test_best_threshold_is_the_middle_of_the_best_plateau(curve, best):
    thresholds = np.linspace(1, 7, 7) / 10
    assert best_threshold(np.array(curve), thresholds) == best


@given(hnp.arrays(np.float64, 99, elements=st.sampled_from([0.0, 0.5, 0.9])))
def test_the_curve_has_its_maximum_at_the_best_threshold(curve):
    best = best_threshold(curve)
    assert curve[THRESHOLDS.tolist().index(best)] == curve.max()


@pytest.mark.parametrize(
    ("curve", "thresholds"),
    [([0.1], [0.1, 0.2]), ([], []), ([np.nan, 0.1], [0.1, 0.2]), ([0.1, 0.2], [0.2, 0.1])],
)
def test_best_threshold_refuses_what_is_no_curve(curve, thresholds):
    with pytest.raises(ValueError, match="thresholds"):
        best_threshold(np.array(curve), np.array(thresholds))
