"""`diapir results`: finished runs as one page."""

from pathlib import Path
from typing import Annotated

import typer


def results(
    runs: Annotated[
        list[Path] | None,
        typer.Argument(help="Folders of finished runs; none: write the page of those kept again."),
    ] = None,
    out: Annotated[Path, typer.Option("--out", help="Markdown file.")] = Path("results.md"),
    submission: Annotated[
        list[Path] | None,
        typer.Option(help="A .json file that 'diapir submit' wrote; repeatable."),
    ] = None,
) -> None:
    """Write a page of results, with commands and figures, from finished runs alone.

    What it needs of a run is kept beside the page, so that later runs join the earlier ones.
    """
    from diapir.runs.results import write_results

    count = write_results(runs or [], submission or [], out)
    typer.echo(f"{count:,} runs are in {out}")
