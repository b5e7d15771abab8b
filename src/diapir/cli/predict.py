"""`diapir predict`: masks of any images."""

from pathlib import Path
from typing import Annotated

import typer

from diapir.cli.console import BatchSize, Device, Engine, Flip, Precision, Quiet, Threshold


def predict(
    models: Annotated[
        list[Path],
        typer.Argument(
            metavar="[MODEL]... INPUT OUTPUT",
            help="Model files, then what to predict, then the folder to write; see above.",
        ),
    ],
    masks: Annotated[bool, typer.Option(help="Write masks, 0 and 255.")] = True,
    probs: Annotated[bool, typer.Option(help="Write probabilities, 16 bits.")] = False,
    flip: Flip = None,
    threshold: Threshold = None,
    batch_size: BatchSize = 32,
    device: Device = "auto",
    engine: Engine = "auto",
    precision: Precision = "auto",
    quiet: Quiet = False,
) -> None:
    """Predict salt in images of any size: [MODEL]... INPUT OUTPUT.

    MODEL is any number of model files, which are averaged, or none for the
    packaged model; INPUT a PNG file, or a folder or zip of them; OUTPUT a
    folder, which gets masks/ and, with --probs, probs/.
    """
    if len(models) < 2:
        raise typer.BadParameter("give [MODEL]... INPUT OUTPUT: at least two paths")
    if not masks and not probs:
        raise typer.BadParameter("nothing to write: give --probs or leave out --no-masks")
    *files, source, out = models

    from diapir.inference.predict import PredictOptions
    from diapir.runs.predict import predict_images

    found = predict_images(
        files,
        source,
        out,
        masks=masks,
        probs=probs,
        options=PredictOptions(flip, threshold, batch_size, device, precision, engine),
        progress=not quiet,
    )
    typer.echo(f"{found.images:,} images predicted into {out}, {found.with_salt:,} with salt")
