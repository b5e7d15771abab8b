"""Figures of a data set as a whole: how much salt its tiles hold, and how deep they lie."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, PercentFormatter
from numpy.typing import NDArray

from diapir.report.style import (
    ACCENT,
    INK,
    MAIN,
    QUIET,
    SMALL,
    legend,
    line_handle,
    new_figure,
    quiet_axes,
    title,
)

_NO_SALT = "#9AA5B1"


def coverage_histogram(counts: Sequence[int]) -> Figure:
    """Return the number of tiles without salt and in ten classes of coverage.

    Args:
        counts: Tiles without salt, with up to 10 %, above 10 % and up to 20 %, and so on: 11.

    Raises:
        ValueError: There are no tiles, or it is not 11 numbers.
    """
    tiles = sum(counts)
    if len(counts) != 11 or tiles == 0:
        raise ValueError(f"expected tiles in 11 classes, found {tiles} in {len(counts)}")
    labels = ["none", *(f"{10 * k}-{10 * k + 10}" for k in range(10))]
    figure = new_figure(7.2, 3.5)
    ax = figure.subplots()
    bars = ax.bar(range(11), counts, width=0.82, color=[_NO_SALT] + [MAIN] * 10)
    for bar, count in zip(bars, counts, strict=True):
        ax.annotate(
            f"{count:,}\n{_percent(count / tiles)}",
            (bar.get_x() + bar.get_width() / 2, count),
            xytext=(0, 3),
            textcoords="offset points",
            ha="center",
            va="bottom",
            fontsize=SMALL,
            color=INK,
            linespacing=1.15,
        )
    ax.set_xticks(range(11), labels)
    ax.set_ylim(0, max(counts) * 1.17)
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    quiet_axes(ax, xlabel="salt in the tile (% of its pixels)", ylabel="tiles")
    ax.tick_params(axis="x", length=0)
    title(ax, f"Salt coverage of {tiles:,} tiles")
    largest = max(range(1, 11), key=lambda k: counts[k])
    others = (
        f"; of the others the largest class is {labels[largest]} % with {counts[largest]:,} tiles"
        if counts[largest]
        else ""
    )
    figure.set_label(
        f"Histogram of salt coverage over {tiles:,} tiles: {counts[0]:,} "
        f"({_percent(counts[0] / tiles)}) hold no salt{others}."
    )
    return figure


def coverage_against_depth(z_feet: NDArray[np.floating], coverage: NDArray[np.floating]) -> Figure:
    """Return coverage over depth: single tiles, their median by depth, and the share without salt.

    Args:
        z_feet: Depth of each tile in feet, (N,).
        coverage: Share of each tile that is salt, 0..1, (N,).

    Raises:
        ValueError: There are no tiles, the lengths differ, or a share lies outside 0..1.
    """
    _check_shares(coverage)
    if z_feet.shape != coverage.shape:
        raise ValueError(f"{z_feet.shape} depths do not fit {coverage.shape} coverages")
    salty = coverage > 0
    figure = new_figure(7.2, 4.9)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[2.6, 1])
    alpha = float(np.clip(700 / max(int(salty.sum()), 1), 0.22, 0.8))
    upper.scatter(z_feet[salty], coverage[salty], s=7, color=MAIN, alpha=alpha, linewidths=0)
    bins = _depth_bins(z_feet)
    _draw_quartiles(upper, bins, z_feet, coverage, salty)
    _draw_empty_share(lower, bins, z_feet, salty)
    upper.set_ylim(-0.02, 1.02)
    for ax in (upper, lower):
        ax.yaxis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=" %"))
    lower.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    quiet_axes(upper, ylabel="salt in tiles that hold any")
    quiet_axes(lower, xlabel="depth (feet)", ylabel="tiles\nwithout salt")
    title(upper, "Salt coverage and depth")
    figure.set_label(
        f"Salt coverage against depth for {len(coverage):,} tiles from {z_feet.min():,.0f} to "
        f"{z_feet.max():,.0f} feet, with the median by depth, and beneath it the share of tiles "
        f"without salt, {_percent(1 - float(salty.mean()))} over all depths."
    )
    return figure


def _draw_quartiles(
    ax: Axes,
    bins: list[NDArray[np.bool_]],
    z_feet: NDArray[np.floating],
    coverage: NDArray[np.floating],
    salty: NDArray[np.bool_],
) -> None:
    held = [b & salty for b in bins if np.any(b & salty)]
    if not held:
        return
    middle = [float(np.median(z_feet[b])) for b in held]
    low, median, high = np.array([np.quantile(coverage[b], [0.25, 0.5, 0.75]) for b in held]).T
    ax.fill_between(middle, low, high, color=ACCENT, alpha=0.18, linewidth=0, zorder=0.9)
    ax.plot(middle, median, color=ACCENT, linewidth=2, marker="o", markersize=4)
    handles = [
        line_handle(MAIN, "a tile", linestyle="", marker="o", markersize=4),
        line_handle(ACCENT, "median and middle half", linewidth=2, marker="o"),
    ]
    legend(ax, handles, loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=2, borderaxespad=0.2)


def _draw_empty_share(
    ax: Axes, bins: list[NDArray[np.bool_]], z_feet: NDArray[np.floating], salty: NDArray[np.bool_]
) -> None:
    for b in bins:
        left, right = float(z_feet[b].min()), float(z_feet[b].max())
        share = 1 - float(salty[b].mean())
        ax.bar(
            left,
            share,
            width=max(right - left, 1.0),
            align="edge",
            color=_NO_SALT,
            edgecolor="white",
            linewidth=1.2,
        )
    overall = 1 - float(salty.mean())
    ax.axhline(overall, color=QUIET, linewidth=1, linestyle=(0, (4, 3)))
    ax.annotate(
        f"all: {_percent(overall)}",
        (1.0, overall),
        xycoords=("axes fraction", "data"),
        xytext=(4, 0),
        textcoords="offset points",
        ha="left",
        va="center",
        annotation_clip=False,
        fontsize=SMALL,
        color=INK,
    )
    ax.set_ylim(0, 1)
    ax.set_yticks([0, 0.5, 1])


def _depth_bins(z_feet: NDArray[np.floating]) -> list[NDArray[np.bool_]]:
    """Return masks of the deciles of depth; equal depths stay together, so there may be fewer."""
    edges = np.unique(np.quantile(z_feet, np.linspace(0, 1, 11)[1:-1]))
    place = np.searchsorted(edges, z_feet, side="left")
    return [place == k for k in np.unique(place)]


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %" if 0 < share < 0.1 else f"{100 * share:.0f} %"


def _check_shares(coverage: NDArray[np.floating]) -> None:
    if coverage.ndim != 1 or len(coverage) == 0:
        raise ValueError(f"expected coverages of shape (N,) with N > 0, found {coverage.shape}")
    if not np.all((coverage >= 0) & (coverage <= 1)):
        raise ValueError("coverages are shares in 0..1")
