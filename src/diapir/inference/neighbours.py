"""Predicts tiles with what lies around them, where their neighbours are known.

A network sees a tile of 101 pixels and, beyond it, the tile's own mirror image. Where the
neighbours are known, the real rock can take the mirror image's place.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from diapir.data.mosaic import Mosaics

MARGIN = 32
"""Pixels of the surroundings that are shown on every side."""


def predict_with_neighbours(
    images: NDArray[np.uint8],
    found: Mosaics,
    predict: Callable[[NDArray[np.uint8]], NDArray[np.float32]],
    chosen: NDArray[np.intp],
    *,
    margin: int = MARGIN,
) -> NDArray[np.float32]:
    """Return the prediction of tiles in their surroundings.

    Args:
        images: (N, H, W) all tiles, in the order of `found`.
        found: Which of them are neighbours.
        predict: From (M, H + 2 margin, W + 2 margin) uint8 to probabilities of that shape.
        chosen: (M,) tiles to predict.
        margin: Pixels of the surroundings on every side, at most half a tile.

    Returns:
        (M, H, W) float32.
    """
    height, width = images.shape[1:]
    windows = surroundings(images, found, chosen, margin)
    probs = predict(windows)
    inside: NDArray[np.float32] = probs[:, margin : margin + height, margin : margin + width]
    return inside


def surroundings(
    images: NDArray[np.uint8], found: Mosaics, chosen: NDArray[np.intp], margin: int
) -> NDArray[np.uint8]:
    """Return tiles with a margin of their neighbours, or of their mirror image where none is known.

    Args:
        images: (N, H, W).
        found: Which tiles are neighbours.
        chosen: (M,) tiles.
        margin: Pixels on every side.

    Returns:
        (M, H + 2 margin, W + 2 margin) uint8.
    """
    height, width = images.shape[1:]
    pads = ((0, 0), (margin, margin), (margin, margin))
    windows = np.pad(images[chosen], pads, mode="reflect")
    around = _neighbours(found)[chosen]
    for row in range(3):
        for column in range(3):
            known = np.flatnonzero(around[:, row, column] >= 0)
            if (row, column) == (1, 1) or not len(known):
                continue
            rows, columns = _strip(row, height, margin), _strip(column, width, margin)
            others = images[around[known, row, column]]
            windows[known, rows[0], columns[0]] = others[:, rows[1], columns[1]]
    return windows


def _strip(side: int, size: int, margin: int) -> tuple[slice, slice]:
    """Return where the strip of a neighbour lies in the window, and where in the neighbour."""
    if side == 0:
        return slice(0, margin), slice(size - margin, size)
    if side == 1:
        return slice(margin, margin + size), slice(0, size)
    return slice(margin + size, size + 2 * margin), slice(0, margin)


def _neighbours(found: Mosaics) -> NDArray[np.intp]:
    """Return (N, 3, 3) the tiles around each tile, -1 where none is known."""
    around = np.full((found.tiles, 3, 3), -1, np.intp)
    for mosaic in found.mosaics:
        grid = np.pad(mosaic.grid(), 1, constant_values=-1)
        for tile, row, column in zip(mosaic.tiles, mosaic.row, mosaic.column, strict=True):
            around[tile] = grid[row : row + 3, column : column + 3]
    return around
