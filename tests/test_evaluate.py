import json
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diapir.errors import DataError
from diapir.inference.evaluate import evaluate
from diapir.io.tiles import Tiles
from diapir.metrics.score import summarize, tile_counts
from diapir.runs.report import metric_rows, score_cards


def make_tiles(masks, z_feet=None):
    masks = np.asarray(masks, dtype=np.uint8)
    return Tiles(
        ids=tuple(f"t{k}" for k in range(len(masks))),
        images=np.zeros(masks.shape, np.uint8),
        masks=masks,
        z_feet=None if z_feet is None else np.asarray(z_feet, np.float32),
        source="made here",
    )


def filled(pixels, side=10):
    """Return a mask with this many pixels of salt."""
    return (np.arange(side * side) < pixels).reshape(side, side).astype(np.uint8)


@pytest.fixture
def noisy():
    rng = np.random.default_rng(5)
    masks = np.stack([filled(k) for k in rng.integers(0, 100, 60) * (rng.random(60) > 0.4)])
    probs = np.clip(masks * 0.6 + rng.normal(0.2, 0.2, masks.shape), 0, 1).astype(np.float32)
    return probs, make_tiles(masks, rng.integers(50, 950, 60))


def test_a_perfect_prediction_scores_one_everywhere():
    masks = [filled(0), filled(5), filled(50), filled(99)]
    result = evaluate(np.asarray(masks, np.float32), make_tiles(masks, [1, 2, 3, 4]), 0.5)
    for estimate in result.metrics.values():
        assert estimate == (1.0, 1.0, 1.0)
    assert all(group.score.value == 1 for group in (*result.by_coverage, *result.by_depth))
    assert (result.curve == 1).all()


def test_metrics_are_those_of_summarize_inside_their_intervals(noisy):
    probs, tiles = noisy
    result = evaluate(probs, tiles, 0.55)
    expected = summarize(tile_counts(probs > 0.55, tiles.masks.astype(bool)))
    assert {name: each.value for name, each in result.metrics.items()} == expected
    for name, each in result.metrics.items():
        assert 0 <= each.low <= each.value <= each.high <= 1, name
    assert result.metrics["score"].low < result.metrics["score"].high
    assert result.metrics["score"].value == pytest.approx(result.tile_scores.mean())


def test_the_threshold_is_exceeded_strictly_and_the_curve_agrees_with_the_score(noisy):
    probs, tiles = noisy
    probs = np.round(probs, 2)
    result = evaluate(probs, tiles, 0.3)
    at = int(np.argmin(np.abs(result.thresholds - 0.3)))
    assert result.thresholds[at] == pytest.approx(0.3)
    assert result.curve[at] == pytest.approx(result.metrics["score"].value)
    exact = make_tiles([filled(100)])
    assert evaluate(np.full((1, 10, 10), 0.5, np.float32), exact, 0.5).tile_iou[0] == 0
    # numpy compares float32 with a float64 scalar in float64, where 0.3f > 0.3.
    scalar = np.float64(0.3)
    assert evaluate(np.full((1, 10, 10), 0.3, np.float32), exact, scalar).tile_iou[0] == 0


def test_coverage_classes_close_at_their_upper_end_exactly():
    masks = [filled(k) for k in (0, 1, 10, 11, 30, 31, 90, 91, 100)]
    result = evaluate(np.asarray(masks, np.float32), make_tiles(masks), 0.5)
    counts = {group.label: group.tiles for group in result.by_coverage}
    assert counts == {
        "none": 1,
        "0-10 %": 2,
        "10-20 %": 1,
        "20-30 %": 1,
        "30-40 %": 1,
        "80-90 %": 1,
        "90-100 %": 2,
    }


@given(
    depths=st.lists(st.integers(50, 60), min_size=1, max_size=40),
)
@settings(max_examples=30, deadline=None)
def test_depth_groups_hold_every_tile_once_and_part_no_equal_depths(depths):
    masks = [filled(20)] * len(depths)
    result = evaluate(np.asarray(masks, np.float32), make_tiles(masks, depths), 0.5, samples=10)
    assert sum(group.tiles for group in result.by_depth) == len(depths)
    assert len(result.by_depth) <= 5
    ranges = [tuple(map(int, g.label.removesuffix(" ft").split("-"))) for g in result.by_depth]
    for (_, high), (low, _) in pairwise(ranges):
        assert high < low


def test_distinct_depths_give_even_quintiles():
    masks = [filled(20)] * 50
    result = evaluate(np.asarray(masks, np.float32), make_tiles(masks, range(50)), 0.5)
    assert [group.tiles for group in result.by_depth] == [10] * 5
    assert result.by_depth[0].label == "0-9 ft"


def test_a_quintile_holds_its_upper_end():
    masks = [filled(20)] * 11
    groups = evaluate(np.asarray(masks, np.float32), make_tiles(masks, range(11)), 0.5).by_depth
    assert [g.label for g in groups] == ["0-2 ft", "3-4 ft", "5-6 ft", "7-8 ft", "9-10 ft"]


def test_without_depths_there_are_no_depth_groups():
    assert evaluate(np.zeros((1, 10, 10), np.float32), make_tiles([filled(3)]), 0.5).by_depth == ()


def test_groups_tell_how_often_salt_is_predicted():
    masks = [filled(0), filled(0), filled(5)]
    probs = np.asarray([filled(0), filled(7), filled(0)], np.float32)
    none, some = evaluate(probs, make_tiles(masks), 0.5).by_coverage
    assert (none.tiles, none.predicted_salt, none.score.value) == (2, 0.5, 0.5)
    assert (some.tiles, some.predicted_salt, some.score.value) == (1, 0.0, 0.0)


def test_worst_go_by_score_then_wrong_pixels_and_best_hold_salt():
    masks = [filled(0), filled(50), filled(50), filled(50), filled(0)]
    probs = np.asarray([filled(3), filled(50), filled(0), filled(45), filled(0)], np.float32)
    result = evaluate(probs, make_tiles(masks), 0.5)
    assert [result.ids[k] for k in result.worst] == ["t2", "t0", "t3", "t1", "t4"]
    assert [result.ids[k] for k in result.best] == ["t1", "t3", "t2"]


def test_no_salt_predicted_at_all():
    masks = [filled(0), filled(50)]
    metrics = evaluate(np.zeros((2, 10, 10), np.float32), make_tiles(masks), 0.5).metrics
    assert metrics["score"].value == 0.5
    assert metrics["presence_precision"] == (1.0, 1.0, 1.0)
    assert metrics["presence_recall"].value == 0


def test_a_model_that_finds_nothing_is_warned_of_beside_the_score_of_empty_masks():
    masks = [filled(0), filled(50), filled(2), filled(0), filled(9)]
    tiles = make_tiles(masks)
    blind = evaluate(np.zeros((5, 10, 10), np.float32), tiles, 0.5)
    assert blind.warning == (
        "no salt is found: of 5 tiles 3 have salt, and every predicted mask is empty"
    )
    assert blind.metrics["score"] == blind.every_mask_empty
    assert blind.every_mask_empty.value == 0.4
    assert blind.every_mask_empty.low < 0.4 < blind.every_mask_empty.high
    assert blind.to_dict()["warning"] == blind.warning
    assert metric_rows(blind)[1] == ("score if every mask were empty", *blind.every_mask_empty)
    assert score_cards("score", blind)[0].note.endswith("; 0.400 if every mask were empty")
    assert [card.label for card in score_cards("score", blind)] == ["score", "warning"]
    sighted = evaluate(np.asarray(masks, np.float32), tiles, 0.5)
    assert sighted.every_mask_empty == blind.every_mask_empty
    assert sighted.to_dict()["tiles_with_salt"] == {"predicted": 3, "actual": 3}
    assert sighted.to_dict()["warning"] is None
    assert len(score_cards("score", sighted)) == 1


def test_where_there_is_no_salt_empty_masks_are_right_and_no_warning():
    assert evaluate(np.zeros((1, 10, 10), np.float32), make_tiles([filled(0)]), 0.5).warning is None


def test_the_seed_decides_the_intervals(noisy):
    probs, tiles = noisy
    first, again, other = (evaluate(probs, tiles, 0.5, seed=seed) for seed in (1, 1, 2))
    assert first.to_dict() == again.to_dict()
    assert first.metrics["iou"].value == other.metrics["iou"].value
    assert first.metrics["iou"] != other.metrics["iou"]


def test_a_higher_level_widens_the_interval(noisy):
    probs, tiles = noisy
    narrow, wide = (
        evaluate(probs, tiles, 0.5, level=level).metrics["iou"] for level in (0.5, 0.99)
    )
    assert wide.low < narrow.low < narrow.high < wide.high


def test_to_dict_is_json_with_the_worst_by_name(noisy):
    probs, tiles = noisy
    result = evaluate(probs, tiles, 0.5)
    read = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert read["tiles"] == len(result) == 60
    assert read["threshold"] == 0.5
    assert set(read["metrics"]["score"]) == {"value", "low", "high"}
    assert set(read["tile_scores"]) == set(tiles.ids)
    worst = read["worst"][0]
    assert read["tile_scores"][worst]["score"] == result.tile_scores.min()
    assert len(read["threshold_curve"]["scores"]) == len(read["threshold_curve"]["thresholds"])


@pytest.mark.parametrize(
    ("probs", "threshold", "words"),
    [
        (np.zeros((1, 10, 9), np.float32), 0.5, "shape"),
        (np.full((1, 10, 10), np.nan, np.float32), 0.5, "nan"),
        (np.full((1, 10, 10), 4.0, np.float32), 0.5, "4"),
        (np.full((1, 10, 10), -0.1, np.float32), 0.5, "-0.1"),
        (np.zeros((1, 10, 10), np.float32), 1.5, "threshold 1.5"),
    ],
)
def test_bad_probabilities_are_one_clear_error(probs, threshold, words):
    with pytest.raises(DataError, match=words):
        evaluate(probs, make_tiles([filled(3)]), threshold)


def test_one_nan_among_good_values_is_found():
    probs = np.full((1, 10, 10), 0.5, np.float32)
    probs[0, 4, 4] = np.nan
    with pytest.raises(DataError):
        evaluate(probs, make_tiles([filled(3)]), 0.5)


def test_tiles_without_masks_or_without_tiles_are_refused():
    blind = Tiles(("a",), np.zeros((1, 4, 4), np.uint8), None, None, "the test part")
    with pytest.raises(DataError, match="no masks") as caught:
        evaluate(np.zeros((1, 4, 4), np.float32), blind, 0.5)
    assert caught.value.where == "the test part"
    none = make_tiles(np.zeros((0, 4, 4)))
    with pytest.raises(DataError, match="no tiles"):
        evaluate(np.zeros((0, 4, 4), np.float32), none, 0.5)
