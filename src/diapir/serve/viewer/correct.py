"""Corrections on the page: polygon, brush and keyboard, undo, save, and the list of sections."""

import html
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import panel as pn

from diapir.errors import DataError
from diapir.io.labels import UNLABELLED
from diapir.serve.viewer.controls import WIDTH
from diapir.serve.viewer.labels import Points, brush_mask, polygon_mask
from diapir.serve.viewer.section import SectionView
from diapir.serve.viewer.tiles import TileSource

TOOLS = {"Look": "pan", "Polygon": "polygon", "Lasso": "lasso", "Brush": "brush"}
VALUES = {"Add salt": 1, "Remove salt": 0, "Erase labels": UNLABELLED}

_HINTS = {
    "pan": "Drag to pan, wheel to zoom.",
    "polygon": "Click the corners; double-click or Enter closes it, Escape drops it.",
    "lasso": "Drag around an area.",
    "brush": "Drag over an area.",
}

# Tools are switched where they live; the toolbar sees to it that a gesture has one tool.
_CHOOSE_TOOL = """
names.forEach((name, place) => {
  if (place !== cb_obj.active) tools[name].active = false;
});
tools[names[cb_obj.active]].active = true;
"""


class Cursor:
    """Draws polygons by keyboard.

    Args:
        view: The section.
        close: Called with the corners of a finished polygon, in values of the axes.
    """

    def __init__(self, view: SectionView, close: Callable[[Points], None]) -> None:
        self._view = view
        self._close = close
        self._at: tuple[int, int] | None = None
        self._corners: list[tuple[float, float]] = []
        self._section = 0

    @property
    def is_on(self) -> bool:
        """Whether arrow keys move the cursor."""
        return self._at is not None

    def toggle(self) -> None:
        """Put the cursor into the middle of what is on screen, or take it away."""
        if self._at is not None:
            self.leave()
            return
        middles = [sum(ends) / 2 for ends in self._view.figure.ranges()]
        axes = self._view.shown.axes
        pixels = [int(axis.pixel(middle)) for axis, middle in zip(axes, middles, strict=True)]
        self._at = (pixels[0], pixels[1])
        self.move(0, 0)

    def move(self, across: int, down: int) -> None:
        """Move the cursor by samples; it stays on the section."""
        if self._at is None:
            return
        axes = self._view.shown.axes
        moved = [
            min(max(0, place + step), len(axis.values) - 1)
            for place, step, axis in zip(self._at, (across, down), axes, strict=True)
        ]
        self._at = (moved[0], moved[1])
        self._draw()

    def corner(self) -> None:
        """Set a corner of the polygon where the cursor is."""
        if self._at is not None:
            self._corners.append(self._place())
            self._draw()

    def finish(self) -> None:
        """Close the polygon and label what lies inside."""
        corners, self._corners = self._corners, []
        self._draw()
        if corners:
            self._close(corners)

    def follow(self) -> None:
        """Stay on the section that is shown; corners on another one are dropped."""
        if self._section == self._view.section:
            return
        self._section = self._view.section
        if self._at is not None:
            self._corners = []
            self.move(0, 0)

    def leave(self) -> None:
        """Take the cursor and an open polygon away."""
        self._at, self._corners = None, []
        self._draw()

    def _place(self) -> tuple[float, float]:
        assert self._at is not None  # noqa: S101  # callers have asked
        across, down = self._view.shown.axes
        return float(across.values[self._at[0]]), float(down.values[self._at[1]])

    def _draw(self) -> None:
        figure = self._view.figure
        corners = self._corners
        figure.corners.data = {"x": [x for x, _ in corners], "y": [y for _, y in corners]}
        at = [] if self._at is None else [self._place()]
        figure.cursor.data = {"x": [x for x, _ in at], "y": [y for _, y in at]}


class CorrectControls:
    """What a person draws becomes labels.

    Args:
        view: The section.
        safely: Runs an action and shows what goes wrong.
        go: Called with the key of a listed section to show it.
    """

    def __init__(
        self,
        view: SectionView,
        safely: Callable[[Callable[[], Any]], None],
        go: Callable[[str], None],
    ) -> None:
        self._view = view
        self._safely = safely
        self.tool = pn.widgets.RadioButtonGroup(
            options=TOOLS, value="pan", variant="outline", width=WIDTH
        )
        self.value = pn.widgets.RadioBoxGroup(options=VALUES, value=1, width=WIDTH)
        self.hint = pn.pane.HTML(_HINTS["pan"], width=WIDTH, margin=(0, 10))
        self.tool.param.watch(self._hint, "value")
        self.brush = pn.widgets.IntSlider(
            label="Brush (screen pixels)", start=4, end=120, step=2, value=24, width=WIDTH
        )
        self.brush.param.watch(
            lambda event: view.figure.stroke_glyph.update(line_width=event.new), "value"
        )
        view.figure.stroke_glyph.line_width = self.brush.value
        self.undo = pn.widgets.Button(label="Undo", width=74)
        self.clear = pn.widgets.Button(label="Clear", width=74)
        self.rest = pn.widgets.Button(label="Rest as predicted", width=WIDTH)
        self.save = pn.widgets.Button(label="Save", color="primary", width=74)
        self.status = pn.pane.HTML("", width=WIDTH)
        self.list = pn.widgets.MultiSelect(
            options={}, size=7, width=WIDTH, label="Corrected sections"
        )
        self._listing = False
        self.cursor = Cursor(view, self.draw_polygon)
        self._connect(go)
        self.column = pn.Column(
            self.tool, self.hint, self.value, self.brush, self.rest,
            pn.Row(self.undo, self.clear, self.save, margin=0),
            self.status, self.list, margin=0,
        )  # fmt: skip

    def follow(self) -> None:
        """Show what is labelled."""
        view = self._view
        self.cursor.follow()
        able = view.shown.key is not None and view.labels_problem is None
        for widget in (self.tool, self.value, self.brush, self.rest, self.clear, self.save):
            widget.disabled = not able
        canvas = view.canvas
        self.undo.disabled = not canvas.can_undo
        entries = view.library.label_folder(view.shown.source).entries()
        options = {}
        for entry in entries:
            mark = "draft" if entry.draft else "saved"
            options[f"{entry.key}  {100 * entry.labelled:.0f} % labelled, {mark}"] = entry.key
        self._listing = True
        try:
            chosen = [view.shown.key] if view.shown.key in options.values() else []
            self.list.param.update(options=options, value=chosen)
        finally:
            self._listing = False
        self.status.object = self._status(able, {e.key: e for e in entries})

    def draw_polygon(self, points: Points) -> None:
        """Label what lies inside a polygon, given in values of the axes."""
        shape = self._shape()
        self._paint(polygon_mask(self._pixels(points), shape))

    def draw_stroke(self, points: Points) -> None:
        """Label what a brush has gone over, given in values of the axes."""
        axes = self._view.shown.axes
        spans = self._view.figure.ranges()
        sizes = self._view.figure.inner_size()
        radii = [
            self.brush.value / 2 * abs(end - start) / size / abs(axis.step)
            for (start, end), size, axis in zip(spans, sizes, axes, strict=True)
        ]
        mask = brush_mask(self._pixels(points), (radii[0], radii[1]), self._shape())
        self._paint(mask)

    def take_back(self) -> None:
        """Undo the last step."""
        if self._view.canvas.undo():
            self._view.labels_changed()

    def store(self) -> None:
        """Save the labels of the section."""
        view, key = self._view, self._key()
        view.library.label_folder(view.shown.source).save(key, view.canvas)
        self.follow()

    def choose(self, value: int) -> None:
        """Let the next strokes add salt, remove it, or erase labels."""
        self.value.value = value

    def _connect(self, go: Callable[[str], None]) -> None:
        figure = self._view.figure
        figure.closed.on_change("data", self._closed)
        figure.stroke.on_change("data", self._stroked)
        self.undo.on_click(lambda _: self._safely(self.take_back))
        self.save.on_click(lambda _: self._safely(self.store))
        self.clear.on_click(lambda _: self._safely(self._clear))
        self.rest.on_click(lambda _: self._safely(self._fill_rest))
        self.tool.jscallback(
            args={"tools": figure.tools, "names": list(TOOLS.values())},
            value=_CHOOSE_TOOL,
        )
        self.list.param.watch(lambda event: self._chosen(event.new, go), "value")

    def _chosen(self, keys: list[str], go: Callable[[str], None]) -> None:
        if not self._listing and keys and keys[0] != self._view.shown.key:
            self._safely(lambda: go(keys[0]))

    def _closed(self, _: str, __: Any, new: Any) -> None:
        points = list(zip(_numbers(new.get("x")), _numbers(new.get("y")), strict=False))
        if points:
            self._view.figure.empty_closed()
            on = _numbers(new.get("section"))[:1]
            self._safely(partial(self._draw_on, on, partial(self.draw_polygon, points)))

    def _hint(self, event: Any) -> None:
        self.hint.object = _HINTS[event.new]

    def _stroked(self, _: str, __: Any, new: Any) -> None:
        columns = (new.get(name, []) for name in ("xs", "ys", "section"))
        for x, y, section in zip(*columns, strict=False):
            points, on = list(zip(_numbers(x), _numbers(y), strict=False)), _numbers([section])
            if points:
                self._safely(partial(self._draw_on, on, partial(self.draw_stroke, points)))
                self._view.figure.hide_stroke()

    def _draw_on(self, section: list[float], draw: Callable[[], None]) -> None:
        if section != [self._view.section]:
            raise DataError(
                "the shape was drawn on a section that is no longer shown",
                mend="Draw it here again.",
            )
        draw()

    def _paint(self, where: Any) -> None:
        view = self._view
        self._key()
        if view.canvas.paint(where, int(self.value.value)):
            view.labels_changed()

    def _clear(self) -> None:
        self._key()
        if self._view.canvas.clear():
            self._view.labels_changed()

    def _fill_rest(self) -> None:
        view = self._view
        salt = view.mask()
        if salt is None:
            raise DataError(
                "no prediction is known here", mend="Press P to predict the section first."
            )
        self._key()
        if view.canvas.fill_rest(salt):
            view.labels_changed()

    def _key(self) -> str:
        if not self._view.is_drawn:
            raise DataError("the section is still being read", mend="Draw once it is there.")
        if self._view.labels_problem is not None:
            raise self._view.labels_problem
        key = self._view.shown.key
        if key is None:
            raise DataError(
                "slices cannot be corrected",
                expected="an inline or a crossline, which is what models learn from",
                mend="Press 1 or 2.",
            )
        return key

    def _shape(self) -> tuple[int, int]:
        across, down = self._view.shown.axes
        return len(across.values), len(down.values)

    def _pixels(self, points: Points) -> Points:
        across, down = self._view.shown.axes
        return [(across.pixel(x), down.pixel(y)) for x, y in points]

    def _status(self, able: bool, entries: dict[str, Any]) -> str:
        view = self._view
        if view.labels_problem is not None:
            return f"Its labels cannot be read: {html.escape(view.labels_problem.what)}."
        if not able:
            return "Slices cannot be corrected: go to an inline or crossline."
        entry = entries.get(view.shown.key or "")
        folder = html.escape(str(view.library.label_folder(view.shown.source).path))
        if entry is None:
            learns = ""
            if isinstance(view.shown.source, TileSource):
                learns = " 'diapir finetune' reads labels of surveys, lines and pictures only."
            return f"Nothing is labelled here. Labels go to <code>{folder}</code>.{learns}"
        share = f"{100 * entry.labelled:.0f} % labelled, {100 * entry.salt:.0f} % of it salt"
        if entry.draft:
            return f"{share}. <b>Draft</b>, kept at every stroke; press Save when it is done."
        return f"{share}. <b>Saved</b> in <code>{folder}</code>"


def _numbers(values: Any) -> list[float]:
    """Return numbers that a browser sent: lists, arrays, or tables of them by place."""
    if isinstance(values, dict):
        values = list(values.values())
    try:
        return [float(v) for v in np.asarray(values, float).ravel()]
    except (TypeError, ValueError):
        return []
