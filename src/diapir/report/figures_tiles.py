"""Figures that show tiles: images beside their masks, and predictions beside the truth."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.patheffects import withStroke
from numpy.typing import NDArray

from diapir.metrics.score import tile_counts, tile_scores
from diapir.report.style import (
    AGREED,
    FALSE,
    FONT,
    INK,
    MISSED,
    OUTLINE,
    QUIET,
    SMALL,
    legend,
    line_handle,
    new_figure,
)

_PAIRS_A_ROW = 4
_TILE_INCHES = 0.98


def sample_grid(
    images: NDArray[np.uint8],
    masks: NDArray[np.uint8],
    ids: Sequence[str],
    z_feet: NDArray[np.floating] | None = None,
) -> Figure:
    """Return a grid of images with the salt outlined, each beside its mask.

    Args:
        images: Tiles to show, (N, H, W) uint8; 8 to 24 look best.
        masks: (N, H, W) of 0 and 1.
        ids: N names, written above the tiles.
        z_feet: Depths in feet, (N,), written beneath the names; optional.

    Raises:
        ValueError: There is nothing to show or the shapes do not fit.
    """
    _check_tiles(images, masks=masks)
    pairs = min(_PAIRS_A_ROW, len(images))
    rows = -(-len(images) // pairs)
    figure = new_figure(pairs * 2 * _TILE_INCHES + 0.3, rows * (_TILE_INCHES + 0.2) + 0.4)
    # A narrow empty column parts the pairs, so that a mask is never read as its neighbour's.
    ratios = [1.0, 1.0, 0.12] * pairs
    axes = figure.subplots(rows, 3 * pairs, squeeze=False, width_ratios=ratios)
    for ax in axes.flat:
        ax.set_axis_off()
    for n, (image, mask) in enumerate(zip(images, masks, strict=True)):
        row, pair = divmod(n, pairs)
        left, right = axes[row, 3 * pair], axes[row, 3 * pair + 1]
        _show_grey(left, image)
        _outline(left, mask)
        _show_mask(right, mask)
        _caption(left, ids[n])
        depth = "" if z_feet is None else f"{z_feet[n]:.0f} ft, "
        _caption(right, f"{depth}{_share(mask)}", align="right", color=QUIET)
    handles = [
        line_handle(OUTLINE, "outline of the salt mask", linewidth=2),
        Patch(facecolor="white", edgecolor=QUIET, label="salt in the mask"),
        Patch(facecolor=_NO_SALT, label="no salt"),
    ]
    legend(figure, handles, loc="outside lower center", ncols=3)
    salty = int(np.any(masks != 0, axis=(1, 2)).sum())
    figure.set_label(
        f"{_count(len(images), 'seismic tile')}, each beside its salt mask: {salty} hold "
        f"salt, outlined in orange, {len(images) - salty} hold none."
    )
    return figure


def predictions(
    images: NDArray[np.uint8],
    truth: NDArray[np.uint8],
    probs: NDArray[np.floating],
    ids: Sequence[str],
    threshold: float,
) -> Figure:
    """Return one row a tile: input, truth, probability, and where prediction and truth differ.

    Args:
        images: (N, H, W) uint8; up to about 10 tiles.
        truth: (N, H, W) of 0 and 1.
        probs: Probability of salt in 0..1, (N, H, W).
        ids: N names.
        threshold: A pixel is predicted as salt where its probability is greater.

    Raises:
        ValueError: There is nothing to show or the shapes do not fit.
    """
    _check_tiles(images, truth=truth, probs=probs)
    # float(): a float64 scalar would compare float32 probabilities in another precision.
    predicted = probs > float(threshold)
    counts = tile_counts(predicted, truth.astype(bool))
    scores = np.asarray(tile_scores(counts), dtype=np.float64)
    side = 1.62
    figure = new_figure(4 * side + 1.35, len(images) * (side + 0.12) + 0.75)
    axes = figure.subplots(len(images), 4, squeeze=False)
    for ax, name in zip(
        axes[0], ("input", "truth", "probability of salt", "prediction and truth"), strict=True
    ):
        ax.set_title(name, fontsize=FONT, fontweight="bold", color=INK, pad=7)
    for n, row in enumerate(axes):
        _show_grey(row[0], images[n])
        _show_mask(row[1], truth[n])
        shown = row[2].imshow(
            probs[n], cmap="cividis", vmin=0, vmax=1, interpolation="nearest", rasterized=True
        )
        _outline(row[2], predicted[n], color="white", width=1.1)
        _show_agreement(row[3], images[n], truth[n].astype(bool), predicted[n])
        for ax in row:
            _frame(ax)
        row[0].set_ylabel(_tile_label(ids[n], truth[n], scores[n]), **_LABEL_STYLE)
    bar = figure.colorbar(shown, ax=axes[:, 2], location="bottom", aspect=14, pad=0.01, shrink=0.9)
    # The ends give way where the threshold's own label needs their room.
    ends = [end for end in (0.0, 1.0) if abs(end - threshold) > 0.2]
    bar.set_ticks([*ends, threshold], labels=[*(f"{end:.0f}" for end in ends), f"{threshold:.2f}"])
    bar.ax.tick_params(labelsize=SMALL, color=QUIET, labelcolor=INK)
    bar.ax.axvline(threshold, color="white", linewidth=1.4)
    bar.outline.set_visible(False)
    legend(figure, _agreement_handles(), loc="outside lower center", ncols=4, columnspacing=1.4)
    figure.set_label(
        f"Predictions for {_count(len(images), 'tile')} beside image and truth, at threshold "
        f"{threshold:.2f}; tile scores "
        f"{', '.join(f'{name} {score:.2f}' for name, score in zip(ids, scores, strict=True))}."
    )
    return figure


_NO_SALT = "#2B333B"
_LABEL_STYLE = {
    "rotation": 0,
    "ha": "right",
    "va": "center",
    "fontsize": SMALL,
    "color": INK,
    "linespacing": 1.5,
    "labelpad": 6,
}


def _check_tiles(images: NDArray[np.uint8], **others: NDArray[np.generic]) -> None:
    if images.ndim != 3 or len(images) == 0:
        raise ValueError(f"expected images of shape (N, H, W) with N > 0, found {images.shape}")
    for name, array in others.items():
        if array.shape != images.shape:
            raise ValueError(f"{name} has shape {array.shape}, the images have {images.shape}")


def _show_grey(ax: Axes, image: NDArray[np.uint8]) -> None:
    ax.imshow(image, cmap="gray", vmin=0, vmax=255, interpolation="nearest")


def _show_mask(ax: Axes, mask: NDArray[np.generic]) -> None:
    picture = np.where((mask != 0)[..., None], to_rgb("white"), to_rgb(_NO_SALT))
    ax.imshow(picture, interpolation="nearest")
    # White salt that touches the tile's edge would run into the white page without a frame.
    height, width = mask.shape
    ax.plot(
        [-0.5, width - 0.5, width - 0.5, -0.5, -0.5],
        [-0.5, -0.5, height - 0.5, height - 0.5, -0.5],
        color=_NO_SALT,
        linewidth=1.0,
        clip_on=False,
    )


def _show_agreement(
    ax: Axes, image: NDArray[np.uint8], truth: NDArray[np.bool_], predicted: NDArray[np.bool_]
) -> None:
    # Greys squeezed to the middle of the range keep the three colours apart on black and on white.
    grey = 0.35 + 0.4 * image.astype(np.float64)[..., None] / 255
    picture = np.repeat(grey, 3, axis=2)
    for where, color in (
        (truth & predicted, AGREED),
        (truth & ~predicted, MISSED),
        (predicted & ~truth, FALSE),
    ):
        picture[where] = 0.25 * picture[where] + 0.75 * np.asarray(to_rgb(color))
    ax.imshow(picture, interpolation="nearest")


def _agreement_handles() -> list[object]:
    return [
        Patch(facecolor=AGREED, label="agreement"),
        Patch(facecolor=MISSED, label="missed salt"),
        Patch(facecolor=FALSE, label="false salt"),
        line_handle(
            "white",
            "predicted outline",
            linewidth=1.6,
            path_effects=[withStroke(linewidth=3.6, foreground="#3B4A6B")],
        ),
    ]


def _outline(ax: Axes, mask: NDArray[np.generic], color: str = OUTLINE, width: float = 1.3) -> None:
    segments = _edges(np.asarray(mask) != 0)
    # Two passes, not one line with an edge: each segment's edge would cross its neighbours.
    if color == OUTLINE:
        ax.add_collection(
            LineCollection(segments, colors="#00000090", linewidths=width + 1.2, capstyle="round")  # type: ignore[arg-type]
        )
    ax.add_collection(
        LineCollection(segments, colors=color, linewidths=width, capstyle="projecting")  # type: ignore[arg-type]
    )


def _edges(mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return the sides of pixels between mask and no mask as (S, 2, 2) segments of (x, y).

    They follow the pixels exactly; a contour would cut corners of masks a few pixels wide. The
    border of the tile counts as no mask, moved in by half a pixel so that it is not cut off.
    """
    padded = np.pad(mask, 1)
    rows, columns = np.nonzero(padded[1:] != padded[:-1])
    x, y = columns - 1.5, rows - 0.5
    horizontal = np.stack([np.stack([x, y], -1), np.stack([x + 1, y], -1)], 1)
    rows, columns = np.nonzero(padded[:, 1:] != padded[:, :-1])
    x, y = columns - 0.5, rows - 1.5
    vertical = np.stack([np.stack([x, y], -1), np.stack([x, y + 1], -1)], 1)
    segments = np.concatenate([horizontal, vertical]).astype(np.float64)
    height, width = mask.shape
    return np.clip(segments, 0.0, (width - 1.0, height - 1.0)) if segments.size else segments


def _frame(ax: Axes) -> None:
    ax.set_xticks([])
    ax.set_yticks([])
    for spine in ax.spines.values():
        spine.set_visible(False)


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _share(mask: NDArray[np.generic]) -> str:
    share = float(np.mean(mask != 0))
    if share == 0:
        return "no salt"
    return "< 1 % salt" if share < 0.01 else f"{share:.0%} salt".replace("%", " %")


def _caption(ax: Axes, text: str, *, align: str = "left", color: str = INK) -> None:
    ax.set_title(text, loc=align, fontsize=SMALL - 1.2, color=color, pad=3)  # type: ignore[arg-type]


def _tile_label(name: str, truth: NDArray[np.generic], score: float) -> str:
    return f"{name}\n{_share(truth)}\nscore {score:.2f}"
