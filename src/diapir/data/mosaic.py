"""Mosaics: tiles put together again to the sections that they were cut from."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from diapir.data.borders import Seams, find_seams


@dataclass(frozen=True, eq=False)
class Mosaic:
    """Tiles of one section and their places in it.

    Args:
        tiles: (M,) numbers of the tiles, M at least 2, row by row.
        row: (M,) row of each tile in the section, from 0 at the top.
        column: (M,) column of each tile, from 0 at the left.
    """

    tiles: NDArray[np.intp]
    row: NDArray[np.intp]
    column: NDArray[np.intp]

    def __len__(self) -> int:
        return len(self.tiles)

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of the section, in tiles."""
        return int(self.row.max()) + 1, int(self.column.max()) + 1

    def grid(self) -> NDArray[np.intp]:
        """Return the tile at each place of the section, -1 where there is none."""
        grid = np.full(self.shape, -1, np.intp)
        grid[self.row, self.column] = self.tiles
        return grid

    def join(self, images: NDArray[np.generic], fill: int = 0) -> NDArray[np.generic]:
        """Return the section as one image (H, W) of tiles (N, h, w), `fill` where there is none."""
        height, width = images.shape[1:]
        rows, columns = self.shape
        section = np.full((rows, height, columns, width), fill, images.dtype)
        section[self.row, :, self.column] = images[self.tiles]
        return section.reshape(rows * height, columns * width)


@dataclass(frozen=True, eq=False)
class Mosaics:
    """All that was found among N tiles.

    Args:
        tiles: N.
        mosaics: The largest first.
        seams: Pairs to the right and below, of which those in `dropped` contradict surer ones.
        dropped: Number of pairs that would put two tiles on one place, or one on two.
        loops: How often four tiles in a square are joined by four pairs.
        open_loops: How often three of these pairs are there and the fourth tile has, in place of
            the fourth pair, a pair with another tile.
    """

    tiles: int
    mosaics: tuple[Mosaic, ...]
    seams: tuple[Seams, Seams]
    dropped: int
    loops: int
    open_loops: int

    @property
    def joined(self) -> int:
        """Number of tiles that have a neighbour."""
        return sum(len(mosaic) for mosaic in self.mosaics)

    def groups(self) -> NDArray[np.intp]:
        """Return the mosaic of each tile, (N,), -1 where it has no neighbour."""
        group = np.full(self.tiles, -1, np.intp)
        for number, mosaic in enumerate(self.mosaics):
            group[mosaic.tiles] = number
        return group


def find_mosaics(images: NDArray[np.uint8], *, false_share: float = 0.02) -> Mosaics:
    """Return the sections that tiles (N, H, W) make up, from their borders alone.

    Args:
        images: Grey values of one size; blank tiles never have neighbours.
        false_share: Of the pairs that may be false, 0..1.
    """
    right = find_seams(images, "right", false_share=false_share)
    below = find_seams(images, "below", false_share=false_share)
    mosaics, dropped = assemble(len(images), right, below)
    return Mosaics(len(images), mosaics, (right, below), dropped, *_count_loops(right, below))


def assemble(tiles: int, right: Seams, below: Seams) -> tuple[tuple[Mosaic, ...], int]:
    """Return the mosaics of pairs, the largest first, and how many pairs contradict surer ones.

    Pairs are taken from the surest on. Each joins two groups of tiles, unless two tiles would come
    to lie on one place.

    Args:
        tiles: How many there are.
        right: Pairs side by side.
        below: Pairs one above the other.
    """
    place = dict.fromkeys(range(tiles), (0, 0))
    group = {tile: [tile] for tile in range(tiles)}
    dropped = 0
    for first, second, step in _by_margin(right, below):
        one, other = group[first], group[second]
        wanted = _plus(place[first], step)
        if one is other:
            dropped += place[second] != wanted
            continue
        shift = (wanted[0] - place[second][0], wanted[1] - place[second][1])
        moved = {tile: _plus(place[tile], shift) for tile in other}
        if not {place[tile] for tile in one}.isdisjoint(moved.values()):
            dropped += 1
            continue
        place |= moved
        one += other
        for tile in other:
            group[tile] = one
    found = {id(one): one for one in group.values() if len(one) > 1}
    mosaics = [_mosaic(one, place) for one in found.values()]
    return tuple(sorted(mosaics, key=lambda m: (-len(m), int(m.tiles.min())))), dropped


def seam_agreement(
    seams: Seams, masks: NDArray[np.uint8], labelled: NDArray[np.bool_]
) -> tuple[int, int, float]:
    """Return how well masks go on across seams: pairs, pairs with salt, IoU of these.

    Both sides of a seam are compared pixel by pixel, where both tiles are labelled.

    Args:
        seams: Pairs.
        masks: (N, H, W) masks of 0 and 1.
        labelled: (N,) which tiles have one.
    """
    both = labelled[seams.first] & labelled[seams.second]
    one, other = masks[seams.first[both]], masks[seams.second[both]]
    if seams.direction == "right":
        return _overlap(one[:, :, -1], other[:, :, 0])
    return _overlap(one[:, -1], other[:, 0])


def cut_agreement(masks: NDArray[np.uint8], seams: Seams) -> float:
    """Return the same IoU for neighbouring columns or rows in the middle of the masks."""
    middle = masks.shape[2 if seams.direction == "right" else 1] // 2
    lines = masks if seams.direction == "right" else masks.transpose(0, 2, 1)
    return _overlap(lines[:, :, middle - 1], lines[:, :, middle])[2]


def _overlap(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> tuple[int, int, float]:
    either = (one | other).sum(axis=1)
    salty = either > 0
    both = (one & other).sum(axis=1)[salty] / either[salty]
    return len(one), int(salty.sum()), float(both.mean()) if salty.any() else float("nan")


def _by_margin(right: Seams, below: Seams) -> Iterator[tuple[int, int, tuple[int, int]]]:
    """Yield first tile, second tile and step (rows, columns) of all pairs, the surest first."""
    pairs = [
        (-margin, first, second, step)
        for seams, step in ((right, (0, 1)), (below, (1, 0)))
        for margin, first, second in zip(
            seams.margin.tolist(), seams.first.tolist(), seams.second.tolist(), strict=True
        )
    ]
    yield from ((first, second, step) for _, first, second, step in sorted(pairs))


def _plus(place: tuple[int, int], step: tuple[int, int]) -> tuple[int, int]:
    return place[0] + step[0], place[1] + step[1]


def _mosaic(tiles: Sequence[int], place: dict[int, tuple[int, int]]) -> Mosaic:
    ordered = sorted(tiles, key=lambda tile: place[tile])
    row, column = np.array([place[tile] for tile in ordered], np.intp).T
    return Mosaic(np.array(ordered, np.intp), row - row.min(), column - column.min())


def _count_loops(right: Seams, below: Seams) -> tuple[int, int]:
    """Return how many squares of four tiles close, and how many do not."""
    beside = dict(zip(right.first.tolist(), right.second.tolist(), strict=True))
    under = dict(zip(below.first.tolist(), below.second.tolist(), strict=True))
    closed = open_ = 0
    for tile, neighbour in beside.items():
        lower, other = under.get(tile), under.get(neighbour)
        if lower is None or other is None or lower not in beside:
            continue
        if beside[lower] == other:
            closed += 1
        else:
            open_ += 1
    return closed, open_
