"""`diapir evaluate`: how well models do on labelled tiles."""

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
    print_table,
    print_warning,
)


def evaluate(
    models: Models = None,
    *,
    data: Data,
    part: Annotated[
        str,
        typer.Option(
            help="auto: the tiles of --data that the models' training never saw; all: every tile."
        ),
    ] = "auto",
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder for evaluation.json, figures and report.")
    ] = None,
    flip: Flip = None,
    threshold: Threshold = None,
    batch_size: BatchSize = 32,
    device: Device = "auto",
    engine: Engine = "auto",
    precision: Precision = "auto",
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Score models on labelled tiles: all metrics with intervals, by coverage and depth.

    Given the folder of a run with folds, its out-of-fold predictions are scored.
    """
    from diapir.inference.predict import PredictOptions
    from diapir.runs.evaluate import evaluate_models
    from diapir.runs.report import group_rows, metric_rows

    judged = evaluate_models(
        models or [],
        data,
        part=part,
        out=out,
        options=PredictOptions(flip, threshold, batch_size, device, precision, engine),
        progress=not quiet,
    )
    found = judged.found
    for warning in judged.warnings:
        print_warning(warning)
    if as_json:
        print_json(judged.to_dict())
        return
    title = f"{len(found):,} tiles, threshold {found.threshold:.2f}"
    print_table(title, ("metric", "value", "from", "to"), metric_rows(found))
    for name, groups in (("coverage", found.by_coverage), ("depth", found.by_depth)):
        if groups:
            columns = (name, "tiles", "score", "from", "to", "IoU")
            print_table(f"By {name}", columns, group_rows(groups))
    trust = judged.trust
    typer.echo(
        f"Calibration error {trust.after.error:.4f} at temperature {trust.temperature:.2f}, "
        f"{trust.before.error:.4f} without"
    )
    if out is not None:
        typer.echo(f"Look at {out / 'report.html'}")
