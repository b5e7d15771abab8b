"""The section of a page: settings become what the figure shows."""

import html
from collections.abc import Callable
from typing import Any

import numpy as np
import panel as pn
from numpy.typing import NDArray

from diapir.errors import DiapirError
from diapir.serve.viewer.colors import (
    amplitude_palette,
    amplitude_span,
    prob_pixels,
    truth_pixels,
)
from diapir.serve.viewer.figure import SectionFigure, SectionImage, fit_window
from diapir.serve.viewer.labels import Canvas
from diapir.serve.viewer.library import Library, Source
from diapir.serve.viewer.models import Found
from diapir.serve.viewer.salt import corrected, describe_facts, outline, section_facts
from diapir.serve.viewer.sources import Direction, SurveySource
from diapir.serve.viewer.state import ViewState
from diapir.serve.viewer.tiles import TileSource

MAP = "map"
"""Name of the salt that `diapir map` found."""


class SectionView:
    """The section that a page shows, with its salt, truth and corrections.

    Args:
        library: What can be shown.
        state: What is to be shown.
        dark: Colours for a dark page.
        tell: Called with an error to show, or None when the last one is over.
    """

    def __init__(
        self,
        library: Library,
        state: ViewState,
        *,
        dark: bool,
        tell: Callable[[DiapirError | None], None],
    ) -> None:
        self.library = library
        self.state = state
        self.figure = SectionFigure(dark=dark)
        self.tell = tell
        self.facts = pn.pane.HTML("", margin=0)
        self.title = pn.pane.HTML("", margin=(14, 10, 0, 10))
        self.canvas = Canvas.empty((1, 1))
        self._shown: tuple[str, str, int] | None = None
        self._image: SectionImage | None = None
        self._listeners: list[Callable[[], None]] = []

    @property
    def source(self) -> Source:
        """What is looked at."""
        return self.library.sources[self.state.data]

    @property
    def direction(self) -> Direction:
        """Of the section."""
        direction: Direction = self.state.direction
        return direction

    @property
    def index(self) -> int:
        """Of the section."""
        return self.source.nearest(self.direction, self.state.number)

    @property
    def key(self) -> str | None:
        """Name of the file of its labels; None where it cannot be corrected."""
        return self.source.key(self.direction, self.index)

    def on_section(self, listener: Callable[[], None]) -> None:
        """Call a function whenever another section, or other labels, are shown."""
        self._listeners.append(listener)

    def step(self, count: int) -> None:
        """Go on by sections; stops at the ends."""
        numbers = self.source.numbers(self.direction)
        self.state.number = float(numbers[int(np.clip(self.index + count, 0, len(numbers) - 1))])

    def show(self) -> None:
        """Draw the section that the state names."""
        source, direction, index = self.source, self.direction, self.index
        before = self._shown
        moved = index - before[2] if before and before[:2] == (source.name, direction) else 0
        amplitudes = np.asarray(source.section(direction, index, moved=moved), np.float32)
        self._load_labels(amplitudes.shape)
        self._shown = (source.name, direction, index)
        axes = source.axes(direction)
        names = {"slice": ("crossline", "inline"), "inline": ("crossline", source.unit)}
        across, down = names.get(direction, (axes[0].label.lower(), source.unit))
        down = "sample" if down == "1" else down
        window = fit_window(axes, None)
        self._image = SectionImage(
            axes, (across, down), direction != "slice", amplitudes,
            source.dead(direction, index), window,
        )  # fmt: skip
        with pn.io.hold():
            self.figure.show(self._with_layers(self._image), keep_zoom=before is not None)
            self.color()
            self.color_salt()
            self.title.object = f"<b>{html.escape(source.title(direction, index))}</b>"
        for listener in self._listeners:
            listener()

    def show_layers(self) -> None:
        """Draw the layers of the section anew."""
        if self._image is None:
            return
        with pn.io.hold():
            self.figure.show_layers(self._with_layers(self._image))
            self.color_salt()

    def color(self) -> None:
        """Apply colours, clip and polarity."""
        state = self.state
        span = amplitude_span(self.source.clip_range(state.clip), state.display)
        self.figure.color_amplitudes(amplitude_palette(state.display, reverse=state.reverse), span)

    def color_salt(self) -> None:
        """Apply threshold, opacity and the choice of layers."""
        state = self.state
        probs = self.probs()
        with pn.io.hold():
            if "outline" in state.layers:
                self.figure.show_outline(self._outline(probs))
            shown = set(state.layers)
            if "truth" in shown and "truth" in self.source.known:
                shown.discard("fill")  # the comparison says the same in colours of its own
            self.figure.color_salt(state.threshold, state.opacity, shown)
            self.facts.object = self._facts(probs)

    def found(self) -> Found:
        """Return probability and disagreement of the section, as far as they are known."""
        source, salt = self.source, self.state.salt
        if salt == MAP and isinstance(source, SurveySource):
            return {
                name: source.section(self.direction, self.index, name)
                for name in ("probability", "disagreement")
                if name in source.known
            }
        if isinstance(source, TileSource) and salt in source.probs:
            return {name: values[self.index].T for name, values in source.probs[salt].items()}
        if salt in self.library.models.names:
            key = (source.name, self.direction, self.index)
            return self.library.models.known(salt, key) or {}
        return {}

    def probs(self) -> NDArray[np.float32] | None:
        """Return the probability of the section with the corrections over it."""
        return corrected(self.found().get("probability"), self.canvas.labels)

    def truth(self) -> NDArray[np.bool_] | None:
        """Return the truth of the section, where there is one."""
        if "truth" not in self.source.known:
            return None
        return np.asarray(self.source.section(self.direction, self.index, "truth")) > 0.5

    def labels_changed(self) -> None:
        """Draw the labels anew and keep them as a draft."""
        key = self.key
        if key is not None:
            self.library.label_folder(self.source).keep_draft(key, self.canvas.labels)
        self.show_layers()
        for listener in self._listeners:
            listener()

    def _load_labels(self, shape: tuple[int, ...]) -> None:
        place = (self.source.name, self.direction, self.index)
        if place == self._shown:
            return
        key = self.key
        self.canvas = Canvas.empty(shape)
        if key is not None:
            self.canvas = self.library.label_folder(self.source).load(key, shape)

    def _with_layers(self, image: SectionImage) -> SectionImage:
        """Return the image with the pixels of the layers that are shown."""
        found, shown = self.found(), set(self.state.layers)
        probs = corrected(found.get("probability"), self.canvas.labels)
        layers: dict[str, NDArray[np.uint8]] = {}
        if probs is not None:
            layers["fill"] = prob_pixels(probs)
        if "disagreement" in found and "doubt" in shown:
            layers["doubt"] = prob_pixels(found["disagreement"])
        truth = self.truth() if "truth" in shown else None
        if truth is not None:
            base = np.zeros(truth.shape, np.float32) if probs is None else probs
            layers["truth"] = truth_pixels(base, truth)
        if not self.canvas.is_empty:
            layers["labels"] = self.canvas.labels
        return SectionImage(
            image.axes, image.names, image.downwards, image.amplitudes, image.dead, image.window,
            layers,
        )  # fmt: skip

    def _outline(self, probs: NDArray[np.float32] | None) -> tuple[list[Any], list[Any]]:
        if probs is None or self._image is None:
            return [], []
        across, down = self._image.axes
        return outline(
            probs, self.state.threshold,
            (float(across.values[0]), across.step), (float(down.values[0]), down.step),
        )  # fmt: skip

    def _facts(self, probs: NDArray[np.float32] | None) -> str:
        if probs is None or self._image is None:
            hint = "no salt is known here"
            if self.library.models.names and self.direction != "slice":
                hint += ": press P to predict"
            return f'<span class="quiet">{hint}</span>'
        across, down = self._image.axes
        dead = self._image.dead
        live = None
        if dead is not None:
            dead = dead if dead.ndim == 2 else dead[:, None]
            live = np.broadcast_to(~dead, probs.shape)
        facts = section_facts(
            probs, self.state.threshold, across.values,
            None if self.direction == "slice" else down.values,
            live=live, truth=self.truth(),
        )  # fmt: skip
        unit = "" if self.source.unit == "1" else self.source.unit
        rows = describe_facts(facts, unit)
        return " &ensp; ".join(f"{html.escape(k)} <b>{html.escape(v)}</b>" for k, v in rows)
