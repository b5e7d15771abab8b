"""The competition's score, exactly; the traps of the kernels that most public code copied."""

import subprocess
import sys
import warnings
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from diapir.metrics.score import (
    Counts,
    competition_score,
    dice,
    iou,
    mean_score,
    pixel_accuracy,
    salt_presence,
    summarize,
    tile_counts,
    tile_hits,
    tile_scores,
)

SIDE = 101


def kernel_iou_metric(truth, pred):
    """The public kernels' metric for one tile, wrong as it is: a histogram over two bins.

    numpy centres the bins of a constant array on its value, so that a constant mask falls into the
    upper bin, salt, whatever it holds.
    """
    labels, found = truth.astype(float), pred.astype(float)
    intersection = np.histogram2d(labels.ravel(), found.ravel(), bins=(2, 2))[0]
    area_true = np.histogram(labels, bins=2)[0][:, None]
    area_pred = np.histogram(found, bins=2)[0][None, :]
    union = (area_true + area_pred - intersection)[1:, 1:]
    union[union == 0] = 1e-9
    value = intersection[1:, 1:] / union
    precisions = []
    for threshold in np.arange(0.5, 1.0, 0.05):
        matches = value > threshold
        true_positives = (matches.sum(axis=1) == 1).sum()
        false_positives = (matches.sum(axis=0) == 0).sum()
        false_negatives = (matches.sum(axis=1) == 0).sum()
        precisions.append(true_positives / (true_positives + false_positives + false_negatives))
    return np.mean(precisions)


def tile(share, side=SIDE):
    """Return one mask (side, side) whose first share of pixels is salt."""
    mask = np.zeros(side * side, bool)
    mask[: round(share * side * side)] = True
    return mask.reshape(side, side)


def score_of(pred, truth):
    return competition_score(pred[None], truth[None])


masks = hnp.arrays(bool, st.tuples(st.integers(1, 4), st.integers(1, 6), st.integers(1, 6)))
mask_pairs = hnp.array_shapes(min_dims=3, max_dims=3, max_side=6).flatmap(
    lambda shape: st.tuples(hnp.arrays(bool, shape), hnp.arrays(bool, shape))
)


@st.composite
def count_lists(draw):
    """Counts of up to eight tiles, in any proportion, as rows (intersection, predicted, actual)."""
    rows = []
    for _ in range(draw(st.integers(1, 8))):
        predicted, actual = draw(st.integers(0, 10201)), draw(st.integers(0, 10201))
        least = max(0, predicted + actual - 10201)
        rows.append((draw(st.integers(least, min(predicted, actual))), predicted, actual))
    return rows


def as_counts(rows, array=np.array):
    columns = [array(column) for column in zip(*rows, strict=True)]
    return Counts(*columns, array([10201] * len(rows)))


# --- the three numbers of the wrong metric ---


def test_empty_prediction_of_a_tile_with_84_percent_salt_scores_0_not_7_tenths():
    truth = tile(0.84)
    assert kernel_iou_metric(truth, tile(0)) == pytest.approx(0.7)
    assert score_of(tile(0), truth) == 0


def test_full_prediction_of_an_empty_tile_scores_0_not_1():
    assert kernel_iou_metric(tile(0), tile(1)) == 1
    assert score_of(tile(1), tile(0)) == 0


def test_all_empty_submission_scores_the_empty_share_not_5228():
    # The 4,000 tiles by how the wrong metric sees an empty prediction: 1,562 are empty, and the
    # thresholds that the others' coverage passes add up to 5,292; here in two kinds of tile.
    kinds = {0.0: 1562, 0.96: 526, 0.58: 16, 0.2: 1896}
    assert sum(kinds.values()) == 4000
    wrong = sum(kernel_iou_metric(tile(s, 20), tile(0, 20)) * n for s, n in kinds.items()) / 4000
    truth = np.repeat([tile(share, 20) for share in kinds], list(kinds.values()), axis=0)
    assert wrong == pytest.approx(0.5228, abs=5e-5)
    assert competition_score(np.zeros_like(truth), truth) == 1562 / 4000 == 0.3905


def test_the_wrong_metric_is_right_where_no_mask_is_constant():
    rng = np.random.default_rng(0)
    for _ in range(20):
        truth = tile(rng.uniform(0.1, 0.9))
        pred = np.roll(truth, int(rng.integers(0, 30)), axis=0)
        assert score_of(pred, truth) == pytest.approx(kernel_iou_metric(truth, pred))


# --- thresholds ---


@pytest.mark.parametrize("k", range(21))
@pytest.mark.parametrize("scale", [1, 3, 7, 510])
def test_iou_exactly_at_a_threshold_does_not_count(k, scale):
    at = Counts(*(np.array([v * scale]) for v in (k, 20, k, 20)))
    above = Counts(*(np.array([v * scale + 1]) for v in (k, 20, k, 20)))
    assert tile_hits(at).tolist() == [min(max(k - 10, 0), 10)]
    if 10 <= k < 20:
        assert tile_hits(above).tolist() == [k - 9]


def test_float_thresholds_would_drift():
    drifted = np.arange(0.5, 1.0, 0.05)
    exact = np.array([k / 20 for k in range(10, 20)])
    assert (drifted != exact).any()


@given(count_lists())
def test_score_is_the_definition_in_exact_fractions(rows):
    expected = []
    for intersection, predicted, actual in rows:
        union = predicted + actual - intersection
        value = Fraction(intersection, union) if union else Fraction(1)
        expected.append(sum(value > Fraction(k, 20) for k in range(10, 20)))
    assert tile_hits(as_counts(rows)).tolist() == expected
    assert mean_score(as_counts(rows)) == pytest.approx(sum(expected) / (10 * len(rows)))


@pytest.mark.parametrize(
    ("pred", "truth", "score"),
    [(0, 0, 1), (0, 0.5, 0), (0.5, 0, 0), (1e-4, 0, 0), (0, 1e-4, 0), (1, 1, 1), (0.3, 0.3, 1)],
)
def test_empty_and_equal_masks(pred, truth, score):
    assert score_of(tile(pred), tile(truth)) == score


# --- the grid ---


def test_another_grid_is_refused():
    with pytest.raises(ValueError, match=r"\(1, 128, 128\).*\(1, 101, 101\)"):
        competition_score(np.zeros((1, 128, 128), bool), np.zeros((1, 101, 101), bool))


def test_resized_truth_is_refused_and_would_score_otherwise():
    truth = np.zeros((1, SIDE, SIDE), bool)
    truth[0, 40:42, :30] = True
    pred = np.roll(truth, 1, axis=2)

    def resize(mask):
        small = Image.fromarray(mask[0].astype(np.uint8) * 255).resize((128, 128), Image.BILINEAR)
        return np.asarray(small, np.float32)[None] / 255

    with pytest.raises(TypeError, match="float32"):
        competition_score(pred, resize(truth))
    small_truth, small_pred = resize(truth) > 0.5, resize(pred) > 0.5
    assert iou(tile_counts(small_pred, small_truth)) != iou(tile_counts(pred, truth))


@pytest.mark.parametrize("shape", [(101, 101), (1, 1, 101, 101)])
def test_shapes_other_than_a_stack_of_tiles_are_refused(shape):
    with pytest.raises(ValueError, match="N, height, width"):
        tile_counts(np.zeros(shape, bool), np.zeros(shape, bool))


def test_no_tiles_have_no_score():
    none = np.zeros((0, 4, 4), bool)
    for call in (lambda: competition_score(none, none), lambda: summarize(tile_counts(none, none))):
        with pytest.raises(ValueError, match="no tiles"):
            call()


# --- counts and the other metrics ---


@given(mask_pairs)
def test_counts_are_those_of_the_masks(pair):
    pred, truth = pair
    counts = tile_counts(pred, truth)
    for i in range(len(pred)):
        assert counts.intersection[i] == (pred[i] & truth[i]).sum()
        assert counts.predicted[i] == pred[i].sum()
        assert counts.actual[i] == truth[i].sum()
        assert counts.union[i] == (pred[i] | truth[i]).sum()
        assert counts.pixels[i] == pred[i].size


@given(mask_pairs)
def test_0_1_and_0_255_are_the_same_mask(pair):
    pred, truth = pair
    counts = tile_counts(pred.astype(np.uint8), truth.astype(np.uint16) * 255)
    assert summarize(counts) == summarize(tile_counts(pred, truth))


@given(mask_pairs)
def test_bounds_and_symmetry(pair):
    pred, truth = pair
    there, back = tile_counts(pred, truth), tile_counts(truth, pred)
    for metric in (tile_scores, iou, dice, pixel_accuracy):
        values = metric(there)
        assert ((values >= 0) & (values <= 1)).all()
        np.testing.assert_array_equal(values, metric(back))
    # Ten steps of 0.05 from 0.5 on: the score follows 2 IoU - 1, rounded up.
    over = 2 * iou(there) - 1
    low, high = np.maximum(over, 0) - 1e-9, np.maximum(over + 0.1, 0)
    assert ((tile_scores(there) >= low) & (tile_scores(there) <= high)).all()
    np.testing.assert_allclose(dice(there), 2 * iou(there) / (1 + iou(there)))


@given(masks)
def test_a_perfect_prediction_has_every_metric_at_1(truth):
    assert set(summarize(tile_counts(truth, truth)).values()) == {1.0}


@given(mask_pairs)
def test_accuracy_is_the_share_of_equal_pixels(pair):
    pred, truth = pair
    np.testing.assert_allclose(
        pixel_accuracy(tile_counts(pred, truth)), (pred == truth).mean(axis=(1, 2)), atol=1e-12
    )


def test_pooled_counts_make_one_large_tile():
    counts = as_counts([(1, 1, 3), (0, 0, 0), (2, 4, 2)])
    pooled = counts.pooled()
    assert (pooled.intersection, pooled.predicted, pooled.actual) == (3, 5, 5)
    assert pooled.pixels == 3 * 10201
    assert iou(pooled) == 3 / 7
    assert dice(pooled) == 6 / 10
    assert iou(counts).mean() == pytest.approx((1 / 3 + 1 + 1 / 2) / 3)


def test_value_of_an_empty_tile_can_be_chosen():
    counts = as_counts([(0, 0, 0), (1, 2, 1)])
    assert iou(counts, empty=0).tolist() == [0, 0.5]
    assert dice(counts, empty=0.25).tolist() == [0.25, 2 / 3]


def test_no_division_by_zero_is_warned_of():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert summarize(as_counts([(0, 0, 0)]))["iou"] == 1


def test_select_takes_tiles_by_mask_or_number():
    counts = as_counts([(1, 1, 3), (0, 0, 0), (2, 4, 2)])
    assert counts.select(np.array([True, False, True])).actual.tolist() == [3, 2]
    assert counts.select([2]).predicted.tolist() == [4]


def test_presence_counts_tiles_not_pixels():
    # found, missed, invented, invented, rightly empty
    counts = as_counts([(0, 5, 9), (0, 0, 3), (0, 1, 0), (0, 2, 0), (0, 0, 0)])
    assert salt_presence(counts) == (1 / 3, 1 / 2)


@pytest.mark.parametrize(
    ("row", "expected"),
    [((0, 0, 0), (1, 1)), ((0, 0, 4), (1, 0)), ((0, 4, 0), (0, 1)), ((1, 4, 4), (1, 1))],
)
def test_presence_where_nothing_is_said_or_there(row, expected):
    assert salt_presence(as_counts([row])) == expected


def test_summary_by_hand():
    # IoU 3/4, 0/4, empty
    counts = Counts(*map(np.array, ([3, 0, 0], [3, 0, 0], [4, 4, 0], [8, 8, 8])))
    assert summarize(counts) == pytest.approx(
        {
            "score": (0.5 + 0 + 1) / 3,
            "iou": (0.75 + 0 + 1) / 3,
            "dice": (6 / 7 + 0 + 1) / 3,
            "accuracy": (7 / 8 + 4 / 8 + 1) / 3,
            "presence_precision": 1,
            "presence_recall": 0.5,
        }
    )


@given(count_lists())
def test_torch_counts_score_as_numpy_counts(rows):
    there, here = as_counts(rows), as_counts(rows, torch.tensor)
    assert tile_hits(here).tolist() == tile_hits(there).tolist()
    assert tile_hits(here).dtype == torch.int64
    assert summarize(here) == pytest.approx(summarize(there), abs=1e-6)


def test_counts_of_tiles_at_thresholds_score_in_their_own_shape():
    counts = Counts(*(np.tile(v, (2, 1)) for v in ([3, 0, 0], [3, 0, 0], [4, 4, 0], [8, 8, 8])))
    assert tile_scores(counts).tolist() == [[0.5, 0, 1]] * 2


def test_scoring_does_not_import_torch():
    code = (
        "import sys, diapir.metrics, diapir.metrics.score, diapir.metrics.thresholds, "
        "diapir.metrics.bootstrap; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
