"""`diapir view`: surveys, sections and tiles in the browser."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from diapir.cli.console import SURVEY_LIBRARIES, Device, Engine, Precision, require_libraries
from diapir.cli.segy_options import takes_segy_options
from diapir.cli.survey_options import takes_survey_options

if TYPE_CHECKING:
    from diapir.inference.sections import SectionSettings
    from diapir.io.segy import SegyOptions

_NEEDED = ("panel", "bokeh_fastapi", "fastapi", "uvicorn", "websockets", *SURVEY_LIBRARIES)


@takes_segy_options
@takes_survey_options
def view(
    paths: Annotated[
        list[Path],
        typer.Argument(
            metavar="PATH...",
            help="Folders of tiles, PNG images, SEG-Y, Zarr or MDIO, or folders of 'diapir map'.",
        ),
    ],
    model: Annotated[
        list[Path] | None,
        typer.Option("--model", "-m", help="Model file to predict with; repeatable."),
    ] = None,
    salt: Annotated[
        Path | None, typer.Option("--salt", help="Folder that 'diapir map' wrote for the survey.")
    ] = None,
    truth: Annotated[
        Path | None, typer.Option("--truth", help="Volume of 0 and 1 to compare with.")
    ] = None,
    labels: Annotated[
        Path, typer.Option("--labels", help="Folder for corrections, as 'finetune' reads them.")
    ] = Path("labels"),
    port: Annotated[
        int, typer.Option("--port", min=0, max=65535, help="Port of the page; 0: any free one.")
    ] = 0,
    browser: Annotated[
        bool, typer.Option("--browser/--no-browser", help="Open the browser at the page.")
    ] = True,
    device: Device = "auto",
    engine: Engine = "auto",
    precision: Precision = "auto",
    *,
    survey: "SectionSettings",
    segy: "SegyOptions",
) -> None:
    """View surveys, sections and tiles in the browser, with their salt, and correct it.

    The page is for this machine alone. Ctrl-C ends it.
    """
    require_libraries(_NEEDED, "serve,volume")
    from diapir.serve.viewer.library import open_library
    from diapir.serve.viewer.server import run_viewer

    library = open_library(
        paths,
        models=model or (),
        salt=salt,
        truth=truth,
        labels=labels,
        settings=survey,
        options=vars(segy),
        device=device,
        engine=engine,
        precision=precision,
    )
    run_viewer(library, port=port, ready=lambda address: _tell(address, browser))


def _tell(address: str, browser: bool) -> None:
    typer.echo(f"Look at {address} (Ctrl-C ends)")
    if browser:
        import webbrowser

        webbrowser.open(address)
