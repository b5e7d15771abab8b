"""Several trainings from one recipe: encoders beside each other, a round after the other.

`ensemble.encoders` and `pseudo_labels.rounds` only say which ordinary trainings there are.
Each leaves an ordinary run folder, `round-0-ENCODER` and so on; the networks of the last round, or
of all with `pseudo_labels.join_rounds`, are joined into one model.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diapir.config import Recipe, laid_over, parse_recipe
from diapir.inference.evaluate import Evaluation, evaluate
from diapir.inference.predict import PredictOptions
from diapir.io.atomic import write_text_atomic
from diapir.metrics.calibration import scale_probs
from diapir.models.maskrule import MaskRule
from diapir.runs.ensemble import EnsembleResult, make_ensemble
from diapir.runs.evaluate import evaluate_models
from diapir.runs.folder import RunFolder, read_json, write_json
from diapir.runs.folds import trainings_table
from diapir.runs.inputs import RunInputs
from diapir.runs.next_steps import after_rounds
from diapir.runs.outcome import RunResult, RunScores, Trained

TrainOne = Callable[[Recipe, RunFolder], Trained]
Members = Sequence[tuple[Recipe, RunFolder]]


def train_rounds(
    inputs: RunInputs,
    folder: RunFolder,
    train: TrainOne,
    train_ahead: Callable[[Members], None],
) -> Trained:
    """Return what all trainings that a recipe asks for gave, after joining the last ones.

    Args:
        inputs: With a recipe that has `ensemble.encoders`, `pseudo_labels.rounds` or both.
        folder: Takes a run folder for each training, the model, and the report on the hold-out.
        train: Trains one recipe, or goes on with it, in a folder.
        train_ahead: Trains several recipes at the same time, each in its folder, and leaves one
            alone; `train` then finds them finished.

    Raises:
        DiapirError: Of any kind.
    """
    recipe = inputs.recipe
    at_once = inputs.hardware.networks_at_once(len(member_encoders(recipe)))
    results: list[RunResult] = []
    seconds = 0.0
    teachers = recipe.pseudo_labels.models
    joined: list[Path] = []
    for number in range(recipe.pseudo_labels.rounds + 1):
        members: list[tuple[Recipe, RunFolder]] = []
        for encoder in member_encoders(recipe):
            start = None
            if number and recipe.pseudo_labels.warm_start:
                *_, start = teachers_in(folder.path / f"round-{number - 1}-{encoder}", recipe)
            place = RunFolder(folder.path / f"round-{number}-{encoder}")
            members.append((member_recipe(recipe, encoder, teachers, start), place))
        for begin in range(0, len(members), at_once):
            together = members[begin : begin + at_once]
            train_ahead(together)
            taken = []
            for member, place in together:
                trained = train(member, place)
                results += trained.trainings
                if trained.interrupted is not None:
                    return Trained(folder, results)
                taken.append(sum(result.seconds for result in trained.trainings))
            seconds += max(taken)  # those at the same time count once
        places = [place.path for _, place in members]
        teachers = tuple(model for place in places for model in teachers_in(place, recipe))
        joined = [*joined, *places] if recipe.pseudo_labels.join_rounds else places
    return Trained(folder, results, _join(inputs, folder, results, seconds, joined))


def member_encoders(recipe: Recipe) -> tuple[str, ...]:
    """Return the encoders that are trained in each round."""
    return recipe.ensemble.encoders or (recipe.model.encoder,)


def member_recipe(
    recipe: Recipe, encoder: str, teachers: tuple[str, ...], start: str | None
) -> Recipe:
    """Return the recipe of one training, with what the ensemble changes for its encoder.

    Args:
        recipe: Of all; `{encoder}` in `model.weights` stands for the encoder.
        encoder: Of this one.
        teachers: Of its pseudo-labels.
        start: The model file that it begins with; None: the one that its recipe names, if any.
    """
    changes = recipe.ensemble.changes.get(encoder, {})
    table = laid_over(recipe.model_dump(mode="json"), changes)
    weights = table["model"]["weights"].replace("{encoder}", encoder)
    table["name"] = f"{recipe.name}-{encoder}"
    table["model"] |= {"encoder": encoder, "weights": weights}
    if start is not None:
        table["train"] |= {"start_from": start}
    table["ensemble"] = {}
    table["pseudo_labels"] |= {"models": list(teachers), "rounds": 0}
    where = f"{recipe.name}, ensemble.changes of {encoder}" if changes else recipe.name
    return parse_recipe(table, where=where)


def teachers_in(run: Path, recipe: Recipe) -> list[str]:
    """Return the models of a finished run as teachers, its last one at the end.

    Each fold learns from its own ones alone: the other folds' networks have seen the tiles that
    this fold validates on.
    """
    run = run.resolve()
    if recipe.split.folds == 1:
        return [str(file) for file in (*RunFolder(run).snapshots(), RunFolder(run).model)]
    folds = [RunFolder(run).fold(number) for number in range(recipe.split.folds)]
    # a training of fewer steps than cycles may have left one out
    common = set.intersection(*({file.name for file in fold.snapshots()} for fold in folds))
    names = [file.name for file in folds[0].snapshots() if file.name in common]
    return [str(run / "fold-{fold}" / name) for name in (*names, folds[0].model.name)]


def _join(
    inputs: RunInputs,
    folder: RunFolder,
    results: list[RunResult],
    seconds: float,
    places: list[Path],
) -> RunScores:
    """Join the rounds that count, score them on tiles that none has seen, and write it all."""
    recipe, data, progress = inputs.recipe, inputs.data, inputs.hardware.progress
    validated = recipe.split.folds > 1 or recipe.split.val > 0
    made = make_ensemble(places, folder.model, data=data if validated else None, progress=progress)
    holdout = None
    if recipe.split.holdout > 0:
        options = PredictOptions(device=inputs.hardware.scoring_device)
        judged = evaluate_models(
            [folder.model], data, out=folder.path, options=options, progress=progress
        )
        holdout = judged.found
    table = _table(recipe, results, places, made, holdout)
    table["val"] = _on_validation(inputs, results, places, made)
    table["training_seconds"] = round(seconds, 1)
    write_json(folder.metrics, table)
    write_text_atomic(folder.next_steps, after_rounds(folder, data, places, recipe.split))
    return RunScores(threshold=made.threshold, val=None, holdout=holdout, seconds=seconds)


def _on_validation(
    inputs: RunInputs, results: list[RunResult], places: list[Path], made: EnsembleResult
) -> dict[str, Any] | None:
    """Return the scores of the joined networks on the tiles that all of them validated on."""
    if inputs.recipe.split.folds > 1 or inputs.recipe.split.val == 0:
        return None
    tiles = inputs.tiles.select(read_json(RunFolder(places[-1]).split)["val"])
    joined = [result.val_probs for result in results if result.folder.path in places]
    rule = MaskRule.from_json(made.rule)
    mean: NDArray[np.float32] = np.mean(np.stack(joined), axis=0, dtype=np.float32)
    probs = scale_probs(mean, rule.temperature)
    return evaluate(probs, tiles, made.threshold, rule=rule).to_dict()


def _table(
    recipe: Recipe,
    results: list[RunResult],
    places: list[Path],
    made: EnsembleResult,
    holdout: Evaluation | None,
) -> dict[str, Any]:
    joined = {**asdict(made), "path": made.path.name}
    return {
        **trainings_table(recipe, results),
        "threshold": made.threshold,
        "rule": made.rule,
        "calibration": made.calibration,
        "joined": joined,
        "runs": [place.name for place in places],
        "holdout": None if holdout is None else holdout.to_dict(),
    }
