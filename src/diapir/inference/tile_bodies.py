"""Bodies of salt in tiles: connected pixels, found for all tiles at once from runs of pixels.

A run is a stretch of salt in one row. A tile has some hundred runs where it has ten thousand
pixels, so that labelling them is fast in plain numpy, without a loop over tiles.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Index = NDArray[np.intp]


@dataclass(frozen=True, eq=False)
class Bodies:
    """The runs of N masks and the bodies they make up; pixels that touch at a side are one body.

    Args:
        shape: (N, H, W).
        row: (R,) row of each run, counted through all tiles: tile * H + row in the tile.
        start: (R,) first column of each run.
        stop: (R,) column behind each run.
        body: (R,) number of the body that each run belongs to, 0..K-1.
        tile: (K,) the tile of each body.
        size: (K,) pixels of each body.
    """

    shape: tuple[int, int, int]
    row: Index
    start: Index
    stop: Index
    body: Index
    tile: Index
    size: NDArray[np.int64]


def label_tile_bodies(masks: NDArray[np.bool_]) -> Bodies:
    """Return the bodies of salt of masks (N, H, W).

    >>> masks = np.array([[[1, 0, 1], [1, 0, 0], [0, 0, 1]]], bool)
    >>> label_tile_bodies(masks).size.tolist()
    [2, 1, 1]
    """
    tiles, height, width = masks.shape
    rows = np.zeros((tiles * height, width + 2), np.int8)
    rows[:, 1:-1] = masks.reshape(tiles * height, width)
    steps = np.diff(rows, axis=1)
    row, start = np.nonzero(steps == 1)
    stop = np.nonzero(steps == -1)[1]
    body = _connect(len(row), *_touching(row, start, stop, height, width))
    count = int(body.max()) + 1 if len(body) else 0
    tile = np.zeros(count, np.intp)
    tile[body] = row // height
    size = np.bincount(body, weights=stop - start, minlength=count).astype(np.int64)
    return Bodies((tiles, height, width), row, start, stop, body, tile, size)


def peaks_of_bodies(
    found: Bodies, masks: NDArray[np.bool_], probs: NDArray[np.floating]
) -> NDArray[np.floating]:
    """Return the highest probability in each of K bodies.

    Args:
        found: The bodies of `masks`.
        masks: (N, H, W).
        probs: (N, H, W).

    Returns:
        (K,), the dtype of `probs`.
    """
    peaks = np.zeros(len(found.size), probs.dtype)
    if len(found.row):
        first = np.cumsum(found.stop - found.start) - (found.stop - found.start)
        np.maximum.at(peaks, found.body, np.maximum.reduceat(probs[masks], first))
    return peaks


def only_bodies(found: Bodies, kept: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return the masks (N, H, W) of those of K bodies that are kept, (K,)."""
    tiles, height, width = found.shape
    keep = kept[found.body]
    # each kept run opens at its first column and closes behind its last
    edges = np.zeros((tiles * height, width + 1), np.int8)
    edges[found.row[keep], found.start[keep]] = 1
    edges[found.row[keep], found.stop[keep]] -= 1
    masks = np.cumsum(edges, axis=1, dtype=np.int8)[:, :width].astype(np.bool_)
    return masks.reshape(found.shape)


def _touching(
    row: Index, start: Index, stop: Index, height: int, width: int
) -> tuple[Index, Index]:
    """Return pairs of runs (E,), (E,) that lie under each other in one tile and share a column."""
    step = width + 2  # keys of one row never reach those of the next
    below = (row + 1) * step
    first = np.searchsorted(row * step + stop, below + start, side="right")
    behind = np.searchsorted(row * step + start, below + stop, side="left")
    count = np.where((row + 1) % height == 0, 0, np.maximum(behind - first, 0))
    upper = np.repeat(np.arange(len(row)), count)
    offset = np.arange(len(upper)) - np.repeat(np.cumsum(count) - count, count)
    return upper, np.repeat(first, count) + offset


def _connect(count: int, one: Index, other: Index) -> Index:
    """Return the component of each of `count` nodes, numbered in the order of their first node.

    Every node points to one of lower or equal number. Roots that are joined hang the higher below
    the lower, then all pointers are followed to their roots, until no pair differs.

    Source:
        Shiloach and Vishkin 1982, An O(log n) parallel connectivity algorithm, J. Algorithms 3.
    """
    root = np.arange(count)
    while True:
        a, b = root[one], root[other]
        if (a == b).all():
            break
        np.minimum.at(root, np.maximum(a, b), np.minimum(a, b))
        while (root != root[root]).any():
            root = root[root]
    return np.asarray(np.unique(root, return_inverse=True)[1], np.intp)
