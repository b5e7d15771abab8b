"""`diapir serve`: the REST service, and the page in the browser."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from diapir.cli.console import (
    MAP_LIBRARIES,
    SURVEY_LIBRARIES,
    BatchSize,
    Device,
    Engine,
    Flip,
    Models,
    Precision,
    require_libraries,
)

if TYPE_CHECKING:
    from diapir.serve.settings import ServeSettings

_PAGE = ("panel", "bokeh_fastapi", "websockets")
_NEEDED = ("fastapi", "uvicorn", "prometheus_client")


def serve(
    models: Models = None,
    *,
    surveys: Annotated[
        list[Path] | None,
        typer.Option("--surveys", help="Folder whose surveys may be mapped; repeatable."),
    ] = None,
    jobs: Annotated[Path, typer.Option("--jobs", help="Folder for the results of jobs.")] = Path(
        "diapir-jobs"
    ),
    host: Annotated[
        str, typer.Option("--host", help="Address to listen on; the default is this machine alone.")
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option("--port", min=0, max=65535, help="Port to listen on; 0: any free one.")
    ] = 8000,
    allow_host: Annotated[
        list[str] | None,
        typer.Option("--allow-host", help="Name by which clients call the service; repeatable."),
    ] = None,
    token_file: Annotated[
        Path | None,
        typer.Option(
            "--token-file", help="File with the token that clients must send; or set DIAPIR_TOKEN."
        ),
    ] = None,
    max_mib: Annotated[int, typer.Option(min=1, max=1024, help="Largest file, in MiB.")] = 64,
    queue: Annotated[int, typer.Option(min=1, help="Most sections held in memory at a time.")] = 64,
    job_workers: Annotated[int, typer.Option(min=1, help="Processes that map a survey.")] = 1,
    view: Annotated[
        list[Path] | None,
        typer.Option("--view", help="What the page at /view shows, as 'diapir view'; repeatable."),
    ] = None,
    labels: Annotated[
        Path, typer.Option("--labels", help="Folder for the corrections drawn there.")
    ] = Path("labels"),
    flip: Flip = None,
    batch_size: BatchSize = 32,
    device: Device = "auto",
    engine: Engine = "auto",
    precision: Precision = "auto",
) -> None:
    """Serve predictions over HTTP, until Ctrl-C or SIGTERM.

    Each model is offered by the name of its file, or of its run folder. /openapi.json describes
    every path.
    """
    of_surveys = MAP_LIBRARIES if surveys else SURVEY_LIBRARIES
    require_libraries((*_NEEDED, *(_PAGE if view else ()), *of_surveys), "serve,volume")
    from diapir.inference.predict import PredictOptions
    from diapir.models.packaged import models_or_packaged
    from diapir.serve.settings import LOOPBACK, ServeSettings, read_token

    settings = ServeSettings(
        models=tuple(models_or_packaged(models or [])),
        surveys=tuple(surveys or ()),
        jobs=jobs if surveys else None,
        token=read_token(token_file) if token_file else os.environ.get("DIAPIR_TOKEN"),
        hosts=(*LOOPBACK, *(name.lower() for name in allow_host or ()))
        if host in LOOPBACK or allow_host
        else (),
        max_bytes=max_mib << 20,
        held_bytes=max(256, 2 * max_mib) << 20,
        queue=queue,
        job_workers=job_workers,
        views=tuple(view or ()),
        labels=labels,
        options=PredictOptions(
            flip=flip, batch_size=batch_size, device=device, engine=engine, precision=precision
        ),
    )
    if host not in LOOPBACK and settings.token is None:
        text = "note: anybody who reaches this address is served; give --token-file to ask for one"
        typer.secho(text, err=True, fg="yellow")
    _run(settings, host, port)


def _run(settings: "ServeSettings", host: str, port: int) -> None:
    import uvicorn

    from diapir.serve.address import listen
    from diapir.serve.app import create_app

    address = listen(host, port)  # before models are loaded in vain
    app = create_app(settings)
    config = uvicorn.Config(
        app,
        access_log=False,  # /metrics counts, and a proxy in front writes one
        server_header=False,
        timeout_graceful_shutdown=30,
        timeout_keep_alive=75,  # longer than proxies keep an idle connection, which then end it
        proxy_headers=False,
    )
    with address:
        shown = f"[{host}]" if ":" in host else host
        typer.echo(f"Diapir running on http://{shown}:{address.getsockname()[1]}", err=True)
        server = uvicorn.Server(config)
        server.run([address])
        if server.started and server.should_exit:
            # asyncio drops a Ctrl-C that comes when there is nothing left to cancel
            raise KeyboardInterrupt
