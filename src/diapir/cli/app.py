"""The `diapir` command: its verbs, and how errors and signals end it."""

import gc
import os
import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from diapir import __version__
from diapir.cli import (
    check_submission,
    demo,
    describe,
    doctor,
    ensemble,
    evaluate,
    export,
    finetune,
    info,
    ingest,
    mosaic,
    predict,
    recipes,
    results,
    serve,
    submit,
    synth,
    train,
    view,
)
from diapir.cli import map as map_verb
from diapir.cli.console import printable
from diapir.cli.output import ending_with_its_reader
from diapir.cli.verb import Verb
from diapir.errors import DiapirError, RunError
from diapir.io.atomic import DISK_ERRORS, cannot_write


class _Verbs(TyperGroup):
    """All verbs; of the pipes that break, Typer would take every one for standard output."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError as error:  # that of standard output ends in `ending_with_its_reader`
            raise RunError(
                "a process that this one was talking to has ended",
                mend="Run the command again; the log of the system says whether memory was short.",
            ) from error


app = typer.Typer(
    cls=_Verbs,
    help="Find salt in seismic images.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for _verb, _command in (
    ("demo", demo.demo),
    ("describe", describe.describe),
    ("mosaic", mosaic.mosaic),
    ("recipes", recipes.recipes),
    ("train", train.train),
    ("ensemble", ensemble.ensemble),
    ("evaluate", evaluate.evaluate),
    ("predict", predict.predict),
    ("submit", submit.submit),
    ("check-submission", check_submission.check_submission),
    ("export", export.export),
    ("map", map_verb.map_),
    ("finetune", finetune.finetune),
    ("info", info.info),
    ("doctor", doctor.doctor),
    ("ingest", ingest.ingest),
    ("serve", serve.serve),
    ("view", view.view),
    ("results", results.results),
):
    app.command(_verb, cls=Verb)(_command)
app.add_typer(synth.app, name="synth")


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"diapir {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version and end."
        ),
    ] = False,
) -> None:
    gc.enable()  # a verb begins


def main() -> None:
    """Run the command line; a mendable error ends in its message and exit code."""
    # Threads of torch that wait for each other spin by default. On a machine with anything else
    # to do they take the cores from the thread they wait for: 3.4 times slower, measured on two
    # cores beside three other processes. OpenMP reads this once, when torch is imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    gc.disable()  # as in `diapir.cli`
    try:
        with ending_with_its_reader():
            app()
    except DiapirError as error:
        typer.secho(f"error: {printable(str(error))}", err=True, fg="red")
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        typer.echo("interrupted", err=True)
        sys.exit(130)
    except OSError as error:
        if error.errno not in DISK_ERRORS:
            raise
        # from a library that writes by itself, such as the log of a training
        told = cannot_write(error.filename or "the output", error)
        typer.secho(f"error: {printable(str(told))}", err=True, fg="red")
        sys.exit(told.exit_code)
