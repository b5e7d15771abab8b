"""Image files of one size as one array, which threads fill while its first images are in use."""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diapir.errors import DataError
from diapir.io.sources import Source

# One 101 x 101 PNG takes a third of a millisecond, too little for a task; of large ones few may be
# held before they are decoded.
_FILES_PER_TASK = 32
_PIXELS_PER_TASK = 1 << 19
# Threads hide the waiting for slow disks and network folders, so their number does not follow the
# cores.
_THREADS = 8
# Eight large images at once, each with what it is decoded from, would be a gigabyte.
_LARGE_PIXELS = 1 << 20
_MOST_BYTES_OF_SMALL = 1 << 24


class ImageStack:
    """An array (N, H, W) of images that are being read; who asks for some waits until they are in.

    Close it, or use it as a context manager: threads read until then.

    Args:
        source: Holds the files.
        names: At least one, in the order of the array.
        read: From bytes and place to (H, W) uint8.
        like: Size that all must have, and the file that says so; None: those of the first.

    Raises:
        DataError: The first file cannot be read, or all together need more memory than there is.
    """

    def __init__(
        self,
        source: Source,
        names: Sequence[str],
        read: Callable[[bytes, str], NDArray[np.uint8]],
        like: tuple[tuple[int, ...], str] | None = None,
    ) -> None:
        self._source, self._names, self._read = source, names, read
        first = read(source.read(names[0]), source.describe(names[0]))
        size, self._model = like or (first.shape, names[0])
        self._size: tuple[int, ...] = size
        self._array = _allocate((len(names), *self._size), source)
        pixels = self._size[0] * self._size[1]
        large = pixels > _LARGE_PIXELS
        self._most = None if large else _MOST_BYTES_OF_SMALL
        self._threads = ThreadPoolExecutor(1 if large else _THREADS)
        self._step = max(1, min(_FILES_PER_TASK, _PIXELS_PER_TASK // pixels))
        self._parts: list[Future[int]] = []
        for start in range(0, len(names), self._step):
            before = self._parts[-1:]
            self._parts.append(self._threads.submit(self._fill, start, before))

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, H, W)."""
        return self._array.shape

    def __len__(self) -> int:
        """Return N."""
        return len(self._array)

    def __getitem__(self, where: Any) -> NDArray[np.uint8]:
        """Return images by a slice or by an array of places.

        Raises:
            DataError: A file up to the last of these cannot be read or has another size. Of several
                it is always the first.
        """
        places = np.arange(len(self))[where]
        for part in self._parts[: int(places.max(initial=-1)) // self._step + 1]:
            part.result()
        found: NDArray[np.uint8] = self._array[where]
        return found

    def counts(self) -> Iterator[int]:
        """Yield the number of images in each part as soon as it is read, in order.

        Raises:
            DataError: As in `__getitem__`.
        """
        for part in self._parts:
            yield part.result()

    def close(self) -> None:
        """Read no further."""
        self._threads.shutdown(cancel_futures=True)

    def __enter__(self) -> "ImageStack":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _fill(self, start: int, before: list[Future[int]]) -> int:
        names = self._names[start : start + self._step]
        files, error = self._fetch(names)
        # Pillow holds the interpreter's lock while it decodes: taking turns, threads do not wear
        # each other out over it, which would cost a third of the processor's time.
        wait(before)
        for place, (name, data) in enumerate(zip(names, files, strict=False), start):
            where = self._source.describe(name)
            image = self._read(data, where)
            if image.shape != self._size:
                raise _other_size(
                    where, image.shape, self._source.describe(self._model), self._size
                )
            self._array[place] = image
        if error is not None:  # only now: a file before this one may be at fault too
            raise error
        return len(names)

    def _fetch(self, names: Sequence[str]) -> tuple[list[bytes], DataError | None]:
        """Return the bytes of the files up to the first that cannot be read, and its error."""
        files: list[bytes] = []
        try:
            files.extend(self._source.read(name, self._most) for name in names)  # keeps the first
        except DataError as error:
            return files, error
        return files, None


def _allocate(shape: tuple[int, ...], source: Source) -> NDArray[np.uint8]:
    need = float(np.prod(shape, dtype=np.float64))
    try:
        # Linux promises more memory than there is, and kills who believes it
        if need > os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"):
            raise MemoryError
        return np.empty(shape, dtype=np.uint8)
    except MemoryError as error:
        raise DataError(
            f"{shape[0]} images of {_pixels(shape[1:])} need {need / 1e9:.1f} GB of memory",
            where=source.path,
            mend="Use smaller tiles or fewer.",
        ) from error


def _other_size(
    where: str, size: tuple[int, ...], model: str, expected: tuple[int, ...]
) -> DataError:
    return DataError(
        f"sizes differ: this file is {_pixels(size)}",
        where=where,
        expected=f"{_pixels(expected)} as {model}",
        mend="Bring all images and masks to one size.",
    )


def _pixels(size: tuple[int, ...]) -> str:
    return f"{size[1]} x {size[0]} pixels"
