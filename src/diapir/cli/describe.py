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
    from diapir.data.census import census
    from diapir.io.layout import present_parts
    from diapir.io.lock import sole_writer
    from diapir.io.tiles import read_tiles
    from diapir.runs.folder import write_json
    from diapir.runs.report import save_data_figures

    tiles = {part: read_tiles(data, part, progress=not quiet) for part in present_parts(data)}
    names = {"train": "labelled", "test": "test"}
    found = {names[part]: census(of_part) for part, of_part in tiles.items()}
    table = {part: counts.to_dict() for part, counts in found.items()}
    if out is not None:
        with sole_writer(out):
            if "train" in tiles:
                save_data_figures(tiles["train"], out)
            write_json(out / "describe.json", table)
    if as_json:
        print_json(table)
        return
    for part, counts in found.items():
        print_table(f"{part.capitalize()} tiles", ("what", "count"), counts.rows())
    if out is not None:
        written = "Figures and describe.json are" if "train" in tiles else "describe.json is"
        typer.echo(f"{written} in {out}")
