"""`diapir ingest`: SEG-Y into a store that opens at once."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from diapir.cli.console import (
    SURVEY_LIBRARIES,
    Json,
    Quiet,
    print_json,
    print_warning,
    require_libraries,
)
from diapir.cli.segy_options import takes_segy_options

if TYPE_CHECKING:
    from diapir.io.segy import SegyOptions


@takes_segy_options
def ingest(
    file: Annotated[Path, typer.Argument(help="SEG-Y: a post-stack survey or a 2-D line.")],
    store: Annotated[Path, typer.Argument(help="Zarr store to write, such as survey.zarr.")],
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the store if it exists.")
    ] = False,
    workers: Annotated[
        int, typer.Option(min=1, help="Threads, each of which holds one block.")
    ] = 2,
    as_json: Json = False,
    quiet: Quiet = False,
    *,
    segy: "SegyOptions",
) -> None:
    """Copy a SEG-Y file into a Zarr store with coordinates and units, in bounded memory.

    Interrupted at any moment, the same command goes on where it was.
    """
    require_libraries(SURVEY_LIBRARIES, "volume")
    from diapir.io.ingest import ingest as write

    done = write(file, store, segy, overwrite=overwrite, workers=workers, progress=not quiet)
    amplitude, grid = done.volume["amplitude"], done.survey.grid
    if as_json:
        print_json(
            {
                "store": str(store),
                "shape": dict(zip(map(str, amplitude.dims), amplitude.shape, strict=True)),
                "traces": done.survey.file.traces,
                "duplicates": grid.duplicates,
                "warnings": list(grid.warnings),
                "blocks": done.blocks,
                "written": done.written,
            }
        )
        return
    for warning in grid.warnings:
        print_warning(warning)
    size = " x ".join(f"{n:,}" for n in amplitude.shape)
    names = ", ".join(map(str, amplitude.dims))
    typer.echo(
        f"{done.survey.file.traces:,} traces are in {store}: {size} ({names}); "
        f"{done.written:,} of {done.blocks:,} blocks written now"
    )
