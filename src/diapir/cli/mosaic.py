"""`diapir mosaic`: which tiles are neighbours, and the sections that they make up."""

import shlex
from pathlib import Path
from typing import Annotated

import typer

from diapir.cli.console import Json, Quiet, print_json, print_table, print_warning


def mosaic(
    data: Annotated[Path, typer.Argument(help="Data set; its test tiles are included.")],
    out: Annotated[Path, typer.Option("--out", help="Folder to write.")] = Path("mosaic"),
    false_share: Annotated[
        float, typer.Option("--false-share", help="Share of the pairs that may be false.")
    ] = 0.02,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Find neighbouring tiles by their borders; write sections, and groups for leak-free splits."""
    from diapir.runs.mosaic import evidence_rows, write_mosaics

    result = write_mosaics(data, out, false_share=false_share, progress=not quiet)
    if result.warning is not None:
        print_warning(result.warning)
    if as_json:
        print_json(result.evidence)
        return
    rows, columns, pairs = evidence_rows(result.evidence)
    print_table("Mosaics", ("what", "count"), rows)
    print_table("Pairs", columns, pairs)
    if not result.found.mosaics:
        typer.echo("no tiles are neighbours, as far as their borders tell")
        return
    words = ["--data", str(data), "--set", f"split.groups={out / 'groups.csv'}"]
    typer.echo(f"Look at {out / 'mosaics.png'}; split by them with")
    typer.echo(f"  diapir train RECIPE {shlex.join(words)}")
    typer.echo("and see what random folds flatter with 'diapir results RUN RUN --compare'")
