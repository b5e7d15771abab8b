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
    from diapir.errors import DataError
    from diapir.export.submission import check_submission as find_problems
    from diapir.export.submission import sample_order
    from diapir.io.tiles import read_outline

    ids, size, tables = read_outline(data, "test")
    problems = find_problems(file, ids, size)
    try:
        _, mismatch = sample_order(tables, ids)
    except DataError as error:  # the file may be right all the same
        mismatch = str(error)
    if mismatch is not None:
        print_warning(mismatch)
    if as_json:
        print_json({"valid": not problems, "problems": [p.to_dict() for p in problems]})
    elif problems:
        for problem in problems:
            typer.echo(str(problem))
        typer.echo(f"{sum(p.count for p in problems):,} problems in {file}")
    else:
        typer.echo(f"{file} is a valid submission of {len(ids):,} tiles")
    if problems:
        raise typer.Exit(1)
