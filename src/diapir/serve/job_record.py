"""What is known of a job: what was asked for, how far it is, and its file on the disk."""

import re
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model

from diapir.errors import DataError
from diapir.io.segy import SegyOptions
from diapir.serve.problems import Problem

State = Literal["waiting", "running", "done", "failed", "cancelled"]

_STRICT = ConfigDict(extra="forbid", allow_inf_nan=False)
_ID = re.compile(r"[0-9a-f]{16}")

if TYPE_CHECKING:
    SegyFields = BaseModel
else:
    _HINTS = get_type_hints(SegyOptions)
    SegyFields = create_model(
        "SegyFields",
        __config__=_STRICT,
        **{field.name: (_HINTS[field.name], field.default) for field in fields(SegyOptions)},
    )

Percentile = Annotated[float, Field(ge=0, le=100)]


class JobRequest(BaseModel):
    """A survey to map, and how: the options of `diapir map`."""

    model_config = _STRICT

    survey: str = Field(max_length=1000, description="Its name, from GET /surveys.")
    model: str | None = Field(None, max_length=200, description="Name; the default is the first.")
    threshold: float | None = Field(None, ge=0, le=1)
    clip: tuple[Percentile, Percentile] = (1.0, 99.0)
    normalise: bool = True
    polarity: Literal["normal", "reverse"] = "normal"
    directions: Literal["both", "inline", "crossline"] = "both"
    sample_scale: float = Field(1.0, gt=0, le=16)
    trace_scale: float = Field(1.0, gt=0, le=16)
    min_body: int | None = Field(None, ge=1, le=1 << 31)
    max_bodies: int = Field(20, ge=1, le=1000)
    velocity: float | None = Field(None, ge=1, le=20_000, description="Mean, in m/s.")
    segy: SegyFields | None = Field(None, description="How to read SEG-Y.")


class Job(BaseModel):
    """A job and how far it is."""

    id: str
    state: State
    request: JobRequest
    created: str = Field(description="UTC, ISO 8601.")
    ended: str | None = None
    done: int = Field(0, description="Blocks of lines that are predicted.")
    total: int = Field(0, description="Blocks in all; 0 until the survey has been opened.")
    files: list[str] = Field([], description="Results, for GET /jobs/{id}/files/NAME.")
    news: list[str] = Field([], description="What the user should know.")
    problem: Problem | None = Field(None, description="Why it failed.")


def read_jobs(folder: Path) -> dict[str, Job]:
    """Return the jobs that an earlier service has left, the oldest first."""
    found = []
    for path in folder.glob("*/job.json"):
        if not _ID.fullmatch(path.parent.name):
            continue
        try:
            job = Job.model_validate_json(path.read_bytes())
        except (OSError, ValidationError) as error:
            raise DataError(
                f"a job cannot be read: {str(error).splitlines()[0]}",
                where=path,
                mend="Remove its folder, or choose another folder of jobs.",
            ) from error
        if job.id == path.parent.name:
            found.append(job)
    return {job.id: job for job in sorted(found, key=lambda job: (job.created, job.id))}
