"""`diapir train`: a recipe on labelled tiles."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from diapir.cli.console import Data, Json, Quiet, print_json, print_table, print_warning
from diapir.errors import signal_exit_code

if TYPE_CHECKING:
    from diapir.runs.outcome import Trained

_COLUMNS = ("run", "validation", "hold-out", "threshold", "seconds")


def train(
    recipe: Annotated[
        str | None,
        typer.Argument(help="Name of a recipe (see 'diapir recipes') or path of a .toml file."),
    ] = None,
    data: Data = Path("data"),
    override: Annotated[
        list[str] | None,
        typer.Option("--set", help="Change a setting, such as train.epochs=3; repeatable."),
    ] = None,
    folds: Annotated[
        int | None, typer.Option("--folds", min=2, help="Train one model for each of K folds.")
    ] = None,
    resume: Annotated[
        Path | None, typer.Option("--resume", help="Run folder to go on with, exactly.")
    ] = None,
    runs: Annotated[
        Path, typer.Option("--runs", help="Folder in which the run folder is made.")
    ] = Path("runs"),
    accelerator: Annotated[str, typer.Option(help="Where to train: auto, cpu or gpu.")] = "auto",
    devices: Annotated[
        str, typer.Option(help="Number of GPUs or CPU processes, or auto.")
    ] = "auto",
    num_nodes: Annotated[int, typer.Option(min=1, help="Machines that train together.")] = 1,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Train a recipe on labelled tiles; writes a run folder with model, scores and report.

    Ctrl-C ends cleanly with the best model so far; --resume goes on from the last epoch.
    """
    if (recipe is None) == (resume is None):
        raise typer.BadParameter("give either a RECIPE or --resume RUN")
    if resume is not None and (override or folds):
        raise typer.BadParameter("--resume takes the run's own recipe: leave out --set and --folds")

    from diapir.config import load_recipe
    from diapir.runs.train import resume_run, train_recipe
    from diapir.training.hardware import Hardware

    hardware = Hardware(
        accelerator=accelerator,
        devices=int(devices) if devices.isdigit() else devices,
        num_nodes=num_nodes,
        progress=not quiet,
    )
    if resume is not None:
        trained = resume_run(resume, data, hardware)
    else:
        settings = [*(override or []), *([f"split.folds={folds}"] if folds else [])]
        trained = train_recipe(load_recipe(str(recipe), settings), data, runs, hardware)
    _show(trained, as_json)
    if trained.interrupted is not None:
        raise typer.Exit(signal_exit_code(trained.interrupted))


def _show(trained: "Trained", as_json: bool) -> None:
    from diapir.runs.report import EVERY_MASK_EMPTY

    rows: list[tuple[object, ...]] = []
    table = []
    for folder, found in trained.by_folder():
        for warning in found.warnings:
            print_warning(f"{folder.path}: {warning}")
        parts = (found.val, found.holdout)
        scores = [None if part is None else part.metrics["score"].value for part in parts]
        empty = [None if part is None else part.every_mask_empty.value for part in parts]
        row = (str(folder.path), *scores, found.threshold, found.seconds)
        rows += [row, (f"  if {EVERY_MASK_EMPTY}", *empty, None, None)]
        beside = {"every mask empty": dict(zip(_COLUMNS[1:3], empty, strict=True))}
        named = dict(zip(_COLUMNS, row, strict=True))
        table.append({**named, **beside, "warnings": found.warnings})
    if as_json:
        print_json(table)
        return
    print_table("Competition score at the chosen threshold", _COLUMNS, rows)
    if trained.folder.report.is_file():
        typer.echo(f"Look at {trained.folder.report}")
    typer.echo(f"Next: see {trained.folder.next_steps}")
