"""A page of the viewer: its parts, its keys, and the state that its link holds."""

import asyncio
import html
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import panel as pn

from diapir.errors import DiapirError
from diapir.serve.viewer_bridge import Keys
from diapir.serve.viewer_controls import Navigation, SaltControls, display_controls
from diapir.serve.viewer_library import Library
from diapir.serve.viewer_models import Progress, StoppedError
from diapir.serve.viewer_section import MAP, SectionView
from diapir.serve.viewer_state import LAYERS, LINKED, ViewState

_HERE = Path(__file__).parent
_LAYER_KEYS = dict(zip("fohdtc", LAYERS.values(), strict=True))
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
        self.keys = Keys(self._step, self._press, keys=sorted(self._actions()))
        self._progress: Progress | None = None
        self._dark = dark
        self._open(wanted)

    def template(self) -> pn.Template:
        """Return the page as Panel serves it."""
        page = pn.Template(
            (_HERE / "viewer.html").read_text(encoding="utf-8"), nb_template=None
        )
        page.add_variable("style", (_HERE / "viewer.css").read_text(encoding="utf-8"))
        page.add_variable("app_title", "Diapir")
        page.add_panel("top", self.navigation.row)
        page.add_panel("side", pn.Column(display_controls(self.view), self.salt.column))
        page.add_panel("message", self.message)
        page.add_panel("stage", pn.pane.Bokeh(self.view.figure.plot, sizing_mode="stretch_both"))
        page.add_panel("facts", self.view.facts)
        page.add_panel("keys", self.keys)
        return page

    def link(self) -> None:
        """Keep the address of the page what reopens it, and follow it."""
        if pn.state.location is not None:
            pn.state.location.sync(self.state, list(LINKED))

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
        view, name = self.view, self.state.salt
        if self._progress is not None:
            return
        if name == MAP or not name:
            name = next(iter(self.library.models.names), "")
        progress = self._progress = Progress()
        self.salt.busy(on=True)
        work = asyncio.create_task(
            asyncio.to_thread(
                self.library.models.predict, name, view.source, view.direction, view.index, progress
            )
        )
        try:
            while not work.done():
                await asyncio.wait([work], timeout=0.2)
                self.salt.progress.value = int(100 * progress.done / max(1, progress.total))
            with self.telling():
                try:
                    work.result()
                    self.state.salt = name
                    view.show_layers()
                except StoppedError:
                    pass
        finally:
            self._progress = None
            self.salt.busy(on=False)

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
        self._fit_place(fresh="number" not in wanted)
        self.salt.follow()
        state.param.watch(self._place_changed, ["data", "direction", "number"])
        state.param.watch(lambda _: self._safely(self.view.color), ["display", "clip", "reverse"])
        state.param.watch(lambda _: self._safely(self.view.color_salt), ["threshold", "opacity"])
        state.param.watch(lambda _: self._safely(self.view.show_layers), ["layers", "salt"])
        self._safely(self._show)
        if refused:
            self.tell(DiapirError(f"the link holds values that do not fit: {', '.join(refused)}"))

    def _fit_place(self, *, fresh: bool) -> None:
        state, source = self.state, self.view.source
        if state.direction not in source.directions:
            state.direction, fresh = source.directions[0], True
        numbers = source.numbers(self.view.direction)
        if fresh:
            state.number = float(numbers[len(numbers) // 2])

    def _place_changed(self, *events: Any) -> None:
        changed = {event.name for event in events}
        if changed & {"data", "direction"}:
            with _discarded(self.state):
                self._fit_place(fresh="number" not in changed)
            self.salt.follow()
        self._safely(self._show)
        if self.salt.always.value and self.view.direction != "slice" and not self.view.found():
            pn.state.execute(self.predict)

    def _show(self) -> None:
        self.navigation.follow()
        self.view.show()

    def _safely(self, action: Callable[[], Any]) -> None:
        with self.telling():
            action()

    def _step(self, count: int) -> None:
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
        }
        for key, layer in _LAYER_KEYS.items():
            actions[key] = lambda layer=layer: self._toggle(layer)
        for place, key in enumerate("123"):
            actions[key] = lambda place=place: self._turn(place)
        return actions

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


@contextmanager
def _discarded(state: ViewState) -> Iterator[None]:
    """Change the state without telling those who watch it."""
    with pn.param.parameterized.discard_events(state):
        yield
