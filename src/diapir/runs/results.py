"""The page of results: written from run folders and submissions alone, nothing by hand.

What the page needs of a run is kept beside it, so that it can be written again, and grow, when the
run folders are gone.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diapir.errors import RunError
from diapir.io.atomic import write_bytes_atomic, write_text_atomic
from diapir.io.lock import sole_writer
from diapir.report.markdown import markdown_table
from diapir.runs.folder import RunFolder, came_to_its_end, read_json, write_json
from diapir.runs.report import EVERY_MASK_EMPTY

_HEAD = """# {title}

This page is written by `diapir results` from finished runs, whose settings, metrics and figures lie
beside it in [{kept}/]({kept}/); nothing in it is typed by hand. Every score is the competition's
own (see [tgs.md](tgs.md)), on hold-out tiles that neither trained the model nor chose its epoch or
threshold. A run with folds is scored on every tile by the network that did not train on it (out of
fold), with the threshold that suits all of them best, which flatters slightly. Intervals are 95 %
bootstrap intervals over tiles. Commands are as they were typed, and each section names the source
that they ran: recipes have changed since. For what others have scored on the competition's own test
tiles, see [tgs.md](tgs.md#what-is-known-to-score); those tiles are not these, so compare with care.
What is measured on surveys is on a page of its own: [volume-results.md](volume-results.md).
"""
_FIGURES = (
    "training", "threshold", "tiles-random", "tiles-worst", "score-coverage", "reliability", "kept"
)  # fmt: skip
_SUBMISSIONS = "submissions"

PAGE_SETTINGS = "page.json"
"""What a page was written with, kept beside it so that it can be written again."""


@dataclass(frozen=True)
class _Run:
    folder: RunFolder
    metrics: dict[str, Any]
    recipe: dict[str, Any]

    @property
    def folds(self) -> int:
        """Trainings that scored each other's tiles; 0 where a hold-out scored the run."""
        return int(self.metrics.get("folds", 0))

    @property
    def judged(self) -> dict[str, Any]:
        """The scores to show."""
        found: dict[str, Any] = self.metrics["val" if self.folds else "holdout"]
        return found

    @property
    def heading(self) -> str:
        """Recipe, folds and weights."""
        folds = f", {self.folds} folds" if self.folds else ""
        return f"{self.metrics['recipe']}{folds}, {self.weights} weights"

    @property
    def weights(self) -> str:
        """Where the encoder's weights come from, in words."""
        weights = self.recipe["model"]["weights"]
        known = {"none": "random", "imagenet": "ImageNet (download)"}
        several = self.recipe.get("ensemble", {}).get("encoders")
        encoders = several or [self.recipe["model"]["encoder"]]
        files = (Path(weights.replace("{encoder}", encoder)).name for encoder in encoders)
        return known.get(weights, f"ImageNet ({', '.join(dict.fromkeys(files))})")


def read_settings(kept: Path) -> dict[str, Any]:
    """Return what a page was written with; nothing where there is none yet.

    Args:
        kept: The folder beside the page.

    Raises:
        RunError: The file is damaged.
    """
    path = kept / PAGE_SETTINGS
    return read_json(path) if path.is_file() else {}


def write_results(
    runs: Sequence[Path], submissions: Sequence[Path], out: Path, *, title: str | None = None
) -> int:
    """Keep what the page needs of runs and submissions, write the page of all that are kept.

    Args:
        runs: Folders of finished runs; each takes the place of an earlier one of its recipe,
            folds and encoder weights.
        submissions: The `.json` files that `diapir submit` writes beside its CSV files; each takes
            the place of an earlier one of its name.
        out: The Markdown file, `NAME.md`; what is kept lies in `NAME/` beside it.
        title: Heading of the page; None: as the page was, at first 'Results'.

    Returns:
        Number of runs on the page.

    Raises:
        RunError: A folder holds no finished run, there is none at all, or a file cannot be written.
    """
    with sole_writer(out):
        return _write_results(runs, submissions, out, title)


def _write_results(
    runs: Sequence[Path], submissions: Sequence[Path], out: Path, title: str | None
) -> int:
    found = [_read_run(path) for path in runs]
    handed_in = [(path.stem, read_json(path)) for path in submissions]
    kept = out.with_suffix("")
    for run in found:
        _keep_run(run, kept / _anchor(run))
    if handed_in:
        RunFolder(kept / _SUBMISSIONS).make_plain()
    for name, table in handed_in:
        write_json(kept / _SUBMISSIONS / f"{name}.json", table)
    shown = [_read_run(path.parent) for path in sorted(kept.glob("*/metrics.json"))]
    if not shown:
        raise RunError(
            "there are no runs to show", where=kept, mend="Give the folders of finished runs."
        )
    shown.sort(key=_score, reverse=True)
    title = title or read_settings(kept).get("title", "Results")
    write_json(kept / PAGE_SETTINGS, {"title": title})
    parts = [_HEAD.format(title=title, kept=kept.name), _overview(shown)]
    parts += [_run_section(run, out.parent) for run in shown]
    tables = [read_json(path) for path in sorted((kept / _SUBMISSIONS).glob("*.json"))]
    if tables:
        parts.append(_submissions_section(tables))
    write_text_atomic(out, "\n".join(parts))
    return len(shown)


def _read_run(path: Path) -> _Run:
    folder = RunFolder(path)
    metrics = read_json(folder.metrics)
    if not came_to_its_end(metrics):
        raise RunError(
            f"this training ended early: {metrics.get('failure') or 'by a signal'}",
            where=path,
            expected="a run that came to its end",
            mend="Go on with it: diapir train --resume RUN --data DATA.",
        )
    if metrics.get("holdout") is None and not metrics.get("folds"):
        raise RunError(
            "this run has no score on a hold-out, and no folds",
            where=path,
            mend="Train with split.holdout above 0, or with --folds.",
        )
    return _Run(folder, metrics, read_json(folder.shared_recipe()))


def _keep_run(run: _Run, folder: Path) -> None:
    """Copy what the page needs of a run: a run folder without weights and logs."""
    target = RunFolder(folder)
    RunFolder(target.figures).make_plain()
    write_json(target.metrics, run.metrics)
    write_json(target.recipe, run.recipe)
    for name in _FIGURES:
        source, copy = _figure(run.folder, name), target.figures / f"{name}.png"
        if source.is_file():
            write_bytes_atomic(copy, source.read_bytes())
        else:
            copy.unlink(missing_ok=True)


def _figure(folder: RunFolder, name: str) -> Path:
    """Return where a figure lies; where trainings were joined, the last one has the curves."""
    own = folder.figures / f"{name}.png"
    parts = list(folder.path.glob(f"round-*/figures/{name}.png"))
    return own if own.is_file() or not parts else max(parts, key=_place_among_rounds)


def _place_among_rounds(figure: Path) -> tuple[int, str]:
    folder = figure.parents[1].name  # round-NUMBER-ENCODER
    return int(folder.split("-")[1]), folder


def _score(run: _Run) -> float:
    return float(run.judged["metrics"]["score"]["value"])


def _overview(runs: Sequence[_Run]) -> str:
    rows = [
        (
            f"[{run.metrics['recipe']}](#{_anchor(run)})",
            run.weights,
            f"{run.metrics['tiles']['val']:,} out of {run.folds} folds"
            if run.folds
            else f"{run.metrics['tiles']['holdout']:,} held out",
            _interval(run.judged["metrics"]["score"]),
            _interval(run.judged["metrics"]["iou"]),
            f"{run.metrics['val']['metrics']['score']['value']:.3f}"
            if run.metrics["val"] and not run.folds
            else "",
            run.metrics["epochs"],
            f"{run.metrics['training_seconds'] / 60:.1f}",
        )
        for run in runs
    ]
    scores = ("score", "IoU", "validation score")
    columns = ("recipe", "encoder weights", "tiles", *scores, "epochs", "minutes")
    return "\n".join([*markdown_table(columns, rows), ""])


def _run_section(run: _Run, page_folder: Path) -> str:
    metrics = run.metrics
    lines = [
        f"## {run.heading}",
        "",
        str(run.recipe["description"]) + ".",
        "",
        _tiles_and_choices(run),
        "",
        "```",
        metrics["command"],
        "```",
        "",
        *score_tables(run.judged),
        "",
        *([metrics["calibration"], ""] if run.folds and metrics["calibration"] else ()),
        *_figure_lines(run, page_folder),
        f"Machine: {metrics['machine']}. Training took {metrics['training_seconds']:.0f} s. "
        f"Recipe SHA-256 `{metrics['recipe_sha256'][:16]}`, data SHA-256 "
        f"`{metrics['data_fingerprint'][:16]}`, source `{_shortened(metrics['git'])}`, "
        + ", ".join(f"{name} {version}" for name, version in sorted(metrics["versions"].items()))
        + ".",
        "",
    ]
    return "\n".join(lines)


def _shortened(git: str | None) -> str:
    """Return commits, each cut to what tells it from others.

    >>> _shortened("0123456789abcdef, then not from a source tree"), _shortened(None)
    ('0123456789ab, then not from a source tree', 'unknown')
    """
    parts = (git or "unknown").split(", then ")
    return ", then ".join(part if " " in part else part[:12] for part in parts)


def _tiles_and_choices(run: _Run) -> str:
    metrics, tiles = run.metrics, run.metrics["tiles"]
    stratified = f"stratified by {run.recipe['split']['stratify']}"
    if not run.folds:
        return (
            f"{tiles['train']:,} training, {tiles['val']:,} validation, {tiles['holdout']:,} "
            f"hold-out tiles, {stratified}; {metrics['epochs']} epochs"
            f"{_joined_trainings(metrics)}, threshold {metrics['threshold']:.2f}."
            f"{_taught(run.recipe)}"
        )
    rule = metrics["rule"]
    return (
        f"{run.folds} folds, {stratified}: each network trained on about {tiles['train']:,} tiles, "
        f"and {tiles['val']:,} tiles are predicted by the network that did not; "
        f"{metrics['epochs']} epochs in all. On these predictions were chosen: threshold "
        f"{metrics['threshold']:.2f}, temperature {rule['temperature']:.3f}, smallest body "
        f"{rule['min_body']} pixels, {_lowest_peak(rule)}empty below {rule['empty_below']:g} "
        "pixels of summed probability."
    )


def _taught(recipe: dict[str, Any]) -> str:
    """Return sentences about the teachers that the recipe names; none where it names none.

    >>> _taught({"pseudo_labels": {"models": ["a", "b"], "share": 0.6}, "distill": {"models": []}})
    ' Beside the labelled tiles it learnt 60 % of the unlabelled ones, as 2 models predict them.'
    """
    labelling, distilled = recipe["pseudo_labels"], recipe["distill"]["models"]
    said = ""
    if labelling["models"]:
        said += (
            f" Beside the labelled tiles it learnt {100 * labelling['share']:.0f} % of the "
            f"unlabelled ones, as {_models(labelling['models'])} predict them."
        )
    if distilled:
        said += f" Of all its tiles it also learnt the probabilities of {_models(distilled)}."
    return said


def _models(models: Sequence[str]) -> str:
    return f"{len(models)} model{'s' * (len(models) > 1)}"


def _lowest_peak(rule: dict[str, Any]) -> str:
    """Return a part of a sentence; runs of before there was one have none."""
    return f"lowest peak of a body {rule['min_peak']:g}, " if "min_peak" in rule else ""


def _joined_trainings(metrics: dict[str, Any]) -> str:
    if "joined" not in metrics:
        return ""
    return f" in {metrics['trainings']} trainings, {metrics['joined']['networks']} networks joined"


def _figure_lines(run: _Run, page_folder: Path) -> Iterator[str]:
    """Yield the lines that show the figures that are kept of a run."""
    for name in _FIGURES:
        figure = run.folder.figures / f"{name}.png"
        if figure.is_file():
            link = figure.relative_to(page_folder).as_posix()
            yield f"![{run.metrics['recipe']}: {name.replace('-', ' ')}]({link})"
            yield ""


def _submissions_section(submissions: Sequence[dict[str, Any]]) -> str:
    columns = ("command", "tiles", "problems", "seconds in all", "in the model", "ratio")
    rows = [
        (
            f"`{found['command']}`",
            f"{found['tiles']:,}",
            found["problems"],
            f"{found['seconds']:.1f}",
            f"{found['model_seconds']:.1f}",
            f"{found['seconds'] / found['model_seconds']:.2f}",
        )
        for found in submissions
    ]
    text = "Wall time from reading the test tiles to the checked file, beside pure model time."
    return "\n".join(["## Submissions", "", text, "", *markdown_table(columns, rows), ""])


def score_tables(judged: dict[str, Any]) -> list[str]:
    """Return the lines of Markdown that tell all scores of a run's hold-out.

    Args:
        judged: `holdout` of the run's `metrics.json`.
    """
    return [
        *markdown_table(("metric", "value"), _metric_rows(judged)),
        "",
        "By share of salt in the tile:",
        "",
        *markdown_table(("coverage", "tiles", "score", "IoU"), _group_rows(judged["by_coverage"])),
    ]


def _metric_rows(holdout: dict[str, Any]) -> list[tuple[str, str]]:
    score, *others = (
        (name.replace("_", " "), _interval(found)) for name, found in holdout["metrics"].items()
    )
    # counted from the groups, which earlier runs have as well
    tiles = {group["label"]: group["tiles"] for group in holdout["by_coverage"]}
    empty = tiles.get("none", 0) / sum(tiles.values())
    return [score, (f"score if {EVERY_MASK_EMPTY}", f"{empty:.3f}"), *others]


def _group_rows(groups: Sequence[dict[str, Any]]) -> list[tuple[str, str, str, str]]:
    return [
        (g["label"], f"{g['tiles']:,}", _interval(g["score"]), _interval(g["iou"])) for g in groups
    ]


def _interval(found: dict[str, Any]) -> str:
    if found["value"] is None:
        return "-"
    if found["low"] is None:
        return f"{found['value']:.3f}"
    return f"{found['value']:.3f} ({found['low']:.3f} to {found['high']:.3f})"


def _anchor(run: _Run) -> str:
    text = run.heading.lower()
    return "".join(c for c in text.replace(" ", "-") if c.isalnum() or c in "-_")
