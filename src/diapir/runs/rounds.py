"""Several trainings from one recipe: an encoder after the other, a round after the other.

`ensemble.encoders` and `pseudo_labels.rounds` only say which ordinary trainings follow each other.
Each leaves an ordinary run folder, `round-0-ENCODER` and so on; the networks of the last round, or
of all with `pseudo_labels.join_rounds`, are joined into one model.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from diapir.config import Recipe, parse_recipe
from diapir.errors import RunError
from diapir.inference.evaluate import evaluate
from diapir.io.atomic import write_text_atomic
from diapir.io.tiles import read_tiles
from diapir.metrics.calibration import scale_probs
from diapir.models.maskrule import MaskRule
from diapir.runs.ensemble import EnsembleResult, make_ensemble
from diapir.runs.evaluate import Judgement, evaluate_models
from diapir.runs.folder import RunFolder, read_json, write_json
from diapir.runs.folds import trainings_table
from diapir.runs.next_steps import after_rounds

if TYPE_CHECKING:  # runs.train imports this module
    from diapir.runs.train import RunResult

TrainOne = Callable[[Recipe, RunFolder], "list[RunResult]"]


@dataclass(frozen=True)
class RoundsResult:
    """What the trainings of a recipe gave.

    Args:
        results: Of every split of every training, in the order of training.
        made: The networks of the last round, or of all, joined; None where a signal ended a
            training.
        judged: The same on the hold-out; None without one, and where a signal ended a training.
    """

    results: "list[RunResult]"
    made: EnsembleResult | None = None
    judged: Judgement | None = None


def train_rounds(
    recipe: Recipe, folder: RunFolder, data: Path, train: TrainOne, *, progress: bool
) -> RoundsResult:
    """Return the results of all trainings that a recipe asks for, after joining the last ones.

    Args:
        recipe: With `ensemble.encoders`, `pseudo_labels.rounds` or both.
        folder: Takes a run folder for each training, the model, and the report on the hold-out.
        data: Of the trainings.
        train: Trains one recipe, or goes on with it, in a folder.
        progress: Show progress bars.

    Raises:
        DiapirError: Of any kind.
    """
    results: list[RunResult] = []
    teachers = recipe.pseudo_labels.models
    joined: list[Path] = []
    for number in range(recipe.pseudo_labels.rounds + 1):
        places: list[Path] = []
        for encoder in member_encoders(recipe):
            place = RunFolder(folder.path / f"round-{number}-{encoder}")
            start = recipe.train.start_from
            if number and recipe.pseudo_labels.warm_start:
                *_, start = teachers_in(folder.path / f"round-{number - 1}-{encoder}", recipe)
            results += train(member_recipe(recipe, encoder, teachers, start), place)
            if results[-1].interrupted is not None:
                return RoundsResult(results)
            places.append(place.path)
        teachers = tuple(model for place in places for model in teachers_in(place, recipe))
        joined = [*joined, *places] if recipe.pseudo_labels.join_rounds else places
    return _join(recipe, folder, data, results, joined, progress)


def member_encoders(recipe: Recipe) -> tuple[str, ...]:
    """Return the encoders that are trained in each round."""
    return recipe.ensemble.encoders or (recipe.model.encoder,)


def member_recipe(
    recipe: Recipe, encoder: str, teachers: tuple[str, ...], start: str | None
) -> Recipe:
    """Return the recipe of one training.

    Args:
        recipe: Of all; `{encoder}` in `model.weights` stands for the encoder.
        encoder: Of this one.
        teachers: Of its pseudo-labels.
        start: The model file that it begins with.
    """
    table: dict[str, Any] = recipe.model_dump(mode="json")
    weights = recipe.model.weights.replace("{encoder}", encoder)
    table["name"] = f"{recipe.name}-{encoder}"
    table["model"] |= {"encoder": encoder, "weights": weights}
    table["train"] |= {"start_from": start}
    table["ensemble"] = {}
    table["pseudo_labels"] |= {"models": list(teachers), "rounds": 0}
    return parse_recipe(table, where=recipe.name)


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


def check_one_device(devices: int | str, nodes: int) -> None:
    """Raise where several processes would train: a round waits for files of the one before.

    Raises:
        RunError: More than one device, or machine, is asked for.
    """
    if devices not in ("auto", 1) or nodes != 1:
        raise RunError(
            "several encoders or rounds are trained one after the other on one device",
            where=f"--devices {devices} --num-nodes {nodes}",
            expected="--devices 1, or none of these options",
            mend="For more cards train each encoder by itself, at the same time: --set "
            "ensemble.encoders=[] --set pseudo_labels.rounds=0 --set model.encoder=NAME; then join "
            "them with 'diapir ensemble'.",
        )


def _join(
    recipe: Recipe,
    folder: RunFolder,
    data: Path,
    results: "list[RunResult]",
    places: list[Path],
    progress: bool,
) -> RoundsResult:
    """Join the rounds that count, score them on tiles that none has seen, and write it all."""
    validated = recipe.split.folds > 1 or recipe.split.val > 0
    made = make_ensemble(places, folder.model, data=data if validated else None, progress=progress)
    judged = None
    if recipe.split.holdout > 0:
        judged = evaluate_models([folder.model], data, out=folder.path, progress=progress)
    table = _table(recipe, results, places, made, judged)
    table["val"] = _on_validation(recipe, data, results, places, made)
    write_json(folder.metrics, table)
    write_text_atomic(folder.next_steps, after_rounds(folder, data, places, recipe.split))
    return RoundsResult(results, made, judged)


def _on_validation(
    recipe: Recipe, data: Path, results: "list[RunResult]", places: list[Path], made: EnsembleResult
) -> dict[str, Any] | None:
    """Return the scores of the joined networks on the tiles that all of them validated on."""
    if recipe.split.folds > 1 or recipe.split.val == 0:
        return None
    ids = read_json(RunFolder(places[-1]).split)["val"]
    tiles = read_tiles(data, "train").select(ids)
    joined = [result.val_probs for result in results if result.folder.path in places]
    rule = MaskRule.from_json(made.rule)
    mean: NDArray[np.float32] = np.mean(np.stack(joined), axis=0, dtype=np.float32)
    probs = scale_probs(mean, rule.temperature)
    return evaluate(probs, tiles, made.threshold, rule=rule).to_dict()


def _table(
    recipe: Recipe,
    results: "list[RunResult]",
    places: list[Path],
    made: EnsembleResult,
    judged: Judgement | None,
) -> dict[str, Any]:
    joined = {**asdict(made), "path": made.path.name}
    return {
        **trainings_table(recipe, results),
        "threshold": made.threshold,
        "rule": made.rule,
        "calibration": made.calibration,
        "joined": joined,
        "runs": [place.name for place in places],
        "holdout": None if judged is None else judged.found.to_dict(),
    }
