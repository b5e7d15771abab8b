"""`diapir results`: finished runs as one page."""

from pathlib import Path
from typing import Annotated

import typer


def results(
    runs: Annotated[list[Path], typer.Argument(help="Folders of finished runs.")],
    out: Annotated[Path, typer.Option("--out", help="Markdown file.")] = Path("results.md"),
    submission: Annotated[
        list[Path] | None,
        typer.Option(help="A .json file that 'diapir submit' wrote; repeatable."),
    ] = None,
) -> None:
    """Write a page of results, with commands and figures, from finished runs alone."""
    from diapir.runs.results import write_results

    write_results(runs, submission or [], out)
    typer.echo(f"{len(runs):,} runs are in {out}")
