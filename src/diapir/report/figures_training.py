"""Figures of a training and of its scores: curves over epochs, threshold and groups of tiles."""

import math
from collections.abc import Mapping, Sequence
from itertools import cycle

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter
from numpy.typing import NDArray

from diapir.report.style import (
    FONT,
    INK,
    MAIN,
    QUIET,
    SERIES,
    SMALL,
    legend,
    line_handle,
    new_figure,
    quiet_axes,
    title,
)

_TRAIN, _VAL = SERIES[0], SERIES[1]
_PANELS = (
    ("score", "score at 0.5", True),
    ("accuracy", "pixel accuracy", True),
    ("loss", "loss", False),
)


def training_curves(
    history: Sequence[Mapping[str, float | None]],
    *,
    chosen_epoch: int | None = None,
    stages: Mapping[int, str] | None = None,
) -> Figure:
    """Return score, accuracy and loss over epochs for training and validation, and the rate.

    Args:
        history: One row an epoch with ``epoch`` (drawn as it is) and any of
            ``train_score``, ``val_score``, ``train_accuracy``, ``val_accuracy``, ``train_loss``,
            ``val_loss``, ``lr``. A value that is missing, None or not a number leaves a gap that
            the line bridges; a panel without any value is left out.
        chosen_epoch: The epoch whose weights are kept; marked through all panels.
        stages: Epoch from which a stage of the loss begins -> its name; the first epoch is
            not marked.

    Raises:
        ValueError: The history is empty or holds none of these values.
    """
    panels = [panel for panel in _PANELS if _has(history, f"train_{panel[0]}", f"val_{panel[0]}")]
    with_rate = _has(history, "lr")
    if not panels:
        raise ValueError("the history has no score, accuracy or loss to draw")
    heights = [2.1] * len(panels) + [0.8] * with_rate
    figure = new_figure(7.2, sum(heights) + 0.8)
    axes = figure.subplots(len(heights), 1, sharex=True, height_ratios=heights, squeeze=False)[:, 0]
    for ax, (key, name, higher) in zip(axes, panels, strict=False):
        for part, color in (("train", _TRAIN), ("val", _VAL)):
            _draw_series(ax, history, f"{part}_{key}", color)
        quiet_axes(ax, ylabel=name)
        ax.margins(y=0.12)
        if higher and ax.get_ylim()[1] > 1:
            ax.set_ylim(top=1.0)
    if with_rate:
        _draw_rate(axes[-1], history)
    first, last = (int(_value(history[k], "epoch")) for k in (0, -1))
    later = [epoch for epoch in stages or {} if epoch > first]
    _mark_epochs(list(axes), stages or {}, first, chosen_epoch)
    axes[-1].set_xlabel("epoch", fontsize=FONT, color=INK)
    axes[-1].xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes[-1].set_xlim(first - 0.5, last + 0.5)
    legend(
        figure,
        _training_handles(history, chosen_epoch, new_stages=bool(later)),
        loc="outside upper center",
        ncols=4,
    )
    figure.set_label(_describe_training(history, chosen_epoch))
    return figure


def threshold_curve(
    thresholds: NDArray[np.floating],
    curves: Mapping[str, NDArray[np.floating]],
    chosen: float,
    how: str = "chosen",
) -> Figure:
    """Return the mean score over the threshold, with the one that is applied marked.

    Args:
        thresholds: Rising thresholds in 0..1, (T,).
        curves: Name of a part of the data -> its mean scores, (T,); the first one is the part on
            which the threshold was chosen, if it was.
        chosen: The threshold that is applied.
        how: In a word, it came to be that: 'chosen' or 'given'.

    Raises:
        ValueError: There is no curve or its length differs from that of the thresholds.
    """
    if not curves or any(len(scores) != len(thresholds) for scores in curves.values()):
        raise ValueError(f"expected curves of {len(thresholds)} scores, one a threshold")
    figure = new_figure(7.2, 3.5)
    ax = figure.subplots()
    handles = []
    for (name, scores), color in zip(curves.items(), cycle(SERIES)):
        at = float(np.interp(chosen, thresholds, scores))
        ax.plot(thresholds, scores, color=color, linewidth=2)
        ax.plot([chosen], [at], "o", color=color, markersize=7, markeredgecolor="white")
        handles.append(line_handle(color, f"{name} ({at:.3f} at {chosen:.2f})", linewidth=2))
    ax.axvline(chosen, color=INK, linewidth=1.2, zorder=1)
    ax.annotate(
        f"{how}: {chosen:.2f}",
        (chosen, 0.03),
        xycoords=("data", "axes fraction"),
        xytext=(6 if chosen < 0.75 else -6, 0),
        textcoords="offset points",
        ha="left" if chosen < 0.75 else "right",
        fontsize=FONT,
        color=INK,
    )
    ax.margins(x=0.01, y=0.12)
    quiet_axes(ax, xlabel="threshold on the probability of salt", ylabel="mean score", grid="both")
    title(ax, "Score against threshold")
    place = {"loc": "lower right", "bbox_to_anchor": (1.0, 1.0), "borderaxespad": 0.2}
    legend(ax, handles, ncols=2, **place)
    name, scores = next(iter(curves.items()))
    figure.set_label(
        f"Mean score against threshold: the {how} threshold {chosen:.2f} gives "
        f"{float(np.interp(chosen, thresholds, scores)):.3f} on {name}; over all thresholds the "
        f"score lies between {np.min(scores):.3f} and {np.max(scores):.3f}."
    )
    return figure


def score_by_group(
    labels: Sequence[str],
    scores: Sequence[float],
    lows: Sequence[float],
    highs: Sequence[float],
    tiles: Sequence[int],
    *,
    heading: str,
) -> Figure:
    """Return the mean score of each group of tiles as a dot with its interval.

    Args:
        labels: Names of G groups, drawn from top to bottom.
        scores: Their mean scores, (G,).
        lows: Lower ends of the intervals, (G,).
        highs: Upper ends of the intervals, (G,).
        tiles: Number of tiles in each group, (G,).
        heading: What the groups are, such as ``"Score by coverage"``.

    Raises:
        ValueError: There is no group or the lengths differ.
    """
    rows = list(zip(labels, scores, lows, highs, tiles, strict=True))
    if not rows:
        raise ValueError("no group to draw")
    figure = new_figure(7.2, 0.27 * len(rows) + 1.0)
    ax = figure.subplots()
    for place, (_, score, low, high, count) in enumerate(rows):
        ax.plot([low, high], [place, place], color=MAIN, alpha=0.35, linewidth=5)
        ax.plot([score], [place], "o", color=MAIN, markersize=6, markeredgecolor="white")
        _write_beside(ax, place, f"{score:.3f}", 34)
        _write_beside(ax, place, f"{count:,} tile{'s' if count != 1 else ''}", 88)
    ax.set_yticks(range(len(rows)), list(labels))
    ax.set_ylim(len(rows) - 0.5, -0.5)
    ax.set_xlim(-0.02, 1.02)
    quiet_axes(ax, xlabel="mean score, with its interval", grid="x")
    ax.tick_params(axis="y", length=0)
    title(ax, heading)
    described = (
        f"{name} {score:.3f} ({low:.3f} to {high:.3f}, {count:,} tiles)"
        for name, score, low, high, count in rows
    )
    figure.set_label(f"{heading}, mean score with its interval: {', '.join(described)}.")
    return figure


def _value(row: Mapping[str, float | None], key: str) -> float:
    value = row.get(key)
    return math.nan if value is None else float(value)


def _series(
    history: Sequence[Mapping[str, float | None]], key: str
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    points = [(_value(row, "epoch"), _value(row, key)) for row in history]
    table = np.array(points, dtype=np.float64).reshape(-1, 2)
    table = table[np.isfinite(table).all(axis=1)]
    return table[:, 0], table[:, 1]


def _has(history: Sequence[Mapping[str, float | None]], *keys: str) -> bool:
    return any(math.isfinite(_value(row, key)) for row in history for key in keys)


def _draw_series(
    ax: Axes, history: Sequence[Mapping[str, float | None]], key: str, color: str
) -> None:
    epochs, values = _series(history, key)
    # Dots show which epochs were validated; a long training is clearer without them.
    dotted = key.startswith("val") or len(epochs) == 1
    marker = "o" if dotted and len(epochs) <= 80 else ""
    ax.plot(epochs, values, color=color, linewidth=1.7, marker=marker, markersize=3.2)


def _draw_rate(ax: Axes, history: Sequence[Mapping[str, float | None]]) -> None:
    epochs, rates = _series(history, "lr")
    marker = "o" if len(rates) == 1 else ""
    ax.plot(
        epochs,
        rates,
        color=QUIET,
        linewidth=1.5,
        drawstyle="steps-mid",
        marker=marker,
        markersize=3.2,
    )
    quiet_axes(ax, ylabel="learning\nrate")
    low, high = float(rates.min()), float(rates.max())
    if low <= 0 or high / low < 10:
        ax.yaxis.set_major_locator(MaxNLocator(nbins=3, min_n_ticks=2))
        ax.yaxis.set_major_formatter("{x:g}")
        return
    ax.set_yscale("log")
    ax.yaxis.set_major_locator(LogLocator(numticks=4))
    ax.yaxis.set_minor_formatter(NullFormatter())
    # Whole decades, so that at least two are labelled; a rate just past one does not open the next.
    bottom, top = 10 ** math.floor(math.log10(low * 1.2)), 10 ** math.ceil(math.log10(high / 1.2))
    ax.set_ylim(min(bottom, low / 1.25), max(top, high * 1.25))


def _mark_epochs(
    axes: Sequence[Axes], stages: Mapping[int, str], first: int, chosen: int | None
) -> None:
    for ax in axes:
        for epoch in stages:
            if epoch > first:
                ax.axvline(epoch - 0.5, color=QUIET, linewidth=1, linestyle=(0, (4, 3)), zorder=1)
        if chosen is not None:
            ax.axvline(chosen, color=INK, linewidth=1.2, zorder=1)
    for epoch, name in stages.items():
        axes[0].annotate(
            name,
            (max(epoch - 0.5, first), 1.0),
            xycoords=("data", "axes fraction"),
            xytext=(0, 3),
            textcoords="offset points",
            fontsize=SMALL,
            color=QUIET,
        )


def _write_beside(ax: Axes, place: int, text: str, points: int) -> None:
    ax.annotate(
        text,
        (1.0, place),
        xycoords=("axes fraction", "data"),
        xytext=(points, 0),
        textcoords="offset points",
        ha="right",
        va="center",
        fontsize=SMALL,
        color=INK,
        annotation_clip=False,
    )


def _training_handles(
    history: Sequence[Mapping[str, float | None]], chosen: int | None, *, new_stages: bool
) -> list[Line2D]:
    handles = []
    keys = [key for key, *_ in _PANELS]
    if _has(history, *(f"train_{key}" for key in keys)):
        handles.append(line_handle(_TRAIN, "training", linewidth=2))
    if _has(history, *(f"val_{key}" for key in keys)):
        handles.append(line_handle(_VAL, "validation", linewidth=2, marker="o", markersize=4))
    if chosen is not None:
        handles.append(line_handle(INK, f"chosen epoch ({chosen})", linewidth=1.2))
    if new_stages:
        handles.append(line_handle(QUIET, "new stage of the loss", linestyle=(0, (4, 3))))
    return handles


def _describe_training(history: Sequence[Mapping[str, float | None]], chosen: int | None) -> str:
    epochs, scores = _series(history, "val_score")
    text = f"Training curves over {len(history)} epoch{'' if len(history) == 1 else 's'}."
    if len(epochs):
        best = int(scores.argmax())
        text += f" The validation score at threshold 0.5 peaks at {scores[best]:.3f}"
        text += f" in epoch {epochs[best]:.0f}"
        text += f" and ends at {scores[-1]:.3f}."
    return text if chosen is None else f"{text} The weights of epoch {chosen} are kept."
