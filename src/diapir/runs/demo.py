"""The demo: data, training, scores, submission and report in one folder, in a few minutes."""

from pathlib import Path

from diapir.config import load_recipe
from diapir.io.layout import find_layout, has_part
from diapir.runs.folder import new_run_folder
from diapir.runs.outcome import ended_early
from diapir.runs.predict import submit
from diapir.runs.report import EVERY_MASK_EMPTY
from diapir.runs.synth import draw_tiles
from diapir.runs.train import train_recipe
from diapir.training.hardware import Hardware

LABELLED, UNLABELLED = 500, 100
"""Synthetic tiles, 600 in all."""


def run_demo(
    out: Path, data: Path | None, *, minutes: float = 4.0, progress: bool = True
) -> list[tuple[str, str]]:
    """Go the whole way once and return a table of results and paths.

    Tiles are divided by depth, or by coverage where the data has no depths. The submission is left
    out, which is told, where the data has no test part.

    Args:
        out: Takes a new folder for each demo, so that two never mix.
        data: A data set; None draws a synthetic one.
        minutes: Training time at most.
        progress: Show progress bars.

    Raises:
        DiapirError: The data or the folder cannot be used.
    """
    if data is None:
        data = new_run_folder(out, "data").path / "tiles"
        draw_tiles(data, LABELLED, UNLABELLED)
    settings = [f"train.max_minutes={minutes}"]
    if not _has_depths(data):
        settings.append("split.stratify=coverage")
    submits = has_part(data, "test")  # known before minutes of training
    recipe = load_recipe("demo", settings)
    trained = train_recipe(recipe, data, out, Hardware(progress=progress))
    folder, (result,) = trained.folder, trained.trainings
    if trained.interrupted is not None:
        raise ended_early(trained.interrupted, folder)
    rows = [("data", str(data))]
    if result.holdout is not None:
        score = result.holdout.metrics["score"]
        rows.append(("score on hold-out", f"{score.value:.3f} ({score.low:.3f}-{score.high:.3f})"))
        rows.append((f"if {EVERY_MASK_EMPTY}", f"{result.holdout.every_mask_empty.value:.3f}"))
        if result.holdout.warning is not None:
            rows.append(("warning", result.holdout.warning))
    rows += [
        ("training", f"{result.seconds / 60:.1f} minutes"),
        ("model", str(folder.model)),
        *(
            _submission(folder.model, data, folder.path / "submission.csv", progress)
            if submits
            else [("submission", "none: the data has no test part")]
        ),
        ("figures", str(folder.figures)),
        ("report", str(folder.report)),
        ("what next", str(folder.next_steps)),
    ]
    return rows


def _has_depths(data: Path) -> bool:
    layout = find_layout(data, "train")
    layout.source.close()
    return layout.depths.exists()


def _submission(model: Path, data: Path, file: Path, progress: bool) -> list[tuple[str, str]]:
    submitted = submit([model], data, file, progress=progress)
    verdict = "valid" if not submitted.problems else f"{submitted.problems} problems"
    count = f"{submitted.tiles:,}, {submitted.with_salt:,} with salt"
    return [
        ("submission", str(file)),
        ("test tiles", f"{count}, in {submitted.seconds:.1f} s, {verdict}"),
    ]
