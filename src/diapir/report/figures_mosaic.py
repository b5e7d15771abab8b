"""The figure of mosaics: sections put together again from tiles."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from diapir.report.style import INK, SMALL, new_figure

_COLUMNS = 4


def mosaic_sheet(pictures: Sequence[NDArray[np.uint8]], names: Sequence[str]) -> Figure:
    """Return sections side by side, each at its own size.

    Args:
        pictures: Sections, (H, W, 3) uint8 of any sizes; at least one.
        names: One for each.
    """
    columns = min(_COLUMNS, len(pictures))
    rows = -(-len(pictures) // columns)
    heights = [
        max(p.shape[0] / p.shape[1] for p in pictures[r * columns : (r + 1) * columns])
        for r in range(rows)
    ]
    # a tall section must not push the sheet off the page
    heights = [min(height, 2.5) for height in heights]
    figure = new_figure(8.0, sum(heights) * 8.0 / columns + 0.3 * rows)
    axes = figure.subplots(rows, columns, squeeze=False, height_ratios=heights)
    for ax in axes.flat:
        ax.set_axis_off()
    for ax, picture, name in zip(axes.flat, pictures, names, strict=False):
        ax.imshow(picture, interpolation="antialiased")
        ax.set_title(name, loc="left", fontsize=SMALL, color=INK, pad=3)
    figure.set_label(
        f"{len(pictures)} sections put together from neighbouring tiles, known salt tinted: "
        + "; ".join(names)
        + "."
    )
    return figure
