import io
import subprocess
import sys
from itertools import combinations, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from PIL import Image

from diapir.errors import RunError
from diapir.report import figures
from diapir.report.figures_tiles import _edges
from diapir.report.style import AGREED, FALSE, MISSED

SIDE = 12


@pytest.fixture
def tiles():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (3, SIDE, SIDE), dtype=np.uint8)
    masks = np.zeros_like(images)
    masks[0, 6:] = 1
    masks[1, 0, 0] = 1
    return images, masks, ["first", "second", "third"]


@pytest.fixture
def history():
    return [
        {
            "epoch": epoch,
            "train_loss": 1 / (epoch + 1),
            "val_loss": 1.2 / (epoch + 1) if epoch % 2 else None,
            "train_score": epoch / 10,
            "val_score": epoch / 12 if epoch % 2 else float("nan"),
            "train_accuracy": 0.9,
            "lr": 10.0 ** -(epoch + 2),
        }
        for epoch in range(6)
    ]


def every_figure(tiles, history):
    images, masks, ids = tiles
    probs = masks * 0.8 + np.float32(0.1)
    thresholds = np.linspace(0.1, 0.9, 9)
    return {
        "sample_grid": figures.sample_grid(images, masks, ids, np.array([100.0, 200.0, 300.0])),
        "predictions": figures.predictions(images, masks, probs, ids, 0.5),
        "coverage_histogram": figures.coverage_histogram([1, 1, 0, 0, 0, 1, 0, 0, 0, 0, 1]),
        "coverage_against_depth": figures.coverage_against_depth(
            np.array([100.0, 200.0, 300.0, 400.0]), np.array([0.0, 0.05, 0.5, 1.0])
        ),
        "training_curves": figures.training_curves(
            history, chosen_epoch=3, stages={0: "a", 2: "b"}
        ),
        "threshold_curve": figures.threshold_curve(thresholds, {"validation": thresholds}, 0.5),
        "score_by_group": figures.score_by_group(
            ["none", "some"], [0.9, 0.4], [0.8, 0.3], [1.0, 0.5], [12, 1], heading="Score"
        ),
    }


def texts(figure):
    from matplotlib.text import Text

    return [text.get_text() for text in figure.findobj(Text) if text.get_text()]


def legend_texts(figure):
    owners = [figure, *figure.axes]
    legends = [legend for owner in owners for legend in _legends(owner)]
    return [text.get_text() for legend in legends for text in legend.get_texts()]


def _legends(owner):
    found = getattr(owner, "legends", None)
    if found is not None:
        return found
    return [owner.get_legend()] if owner.get_legend() else []


def test_every_figure_is_described_in_words_and_becomes_a_png(tiles, history, tmp_path):
    made = every_figure(tiles, history)
    assert set(made) == set(figures.__all__) - {"figure_png", "save_figure"}
    for name, figure in made.items():
        assert isinstance(figure, Figure)
        path = tmp_path / "figures" / f"{name}.png"
        figures.save_figure(figure, path, dpi=60)
        with Image.open(path) as image:
            assert image.format == "PNG"
            assert image.width > 300
            description = image.info["Description"]
        assert description == figure.get_label()
        assert len(description.split()) > 5
        assert description.endswith(".")
    assert {path.stem for path in (tmp_path / "figures").iterdir()} == set(made)


def test_the_same_data_give_the_same_bytes(tiles):
    images, masks, ids = tiles
    first, second = (
        figures.figure_png(figures.sample_grid(images, masks, ids), dpi=50) for _ in range(2)
    )
    assert first == second


def test_nothing_stays_where_a_figure_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    figure = figures.coverage_histogram([1] * 11)
    with pytest.raises(RunError):
        figures.save_figure(figure, tmp_path / "file" / "a.png")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_figures_need_neither_pyplot_nor_torch():
    code = (
        "import sys; import diapir.report.figures, diapir.report.html; "
        "sys.exit(sum(name in sys.modules for name in ('matplotlib.pyplot', 'torch')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# Machado, Oliveira and Fernandes 2009, "A Physiologically-based Model for Simulation of Color
# Vision Deficiency", severity 1.0, on linear RGB.
_VISION = {
    "normal": np.eye(3),
    "protanopia": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deuteranopia": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "tritanopia": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ],
}


def lab(rgb, vision):
    """Return CIE L*a*b* (D65) of an sRGB colour as seen with a kind of vision."""
    rgb = np.asarray(rgb, float)
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    seen = np.clip(np.asarray(_VISION[vision]) @ linear, 0, 1)
    to_xyz = [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    xyz = np.asarray(to_xyz) @ seen / [0.9505, 1.0, 1.089]
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


@pytest.mark.parametrize("vision", _VISION)
def test_agreement_missed_and_false_stay_apart_with_any_colour_vision(vision):
    blended = {
        color: [0.75 * np.asarray(to_rgb(color)) + 0.25 * grey for grey in (0.35, 0.75)]
        for color in (AGREED, MISSED, FALSE)
    }
    for a, b in combinations(blended, 2):
        for one, other in product(blended[a], blended[b]):
            assert np.linalg.norm(lab(one, vision) - lab(other, vision)) > 20


def agreement_picture(figure, row=0):
    return np.asarray(figure.axes[4 * row + 3].images[0].get_array())


def test_agreement_missed_and_false_are_drawn_where_they_are():
    image = np.full((1, 4, 4), 128, np.uint8)
    truth = np.zeros((1, 4, 4), np.uint8)
    probs = np.zeros((1, 4, 4), np.float32)
    truth[0, 0, :2] = 1
    probs[0, 0, 1:3] = 0.9
    probs[0, 3, 3] = 0.5  # not greater than the threshold
    picture = agreement_picture(figures.predictions(image, truth, probs, ["t"], 0.5))
    grey = picture[3, 3]
    assert np.ptp(grey) == 0
    for place, color in ((0, MISSED), (1, AGREED), (2, FALSE)):
        assert picture[0, place] == pytest.approx(0.25 * grey + 0.75 * np.asarray(to_rgb(color)))
    colored = np.ptp(picture, axis=2) > 0
    assert colored.sum() == 3


def test_predictions_name_colours_tiles_and_scores(tiles):
    images, masks, ids = tiles
    figure = figures.predictions(images, masks, masks * np.float32(0.9), ids, 0.45)
    assert legend_texts(figure)[:3] == ["agreement", "missed salt", "false salt"]
    labels = [figure.axes[4 * row].get_ylabel() for row in range(3)]
    assert labels[0] == "first\n50 % salt\nscore 1.00"
    assert labels[1] == "second\n< 1 % salt\nscore 1.00"
    assert labels[2] == "third\nno salt\nscore 1.00"
    empty = figures.predictions(images, masks, masks * np.float32(0), ids, 0.45)
    assert "score 0.00" in empty.axes[0].get_ylabel()
    assert "first 0.00, second 0.00, third 1.00" in empty.get_label()


@pytest.mark.parametrize("threshold", [0.02, 0.5, 0.98])
def test_the_threshold_is_always_labelled_on_the_bar(tiles, threshold):
    images, masks, ids = tiles
    figure = figures.predictions(images, masks, masks * np.float32(0.9), ids, threshold)
    assert f"{threshold:.2f}" in [text.get_text() for text in figure.axes[-1].get_xticklabels()]


def test_the_sample_grid_shows_each_image_beside_its_mask(tiles):
    images, masks, ids = tiles
    figure = figures.sample_grid(images, masks, ids)
    shown = [ax for ax in figure.axes if ax.images]
    assert len(shown) == 6
    assert (np.asarray(shown[0].images[0].get_array()) == images[0]).all()
    white = np.asarray(shown[1].images[0].get_array()).min(axis=2) == 1
    assert (white == masks[0].astype(bool)).all()
    outlined = [sum(len(c.get_segments()) for c in ax.collections) for ax in shown[::2]]
    assert outlined[0] > 0
    assert outlined[1] > 0
    assert outlined[2] == 0
    assert "2 hold salt" in figure.get_label()
    assert [name for name in texts(figure) if name in ids] == ids


@pytest.mark.parametrize("number", [1, 4, 5, 9])
def test_any_number_of_tiles_fits_the_grid(number):
    images = np.zeros((number, 5, 7), np.uint8)
    figure = figures.sample_grid(images, images, [str(k) for k in range(number)])
    assert sum(bool(ax.images) for ax in figure.axes) == 2 * number


@given(arrays(np.bool_, st.tuples(st.integers(1, 8), st.integers(1, 8))))
@settings(max_examples=60, deadline=None)
def test_the_outline_is_as_long_as_the_pixel_border(mask):
    height, width = mask.shape
    inside = sum(
        mask[r, c] != mask[r + dr, c + dc]
        for r, c in product(range(height), range(width))
        for dr, dc in ((0, 1), (1, 0))
        if r + dr < height and c + dc < width
    )
    border = mask[0].sum() + mask[-1].sum() + mask[:, 0].sum() + mask[:, -1].sum()
    segments = _edges(mask)
    assert len(segments) == inside + border
    assert (segments >= 0).all()
    assert (segments <= [width - 1, height - 1]).all()


def test_the_histogram_has_a_bar_for_each_class():
    counts = [2, 2, 3, 1, 1, 1, 1, 1, 1, 1, 1]
    figure = figures.coverage_histogram(counts)
    assert [bar.get_height() for bar in figure.axes[0].patches] == counts
    assert "15 tiles: 2 (13 %) hold no salt" in figure.get_label()
    assert "the largest class is 10-20 % with 3 tiles" in figure.get_label()


def test_coverage_against_depth_takes_one_depth_and_tiles_without_salt():
    for coverage in (np.zeros(5), np.array([0.0, 0.2, 0.4, 1.0, 0.0])):
        figure = figures.coverage_against_depth(np.full(5, 300.0), coverage)
        figures.figure_png(figure, dpi=40)
        share = np.mean(coverage == 0)
        assert figure.axes[1].patches[0].get_height() == pytest.approx(share)


def test_empty_share_by_depth_is_that_of_the_tiles():
    z_feet = np.arange(100.0)
    coverage = (z_feet >= 50) * 0.5
    bars = figures.coverage_against_depth(z_feet, coverage).axes[1].patches
    assert [bar.get_height() for bar in bars] == [1.0] * 5 + [0.0] * 5


def test_training_curves_bridge_gaps_and_mark_epochs(history):
    figure = figures.training_curves(history, chosen_epoch=3, stages={0: "BCE", 2: "Lovasz"})
    score, accuracy, loss, rate = figure.axes
    assert [ax.get_ylabel() for ax in (score, accuracy, loss)] == [
        "score at 0.5",
        "pixel accuracy",
        "loss",
    ]
    train, val = score.lines[:2]
    assert list(train.get_xdata()) == [0, 1, 2, 3, 4, 5]
    assert list(val.get_xdata()) == [1, 3, 5]
    assert list(val.get_ydata()) == pytest.approx([1 / 12, 3 / 12, 5 / 12])
    for ax in figure.axes:
        marks = {line.get_xdata()[0] for line in ax.lines if len(set(line.get_xdata())) == 1}
        assert {1.5, 3} <= marks
    assert rate.get_yscale() == "log"
    assert {"BCE", "Lovasz"} <= set(texts(figure))
    assert "chosen epoch (3)" in legend_texts(figure)
    assert "peaks at 0.417 in epoch 5" in figure.get_label()
    assert "epoch 3 are kept" in figure.get_label()


def test_training_curves_of_one_epoch_and_of_scores_alone():
    figure = figures.training_curves([{"epoch": 0, "val_score": 0.3}])
    figures.figure_png(figure, dpi=40)
    assert len(figure.axes) == 1
    assert legend_texts(figure) == ["validation"]
    assert [float(tick) for tick in figure.axes[0].get_xticks() if abs(tick) < 0.5] == [0.0]


def test_no_axis_promises_more_than_a_full_score():
    history = [{"epoch": k, "train_score": score} for k, score in enumerate((0.2, 0.6, 1.0))]
    assert figures.training_curves(history).axes[0].get_ylim()[1] == 1


@pytest.mark.parametrize("rates", [[1e-3] * 4, [1e-3, 5e-4, 3e-4, 2e-4], [0.0, 1e-4, 1e-3, 0.0]])
def test_rates_that_hardly_change_or_reach_zero_have_a_plain_axis(rates):
    history = [{"epoch": k, "train_loss": 1.0, "lr": rate} for k, rate in enumerate(rates)]
    figure = figures.training_curves(history)
    figures.figure_png(figure, dpi=40)
    assert figure.axes[-1].get_yscale() == "linear"
    assert list(figure.axes[-1].lines[0].get_ydata()) == rates


def test_the_chosen_threshold_is_marked_on_every_curve():
    thresholds = np.linspace(0.1, 0.9, 9)
    curves = {"validation": thresholds, "hold-out": 1 - thresholds}
    figure = figures.threshold_curve(thresholds, curves, 0.3)
    dots = [line for line in figure.axes[0].lines if line.get_marker() == "o"]
    assert [(d.get_xdata()[0], pytest.approx(d.get_ydata()[0])) for d in dots] == [
        (0.3, 0.3),
        (0.3, 0.7),
    ]
    assert legend_texts(figure) == ["validation (0.300 at 0.30)", "hold-out (0.700 at 0.30)"]
    assert "chosen: 0.30" in texts(figure)


def test_groups_show_score_interval_and_count():
    figure = figures.score_by_group(
        ["none", "some"], [0.9, 0.4], [0.8, 0.3], [1.0, 0.5], [1200, 1], heading="By coverage"
    )
    ax = figure.axes[0]
    assert [text.get_text() for text in ax.get_yticklabels()] == ["none", "some"]
    assert {"0.900", "1,200 tiles", "0.400", "1 tile"} <= set(texts(figure))
    assert list(ax.lines[0].get_xdata()) == [0.8, 1.0]
    assert ax.get_ylim()[0] > ax.get_ylim()[1]  # the first group on top


NONE = np.zeros((0, 4, 4), np.uint8)
ONE = np.zeros((1, 4, 4), np.uint8)


@pytest.mark.parametrize(
    "make",
    [
        lambda: figures.sample_grid(NONE, NONE, []),
        lambda: figures.sample_grid(ONE, ONE[:, :3], ["a"]),
        lambda: figures.sample_grid(ONE[0], ONE[0], ["a"]),
        lambda: figures.predictions(ONE, ONE, ONE[:, :3] * 0.5, ["a"], 0.5),
        lambda: figures.coverage_histogram([0] * 11),
        lambda: figures.coverage_histogram([1] * 10),
        lambda: figures.coverage_against_depth(np.zeros(2), np.zeros(3)),
        lambda: figures.training_curves([]),
        lambda: figures.training_curves([{"epoch": 0, "lr": 0.1}]),
        lambda: figures.threshold_curve(np.zeros(3), {}, 0.5),
        lambda: figures.threshold_curve(np.zeros(3), {"a": np.zeros(2)}, 0.5),
        lambda: figures.score_by_group([], [], [], [], [], heading="h"),
        lambda: figures.score_by_group(["a"], [1.0], [1.0], [], [3], heading="h"),
    ],
)
def test_nothing_to_draw_or_what_does_not_fit_is_refused(make):
    with pytest.raises(ValueError, match=r"."):
        make()


def test_png_bytes_are_read_by_others(tiles):
    images, masks, ids = tiles
    png = figures.figure_png(figures.sample_grid(images, masks, ids), dpi=50)
    with Image.open(io.BytesIO(png)) as image:
        colors = np.asarray(image.convert("RGB")).reshape(-1, 3)
    orange = np.asarray(to_rgb("#E69F00")) * 255
    assert (np.abs(colors - orange).max(axis=1) < 12).any()  # the outline is really drawn


def test_fill_and_outline_of_salt_agree_where_traces_are_missing() -> None:
    from diapir.report.figures_survey import section

    axis = np.concatenate([np.arange(50.0), np.arange(150.0, 200.0)])
    probs = np.zeros((100, 30), np.float32)
    probs[60:80, 10:20] = 1
    figure = section(probs, probs, 0.5, axis, np.arange(30.0), name="line", across="trace",
                     unit="1", what="interpreted salt")  # fmt: skip
    (ax,) = figure.axes
    (outline,) = [one for one in ax.collections if len(one.get_paths())]
    x = np.concatenate([path.vertices[:, 0] for path in outline.get_paths()])
    filled = np.linspace(0, 199, 100)[60:80]
    assert abs(x.min() - filled[0]) < 2 > abs(x.max() - filled[-1])
    assert ax.get_xticklabels()[-1].get_text() == "199"
    assert "interpreted salt, outlined" in figure.get_label()


def test_a_histogram_without_salt_names_no_largest_class() -> None:
    label = figures.coverage_histogram([5] + [0] * 10).get_label()
    assert label == "Histogram of salt coverage over 5 tiles: 5 (100 %) hold no salt."
