"""Routes of surveys and jobs."""

import re
from typing import Annotated

from anyio import to_thread
from fastapi import APIRouter, Path, Query, Request
from fastapi.responses import FileResponse, Response

from diapir.serve.job_record import Job, JobRequest
from diapir.serve.jobs import Jobs
from diapir.serve.problems import describe
from diapir.serve.surveys import SurveyFolders, SurveyList, SurveyQuery

_RANGE = re.compile(r"bytes=(\d{1,18})-(\d{0,18})")
Id = Annotated[str, Path(pattern="^[0-9a-f]{16}$", description="From POST /jobs.")]


def job_router(jobs: Jobs, surveys: SurveyFolders) -> APIRouter:
    """Return the routes of surveys and jobs."""
    router = APIRouter(tags=["surveys"])

    @router.get("/surveys", responses=describe())
    async def list_surveys(query: Annotated[SurveyQuery, Query()]) -> SurveyList:
        """Return the surveys that may be mapped, a part at a time.

        What Diapir itself wrote into the folders of its maps and runs is no survey.
        """
        return await to_thread.run_sync(surveys.page, query)

    @router.post("/jobs", status_code=202, responses=describe(404, 408, 409, 503, 507))
    async def start_job(request: JobRequest, response: Response) -> Job:
        """Map a survey: probability, mask, horizons, bodies, meshes, report."""
        job = await jobs.add(request)
        response.headers["Location"] = f"/jobs/{job.id}"
        return job

    @router.get("/jobs", responses=describe())
    async def list_jobs() -> list[Job]:
        """Return all jobs, the newest first."""
        return jobs.all()

    @router.get("/jobs/{id}", responses=describe(404))
    async def show_job(id: Id) -> Job:  # noqa: A002  # the name in the path
        """Return a job and how far it is."""
        return jobs.find(id)

    @router.delete("/jobs/{id}", responses=describe(404, 409, 507))
    async def cancel_job(
        id: Id,  # noqa: A002
        remove: Annotated[
            bool, Query(description="Remove a job that has ended, with its results.")
        ] = False,
    ) -> Job:
        """Cancel a job that waits or runs; what it has predicted is kept to be resumed."""
        return await jobs.remove(id) if remove else jobs.cancel(id)

    @router.post("/jobs/{id}/resume", status_code=202, responses=describe(404, 409, 503, 507))
    async def resume_job(id: Id) -> Job:  # noqa: A002
        """Go on with a job that failed or was cancelled, where it was."""
        return jobs.resume(id)

    @router.get(
        "/jobs/{id}/files/{name:path}",
        response_class=FileResponse,
        responses={
            200: {"description": "The file", "content": {"application/octet-stream": {}}},
            206: {"description": "A part of it, where the header Range asks for one"},
            **describe(404),
        },
    )
    async def download(
        id: Id,  # noqa: A002
        name: Annotated[str, Path(description="One of the job's `files`.")],
        request: Request,
    ) -> FileResponse:
        """Return a result of a job, or the rest of it."""
        path = jobs.file(id, name)
        asked = _RANGE.fullmatch(request.headers.get("range", ""))
        if asked is None or int(asked[1]) >= path.stat().st_size or _ends_early(asked):
            # one may pass over it (RFC 9110, 14.2); Starlette refuses it in plain text
            headers = request.scope["headers"]
            request.scope["headers"] = [pair for pair in headers if pair[0] != b"range"]
        return FileResponse(path, media_type="application/octet-stream", filename=path.name)

    return router


def _ends_early(asked: re.Match[str]) -> bool:
    return asked[2] != "" and int(asked[2]) < int(asked[1])
