"""A page of the viewer: its parts, its keys, and the state that its link holds."""

import asyncio
import html
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import panel as pn

from diapir.errors import DiapirError
from diapir.io.labels import UNLABELLED
from diapir.serve.viewer.bridge import KEYS, TURN_THEME, Keys
from diapir.serve.viewer.controls import WIDTH, Navigation, SaltControls, display_controls
from diapir.serve.viewer.correct import CorrectControls
from diapir.serve.viewer.download import DownloadControls
from diapir.serve.viewer.gallery import Gallery
from diapir.serve.viewer.library import Library
from diapir.serve.viewer.models import Progress, StoppedError
from diapir.serve.viewer.section import SectionView
from diapir.serve.viewer.state import LAYERS, LINKED, ViewState
from diapir.serve.viewer.tiles import TileSource

_HERE = Path(__file__).parent
_LAYER_KEYS = dict(zip("fohdtc", LAYERS.values(), strict=True))
_ARROWS = {"ArrowLeft": (-1, 0), "ArrowRight": (1, 0), "ArrowUp": (0, -1), "ArrowDown": (0, 1)}
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
        self.view = SectionView(library, self.state, dark=dark, tell=self.tell)
        self.navigation = Navigation(self.view)
        self.salt = SaltControls(self.view, self.predict, self.stop)
        self.gallery = Gallery(self.view, self._safely, self.predict_all)
        self.correct = CorrectControls(self.view, self._safely, self._go)
        self.download = DownloadControls(self.view, self._safely)
        self.keys = Keys(self._step, self._press, keys=sorted(self._actions()))
        self._progress: Progress | None = None
        self._dark = dark
        self._settling = False
        self._plot = pn.pane.Bokeh(self.view.figure.plot, sizing_mode="stretch_both")
        self.stage = pn.Column(self._plot, self.gallery.body, sizing_mode="stretch_both", margin=0)
        self._turn_button = pn.widgets.Button(name="Show the gallery", width=WIDTH)
        self._turn_button.on_click(lambda _: self._turn_view())
        self.view.on_section(self._section_changed)
        self._open(wanted)

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

    def link(self, location: Any) -> None:
        """Keep the address of the page what reopens it.

        Args:
            location: Panel's, whose `search` is what follows the '?' of the address.
        """

        def write(*_: Any) -> None:
            location.search = self.state.query(dark=self._dark)

        self.state.param.watch(write, list(LINKED))
        write()

    def tell(self, error: DiapirError | None) -> None:
        """Show an error above the section, or take the last one away."""
        if error is None:
            self.message.visible = False
            return
        lines = [("", error.what), ("where", error.where), ("expected", error.expected),
                 ("to mend", error.mend)]  # fmt: skip
        text = "<br>".join(
            f"<i>{label}:</i> {html.escape(str(text))}" if label else html.escape(str(text))
            for label, text in lines
            if text
        )
        self.message.param.update(object=f'<div class="error">{text}</div>', visible=True)

    @contextmanager
    def telling(self) -> Iterator[None]:
        """Show what goes wrong inside the block instead of letting it pass in silence."""
        try:
            yield
        except DiapirError as error:
            self.tell(error)
        except Exception as error:
            _log.exception("the viewer failed")
            self.tell(DiapirError(f"something went wrong: {error or type(error).__name__}",
                                  mend="Reload the page; corrections are kept."))  # fmt: skip
        else:
            self.tell(None)

    async def predict(self, _: Any = None) -> None:
        """Predict the section that is shown, in the background."""
        view, models, name = self.view, self.library.models, self._model()
        source, direction, index = view.source, view.direction, view.index

        def work(progress: Progress) -> None:
            if isinstance(source, TileSource):
                found = models.predict_tiles(name, source.tiles.subset([index]), progress)
                one = {key: values[0].T for key, values in found.items()}
                models.remember((name, source.name, direction, index), one)
            else:
                models.predict(name, source, direction, index, progress)

        if await self._in_background(work):
            self.state.salt = name
            self._safely(view.show_layers)

    async def predict_all(self, _: Any = None) -> None:
        """Predict all tiles, in the background."""
        source, name = self.view.source, self._model()
        if not isinstance(source, TileSource):
            return

        def work(progress: Progress) -> None:
            source.probs[name] = self.library.models.predict_tiles(name, source.tiles, progress)

        if await self._in_background(work):
            self.state.salt = name
            self._safely(self.view.show_layers)
            self._safely(self.gallery.rearrange)

    async def _in_background(self, work: Callable[[Progress], None]) -> bool:
        """Run work in a thread with its progress on the page; return whether it came to its end."""
        if self._progress is not None:
            return False
        progress = self._progress = Progress()
        self.salt.busy(on=True)
        task = asyncio.create_task(asyncio.to_thread(work, progress))
        done = False
        try:
            while not task.done():
                await asyncio.wait([task], timeout=0.2)
                self.salt.progress.value = int(100 * progress.done / max(1, progress.total))
            with self.telling(), suppress(StoppedError):
                task.result()
                done = True
        finally:
            self._progress = None
            self.salt.busy(on=False)
        return done

    def _model(self) -> str:
        """Return the model that is chosen, or the first one where a map is looked at."""
        name = self.state.salt
        return (
            name if name in self.library.models.names else next(iter(self.library.models.names), "")
        )

    def stop(self) -> None:
        """End the prediction that runs."""
        if self._progress is not None:
            self._progress.stopped = True

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
        state.param.watch(self._place_changed, ["data", "direction", "number"])
        state.param.watch(lambda _: self._safely(self.view.color), ["display", "clip", "reverse"])
        state.param.watch(lambda _: self._safely(self.view.color_salt), ["threshold", "opacity"])
        state.param.watch(lambda _: self._safely(self.view.show_layers), ["layers", "salt"])
        state.param.watch(lambda _: self._safely(self._show_stage), ["view"])
        self._safely(self._show)
        self._safely(self.gallery.follow)
        if refused:
            self.tell(DiapirError(f"the link holds values that do not fit: {', '.join(refused)}"))

    def _fit_place(self, *, fresh: bool) -> None:
        state, source = self.state, self.view.source
        if state.direction not in source.directions:
            fresh = fresh or bool(state.direction)  # the number counts something else
            state.direction = source.directions[0]
        numbers = source.numbers(self.view.direction)
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
                self.salt.follow()
            finally:
                self._settling = False
        self._safely(self._show)
        if "data" in changed:
            self._safely(self.gallery.follow)
        if self.salt.always.value and self.view.direction != "slice" and not self.view.found():
            pn.state.execute(self.predict)

    def _show(self) -> None:
        self.navigation.follow()
        self.view.show()
        self._show_stage()

    def _show_stage(self) -> None:
        """Show the gallery or the section."""
        tiles = isinstance(self.view.source, TileSource)
        gallery = tiles and self.state.view == "gallery"
        self._plot.visible, self.gallery.body.visible = not gallery, gallery
        self.gallery.controls.visible = self._turn_button.visible = tiles
        self._turn_button.name = "Show the tile" if gallery else "Show the gallery"

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
        button = pn.widgets.Button(name="Light" if self._dark else "Dark", width=56, margin=(6, 0))
        button.jscallback(args={"dark": self._dark}, clicks=TURN_THEME)
        return button

    def _section_changed(self) -> None:
        self.correct.follow()
        self.download.follow()

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
        source = self.view.source
        if isinstance(source, TileSource):  # in the order of the gallery
            place = self.gallery.neighbour(self.view.index, count)
            self._safely(lambda: self.state.param.update(number=float(place)))
        else:
            self._safely(lambda: self.view.step(count))

    def _press(self, key: str) -> None:
        action = self._actions()[key]
        if asyncio.iscoroutinefunction(action):
            pn.state.execute(action)
        else:
            self._safely(action)

    def _actions(self) -> dict[str, Callable[[], Any]]:
        """Return what the keys do that do not step."""
        figure = self.view.figure
        actions: dict[str, Callable[[], Any]] = {
            "+": lambda: figure.move(zoom=1.25),
            "=": lambda: figure.move(zoom=1.25),
            "-": lambda: figure.move(zoom=0.8),
            "0": figure.fit,
            "shift+ArrowLeft": lambda: figure.move(across=-0.1),
            "shift+ArrowRight": lambda: figure.move(across=0.1),
            "shift+ArrowUp": lambda: figure.move(down=0.1),
            "shift+ArrowDown": lambda: figure.move(down=-0.1),
            "[": lambda: self._nudge(-0.02),
            "]": lambda: self._nudge(0.02),
            "v": lambda: self.state.param.update(reverse=not self.state.reverse),
            "p": self.predict,
            "g": self._turn_view,
            **self._drawing(),
        }
        for key, layer in _LAYER_KEYS.items():
            actions[key] = partial(self._toggle, layer)
        for place, key in enumerate("123"):
            actions[key] = partial(self._turn, place)
        return actions

    def _drawing(self) -> dict[str, Callable[[], Any]]:
        """Return what the keys do that correct."""
        correct, cursor = self.correct, self.correct.cursor
        actions: dict[str, Callable[[], Any]] = {
            "k": self._toggle_cursor,
            "Escape": self._leave_cursor,
            "Enter": cursor.corner,
            "shift+Enter": cursor.finish,
            "u": correct.take_back,
            "s": correct.store,
            "a": lambda: correct.choose(1),
            "r": lambda: correct.choose(0),
            "e": lambda: correct.choose(UNLABELLED),
        }
        for name, (across, down) in _ARROWS.items():
            for prefix, far in (("", 1), ("alt+", 10)):
                actions[prefix + name] = partial(cursor.move, across * far, down * far)
        return actions

    def _toggle_cursor(self) -> None:
        self.correct.cursor.toggle()
        self.keys.cursor = self.correct.cursor.is_on

    def _leave_cursor(self) -> None:
        self.correct.cursor.leave()
        self.keys.cursor = False

    def _turn_view(self) -> None:
        if isinstance(self.view.source, TileSource):
            self.state.view = "section" if self.state.view == "gallery" else "gallery"

    def _nudge(self, change: float) -> None:
        self.state.threshold = round(min(1.0, max(0.0, self.state.threshold + change)), 2)

    def _toggle(self, layer: str) -> None:
        shown = self.state.layers
        self.state.layers = (
            [one for one in shown if one != layer] if layer in shown else [*shown, layer]
        )

    def _turn(self, place: int) -> None:
        directions = self.view.source.directions
        if place < len(directions):
            self.state.direction = directions[place]
