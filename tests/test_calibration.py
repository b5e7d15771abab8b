"""Calibration and doubt against what they are defined to be."""

import numpy as np
import pytest

from diapir.inference.postprocess import choose, describe_trial
from diapir.inference.trust import judge_trust
from diapir.metrics.calibration import (
    TemperatureTrial,
    fit_temperature,
    kept_curve,
    reliability,
    scale_probs,
    tile_disagreement,
    tile_doubt,
    try_temperature,
)
from diapir.metrics.crossfit import deal_parts


@pytest.fixture(scope="module")
def calibrated() -> tuple[np.ndarray, np.ndarray]:
    """Probabilities that are right, and a truth drawn from them."""
    rng = np.random.default_rng(0)
    probs = 1 / (1 + np.exp(-rng.normal(0, 2.5, (40, 30, 30))))
    return probs.astype(np.float32), (rng.random(probs.shape) < probs).astype(np.uint8)


def test_right_probabilities_have_no_error(calibrated: tuple[np.ndarray, np.ndarray]) -> None:
    found = reliability(*calibrated)
    assert found.error < 0.01
    assert found.pixels.sum() == calibrated[0].size
    assert found.found == pytest.approx(found.predicted, abs=0.05)


def test_error_is_that_of_the_definition(calibrated: tuple[np.ndarray, np.ndarray]) -> None:
    probs, truth = calibrated[0] ** 2, calibrated[1]
    expected = 0.0
    for k in range(10):
        inside = (probs >= k / 10) & (probs < (k + 1) / 10) if k < 9 else probs >= 0.9
        expected += abs(probs[inside].mean() - truth[inside].mean()) * inside.mean()
    assert reliability(probs, truth, bins=10).error == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("temperature", [0.4, 1.0, 1.7, 3.0])
def test_temperature_is_found_again(
    calibrated: tuple[np.ndarray, np.ndarray], temperature: float
) -> None:
    probs, truth = calibrated
    sharp = scale_probs(probs, 1 / temperature)
    assert fit_temperature(sharp, truth) == pytest.approx(temperature, rel=0.05)


def test_temperature_mends_what_is_too_sure(calibrated: tuple[np.ndarray, np.ndarray]) -> None:
    probs, truth = scale_probs(calibrated[0], 0.4), calibrated[1]
    fitted = scale_probs(probs, fit_temperature(probs, truth))
    assert reliability(fitted, truth).error < 0.2 * reliability(probs, truth).error


def test_scaling_keeps_order_and_the_half(calibrated: tuple[np.ndarray, np.ndarray]) -> None:
    probs = np.sort(calibrated[0].ravel())
    scaled = scale_probs(probs, 2.5)
    assert (np.diff(scaled) >= 0).all()
    assert ((scaled > 0.5) == (probs > 0.5)).all()
    assert scale_probs(scaled, 1 / 2.5) == pytest.approx(probs, abs=1e-4)
    assert scale_probs(np.array([0.0, 1.0]), 2.0).tolist() == pytest.approx(
        [0.001, 0.999], abs=1e-4
    )


def test_one_kind_of_pixel_has_no_temperature() -> None:
    assert fit_temperature(np.full((2, 3, 3), 0.7), np.zeros((2, 3, 3), np.uint8)) == 1.0
    assert fit_temperature(np.full((2, 3, 3), 0.7), np.ones((2, 3, 3), np.uint8)) == 1.0


def test_shapes_must_agree() -> None:
    with pytest.raises(ValueError, match="one shape"):
        reliability(np.zeros(3), np.zeros(4))
    with pytest.raises(ValueError, match="one shape"):
        fit_temperature(np.zeros(0), np.zeros(0))
    with pytest.raises(ValueError, match="must be"):
        kept_curve(np.zeros(3), np.zeros(2))


def test_doubt_rises_with_unsure_pixels_and_falls_with_salt() -> None:
    probs = np.zeros((4, 20, 20), np.float32)
    probs[1, :5] = 0.5  # unsure
    probs[2, :5], probs[2, 5:] = 0.5, 1  # as unsure, beside much salt
    probs[3] = 1
    doubt = tile_doubt(probs)
    assert doubt[0] == doubt[3] == 0
    assert doubt[1] > doubt[2] > 0


def test_disagreement_is_none_between_equals() -> None:
    views = np.random.default_rng(0).random((3, 4, 6, 6)).astype(np.float32)
    views[:, 0] = views[0, 0]
    apart = tile_disagreement(views)
    assert apart[0] == pytest.approx(0, abs=1e-6)
    assert (apart[1:] > 0).all()


def test_kept_curve_is_the_mean_of_the_surest() -> None:
    scores, doubt = np.array([0.2, 0.9, 0.4, 1.0]), np.array([3.0, 1.0, 2.0, 0.0])
    share, score = kept_curve(scores, doubt)
    assert share.tolist() == [0.25, 0.5, 0.75, 1.0]
    assert score == pytest.approx([1.0, 0.95, 2.3 / 3, 2.5 / 4])


def test_trust_tells_before_and_after(calibrated: tuple[np.ndarray, np.ndarray]) -> None:
    probs, truth = calibrated
    scores = np.linspace(0, 1, 40).round(1)
    trust = judge_trust(probs, truth, scores, 0.5, np.linspace(1, 0, 40))
    assert trust.before.error > trust.after.error
    table = trust.to_dict()
    assert set(table["score_of_tiles_kept"]) == {"probabilities", "disagreement", "ideal"}
    ends = {name: rows[-1] for name, rows in table["score_of_tiles_kept"].items()}
    assert {tuple(row.values()) for row in ends.values()} == {(1.0, round(scores.mean(), 6))}
    assert trust.kept["disagreement"][1] == pytest.approx(trust.ideal[1])  # falls with the score
    alone = judge_trust(probs, truth, scores, 1.0)
    assert alone.before is alone.after
    assert set(alone.kept) == {"probabilities"}


# --- a temperature is kept only where it helps tiles that did not fit it


def moody(tiles: int, seed: int, sharpness: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities of a network that is too sure of some tiles and not sure enough of others."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 2.5, (tiles, 20, 20))
    truth = (rng.random(logits.shape) < 1 / (1 + np.exp(-logits))).astype(np.uint8)
    sure = sharpness * np.exp(rng.normal(0, 0.8, (tiles, 1, 1)))
    return (1 / (1 + np.exp(-logits * sure))).astype(np.float32), truth


def test_a_temperature_that_helps_is_kept(calibrated: tuple[np.ndarray, np.ndarray]) -> None:
    probs, truth = scale_probs(calibrated[0], 0.4), calibrated[1]
    trial = try_temperature(probs, truth)
    assert trial.helps
    assert trial.kept == trial.temperature == fit_temperature(probs, truth)
    assert 0 < trial.likelihood_low < trial.likelihood_gain
    # nearly what it gains on the tiles that fitted it: there are enough of them
    after = reliability(scale_probs(probs, trial.temperature), truth).error
    assert trial.error_gain == pytest.approx(reliability(probs, truth).error - after, abs=0.01)
    found = choose(probs, truth, threshold=0.5)
    assert found.rule.temperature == trial.temperature
    assert f"Temperature {trial.temperature:.3f} is kept" in found.calibration


def test_a_temperature_that_only_suits_its_own_tiles_is_not_kept() -> None:
    for seed in range(5):
        probs, truth = moody(12, seed)
        trial = try_temperature(probs, truth)
        assert trial.temperature != 1
        assert trial.kept == 1
        found = choose(probs, truth)
        assert found.rule.temperature == 1
        assert "not kept" in found.calibration
    # where such a network is far too sure of nearly all tiles, enough of them show it
    assert try_temperature(*moody(60, 0, sharpness=3)).helps


def test_gains_are_those_of_parts_that_did_not_fit() -> None:
    probs, truth = moody(9, 1)
    order = np.lexsort((probs.sum(axis=(1, 2)), truth.sum(axis=(1, 2))))
    gains, scaled = np.empty(9), np.empty_like(probs)
    for k in range(3):
        part, others = order[k::3], np.setdiff1d(order, order[k::3])
        scaled[part] = scale_probs(probs[part], fit_temperature(probs[others], truth[others]))
        for tile in part:
            chance, new = (np.where(truth[tile], p, 1 - p) for p in (probs[tile], scaled[tile]))
            gains[tile] = np.log(new).mean() - np.log(chance).mean()
    trial = try_temperature(probs, truth, folds=3)
    assert trial.likelihood_gain == pytest.approx(gains.mean(), abs=1e-4)
    fall = reliability(probs, truth).error - reliability(scaled, truth).error
    assert trial.error_gain == pytest.approx(fall, abs=1e-4)


def test_order_of_tiles_does_not_change_the_trial() -> None:
    probs, truth = moody(20, 2)
    order = np.random.default_rng(0).permutation(20)
    assert try_temperature(probs, truth) == try_temperature(probs[order], truth[order])


def test_nothing_is_tried_without_tiles_of_both_kinds() -> None:
    probs = np.full((3, 4, 4), 0.7, np.float32)
    for truth in (np.zeros((3, 4, 4), np.uint8), np.ones((3, 4, 4), np.uint8)):
        assert try_temperature(probs, truth) == TemperatureTrial()
    assert "No temperature was fitted" in describe_trial(TemperatureTrial())
    probs, truth = moody(1, 0)
    assert try_temperature(probs, truth) == TemperatureTrial()
    with pytest.raises(ValueError, match="N > 0"):
        try_temperature(probs[:0], truth[:0])


# --- parts that judge what others chose


def test_parts_are_alike_and_do_not_depend_on_the_order() -> None:
    rng = np.random.default_rng(0)
    truth = (rng.random((23, 8, 8)) < rng.random((23, 1, 1))).astype(np.uint8)
    probs = rng.random(truth.shape)
    parts = deal_parts(probs, truth)
    assert sorted(np.concatenate(parts).tolist()) == list(range(23))
    assert [len(part) for part in parts] == [5, 5, 5, 4, 4]
    salt = truth.mean(axis=(1, 2))
    assert np.ptp([salt[part].mean() for part in parts]) < 0.2 < np.ptp(salt)
    turned = deal_parts(probs[::-1], truth[::-1])
    assert all(np.array_equal(22 - a, b) for a, b in zip(turned, parts, strict=True))
    assert len(deal_parts(probs[:3], truth[:3])) == 3


@pytest.mark.parametrize(("tiles", "side"), [(0, 8), (2, 7)])
def test_parts_of_nothing_or_of_unlike_shapes_are_refused(tiles: int, side: int) -> None:
    with pytest.raises(ValueError, match=r"must be \(N, H, W\), N > 0"):
        deal_parts(np.zeros((tiles, 8, 8)), np.zeros((tiles, side, 8)))
