"""Overlapping windows over a section of any size, in integers alone."""

from typing import NamedTuple


class Window(NamedTuple):
    """A rectangle of a section: rows top..top+height, columns left..left+width."""

    top: int
    left: int
    height: int
    width: int


def starts(size: int, window: int, overlap: int) -> list[int]:
    """Return the first pixels of windows that cover a side with at least this overlap, evenly.

    Args:
        size: Of the side in pixels.
        window: Of the windows in pixels; a side that is no longer needs one window.
        overlap: Of neighbours, less than the window.

    >>> starts(300, 128, 32)
    [0, 86, 172]
    >>> starts(100, 128, 32)
    [0]
    """
    if size <= window:
        return [0]
    count = -(-(size - overlap) // (window - overlap))
    return [(size - window) * i // (count - 1) for i in range(count)]


def cover(height: int, width: int, window: int, overlap: int) -> list[Window]:
    """Return windows of one size that cover a section, row by row; smaller where it is smaller."""
    tall, wide = min(height, window), min(width, window)
    return [
        Window(top, left, tall, wide)
        for top in starts(height, window, overlap)
        for left in starts(width, window, overlap)
    ]
