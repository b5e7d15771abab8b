"""`POST /predict` and `GET /models`."""

import asyncio
import contextlib
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar

import numpy as np
from anyio import CapacityLimiter, to_thread
from fastapi import APIRouter, Query, Request
from fastapi.responses import JSONResponse, Response
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from diapir.inference.look import is_alive
from diapir.inference.sections import SectionSettings, choose_look
from diapir.io.images import MAX_PIXELS, encode_mask_png
from diapir.io.rle import encode_rle
from diapir.io.sections import Section, encode_npy, read_section
from diapir.models.modelcard import ModelCard
from diapir.serve.answers import SeatedAnswer
from diapir.serve.batcher import Batcher
from diapir.serve.models import ModelInfo, Models
from diapir.serve.problems import Problem, Refused, describe, went_away
from diapir.serve.settings import ServeSettings

_TYPES = ("image/png", "image/tiff", "application/x-npy", "application/octet-stream")
_WHERE = "the file in the request"
_DECODERS = 2  # at a time; each may hold a few times 16 million pixels
_NPY_HEADER = 1 << 10  # more than it has

Found = TypeVar("Found")


class PredictQuery(BaseModel):
    """How a section is predicted."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    output: Literal["mask", "rle", "probabilities"] = Field(
        "mask", description="A PNG of 0 and 255; JSON with run-lengths; float32 as a .npy file."
    )
    model: str | None = Field(None, max_length=200, description="Name; the default is the first.")
    threshold: float | None = Field(
        None, ge=0, le=1, description="Of probability; the default is the model's own."
    )
    polarity: Literal["normal", "reverse"] = Field(
        "normal", description="Whether the polarity is that of the training data."
    )
    normalise: bool = Field(
        True,
        description="Bring amplitudes to the grey values of the training data; off for values "
        "that are grey values of 0 to 255 already. Pictures always are.",
    )
    clip_low: float = Field(
        1.0, ge=0, le=100, description="Percentile below which amplitudes are clipped."
    )
    clip_high: float = Field(
        99.0, ge=0, le=100, description="And above which.", validate_default=True
    )

    @field_validator("clip_high")
    @classmethod
    def _check_rises(cls, high: float, info: ValidationInfo) -> float:
        low = info.data.get("clip_low")  # not there where it cannot be used itself
        if low is not None and low >= high:
            text = "Input should be more than clip_low, which is {low}"
            raise PydanticCustomError("clip", text, {"low": low})
        return high


class RunLengths(BaseModel):
    """A mask as run-lengths."""

    rle: str = Field(
        description="'start length' pairs, counted from 1 down the columns; empty without salt."
    )
    height: int
    width: int
    threshold: float
    model: str
    salt_share: float = Field(description="Share of the pixels that are salt, 0..1.")


@dataclass(frozen=True, eq=False)
class _Prediction:
    """All that an answer is made of."""

    probs: NDArray[np.float32]
    dead: NDArray[np.bool_]
    threshold: float
    model: str
    output: str

    def response(self, models: Models) -> Response:
        """Return the answer that was asked for."""
        probs = np.where(self.dead, np.float32(0), self.probs) if self.dead.any() else self.probs
        if self.output == "probabilities":
            return Response(encode_npy(probs), media_type="application/x-npy")
        mask = models.make_mask(self.model, probs, self.threshold)
        if self.output == "mask":
            return Response(encode_mask_png(mask), media_type="image/png")
        found = RunLengths(
            rle=encode_rle(mask),
            height=mask.shape[0],
            width=mask.shape[1],
            threshold=self.threshold,
            model=self.model,
            salt_share=float(mask.mean()),
        )
        return JSONResponse(found.model_dump())


def predict_router(models: Models, batcher: Batcher, settings: ServeSettings) -> APIRouter:
    """Return the routes of prediction."""
    router = APIRouter(tags=["prediction"])
    codecs = CapacityLimiter(_DECODERS)

    @router.get("/models", responses=describe())
    async def list_models() -> list[ModelInfo]:
        """Return the models that may be named in requests."""
        return models.infos()

    @router.post(
        "/predict",
        response_class=Response,
        responses={200: _answers(), **describe(404, 408, 415, 503)},
        openapi_extra={"requestBody": _bodies(settings)},
    )
    async def predict(request: Request, query: Annotated[PredictQuery, Query()]) -> Response:
        """Return where in a section there is salt.

        The body is the file itself: a grey picture as PNG or TIFF, or amplitudes as TIFF of
        floating numbers or as .npy of shape (samples, traces). Of any size up to the limits.
        """
        name = models.choose(query.model)
        _check_type(request)
        with contextlib.ExitStack() as held:
            hold = held.enter_context(batcher.seat(body_size(request, settings)))
            body = await request.body()
            taken = len(body)  # the request keeps it to its end
            hold(taken)
            card = models.card(name)
            grey, dead = await to_thread.run_sync(_to_grey, body, query, card, limiter=codecs)
            if query.output == "probabilities":  # the one size that is known before the work
                hold(taken + 4 * grey.size + _NPY_HEADER)
            probs = await _unless_gone(request, batcher.predict(name, grey))
            threshold = models.threshold(name) if query.threshold is None else query.threshold
            found = _Prediction(probs, dead, threshold, name, query.output)
            answer = await to_thread.run_sync(found.response, models, limiter=codecs)
            hold(taken + len(answer.body))
            return SeatedAnswer(answer, held.pop_all().close, settings.answer_timeout_s)

    return router


def body_size(request: Request, settings: ServeSettings) -> int:
    """Return the most bytes that the body may bring; chunks count more than a length (RFC 9112)."""
    declared = request.headers.get("content-length", "")
    chunked = "transfer-encoding" in request.headers
    return int(declared) if declared.isdecimal() and not chunked else settings.max_bytes


def _check_type(request: Request) -> None:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind not in _TYPES:
        problem = Problem(
            what=f"the body is of type {kind[:80]!r}" if kind else "the body has no type",
            where="header Content-Type",
            expected=", ".join(_TYPES),
            mend="Send the file itself as the body, not a form.",
        )
        raise Refused(415, problem)


def _to_grey(
    body: bytes, query: PredictQuery, card: ModelCard
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Return the grey values (H, W) of a section as `diapir map` would bring them to the models.

    With them comes which traces (W,) are dead, in which there is no salt; of pictures none are.
    """
    section = read_section(body, _WHERE)
    settings = SectionSettings(
        clip=(query.clip_low, query.clip_high),
        normalise=query.normalise,
        polarity=query.polarity,
    )
    survey = _as_survey(section)
    _, look = choose_look(survey, settings, [card], is_picture=section.is_picture)
    grey = np.ascontiguousarray(look.grey(section.values))
    if section.is_picture:
        return grey, np.zeros(grey.shape[1], np.bool_)
    return grey, np.asarray(~is_alive(section.values).any(axis=0), np.bool_)


def _as_survey(section: Section) -> Any:
    import xarray as xr

    lines = (("trace", "sample"), section.values.T)
    return xr.Dataset({"amplitude": lines}, attrs={"source": _WHERE})


async def _unless_gone(request: Request, work: Coroutine[Any, Any, Found]) -> Found:
    """Return what the work gives; where the client goes away, stop waiting for it."""
    task, gone = asyncio.ensure_future(work), asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait((task, gone), return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise went_away()
    finally:
        for one in (task, gone):
            one.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await gone


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _answers() -> dict[str, Any]:
    binary = {"schema": {"type": "string", "format": "binary"}}
    return {
        "description": "What `output` says",
        "content": {
            "image/png": binary,
            "application/json": {"schema": RunLengths.model_json_schema()},
            "application/x-npy": binary,
        },
    }


def _bodies(settings: ServeSettings) -> dict[str, Any]:
    schema = {"type": "string", "format": "binary"}
    return {
        "required": True,
        "description": f"PNG, TIFF or .npy file of at most {settings.max_bytes:,} bytes and "
        f"{MAX_PIXELS:,} pixels; its first bytes say what it is.",
        "content": {kind: {"schema": schema} for kind in _TYPES},
    }
