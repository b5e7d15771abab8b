"""Predictions that a page asks for: in a thread, with their progress, one at a time."""

import asyncio
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from typing import Any

import panel as pn

from diapir.serve.viewer.controls import WIDTH
from diapir.serve.viewer.library import Source
from diapir.serve.viewer.models import Progress, StoppedError
from diapir.serve.viewer.section import SectionView
from diapir.serve.viewer.tiles import TileSource

Asked = tuple[Source, str]
"""What was looked at, and where its salt came from."""


class Predictions:
    """Predicts what is shown, or all tiles, and shows how far it has come.

    Args:
        view: The section.
        telling: Shows what goes wrong inside its block.
        done: Called when a prediction has come to its end, with the name of the model, and what one
            looked at, and where its salt came from, when it was asked for.
    """

    def __init__(
        self,
        view: SectionView,
        telling: Callable[[], AbstractContextManager[None]],
        done: Callable[[str, Asked], None],
    ) -> None:
        self._view = view
        self._telling = telling
        self._done = done
        self._progress: Progress | None = None
        self.button = pn.widgets.Button(
            label="Predict this section", color="primary", width=WIDTH - 80
        )
        self.button.on_click(self.predict)
        self.stop_button = pn.widgets.Button(label="Stop", width=60, disabled=True)
        self.stop_button.on_click(lambda _: self.stop())
        self.bar = pn.indicators.Progress(value=0, max=100, width=WIDTH, visible=False)

    @property
    def widgets(self) -> tuple[pn.viewable.Viewable, ...]:
        """The buttons to predict and to stop, and the bar of progress."""
        return self.button, self.stop_button, self.bar

    async def predict(self, _: Any = None) -> None:
        """Predict the section that is shown, in the background."""
        place, models, name = self._view.shown, self._view.library.models, self._model()
        source, asked = place.source, self._asked()

        def work(progress: Progress) -> None:
            if isinstance(source, TileSource):
                found = models.predict_tiles(name, source.tiles.subset([place.index]), progress)
                one = {key: values[0].T for key, values in found.items()}
                models.remember((name, *place.memory_key), one)
            else:
                models.predict(name, source, place.direction, place.index, progress)

        if await self._in_background(work):
            self._done(name, asked)

    async def predict_all(self, _: Any = None) -> None:
        """Predict all tiles, in the background."""
        source, name, asked = self._view.source, self._model(), self._asked()
        if not isinstance(source, TileSource):
            return

        def work(progress: Progress) -> None:
            source.probs[name] = self._view.library.models.predict_tiles(
                name, source.tiles, progress
            )
            source.uncertainty(name)  # here it holds nothing up

        if await self._in_background(work):
            self._done(name, asked)

    def _asked(self) -> Asked:
        return self._view.source, self._view.state.salt

    def stop(self) -> None:
        """End the prediction that runs."""
        if self._progress is not None:
            self._progress.stopped = True

    async def _in_background(self, work: Callable[[Progress], None]) -> bool:
        """Run work in a thread with its progress on the page; return whether it came to its end."""
        if self._progress is not None:
            return False
        progress = self._progress = Progress()
        self._busy(on=True)
        task = asyncio.create_task(asyncio.to_thread(work, progress))
        done = False
        try:
            while not task.done():
                await asyncio.wait([task], timeout=0.2)
                self.bar.value = int(100 * progress.done / max(1, progress.total))
            with self._telling(), suppress(StoppedError):
                task.result()
                done = True
        finally:
            self._progress = None
            self._busy(on=False)
        return done

    def _busy(self, *, on: bool) -> None:
        self.button.disabled, self.stop_button.disabled = on, not on
        self.bar.param.update(visible=on, value=0)

    def _model(self) -> str:
        """Return the model that is chosen, or the first one where a map is looked at."""
        name, names = self._view.state.salt, self._view.library.models.names
        return name if name in names else next(iter(names), "")
