"""What is found out before there is a folder for a run: how tiles are divided, what cannot be."""

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from diapir.config import TO_RANDOM_WEIGHTS, ModelConfig, Recipe
from diapir.data.splits import Split, make_splits
from diapir.errors import DataError, RecipeError, RunError
from diapir.io.csv_tables import read_groups
from diapir.io.layout import has_part
from diapir.io.tiles import Tiles, read_tiles
from diapir.models.processor import check_precision
from diapir.models.unet import SaltNet
from diapir.runs.folder import is_main_process
from diapir.runs.inputs import RunInputs
from diapir.runs.rounds import member_encoders, member_recipe
from diapir.runs.teachers import check_teachers
from diapir.training.fit import check_hardware
from diapir.training.hardware import Hardware


def draw_splits(inputs: RunInputs, *, warn: bool = False) -> list[Split]:
    """Return the splits that a recipe asks for, one a fold, each group of tiles in one part.

    Args:
        inputs: Of the run.
        warn: Say how many tiles the table of groups leaves out, for who did not mean to.

    Raises:
        DataError: The tiles cannot be divided so, or the table of groups cannot be used.
    """
    groups = tile_groups(inputs.recipe, inputs.tiles)
    splits = make_splits(inputs.tiles, inputs.recipe.split, groups)
    lone = sum(group.startswith("tile ") for group in groups or ())
    if warn and lone and groups and is_main_process():
        sys.stderr.write(
            f"warning: {lone:,} of {len(groups):,} tiles are not in {inputs.recipe.split.groups}; "
            "each of them is a group by itself\n"
        )
    return splits


def tile_groups(recipe: Recipe, tiles: Tiles) -> list[str] | None:
    """Return the group of each tile, its own id where the file has none.

    Args:
        recipe: `split.groups` names the file; without one there are no groups.
        tiles: The labelled tiles.

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


def check_inputs(inputs: RunInputs, splits: Sequence[Split]) -> None:
    """Raise what would end one of the trainings of a run.

    Args:
        inputs: Of the run.
        splits: Of its recipe.

    Raises:
        DiapirError: Of any kind.
    """
    recipe, hardware = inputs.recipe, inputs.hardware
    members, devices = [recipe], hardware.devices
    if recipe.joins_trainings:
        check_one_machine(hardware)
        teachers = recipe.pseudo_labels.models  # of the first round
        encoders = member_encoders(recipe)
        members = [member_recipe(recipe, encoder, teachers, None) for encoder in encoders]
        devices = 1
    check_hardware(replace(hardware, devices=devices))
    for member in members if is_main_process() else ():
        _check_trainable(member, inputs.tiles)
        check_teachers(inputs.tiles, splits, member)
        check_processor(member, hardware)
    if recipe.pseudo_labels.rounds or recipe.pseudo_labels.models:
        _check_unlabelled(inputs)


def check_one_machine(hardware: Hardware) -> None:
    """Raise where several cards or machines would train: rounds wait for files of those before.

    Args:
        hardware: On a CPU its number of devices is that of networks trained at once.

    Raises:
        RunError: More than one card, or machine, is asked for.
    """
    devices, nodes = hardware.devices, hardware.num_nodes
    fits = devices in ("auto", 1) or (hardware.on_cpu and isinstance(devices, int))
    if nodes != 1 or not fits:
        raise RunError(
            "several encoders or rounds are trained by one machine, with one card at most",
            where=f"--devices {devices} --num-nodes {nodes}",
            expected="--devices 1, or none of these options",
            mend="For more cards train each encoder by itself, at the same time: --set "
            "ensemble.encoders=[] --set pseudo_labels.rounds=0 --set model.encoder=NAME; then join "
            "them with 'diapir ensemble'.",
        )


def check_processor(recipe: Recipe, hardware: Hardware) -> None:
    """Raise where the processor would train, and lacks instructions that the recipe asks for.

    Args:
        recipe: To train by.
        hardware: Where to train.

    Raises:
        RunError: It has no instructions for bf16.
    """
    if hardware.on_cpu:
        check_precision(recipe.train.precision, "train.precision = 'bf16'")


def _check_trainable(recipe: Recipe, tiles: Tiles) -> None:
    if recipe.model.depth_channel and tiles.z_feet is None:
        raise DataError(
            "the recipe has a depth channel, but the data has no depths",
            where=tiles.source,
            expected="depths.csv with a row id,z for every tile",
            mend="Add depths.csv or set model.depth_channel = false.",
        )
    if recipe.train.early_stopping or recipe.optim.schedule == "plateau":
        _check_validated(recipe)
    model = recipe.model
    if recipe.train.start_from is None:
        _check_learns(model)
    else:
        model = model.model_copy(update={"weights": "none"})
    SaltNet(model)


def _check_validated(recipe: Recipe) -> None:
    """Raise where a training is to follow the validation score, which comes too late or never."""
    if recipe.train.validate_every >= recipe.train.epochs > 1:
        raise RecipeError(
            "the validation score comes too late for a training that is to follow it",
            where=f"train.validate_every = {recipe.train.validate_every}, "
            "with optim.schedule = 'plateau' or train.early_stopping",
            expected=f"less than train.epochs, which is {recipe.train.epochs}",
        )
    if recipe.split.folds == 1 and recipe.split.val == 0:
        raise RecipeError(
            "no tile validates, but the training is to follow the validation score",
            where="split.val = 0, with optim.schedule = 'plateau' or train.early_stopping",
            mend="Set optim.schedule=one-cycle and train.early_stopping=null, or split.val=0.1.",
        )


def _check_learns(model: ModelConfig) -> None:
    """Raise where what is frozen would have to learn first."""
    if model.freeze in ("none", 0):
        return
    if model.weights == "none":
        raise RecipeError(
            "the encoder starts from random weights and is frozen, so that it would never learn",
            where="model.weights = 'none', model.freeze",
            expected="weights to keep, or an encoder that learns",
            mend="Give weights, or let the encoder learn, with a loss that does not stall: "
            f"{TO_RANDOM_WEIGHTS}",
        )
    if model.depth_channel or model.coord_channels:
        raise RecipeError(
            "the encoder's first convolution is frozen, whose weights for depth and coordinates "
            "begin at 0, so that the network would never look at them",
            where="model.freeze, with model.depth_channel or model.coord_channels",
            expected="an encoder that learns, or images alone",
            mend="Add --set model.freeze=none, or --set model.depth_channel=false --set "
            "model.coord_channels=false.",
        )


def _check_unlabelled(inputs: RunInputs) -> None:
    """Raise where a round would find nothing to label, or nothing that fits."""
    try:
        unlabelled = read_tiles(inputs.data, "test")
    except DataError as error:
        if not has_part(inputs.data, "test"):
            error.mend = (
                "Put the unlabelled tiles there, or train without them: --set "
                "pseudo_labels.rounds=0 --set pseudo_labels.models=[]."
            )
        raise
    inputs.tiles.check_joins(unlabelled)
