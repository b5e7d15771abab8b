"""The section of a page: settings become what the figure shows."""

import html
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import panel as pn
from numpy.typing import NDArray

from diapir.errors import DataError
from diapir.inference.postprocess import make_masks
from diapir.models.maskrule import AS_THRESHOLDED, MaskRule
from diapir.serve.viewer.colors import (
    amplitude_palette,
    amplitude_span,
    prob_pixels,
    truth_pixels,
)
from diapir.serve.viewer.figure import SectionFigure, SectionImage
from diapir.serve.viewer.labels import Canvas
from diapir.serve.viewer.library import Library, Source
from diapir.serve.viewer.models import Found
from diapir.serve.viewer.place import Place
from diapir.serve.viewer.reads import SectionValues, read_section
from diapir.serve.viewer.salt import corrected, describe_facts, outline, section_facts
from diapir.serve.viewer.state import ViewState
from diapir.serve.viewer.tiles import TileSource

MAP = "map"
"""Name of the salt that `diapir map` found."""

_OF_MAP = frozenset({"probability", "disagreement"})


class SectionView:
    """The section that a page shows, with its salt, truth and corrections.

    Args:
        library: What can be shown.
        state: What is to be shown.
        dark: Colours for a dark page.
    """

    def __init__(
        self,
        library: Library,
        state: ViewState,
        *,
        dark: bool,
    ) -> None:
        self.library = library
        self.state = state
        self.figure = SectionFigure(dark=dark)
        self.facts = pn.pane.HTML("", margin=0)
        self.title = pn.pane.HTML("", margin=(14, 10, 0, 10))
        self.canvas = Canvas.empty((1, 1))
        self.labels_problem: DataError | None = None  # why those on disk are not in the canvas
        self.section = 0  # counted on with every other section that is drawn
        self._values: SectionValues | None = None
        self._image: SectionImage | None = None
        self._listeners: list[Callable[[], None]] = []

    @property
    def source(self) -> Source:
        """What the settings name to be looked at."""
        return self.library.sources[self.state.data]

    @property
    def wanted(self) -> Place:
        """The section that the settings name, which may be one that is still being read."""
        state, source = self.state, self.source
        return Place(source, state.direction, source.nearest(state.direction, state.number))

    @property
    def shown(self) -> Place:
        """The section that is drawn, to which salt and corrections belong."""
        return self.wanted if self._values is None else self._values.place

    @property
    def is_drawn(self) -> bool:
        """Whether there is a section on the page yet."""
        return self._values is not None

    @property
    def is_current(self) -> bool:
        """Whether what is drawn is what the settings name, with all that they ask for."""
        drawn = self._values
        return (
            drawn is not None and drawn.place == self.wanted and self._names() <= set(drawn.values)
        )

    def on_section(self, listener: Callable[[], None]) -> None:
        """Call a function whenever another section, or other labels, are shown."""
        self._listeners.append(listener)

    def step(self, count: int) -> None:
        """Go on by sections; stops at the ends."""
        place = self.wanted
        numbers = place.source.numbers(place.direction)
        self.state.number = float(numbers[int(np.clip(place.index + count, 0, len(numbers) - 1))])

    def reading(self) -> Callable[[], SectionValues]:
        """Return what reads the section that the settings name; it may be called in any thread."""
        place, drawn = self.wanted, self._values
        moved = place.steps_from(None if drawn is None else drawn.place)
        return partial(read_section, place, self._names(), moved)

    def show(self) -> None:
        """Read the section that the settings name, and draw it."""
        self.draw(self.reading()())

    def draw(self, read: SectionValues) -> None:
        """Draw a section that was read.

        Raises:
            DataError: Its labels cannot be read; it is drawn without them, and not to be corrected.
        """
        place, first = read.place, self._values is None
        amplitudes = read.values["amplitude"]
        other = first or place != self.shown
        if other:
            self.section += 1
            self._load_labels(place, amplitudes.shape)
        self._values = read
        source, direction = place.source, place.direction
        axes = place.axes
        names = {"slice": ("crossline", "inline"), "inline": ("crossline", source.unit)}
        across, down = names.get(direction, (axes[0].label.lower(), source.unit))
        down = "sample" if down == "1" else down
        self._image = SectionImage(
            axes, (across, down), direction != "slice", amplitudes,
            source.dead(direction, place.index), section=self.section,
        )  # fmt: skip
        with pn.io.hold():
            self.figure.show(self._with_layers(self._image), keep_zoom=not first)
            self.color()
            self.color_salt()
            self.title.object = f"<b>{html.escape(place.title)}</b>"
        for listener in self._listeners:
            listener()
        if other and self.labels_problem is not None:
            raise self.labels_problem

    def refine(self) -> None:
        """Draw more finely what was zoomed into."""
        if self.figure.is_coarse:
            with pn.io.hold():
                self.figure.refine()
                self.color_salt()

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
        span = amplitude_span(self.shown.source.clip_range(state.clip), state.display)
        self.figure.color_amplitudes(amplitude_palette(state.display, reverse=state.reverse), span)

    def color_salt(self) -> None:
        """Apply threshold, opacity and the choice of layers."""
        state, salt = self.state, self.salt()
        with pn.io.hold():
            if "outline" in state.layers:
                self.figure.show_outline(self._outline(salt))
            shown = set(state.layers)
            if "truth" in shown and "truth" in self.shown.source.known:
                shown.discard("fill")  # the comparison says the same in colours of its own
            self.figure.color_salt(state.threshold, state.opacity, shown)
            self.facts.object = self._facts(salt)

    def threshold_changed(self) -> None:
        """Apply a threshold; where a model's rule drops other bodies with it, send pixels too."""
        if self.rule().cleans:
            self.show_layers()
        else:
            self.color_salt()

    def rule(self) -> MaskRule:
        """Return how masks are cleaned up: those of tiles, as the model's card says.

        Those of surveys by the threshold alone, as `diapir map` makes them.
        """
        models = self.library.models
        if isinstance(self.shown.source, TileSource) and self.state.salt in models.names:
            return models.rule(self.state.salt)
        return AS_THRESHOLDED

    def found(self) -> Found:
        """Return probability and disagreement of the section, as far as they are known."""
        place, salt = self.shown, self.state.salt
        source = place.source
        if salt == MAP and self._values is not None:
            return {name: self._values.values[name] for name in _OF_MAP & set(self._values.values)}
        if isinstance(source, TileSource) and salt in source.probs:
            return {name: values[place.index].T for name, values in source.probs[salt].items()}
        if salt in self.library.models.names:
            return self.library.models.known(salt, place.memory_key) or {}
        return {}

    def mask(self) -> NDArray[np.bool_] | None:
        """Return what the model takes as salt, without corrections; None where nothing is known."""
        probs = self.found().get("probability")
        if probs is None:
            return None
        tile = np.ascontiguousarray(probs.T)[None]  # as `diapir predict` has it
        mask: NDArray[np.bool_] = make_masks(tile, self.state.threshold, self.rule())[0].T
        return mask

    def salt(self) -> NDArray[np.float32] | None:
        """Return the probability of the section with the corrections over it.

        It is above the threshold exactly where there is salt: 0 in what the model's rule drops.
        """
        probs, dropped = self.found().get("probability"), self._dropped()
        if probs is not None and dropped is not None:
            probs = np.where(dropped, np.float32(0), probs)
        return corrected(probs, self.canvas.labels)

    def truth(self) -> NDArray[np.bool_] | None:
        """Return the truth of the section, where there is one."""
        if self._values is None or "truth" not in self._values.values:
            return None
        return np.asarray(self._values.values["truth"]) > 0.5

    def labels_changed(self) -> None:
        """Draw the labels anew and keep them as a draft."""
        place = self.shown
        if place.key is not None:
            self.library.label_folder(place.source).keep_draft(place.key, self.canvas)
        self.show_layers()
        for listener in self._listeners:
            listener()

    def _names(self) -> frozenset[str]:
        """Return what is needed of the section besides its amplitudes."""
        known = self.source.known
        of_map = _OF_MAP if self.state.salt == MAP else frozenset()
        return frozenset(known & {"truth", *of_map})

    def _load_labels(self, place: Place, shape: tuple[int, ...]) -> None:
        self.canvas, self.labels_problem = Canvas.empty(shape), None
        if place.key is None:
            return
        try:
            self.canvas = self.library.label_folder(place.source).load(place.key, shape)
        except DataError as problem:
            self.labels_problem = problem

    def _dropped(self) -> NDArray[np.bool_] | None:
        """Return where the probability is above the threshold and the rule takes no salt."""
        probs = self.found().get("probability")
        if probs is None or not self.rule().cleans:
            return None
        return np.asarray((probs > float(self.state.threshold)) & ~np.asarray(self.mask()))

    def _with_layers(self, image: SectionImage) -> SectionImage:
        """Return the image with the pixels of the layers that are shown."""
        found, shown = self.found(), set(self.state.layers)
        probs = corrected(found.get("probability"), self.canvas.labels)
        layers: dict[str, NDArray[np.unsignedinteger]] = {}
        if probs is not None:
            dropped = self._dropped()
            if dropped is not None:
                dropped &= self.canvas.labels != 1
            layers["fill"] = prob_pixels(probs, dropped)
        if "disagreement" in found and "doubt" in shown:
            layers["doubt"] = prob_pixels(found["disagreement"])
        truth = self.truth() if "truth" in shown else None
        if truth is not None:
            salt = self.salt()
            layers["truth"] = truth_pixels(np.zeros(truth.shape) if salt is None else salt, truth)
        if not self.canvas.is_empty:
            layers["labels"] = self.canvas.labels
        return replace(image, layers=layers)

    def _outline(self, probs: NDArray[np.float32] | None) -> tuple[list[Any], list[Any]]:
        if probs is None or self._image is None:
            return [], []
        window = self.figure.window
        lines = [
            (float(axis.values[0]) + start * axis.step, axis.step * step)
            for axis, (start, _, step) in zip(
                self._image.axes, (window.across, window.down), strict=True
            )
        ]
        return outline(window.of(probs), self.state.threshold, lines[0], lines[1])

    def _facts(self, probs: NDArray[np.float32] | None) -> str:
        if probs is None or self._image is None:
            hint = "no salt is known here"
            if self.library.models.names and self.shown.direction != "slice":
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
            None if self.shown.direction == "slice" else down.values,
            live=live, truth=self.truth(),
        )  # fmt: skip
        unit = self.shown.source.unit.replace("1", "")
        rows = describe_facts(facts, unit)
        return " &ensp; ".join(f"{html.escape(k)} <b>{html.escape(v)}</b>" for k, v in rows)
