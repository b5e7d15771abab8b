"""The section on the page: a Bokeh figure whose layers are images of one byte a pixel."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from bokeh.models import (
    ColumnDataSource,
    CrosshairTool,
    CustomJS,
    FreehandDrawTool,
    LassoSelectTool,
    LinearColorMapper,
    PanTool,
    PolySelectTool,
    Range1d,
    ResetTool,
    SaveTool,
    Span,
    WheelZoomTool,
    ZoomInTool,
    ZoomOutTool,
)
from bokeh.plotting import figure
from numpy.typing import NDArray

from diapir.serve.viewer.colors import (
    CLEAR,
    LABEL_PALETTE,
    SALT,
    amplitude_palette,
    as_int16,
    fill_palette,
    ramp_palette,
    truth_palette,
)
from diapir.serve.viewer.readout import follow_pointer
from diapir.serve.viewer.sources import Axis
from diapir.serve.viewer.window import Ranges, Window, fit_window

IMAGES = ("fill", "heat", "doubt", "truth", "labels")
"""Layers that are images over the amplitudes."""

PIXELS_OF = {"heat": "fill"}
"""Layers that draw the pixels of another one in colours of their own."""

_EMPTY: dict[str, list[Any]] = {"image": [], "x": [], "y": [], "dw": [], "dh": []}
_THEMES = {
    False: {"back": "#ffffff", "ink": "#1F2933", "quiet": "#5B6670", "edge": "#C9D1D9"},
    True: {"back": "#15191D", "ink": "#E6EAEE", "quiet": "#A9B4BF", "edge": "#3A444E"},
}
_CROSS = "#E69F00"

# What is drawn names the section that it was drawn on: a step may come in between. The polygon tool
# itself ends with Enter or a long press, and keeps its corners in the browser.
_CLOSE = """
if (polygon.active && polygon.overlay.xs.length > 2) {
  const { xs, ys } = polygon.overlay;
  const on = amplitude.data.section[0];
  closed.data = { x: Array.from(xs), y: Array.from(ys), section: Array.from(xs, () => on) };
  polygon.overlay.clear();
}
"""
_SELECTED = """
const { type, x, y } = cb_obj.geometry;
if (cb_obj.final && type === 'poly') {
  const on = lasso.active ? lasso.begun_on : amplitude.data.section[0];
  closed.data = { x: Array.from(x), y: Array.from(y), section: Array.from(x, () => on) };
}
"""
_OTHER_SECTION = """
const on = amplitude.data.section[0];
if (polygon.shown_on !== on) polygon.overlay.clear();
polygon.shown_on = on;
"""

# The tool adds to the last stroke while one drags, so that nobody may take it away meanwhile: it is
# hidden once it has become labels, unless the next one is being drawn.
_DRAG_BEGINS = """
lasso.begun_on = amplitude.data.section[0];
const within = (range, value) => (value - range.start) * (value - range.end) <= 0;
if (brush.active) {
  // from outside the tool begins no stroke, but adds to the one before
  if (!within(plot.x_range, cb_obj.x) || !within(plot.y_range, cb_obj.y)) {
    strokes.data_source.data = { xs: [[]], ys: [[]], section: [lasso.begun_on] };
  }
  strokes.is_drawn = true;
  strokes.visible = true;
}
"""
_DRAG_ENDS = "strokes.is_drawn = false;"
_STROKE_HIDDEN = "if (strokes.is_drawn) strokes.visible = true;"


@dataclass(frozen=True)
class SectionImage:
    """All that is drawn of a section.

    Args:
        axes: Across and down.
        names: What is read under the pointer, such as ('crossline', 'ms').
        downwards: Whether the second axis grows down the page, as time and depth do.
        amplitudes: (T, S).
        dead: (T,) or (T, S), where there is no trace; None: nowhere.
        layers: Pixels (T, S) by name: fill, doubt, truth, labels.
        section: Tells it from others; the shapes that are drawn on it name it.
    """

    axes: tuple[Axis, Axis]
    names: tuple[str, str]
    downwards: bool
    amplitudes: NDArray[np.floating]
    dead: NDArray[np.bool_] | None
    layers: Mapping[str, NDArray[np.unsignedinteger]] = field(default_factory=dict)
    section: int = 0


class SectionFigure:
    """The Bokeh figure of a section, with its layers and its tools.

    Args:
        dark: Colours for a dark page.
    """

    def __init__(self, *, dark: bool) -> None:
        colors = _THEMES[dark]
        self.tools = {
            "pan": PanTool(),
            "polygon": PolySelectTool(persistent=False),
            "lasso": LassoSelectTool(persistent=False, continuous=False),
        }
        self.wheel = WheelZoomTool()
        self.plot = figure(
            x_range=Range1d(0, 1), y_range=Range1d(1, 0), sizing_mode="stretch_both",
            tools=[*self.tools.values(), self.wheel, ZoomInTool(), ZoomOutTool(), ResetTool(),
                   SaveTool(filename="section"), _crosshair()],
            active_drag=self.tools["pan"], active_scroll=self.wheel, active_tap=None,
            toolbar_location="right", min_border=8, output_backend="canvas",
            background_fill_color=colors["edge"], border_fill_color=colors["back"],
            outline_line_color=colors["edge"],
        )  # fmt: skip
        self.mapper = LinearColorMapper(amplitude_palette("gray", reverse=False), low=0, high=1)
        self.amplitude = ColumnDataSource(_no_amplitudes(), name="amplitude")
        self.plot.image(
            "image", "x", "y", "dw", "dh", source=self.amplitude, color_mapper=self.mapper
        )
        self.sources: dict[str, ColumnDataSource] = {}
        self.mappers: dict[str, LinearColorMapper] = {}
        self.renderers: dict[str, Any] = {}
        for name in IMAGES:
            held = PIXELS_OF.get(name, name)
            source = self.sources.setdefault(held, ColumnDataSource(_EMPTY))
            palette = _first_palette(name)
            self.mappers[name] = LinearColorMapper(palette, low=0, high=len(palette) - 1)
            self.renderers[name] = self.plot.image(
                "image", "x", "y", "dw", "dh", source=source, color_mapper=self.mappers[name],
                visible=False,
            )  # fmt: skip
        self.gaps = ColumnDataSource(_EMPTY)
        self.plot.image(
            "image", "x", "y", "dw", "dh", source=self.gaps,
            color_mapper=LinearColorMapper([CLEAR, colors["edge"]], low=0, high=1),
        )  # fmt: skip
        self.lines = ColumnDataSource({"xs": [], "ys": []})
        self.renderers["outline"] = self.plot.multi_line(
            "xs", "ys", source=self.lines, line_color=SALT, line_width=1.8, visible=False
        )
        self._add_brush()
        self._style(colors)
        follow_pointer(self.plot, self.amplitude, self.sources["fill"])
        self._fitted: tuple[float, ...] | None = None
        self._unit, self._span = 1.0, (0.0, 1.0)
        self._image: SectionImage | None = None
        self._window = Window((0, 1, 1), (0, 1, 1))

    def show(self, image: SectionImage, *, keep_zoom: bool) -> None:
        """Draw a section.

        Args:
            image: The section.
            keep_zoom: Leave the ranges as they are, unless the axes are others.
        """
        across, down = image.axes
        box = (across.start, across.end, down.start, down.end, float(image.downwards))
        fresh = box != self._fitted or not keep_zoom
        self._window = fit_window(image.axes, None if fresh else self.ranges())
        self._draw(image)
        if fresh:
            self._fitted = box
            self.plot.xaxis.axis_label, self.plot.yaxis.axis_label = across.label, down.label
            self.fit()

    def show_layers(self, image: SectionImage) -> None:
        """Draw the layers of a section whose amplitudes are drawn already."""
        self._image = image
        place = self._window.place(image.axes)
        for name, source in self.sources.items():
            pixels = image.layers.get(name)
            if pixels is not None:
                source.data = {"image": [_rows(self._window.of(pixels))], **place}
            elif source.data["image"]:
                source.data = dict(_EMPTY)

    @property
    def window(self) -> Window:
        """What of the section is drawn."""
        return self._window

    @property
    def is_coarse(self) -> bool:
        """Whether what is on screen could be drawn more finely, or is not drawn in all."""
        return self._image is not None and not self._window.serves(self._image.axes, self.ranges())

    def refine(self) -> None:
        """Draw what is on screen as finely as it can be drawn."""
        if self._image is not None:
            self._window = fit_window(self._image.axes, self.ranges())
            self._draw(self._image)

    def on_zoom(self, listener: Callable[[], None]) -> None:
        """Call a function whenever other ranges are on screen."""
        for ranged in (self.plot.x_range, self.plot.y_range):
            for end in ("start", "end"):
                ranged.on_change(end, lambda _attr, _old, _new: listener())

    def show_outline(self, lines: tuple[list[Any], list[Any]]) -> None:
        """Draw the outline of the salt."""
        self.lines.data = {"xs": lines[0], "ys": lines[1]}

    def color_amplitudes(self, palette: list[str], span: tuple[float, float]) -> None:
        """Spread colours over amplitudes; no pixel is sent for it."""
        self._span = span
        self.mapper.palette = palette
        self._spread()

    def color_salt(self, threshold: float, opacity: float, shown: set[str]) -> None:
        """Apply threshold and opacity, and show these layers; no pixel is sent for it."""
        for name, mapper in self.mappers.items():
            if name == "fill":
                mapper.palette = fill_palette(threshold)
            elif name == "truth":
                mapper.palette = truth_palette(threshold)
        for name, renderer in self.renderers.items():
            renderer.visible = name in shown
            if name in IMAGES:
                renderer.glyph.global_alpha = opacity

    def fit(self) -> None:
        """Show the whole section."""
        if self._fitted is None:
            return
        left, right, top, bottom, downwards = self._fitted
        ends = (bottom, top) if downwards else (top, bottom)
        for ranged, (start, end) in (
            (self.plot.x_range, (left, right)),
            (self.plot.y_range, ends),
        ):
            ranged.update(start=start, end=end, reset_start=start, reset_end=end)

    def move(self, across: float = 0.0, down: float = 0.0, zoom: float = 1.0) -> None:
        """Pan by shares of what is on screen, and zoom around its middle."""
        for ranged, share in ((self.plot.x_range, across), (self.plot.y_range, down)):
            middle = (ranged.start + ranged.end) / 2 + share * (ranged.end - ranged.start)
            half = (ranged.end - ranged.start) / 2 / zoom
            ranged.update(start=middle - half, end=middle + half)

    def ranges(self) -> Ranges:
        """Return what is on screen, across and down."""
        x, y = self.plot.x_range, self.plot.y_range
        return (x.start, x.end), (y.start, y.end)

    def empty_closed(self) -> None:
        """Wait for the next polygon."""
        self.closed.data = {"x": [], "y": [], "section": []}

    def hide_stroke(self) -> None:
        """Take the last stroke of the brush off the screen, unless the next one is being drawn."""
        self._strokes.visible = False

    def inner_size(self) -> tuple[int, int]:
        """Return width and height of what is drawn in screen pixels, as the browser said."""
        return self.plot.inner_width or 900, self.plot.inner_height or 580

    def _draw(self, image: SectionImage) -> None:
        self.tools["brush"].default_overrides = {"section": image.section}
        pixels, self._unit = as_int16(self._window.of(image.amplitudes))
        place = self._window.place(image.axes)
        self.amplitude.data = {
            "image": [_rows(pixels)],
            "unit": [self._unit],
            "name_across": [image.names[0]],
            "name_down": [image.names[1]],
            "section": [image.section],
            **place,
        }
        self._spread()
        self._show_gaps(image, place)
        self.show_layers(image)

    def _spread(self) -> None:
        """Give the first and the last colour their amplitudes."""
        low, high = (value / self._unit for value in self._span)
        self.mapper.update(low=low, high=high)

    def _show_gaps(self, image: SectionImage, place: Mapping[str, list[Any]]) -> None:
        if image.dead is None:
            if self.gaps.data["image"]:
                self.gaps.data = dict(_EMPTY)
            return
        dead = image.dead if image.dead.ndim == 2 else image.dead[:, None]
        whole = np.broadcast_to(dead, image.amplitudes.shape)
        self.gaps.data = {"image": [_rows(self._window.of(whole).astype(np.uint8))], **place}

    def _add_brush(self) -> None:
        # one without points, to which a drag from outside can add
        self.stroke = ColumnDataSource({"xs": [[]], "ys": [[]], "section": [0]})
        self._strokes = self.plot.multi_line(
            "xs", "ys", source=self.stroke, line_color=_CROSS, line_width=8, line_alpha=0.6,
            line_cap="round", line_join="round", name="strokes",
        )  # fmt: skip
        self.stroke_glyph = self._strokes.glyph
        self.tools["brush"] = FreehandDrawTool(renderers=[self._strokes], num_objects=1)
        self.plot.add_tools(self.tools["brush"])
        self.closed = ColumnDataSource()
        self.empty_closed()
        self._hear_shapes()
        self.corners = ColumnDataSource({"x": [], "y": []})
        self.plot.line("x", "y", source=self.corners, line_color=_CROSS, line_width=2)
        self.plot.scatter("x", "y", source=self.corners, color=_CROSS, size=7)
        self.cursor = ColumnDataSource({"x": [], "y": []})
        self.plot.scatter(
            "x", "y", source=self.cursor, marker="cross", size=22, line_width=2.5,
            line_color=_CROSS,
        )  # fmt: skip

    def _hear_shapes(self) -> None:
        """Let the browser send what is drawn, with the section that it belongs to."""
        args = {
            "plot": self.plot, "amplitude": self.amplitude, "closed": self.closed,
            "strokes": self._strokes, **self.tools,
        }  # fmt: skip
        for event, code in (
            ("doubletap", _CLOSE), ("selectiongeometry", _SELECTED),
            ("panstart", _DRAG_BEGINS), ("panend", _DRAG_ENDS),
        ):  # fmt: skip
            self.plot.js_on_event(event, CustomJS(args=args, code=code))
        self.amplitude.js_on_change("data", CustomJS(args=args, code=_OTHER_SECTION))
        self._strokes.js_on_change("visible", CustomJS(args=args, code=_STROKE_HIDDEN))

    def _style(self, colors: Mapping[str, str]) -> None:
        plot = self.plot
        plot.grid.visible = False
        plot.toolbar.logo = None
        for axis in plot.axis:
            axis.update(
                axis_label_text_color=colors["ink"], major_label_text_color=colors["quiet"],
                axis_line_color=colors["edge"], major_tick_line_color=colors["edge"],
                minor_tick_line_color=None, axis_label_text_font_style="normal",
                axis_label_text_font_size="12px", major_label_text_font_size="11px",
            )  # fmt: skip
            axis.formatter.use_scientific = False


def _crosshair() -> CrosshairTool:
    spans = [
        Span(dimension=side, line_color=_CROSS, line_alpha=0.8, line_width=1, line_dash="dotted")
        for side in ("width", "height")
    ]
    return CrosshairTool(overlay=spans)


def _first_palette(name: str) -> list[str]:
    if name == "labels":
        return list(LABEL_PALETTE)
    if name == "heat":
        return ramp_palette(name) * 2  # what a model's rule drops is as probable as before
    if name == "doubt":
        return ramp_palette(name)
    return fill_palette(0.5) if name == "fill" else truth_palette(0.5)


def _no_amplitudes() -> dict[str, list[Any]]:
    return {**_EMPTY, "unit": [], "name_across": [], "name_down": [], "section": []}


def _rows(pixels: NDArray[Any]) -> NDArray[Any]:
    """Return (across, down) as the rows that Bokeh draws upwards from the smallest value."""
    return np.ascontiguousarray(pixels.T)
