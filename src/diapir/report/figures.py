"""The figures of data, trainings and tiles under one name, and the way to a file.

Each function returns a `matplotlib.figure.Figure` whose label (``figure.get_label()``) describes it
in words for people who cannot see it. `save_figure` keeps that text in the PNG, and
`diapir.report.html.Picture` takes it over as the alternative text of the page.
"""

import io
from pathlib import Path

from matplotlib.figure import Figure

from diapir import __version__
from diapir.io.atomic import write_bytes_atomic
from diapir.report.figures_data import coverage_against_depth, coverage_histogram
from diapir.report.figures_tiles import predictions, sample_grid
from diapir.report.figures_training import score_by_group, threshold_curve, training_curves

__all__ = [
    "coverage_against_depth",
    "coverage_histogram",
    "figure_png",
    "predictions",
    "sample_grid",
    "save_figure",
    "score_by_group",
    "threshold_curve",
    "training_curves",
]

DPI = 150
"""Dots per inch: sharp at the width of a page on a dense screen, small enough to embed."""


def figure_png(figure: Figure, *, dpi: int = DPI) -> bytes:
    """Return a figure as PNG bytes, with its description in the PNG's own ``Description`` text.

    The same figure gives the same bytes: no date goes in.

    Args:
        figure: A figure of this module or any other of matplotlib's.
        dpi: Dots per inch.
    """
    buffer = io.BytesIO()
    metadata = {"Software": f"Diapir {__version__}", "Description": str(figure.get_label())}
    # "tight" keeps long names beside the axes whole, which the layout alone may cut off.
    figure.savefig(
        buffer, format="png", dpi=dpi, metadata=metadata, bbox_inches="tight", pad_inches=0.08
    )
    return buffer.getvalue()


def save_figure(figure: Figure, path: Path, *, dpi: int = DPI) -> None:
    """Write a figure as PNG, whole or not at all.

    Args:
        figure: The figure.
        path: The file to write; its folder is created if it is missing.
        dpi: Dots per inch.

    Raises:
        RunError: The place cannot be written.
    """
    write_bytes_atomic(path, figure_png(figure, dpi=dpi))
