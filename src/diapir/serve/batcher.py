"""Predicts the sections of many requests in few calls of the models."""

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from diapir.inference.blend import WINDOW
from diapir.serve.metrics import Metrics
from diapir.serve.problems import Refused, busy
from diapir.serve.settings import ServeSettings

_PASS_PIXELS = 4 * WINDOW * WINDOW  # what `blend_section` gives a model at a time
_LONGEST_RETRY_S = 60

Predict = Callable[[str, NDArray[np.uint8]], NDArray[np.float32]]


@dataclass(frozen=True, eq=False)
class _Waiting:
    """A section that waits, and who waits for it."""

    model: str
    image: NDArray[np.uint8]
    answer: "asyncio.Future[NDArray[np.float32]]"

    @property
    def group(self) -> tuple[str, tuple[int, ...]]:
        """What sections share that can be predicted together."""
        return self.model, self.image.shape


class Batcher:
    """Holds a limited number of sections, and predicts those of one model and size together.

    The oldest section says which group comes next, so nobody waits for ever. While one batch is
    predicted, the next one gathers.

    Args:
        predict: From the name of a model and (N, H, W) uint8 to (N, H, W) float32.
        settings: Limits.
        metrics: Take sizes and times.
    """

    def __init__(self, predict: Predict, settings: ServeSettings, metrics: Metrics) -> None:
        self._predict = predict
        self._settings = settings
        self._metrics = metrics
        self._waiting: deque[_Waiting] = deque()
        self._seats = self._bytes = self._pixels = 0
        self._seconds_a_pixel = 0.0
        self._arrived = asyncio.Event()

    @contextmanager
    def seat(self, size: int) -> Iterator[Callable[[int], None]]:
        """Hold a place for a request, from before its body is read until its answer is sent.

        Args:
            size: Of the body in bytes.

        Yields:
            Takes the bytes that are held in place of those from now on, such as those of the
            answer, and raises `Refused` where there is no room for them.

        Raises:
            Refused: There is no room.
        """
        if self._seats >= self._settings.queue:
            raise self._full()
        held = 0

        def hold(size: int) -> None:
            nonlocal held
            others = self._bytes - held
            if others and others + size > self._settings.held_bytes:
                raise self._full()
            self._bytes, held = others + size, size

        hold(size)
        self._seats += 1
        self._metrics.queue_sections.set(self._seats)
        try:
            yield hold
        finally:
            self._seats, self._bytes = self._seats - 1, self._bytes - held
            self._metrics.queue_sections.set(self._seats)

    async def predict(self, model: str, image: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the probabilities of a section, (H, W) float32; give up by cancelling.

        Args:
            model: Its name.
            image: (H, W) grey values.

        Raises:
            Refused: There is no room.
            DiapirError: The model cannot predict it.
        """
        if self._waiting and self._pixels + image.size > self._settings.held_pixels:
            raise self._full()
        waiting = _Waiting(model, image, asyncio.get_running_loop().create_future())
        self._waiting.append(waiting)
        self._pixels += image.size
        self._arrived.set()
        return await waiting.answer

    async def run(self) -> None:
        """Predict what comes, until cancelled."""
        loop = asyncio.get_running_loop()
        with ThreadPoolExecutor(1, "models") as thread:
            while True:
                await self._arrived.wait()
                if self._settings.linger_s:
                    await asyncio.sleep(self._settings.linger_s)
                while batch := self._take():
                    found = loop.run_in_executor(thread, self._timed, batch)
                    # a request that is cancelled now must not take the others with it
                    with suppress(Exception):
                        await found
                    self._deliver(batch, found)
                    # those who got their answer come back while the others gather
                    await asyncio.sleep(self._settings.linger_s)
                self._arrived.clear()

    def _full(self) -> Refused:
        self._metrics.refused.inc()
        seconds = math.ceil(self._pixels * self._seconds_a_pixel)
        what = "there is no room for another section: too many are being predicted"
        return busy(what, min(max(seconds, 1), _LONGEST_RETRY_S))

    def _take(self) -> list[_Waiting]:
        """Return the oldest section and those that can go with it; drop whom nobody waits for."""
        batch: list[_Waiting] = []
        others: deque[_Waiting] = deque()
        for one in self._waiting:
            if one.answer.done():
                self._pixels -= one.image.size
            elif not batch or (one.group == batch[0].group and len(batch) < self._most(one)):
                batch.append(one)
            else:
                others.append(one)
        self._waiting = others
        self._pixels -= sum(one.image.size for one in batch)
        return batch

    def _most(self, one: _Waiting) -> int:
        return min(self._settings.options.batch_size, max(1, _PASS_PIXELS // one.image.size))

    def _timed(self, batch: list[_Waiting]) -> NDArray[np.float32]:
        started = time.perf_counter()
        probs = self._predict(batch[0].model, np.stack([one.image for one in batch]))
        seconds = time.perf_counter() - started
        self._metrics.model_seconds.inc(seconds)
        self._metrics.batch_sections.observe(len(batch))
        self._seconds_a_pixel = seconds / (batch[0].image.size * len(batch))
        return probs

    def _deliver(self, batch: list[_Waiting], found: "asyncio.Future[NDArray[np.float32]]") -> None:
        error = found.exception()
        for place, one in enumerate(batch):
            if one.answer.done():
                continue
            if error is not None:
                one.answer.set_exception(error)
            else:
                one.answer.set_result(found.result()[place])
