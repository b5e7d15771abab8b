"""What is known of a job: what was asked for, how far it is, and its file on the disk."""

import re
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, get_type_hints

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    create_model,
    field_validator,
)
from pydantic_core import PydanticCustomError

from diapir.inference.blend import OVERLAP, WINDOW
from diapir.io.segy import SegyOptions
from diapir.serve.problems import LOG, Problem

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
    """A survey to map, and how: the options of `diapir map` that are left to clients."""

    model_config = _STRICT

    survey: str = Field(max_length=1000, description="Its name, from GET /surveys.")
    model: str | None = Field(None, max_length=200, description="Name; the default is the first.")
    threshold: float | None = Field(None, ge=0, le=1)
    clip: tuple[Percentile, Percentile] = (1.0, 99.0)
    normalise: bool = True
    polarity: Literal["normal", "reverse"] = "normal"
    directions: Literal["both", "inline", "crossline"] = "both"
    flip: bool | None = Field(None, description="Mirror too; the default is the service's.")
    window: int = Field(WINDOW, ge=32, le=1024, description="Side of the windows in pixels.")
    overlap: int = Field(OVERLAP, ge=0, validate_default=True, description="Of windows.")
    sample_scale: float = Field(1.0, gt=0, le=16)
    trace_scale: float = Field(1.0, gt=0, le=16)
    min_body: int | None = Field(None, ge=1, le=1 << 31)
    max_bodies: int = Field(20, ge=1, le=1000)
    velocity: float | None = Field(None, ge=1, le=20_000, description="Mean, in m/s.")
    display: Literal["gray", "gray_r", "seismic"] = Field("gray", description="In the report.")
    segy: SegyFields | None = Field(None, description="How to read SEG-Y.")

    @field_validator("clip")
    @classmethod
    def _check_rises(cls, clip: tuple[float, float]) -> tuple[float, float]:
        if clip[0] >= clip[1]:
            raise PydanticCustomError("clip", "Input should be two rising percentiles")
        return clip

    @field_validator("overlap")
    @classmethod
    def _check_overlap(cls, overlap: int, info: ValidationInfo) -> int:
        window = info.data.get("window")  # not there where it cannot be used itself
        if window is not None and overlap >= window:
            raise PydanticCustomError("overlap", "Input should be less than the window")
        return overlap


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
    """Return the jobs that an earlier service has left, the oldest first.

    What cannot be read, as after a power cut or from another version, is told in the log and left
    out, and its folder stays as it is.
    """
    found = []
    for path in folder.glob("*/job.json"):
        if not _ID.fullmatch(path.parent.name):
            continue
        try:
            job = Job.model_validate_json(path.read_bytes())
        except (OSError, ValidationError) as error:
            LOG.error(
                "left out a job that cannot be read: %s: %s", path, str(error).splitlines()[0]
            )
            continue
        if job.id == path.parent.name:
            found.append(job)
    return {job.id: job for job in sorted(found, key=lambda job: (job.created, job.id))}
