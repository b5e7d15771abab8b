"""`diapir demo`: the whole way in a few minutes."""

from pathlib import Path
from typing import Annotated

import typer

from diapir.cli.console import (
    MAP_LIBRARIES,
    Json,
    Quiet,
    print_json,
    print_table,
    require_libraries,
)


def demo(
    data: Annotated[
        Path | None,
        typer.Option("--data", help="Data set; default: a synthetic one is drawn."),
    ] = None,
    out: Annotated[Path, typer.Option("--out", help="Folder for everything.")] = Path("demo"),
    minutes: Annotated[
        float, typer.Option(min=0.05, help="Longest training time, in minutes.")
    ] = 4.0,
    survey: Annotated[
        bool, typer.Option("--survey", help="Draw a survey and map salt through it instead.")
    ] = False,
    model: Annotated[
        Path | None,
        typer.Option("--model", help="With --survey: a model file; default: one is trained."),
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Generate data, train, score, predict, submit, report: everything once, in a few minutes."""
    if survey and data is not None:
        raise typer.BadParameter("--survey draws its own data: leave out --data")
    if model is not None and not survey:
        raise typer.BadParameter("--model belongs to --survey")
    if survey:
        require_libraries(MAP_LIBRARIES, "volume")
        from diapir.runs.survey_demo import run_survey_demo

        rows = run_survey_demo(out, model, minutes=minutes, progress=not quiet)
    else:
        from diapir.runs.demo import run_demo

        rows = run_demo(out, data, minutes=minutes, progress=not quiet)
    if as_json:
        print_json(dict(rows))
    else:
        print_table("Demo", ("what", "result"), rows)
