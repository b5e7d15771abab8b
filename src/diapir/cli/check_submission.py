"""`diapir check-submission`: what is wrong with a submission file."""

from pathlib import Path
from typing import Annotated

import typer

from diapir.cli.console import Data, Json, print_json, print_warning


def check_submission(
    file: Annotated[Path, typer.Argument(help="The submission: a CSV of columns id and rle_mask.")],
    data: Data,
    as_json: Json = False,
) -> None:
    """Say everything that is wrong with a submission; exit code 1 if there is anything."""
    from diapir.runs.check_submission import check_submission_file

    found = check_submission_file(file, data)
    problems = found.problems
    if found.warning is not None:
        print_warning(found.warning)
    if as_json:
        print_json({"valid": not problems, "problems": [p.to_dict() for p in problems]})
    elif problems:
        for problem in problems:
            typer.echo(str(problem))
        typer.echo(f"{sum(p.count for p in problems):,} problems in {file}")
    else:
        typer.echo(f"{file} is a valid submission of {found.tiles:,} tiles")
    if problems:
        raise typer.Exit(1)
