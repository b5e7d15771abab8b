"""What the verbs share: options that mean the same everywhere, tables, JSON."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from diapir.errors import RunError
from diapir.io.json_text import json_text

Data = Annotated[
    Path,
    typer.Option(
        "--data",
        help="Data set: the competition's folder (zips or unzipped), or images/ and masks/.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress bars.")]
Models = Annotated[
    list[Path] | None,
    typer.Argument(help="Model files; several are averaged; none: the packaged model."),
]
Flip = Annotated[
    bool | None,
    typer.Option("--flip/--no-flip", help="Average with the mirrored image; default: as trained."),
]
Threshold = Annotated[
    float | None,
    typer.Option(
        "--threshold",
        min=0,
        max=1,
        help="Probability above which it is salt; default: the model's own.",
    ),
]
BatchSize = Annotated[int, typer.Option("--batch-size", min=1, help="Tiles per forward pass.")]
Device = Annotated[str, typer.Option("--device", help="auto, cpu or cuda.")]
Engine = Annotated[
    str,
    typer.Option(
        "--engine",
        help="eager, compile, openvino or onnxruntime; auto measures and takes the fastest.",
    ),
]
Precision = Annotated[
    str,
    typer.Option("--precision", help="float32 (exact), bf16 (fast), or auto: the faster one."),
]

SURVEY_LIBRARIES = ("xarray", "zarr", "dask")
"""What reading a survey needs of the extra `volume`."""
MAP_LIBRARIES = (*SURVEY_LIBRARIES, "distributed", "skimage", "scipy", "meshio", "pyarrow")
"""What mapping salt through one needs of it."""


def require_libraries(names: Sequence[str], extras: str) -> None:
    """Say which extras are to be installed where a library is missing.

    Args:
        names: Of modules.
        extras: That bring them.

    Raises:
        RunError: One is not installed.
    """
    from importlib.util import find_spec

    missing = [name for name in names if find_spec(name) is None]
    if missing:
        raise RunError(
            f"not installed: {', '.join(missing)}",
            where="this Python",
            mend=f"In the folder of Diapir's source: pip install -c constraints.txt '.[{extras}]'.",
        )


def print_json(value: Any) -> None:
    """Print a result for programs, on standard output alone."""
    typer.echo(json_text(value))


def print_warning(text: str) -> None:
    """Print what a result should not be read without, on standard error."""
    typer.secho(f"warning: {printable(text)}", err=True, fg="yellow")


def printable(text: str) -> str:
    r"""Return a text without what a terminal would take for commands.

    Names in other people's files may hold anything.

    >>> printable("a\x1b[31m b")
    'a\ufffd[31m b'
    """
    return "".join(
        mark if mark.isprintable() or mark == "\n" else "\N{REPLACEMENT CHARACTER}" for mark in text
    )


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a table for people; floats with four digits, numbers flush right, None as a dash."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=printable(title), title_justify="left")
    for number, column in enumerate(columns):
        figures = all(isinstance(row[number], int | float | None) for row in rows)
        table.add_column(column, justify="right" if figures else "left")
    for row in rows:
        table.add_row(*(_text(cell) for cell in row))
    Console(markup=False, emoji=False).print(table)


def _text(cell: object) -> str:
    if cell is None or cell != cell:  # NaN is not equal to itself
        return "-"
    if isinstance(cell, float):
        return f"{cell:.4f}"
    return f"{cell:,}" if isinstance(cell, int) else printable(str(cell))
