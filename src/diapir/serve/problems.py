"""Every error of the service as JSON: what is wrong, where, what was expected, what to do."""

import logging
from collections.abc import Mapping
from reprlib import Repr
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from diapir.errors import DeviceError, DiapirError, OptionError, RunError
from diapir.io.atomic import DISK_ERRORS

LOG = logging.getLogger("uvicorn.error")
"""What the server writes to standard error."""

_MOST_TEXT = 300
_SHORT = Repr()  # values in requests may be long and deep
_SHORT.maxstring = 80


class Problem(BaseModel):
    """What was wrong with a request."""

    what: str = Field(description="What is wrong, with the value that was found.")
    where: str | None = Field(None, description="The part of the request that holds it.")
    expected: str | None = Field(None, description="What would have been right.")
    mend: str | None = Field(None, description="What to do now.")

    @classmethod
    def of(cls, error: DiapirError) -> "Problem":
        """Return an error of Diapir as a problem."""
        options = error.options if isinstance(error, OptionError) else ()
        where = ", ".join(options) or error.where  # not as the command line names them
        return cls(what=error.what, where=where, expected=error.expected, mend=error.mend)


class Refused(HTTPException):
    """A request that is not served.

    Args:
        status: Of HTTP.
        problem: Why.
        headers: Of the answer.
    """

    def __init__(
        self, status: int, problem: Problem, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(status, problem.what, dict(headers or {}))
        self.problem = problem

    def answer(self) -> JSONResponse:
        """Return the response."""
        return JSONResponse(self.problem.model_dump(), self.status_code, dict(self.headers or {}))


def busy(what: str, seconds: int) -> Refused:
    """Return the answer to a request that comes while there is no room for it."""
    return Refused(
        503,
        Problem(what=what, mend=f"Send it again in {seconds} seconds."),
        {"Retry-After": str(seconds)},
    )


def went_away() -> Refused:
    """Return what is counted as the answer where the client has gone away; nobody reads it."""
    return Refused(400, Problem(what="the client went away"))


def describe(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return what the OpenAPI says of these error statuses and of those that any route has."""
    every = (400, 401, 405, 413, 422, 500, *statuses)
    return {status: {"model": Problem, "description": _MEANING[status]} for status in every}


def handle_problems(app: FastAPI) -> None:
    """Make an app answer every error as a `Problem`."""
    app.add_exception_handler(DiapirError, _unusable)
    app.add_exception_handler(RunError, _unwritable)
    app.add_exception_handler(ClientDisconnect, _hung_up)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _refused)


def internal_error() -> Refused:
    """Return the answer to a request that fails by a fault of ours; the log has the traceback."""
    LOG.exception("a request failed")
    return Refused(
        500,
        Problem(
            what="the service failed on this request",
            mend="Ask who runs the service to look into its log.",
        ),
    )


_MEANING = {
    400: "The request cannot be understood, or calls this machine by a name it does not have.",
    401: "The token is missing or wrong.",
    404: "There is nothing of this name.",
    405: "This path does not take this method.",
    408: "The body did not come in time.",
    409: "The job is in no state for this.",
    413: "The body is too large.",
    415: "The body is of another type.",
    422: "The request or the file in it cannot be used.",
    500: "The service failed; the fault is not in the request.",
    503: "There is no room now; `Retry-After` says when to try again.",
    507: "The disk of the service is full.",
}


async def _unusable(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, DiapirError)  # noqa: S101  # registered for nothing else
    # a full device is no fault of the request
    status = 500 if isinstance(error, DeviceError) else 422
    return Refused(status, Problem.of(error)).answer()


async def _unwritable(_: Request, error: Exception) -> JSONResponse:
    """Answer where a place of ours cannot be written; the log has the path of it."""
    LOG.error("%s", error)
    full = getattr(error.__cause__, "errno", None) in DISK_ERRORS
    problem = Problem(
        what="the service cannot write to its disk",
        mend="Remove jobs that have ended, or ask who runs the service to look into its log.",
    )
    return Refused(507 if full else 500, problem).answer()


async def _hung_up(_: Request, __: Exception) -> JSONResponse:
    return went_away().answer()


async def _invalid(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)  # noqa: S101
    found = error.errors()
    first = found[0]
    place = ".".join(str(part) for part in first["loc"])
    more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
    what, is_value, expected = first["msg"].rpartition("Input should be ")
    if is_value:
        what = f"{_SHORT.repr(first.get('input'))} cannot be used"
        expected = expected.partition(", unable")[0]  # to parse it: that is told already
    problem = Problem(
        what=((what or first["msg"]) + more)[:_MOST_TEXT],
        where=place[:_MOST_TEXT],
        expected=expected[:_MOST_TEXT] if is_value else None,
        mend="See /openapi.json for what this path takes.",
    )
    return Refused(422, problem).answer()


async def _refused(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)  # noqa: S101
    if isinstance(error, Refused):
        return error.answer()
    problem = Problem(
        what=str(error.detail)[:_MOST_TEXT], mend="See /openapi.json for what there is."
    )
    return Refused(error.status_code, problem, error.headers).answer()
