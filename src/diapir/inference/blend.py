"""Joins the predictions of overlapping windows without seams."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from diapir.data.windows import Window, cover

WINDOW = 404
"""Side of a window in pixels: four training tiles, so that borders matter little."""
OVERLAP = 101
"""Overlap of neighbouring windows in pixels."""


def blend_section(
    section: NDArray[np.uint8],
    predict: Callable[[NDArray[np.uint8]], NDArray[np.float32]],
    *,
    window: int = WINDOW,
    overlap: int = OVERLAP,
    batch: int = 4,
) -> NDArray[np.float32]:
    """Return the prediction of a whole section from predictions of its windows.

    Args:
        section: (H, W) uint8.
        predict: From (N, h, w) uint8 windows to (N, h, w) float32 values.
        window: Side of the windows in pixels.
        overlap: Of neighbouring windows in pixels.
        batch: Windows a call.

    Returns:
        (H, W) float32: in overlaps the mean, weighed so that a window counts less towards its
        border. Predicting the identity gives the section itself, to rounding.
    """
    height, width = section.shape
    windows = cover(height, width, window, overlap)
    if len(windows) == 1:
        whole: NDArray[np.float32] = predict(section[None])[0]
        return whole
    weight = taper(windows[0].height, overlap)[:, None] * taper(windows[0].width, overlap)[None, :]
    # sums of up to hundreds of windows: in float32 their rounding would exceed a millionth
    total, weights = np.zeros((2, height, width), np.float64)
    for some in _batches(windows, batch):
        values = predict(np.stack([section[_slices(w)] for w in some]))
        for place, value in zip(some, values, strict=True):
            total[_slices(place)] += weight * value
            weights[_slices(place)] += weight
    return np.divide(total, weights, out=total).astype(np.float32)


def blend_sections(
    sections: NDArray[np.uint8], predict: Callable[[NDArray[np.uint8]], NDArray[np.float32]]
) -> NDArray[np.float32]:
    """Return the predictions of sections of one size: in one call where they fit into a window.

    Args:
        sections: (N, H, W) uint8.
        predict: As in `blend_section`.

    Returns:
        (N, H, W) float32.
    """
    if windows_of(*sections.shape[1:]) == 1:
        return predict(sections)
    return np.stack([blend_section(section, predict) for section in sections])


def windows_of(height: int, width: int) -> int:
    """Return how many windows `blend_sections` predicts for each section of a size.

    >>> windows_of(101, 404), windows_of(2000, 2000)
    (1, 49)
    """
    return len(cover(height, width, WINDOW, OVERLAP))


def taper(size: int, overlap: int) -> NDArray[np.float32]:
    """Return weights of a window's rows or columns: 1 inside, falling to the border, never 0.

    Args:
        size: Of the window in pixels.
        overlap: Over which the weights fall, in pixels.

    Returns:
        (size,) float32 in 0..1; the falling part is a raised cosine.
    """
    from_border = np.minimum(np.arange(size), np.arange(size)[::-1]) + 1.0
    share = np.minimum(from_border / (overlap + 1), 1.0)
    return np.asarray((1 - np.cos(np.pi * share)) / 2, np.float32)


def _slices(window: Window) -> tuple[slice, slice]:
    return (
        slice(window.top, window.top + window.height),
        slice(window.left, window.left + window.width),
    )


def _batches(windows: Sequence[Window], size: int) -> Iterator[Sequence[Window]]:
    for start in range(0, len(windows), size):
        yield windows[start : start + size]
