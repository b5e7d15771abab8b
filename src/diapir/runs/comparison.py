"""What was tried, as one table: each recipe against a baseline, tile by tile, gains or none.

What the page needs of a run is kept beside it, as for the page of results. Nothing that was tried
is left out, and a gain that other tiles could take away is called that.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path, PurePath
from typing import Any

import numpy as np

from diapir.config import parse_recipe
from diapir.errors import DataError, OptionError, RecipeError, RunError
from diapir.io.atomic import write_text_atomic
from diapir.io.csv_tables import read_groups
from diapir.io.lock import sole_writer
from diapir.metrics.bootstrap import bootstrap_interval
from diapir.report.markdown import markdown_table, mean_with_interval
from diapir.runs.asked import asked_hardware
from diapir.runs.folder import RunFolder, read_json, write_json
from diapir.runs.results import PAGE_SETTINGS, read_settings

PARTS = ("validation", "hold-out")
"""Tiles to compare on: those that chose (out-of-fold ones of a run with folds), or the hold-out."""

_HEAD = """# {title}

This page is written by `diapir results --compare` from finished runs alone; what it needs of them
lies beside it in [{kept}/]({kept}/). Score and gain are the competition's score on the {part}
tiles that all runs of the first table share, {tiles:,} of them. The gain is that over the baseline,
tile by tile; 95 % intervals are bootstraps over these tiles. Where the interval holds 0, the
gain is *smaller than its interval*: other tiles of the same kind could take it away. The interval
does not tell how far another seed would move a training; runs that differ in the seed alone share
a row, and their scores are shown.{caution} Commands are as they were typed: recipes may have
changed since.
"""
_USED_UP = " Whoever picks a recipe by this table has used the hold-out up."


@dataclass(frozen=True)
class Tried:
    """What is kept of a run.

    Args:
        run: Name of its folder.
        recipe: Resolved, as plain values.
        data: SHA-256 of the data.
        minutes: Of training, folds added up.
        interrupted: Whether a signal ended it early.
        command: That started it.
        scores: Of each tile, 0..1, by part and id.
        failure: What ended it early by itself, in words.
    """

    run: str
    recipe: dict[str, Any]
    data: str
    minutes: float
    interrupted: bool
    command: str
    scores: dict[str, dict[str, float]]
    failure: str | None = None


@dataclass(frozen=True)
class _Row:
    """Runs of one recipe, on as many processes, that differ in the seed alone."""

    runs: list[Tried]
    scores: dict[str, float]  # of each tile, the mean over the runs
    each: list[float]  # mean score of each run

    @property
    def score(self) -> float:
        return float(np.mean(list(self.scores.values())))


def write_comparison(
    runs: Sequence[Path],
    out: Path,
    *,
    part: str | None = None,
    baseline: Path | None = None,
    groups: Path | None = None,
    title: str | None = None,
) -> int:
    """Keep what the page needs of runs, and write the page of all that are kept.

    Args:
        runs: Folders of runs, with folds or without, or what a page of results keeps of them.
        out: The Markdown file, `NAME.md`; what is kept lies in `NAME/` beside it.
        part: One of `PARTS`; None: as the page was, at first 'validation'.
        baseline: The run that all are compared with; None: as the page was, at first the first run.
        groups: A table `id,group`, as `diapir mosaic` writes it: the page also compares on the
            tiles that share a group. None: as the page was, at first not.
        title: Heading of the page; None: as the page was, at first 'What was tried'.

    Returns:
        Runs on the page.

    Raises:
        RunError: A folder holds no scores, there are no runs, or a file cannot be written.
        DataError: The groups cannot be read, or no tiles share one.
        OptionError: There is no such part.
    """
    with sole_writer(out):
        return _write_comparison(runs, out, part, baseline, groups, title)


def _write_comparison(
    runs: Sequence[Path],
    out: Path,
    part: str | None,
    baseline: Path | None,
    groups: Path | None,
    title: str | None,
) -> int:
    kept = out.with_suffix("")
    found = _read_runs(runs)
    settings = read_settings(kept)
    title = title or settings.get("title", "What was tried")
    part = part or settings.get("part", PARTS[0])
    if part not in PARTS:
        raise OptionError(f"no part named {part!r}", "on", expected=" or ".join(PARTS))
    first = found[0].run if found else None
    name = _name(baseline) if baseline is not None else settings.get("baseline", first)
    known = _read_kept(kept) | {tried.run: tried for tried in found}
    if name not in known:
        raise RunError(
            "there is no run to compare with" if name is None else f"no run {name} is kept",
            where=kept if name is None else "--baseline",
            mend="Give the folders of finished runs, the baseline among them.",
        )
    group_of = settings.get("groups", {}) if groups is None else read_groups(groups)
    shown = [known[run] for run in sorted(known)]
    page = _page(shown, known[name], part, kept.name, group_of, title)
    RunFolder(kept).make_plain()
    for tried in found:
        write_json(kept / f"{tried.run}.json", asdict(tried))
    settings = {"title": title, "baseline": name, "part": part, "groups": group_of}
    write_json(kept / PAGE_SETTINGS, settings)
    write_text_atomic(out, page)
    return len(known)


def _read_runs(runs: Sequence[Path]) -> list[Tried]:
    """Return what is to be kept of runs, which rows tell apart by the names of their folders."""
    found = [read_tried(path) for path in runs]
    names = [tried.run for tried in found]
    for name, path in zip(names, runs, strict=True):
        if names.count(name) > 1:
            raise RunError(
                f"two of the runs are called {name}",
                where=path,
                expected="folders of different names",
                mend="Give each run once, or rename a folder.",
            )
    return found


def read_tried(path: Path) -> Tried:
    """Return what is to be kept of a run folder.

    Raises:
        RunError: It holds no finished run.
    """
    folder = RunFolder(path)
    table = read_json(folder.metrics)
    parts = (("validation", table.get("val")), ("hold-out", table.get("holdout")))
    return Tried(
        run=_name(path),
        recipe=_resolved(read_json(folder.shared_recipe())),
        data=str(table.get("data_fingerprint", "")),
        minutes=round(table["training_seconds"] / 60, 1),
        interrupted=table.get("interrupted") is not None,
        command=str(table.get("command", "")),
        scores={part: _tile_scores(found) for part, found in parts if found is not None},
        failure=table.get("failure"),
    )


def _resolved(recipe: dict[str, Any]) -> dict[str, Any]:
    """Return a recipe with the keys that came after it at their defaults."""
    try:
        return parse_recipe(recipe, where="a stored recipe").model_dump(mode="json")
    except RecipeError:  # of another version: it is shown as it is
        return recipe


def _name(path: Path) -> str:
    return path.resolve().name


def _tile_scores(table: dict[str, Any]) -> dict[str, float]:
    return {id_: float(found["score"]) for id_, found in table.get("tile_scores", {}).items()}


def _read_kept(kept: Path) -> dict[str, Tried]:
    files = [path for path in sorted(kept.glob("*.json")) if path.name != PAGE_SETTINGS]
    try:
        found = [Tried(**read_json(path)) for path in files]
        return {tried.run: replace(tried, recipe=_resolved(tried.recipe)) for tried in found}
    except TypeError as error:
        raise RunError(
            f"what is kept of a run cannot be read: {error}",
            where=kept,
            mend="Delete the file and give the run folder again.",
        ) from error


def _page(
    runs: Sequence[Tried],
    baseline: Tried,
    part: str,
    kept: str,
    group_of: dict[str, str],
    title: str,
) -> str:
    reasons = {tried.run: _not_comparable(tried, baseline, part) for tried in runs}
    if reasons[baseline.run] is not None:
        raise RunError(
            f"the baseline cannot be compared with: {reasons[baseline.run]}",
            where=baseline.run,
            mend="Give another --baseline, or another part of the tiles with --on.",
        )
    comparable = [tried for tried in runs if reasons[tried.run] is None]
    tiles = len(baseline.scores[part])
    lines = [
        _HEAD.format(
            title=title, part=part, tiles=tiles, kept=kept, caution=_caution(comparable, part)
        ),
        *_table(comparable, baseline, part),
        "",
        *(_on_neighbours(comparable, baseline, part, group_of) if group_of else ()),
        *_left_aside([t for t in runs if reasons[t.run] is not None], reasons, part),
        *_commands(runs),
    ]
    return "\n".join(lines)


def _caution(runs: Sequence[Tried], part: str) -> str:
    """Return what the scores of a part should not be read without."""
    if part != PARTS[0]:
        return _USED_UP
    chosen = {
        "epoch": sum(flat(tried.recipe).get("train.select") == "best" for tried in runs),
        "threshold": sum(_chooses_threshold(tried.recipe) for tried in runs),
    }
    names = [name for name, count in chosen.items() if count]
    if not names:
        return " Neither epoch nor threshold was chosen on these tiles."
    subject = f"The {names[0]} was" if len(names) == 1 else "Epoch and threshold were"
    what = f" {subject} chosen on"
    if set(chosen.values()) <= {0, len(runs)}:
        return f"{what} these tiles, which flatters all runs alike."
    return f"{what} these tiles in some of the runs, which flatters those."


def _chooses_threshold(recipe: dict[str, Any]) -> bool:
    keys = flat(recipe)
    return keys.get("predict.threshold") is None or keys.get("split.folds", 1) > 1


def _table(runs: Sequence[Tried], baseline: Tried, part: str) -> list[str]:
    """Return the baseline, and below it each recipe with its gain, the best first."""
    rows = _rows(runs, part)
    (base,) = (row for row in rows if baseline.run in [tried.run for tried in row.runs])
    others = sorted((row for row in rows if row is not base), key=lambda row: -row.score)
    columns = ("what differs", "score", "gain", "verdict", "seeds", "minutes", "runs")
    return markdown_table(columns, [_cells(row, base) for row in (base, *others)])


def _on_neighbours(
    runs: Sequence[Tried], baseline: Tried, part: str, group_of: dict[str, str]
) -> list[str]:
    """Return the same table for the tiles that share a group with another of them."""
    ids = [id_ for id_ in baseline.scores[part] if id_ in group_of]
    sizes = Counter(group_of[id_] for id_ in ids)
    shared = {id_ for id_ in ids if sizes[group_of[id_]] > 1}
    if not shared:
        raise DataError(
            f"no two of the {part} tiles share a group",
            where="--groups",
            expected="a table id,group in which tiles of the runs share groups",
            mend="Give the groups.csv that 'diapir mosaic' wrote of the same data.",
        )
    alone = [
        replace(tried, scores={part: {id_: tried.scores[part][id_] for id_ in sorted(shared)}})
        for tried in runs
    ]
    return [
        "## Tiles with neighbours",
        "",
        f"{len(shared):,} of these tiles share a group of neighbours with another of them. "
        "On them alone:",
        "",
        *_table(alone, baseline, part),
        "",
    ]


def _not_comparable(tried: Tried, baseline: Tried, part: str) -> str | None:
    """Return why a run cannot stand beside the baseline; None where it can."""
    if tried.interrupted:
        return "a signal ended it early"
    if tried.failure:
        return f"it ended early: {tried.failure}"
    if not tried.scores.get(part):
        return f"it has no scores of {part} tiles"
    if tried.data != baseline.data:
        return "it was trained on other data"
    shared = set(tried.scores[part]) & set(baseline.scores.get(part, {}))
    if len(shared) != len(tried.scores[part]) or len(shared) != len(baseline.scores[part]):
        return (
            f"its {part} tiles are others: {len(tried.scores[part]):,}, of which {len(shared):,} "
            f"are among the {len(baseline.scores.get(part, {})):,} of the baseline"
        )
    return None


def _rows(runs: Sequence[Tried], part: str) -> list[_Row]:
    """Return a row for each recipe and number of processes, seeds aside."""
    groups: dict[str, list[Tried]] = {}
    for tried in runs:
        shown = sorted((k, v) for k, v in flat(tried.recipe).items() if k not in _NOT_SHOWN)
        key = repr((shown, _processes(tried)))
        groups.setdefault(key, []).append(tried)
    return [_row(group, part) for group in groups.values()]


def _row(runs: list[Tried], part: str) -> _Row:
    found = [tried.scores[part] for tried in runs]
    means = {id_: float(np.mean([scores[id_] for scores in found])) for id_ in sorted(found[0])}
    return _Row(runs, means, [float(np.mean(list(scores.values()))) for scores in found])


_NOT_SHOWN = ("name", "description", "train.seed")


def _cells(row: _Row, base: _Row) -> tuple[str, ...]:
    name = row.runs[0].recipe["name"]
    first, other = row.runs[0], base.runs[0]
    lines = differences(first.recipe, other.recipe)
    if _processes(first) != _processes(other):
        lines += _processes(first) or ["one process"]
    differs = ", ".join(f"`{line}`" for line in lines)
    gain, verdict = _gain(row, base) if row is not base else ("", "")
    seeds = sorted({tried.recipe["train"]["seed"] for tried in row.runs})
    spread = f" ({min(row.each):.3f} to {max(row.each):.3f})" if len(row.each) > 1 else ""
    return (
        f"baseline: {name}" if row is base else f"{name}: {differs}" if differs else name,
        mean_with_interval(np.array(list(row.scores.values())), ".3f"),
        gain,
        verdict,
        f"{len(seeds)}{spread}",
        f"{np.mean([tried.minutes for tried in row.runs]):.1f}",
        ", ".join(tried.run for tried in row.runs),
    )


def _processes(tried: Tried) -> list[str]:
    """Return the options by which more than one process trained a network, sharing its batches."""
    if tried.recipe.get("ensemble", {}).get("encoders"):
        return []  # each network has a process of its own
    asked = asked_hardware(tried.command)
    numbers = [(option, asked.get(option, "1")) for option in ("--devices", "--num-nodes")]
    return [f"{option} {number}" for option, number in numbers if number not in ("1", "auto")]


def _gain(row: _Row, base: _Row) -> tuple[str, str]:
    """Return the gain with its interval, and what it is worth, in words."""
    gains = np.array([row.scores[id_] - base.scores[id_] for id_ in base.scores])
    low, high = bootstrap_interval(gains)
    text = mean_with_interval(gains, "+.3f")
    if low > 0:
        return text, "better"
    return text, "worse" if high < 0 else "smaller than its interval"


def differences(recipe: dict[str, Any], base: dict[str, Any]) -> list[str]:
    """Return the lines of a recipe that differ from another one, such as 'optim.lr = 0.01'.

    Args:
        recipe: As plain values.
        base: The same. Keys that only one of them knows are of another version, and shown.

    >>> differences({"optim": {"lr": 0.01, "ema": None}}, {"optim": {"lr": 0.02, "ema": None}})
    ['optim.lr = 0.01']
    """
    mine, other = flat(recipe), flat(base)
    keys = [key for key in dict.fromkeys((*mine, *other)) if key not in _NOT_SHOWN]
    missing = object()
    return [
        f"{key} = {_text(mine[key])}" if key in mine else f"no {key}"
        for key in keys
        if mine.get(key, missing) != other.get(key, missing) and not _is_above(key, mine)
    ]


def _is_above(key: str, recipe: dict[str, Any]) -> bool:
    """Whether a recipe spells out the keys of this section, which the other leaves away as one."""
    return any(inner.startswith(f"{key}.") for inner in recipe)


def flat(table: dict[str, Any], above: str = "") -> dict[str, Any]:
    """Return a recipe as one table with dotted keys.

    >>> flat({"train": {"seed": 1}, "name": "x"})
    {'train.seed': 1, 'name': 'x'}
    """
    found: dict[str, Any] = {}
    for key, value in table.items():
        inner = flat(value, f"{above}{key}.") if isinstance(value, dict) else {above + key: value}
        found |= inner
    return found


def _text(value: Any) -> str:
    """Return a value as a recipe spells it; of paths, the name alone."""
    if value is None:
        return "null"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{k} = {_text(v)}" for k, v in value.items() if v) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_text, value)) + "]"
    if isinstance(value, bool):
        return str(value).lower()
    return PurePath(value).name if isinstance(value, str) else f"{value:g}"


def _left_aside(runs: Sequence[Tried], reasons: dict[str, str | None], part: str) -> list[str]:
    if not runs:
        return []
    rows = []
    for tried in runs:
        scores = list(tried.scores.get(part, {}).values())
        score = f"{np.mean(scores):.3f}" if scores else "-"
        rows.append((tried.run, tried.recipe["name"], score, reasons[tried.run]))
    columns = ("run", "recipe", f"score on its own {part} tiles", "why")
    return ["## Not comparable with the baseline", "", *markdown_table(columns, rows), ""]


def _commands(runs: Sequence[Tried]) -> list[str]:
    return [
        "## Commands",
        "",
        "```",
        *dict.fromkeys(t.command for t in runs if t.command),
        "```",
        "",
    ]
