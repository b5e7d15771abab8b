"""Predicts what is shown, with any of the loaded models, and remembers it."""

import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from diapir.data.windows import cover
from diapir.errors import DataError
from diapir.inference.look import Look
from diapir.inference.sections import SectionSettings, choose_look, predict_section
from diapir.io.opening import is_picture
from diapir.io.tiles import Tiles
from diapir.models.maskrule import MaskRule, mean_rule
from diapir.models.modelcard import ModelCard, read_card
from diapir.serve.models import model_name, unique_names
from diapir.serve.viewer.salt import average
from diapir.serve.viewer.sources import SurveySource

if TYPE_CHECKING:
    from diapir.inference.predict import Predictor

ALL = "all"
"""Stands for the mean of all models."""

KEPT_BYTES = 512 << 20
"""Of predicted sections at most; those not looked at for longest are forgotten first."""

Found = Mapping[str, NDArray[np.float32]]


class StoppedError(Exception):
    """A prediction that nobody waits for any more."""


@dataclass
class Progress:
    """How far a prediction has come; written by the thread that predicts, read by the page.

    Args:
        done: Windows predicted.
        total: Windows in all.
        stopped: Set to end it.
    """

    done: int = 0
    total: int = 1
    stopped: bool = False

    def advance(self, steps: int) -> None:
        """Count windows, and end here if asked to."""
        self.done += steps
        if self.stopped:
            raise StoppedError


class _Watched:
    """A model whose windows are counted."""

    def __init__(self, model: "Predictor", progress: Progress) -> None:
        self._model = model
        self._progress = progress
        self.model_seconds = 0.0

    def predict_probs(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        found = self._model.predict_probs(images)
        self._progress.advance(len(images))
        return found


class ModelShelf:
    """The models of a viewer, opened when they are first needed.

    Args:
        paths: Model files.
        settings: How surveys are brought to the networks; see `diapir map`.
        device: 'auto', 'cpu' or 'cuda'.
        engine: What computes, see `PredictOptions`.
        precision: Likewise.

    Raises:
        ModelFileError: A file is no usable model.
        RunError: There is no such engine here.
    """

    def __init__(
        self,
        paths: Sequence[Path] = (),
        settings: SectionSettings = SectionSettings(),  # noqa: B008  # frozen
        device: str = "auto",
        *,
        engine: str = "auto",
        precision: str = "auto",
    ) -> None:
        if engine != "auto":
            from diapir.inference.engine import check_backend

            check_backend(engine, "cuda" if device == "cuda" else "cpu")
        self._paths = dict(zip(unique_names(map(model_name, paths)), paths, strict=True))
        self._cards: dict[str, ModelCard] = {k: read_card(p) for k, p in self._paths.items()}
        self._settings = settings
        self._device, self._engine, self._precision = device, engine, precision
        self._loaded: dict[str, Predictor] = {}
        self._looks: dict[tuple[str, str], Look] = {}
        self._found: OrderedDict[tuple[Any, ...], Found] = OrderedDict()
        self._held = 0
        self._lock = threading.Lock()
        self._memory = threading.Lock()  # the other one is held as long as a prediction takes

    @property
    def names(self) -> list[str]:
        """What can be chosen: every model, and all of them together."""
        names = list(self._paths)
        return [*names, ALL] if len(names) > 1 else names

    def threshold(self, name: str) -> float:
        """Return the threshold that a model was scored with."""
        return float(np.mean([self._cards[key].threshold for key in self._members(name)]))

    def rule(self, name: str) -> MaskRule:
        """Return how the masks of tiles are cleaned up; for all models the mean of theirs."""
        return mean_rule([self._cards[key].rule for key in self._members(name)])

    def known(self, name: str, key: tuple[Any, ...]) -> Found | None:
        """Return what was predicted before, as far as it is remembered."""
        with self._memory:
            found = self._found.get((name, *key))
            if found is not None:
                self._found.move_to_end((name, *key))
            return found

    def predict(
        self, name: str, source: SurveySource, direction: Any, index: int, progress: Progress
    ) -> Found:
        """Predict a section and remember it; return probability, and disagreement of several.

        Args:
            name: One of `names`.
            source: The survey.
            direction: Of the section; not a slice, which is nothing that a model has seen.
            index: Of the section.
            progress: Is written to.

        Raises:
            DataError: A slice, or the model wants the depth of tiles.
            StoppedError: `progress.stopped` was set.
        """
        if direction == "slice":
            raise DataError(
                "models read vertical sections, not slices",
                mend="Step to an inline or crossline, or map the survey with 'diapir map'.",
            )
        amplitudes = np.asarray(source.section(direction, index), np.float32)
        members = self._members(name)
        tiling = self._settings.tiling
        height = max(1, round(amplitudes.shape[1] * tiling.sample_scale))
        width = max(1, round(amplitudes.shape[0] * tiling.trace_scale))
        progress.total = len(members) * len(cover(height, width, tiling.window, tiling.overlap))
        with self._lock:  # one at a time: networks take all cores anyhow
            probs = []
            for member in members:
                model = self._open(member)
                look = self._look(member, source)
                probs.append(predict_section(amplitudes, _Watched(model, progress), look, tiling))
        return self.remember((name, source.name, direction, index), average(probs))

    def predict_tiles(
        self,
        name: str,
        tiles: Tiles,
        progress: Progress,
    ) -> Found:
        """Return the probability of tiles (N, H, W), and the disagreement of several models.

        Raises:
            DataError: A model wants the depth of tiles and there is none.
            StoppedError: `progress.stopped` was set.
        """
        members = self._members(name)
        progress.total = len(members) * len(tiles)
        with self._lock:
            found = [
                self._open(member).predict_probs(
                    tiles.images, tiles.z_feet, advance=progress.advance
                )
                for member in members
            ]
        return average(found)

    def remember(self, key: tuple[Any, ...], found: Found) -> Found:
        """Keep a prediction for the next time it is shown."""
        with self._memory:
            self._forget(key)
            self._found[key] = found
            self._held += _size(found)
            while self._held > KEPT_BYTES and len(self._found) > 1:
                self._forget(next(iter(self._found)))
        return found

    def _forget(self, key: tuple[Any, ...]) -> None:
        self._held -= _size(self._found.pop(key, {}))

    def _members(self, name: str) -> list[str]:
        if name == ALL:
            return list(self._paths)
        if name not in self._paths:
            raise DataError(
                f"there is no model {name!r}",
                expected=", ".join(self._paths) or "a model",
                mend="Start 'diapir view' with --model MODEL.safetensors.",
            )
        return [name]

    def _open(self, name: str) -> "Predictor":
        from diapir.inference.predict import PredictOptions, load_predictor

        if name not in self._loaded:
            options = PredictOptions(
                flip=self._settings.flip, batch_size=self._settings.tiling.batch,
                device=self._device, engine=self._engine, precision=self._precision,
            )  # fmt: skip
            self._loaded[name], _ = load_predictor([self._paths[name]], options)
        return self._loaded[name]

    def _look(self, name: str, source: SurveySource) -> Look:
        key = (name, source.name)
        if key not in self._looks:
            _, self._looks[key] = choose_look(
                source.volume, self._settings, [self._cards[name]],
                is_picture=is_picture(source.paths.source),
            )  # fmt: skip
        return self._looks[key]


def _size(found: Found) -> int:
    return sum(values.nbytes for values in found.values())
