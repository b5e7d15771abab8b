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

KEPT_BYTES = 2 << 30
"""Of decoded blocks at most, whatever the size and the number of the surveys."""

_POOL = ThreadPoolExecutor(2, thread_name_prefix="blocks")
_AHEAD = 40  # lines before the end of a block at which the next one is read in the background

Key = tuple[int, ...]


class KeptBlocks:
    """Blocks of any number of readers, the most recent of which are kept.

    Args:
        most_bytes: Of them all; the newest block is kept whatever its size.
    """

    def __init__(self, most_bytes: int = KEPT_BYTES) -> None:
        self.most_bytes = most_bytes
        self._blocks: OrderedDict[tuple[object, Key], NDArray[Any]] = OrderedDict()
        self._held = 0
        self._lock = threading.Lock()

    @property
    def held(self) -> int:
        """Bytes that are kept now."""
        return self._held

    def get(self, owner: object, key: Key) -> NDArray[Any] | None:
        """Return a block, which is the most recent one then; None where it is not kept."""
        with self._lock:
            found = self._blocks.get((owner, key))
            if found is not None:
                self._blocks.move_to_end((owner, key))
            return found

    def put(self, owner: object, key: Key, block: NDArray[Any]) -> None:
        """Keep a block, in place of those that were not asked for for longest."""
        with self._lock:
            self._forget((owner, key))
            self._blocks[owner, key] = block
            self._held += block.nbytes
            while self._held > self.most_bytes and len(self._blocks) > 1:
                self._forget(next(iter(self._blocks)))

    def drop(self, owner: object) -> None:
        """Forget the blocks of a reader."""
        with self._lock:
            for name in [name for name in self._blocks if name[0] is owner]:
                self._forget(name)

    def _forget(self, name: tuple[object, Key]) -> None:
        block = self._blocks.pop(name, None)
        self._held -= 0 if block is None else block.nbytes


class BlockReader:
    """An array whose sections are put together from blocks, the most recent of which are kept.

    A chunk of a Zarr store is decoded whole even where one line of it is wanted. Kept, it serves
    the lines beside it, which is where an interpreter looks next.

    Args:
        array: Dask or NumPy array of two or three axes, or one that gives NumPy arrays when sliced
            and has a `chunks` of one number an axis, as Zarr's have.
        kept: Takes the blocks, beside those of others; None: of this array alone.
        beside: How many arrays are read for one section: each is to have its share.
    """

    def __init__(self, array: Any, kept: KeptBlocks | None = None, beside: int = 1) -> None:
        self._array = array
        self.shape: tuple[int, ...] = tuple(array.shape)
        self.dtype: np.dtype[Any] = np.dtype(array.dtype)
        self._edges = [_edges(size, c) for size, c in zip(self.shape, _chunks(array), strict=True)]
        self._kept = KeptBlocks() if kept is None else kept
        block_bytes = math.prod(int(np.diff(e).max(initial=1)) for e in self._edges)
        share = self._kept.most_bytes // beside
        self._at_once = max(2, share // (block_bytes * self.dtype.itemsize))
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
                if self._kept.get(self, key) is None:
                    self._start(key)

    def whole_bytes(self) -> int:
        """Return how many bytes the array takes in memory."""
        return int(np.prod(self.shape)) * self.dtype.itemsize

    def close(self) -> None:
        """Stop reading ahead, and forget what is kept."""
        with self._lock:
            for future in self._loading.values():
                future.cancel()
        self._kept.drop(self)

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
                block = self._kept.get(self, key)
                if block is not None:
                    found[key] = block
                else:
                    self._start(key)
            waiting = {key: self._loading[key] for key in keys if key not in found}
        for key, future in waiting.items():
            found[key] = future.result()
        return found

    def _start(self, key: Key) -> None:
        if key not in self._loading:
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
            self._kept.put(self, key, block)
            self._loading.pop(key, None)
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
