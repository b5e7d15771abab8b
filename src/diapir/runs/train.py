"""Trains by a recipe: read, split, fit, score, write, report."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from diapir.config import Recipe, load_recipe
from diapir.data.splits import Split
from diapir.errors import RunError, signal_exit_code
from diapir.io.atomic import remove_leftovers, write_text_atomic
from diapir.io.tiles import Tiles, read_tiles
from diapir.models.modelcard import library_versions, source_commit
from diapir.models.processor import usable_cores
from diapir.runs.folder import RunFolder, is_main_process, new_run_folder, write_json
from diapir.runs.folds import join_folds
from diapir.runs.inputs import RunInputs
from diapir.runs.machine import command_line, describe_machine, keep_freed_memory
from diapir.runs.next_steps import after_interruption
from diapir.runs.outcome import RunResult, Trained, ended_early, score_again, write_outcome
from diapir.runs.preflight import check_inputs, check_one_machine, check_processor, draw_splits
from diapir.runs.rounds import Members, member_recipe, train_rounds
from diapir.runs.side_by_side import end_with_parent, train_side_by_side
from diapir.runs.teachers import ask_teachers
from diapir.training.checkpoints import LAST_CHECKPOINT, checkpoint_to_resume
from diapir.training.fit import FitResult, fit
from diapir.training.hardware import ANY_HARDWARE, Hardware


def train_recipe(
    recipe: Recipe,
    data: Path,
    runs: Path,
    hardware: Hardware = ANY_HARDWARE,
) -> Trained:
    """Return what the training gave, or each of several and all of them together.

    Args:
        recipe: What to train.
        data: Labelled tiles, see `read_tiles`.
        runs: A folder for run folders; a new one is made in it.
        hardware: Where to train.

    Raises:
        DiapirError: Of any kind; nothing half-written is left under a final name.
    """
    if not recipe.joins_trainings and recipe.model.encoder in recipe.ensemble.changes:
        recipe = member_recipe(recipe, recipe.model.encoder, recipe.pseudo_labels.models, None)
    inputs = RunInputs(_read_labelled(data, hardware), recipe, data, hardware)
    splits = draw_splits(inputs, warn=True)
    check_inputs(inputs, splits)
    folder = _shared_folder(runs, recipe.name)
    if recipe.joins_trainings:
        return _train_rounds(inputs, folder)
    return _train_splits(inputs, splits, folder)


def resume_run(path: Path, data: Path, hardware: Hardware = ANY_HARDWARE) -> Trained:
    """Return what a run gave that was interrupted, after going on from its last epoch.

    Args:
        path: A run folder, that of one fold, or the folder of all folds or rounds: those that were
            not begun are trained then, too.
        data: The labelled tiles of the run.
        hardware: Where to train.

    Raises:
        RunError: The folder is no run, its checkpoint is damaged, or the data is another.
    """
    end_with_parent()  # where it is one of several at the same time
    folder = RunFolder(path)
    tiles = _read_labelled(data, hardware)
    if folder.recipe.is_file() and not folder.split.is_file():
        recipe = _recipe_of_rounds(folder, tiles)
        check_one_machine(hardware)
        return _train_rounds(RunInputs(tiles, recipe, data, hardware), folder)
    if folder.fold(0).path.is_dir():
        recipe, _ = folder.fold(0).read_inputs(tiles)
        inputs = RunInputs(tiles, recipe, data, hardware)
        return _train_splits(inputs, draw_splits(inputs), folder)
    recipe, split = folder.read_inputs(tiles)
    folder.make()
    _, results = _train_split(RunInputs(tiles, recipe, data, hardware), split, folder)
    _leave_to_main_process()
    return Trained(folder, results)


def _read_labelled(data: Path, hardware: Hardware) -> Tiles:
    return read_tiles(data, "train", progress=hardware.progress and is_main_process())


def _recipe_of_rounds(folder: RunFolder, tiles: Tiles) -> Recipe:
    """Return the recipe that joins several trainings, once their data is found to be the same."""
    for begun in sorted(folder.path.glob("round-*/**/split.json"))[:1]:
        RunFolder(begun.parent).read_inputs(tiles)
    recipe = load_recipe(str(folder.recipe))
    if not recipe.joins_trainings:
        folder.read_inputs(tiles)  # says what is missing
    return recipe


def _train_splits(inputs: RunInputs, splits: list[Split], folder: RunFolder) -> Trained:
    """Train each split in its folder, going on where there is a checkpoint; then join the folds."""
    results = []
    with _to_be_continued(folder, inputs.data) if len(splits) > 1 else nullcontext():
        for split in splits:
            place = _placed(inputs, split, folder)
            if place.is_finished():
                results.append(score_again(inputs, split, place))
                continue
            fitted, result = _train_split(inputs, split, place)
            results += result
            if fitted.interrupted is not None:
                break
    _leave_to_main_process()
    trained = Trained(folder, results)
    if len(splits) == 1:
        return trained
    if trained.interrupted is not None:
        write_text_atomic(folder.next_steps, after_interruption(folder, inputs.data))
        return trained
    return replace(trained, together=join_folds(inputs, splits, folder, results))


def _has_begun(folder: RunFolder) -> bool:
    """Return whether there is an epoch to go on from.

    Killed before its first epoch ended, a run has nothing to lose and begins again.

    Raises:
        RunError: There is a model, which that would replace.
    """
    if (folder.path / LAST_CHECKPOINT).is_file():
        return True
    if folder.model.is_file():
        checkpoint_to_resume(folder.path)  # which says that there is none
    return False


@contextmanager
def _to_be_continued(folder: RunFolder, data: Path) -> Iterator[None]:
    """Where a signal ends one of several trainings, leave the command that goes on with all.

    Raises:
        RunError: That of the signal, which tells where the command is.
    """
    try:
        yield
    except RunError as error:
        if error.exit_code > signal_exit_code(0):
            if is_main_process():
                write_text_atomic(folder.next_steps, after_interruption(folder, data))
            error.mend = f"Go on with the command in {folder.next_steps}."
        raise


def _placed(inputs: RunInputs, split: Split, folder: RunFolder) -> RunFolder:
    """Return the folder of one split, that of the run or of its fold, with what it trains by."""
    tiles = inputs.tiles
    place = folder if split.fold is None else folder.fold(split.fold)
    place.make()
    if is_main_process():
        if place.split.is_file():
            _, begun = place.read_inputs(tiles)
            if begun.to_json(tiles.ids) != split.to_json(tiles.ids):
                raise RunError(
                    "the tiles would be divided otherwise than when this run began",
                    where=place.split,
                    expected="the same depths and groups as then",
                    mend="Bring back depths.csv, and the file that split.groups names, as they "
                    "were; or start a new run.",
                )
        place.write_inputs(inputs.recipe, split, tiles)
    return place


def _train_rounds(inputs: RunInputs, folder: RunFolder) -> Trained:
    """Train all that the recipe joins, each training in a run folder of its own; then join them."""
    write_json(folder.recipe, inputs.recipe.model_dump(mode="json"))
    folder.note_start(_start_of(inputs.recipe))
    alone = replace(inputs, hardware=replace(inputs.hardware, devices=1))

    def train(member: Recipe, place: RunFolder) -> Trained:
        own = replace(alone, recipe=member)
        return _train_splits(own, draw_splits(own), place)

    with _to_be_continued(folder, inputs.data):
        trained = train_rounds(inputs, folder, train, partial(_train_ahead, inputs, folder))
    if trained.interrupted is not None:
        write_text_atomic(folder.next_steps, after_interruption(folder, inputs.data))
    return trained


def _train_ahead(inputs: RunInputs, folder: RunFolder, members: Members) -> None:
    """Train those that are not finished at the same time, each in its folder.

    Raises:
        RunError: One failed, or a signal ended them.
    """
    missing = [(recipe, run) for recipe, run in members if not run.all_finished(recipe.split.folds)]
    if len(missing) < 2:
        return
    for recipe, run in missing:
        own = replace(inputs, recipe=recipe)
        for split in draw_splits(own):
            _placed(own, split, run).note_start(_start_of(recipe))
    ended = train_side_by_side(
        [run.path for _, run in missing],
        inputs.data,
        splits=missing[0][0].split.folds,
        threads=max(1, usable_cores() // len(missing)),
        progress=inputs.hardware.progress,
    )
    if ended is None:
        return
    saved = [run for _, run in missing if any(run.path.rglob(run.model.name))]
    left = f"the best models so far are saved, of {len(saved)} of {len(missing)} networks"
    raise ended_early(ended, folder, left=left if saved else "no epoch had ended, so no model is")


def _leave_to_main_process() -> None:
    """End here in all processes but the first, which alone joins results and shows them."""
    if not is_main_process():
        raise SystemExit(0)


def _train_split(
    inputs: RunInputs, split: Split, folder: RunFolder
) -> tuple[FitResult, list[RunResult]]:
    """Train, score and report one split in its folder; only the first process has a result."""
    resume = _has_begun(folder)
    recipe, hardware = inputs.recipe, inputs.hardware
    keep_freed_memory()
    check_processor(recipe, hardware)  # that of who resumes may be another
    with folder.locked() if is_main_process() else nullcontext():
        if is_main_process():
            remove_leftovers(folder.path)
            folder.note_start(_start_of(recipe))
        shown = hardware.progress and is_main_process()
        lessons = ask_teachers(
            inputs.tiles,
            split,
            recipe,
            inputs.data,
            device=hardware.scoring_device,
            progress=shown,
        )
        fitted = fit(
            lessons.tiles,
            lessons.split,
            recipe,
            folder.path,
            taught=lessons.taught,
            start=lessons.start,
            resume=resume,
            hardware=replace(hardware, progress=shown),
        )
        if not is_main_process():
            return fitted, []
        result = write_outcome(inputs, split, folder, fitted, lessons.cards)
        if fitted.failure is not None:
            kept = f"The model of epoch {fitted.best_epoch} is kept in {folder.model}."
            fitted.failure.mend = f"{fitted.failure.mend} {kept}"
            raise fitted.failure
        return fitted, [result]


def _start_of(recipe: Recipe) -> dict[str, Any]:
    """Return what a training begins with; what is known at its end alone may have changed."""
    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "git": source_commit(),
        "recipe_sha256": recipe.sha256(),
        "versions": library_versions(),
        "command": command_line(),
        "machine": describe_machine(),
    }


_RUN_VARIABLE = "DIAPIR_RUN_FOLDER"


def _shared_folder(runs: Path, name: str) -> RunFolder:
    """Return a new run folder; processes that Lightning starts beside this one take the same."""
    if is_main_process():
        folder = new_run_folder(runs, name)
        os.environ[_RUN_VARIABLE] = str(folder.path)
        return folder
    if _RUN_VARIABLE in os.environ:
        return RunFolder(Path(os.environ[_RUN_VARIABLE]))
    # started by torchrun or SLURM: this process writes nothing that anyone will look for
    return RunFolder(Path(tempfile.mkdtemp(prefix="diapir-")))
