"""A page of the viewer: its parts, its keys, and the state that its link holds."""

import html
import logging
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import panel as pn

from diapir.errors import DiapirError
from diapir.serve.viewer.bridge import KEYS, TURN_THEME
from diapir.serve.viewer.controls import WIDTH, Navigation, SaltControls, display_controls
from diapir.serve.viewer.correct import CorrectControls
from diapir.serve.viewer.download import DownloadControls
from diapir.serve.viewer.gallery import Gallery
from diapir.serve.viewer.library import Library
from diapir.serve.viewer.predictions import Asked, Predictions
from diapir.serve.viewer.reads import Reads, SectionValues
from diapir.serve.viewer.section import SectionView
from diapir.serve.viewer.shortcuts import Shortcuts
from diapir.serve.viewer.state import LINKED, ViewState
from diapir.serve.viewer.tiles import TileSource

_HERE = Path(__file__).parent
_ZOOM_REST_MS = 150  # so long must a zoom rest before finer pixels are sent
_KEYS_STYLE = """
dl { display: grid; grid-template-columns: 84px 1fr; gap: 5px 10px; margin: 6px 4px; width: 250px; }
dt { font-weight: 600; } dd { margin: 0; }
"""
_TABS_STYLE = """
:host(.bk-above) .bk-header .bk-tab { color: var(--quiet); border: none; padding: 6px 10px; }
:host(.bk-above) .bk-header .bk-tab.bk-active { color: var(--ink); background: none; border: none;
  border-bottom: 2px solid #E69F00; font-weight: 600; }
:host(.bk-above) .bk-header { border-bottom: 1px solid var(--edge); }
"""
_log = logging.getLogger(__name__)


class Page:
    """One page in one browser.

    Args:
        library: What can be shown.
        dark: Whether the page is dark.
        wanted: Settings of a link.
    """

    def __init__(self, library: Library, *, dark: bool, wanted: dict[str, Any]) -> None:
        self.library = library
        self.state = ViewState()
        self.message = pn.pane.HTML("", margin=0, sizing_mode="stretch_width", visible=False)
        self.view = SectionView(library, self.state, dark=dark)
        self.navigation = Navigation(self.view)
        self._document = pn.state.curdoc
        self.predictions = Predictions(
            self.view,
            self.telling,
            lambda name, asked: self._when_locked(lambda: self._predicted(name, asked)),
        )
        self.salt = SaltControls(self.view, self.predictions.widgets)
        self.gallery = Gallery(self.view, self._safely, self.predictions.predict_all)
        self.correct = CorrectControls(self.view, self._safely, self._go)
        self.download = DownloadControls(self.view, self._safely)
        shortcuts = Shortcuts(
            self.view, self.correct, self._safely, self.predictions.predict, self._turn_view
        )
        self.keys = shortcuts.keys(self._step)
        self._reads = Reads(self._when_locked, self._was_read)
        self._read_failed = False
        self._refining: Any = None
        self._dark = dark
        self._settling = False
        self._plot = pn.pane.Bokeh(self.view.figure.plot, sizing_mode="stretch_both")
        self.stage = pn.Column(self._plot, self.gallery.body, sizing_mode="stretch_both", margin=0)
        self._turn_button = pn.widgets.Button(label="Show the gallery", width=WIDTH)
        self._turn_button.on_click(lambda _: self._turn_view())
        self.view.on_section(self._section_changed)
        self.view.figure.on_zoom(self._zoomed)
        self._open(wanted)
        self.state.param.watch(self._write_address, list(LINKED))
        self._write_address()

    def template(self) -> pn.Template:
        """Return the page as Panel serves it."""
        page = pn.Template((_HERE / "page.html").read_text(encoding="utf-8"), location=True)
        page.add_variable("style", (_HERE / "page.css").read_text(encoding="utf-8"))
        page.add_variable("look", "dark" if self._dark else "light")
        page.add_panel("top", self.navigation.row)
        page.add_panel("corner", self._theme_button())
        page.add_panel("side", self._side())
        page.add_panel("message", self.message)
        page.add_panel("stage", self.stage)
        page.add_panel("facts", self.view.facts)
        page.add_panel("keys", self.keys)
        return page

    def tell(self, error: DiapirError | None) -> None:
        """Show an error above the section, or take the last one away."""
        if error is None:
            self.message.visible = False
            return
        lines = [("", error.what), ("where", error.where), ("expected", error.expected),
                 ("fix", error.mend)]  # fmt: skip
        text = "<br>".join(
            f"<i>{label}:</i> {html.escape(str(text))}" if label else html.escape(str(text))
            for label, text in lines
            if text
        )
        self.message.param.update(object=f'<div class="error">{text}</div>', visible=True)

    @contextmanager
    def telling(self, *, clear: bool = True) -> Iterator[None]:
        """Show what goes wrong inside the block instead of letting it pass in silence.

        Args:
            clear: Take the last message away where nothing goes wrong.
        """
        try:
            yield
        except DiapirError as error:
            self.tell(error)
        except Exception as error:
            _log.exception("the viewer failed")
            self.tell(DiapirError(f"something went wrong: {error or type(error).__name__}",
                                  mend="Reload the page; corrections are kept."))  # fmt: skip
        else:
            if clear:
                self.tell(None)

    def _open(self, wanted: dict[str, Any]) -> None:
        """Take the settings of a link, mend what does not fit, and follow changes from now on."""
        state = self.state
        refused = state.take({k: v for k, v in wanted.items() if k in LINKED})
        if state.data not in self.library.sources:
            state.data = next(iter(self.library.sources))
        if isinstance(self.view.source, TileSource) and state.direction != "tile":
            state.view = wanted.get("view", "gallery") if "view" not in refused else "gallery"
        self._fit_place(fresh="number" not in wanted)
        self.salt.follow()
        if "threshold" in wanted and "threshold" not in refused:
            state.threshold = wanted["threshold"]  # rather than that of the model
        state.param.watch(self._place_changed, ["data", "direction", "number"])
        state.param.watch(lambda _: self._safely(self.view.color), ["display", "clip", "reverse"])
        state.param.watch(lambda _: self._safely(self.view.color_salt), ["opacity"])
        state.param.watch(lambda _: self._safely(self._threshold_changed), ["threshold"])
        state.param.watch(lambda _: self._safely(self._salt_changed), ["layers", "salt"])
        state.param.watch(lambda _: self._safely(self._view_changed), ["view"])
        self._safely(self.navigation.follow)
        self._show_stage()
        self._when_locked(self._ask)
        self._safely(self.gallery.follow)
        if refused:
            self.tell(DiapirError(f"the link holds values that do not fit: {', '.join(refused)}"))

    def _fit_place(self, *, fresh: bool) -> None:
        state, source = self.state, self.view.source
        if state.direction not in source.directions:
            fresh = fresh or bool(state.direction)  # the number counts something else
            state.direction = source.directions[0]
        numbers = source.numbers(self.view.wanted.direction)
        if fresh:
            state.number = float(numbers[len(numbers) // 2])

    def _place_changed(self, *events: Any) -> None:
        changed = {event.name for event in events}
        if self._settling:
            return
        if changed & {"data", "direction"}:
            self._settling = True
            try:
                if "data" in changed and isinstance(self.view.source, TileSource):
                    self.state.view = "gallery"
                self._fit_place(fresh="number" not in changed)
                self.salt.follow(other_data="data" in changed)
            finally:
                self._settling = False
        self._safely(self._show)
        if "data" in changed:
            self._safely(self.gallery.follow)

    def _show(self) -> None:
        self.navigation.follow()
        self._show_stage()
        self._ask()

    def _ask(self) -> None:
        """Read what the settings name in the background; other pages are served meanwhile."""
        self._reads.ask(self.view.reading())

    def _was_read(self, future: "Future[SectionValues]") -> None:
        """Draw what was read, or say why it was not."""
        try:
            with self.telling(clear=self._read_failed):
                self._read_failed = True
                self.view.draw(future.result())
                self._read_failed = False
        finally:
            self.keys.served += 1  # the next steps may come

    def _when_locked(self, action: Callable[[], None]) -> None:
        """Do it where the page may be changed; called from any thread."""
        if self._document is None or self._document.session_context is None:
            action()
        else:
            self._document.add_next_tick_callback(action)

    def _zoomed(self) -> None:
        """Send finer pixels of a large section once a zoom rests."""
        if self._document is None or not self.view.figure.is_coarse:
            return
        if self._refining is not None:
            self._document.remove_timeout_callback(self._refining)
        self._refining = self._document.add_timeout_callback(self._refine, _ZOOM_REST_MS)

    def _refine(self) -> None:
        self._refining = None
        self._safely(self.view.refine)

    def _write_address(self, *_: Any) -> None:
        """Keep the address of the page what reopens it."""
        self.keys.query = self.state.query(dark=self._dark)

    def _salt_changed(self) -> None:
        if self.view.is_current:
            self.view.show_layers()
        else:  # such as the salt of a map, which was not read so far
            self._ask()

    def _threshold_changed(self) -> None:
        self.view.threshold_changed()
        if self.gallery.body.visible:
            self.gallery.rearrange()

    def _view_changed(self) -> None:
        self._show_stage()
        if self.gallery.body.visible:
            self.gallery.rearrange()

    def _predicted(self, name: str, asked: Asked) -> None:
        """Show what a model has just found, unless something else was chosen meanwhile."""
        if self.state.salt != name and asked == (self.view.source, self.state.salt):
            self.salt.take(name)
            self.salt.follow()
        self._safely(self.view.show_layers)
        if isinstance(self.view.source, TileSource):
            self._safely(self.gallery.rearrange)
        self._predict_if_always()  # one may have stepped on meanwhile

    def _show_stage(self) -> None:
        """Show the gallery or the section."""
        tiles = isinstance(self.view.source, TileSource)
        gallery = tiles and self.state.view == "gallery"
        self._plot.visible, self.gallery.body.visible = not gallery, gallery
        self.keys.stepping = not gallery
        self.gallery.controls.visible = self._turn_button.visible = tiles
        self._turn_button.label = "Show the tile" if gallery else "Show the gallery"

    def _side(self) -> pn.Tabs:
        rows = (f"<dt>{html.escape(k)}</dt><dd>{html.escape(v)}</dd>" for k, v in KEYS.items())
        keys = "".join(rows)
        return pn.Tabs(
            ("View", pn.Column(
                self._turn_button, self.gallery.controls, self.salt.column,
                display_controls(self.view), margin=0,
            )),
            ("Correct", self.correct.column),
            ("Export", self.download.column),
            ("Keys", pn.pane.HTML(f'<dl class="keys">{keys}</dl>', stylesheets=[_KEYS_STYLE])),
            margin=0, stylesheets=[_TABS_STYLE],
        )  # fmt: skip

    def _theme_button(self) -> pn.widgets.Button:
        button = pn.widgets.Button(label="Light" if self._dark else "Dark", width=56, margin=(6, 0))
        button.jscallback(args={"dark": self._dark}, clicks=TURN_THEME)
        return button

    def _section_changed(self) -> None:
        self.correct.follow()
        self.download.follow()
        self._predict_if_always()

    def _predict_if_always(self) -> None:
        """Predict what is shown, where that is asked of every section and not done yet."""
        place = self.view.shown
        known = place.direction == "slice" or self.view.found()
        if self.salt.always.value and self.view.is_current and not known:
            pn.state.execute(self.predictions.predict)

    def _go(self, key: str) -> None:
        """Show the section whose labels have this name."""
        source = self.view.source
        if isinstance(source, TileSource):
            place = source.find(key)
            if place is not None:
                self.state.param.update(number=float(place), view="section")
            return
        direction, _, number = key.rpartition("_")
        if direction in source.directions:
            self.state.param.update(direction=direction, number=float(number))

    def _safely(self, action: Callable[[], Any]) -> None:
        if self._settling:
            return  # what follows shows it all
        with self.telling():
            action()

    def _step(self, count: int) -> None:
        if isinstance(self.view.source, TileSource):  # in the order of the gallery
            place = self.gallery.neighbour(self.view.wanted.index, count)
            self._safely(lambda: self.state.param.update(number=float(place)))
        else:
            self._safely(lambda: self.view.step(count))
        if not self._reads.busy:  # at the end of the survey there is nothing to read
            self.keys.served += 1

    def _turn_view(self) -> None:
        if isinstance(self.view.source, TileSource):
            self.state.view = "section" if self.state.view == "gallery" else "gallery"
