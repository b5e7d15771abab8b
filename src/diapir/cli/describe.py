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
    """Count what is in a data set, with every quirk that may mislead a training."""
    from diapir.data.census import census
    from diapir.io.layout import has_part
    from diapir.io.lock import sole_writer
    from diapir.io.tiles import read_tiles
    from diapir.runs.folder import write_json
    from diapir.runs.report import save_data_figures

    labelled = read_tiles(data, "train", progress=not quiet)
    found = {"labelled": census(labelled)}
    if has_part(data, "test"):
        found["test"] = census(read_tiles(data, "test", progress=not quiet))
    table = {part: counts.to_dict() for part, counts in found.items()}
    if out is not None:
        with sole_writer(out):
            save_data_figures(labelled, out)
            write_json(out / "describe.json", table)
    if as_json:
        print_json(table)
        return
    for part, counts in found.items():
        print_table(f"{part.capitalize()} tiles", ("what", "count"), counts.rows())
    if out is not None:
        typer.echo(f"Figures and describe.json are in {out}")
