"""The widgets that choose a section, its colours and its layers."""

from collections.abc import Sequence
from typing import Any

import panel as pn

from diapir.serve.viewer.models import ALL
from diapir.serve.viewer.section import MAP, SectionView
from diapir.serve.viewer.sources import SurveySource
from diapir.serve.viewer.state import DISPLAYS, LAYERS

WIDTH = 262

_DIRECTIONS = {"inline": "Inline", "crossline": "Crossline", "slice": "Slice"}


class Navigation:
    """Chooses what is looked at: data, direction and number.

    Args:
        view: The section.
    """

    def __init__(self, view: SectionView) -> None:
        self._view = view
        state = view.state
        self.data = pn.widgets.Select(
            options=list(view.library.sources), value=state.data, width=170, margin=(6, 5),
            visible=len(view.library.sources) > 1, description="Data",
        )  # fmt: skip
        self.direction = pn.widgets.RadioButtonGroup(options={}, margin=(6, 5), variant="outline")
        self.slider = pn.widgets.FloatSlider(
            start=0, end=1, step=1, show_value=False, width=300, margin=(14, 5, 5, 5),
            tooltips=False,
        )  # fmt: skip
        self.number = pn.widgets.FloatInput(width=92, margin=(6, 5), format="0[.]000")
        self._filling = False
        self.data.param.watch(lambda event: self._set(data=event.new), "value")
        self.direction.param.watch(lambda event: self._set(direction=event.new), "value")
        self.slider.param.watch(lambda event: self._set(number=event.new), "value")
        self.number.param.watch(lambda event: self._set(number=event.new), "value")
        self.row = pn.Row(
            self.data, self.direction, self.slider, self.number, view.title, margin=0,
            align="center", sizing_mode="stretch_width",
        )  # fmt: skip

    def follow(self) -> None:
        """Show what the state says."""
        view = self._view
        place = view.wanted
        source, direction = place.source, place.direction
        numbers = source.numbers(direction)
        step = float(numbers[1] - numbers[0]) if len(numbers) > 1 else 1.0
        self._filling = True
        try:
            self.data.value = view.state.data
            self.direction.param.update(
                options={_DIRECTIONS.get(d, d): d for d in source.directions}, value=direction
            )
            several = len(numbers) > 1
            for widget in (self.slider, self.number):
                widget.visible = several
            self.direction.visible = len(source.directions) > 1
            if several:
                at = place.number
                self.slider.param.update(
                    start=float(numbers[0]), end=float(numbers[-1]), step=step, value=at
                )
                self.number.param.update(step=step, value=at)
        finally:
            self._filling = False

    def _set(self, **values: Any) -> None:
        if not self._filling and None not in values.values():
            self._view.state.param.update(**values)


def display_controls(view: SectionView) -> pn.Column:
    """Return the widgets of colours, clip and polarity."""
    state = view.state
    return pn.Column(
        pn.widgets.Select.from_param(
            state.param.display, label="Colours", options=DISPLAYS, width=WIDTH
        ),
        pn.widgets.FloatSlider.from_param(
            state.param.clip, label="Clip (percentile)", step=0.1, width=WIDTH
        ),
        pn.widgets.Checkbox.from_param(state.param.reverse, label="Reverse polarity", width=WIDTH),
        margin=0,
    )


class SaltControls:
    """Layers, threshold, opacity, and where the salt comes from.

    Args:
        view: The section.
        predictions: The buttons to predict and to stop, and the bar of progress.
    """

    def __init__(self, view: SectionView, predictions: Sequence[pn.viewable.Viewable]) -> None:
        self._view = view
        state = view.state
        self.salt = pn.widgets.Select(label="Salt from", options={}, width=WIDTH)
        self.salt.param.watch(self._choose, "value")
        *buttons, bar = predictions
        self._buttons = pn.Row(*buttons, margin=0)
        self.always = pn.widgets.Checkbox(label="Predict wherever I step", width=WIDTH)
        self.layers = pn.widgets.CheckBoxGroup.from_param(
            state.param.layers, options=LAYERS, width=WIDTH
        )
        self.column = pn.Column(
            self.salt,
            self._buttons,
            self.always,
            bar,
            self.layers,
            pn.widgets.FloatSlider.from_param(
                state.param.threshold, label="Threshold", step=0.01, width=WIDTH
            ),
            pn.widgets.FloatSlider.from_param(
                state.param.opacity, label="Opacity", step=0.05, width=WIDTH
            ),
            margin=0,
        )
        self._filling = False

    def follow(self, *, other_data: bool = False) -> None:
        """Offer what there is for the data that is shown; other data may have another map."""
        view = self._view
        known = view.source.known
        options = {"Map (diapir map)": MAP} if "probability" in known else {}
        for name in view.library.models.names:
            options["Mean of all models" if name == ALL else f"Model {name}"] = name
        self._filling = True
        try:
            if view.state.salt not in options.values():
                self.take(next(iter(options.values()), ""))
            elif other_data and view.state.salt == MAP:
                self.take(MAP)
            self.salt.param.update(options=options or {"nothing": ""}, value=view.state.salt)
        finally:
            self._filling = False
        able = bool(view.library.models.names)
        self._buttons.visible = self.always.visible = able
        self.salt.disabled = len(options) < 2

    def _choose(self, event: Any) -> None:
        if self._filling or not event.new:
            return
        self.take(event.new)

    def take(self, salt: str) -> None:
        """Take the salt from there, with the threshold that belongs to it."""
        models, source = self._view.library.models, self._view.source
        threshold = 0.5
        if salt in models.names:
            threshold = models.threshold(salt)
        elif salt == MAP and isinstance(source, SurveySource):
            threshold = source.map_threshold
        self._view.state.param.update(salt=salt, threshold=threshold)
