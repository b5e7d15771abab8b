"""The demo of surveys: draw one, map salt, learn from six interpreted lines, map again, score."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from diapir.config import load_recipe
from diapir.data.survey import SurveyPlan, SyntheticSurvey
from diapir.export.horizon import salt_interval
from diapir.inference.schedule import Workers
from diapir.io.images import write_mask_png
from diapir.io.opening import open_volume
from diapir.metrics.score import Counts, dice, iou
from diapir.models.modelcard import read_card
from diapir.runs.finetune import finetune_model
from diapir.runs.folder import RunFolder, new_run_folder, write_json
from diapir.runs.machine import command_line, describe_machine
from diapir.runs.map import map_survey
from diapir.runs.map_result import MapResult, MapSettings
from diapir.runs.outcome import ended_early
from diapir.runs.provenance import made_with
from diapir.runs.synth import draw_survey, draw_tiles
from diapir.runs.train import train_recipe
from diapir.training.finetune import Tuning
from diapir.training.hardware import Hardware

INTERPRETED = 6
"""Inlines that are interpreted for fine-tuning."""

_TILES = 400


@dataclass(frozen=True)
class SurveyScore:
    """A map against the truth.

    Args:
        iou: Intersection over union of the mask, all samples together.
        dice: Likewise.
        top_error: Median distance of top salt from the truth, in samples, where both have one.
        top_found: Share of the traces with salt in which a top was found.
    """

    iou: float
    dice: float
    top_error: float
    top_found: float


def run_survey_demo(
    out: Path,
    model: Path | None = None,
    *,
    plan: SurveyPlan = SurveyPlan(),  # noqa: B008  # frozen
    minutes: float = 3.0,
    tuning: Tuning = Tuning(steps=150),  # noqa: B008  # frozen
    workers: Workers = Workers(),  # noqa: B008  # frozen
    progress: bool = True,
) -> list[tuple[str, str]]:
    """Go the whole way through a synthetic survey once; return a table of results and paths.

    Args:
        out: Takes a new folder for each demo.
        model: A model file; None trains one on synthetic tiles.
        plan: Of the survey.
        minutes: Training time at most, where there is no model.
        tuning: Of the fine-tuning.
        workers: Who predicts.
        progress: Show progress bars.

    Raises:
        DiapirError: The folder or the model cannot be used.
    """
    folder = new_run_folder(out, "survey")
    file, truth = folder.path / "survey.sgy", folder.path / "truth.sgy"
    made = draw_survey(file, truth, plan, progress=progress)
    model = model or _train(folder, minutes, progress)
    settings = MapSettings(velocity_m_s=2500)
    first = map_survey(
        file, folder.path / "map", [model], settings, workers=workers, progress=progress
    )
    labels, interpreted = _interpret(made, folder.path / "labels")
    before = score_map(first, truth, without=interpreted)
    tuned = finetune_model(
        model, file, labels, folder.path / "finetuned", tuning, settings.sections, progress=progress
    )
    second = map_survey(
        file, folder.path / "map-finetuned", [tuned.model], settings,
        workers=workers, progress=progress,
    )  # fmt: skip
    after = score_map(second, truth, without=interpreted)
    scores = {
        "before": vars(before),
        "after": vars(after),
        "inlines_that_do_not_count": interpreted,
        "command": command_line(),
        "machine": describe_machine(),
        **made_with(
            [(path.name, read_card(path)) for path in (model, tuned.model)],
            str(open_volume(file).attrs["fingerprint"]),
        ),
    }
    write_json(folder.path / "scores.json", scores)
    return [
        ("survey", str(file)),
        ("its truth", str(truth)),
        ("model", str(model)),
        ("scores", "on the inlines that nobody interpreted"),
        ("mask, IoU", f"{before.iou:.3f}"),
        ("mask after fine-tuning, IoU", f"{after.iou:.3f}"),
        ("top salt, median error", _samples(before)),
        ("top salt after fine-tuning", _samples(after)),
        ("map", str(first.out)),
        ("map after fine-tuning", str(second.out)),
        ("report", str(second.out / "report.html")),
    ]


def score_map(result: MapResult, truth: Path, without: Sequence[int] = ()) -> SurveyScore:
    """Return how a map compares with the truth, line by line in bounded memory.

    Args:
        result: The map.
        truth: Survey of 0 and 1 with the geometry of the map.
        without: Indices of inlines that do not count, because they trained the model.
    """
    import zarr

    salt = open_volume(truth)["amplitude"]
    mask: Any = zarr.open_group(result.store, mode="r")["mask"]
    sums = np.zeros(4, np.int64)
    errors, wanted = [], 0
    for line in sorted(set(range(mask.shape[0])) - set(without)):
        own, actual = np.asarray(mask[line]) > 0, np.asarray(salt[line : line + 1])[0] > 0.5
        sums += [(own & actual).sum(), own.sum(), actual.sum(), own.size]
        places = np.arange(actual.shape[-1])
        top, _ = salt_interval(actual.astype(np.float32), actual, 0.5, places)
        found = np.interp(result.products.top.z[line], result.products.frame.sample, places)
        errors.append(np.abs(found - top))
        wanted += int(np.isfinite(top).sum())
    counts = Counts(*(np.array([value]) for value in sums))
    distance = np.concatenate(errors)
    distance = distance[np.isfinite(distance)]
    return SurveyScore(
        iou=float(iou(counts)[0]),
        dice=float(dice(counts)[0]),
        top_error=float(np.median(distance)) if len(distance) else float("nan"),
        top_found=len(distance) / wanted if wanted else 1.0,
    )


def _train(folder: RunFolder, minutes: float, progress: bool) -> Path:
    data = folder.path / "tiles"
    draw_tiles(data, _TILES, 10)
    recipe = load_recipe("demo", [f"train.max_minutes={minutes}"])
    trained = train_recipe(recipe, data, folder.path / "runs", Hardware(progress=progress))
    if trained.interrupted is not None:
        raise ended_early(trained.interrupted, trained.folder)
    return trained.folder.model


def _interpret(made: SyntheticSurvey, folder: Path) -> tuple[Path, list[int]]:
    """Write the truth of evenly spaced inlines as PNG; return the folder and their indices."""
    count = made.plan.shape[0]
    lines = np.unique(np.linspace(0, count - 1, INTERPRETED + 2).round().astype(int)[1:-1])
    for line in lines:
        number = int(made.geometry.axes["inline"][line])
        write_mask_png(folder / f"inline_{number}.png", made.salt[line].T.astype(np.uint8))
    return folder, [int(line) for line in lines]


def _samples(score: SurveyScore) -> str:
    if score.top_error != score.top_error:
        return "no top salt was found"
    return f"{score.top_error:.1f} samples, found in {100 * score.top_found:.0f} % of the traces"
