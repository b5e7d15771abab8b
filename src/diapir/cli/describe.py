"""`diapir describe`: what is in a data set."""

from pathlib import Path
from typing import Annotated

import typer

from diapir.cli.console import Json, Quiet, print_json, print_table


def describe(
    data: Annotated[Path, typer.Argument(help="Data set, as for 'diapir train --data'.")],
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder for the figures and describe.json.")
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Count what is in a data set, with every quirk that may mislead a training.

    Without labels there are neither counts of masks nor figures.
    """
    from diapir.runs.describe import describe_data

    found = describe_data(data, out, progress=not quiet)
    if as_json:
        print_json({part: counts.to_dict() for part, counts in found.items()})
        return
    for part, counts in found.items():
        print_table(f"{part.capitalize()} tiles", ("what", "count"), counts.rows())
    if out is not None:
        written = "Figures and describe.json are" if "labelled" in found else "describe.json is"
        typer.echo(f"{written} in {out}")
