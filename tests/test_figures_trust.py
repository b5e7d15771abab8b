"""Figures of calibration, doubt and mosaics say what they show, and do not need every class."""

import numpy as np

from diapir.metrics.calibration import kept_curve, reliability
from diapir.report.figures import figure_png
from diapir.report.figures_mosaic import mosaic_sheet
from diapir.report.figures_trust import kept_curves, reliability_diagram


def test_reliability_tells_both_errors() -> None:
    rng = np.random.default_rng(0)
    probs = rng.choice([0.02, 0.5, 0.97], 5000)  # most classes are empty
    truth = rng.random(5000) < probs
    before, after = reliability(probs**2, truth), reliability(probs, truth)
    figure = reliability_diagram(before, after)
    assert f"{before.error:.4f}" in figure.get_label()
    assert f"with the temperature {after.error:.4f}" in figure.get_label()
    top, bottom = figure.axes
    assert top.get_xlim() == bottom.get_xlim()
    assert "temperature" not in reliability_diagram(before).get_label()
    assert figure_png(figure, dpi=50).startswith(b"\x89PNG")


def test_kept_curves_start_and_end_inside_the_figure() -> None:
    rng = np.random.default_rng(1)
    scores = rng.random(50)
    curves = {"probabilities": kept_curve(scores, 1 - scores + rng.random(50))}
    figure = kept_curves(curves, kept_curve(scores, -scores))
    low, high = figure.axes[0].get_ylim()
    assert low <= min(curves["probabilities"][1])
    assert high >= 1
    assert f"{scores.mean():.3f} on all tiles" in figure.get_label()


def test_sheet_takes_sections_of_any_shape() -> None:
    pictures = [np.zeros(shape, np.uint8) for shape in ((20, 40, 3), (300, 20, 3), (20, 20, 3))]
    figure = mosaic_sheet(pictures, ["a", "b", "c"])
    assert figure.get_label().startswith("3 sections")
    assert figure_png(mosaic_sheet(pictures[:1], ["a"]), dpi=50).startswith(b"\x89PNG")
