"""Reads sections of a lazy volume through whole blocks, which it keeps for the next section."""

import math
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diapir.errors import DataError

KEPT_BYTES = 1 << 30
"""Of decoded blocks at most, whatever the size of the survey."""

_POOL = ThreadPoolExecutor(2, thread_name_prefix="blocks")
_AHEAD = 40  # lines before the end of a block at which the next one is read in the background

Key = tuple[int, ...]


class BlockReader:
    """An array whose sections are put together from blocks, the most recent of which are kept.

    A chunk of a Zarr store is decoded whole even where one line of it is wanted. Kept, it serves
    the lines beside it, which is where an interpreter looks next.

    Args:
        array: Dask or NumPy array of two or three axes, or one that gives NumPy arrays when sliced
            and has a `chunks` of one number an axis, as Zarr's have.
        kept_bytes: Of blocks that are kept.
    """

    def __init__(self, array: Any, kept_bytes: int = KEPT_BYTES) -> None:
        self._array = array
        self.shape: tuple[int, ...] = tuple(array.shape)
        self.dtype: np.dtype[Any] = np.dtype(array.dtype)
        self._edges = [_edges(size, c) for size, c in zip(self.shape, _chunks(array), strict=True)]
        self._kept_bytes = kept_bytes
        block_bytes = math.prod(int(np.diff(e).max(initial=1)) for e in self._edges)
        self._at_once = max(2, kept_bytes // (block_bytes * self.dtype.itemsize))
        self._blocks: OrderedDict[Key, NDArray[Any]] = OrderedDict()
        self._loading: dict[Key, Future[NDArray[Any]]] = {}
        self._lock = threading.Lock()

    def plane(self, axis: int, index: int) -> NDArray[Any]:
        """Return one plane of a volume: all that has this index on this axis; a copy."""
        box = [slice(0, size) for size in self.shape]
        box[axis] = slice(index, index + 1)
        return np.squeeze(self.box(tuple(box)), axis)

    def box(self, box: tuple[slice, ...]) -> NDArray[Any]:
        """Return a box, one slice without steps an axis; a copy."""
        spans = [
            range(self._find(axis, part.start)[0], self._find(axis, part.stop - 1)[0] + 1)
            for axis, part in enumerate(box)
        ]
        found = np.empty([part.stop - part.start for part in box], self.dtype)
        for key, block in self._each(list(product(*spans))):
            at = [int(edges[k]) for edges, k in zip(self._edges, key, strict=True)]
            both = [
                (max(part.start, low), min(part.stop, low + size))
                for part, low, size in zip(box, at, block.shape, strict=True)
            ]
            inner = tuple(slice(a - low, b - low) for (a, b), low in zip(both, at, strict=True))
            outer = tuple(
                slice(a - part.start, b - part.start)
                for (a, b), part in zip(both, box, strict=True)
            )
            found[outer] = block[inner]
        return found

    def prefetch(self, axis: int, index: int, step: int) -> None:
        """Read the next block along an axis in the background once a walk comes near it."""
        block, _ = self._find(axis, index)
        ahead = index + (_AHEAD if step > 0 else -_AHEAD)
        if not 0 <= ahead < self.shape[axis]:
            ahead = self.shape[axis] - 1 if step > 0 else 0
        after, _ = self._find(axis, ahead)
        if after == block:
            return
        rest = [range(len(edges) - 1) for edges in self._edges]
        rest[axis] = range(after, after + 1)
        if math.prod(map(len, rest)) > self._at_once:
            return  # they would be gone before they are looked at
        with self._lock:
            for key in product(*rest):
                self._start(key)

    def whole_bytes(self) -> int:
        """Return how many bytes the array takes in memory."""
        return int(np.prod(self.shape)) * self.dtype.itemsize

    def close(self) -> None:
        """Stop reading ahead."""
        with self._lock:
            for future in self._loading.values():
                future.cancel()

    def _find(self, axis: int, index: int) -> tuple[int, int]:
        edges = self._edges[axis]
        block = int(np.searchsorted(edges, index, side="right")) - 1
        return block, index - int(edges[block])

    def _each(self, keys: Sequence[Key]) -> Iterator[tuple[Key, NDArray[Any]]]:
        """Yield blocks; of more than are kept, never all at once."""
        for first in range(0, len(keys), self._at_once):
            yield from self._get(keys[first : first + self._at_once]).items()

    def _get(self, keys: Sequence[Key]) -> dict[Key, NDArray[Any]]:
        found: dict[Key, NDArray[Any]] = {}
        with self._lock:
            for key in keys:
                if key in self._blocks:
                    self._blocks.move_to_end(key)
                    found[key] = self._blocks[key]
                else:
                    self._start(key)
            waiting = {key: self._loading[key] for key in keys if key not in found}
        for key, future in waiting.items():
            found[key] = future.result()
        return found

    def _start(self, key: Key) -> None:
        if key not in self._blocks and key not in self._loading:
            self._loading[key] = _POOL.submit(self._load, key)

    def _load(self, key: Key) -> NDArray[Any]:
        box = tuple(
            slice(int(edges[k]), int(edges[k + 1]))
            for edges, k in zip(self._edges, key, strict=True)
        )
        try:
            block = _computed(self._array[box])
        except Exception as error:
            with self._lock:
                self._loading.pop(key, None)
            raise DataError(
                f"cannot read a block of the survey: {error}",
                mend="The file may have been moved or changed: open it again.",
            ) from error
        with self._lock:
            self._loading.pop(key, None)
            self._blocks[key] = block
            held = sum(one.nbytes for one in self._blocks.values())
            while held > self._kept_bytes and len(self._blocks) > 1:
                held -= self._blocks.popitem(last=False)[1].nbytes
        return block


def _chunks(array: Any) -> Sequence[Any]:
    found = getattr(array, "chunks", None)
    return array.shape if found is None else tuple(found)


def _edges(size: int, chunks: Any) -> NDArray[np.int64]:
    """Return where blocks begin, and the end, from Dask's sizes or Zarr's one size."""
    if isinstance(chunks, tuple):
        return np.concatenate([[0], np.cumsum(chunks)]).astype(np.int64)
    return np.append(np.arange(0, size, max(1, int(chunks))), size).astype(np.int64)


def _computed(lazy: Any) -> NDArray[Any]:
    # each block has a thread already: Dask's own would only stand in the way
    if hasattr(lazy, "compute"):
        lazy = lazy.compute(scheduler="synchronous")
    return np.ascontiguousarray(lazy)
