"""The page of results: written from run folders and submissions alone, nothing by hand."""

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diapir.errors import RunError
from diapir.io.atomic import atomic_write, write_text_atomic
from diapir.runs.folder import RunFolder, read_json

_HEAD = """# Results

This page is written by `diapir results` from the folders of finished runs; nothing in it is typed
by hand. Every score is the competition's own (see [tgs.md](tgs.md)), on hold-out tiles that neither
trained the model nor chose its epoch or threshold. Intervals are 95 % bootstrap intervals over
tiles. For what others have scored on the competition's own test tiles, see
[tgs.md](tgs.md#what-is-known-to-score); those tiles are not these, so compare with care.
What is measured on surveys is on a page of its own: [volume-results.md](volume-results.md).
"""
_FIGURES = ("training", "threshold", "tiles-random", "tiles-worst", "score-coverage")


@dataclass(frozen=True)
class _Run:
    folder: RunFolder
    metrics: dict[str, Any]
    recipe: dict[str, Any]

    @property
    def weights(self) -> str:
        """Where the encoder's weights come from, in words."""
        weights = self.recipe["model"]["weights"]
        known = {"none": "random", "imagenet": "ImageNet (download)"}
        return known.get(weights, f"ImageNet ({Path(weights).name})")


def write_results(runs: Sequence[Path], submissions: Sequence[Path], out: Path) -> None:
    """Write the page and copies of the runs' figures beside it.

    Args:
        runs: Folders of finished runs; they are sorted by hold-out score.
        submissions: The `.json` files that `diapir submit` writes beside its CSV files.
        out: The Markdown file; figures go to `figures/` beside it.

    Raises:
        RunError: A folder holds no finished run, or a file cannot be written.
    """
    found = sorted((_read_run(path) for path in runs), key=_holdout_score, reverse=True)
    parts = [_HEAD, _overview(found)]
    parts += [_run_section(run, out.parent) for run in found]
    if submissions:
        parts.append(_submissions_section([read_json(path) for path in submissions]))
    write_text_atomic(out, "\n".join(parts))


def _read_run(path: Path) -> _Run:
    folder = RunFolder(path)
    metrics = read_json(folder.metrics)
    if metrics.get("holdout") is None:
        raise RunError(
            "this run has no score on a hold-out",
            where=path,
            mend="Train with split.holdout above 0.",
        )
    return _Run(folder, metrics, read_json(folder.recipe))


def _holdout_score(run: _Run) -> float:
    return float(run.metrics["holdout"]["metrics"]["score"]["value"])


def _overview(runs: Sequence[_Run]) -> str:
    rows = [
        (
            f"[{run.metrics['recipe']}](#{_anchor(run)})",
            run.weights,
            _interval(run.metrics["holdout"]["metrics"]["score"]),
            _interval(run.metrics["holdout"]["metrics"]["iou"]),
            f"{run.metrics['val']['metrics']['score']['value']:.3f}" if run.metrics["val"] else "",
            run.metrics["epochs"],
            f"{run.metrics['training_seconds'] / 60:.1f}",
        )
        for run in runs
    ]
    columns = ("recipe", "encoder weights", "score", "IoU", "validation score", "epochs", "minutes")
    return "\n".join([*_table(columns, rows), ""])


def _run_section(run: _Run, folder: Path) -> str:
    metrics, holdout = run.metrics, run.metrics["holdout"]
    tiles = metrics["tiles"]
    lines = [
        f"## {run.metrics['recipe']}, {run.weights} weights",
        "",
        str(run.recipe["description"]) + ".",
        "",
        f"{tiles['train']:,} training, {tiles['val']:,} validation, {tiles['holdout']:,} hold-out "
        f"tiles, stratified by {run.recipe['split']['stratify']}; {metrics['epochs']} epochs, "
        f"threshold {metrics['threshold']:.2f}.",
        "",
        "```",
        metrics["command"],
        "```",
        "",
        *_table(("metric", "value"), _metric_rows(holdout["metrics"])),
        "",
        "By share of salt in the tile:",
        "",
        *_table(("coverage", "tiles", "score", "IoU"), _group_rows(holdout["by_coverage"])),
        "",
        *_figure_lines(run, folder),
        f"Machine: {metrics['machine']}. Training took {metrics['training_seconds']:.0f} s. "
        f"Recipe SHA-256 `{metrics['recipe_sha256'][:16]}`, data SHA-256 "
        f"`{metrics['data_fingerprint'][:16]}`, source `{(metrics['git'] or 'unknown')[:12]}`, "
        + ", ".join(f"{name} {version}" for name, version in sorted(metrics["versions"].items()))
        + ".",
        "",
    ]
    return "\n".join(lines)


def _figure_lines(run: _Run, folder: Path) -> Iterator[str]:
    """Copy the run's figures beside the page and yield the lines that show them."""
    for name in _FIGURES:
        source = run.folder.figures / f"{name}.png"
        if not source.is_file():
            continue
        target = folder / "figures" / f"{_anchor(run)}-{name}.png"
        with atomic_write(target) as temporary:
            shutil.copyfile(source, temporary)
        yield f"![{run.metrics['recipe']}: {name.replace('-', ' ')}](figures/{target.name})"
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
    return "\n".join(["## Submissions", "", text, "", *_table(columns, rows), ""])


def _metric_rows(metrics: dict[str, Any]) -> list[tuple[str, str]]:
    return [(name.replace("_", " "), _interval(found)) for name, found in metrics.items()]


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
    text = f"{run.metrics['recipe']}, {run.weights} weights".lower()
    return "".join(c for c in text.replace(" ", "-") if c.isalnum() or c in "-_")


def _table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> list[str]:
    return [
        f"| {' | '.join(columns)} |",
        "|" + " --- |" * len(columns),
        *(f"| {' | '.join(str(cell) for cell in row)} |" for row in rows),
    ]
