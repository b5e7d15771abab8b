"""Reads of sections in the background: in order, and of those that pile up only the newest."""

from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diapir.serve.viewer.place import Place

_POOL = ThreadPoolExecutor(4, thread_name_prefix="sections")  # each page takes one at a time


@dataclass(frozen=True, eq=False)
class SectionValues:
    """What was read of a section.

    Args:
        place: Which one.
        values: (T, S) by name: 'amplitude', and what was asked for of 'probability',
            'disagreement' and 'truth'.
    """

    place: Place
    values: Mapping[str, NDArray[Any]]


def read_section(place: Place, names: frozenset[str], moved: int = 0) -> SectionValues:
    """Return the values of a section.

    Args:
        place: Which one.
        names: What is read besides the amplitudes.
        moved: How far one has stepped to come here: the lines beyond are read ahead.

    Raises:
        DataError: It cannot be read.
    """
    source, direction, index = place.source, place.direction, place.index
    values = {"amplitude": np.asarray(source.section(direction, index, moved=moved), np.float32)}
    for name in sorted(names):
        values[name] = source.section(direction, index, name, moved)
    source.clip_range(99.0)  # reads a section of its own the first time
    return SectionValues(place, values)


class Reads:
    """Reads in a thread, one section at a time; of those asked for meanwhile, only the newest.

    What has been read is handed over in the order in which it was asked for, so that an older
    section never covers a newer one.

    Args:
        defer: Called in the thread with what is to be done where the page may be changed.
        done: Called there with what was read, whose `result` raises what went wrong.
    """

    def __init__(
        self,
        defer: Callable[[Callable[[], None]], None],
        done: "Callable[[Future[SectionValues]], None]",
    ) -> None:
        self._defer = defer
        self._done = done
        self._next: Callable[[], SectionValues] | None = None
        self._busy = False

    @property
    def busy(self) -> bool:
        """Whether something is read, or waits to be."""
        return self._busy

    def ask(self, read: Callable[[], SectionValues]) -> None:
        """Read this next, in place of what waits."""
        self._next = read
        if not self._busy:
            self._start()

    def _start(self) -> None:
        assert self._next is not None  # noqa: S101  # callers have asked
        read, self._next = self._next, None
        self._busy = True
        future = _POOL.submit(read)
        future.add_done_callback(lambda one: self._defer(lambda: self._finish(one)))

    def _finish(self, future: "Future[SectionValues]") -> None:
        try:
            self._done(future)
        finally:
            self._busy = False
            if self._next is not None:
                self._start()
