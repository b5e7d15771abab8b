"""`diapir demo`: the whole way in a few minutes."""

from pathlib import Path
from typing import Annotated

import typer

from diapir.cli.console import Json, Quiet, print_json, print_table


def demo(
    data: Annotated[
        Path | None,
        typer.Option("--data", help="Data set; without it a synthetic one is drawn."),
    ] = None,
    out: Annotated[Path, typer.Option("--out", help="Folder for everything.")] = Path("demo"),
    minutes: Annotated[float, typer.Option(min=0.05, help="Training time at most.")] = 4.0,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Generate data, train, score, predict, submit, report: everything once, in a few minutes."""
    from diapir.runs.demo import run_demo

    rows = run_demo(out, data, minutes=minutes, progress=not quiet)
    if as_json:
        print_json(dict(rows))
    else:
        print_table("Demo", ("what", "result"), rows)
