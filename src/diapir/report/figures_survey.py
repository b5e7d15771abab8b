"""Figures of surveys: amplitudes, sections with salt, and maps of horizons."""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from diapir.report.style import (
    ACCENT,
    FONT,
    INK,
    MAIN,
    OUTLINE,
    QUIET,
    SMALL,
    legend,
    line_handle,
    new_figure,
    quiet_axes,
    title,
)

Display = Literal["gray", "gray_r", "seismic"]
"""Colours of amplitudes; 'gray_r' is grey with the other polarity."""

_SALT = LinearSegmentedColormap.from_list("salt", [(*to_rgb(OUTLINE), 0.0), (*to_rgb(OUTLINE), 1)])
_MOST_PIXELS = 1200


def amplitude_histogram(
    shares: NDArray[np.floating], trained: NDArray[np.floating], distance: float
) -> Figure:
    """Return the grey values of a survey beside those of the training data.

    Args:
        shares: (B,) share of the survey's grey values in B equal classes of 0..255.
        trained: (B,) likewise of the training data.
        distance: Half the sum of the differences, 0..1, written into the title.
    """
    figure = new_figure(7.2, 3.0)
    ax = figure.subplots()
    edges = np.linspace(0, 255, len(shares) + 1)
    ax.stairs(100 * trained, edges, fill=True, color="#9AA5B1", alpha=0.55)
    ax.stairs(100 * shares, edges, color=MAIN, linewidth=1.8)
    quiet_axes(ax, xlabel="grey value the network sees", ylabel="% of the samples")
    handles = [
        line_handle(MAIN, "this survey", linewidth=2),
        line_handle("#9AA5B1", "training data", linewidth=6),
    ]
    legend(ax, handles, loc="upper right")
    title(ax, f"Grey values, {100 * distance:.0f} % apart from the training data")
    figure.set_label(
        f"Histogram of the grey values of the survey over that of the training data; "
        f"{100 * distance:.0f} % of the values would have to move to make them equal."
    )
    return figure


def section(
    amplitudes: NDArray[np.floating],
    probs: NDArray[np.floating],
    threshold: float,
    axis: NDArray[np.floating],
    sample: NDArray[np.floating],
    *,
    name: str,
    across: str,
    unit: str,
    display: Display = "gray",
    what: str = "predicted salt",
) -> Figure:
    """Return a section with the salt as a translucent fill and a contour.

    Args:
        amplitudes: (T, S), traces by samples, stretched to their 1st and 99th percentile.
        probs: (T, S) probability of salt.
        threshold: Of the contour.
        axis: (T,) numbers of the traces; where some are missing, ticks are not evenly spaced.
        sample: (S,) time or depth.
        name: Title, such as 'inline 1,250'.
        across: Name of the axis of traces.
        unit: Of `sample`.
        display: Colours of the amplitudes.
        what: The salt is, in words.
    """
    figure = new_figure(7.2, 4.4)
    ax = figure.subplots()
    steps = [max(1, -(-size // _MOST_PIXELS)) for size in amplitudes.shape]
    shown, salt = (a[:: steps[0], :: steps[1]].T for a in (amplitudes, probs))
    finite = shown[np.isfinite(shown)]
    low, high = np.percentile(finite, [1, 99]) if finite.size else (0.0, 1.0)
    if display == "seismic":
        low, high = -max(abs(low), abs(high)), max(abs(low), abs(high))
    left, right = _edges(axis)
    above, below = _edges(sample)
    extent = (left, right, below, above)
    options: dict[str, Any] = {"extent": extent, "aspect": "auto", "interpolation": "bilinear"}
    ax.imshow(shown, cmap=display, vmin=low, vmax=high if high > low else low + 1, **options)
    ax.imshow(np.where(salt > threshold, 0.35, 0.0), cmap=_SALT, vmin=0, vmax=1, **options)
    # as the picture has them, which is stretched evenly
    places = np.linspace(axis[0], axis[-1], len(axis))
    _contour(ax, salt, threshold, places[:: steps[0]], sample[:: steps[1]])
    if not np.allclose(places, axis):
        chosen = np.unique(np.linspace(0, len(axis) - 1, 7).round().astype(int))
        ax.set_xticks(places[chosen], [f"{number:g}" for number in axis[chosen]])
    quiet_axes(ax, xlabel=across, ylabel=f"{quantity(unit)}", grid="")
    title(ax, name)
    share = float((probs > threshold).mean())
    figure.set_label(
        f"Seismic section, {name}: {what}, outlined in orange, covers {100 * share:.1f} % of it."
    )
    return figure


def horizon_map(
    z: NDArray[np.floating],
    x: NDArray[np.floating],
    y: NDArray[np.floating],
    *,
    name: str,
    unit: str,
    plane: Sequence[str] = ("X (m)", "Y (m)"),
) -> Figure:
    """Return a map of a horizon in world coordinates with contours, shallow is light.

    Colours run from the 2nd to the 98th percentile, so that a few stray traces do not wash out all
    others.

    Args:
        z: (I, J) time or depth, NaN where there is none.
        x: (I, J) easting.
        y: (I, J) northing.
        name: Title, such as 'Top salt'.
        unit: Of `z`.
        plane: Labels of the axes.
    """
    figure = new_figure(6.4, 5.2)
    ax = figure.subplots()
    steps = [max(1, -(-size // 600)) for size in z.shape]
    grid = [a[:: steps[0], :: steps[1]] for a in (x, y, z)]
    ax.set_facecolor("#EEF1F4")
    if np.isfinite(grid[2]).any():
        low, high = np.nanpercentile(grid[2], [2, 98])
        colours: dict[str, Any] = {"cmap": "viridis_r", "vmin": low, "vmax": high}
        if min(grid[2].shape) > 1:
            values = np.ma.masked_invalid(grid[2])
            shown: ScalarMappable = ax.pcolormesh(
                *grid[:2], values, shading="nearest", rasterized=True, **colours
            )
            if high > low:
                levels = MaxNLocator(12).tick_values(low, high)
                ax.contour(*grid[:2], values, levels=levels, colors=[INK], linewidths=0.4)
        else:
            shown = ax.scatter(grid[0].ravel(), grid[1].ravel(), c=grid[2].ravel(), s=6, **colours)
        # as high as the map, whatever its shape
        bar = figure.colorbar(shown, cax=ax.inset_axes((1.04, 0.0, 0.045, 1.0)), extend="both")
        bar.ax.invert_yaxis()
        bar.ax.tick_params(labelsize=SMALL)
        bar.set_label(quantity(unit), fontsize=FONT, color=INK)
    _outline(ax, x, y)
    ax.set_aspect("equal", adjustable="box")
    ax.ticklabel_format(useOffset=False, style="plain")
    ax.tick_params(axis="x", labelrotation=30)
    quiet_axes(ax, xlabel=plane[0], ylabel=plane[1], grid="")
    title(ax, name)
    known = z[np.isfinite(z)]
    what = "nowhere"
    if known.size:
        what = f"from {with_unit(known.min(), unit)} to {with_unit(known.max(), unit)}"
    covered = known.size / max(z.size, 1)
    figure.set_label(f"Map of {name}: {what}, on {100 * covered:.0f} % of the places of traces.")
    return figure


def scores_before_after(
    names: Sequence[str], before: Sequence[float], after: Sequence[float]
) -> Figure:
    """Return pairs of bars: a score before and after fine-tuning."""
    figure = new_figure(5.4, 2.8)
    ax = figure.subplots()
    place = np.arange(len(names))
    for shift, values, color in ((-0.2, before, "#9AA5B1"), (0.2, after, ACCENT)):
        bars = ax.bar(place + shift, values, width=0.38, color=color)
        ax.bar_label(bars, fmt="%.3f", fontsize=SMALL, padding=2)
    ax.set_xticks(place, names)
    ax.set_ylim(0, 1.3)  # with room for the legend above the bars
    ax.set_yticks(np.linspace(0, 1, 6))
    quiet_axes(ax, ylabel="score")
    handles = [
        line_handle("#9AA5B1", "before", linewidth=6),
        line_handle(ACCENT, "after", linewidth=6),
    ]
    legend(ax, handles, loc="upper left", ncols=2)
    title(ax, "On the held-out lines")
    pairs = zip(names, before, after, strict=True)
    figure.set_label("; ".join(f"{n}: {b:.3f} before, {a:.3f} after" for n, b, a in pairs))
    return figure


def _outline(ax: Axes, x: NDArray[np.floating], y: NDArray[np.floating]) -> None:
    """Draw the border of the survey, and leave a little room around it."""
    border = [(0, 0), (0, -1), (-1, -1), (-1, 0), (0, 0)]
    ax.plot([x[at] for at in border], [y[at] for at in border], color=QUIET, linewidth=0.8)
    ax.margins(0.03)


def _edges(axis: NDArray[np.floating]) -> tuple[float, float]:
    """Return the outer edges of the pixels of the first and last place, half a step outside."""
    half = float(axis[-1] - axis[0]) / (len(axis) - 1) / 2 if len(axis) > 1 else 0.5
    return float(axis[0]) - half, float(axis[-1]) + half


def _contour(
    ax: Axes,
    salt: NDArray[np.floating],
    threshold: float,
    x: NDArray[np.floating],
    y: NDArray[np.floating],
) -> None:
    if min(salt.shape) < 2 or not salt.min() < threshold < salt.max():
        return
    ax.contour(x, y, salt, levels=[threshold], colors=[OUTLINE], linewidths=1.1)


def with_unit(value: float, unit: str) -> str:
    """Return a time, depth or sample in words.

    >>> with_unit(1234.4, "ms"), with_unit(12, "1")
    ('1,234 ms', 'sample 12')
    """
    return f"sample {value:,.0f}" if unit == "1" else f"{value:,.0f} {unit}"


def quantity(unit: str) -> str:
    """Return what samples are counted in, with the unit.

    >>> quantity("ms"), quantity("1")
    ('two-way time (ms)', 'sample')
    """
    return {"ms": "two-way time (ms)", "m": "depth (m)", "ft": "depth (ft)"}.get(unit, "sample")
