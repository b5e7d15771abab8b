"""`diapir doctor`: what a SEG-Y file is, and how to read it."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from diapir.cli.console import Json, Quiet, print_json, print_table
from diapir.cli.segy_options import takes_segy_options

if TYPE_CHECKING:
    from diapir.io.segy import SegyOptions

_COLOURS = {"error": "red", "warning": "yellow"}


@takes_segy_options
def doctor(
    file: Annotated[Path, typer.Argument(help="A SEG-Y file, or what is said to be one.")],
    text: Annotated[bool, typer.Option("--text", help="Show the text header as well.")] = False,
    as_json: Json = False,
    quiet: Quiet = False,
    *,
    segy: "SegyOptions",
) -> None:
    """Say what a SEG-Y file is, what is odd about it, and which flags read it.

    Exit code 1 if it cannot be used as a post-stack survey or line.
    """
    from diapir.io.segy_doctor import diagnose
    from diapir.progress import pulsing

    with pulsing("reading headers", shown=not quiet) as advance:
        found = diagnose(file, segy, advance)
    if as_json:
        print_json(found.to_dict())
    else:
        if text and found.text:
            typer.echo(found.text + "\n")
        if found.facts:
            print_table(str(file), ("what", "found"), found.facts)
        for finding in found.findings:
            typer.secho(f"{finding.severity}: ", fg=_COLOURS.get(finding.severity), nl=False)
            typer.echo(finding.what + (f"\n  fix: {finding.mend}" if finding.mend else ""))
        if found.usable:
            flags = " ".join(found.flags) or "none needed"
            typer.echo(f"Flags to pass: {flags}")
        else:
            typer.echo("This cannot be used as a post-stack survey or line as it is.")
    if not found.usable:
        raise typer.Exit(1)
