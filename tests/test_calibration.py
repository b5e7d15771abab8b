"""Calibration and doubt against what they are defined to be."""

import numpy as np
import pytest

from diapir.inference.trust import judge_trust
from diapir.metrics.calibration import (
    fit_temperature,
    kept_curve,
    reliability,
    scale_probs,
    tile_disagreement,
    tile_doubt,
)


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
