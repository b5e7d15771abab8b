"""Several trainings from one recipe: an encoder after the other, a round after the other.

`ensemble.encoders` and `pseudo_labels.rounds` only say which ordinary trainings follow each other.
Each leaves an ordinary run folder, `round-0-ENCODER` and so on; the networks of the last round are
joined into one model.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diapir.config import Recipe, parse_recipe
from diapir.errors import RunError
from diapir.io.atomic import write_text_atomic
from diapir.models.modelfile import library_versions, source_commit
from diapir.runs.ensemble import EnsembleResult, make_ensemble
from diapir.runs.evaluate import Judgement, evaluate_models
from diapir.runs.folder import RunFolder, write_json
from diapir.runs.machine import command_line, describe_machine
from diapir.runs.next_steps import after_rounds

if TYPE_CHECKING:  # runs.train imports this module
    from diapir.runs.train import RunResult

TrainOne = Callable[[Recipe, RunFolder], "list[RunResult]"]


@dataclass(frozen=True)
class RoundsResult:
    """What the trainings of a recipe gave.

    Args:
        results: Of every split of every training, in the order of training.
        made: The networks of the last round, joined; None where a signal ended a training.
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
    places: list[Path] = []
    for number in range(recipe.pseudo_labels.rounds + 1):
        places = []
        for encoder in member_encoders(recipe):
            place = RunFolder(folder.path / f"round-{number}-{encoder}")
            results += train(member_recipe(recipe, encoder, teachers), place)
            if results[-1].interrupted is not None:
                return RoundsResult(results)
            places.append(place.path)
        teachers = tuple(model for place in places for model in teachers_in(place, recipe))
    return _join(recipe, folder, data, results, places, progress)


def member_encoders(recipe: Recipe) -> tuple[str, ...]:
    """Return the encoders that are trained in each round."""
    return recipe.ensemble.encoders or (recipe.model.encoder,)


def member_recipe(recipe: Recipe, encoder: str, teachers: tuple[str, ...]) -> Recipe:
    """Return the recipe of one training.

    Args:
        recipe: Of all; `{encoder}` in `model.weights` stands for the encoder.
        encoder: Of this one.
        teachers: Of its pseudo-labels.
    """
    table: dict[str, Any] = recipe.model_dump(mode="json")
    weights = recipe.model.weights.replace("{encoder}", encoder)
    table["name"] = f"{recipe.name}-{encoder}"
    table["model"] |= {"encoder": encoder, "weights": weights}
    table["ensemble"] = {}
    table["pseudo_labels"] |= {"models": list(teachers), "rounds": 0}
    return parse_recipe(table, where=recipe.name)


def teachers_in(run: Path, recipe: Recipe) -> list[str]:
    """Return the models of a finished run as teachers: each fold learns from its own ones alone.

    The other folds' networks have seen the tiles that this fold validates on.
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
    """Join the last round, score it on the hold-out that none of it has seen, and write it all."""
    validated = recipe.split.folds > 1 or recipe.split.val > 0
    made = make_ensemble(places, folder.model, data=data if validated else None, progress=progress)
    judged = None
    if recipe.split.holdout > 0:
        judged = evaluate_models([folder.model], data, out=folder.path, progress=progress)
    write_json(folder.metrics, _table(recipe, results, places, made, judged))
    write_text_atomic(folder.next_steps, after_rounds(folder, data, places))
    return RoundsResult(results, made, judged)


def _table(
    recipe: Recipe,
    results: "list[RunResult]",
    places: list[Path],
    made: EnsembleResult,
    judged: Judgement | None,
) -> dict[str, Any]:
    joined = {**asdict(made), "path": made.path.name}
    return {
        "recipe": recipe.name,
        "recipe_sha256": recipe.sha256(),
        "threshold": made.threshold,
        "rule": made.rule,
        "calibration": made.calibration,
        "joined": joined,
        "runs": [place.name for place in places],
        "trainings": len(results),
        "training_seconds": round(sum(result.seconds for result in results), 1),
        "interrupted": None,
        "command": command_line(),
        "machine": describe_machine(),
        "data_fingerprint": "" if judged is None else judged.tiles.fingerprint(),
        "versions": library_versions(),
        "git": source_commit(),
        "val": None,
        "holdout": None if judged is None else judged.found.to_dict(),
    }
