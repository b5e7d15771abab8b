"""Predicts one vertical section of a survey: normalised, resampled, in blended windows."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from diapir.errors import DataError, OptionError
from diapir.inference.blend import OVERLAP, WINDOW, blend_section
from diapir.inference.look import AS_IS, Amplitudes, Look, is_alive, measure, trained_pixels
from diapir.models.modelcard import ModelCard

SMALLEST_SIDE = 32
"""Smaller sections are widened for the network, whose deeper levels need some pixels."""


class SectionModel(Protocol):
    """Whatever turns grey images into probabilities, first of all `predict.Predictor`."""

    model_seconds: float

    def predict_probs(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return (N, H, W) probabilities of (N, H, W) grey values."""


class IdentityModel:
    """Returns its input in 0..1: whatever differs afterwards is the tiling's fault."""

    def __init__(self) -> None:
        self.model_seconds = 0.0

    def predict_probs(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return (N, H, W) grey values as float32 in 0..1."""
        return images.astype(np.float32) / np.float32(255)


@dataclass(frozen=True)
class Tiling:
    """How a section is cut into windows.

    Args:
        window: Side of the windows in pixels, after resampling.
        overlap: Of neighbouring windows in pixels.
        batch: Windows a forward pass.
        sample_scale: The section is stretched so much along its samples before it is predicted.
        trace_scale: Likewise across traces.
    """

    window: int = WINDOW
    overlap: int = OVERLAP
    batch: int = 4
    sample_scale: float = 1.0
    trace_scale: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.overlap < self.window:
            raise OptionError(
                f"windows of {self.window} pixels cannot overlap by {self.overlap}",
                "window",
                "overlap",
                expected="an overlap smaller than the window",
            )
        if not (0 < self.sample_scale <= 16 and 0 < self.trace_scale <= 16):
            raise OptionError(
                f"scales of {self.sample_scale:g} and {self.trace_scale:g}",
                "sample_scale",
                "trace_scale",
                expected="above 0 and at most 16",
            )


@dataclass(frozen=True)
class SectionSettings:
    """How the sections of a survey are brought to the networks.

    Args:
        flip: Average with mirrored windows; None: as the first model's recipe says.
        clip: Percentiles at which amplitudes are clipped.
        normalise: Bring mean and deviation of the amplitudes to those of the training data; off for
            what holds grey values of 0..255 already. Pictures never are.
        polarity: 'reverse' where the survey's polarity is not that of the training data.
        tiling: Windows and resampling.
    """

    flip: bool | None = None
    clip: tuple[float, float] = (1.0, 99.0)
    normalise: bool = True
    polarity: Literal["normal", "reverse"] = "normal"
    tiling: Tiling = Tiling()  # frozen


def choose_look(
    survey: Any, settings: SectionSettings, cards: Sequence[ModelCard], *, is_picture: bool
) -> tuple[Amplitudes | None, Look]:
    """Return what the amplitudes look like and how they become grey values.

    They get mean and deviation of the pixels that trained the first model. Of grey values, which
    are taken as they are, the first is None.

    Args:
        survey: Dataset with `amplitude`.
        settings: How it is normalised.
        cards: Of the models.
        is_picture: It holds grey values, whatever the settings say.

    Raises:
        DataError: See `measure`.
    """
    if is_picture or not settings.normalise:
        turned = settings.polarity == "reverse"
        return None, Look(0.0, 255.0, -1.0, 255.0) if turned else AS_IS
    found = measure(survey, settings.clip)
    return found, found.look(trained_pixels(cards), settings.polarity)


def predict_section(
    amplitudes: NDArray[np.float32], model: SectionModel, look: Look, tiling: Tiling
) -> NDArray[np.float32]:
    """Return the probability of salt of a section; in dead traces there is none.

    Args:
        amplitudes: (T, S), traces by samples.
        model: The networks.
        look: From amplitudes to grey values.
        tiling: Resampling and windows.

    Returns:
        (T, S) float32 in 0..1.
    """
    dead = ~is_alive(amplitudes).any(axis=-1)
    grey = look.grey(amplitudes).T
    shape = grey.shape
    grey = _resized(grey, tiling)
    inner = grey.shape
    grey = np.pad(grey, [(0, max(0, SMALLEST_SIDE - size)) for size in inner], mode="edge")
    probs = blend_section(
        np.ascontiguousarray(grey),
        model.predict_probs,
        window=tiling.window,
        overlap=tiling.overlap,
        batch=tiling.batch,
    )[: inner[0], : inner[1]]
    if inner != shape:
        # Pillow averages where it shrinks, and is linear between pixels where it enlarges
        picture = Image.fromarray(probs).resize(shape[::-1], Image.Resampling.BILINEAR)
        probs = np.asarray(picture, np.float32)
    found = np.ascontiguousarray(probs.T)
    found[dead] = 0
    return found


def _resized(grey: NDArray[np.uint8], tiling: Tiling) -> NDArray[np.uint8]:
    height = max(1, round(grey.shape[0] * tiling.sample_scale))
    width = max(1, round(grey.shape[1] * tiling.trace_scale))
    if (height, width) == grey.shape:
        return grey
    picture = Image.fromarray(np.ascontiguousarray(grey))
    return np.asarray(picture.resize((width, height), Image.Resampling.BILINEAR))


def load_section_model(
    paths: Sequence[Path],
    *,
    flip: bool | None = None,
    batch: int = 4,
    device: str = "auto",
    engine: str = "eager",
    expected: int = 0,
) -> SectionModel:
    """Return the networks of model files for sections; torch computes in one thread.

    One thread each makes results independent of how many workers share a machine, and several
    workers of one thread are faster than one worker of several. With engine 'auto' it is the number
    of `expected` windows that says whether one is chosen.

    Raises:
        ModelFileError: A file is no usable model.
        DataError: A model wants the depth of each tile.
    """
    import torch

    from diapir.inference.predict import PredictOptions, load_predictor

    torch.set_num_threads(1)
    if device != "cpu" and torch.cuda.device_count() > 1:
        torch.cuda.set_device(_worker_number() % torch.cuda.device_count())
    options = PredictOptions(flip=flip, batch_size=batch, device=device, engine=engine)
    predictor, _ = load_predictor(paths, options)
    predictor.expected = expected
    refuse_depth(predictor.needs_depth, ", ".join(str(path) for path in paths))
    return predictor


def refuse_depth(needs_depth: bool, where: object) -> None:
    """Refuse a model that wants the depth of each tile, which sections do not have.

    Args:
        needs_depth: Whether it does.
        where: Its file.

    Raises:
        DataError: It does.
    """
    if needs_depth:
        raise DataError(
            "this model needs the depth of each tile, which sections do not have",
            where=where,
            mend="Use a model trained with model.depth_channel = false.",
        )


def _worker_number() -> int:
    """Return the number of the Dask worker that this runs in, 0 outside of any."""
    from distributed import get_worker

    try:
        name = str(get_worker().name)
    except ValueError:
        return 0
    return int(name) if name.isdigit() else 0
