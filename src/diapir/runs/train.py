"""Trains by a recipe: read, split, fit, score, write, report."""

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from diapir.config import TO_RANDOM_WEIGHTS, Recipe, load_recipe
from diapir.data.splits import Split, make_splits
from diapir.errors import DataError, RecipeError, RunError, signal_exit_code
from diapir.io.atomic import remove_leftovers, write_text_atomic
from diapir.io.csv_tables import read_groups
from diapir.io.tiles import Tiles, read_tiles
from diapir.models.modelcard import library_versions, source_commit
from diapir.models.processor import check_precision, usable_cores
from diapir.models.unet import SaltNet
from diapir.runs.folder import RunFolder, is_main_process, new_run_folder, write_json
from diapir.runs.folds import join_folds
from diapir.runs.hardware import ANY_HARDWARE, Hardware
from diapir.runs.machine import command_line, describe_machine, keep_freed_memory
from diapir.runs.next_steps import after_interruption
from diapir.runs.outcome import RunResult, ended_early, score_again, write_outcome
from diapir.runs.rounds import (
    Members,
    check_one_machine,
    member_encoders,
    member_recipe,
    train_rounds,
)
from diapir.runs.side_by_side import train_side_by_side
from diapir.runs.teachers import ask_teachers, check_teachers
from diapir.training.checkpoints import checkpoint_to_resume
from diapir.training.fit import LAST_CHECKPOINT, FitResult, check_hardware, fit


def train_recipe(
    recipe: Recipe,
    data: Path,
    runs: Path,
    hardware: Hardware = ANY_HARDWARE,
) -> list[RunResult]:
    """Return the result of the training, or of each fold and then of all together.

    Args:
        recipe: What to train.
        data: Labelled tiles, see `read_tiles`.
        runs: A folder for run folders; a new one is made in it.
        hardware: Where to train.

    Raises:
        DiapirError: Of any kind; nothing half-written is left under a final name.
    """
    tiles = read_tiles(data, "train", progress=hardware.progress and is_main_process())
    groups = _read_groups(recipe, tiles)
    splits = make_splits(tiles, recipe.split, groups)
    _tell_of_lone_tiles(recipe, groups)
    members = [recipe]
    if recipe.joins_trainings:
        check_one_machine(hardware.on_cpu, hardware.devices, hardware.num_nodes)
        teachers = recipe.pseudo_labels.models  # of the first round
        members = [
            member_recipe(recipe, encoder, teachers, None) for encoder in member_encoders(recipe)
        ]
    devices = 1 if recipe.joins_trainings else hardware.devices
    check_hardware(hardware.accelerator, devices, hardware.num_nodes)
    for member in members if is_main_process() else ():
        _check_trainable(member, tiles)
        check_teachers(tiles, splits, member)
        _check_processor(member, hardware)
    if recipe.pseudo_labels.rounds or recipe.pseudo_labels.models:
        _check_unlabelled(data)
    folder = _shared_folder(runs, recipe.name)
    if recipe.joins_trainings:
        return _train_rounds(tiles, recipe, folder, data, hardware)
    return _train_splits(tiles, splits, recipe, folder, data, hardware)


def resume_run(path: Path, data: Path, hardware: Hardware = ANY_HARDWARE) -> list[RunResult]:
    """Return the results of a run that was interrupted, after going on from its last epoch.

    Args:
        path: A run folder, that of one fold, or the folder of all folds or rounds: those that were
            not begun are trained then, too.
        data: The labelled tiles of the run.
        hardware: Where to train.

    Raises:
        RunError: The folder is no run, its checkpoint is damaged, or the data is another.
    """
    folder = RunFolder(path)
    tiles = read_tiles(data, "train", progress=hardware.progress and is_main_process())
    if folder.recipe.is_file() and not folder.split.is_file():
        return _resume_rounds(tiles, folder, data, hardware)
    if folder.fold(0).path.is_dir():
        recipe, _ = folder.fold(0).read_inputs(tiles)
        splits = make_splits(tiles, recipe.split, _read_groups(recipe, tiles))
        return _train_splits(tiles, splits, recipe, folder, data, hardware)
    recipe, split = folder.read_inputs(tiles)
    folder.make()
    begun = _has_begun(folder)
    _, results = _train_split(tiles, split, recipe, folder, data, hardware, resume=begun)
    _leave_to_main_process()
    return results


def _train_splits(
    tiles: Tiles,
    splits: list[Split],
    recipe: Recipe,
    folder: RunFolder,
    data: Path,
    hardware: Hardware,
) -> list[RunResult]:
    """Train each split in its folder, going on where there is a checkpoint; then join the folds.

    The result of the folds together comes last.
    """
    results = []
    with _to_be_continued(folder, data) if len(splits) > 1 else nullcontext():
        for split in splits:
            place = _placed(tiles, split, recipe, folder)
            if place.is_finished():
                results.append(score_again(tiles, split, recipe, place, hardware.scoring_device))
                continue
            begun = _has_begun(place)
            fitted, result = _train_split(tiles, split, recipe, place, data, hardware, resume=begun)
            results += result
            if fitted.interrupted is not None:
                break
    _leave_to_main_process()
    if len(splits) > 1 and results[-1].interrupted is not None:
        return _to_be_resumed(results, folder, data)
    if not len(results) == len(splits) > 1:
        return results
    judged = join_folds(recipe, folder, data, tiles, splits, results)
    together = RunResult(
        folder=folder,
        threshold=judged.found.threshold,
        val=judged.found,
        holdout=None,
        val_probs=np.concatenate([result.val_probs for result in results]),
        seconds=sum(result.seconds for result in results),
        interrupted=None,
    )
    return [*results, together]


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


def _to_be_resumed(results: list[RunResult], folder: RunFolder, data: Path) -> list[RunResult]:
    """Return the results of trainings that were interrupted: what is to be resumed is the whole."""
    write_text_atomic(folder.next_steps, after_interruption(folder, data))
    return [*results[:-1], replace(results[-1], folder=folder)]


def _placed(tiles: Tiles, split: Split, recipe: Recipe, folder: RunFolder) -> RunFolder:
    """Return the folder of one split, that of the run or of its fold, with what it trains by."""
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
        place.write_inputs(recipe, split, tiles)
    return place


def _train_rounds(
    tiles: Tiles, recipe: Recipe, folder: RunFolder, data: Path, hardware: Hardware
) -> list[RunResult]:
    """Train all that the recipe joins; the last result is that of the networks together."""
    write_json(folder.recipe, recipe.model_dump(mode="json"))
    alone = replace(hardware, devices=1)

    def train(member: Recipe, place: RunFolder) -> list[RunResult]:
        splits = make_splits(tiles, member.split, _read_groups(member, tiles))
        return _train_splits(tiles, splits, member, place, data, alone)[: len(splits)]

    def train_ahead(members: Members) -> None:
        _train_ahead(tiles, members, folder, data, hardware)

    at_once = hardware.networks_at_once(len(member_encoders(recipe)))
    with _to_be_continued(folder, data):
        found = train_rounds(
            recipe, folder, data, train, train_ahead, at_once, progress=hardware.progress
        )
    if found.made is None:
        return _to_be_resumed(found.results, folder, data)
    together = RunResult(
        folder=folder,
        threshold=found.made.threshold,
        val=None,
        holdout=None if found.judged is None else found.judged.found,
        val_probs=np.zeros((0, *tiles.images.shape[1:]), np.float32),
        seconds=found.seconds,
        interrupted=None,
    )
    return [*found.results, together]


def _train_ahead(
    tiles: Tiles, members: Members, folder: RunFolder, data: Path, hardware: Hardware
) -> None:
    """Train those that are not finished at the same time, each in its folder.

    Raises:
        RunError: One failed, or a signal ended them.
    """
    missing = [(recipe, run) for recipe, run in members if not run.all_finished(recipe.split.folds)]
    if len(missing) < 2:
        return
    for recipe, run in missing:
        for split in make_splits(tiles, recipe.split, _read_groups(recipe, tiles)):
            _placed(tiles, split, recipe, run).note_start(_start_of(recipe))
    ended = train_side_by_side(
        [run.path for _, run in missing],
        data,
        splits=missing[0][0].split.folds,
        threads=max(1, usable_cores() // len(missing)),
        progress=hardware.progress,
    )
    if ended is None:
        return
    saved = [run for _, run in missing if any(run.path.rglob(run.model.name))]
    left = f"the best models so far are saved, of {len(saved)} of {len(missing)} networks"
    raise ended_early(ended, folder, left=left if saved else "no epoch had ended, so no model is")


def _resume_rounds(
    tiles: Tiles, folder: RunFolder, data: Path, hardware: Hardware
) -> list[RunResult]:
    """Go on with several trainings; the finished ones are scored again, not trained."""
    for begun in sorted(folder.path.glob("round-*/**/split.json"))[:1]:
        RunFolder(begun.parent).read_inputs(tiles)
    recipe = load_recipe(str(folder.recipe))
    if not recipe.joins_trainings:
        folder.read_inputs(tiles)  # says what is missing
    check_one_machine(hardware.on_cpu, hardware.devices, hardware.num_nodes)
    return _train_rounds(tiles, recipe, folder, data, hardware)


def _read_groups(recipe: Recipe, tiles: Tiles) -> list[str] | None:
    """Return the group of each tile, its own id where the file has none.

    Raises:
        DataError: The table is malformed, or has a group for none of the tiles.
    """
    if recipe.split.groups is None:
        return None
    groups = read_groups(Path(recipe.split.groups))
    if groups and not groups.keys() & set(tiles.ids):
        raise DataError(
            f"no tile has a group: the table's first id is {next(iter(groups))!r}, the first tile "
            f"{tiles.ids[0]!r}",
            where=f"split.groups = {recipe.split.groups}",
            expected="ids of the tiles, in the same letters and without '.png'",
            mend="Write the ids as the files are named, or give the table of this data.",
        )
    return [f"group {groups[i]}" if i in groups else f"tile {i}" for i in tiles.ids]


def _tell_of_lone_tiles(recipe: Recipe, groups: list[str] | None) -> None:
    """Say how many tiles the table of groups leaves out, for who did not mean to."""
    lone = sum(group.startswith("tile ") for group in groups or ())
    if lone and groups and is_main_process():
        sys.stderr.write(
            f"warning: {lone:,} of {len(groups):,} tiles are not in {recipe.split.groups}; each of "
            "them is a group by itself\n"
        )


def _check_trainable(recipe: Recipe, tiles: Tiles) -> None:
    """Raise what would end the training, before there is a folder for it."""
    if recipe.model.depth_channel and tiles.z_feet is None:
        raise DataError(
            "the recipe has a depth channel, but the data has no depths",
            where=tiles.source,
            expected="depths.csv with a row id,z for every tile",
            mend="Add depths.csv or set model.depth_channel = false.",
        )
    follows = recipe.train.early_stopping or recipe.optim.schedule == "plateau"
    if follows and recipe.train.validate_every >= recipe.train.epochs > 1:
        raise RecipeError(
            "the validation score comes too late for a training that is to follow it",
            where=f"train.validate_every = {recipe.train.validate_every}, "
            "with optim.schedule = 'plateau' or train.early_stopping",
            expected=f"less than train.epochs, which is {recipe.train.epochs}",
        )
    nothing_watches = recipe.split.folds == 1 and recipe.split.val == 0
    if nothing_watches and follows:
        raise RecipeError(
            "no tile validates, but the training is to follow the validation score",
            where="split.val = 0, with optim.schedule = 'plateau' or train.early_stopping",
            mend="Set optim.schedule=one-cycle and train.early_stopping=null, or split.val=0.1.",
        )
    model = recipe.model
    if recipe.train.start_from is not None:
        model = model.model_copy(update={"weights": "none"})
    elif model.freeze not in ("none", 0) and model.weights == "none":
        raise RecipeError(
            "the encoder starts from random weights and is frozen, so that it would never learn",
            where="model.weights = 'none', model.freeze",
            expected="weights to keep, or an encoder that learns",
            mend="Give weights, or let the encoder learn, with a loss that does not stall: "
            f"{TO_RANDOM_WEIGHTS}",
        )
    elif model.freeze not in ("none", 0) and (model.depth_channel or model.coord_channels):
        raise RecipeError(
            "the encoder's first convolution is frozen, whose weights for depth and coordinates "
            "begin at 0, so that the network would never look at them",
            where="model.freeze, with model.depth_channel or model.coord_channels",
            expected="an encoder that learns, or images alone",
            mend="Add --set model.freeze=none, or --set model.depth_channel=false --set "
            "model.coord_channels=false.",
        )
    SaltNet(model)


def _check_processor(recipe: Recipe, hardware: Hardware) -> None:
    if hardware.on_cpu:
        check_precision(recipe.train.precision, "train.precision = 'bf16'")


def _check_unlabelled(data: Path) -> None:
    """Raise where a round would find nothing to label, before there is a folder for it."""
    try:
        read_tiles(data, "test")
    except DataError as error:
        error.mend = (
            "Put the unlabelled tiles there, or train without them: --set pseudo_labels.rounds=0 "
            "--set pseudo_labels.models=[]."
        )
        raise


def _leave_to_main_process() -> None:
    """End here in all processes but the first, which alone joins results and shows them."""
    if not is_main_process():
        raise SystemExit(0)


def _train_split(
    tiles: Tiles,
    split: Split,
    recipe: Recipe,
    folder: RunFolder,
    data: Path,
    hardware: Hardware,
    *,
    resume: bool = False,
) -> tuple[FitResult, list[RunResult]]:
    """Train, score and report one split in its folder; only the first process has a result."""
    keep_freed_memory()
    _check_processor(recipe, hardware)  # that of who resumes may be another
    with folder.locked() if is_main_process() else nullcontext():
        if is_main_process():
            remove_leftovers(folder.path)
            folder.note_start(_start_of(recipe))
        shown = hardware.progress and is_main_process()
        lessons = ask_teachers(tiles, split, recipe, data, progress=shown)
        fitted = fit(
            lessons.tiles,
            lessons.split,
            recipe,
            folder.path,
            taught=lessons.taught,
            start=lessons.start,
            resume=resume,
            accelerator=hardware.accelerator,
            devices=hardware.devices,
            num_nodes=hardware.num_nodes,
            progress=shown,
        )
        if not is_main_process():
            return fitted, []
        fitted.net.to(hardware.scoring_device)
        result = write_outcome(tiles, split, recipe, folder, data, fitted, lessons.cards)
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
