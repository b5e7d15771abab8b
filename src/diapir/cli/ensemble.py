"""`diapir ensemble`: finished runs as one model file."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from diapir.cli.console import Json, Quiet, print_json


def ensemble(
    runs: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN...", help="Run folders, with or without folds, or model files."
        ),
    ],
    out: Annotated[Path, typer.Option("--out", help="Model file to write.")] = Path(
        "ensemble.safetensors"
    ),
    data: Annotated[
        Path | None,
        typer.Option(
            "--data", help="The runs' data: choose threshold and clean-up for all of them."
        ),
    ] = None,
    weight: Annotated[
        list[float] | None,
        typer.Option("--weight", help="Weight of a RUN, once for each; repeatable."),
    ] = None,
    half: Annotated[bool, typer.Option("--half", help="Store float16, half the size.")] = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Join runs into one file that every verb applies as a model.

    With --data, threshold, temperature and clean-up are chosen on out-of-fold or validation
    predictions; hold-out tiles choose nothing.
    """
    from diapir.runs.ensemble import make_ensemble

    result = make_ensemble(
        runs, out, data=data, weights=weight or [], half=half, progress=not quiet
    )
    if as_json:
        print_json({**asdict(result), "path": str(result.path)})
        return
    score = "" if result.score is None else f", score {result.score:.4f} there"
    typer.echo(
        f"{result.networks} networks, {result.megabytes:.1f} MB, are in {result.path}; threshold "
        f"{result.threshold:.2f}, chosen on {result.chosen_on}{score}"
    )
    if result.calibration:
        typer.echo(result.calibration)
