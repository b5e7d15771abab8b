"""Jobs: surveys that are mapped one after another, each in a process of its own."""

import asyncio
import json
import os
import secrets
import shutil
import signal
import sys
from contextlib import ExitStack, suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, get_args

from anyio import to_thread

from diapir.errors import RunError
from diapir.io.atomic import write_text_atomic
from diapir.runs.folder import RunFolder
from diapir.serve.job_record import Job, JobRequest, State, read_jobs
from diapir.serve.metrics import Metrics
from diapir.serve.models import Models
from diapir.serve.problems import Problem, Refused, busy, internal_error
from diapir.serve.settings import ServeSettings
from diapir.serve.surveys import SurveyFolders

_GRACE_S = 5.0
_RETRY_S = 60
_LONGEST_LINE = 1 << 24


class Jobs:
    """Keeps jobs in a folder each, and runs one at a time.

    What is on the disk is enough to go on: after a restart, jobs that were waiting or running run
    again, and the map goes on with the block where it was.

    Args:
        folder: Takes a folder a job.
        surveys: What may be mapped.
        models: What may map it.
        settings: Limits.
        metrics: Take the number of jobs by state.

    Raises:
        RunError: The folder cannot be made, or another service uses it.
    """

    def __init__(
        self,
        folder: Path,
        surveys: SurveyFolders,
        models: Models,
        settings: ServeSettings,
        metrics: Metrics,
    ) -> None:
        self._folder = RunFolder(folder.resolve())
        self._folder.make_plain()
        self._lock = ExitStack()
        self._lock.enter_context(self._folder.locked())
        self._surveys, self._models = surveys, models
        self._settings, self._metrics = settings, metrics
        self._jobs = read_jobs(self._folder.path)
        self._process: asyncio.subprocess.Process | None = None
        self._running: Job | None = None
        self._news = asyncio.Event()

    async def run(self) -> None:
        """Run the jobs that wait, until cancelled; what runs then will go on another time."""
        for job in self._jobs.values():
            if job.state == "running":  # when the service ended, as the disk may go on saying
                job.state = "waiting"
        self._count()
        me = asyncio.current_task()
        while True:
            if me is not None and me.cancelling():  # it came while the end of a process was awaited
                raise asyncio.CancelledError
            waiting = [job for job in self._jobs.values() if job.state == "waiting"]
            if not waiting:
                self._news.clear()
                await self._news.wait()
                continue
            try:
                await self._map(waiting[0])
            except Exception:  # such as a full disk, which cannot take this either; others go on
                job, problem = waiting[0], internal_error().problem
                if not _has_ended(job):
                    job.state, job.problem, job.ended = "failed", problem, _now()
                    self._count()

    def close(self) -> None:
        """Let another service use the folder."""
        self._lock.close()

    def all(self) -> list[Job]:
        """Return all jobs, the newest first."""
        return list(self._jobs.values())[::-1]

    def find(self, id_: str) -> Job:
        """Return a job.

        Raises:
            Refused: There is none of this id.
        """
        if id_ not in self._jobs:
            problem = Problem(what=f"there is no job {id_[:40]!r}", mend="GET /jobs lists them.")
            raise Refused(404, problem)
        return self._jobs[id_]

    async def add(self, request: JobRequest) -> Job:
        """Return a new job that waits for its turn.

        Raises:
            Refused: There is no such survey or model, or no room.
            RunError: The disk cannot take it.
        """
        # by name, as another model may come first after a restart
        request = request.model_copy(update={"model": self._models.choose(request.model)})
        await self._survey(request.survey)
        self._check_room()
        if len(self._jobs) >= self._settings.job_keep:
            problem = Problem(
                what=f"{len(self._jobs)} jobs are kept already",
                expected=f"at most {self._settings.job_keep}",
                mend="Remove some: DELETE /jobs/ID?remove=true.",
            )
            raise Refused(409, problem)
        job = Job(id=secrets.token_hex(8), state="waiting", request=request, created=_now())
        self._jobs[job.id] = job
        try:
            self._change(job, "waiting")
        except RunError:
            await self._drop(job)
            raise
        self._news.set()
        return job

    def resume(self, id_: str) -> Job:
        """Return a job that had failed or been cancelled, waiting again to go on where it was.

        Raises:
            Refused: There is no such job, it has not ended, it is done, or there is no room.
            RunError: The disk cannot take it.
        """
        job = self.find(id_)
        if job.state not in ("failed", "cancelled"):
            raise _wrong_state(job, "failed or cancelled")
        self._check_room()
        self._change(job, "waiting", problem=None, ended=None)
        self._news.set()
        return job

    def cancel(self, id_: str) -> Job:
        """Return a job that is cancelled; what it has predicted is kept for `resume`.

        Raises:
            Refused: There is no such job, or it has ended.
            RunError: The disk cannot take it; the job has failed then, where it ran.
        """
        job = self.find(id_)
        if _has_ended(job):
            raise _wrong_state(job, "waiting or running")
        if job is self._running:
            self._stop(signal.SIGTERM)
        self._change(job, "cancelled")
        return job

    async def remove(self, id_: str) -> Job:
        """Return a job that has ended and is removed now, with its results.

        Raises:
            Refused: There is no such job, or it has not ended.
        """
        job = self.find(id_)
        if not _has_ended(job) or job is self._running:
            raise _wrong_state(job, "done, failed or cancelled, and its process at an end")
        await self._drop(job)
        return job

    def file(self, id_: str, name: str) -> Path:
        """Return the path of a result.

        Raises:
            Refused: There is no such job, or none of its results has this name.
        """
        job = self.find(id_)
        if name not in job.files:  # which the service wrote itself: nothing else becomes a path
            problem = Problem(
                what=f"the job has no result {name[:80]!r}", mend=f"GET /jobs/{id_} lists them."
            )
            raise Refused(404, problem)
        return self._folder.path / job.id / "map" / name

    async def _survey(self, name: str) -> Path:
        found = await to_thread.run_sync(self._surveys.find)  # over a network it may take long
        if name not in found:
            problem = Problem(
                what=f"there is no survey {name[:200]!r}",
                where="survey",
                mend="GET /surveys lists them.",
            )
            raise Refused(404, problem)
        return found[name][0]

    def _check_room(self) -> None:
        waiting = sum(job.state == "waiting" for job in self._jobs.values())
        if waiting >= self._settings.job_queue:
            self._metrics.refused.inc()
            raise busy(f"{waiting} jobs wait already", _RETRY_S)

    async def _map(self, job: Job) -> None:
        """Run one job to its end."""
        try:
            source = await self._survey(job.request.survey)
            model = self._models.path(self._models.choose(job.request.model))
        except Refused as error:  # it was there when the job was made
            if not _has_ended(job):
                self._fail(job, error.problem)
            return
        if _has_ended(job):  # cancelled in the meantime
            return
        out = self._folder.path / job.id
        names = {str(source): job.request.survey, str(out): "the job", str(model): "the model"}
        spec = {
            "source": str(source),
            "out": str(out / "map"),
            "model": str(model),
            "request": job.request.model_dump(),
            "folders": [str(folder) for folder in self._surveys.folders],
            "workers": self._settings.job_workers,
            "device": self._settings.options.device,
            "flip": self._settings.options.flip,
        }
        told: dict[str, Any] = {}
        self._running = job
        try:
            self._change(job, "running")
            with (out / "log.txt").open("a") as log:
                process = await asyncio.create_subprocess_exec(
                    *(sys.executable, "-m", "diapir.serve.job_process", str(os.getpid())),
                    stdin=asyncio.subprocess.PIPE,
                    stdout=asyncio.subprocess.PIPE,
                    stderr=log,
                    start_new_session=True,  # so that it can be stopped with its own workers
                    limit=_LONGEST_LINE,
                )
            self._process = process
            if job.state != "running":  # cancelled while the process was being made
                self._stop(signal.SIGTERM)
            told = await self._follow(job, process, json.dumps(spec))
        finally:
            await self._reap()
            self._running = None
        if job.state == "running":
            self._end(job, told, names)

    async def _follow(
        self, job: Job, process: asyncio.subprocess.Process, spec: str
    ) -> dict[str, Any]:
        """Take up how far the process of a job is, a line of JSON each; return its last words."""
        assert process.stdin is not None  # noqa: S101  # both are pipes
        assert process.stdout is not None  # noqa: S101
        with suppress(OSError):  # it may be dead already
            process.stdin.write(spec.encode())
            process.stdin.close()
        told: dict[str, Any] = {}
        async for line in process.stdout:
            told = json.loads(line)
            if "total" in told:
                job.done, job.total = told["done"], told["total"]
        return told

    def _end(self, job: Job, told: dict[str, Any], names: dict[str, str]) -> None:
        """Give a job whose process has ended its results, or its problem."""
        if "files" in told:
            news = [_renamed(text, names) or "" for text in told["news"]]
            self._change(job, "done", files=told["files"], news=news)
        elif "problem" in told:
            texts = {key: _renamed(text, names) for key, text in told["problem"].items()}
            self._fail(job, Problem(**texts))
        else:
            self._fail(job, _died())

    async def _drop(self, job: Job) -> None:
        del self._jobs[job.id]
        self._count()
        folder = self._folder.path / job.id
        await to_thread.run_sync(partial(shutil.rmtree, folder, ignore_errors=True))

    async def _reap(self) -> None:
        """Wait for the process to end, and make it if it does not."""
        if self._process is None:
            return
        process, self._process = self._process, None
        try:
            await asyncio.wait_for(process.wait(), 0.5)
        except (TimeoutError, asyncio.CancelledError):
            _signal(process, signal.SIGTERM)
            with suppress(TimeoutError):
                await asyncio.wait_for(process.wait(), _GRACE_S)
        _signal(process, signal.SIGKILL)  # whatever it has left behind
        await process.wait()

    def _stop(self, number: signal.Signals) -> None:
        if self._process is not None:
            _signal(self._process, number)

    def _fail(self, job: Job, problem: Problem) -> None:
        self._change(job, "failed", problem=problem)

    def _change(self, job: Job, state: State, **more: Any) -> None:
        """Give a job a state and other values, on the disk first.

        Raises:
            RunError: The disk cannot take them; the job is as it was.
        """
        ended = {} if state in ("waiting", "running") else {"ended": _now()}
        changes = {"state": state, **ended, **more}
        text = job.model_copy(update=changes).model_dump_json(indent=2) + "\n"
        write_text_atomic(self._folder.path / job.id / "job.json", text)
        for name, value in changes.items():
            setattr(job, name, value)
        self._count()

    def _count(self) -> None:
        for state in get_args(State):
            count = sum(job.state == state for job in self._jobs.values())
            self._metrics.jobs.labels(state).set(count)


def _has_ended(job: Job) -> bool:
    return job.state in ("done", "failed", "cancelled")


def _signal(process: asyncio.subprocess.Process, number: signal.Signals) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)


def _renamed(text: str | None, names: dict[str, str]) -> str | None:
    """Return a text in which paths of the server are what clients call them."""
    for path, name in names.items():
        text = text and text.replace(path, name)
    return text


def _wrong_state(job: Job, expected: str) -> Refused:
    return Refused(409, Problem(what=f"the job is {job.state}", expected=expected))


def _died() -> Problem:
    return Problem(
        what="the process of the job ended before the job did",
        mend="Ask who runs the service to look into the job's log.txt, or resume it.",
    )


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
