"""`diapir finetune`: a model learns a survey from a few interpreted lines."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from diapir.cli.console import (
    SURVEY_LIBRARIES,
    Device,
    Json,
    Quiet,
    print_json,
    print_table,
    print_warning,
    require_libraries,
)
from diapir.cli.segy_options import takes_segy_options
from diapir.cli.survey_options import takes_survey_options_as_sampled

if TYPE_CHECKING:
    from diapir.inference.sections import SectionSettings
    from diapir.io.segy import SegyOptions


@takes_segy_options
@takes_survey_options_as_sampled
def finetune(
    model: Annotated[
        Path | None, typer.Argument(help="Model file to start from; default: Diapir's own.")
    ] = None,
    *,
    volume: Annotated[
        Path,
        typer.Option("--volume", help="Survey, 2-D line or section: SEG-Y, Zarr, MDIO, .npy, PNG."),
    ],
    labels: Annotated[
        Path,
        typer.Option(
            "--labels",
            help="Folder of inline_NUMBER.png or crossline_NUMBER.png, a volume of 0 and 1, or "
            "the PNG of a 2-D line under its name.",
        ),
    ],
    out: Annotated[Path, typer.Option("--out", help="Folder for the new model.")] = Path(
        "finetuned"
    ),
    unlabelled: Annotated[
        float | None,
        typer.Option(help="Label of what is not interpreted; default: 127 in PNG, otherwise -1."),
    ] = None,
    steps: Annotated[int, typer.Option(min=1, help="Training steps.")] = 200,
    batch: Annotated[int, typer.Option("--batch-size", min=1, help="Windows per step.")] = 8,
    side: Annotated[
        int, typer.Option("--side", min=32, help="Side of the training windows, in pixels.")
    ] = 128,
    lr: Annotated[float, typer.Option(min=1e-7, help="Initial learning rate.")] = 5e-4,
    seed: Annotated[
        int, typer.Option(min=0, help="Seed of the choice of windows and of mirroring.")
    ] = 0,
    holdout: Annotated[
        float,
        typer.Option(
            min=0.0,
            max=0.9,
            help="Share of lines to hold out, at least one; of traces on a 2-D line.",
        ),
    ] = 0.2,
    gap: Annotated[
        int,
        typer.Option(
            min=0, help="Lines, or traces of a 2-D line, left unused beside those held out."
        ),
    ] = 5,
    device: Device = "auto",
    as_json: Json = False,
    quiet: Quiet = False,
    survey: "SectionSettings",
    segy: "SegyOptions",
) -> None:
    """Fine-tune a model on a few interpreted lines; score it on lines held out.

    What has no interpretation is ignored. Lines are held out as a block with a gap around.
    """
    require_libraries(SURVEY_LIBRARIES, "volume")
    from diapir.runs.finetune import finetune_model
    from diapir.training.finetune import Tuning

    result = finetune_model(
        model,
        volume,
        labels,
        out,
        Tuning(steps=steps, batch=batch, window=side, lr=lr, seed=seed),
        survey,
        holdout=holdout,
        gap=gap,
        unlabelled=unlabelled,
        options=vars(segy),
        device=device,
        progress=not quiet,
    )
    if as_json:
        print_json(
            {
                "model": str(result.model),
                "before": result.before,
                "after": result.after,
                "threshold": result.threshold,
                "trained": list(result.trained),
                "held_out": list(result.held),
                "warnings": list(result.warnings),
            }
        )
        return
    for warning in result.warnings:
        print_warning(warning)
    rows = [(name, result.before[name], result.after[name]) for name in result.before]
    print_table(f"On {', '.join(result.held)}", ("metric", "before", "after"), rows)
    words = ["diapir", "map", str(volume), "OUT", "--model", str(result.model)]
    typer.echo(f"Map with it: {' '.join([shlex.join(words), *segy.flags()])}")
