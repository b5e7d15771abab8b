"""The end of a run with folds: every tile by the network that never saw it, scored and told."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from diapir.config import Recipe
from diapir.data.splits import Split
from diapir.io.atomic import write_text_atomic
from diapir.models.modelcard import read_card
from diapir.report.html import Section, Table
from diapir.runs.evaluate import Judgement, judge_out_of_fold, write_page
from diapir.runs.folder import RunFolder, read_json, write_json
from diapir.runs.inputs import RunInputs
from diapir.runs.machine import command_line
from diapir.runs.next_steps import after_folds
from diapir.runs.out_of_fold import read_out_of_fold, run_models, write_out_of_fold_probs
from diapir.runs.outcome import RunResult, RunScores


def join_folds(
    inputs: RunInputs,
    splits: Sequence[Split],
    folder: RunFolder,
    results: Sequence[RunResult],
) -> RunScores:
    """Return the scores of the folds together, on the tiles that each of them validated on.

    Leaves `out_of_fold.npz`, `metrics.json`, figures, `report.html` and `next.txt` in the folder of
    all folds. Threshold and rule are the best over all folds, on the tiles that are scored, which
    makes the score slightly optimistic.

    Args:
        inputs: Of the run.
        splits: One a fold.
        folder: Of all folds.
        results: One a fold.
    """
    recipe = inputs.recipe
    index = np.concatenate([split.val for split in splits])
    probs = np.concatenate([result.val_probs for result in results])
    tiles = inputs.tiles.subset(index)
    write_out_of_fold_probs(folder.path, tiles.ids, probs)
    cards = {
        str(path.relative_to(folder.path)): read_card(path) for path in run_models(folder.path)
    }
    judged = judge_out_of_fold(read_out_of_fold(folder.path), tiles, cards)
    write_json(folder.metrics, _table(recipe, judged, results))
    title = f"Run {folder.path.name}: {len(splits)} folds"
    write_page(judged, folder.path, title, [_folds_section(results)])
    write_text_atomic(folder.next_steps, after_folds(folder, inputs.data, recipe.split))
    return RunScores(
        threshold=judged.found.threshold,
        val=judged.found,
        holdout=None,
        seconds=sum(result.seconds for result in results),
    )


def _table(recipe: Recipe, judged: Judgement, results: Sequence[RunResult]) -> dict[str, Any]:
    told = trainings_table(recipe, results)
    return {
        **told,
        "tiles": {**told["tiles"], "val": len(judged.tiles)},
        "folds": len(results),
        "threshold": judged.found.threshold,
        "rule": asdict(judged.rule),
        "calibration": "" if judged.choice is None else judged.choice.calibration,
        "val": judged.to_dict(),
        "holdout": None,
    }


def trainings_table(recipe: Recipe, results: Sequence[RunResult]) -> dict[str, Any]:
    """Return what `metrics.json` says of several trainings that belong together.

    Args:
        recipe: Of all.
        results: One a training, each with its own `metrics.json`.
    """
    trained = [read_json(result.folder.metrics) for result in results]
    return {
        "recipe": recipe.name,
        "recipe_sha256": recipe.sha256(),
        "trainings": len(results),
        "epochs": sum(table["epochs"] for table in trained),
        "tiles": trained[0]["tiles"],
        "training_seconds": round(sum(result.seconds for result in results), 1),
        "interrupted": None,
        "command": results[0].folder.first_command() or command_line(),
        **{name: trained[0][name] for name in ("machine", "data_fingerprint", "versions", "git")},
    }


def _folds_section(results: Sequence[RunResult]) -> Section:
    rows = [
        (
            result.folder.path.name,
            0 if result.val is None else len(result.val),
            None if result.val is None else result.val.metrics["score"].value,
            result.threshold,
            result.seconds / 60,
        )
        for result in results
    ]
    columns = ("fold", "tiles", "score at its own threshold", "threshold", "minutes")
    return Section("Each fold by itself", tables=[Table("Folds", columns, rows)])
