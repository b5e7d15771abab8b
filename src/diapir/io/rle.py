"""Run-length text of the competition: column-major, 1-based ``start length`` pairs.

Source: TGS Salt Identification Challenge, evaluation page: pixels are numbered from top to
bottom, then left to right; pairs are sorted and do not overlap; an empty mask is an empty string.
"""

from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diapir.errors import DataError

_PIXELS_AT_ONCE = 1 << 24  # bounds the scratch memory of an encoding to some tens of megabytes
_LONGEST_NUMBER = 18  # digits that int64 surely holds; longer ones are far outside any image


def encode_rle(mask: NDArray[Any]) -> str:
    """Return the run-length text of one mask.

    Args:
        mask: (H, W) bool or integer; anything but 0 is salt.

    >>> encode_rle(np.array([[0, 1], [1, 1]]))
    '2 3'
    """
    return encode_rle_many(np.asarray(mask)[None])[0]


def encode_rle_many(masks: NDArray[Any]) -> list[str]:
    """Return the run-length texts of many masks, in order.

    Args:
        masks: (N, H, W) bool or integer; anything but 0 is salt.

    Raises:
        ValueError: `masks` has not three axes.
    """
    masks = np.asarray(masks)
    if masks.ndim != 3:
        raise ValueError(f"masks must be (N, H, W), found shape {masks.shape}")
    step = max(1, _PIXELS_AT_ONCE // max(1, masks.shape[1] * masks.shape[2]))
    return [
        text
        for first in range(0, len(masks), step)
        for text in _encode_block(masks[first : first + step])
    ]


def _encode_block(masks: NDArray[Any]) -> list[str]:
    n, height, width = masks.shape
    # A zero before every mask and one after the last: each run then rises and falls within its
    # own stretch of `flat`, and all masks are encoded by a single comparison.
    stretch = height * width + 1
    flat = np.zeros(n * stretch + 1, dtype=bool)
    inner = flat[:-1].reshape(n, stretch)[:, 1:].reshape(n, width, height)
    inner[...] = masks.transpose(0, 2, 1) != 0
    edges = np.flatnonzero(flat[1:] != flat[:-1])
    starts, ends = edges[0::2], edges[1::2]
    pairs = np.empty((len(starts), 2), dtype=np.int64)
    pairs[:, 0] = starts % stretch + 1
    pairs[:, 1] = ends - starts
    numbers = pairs.ravel().tolist()
    bounds = (2 * np.searchsorted(starts, np.arange(n + 1) * stretch)).tolist()
    return [" ".join(map(str, numbers[low:high])) for low, high in pairwise(bounds)]


def decode_rle(text: str, shape: tuple[int, int], where: str) -> NDArray[np.uint8]:
    """Return the mask of a run-length text.

    Runs that touch (one ends right before the next starts) are accepted; `encode_rle` never
    writes them.

    Args:
        text: ``start length`` pairs separated by blanks; empty for an empty mask.
        shape: (H, W) of the mask.
        where: File and row, for the error.

    Returns:
        (H, W) uint8 of 0 and 1.

    Raises:
        DataError: The text holds anything but whole numbers, an odd count of them, a run of
            length 0, runs outside the image, out of order or overlapping.

    >>> decode_rle("2 3", (2, 2), where="example")
    array([[0, 1],
           [1, 1]], dtype=uint8)
    """
    height, width = shape
    starts, lengths = parse_rle(text, shape, where)
    steps = np.zeros(height * width + 1, dtype=np.int8)
    steps[starts - 1] = 1
    steps[starts - 1 + lengths] -= 1
    flat = np.cumsum(steps[:-1], dtype=np.int8).view(np.uint8)
    return np.ascontiguousarray(flat.reshape(width, height).T)


def parse_rle(
    text: str, shape: tuple[int, int], where: str
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return starts, counted from 1, and lengths of the runs of a run-length text.

    Args:
        text: As in `decode_rle`.
        shape: (H, W) of the mask.
        where: File and row, for the error.

    Raises:
        DataError: As in `decode_rle`.

    >>> parse_rle("2 3", (2, 2), where="example")
    (array([2]), array([3]))
    """
    numbers = _parse_numbers(text, where)
    starts, lengths = numbers[0::2], numbers[1::2]
    _check_runs(starts, lengths, shape, where)
    return starts, lengths


def _parse_numbers(text: str, where: str) -> NDArray[np.int64]:
    tokens = text.split()
    joined = "".join(tokens)
    if joined and not (joined.isascii() and joined.isdigit()):
        odd = next(token for token in tokens if not (token.isascii() and token.isdigit()))
        raise _malformed(f"{_shorten(odd)!r} is not a whole number", where)
    if len(max(tokens, key=len, default="")) > _LONGEST_NUMBER:
        long = next(token for token in tokens if len(token) > _LONGEST_NUMBER)
        raise _malformed(f"{_shorten(long)} is out of range", where)
    if len(tokens) % 2:
        raise _malformed(f"odd count of numbers ({len(tokens)})", where)
    return np.array(list(map(int, tokens)), dtype=np.int64)


def _check_runs(
    starts: NDArray[np.int64], lengths: NDArray[np.int64], shape: tuple[int, int], where: str
) -> None:
    height, width = shape
    pixels = height * width
    ends = starts + lengths
    if not len(starts):
        return
    range_text = f"1..{pixels} of a {width} x {height} image"
    checks = (
        (lengths < 1, "has length 0"),
        ((starts < 1) | (ends - 1 > pixels), f"is out of range {range_text}"),
        (np.diff(starts, prepend=0) < 0, "is not sorted: it starts before the run ahead of it"),
        (starts[1:] < ends[:-1], "overlaps the run ahead of it"),
    )
    for bad, complaint in checks:
        if bad.any():
            # The overlap check has one entry less: its first belongs to the second run.
            k = int(np.argmax(bad)) + len(starts) - len(bad)
            raise _malformed(f"run {k + 1} ({starts[k]} {lengths[k]}) {complaint}", where)


def _malformed(what: str, where: str) -> DataError:
    return DataError(
        f"malformed run-length text: {what}",
        where=where,
        expected="'start length' pairs of whole numbers, counted from 1 down the columns, "
        "sorted, not overlapping; nothing for an empty mask",
        mend="Correct this row, or write it anew from the mask.",
    )


def _shorten(token: str) -> str:
    return token if len(token) <= 24 else f"{token[:20]}..."
