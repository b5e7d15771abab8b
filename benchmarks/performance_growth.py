"""How cost grows with tiles, with their size, with the models of an ensemble and with workers."""

import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import StrMethodFormatter
from performance_arrays import draw_masks
from performance_models import options
from performance_setting import Setting
from performance_submission import MOST_MIB, draw_competition, submit_apart
from protocol import Measured, Row, Table, seconds_of
from volume import run_child, small_model, write_ball

from diapir.data.synthetic import generate_tiles
from diapir.inference.predict import Predictor, load_predictor
from diapir.io.atomic import write_bytes_atomic
from diapir.io.rle import encode_rle_many
from diapir.metrics.score import competition_score
from diapir.models.modelfile import load_model, save_model
from diapir.models.packaged import packaged_model
from diapir.report import style
from diapir.report.figures import save_figure
from diapir.runs.machine import keep_freed_memory

LINEAR = 1.1
"""The largest slope in a log-log plot that counts as linear; the tenth is for noise."""
TOY = "a toy network of two levels"
"""What the submissions of the growth are predicted by, so that their own cost shows."""
_ROUNDS = 5
"""Of each cost at full effort; one at less, which proves nothing."""


@dataclass(frozen=True)
class Series:
    """Cost against one size.

    Args:
        what: Costs.
        size: Name of the size, with its unit.
        sizes: Its values, rising.
        costs: One a size.
        unit: Of the costs.
        note: What computed, where a network did.
    """

    what: str
    size: str
    sizes: Sequence[float]
    costs: Sequence[float]
    unit: str = "s"
    note: str = ""

    @property
    def slope(self) -> float:
        """The slope in a log-log plot over the upper half, where a fixed start hides least."""
        upper = slice(min(len(self.sizes) // 2, len(self.sizes) - 2), None)
        x, y = np.log(self.sizes[upper]), np.log(self.costs[upper])
        return float(np.polyfit(x, y, 1)[0])


def measure_growth(setting: Setting) -> Measured:
    """Take the cost of everything that may grow, its slope, and a figure of all of it."""
    keep_freed_memory()  # as `diapir predict` does
    submissions, memory = _submissions(setting)
    series = [submissions, *_arrays(setting), _sides(setting), _models(setting)]
    found = Measured([_row(setting, one) for one in series])
    tiles, peak = memory.sizes[-1], memory.costs[-1]
    found.rows.append(
        Row("memory", f"peak memory of submitting {tiles:,} tiles by {TOY}, warm cache", peak,
            "MiB", MOST_MIB)
    )  # fmt: skip
    workers = _workers(setting)
    head = ["workers", "seconds"]
    found.tables.append(
        Table("A survey mapped by one and by two workers", head, workers,
              "`diapir map` of a drawn survey with an untrained network of recipe `demo`, its "
              "products included; each worker takes one thread of torch where there are two.")
    )  # fmt: skip
    found.tables += [_table(one) for one in (*series, memory)]
    path = setting.figures / "growth.png"
    save_figure(draw(series, memory, workers), path)
    found.figures[path.name] = (
        "Cost against size, both logarithmic; the grey line grows linearly. Below, the peak memory "
        "of submissions, and mapping with more workers."
    )
    return found


def _row(setting: Setting, one: Series) -> Row:
    sizes = f"{one.sizes[0]:,} to {one.sizes[-1]:,}"
    what = f"slope of {one.what} against {one.size}, {sizes}"
    return Row("growth", what, one.slope, "", setting.gate(LINEAR))


def _table(one: Series) -> Table:
    head = [one.size, f"{one.what}, {one.unit}"]
    return Table(
        f"{one.what} against {one.size}",
        head,
        list(zip(one.sizes, one.costs, strict=True)),
        one.note,
    )


def _submissions(setting: Setting) -> tuple[Series, Series]:
    """Return seconds of submissions of more and more tiles in the faster round, and peak memory.

    As in `_seconds`, smaller ones are repeated, but three times at most.
    """
    model, counts = small_model(setting.work, knows_balls=True), setting.effort.counts
    folders = [draw_competition(setting.work / f"data-{count}", count) for count in counts]
    # in the first round the first may choose an engine, and writes a cache or two
    rounds, most = (2, 3) if setting.effort.gates else (1, 1)
    seconds: list[list[float]] = [[] for _ in counts]
    peaks = [0.0 for _ in counts]
    for _ in range(rounds):
        for place, folder in enumerate(folders):
            found = [
                submit_apart(setting, [model], folder)
                for _ in range(min(most, round(counts[-1] / counts[place])))
            ]
            seconds[place].append(sum(one.seconds for one in found) / len(found))
            peaks[place] = max(peaks[place], *(one.peak_mib for one in found))
    for folder in folders:
        shutil.rmtree(folder)
    note = f"Predicted by {TOY}."
    return (
        Series("a submission", "tiles", counts, [min(some) for some in seconds], note=note),
        Series("peak memory of a submission", "tiles", counts, peaks, "MiB", note),
    )


def measure_memory(setting: Setting) -> Measured:
    """Take the peak memory of submissions by the packaged model and by an ensemble of two.

    Each by a cache that is empty, so that engines are tried and graphs made, and then by what that
    has left there. With less effort the first of these.
    """
    data = draw_competition(setting.work / "data", setting.effort.counts[-1])
    net, card = load_model(packaged_model())
    with torch.no_grad():
        net.head.bias += 0.01  # type: ignore[operator]  # other weights have graphs of their own
    other = setting.work / "other.safetensors"
    save_model(other, net, card)
    asked = {"the packaged model": [packaged_model()],
             "an ensemble of two of its kind": [packaged_model(), other]}  # fmt: skip
    rows = []
    for name, models in list(asked.items())[: None if setting.effort.gates else 1]:
        cache = setting.work / f"cache-{len(models)}"
        for kind in ("cold", "warm") if setting.effort.gates else ("cold",):
            with mock.patch.dict(os.environ, {"DIAPIR_CACHE": str(cache)}):
                took = submit_apart(setting, models, data)
            what = f"peak memory of submitting {took.tiles:,} tiles by {name}, {kind} cache"
            rows.append(Row("memory", what, took.peak_mib, "MiB", MOST_MIB))
    shutil.rmtree(data)
    return Measured(rows)


def _arrays(setting: Setting) -> list[Series]:
    counts = setting.effort.counts
    masks = {count: draw_masks(count) for count in counts}
    encoded = _seconds(setting, [lambda n=n: encode_rle_many(masks[n]) for n in counts])
    scored = _seconds(setting, [lambda n=n: competition_score(masks[n], masks[n]) for n in counts])
    return [
        Series("run-lengths", "tiles", counts, encoded),
        Series("the score", "tiles", counts, scored),
    ]


def _sides(setting: Setting) -> Series:
    """Return seconds of predicting a few tiles of more and more pixels."""
    model, sides = small_model(setting.work), setting.effort.sides
    predictor = _predictor(setting, [model])
    images = [generate_tiles(4, seed=0, size=side, labelled=False).images for side in sides]
    seconds = _seconds(
        setting, [lambda some=some: predictor.predict_probs(some) for some in images]
    )
    pixels = [side**2 for side in sides]
    note = _computed(predictor)
    return Series("predicting four tiles", "pixels a tile", pixels, seconds, note=note)


def _models(setting: Setting) -> Series:
    """Return seconds of predicting with more and more models."""
    model, counts = small_model(setting.work), setting.effort.models
    images = setting.labelled(setting.effort.tiles).images
    predictors = []
    for count in counts:
        paths = [setting.work / f"member-{number}.safetensors" for number in range(count)]
        for path in paths:
            write_bytes_atomic(path, model.read_bytes())
        predictors.append(_predictor(setting, paths))
    seconds = _seconds(setting, [lambda one=one: one.predict_probs(images) for one in predictors])
    what, note = f"predicting {len(images)} tiles", _computed(predictors[-1])
    return Series(what, "models", counts, seconds, note=note)


def _predictor(setting: Setting, paths: Sequence[Path]) -> Predictor:
    chosen = options("float32", setting.effort.engine, device=setting.device)
    predictor, _ = load_predictor(paths, chosen)
    return predictor


def _computed(predictor: Predictor) -> str:
    """Say what computed, after it did."""
    engines = "; ".join(predictor.engines.describe())
    return f"An untrained network of recipe `demo`, computed by {engines}."


def _seconds(setting: Setting, works: Sequence[Callable[[], object]]) -> list[float]:
    """Return the seconds of each work in its fastest round; they take turns, and warm up first.

    In a round each is repeated for as long as the longest takes once. Of a machine whose speed
    changes from moment to moment, a short work would otherwise meet the best ones, a long one the
    average, and cost would seem to grow.
    """
    for work in works:
        work()
    once = [seconds_of(work) for work in works]
    times = [round(max(once) / seconds) for seconds in once]
    rounds = [
        [_mean_seconds(*one) for one in zip(works, times, strict=True)]
        for _ in range(_ROUNDS if setting.effort.gates else 1)
    ]
    return [min(column) for column in zip(*rounds, strict=True)]


def _mean_seconds(work: Callable[[], object], times: int) -> float:
    return sum(seconds_of(work) for _ in range(times)) / times


def _workers(setting: Setting) -> list[tuple[str, float]]:
    """Return seconds of mapping a survey with one and with two workers."""
    if setting.effort.name == "tiny":  # a Dask cluster takes seconds to start
        return []
    model = small_model(setting.work)
    lines = 64 if setting.effort.gates else 12
    cube = write_ball(setting.work / "cube.npy", (lines, 160, 192))
    found = []
    for name, count, processes in (
        ("one", 1, True), ("two processes", 2, True), ("two threads", 2, False)
    ):  # fmt: skip
        out = setting.work / f"map-{count}-{processes}"
        took = run_child(
            source=cube, out=out, model=model, workers=count, processes=processes, lines=8
        )
        found.append((name, float(took["whole_seconds"])))
    return found


def draw(series: Sequence[Series], memory: Series, workers: Sequence[tuple[str, float]]) -> Figure:
    """Return the figure of all growth."""
    figure = style.new_figure(9.0, 5.6)
    axes = figure.subplots(2, 3).ravel()
    by_size: dict[str, list[Series]] = {}
    for one in series:
        by_size.setdefault(one.size, []).append(one)
    for ax, members in zip(axes, by_size.values(), strict=False):
        _draw_costs(ax, members)
    _draw_memory(axes[3], memory)
    style.quiet_axes(axes[4], ylabel="seconds")
    axes[4].bar([name for name, _ in workers], [s for _, s in workers], color=style.MAIN, width=0.6)
    style.title(axes[4], "mapping, by workers")
    axes[5].axis("off")
    handles = [
        style.line_handle(style.QUIET, "grows linearly", linestyle="--", linewidth=1),
        style.line_handle(style.ACCENT, "most that is allowed: 1.5 GB", linewidth=1),
    ]
    style.legend(axes[5], handles, loc="center left")
    slopes = ", ".join(f"{one.what} against {one.size} {one.slope:.2f}" for one in series)
    figure.set_label(f"Cost against size on logarithmic axes; slopes: {slopes}")
    return figure


def _draw_costs(ax: Axes, members: Sequence[Series]) -> None:
    """Draw costs against one size on logarithmic axes, with a line that grows linearly."""
    style.quiet_axes(ax, xlabel=members[0].size, ylabel="seconds", grid="both")
    ax.set_xscale("log")
    ax.set_yscale("log")
    for color, one in zip(style.SERIES, members, strict=False):
        label = f"{one.what}: slope {one.slope:.2f}"
        ax.plot(one.sizes, one.costs, "o-", color=color, markersize=4, label=label)
    first = members[0]
    line = [first.costs[-1] * size / first.sizes[-1] for size in first.sizes]
    ax.plot(first.sizes, line, "--", color=style.QUIET, linewidth=1, zorder=0)
    ax.set_xticks(list(first.sizes), [f"{size:,}" for size in first.sizes], rotation=30, ha="right")
    costs = np.log10([cost for one in members for cost in one.costs])
    ax.set_ylim(10.0 ** np.floor(costs.min()), 10.0 ** np.ceil(costs.max() + 0.1))
    ax.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    ax.minorticks_off()
    ax.legend(frameon=False, fontsize=style.SMALL, labelcolor=style.INK)


def _draw_memory(ax: Axes, memory: Series) -> None:
    style.quiet_axes(ax, xlabel=memory.size, ylabel="MiB")
    ax.plot(memory.sizes, memory.costs, "o-", color=style.MAIN, markersize=4)
    ax.axhline(MOST_MIB, color=style.ACCENT, linewidth=1)
    ax.set_ylim(bottom=0)
    style.title(ax, "peak memory, submission")
