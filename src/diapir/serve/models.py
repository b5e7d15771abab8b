"""The models that a service offers, each by a name of its own."""

import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, Field

from diapir.errors import DataError, DiapirError
from diapir.inference.blend import blend_sections
from diapir.inference.postprocess import make_masks
from diapir.inference.predict import PredictOptions, Predictor, load_predictor
from diapir.inference.sections import refuse_depth
from diapir.models.modelcard import ModelCard
from diapir.serve.problems import Problem, Refused


class ModelInfo(BaseModel):
    """What a model says of itself."""

    name: str = Field(description="By which requests choose it; the first is the default.")
    recipe: str
    encoder: str
    threshold: float = Field(description="Of probability, where a request names none.")
    flip: bool = Field(description="Averages with mirrored sections.")
    created: str = Field(description="UTC, ISO 8601; empty where unknown.")
    metrics: dict[str, float | None] = Field(description="Measured when it was trained.")


@dataclass(frozen=True, eq=False)
class _Loaded:
    path: Path
    predictor: Predictor
    card: ModelCard


class Models:
    """Loaded model files.

    Args:
        paths: The files; the first is the default.
        options: How they are applied.

    Raises:
        ModelFileError: A file is no usable model.
        DataError: There is none, or one wants the depth of each tile.
    """

    def __init__(self, paths: Sequence[Path], options: PredictOptions) -> None:
        if not paths:
            raise DataError("no model is given", mend="Give one or more model files.")
        self._loaded: dict[str, _Loaded] = {}
        self._stopping = threading.Event()
        for name, path in zip(unique_names(map(model_name, paths)), paths, strict=True):
            predictor, cards = load_predictor([path], options)
            refuse_depth(predictor.needs_depth, path)
            self._loaded[name] = _Loaded(path.resolve(), predictor, cards[0])

    def infos(self) -> list[ModelInfo]:
        """Return what each model says of itself."""
        return [
            ModelInfo(
                name=name,
                recipe=one.card.recipe.name,
                encoder=one.card.recipe.model.encoder,
                threshold=one.predictor.threshold,
                flip=one.predictor.flip,
                created=one.card.created,
                metrics={k: v if np.isfinite(v) else None for k, v in one.card.metrics.items()},
            )
            for name, one in self._loaded.items()
        ]

    def choose(self, name: str | None) -> str:
        """Return the name of the model that a request means.

        Raises:
            Refused: There is none of this name.
        """
        if name is None:
            return next(iter(self._loaded))
        if name not in self._loaded:
            problem = Problem(
                what=f"there is no model {name[:80]!r}",
                where="model",
                expected=", ".join(self._loaded),
                mend="GET /models lists them.",
            )
            raise Refused(404, problem)
        return name

    def threshold(self, name: str) -> float:
        """Return the probability from which a pixel counts as salt."""
        return self._loaded[name].predictor.threshold

    def make_mask(
        self, name: str, probs: NDArray[np.float32], threshold: float
    ) -> NDArray[np.bool_]:
        """Return the mask (H, W) of a section as `diapir predict` makes it, clean-up included."""
        rule = self._loaded[name].predictor.rule
        mask: NDArray[np.bool_] = make_masks(probs[None], threshold, rule)[0]
        return mask

    def card(self, name: str) -> ModelCard:
        """Return what the model file says."""
        return self._loaded[name].card

    def path(self, name: str) -> Path:
        """Return the model file."""
        return self._loaded[name].path

    def predict(self, name: str, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the probabilities of sections of one size, (N, H, W).

        Raises:
            DiapirError: The service is stopping.
        """
        predictor = self._loaded[name].predictor

        def some(windows: NDArray[np.uint8]) -> NDArray[np.float32]:
            if self._stopping.is_set():
                raise DiapirError("the service is stopping")
            return predictor.predict_probs(windows)

        return blend_sections(images, some)

    def stop(self) -> None:
        """Make a prediction that is going on end soon."""
        self._stopping.set()


def unique_names(names: Iterable[str]) -> list[str]:
    """Return the names, those that come again with a number.

    >>> unique_names(["a", "b", "a"])
    ['a', 'b', 'a-2']
    """
    found: list[str] = []
    for name in names:
        number, candidate = 1, name
        while candidate in found:
            number += 1
            candidate = f"{name}-{number}"
        found.append(candidate)
    return found


def model_name(path: Path) -> str:
    """Return the name of the file, or of its run folder where the file is named as in all runs."""
    path = path.resolve()
    return path.parent.name if path.stem == "model" and path.parent.name else path.stem
