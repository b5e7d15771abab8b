"""The service as one ASGI application."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence

from fastapi import APIRouter, FastAPI, Security
from fastapi.responses import Response
from fastapi.security import HTTPBearer
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import BaseModel
from starlette.routing import Route

from diapir import __version__
from diapir.inference.sections import SectionSettings
from diapir.serve.batcher import Batcher
from diapir.serve.guard import Guard
from diapir.serve.job_routes import job_router
from diapir.serve.jobs import Jobs
from diapir.serve.metrics import Metrics
from diapir.serve.models import Models
from diapir.serve.predict_routes import predict_router
from diapir.serve.problems import LOG, Problem, Refused, describe, handle_problems
from diapir.serve.settings import ServeSettings
from diapir.serve.surveys import SurveyFolders
from diapir.serve.viewer.library import Library, open_library


class Health(BaseModel):
    """That the service answers."""

    status: str
    version: str
    models: int


def create_app(settings: ServeSettings) -> FastAPI:
    """Return the service, its models loaded.

    Args:
        settings: What it offers, to whom, and its limits.

    Raises:
        DiapirError: A model, a folder or the settings cannot be used.
    """
    models, metrics = Models(settings.models, settings.options), Metrics()
    batcher = Batcher(models.predict, settings, metrics)
    jobs = None
    if settings.jobs is not None:
        surveys = SurveyFolders(settings.surveys)
        jobs = Jobs(settings.jobs, surveys, models, settings, metrics)
    library = _library(settings) if settings.views else None
    running: list[asyncio.Task[None]] = []

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        running[:] = [asyncio.create_task(batcher.run(), name="predictions")]
        if jobs is not None:
            running.append(asyncio.create_task(jobs.run(), name="jobs"))
        for task in running:
            task.add_done_callback(_log_end)
        yield
        models.stop()
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        if jobs is not None:
            jobs.close()
        if library is not None:
            library.close()

    app = FastAPI(
        title="Diapir",
        summary="Finds salt in seismic sections and surveys.",
        version=__version__,
        lifespan=lifespan,
        docs_url=None,  # both pages load scripts from elsewhere
        redoc_url=None,
        telemetry={"tracing": False, "metrics": False, "logs": False, "auto_configure": False},
    )
    handle_problems(app)
    app.include_router(_health_router(models, running))
    # the guard asks for the token; this tells the OpenAPI of it
    known = [Security(HTTPBearer(auto_error=False))] if settings.token else []
    app.include_router(_metrics_router(metrics), dependencies=known)
    app.include_router(predict_router(models, batcher, settings), dependencies=known)
    if jobs is not None:
        app.include_router(job_router(jobs, surveys), dependencies=known)
    if library is not None:
        _add_page(app, library)
    # last, and so outermost: newer releases of Panel answer from a middleware of their own
    app.add_middleware(Guard, settings=settings, metrics=metrics)
    return app


def _add_page(app: FastAPI, library: Library) -> None:
    """Mount the page, which is no part of what the OpenAPI tells programs."""
    from diapir.serve.viewer.server import add_viewer

    of_programs = list(app.routes)
    add_viewer(app, library)
    for route in app.routes:
        if route not in of_programs and isinstance(route, Route):
            route.include_in_schema = False


def _library(settings: ServeSettings) -> Library:
    return open_library(
        settings.views,
        models=settings.models,
        labels=settings.labels,
        settings=SectionSettings(flip=settings.options.flip),
        device=settings.options.device,
        engine=settings.options.engine,
        precision=settings.options.precision,
    )


def _log_end(task: asyncio.Task[None]) -> None:
    """Write down what ended a task that should go on until it is cancelled."""
    if not task.cancelled():
        LOG.error("no more %s: their task has ended", task.get_name(), exc_info=task.exception())


def _health_router(models: Models, running: Sequence["asyncio.Task[None]"]) -> APIRouter:
    router = APIRouter(tags=["service"])
    ended = {"model": Problem, "description": "What predicts, or what runs jobs, has ended."}

    @router.get("/health", responses={**describe(), 503: ended})
    async def health() -> Health:
        """Return that the service answers, and that its tasks run; needs no token."""
        for task in running:
            if task.done():
                raise Refused(
                    503,
                    Problem(
                        what=f"the service does no {task.get_name()} any more",
                        mend="Ask who runs the service to look into its log and to restart it.",
                    ),
                )
        return Health(status="ok", version=__version__, models=len(models.infos()))

    return router


def _metrics_router(metrics: Metrics) -> APIRouter:
    router = APIRouter(tags=["service"])

    @router.get(
        "/metrics",
        response_class=Response,
        responses={
            200: {
                "description": "Metrics",
                "content": {"text/plain": {"schema": {"type": "string"}}},
            },
            **describe(),
        },
    )
    async def show_metrics() -> Response:
        """Return counters and histograms in the text format of Prometheus."""
        return Response(metrics.text(), media_type=CONTENT_TYPE_LATEST)

    return router
