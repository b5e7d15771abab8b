"""`diapir submit`: the test tiles as a submission."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from diapir.cli.console import (
    BatchSize,
    Data,
    Device,
    Engine,
    Flip,
    Json,
    Models,
    Precision,
    Quiet,
    Threshold,
    print_json,
    print_warning,
)


def submit(
    models: Models = None,
    *,
    data: Data,
    out: Annotated[Path, typer.Option("--out", help="CSV file to write.")] = Path("submission.csv"),
    flip: Flip = None,
    threshold: Threshold = None,
    batch_size: BatchSize = 32,
    device: Device = "auto",
    engine: Engine = "auto",
    precision: Precision = "auto",
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Predict all test tiles and write a valid submission."""
    from diapir.inference.predict import PredictOptions
    from diapir.runs.predict import submit as write

    result = write(
        models or [],
        data,
        out,
        options=PredictOptions(flip, threshold, batch_size, device, precision, engine),
        progress=not quiet,
    )
    if result.warning is not None:
        print_warning(result.warning)
    if as_json:
        print_json({"file": str(out), **asdict(result)})
        return
    typer.echo(
        f"{result.tiles:,} tiles, {result.with_salt:,} with salt, are in {out}; "
        f"{result.seconds:.1f} s, {result.model_seconds:.1f} s of them in the model"
    )
