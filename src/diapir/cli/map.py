"""`diapir map`: salt through a survey."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from diapir.cli.console import (
    MAP_LIBRARIES,
    Device,
    Engine,
    Json,
    Quiet,
    Threshold,
    print_json,
    print_table,
    require_libraries,
)
from diapir.cli.segy_options import takes_segy_options
from diapir.cli.survey_options import takes_survey_options

if TYPE_CHECKING:
    from diapir.inference.sections import SectionSettings
    from diapir.io.segy import SegyOptions
    from diapir.runs.map_result import MapResult


@takes_segy_options
@takes_survey_options
def map_(
    source: Annotated[
        Path, typer.Argument(metavar="INPUT", help="SEG-Y, Zarr, MDIO, or a PNG or .npy section.")
    ],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder to write.")],
    model: Annotated[
        list[Path] | None,
        typer.Option("--model", "-m", help="Model file; repeatable; default: the packaged one."),
    ] = None,
    threshold: Threshold = None,
    directions: Annotated[
        Literal["both", "inline", "crossline"], typer.Option(help="Which sections to predict.")
    ] = "both",
    batch: Annotated[
        int, typer.Option("--batch-size", min=1, help="Windows per forward pass.")
    ] = 4,
    block_lines: Annotated[
        int | None, typer.Option(min=1, help="Lines per block; default: as many as memory allows.")
    ] = None,
    min_body: Annotated[
        int | None,
        typer.Option(min=1, help="Smallest body, in samples; default: depends on the survey."),
    ] = None,
    max_bodies: Annotated[int, typer.Option(min=1, help="Most bodies to keep.")] = 20,
    velocity: Annotated[
        float | None,
        typer.Option(min=1, help="Mean velocity in m/s, for volumes of surveys in time."),
    ] = None,
    display: Annotated[
        Literal["gray", "gray_r", "seismic"],
        typer.Option(help="Colours of the sections in the report."),
    ] = "gray",
    workers: Annotated[
        int | None,
        typer.Option(min=1, help="Workers on this machine; default: one per GPU or core."),
    ] = None,
    threads: Annotated[
        bool, typer.Option("--threads", help="Run the workers as threads of this process.")
    ] = False,
    scheduler: Annotated[
        str | None, typer.Option(help="Address of a running Dask scheduler.")
    ] = None,
    write_segy: Annotated[
        bool | None,
        typer.Option(
            "--segy/--no-segy",
            help="Probability and mask as SEG-Y, too; default: if the survey's own file is there.",
        ),
    ] = None,
    device: Device = "auto",
    engine: Engine = "eager",
    as_json: Json = False,
    quiet: Quiet = False,
    *,
    survey: "SectionSettings",
    segy: "SegyOptions",
) -> None:
    """Map salt through a survey: probability, mask, horizons, bodies, meshes, report.

    Killed at any moment, the same command goes on where it was.
    """
    require_libraries(MAP_LIBRARIES, "volume")
    from dataclasses import replace

    from diapir.inference.schedule import Workers
    from diapir.runs.map import map_survey
    from diapir.runs.map_result import MapSettings

    said: list[str] = []

    def say(text: str) -> None:
        said.append(text)
        _note(text)

    result = map_survey(
        source,
        out,
        model or [],
        MapSettings(
            replace(survey, tiling=replace(survey.tiling, batch=batch)),
            threshold=threshold,
            directions=directions,
            lines=block_lines,
            min_samples=min_body,
            max_bodies=max_bodies,
            velocity_m_s=velocity,
            display=display,
            engine=engine,
        ),
        workers=Workers(workers, not threads, scheduler),
        options=vars(segy),
        device=device,
        segy=write_segy,
        progress=not quiet,
        say=say,
    )
    _show(result, said, as_json)


def _note(text: str) -> None:
    typer.secho(f"note: {text}", err=True, fg="yellow")


def _show(result: "MapResult", said: list[str], as_json: bool) -> None:
    from dataclasses import asdict

    from diapir.report.figures_survey import quantity

    bodies = result.products.bodies.bodies
    if as_json:
        print_json(
            {
                "files": [str(path) for path in result.files],
                "bodies": [asdict(body) for body in bodies],
                "news": list(result.news),
            }
        )
        return
    for text in result.news:
        if text not in said:
            _note(text)
    unit = result.products.frame.unit
    rows = [
        (
            body.number,
            body.samples,
            "-" if body.volume_m3 is None else f"{body.volume_m3:,.0f}",
            f"{body.z[0]:g}-{body.z[1]:g}",
            body.mean_prob,
        )
        for body in bodies
    ]
    if rows:
        columns = ("body", "samples", "volume (m3)", quantity(unit), "mean probability")
        print_table("Salt bodies", columns, rows)
    typer.echo(f"Look at {result.out / 'report.html'}")
