"""Figures of calibration and doubt: how often a probability is right, and what to look at again."""

from collections.abc import Mapping
from itertools import cycle
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter
from numpy.typing import NDArray

from diapir.metrics.calibration import Reliability
from diapir.report.style import (
    ACCENT,
    FONT,
    INK,
    MAIN,
    QUIET,
    SERIES,
    legend,
    line_handle,
    new_figure,
    quiet_axes,
)


def reliability_diagram(before: Reliability, after: Reliability | None = None) -> Figure:
    """Return found against predicted shares of salt, above the number of pixels in each class.

    Args:
        before: Of the probabilities as the network gives them.
        after: With the temperature; None where there is none.
    """
    figure = new_figure(4.6, 6.0)
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=[3.2, 1])
    top.plot([0, 1], [0, 1], color=QUIET, linewidth=1, linestyle=(0, (4, 3)), zorder=1)
    handles = [line_handle(QUIET, "perfectly calibrated", linestyle=(0, (4, 3)), linewidth=1)]
    name = "as the network gives it" if after is not None else "this model"
    shown = [(before, ACCENT if after is not None else MAIN, name, "o", "-")]
    if after is not None:
        shown.append((after, MAIN, "with the temperature", "s", "--"))
    for found, color, text, marker, line in shown:
        some = found.pixels > 0
        options: dict[str, Any] = {
            "marker": marker,
            "markersize": 4,
            "linestyle": line,
            "linewidth": 1.4,
        }
        top.plot(found.predicted[some], found.found[some], color=color, **options)
        centre = (found.edges[:-1] + found.edges[1:]) / 2
        bottom.step(centre, np.maximum(found.pixels, 1), where="mid", color=color, linewidth=1.3,
                    linestyle=line)  # fmt: skip
        handles.append(line_handle(color, f"{text}: error {found.error:.4f}", **options))
    top.set_xlim(-0.02, 1.02)
    top.set_ylim(-0.02, 1.02)
    quiet_axes(top, ylabel="share of these pixels that is salt", grid="both")
    bottom.set_yscale("log")
    bottom.yaxis.set_major_locator(LogLocator(numticks=5))
    bottom.yaxis.set_minor_formatter(NullFormatter())
    quiet_axes(bottom, xlabel="predicted probability of salt", ylabel="pixels")
    legend(figure, handles, loc="outside upper left")
    figure.set_label(
        "Found against predicted share of salt by classes of probability; expected calibration "
        + ", ".join(f"error {text} {found.error:.4f}" for found, _, text, _, _ in shown)
        + "."
    )
    return figure


def kept_curves(
    curves: Mapping[str, tuple[NDArray[np.float64], NDArray[np.float64]]],
    ideal: tuple[NDArray[np.float64], NDArray[np.float64]],
) -> Figure:
    """Return the score of the tiles that are kept when the most doubtful are left to people.

    Args:
        curves: For each kind of doubt shares of tiles kept and their mean scores.
        ideal: The same if the scores were known.
    """
    figure = new_figure(5.6, 3.6)
    ax = figure.subplots()
    whole = float(ideal[1][-1])
    ax.axhline(whole, color=QUIET, linewidth=1, linestyle=(0, (1, 2)))
    ax.plot(100 * ideal[0], ideal[1], color=QUIET, linewidth=1, linestyle=(0, (4, 3)))
    handles = []
    for (name, (share, score)), color, marker in zip(
        curves.items(), cycle(SERIES), cycle("os^D"), strict=False
    ):
        options: dict[str, Any] = {"marker": marker, "markersize": 3.5, "linewidth": 1.4}
        ax.plot(100 * share, score, color=color, **options)
        handles.append(line_handle(color, f"by {name}", **options))
    handles.append(line_handle(QUIET, "if the scores were known", linestyle=(0, (4, 3))))
    handles.append(line_handle(QUIET, f"all tiles: {whole:.3f}", linestyle=(0, (1, 2))))
    quiet_axes(ax, xlabel="tiles kept, the least doubtful first (%)", ylabel="score of tiles kept")
    ax.set_xlim(0, 102)
    low = min(float(score.min()) for _, score in curves.values())
    ax.set_ylim(max(0.0, min(low, whole) - 0.05), 1.01)
    ax.tick_params(labelsize=FONT - 1, labelcolor=INK)
    legend(figure, handles, loc="outside upper left", ncols=2)
    figure.set_label(
        f"Score against share of tiles kept; {whole:.3f} on all tiles, "
        + ", ".join(
            f"{np.interp(0.5, *curve):.3f} on the half least doubtful by {name}"
            for name, curve in curves.items()
        )
        + "."
    )
    return figure
