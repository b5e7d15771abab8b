"""A set of tiles: each as a small section, all of them in an order of interest."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diapir.data.census import find_quirks
from diapir.errors import DataError
from diapir.io.layout import present_parts
from diapir.io.tiles import Tiles, read_tiles
from diapir.metrics.score import tile_counts, tile_scores
from diapir.serve.viewer.models import Found
from diapir.serve.viewer.sources import Axis, Direction


class TileSource:
    """Tiles that are looked at one by one, or as a gallery.

    Args:
        name: By which the page and its links call them.
        tiles: Images, and masks and depths where they are known.
        path: Where they come from.
    """

    is_segy = False
    directions: tuple[Direction, ...] = ("tile",)

    def __init__(self, name: str, tiles: Tiles, path: Path) -> None:
        self.name = name
        self.tiles = tiles
        self.path = path
        self.quirks = find_quirks(tiles)
        self.probs: dict[str, Found] = {}
        self._index = {id_: place for place, id_ in enumerate(tiles.ids)}

    @property
    def known(self) -> set[str]:
        """Whether there is truth."""
        return set() if self.tiles.masks is None else {"truth"}

    @property
    def unit(self) -> str:
        """Unit of the axis down: pixels are samples."""
        return "1"

    def title(self, direction: Direction, index: int) -> str:
        """Return the name of a tile, with its depth."""
        depths = self.tiles.z_feet
        depth = "" if depths is None else f", {depths[index]:,.0f} ft deep"
        return f"Tile {self.tiles.ids[index]}{depth}"

    def key(self, direction: Direction, index: int) -> str:
        """Return the name of the file of its labels."""
        return self.tiles.ids[index]

    def numbers(self, direction: Direction) -> NDArray[np.float64]:
        """Return 0, 1, 2 and so on."""
        return np.arange(len(self.tiles), dtype=np.float64)

    def nearest(self, direction: Direction, number: float) -> int:
        """Return the index of the tile of this number."""
        return int(np.clip(round(number), 0, len(self.tiles) - 1))

    def find(self, id_: str) -> int | None:
        """Return the index of a tile by its name; None if there is none of this name."""
        return self._index.get(id_)

    def axes(self, direction: Direction) -> tuple[Axis, Axis]:
        """Return the axes of a tile in pixels."""
        height, width = self.tiles.images.shape[1:]
        return (
            Axis("Trace", np.arange(width, dtype=np.float64)),
            Axis("Sample", np.arange(height, dtype=np.float64)),
        )

    def section(
        self, direction: Direction, index: int, what: str = "amplitude", moved: int = 0
    ) -> NDArray[Any]:
        """Return grey values, or truth, of a tile as (across, down)."""
        if what == "truth":
            return np.asarray(self.tiles.truth[index].T)
        return np.asarray(self.tiles.images[index].T, np.float32)

    def dead(self, direction: Direction, index: int) -> None:
        """Return nothing: every pixel is there."""

    def clip_range(self, percentile: float) -> tuple[float, float]:
        """Return the grey values between which colours are spread."""
        values = self.tiles.images[:: max(1, len(self.tiles) // 200)]
        low, high = np.percentile(values, [100 - percentile, percentile])
        return (float(low), float(high)) if low < high else (0.0, 255.0)

    def close(self) -> None:
        """Let go of nothing."""


def open_tiles(path: Path) -> TileSource:
    """Return the tiles of a folder or zip: those with masks, or those without.

    Raises:
        DataError: They cannot be read.
    """
    part = present_parts(path)[0]  # the training part comes first
    return TileSource(path.stem, read_tiles(path, part), path)


def measures(
    tiles: Tiles, probs: NDArray[np.float32] | None, masks: NDArray[np.bool_] | None
) -> dict[str, NDArray[np.float64]]:
    """Return what tiles can be sorted by.

    Args:
        tiles: The tiles.
        probs: (N, H, W) probability; without it there are neither score nor uncertainty.
        masks: (N, H, W) what is taken as salt; None where `probs` is.

    Returns:
        (N,) by name: 'score' of the competition; 'uncertainty', the mean of 4 p (1 - p), 0..1;
        'coverage' of the truth, else of the prediction; 'depth' in feet.
    """
    found: dict[str, NDArray[np.float64]] = {}
    if tiles.masks is not None:
        found["coverage"] = tiles.coverage.astype(np.float64)
    if probs is not None and masks is not None:
        found["uncertainty"] = (4 * probs * (1 - probs)).mean(axis=(1, 2), dtype=np.float64)
        found.setdefault("coverage", masks.mean(axis=(1, 2), dtype=np.float64))
        if tiles.masks is not None:
            found["score"] = np.asarray(tile_scores(tile_counts(masks, tiles.masks)), np.float64)
    if tiles.z_feet is not None:
        found["depth"] = tiles.z_feet.astype(np.float64)
    return found


def arrange(
    ids: Sequence[str],
    values: NDArray[np.float64] | None,
    chosen: NDArray[np.bool_] | None,
    *,
    falling: bool,
) -> NDArray[np.intp]:
    """Return the positions of tiles in the order in which they are shown.

    Args:
        ids: Names, which order what is otherwise equal.
        values: (N,) to sort by; None: by name.
        chosen: (N,) which tiles are shown; None: all.
        falling: Largest first.

    >>> arrange(["b", "a", "c"], np.array([1.0, 2.0, 1.0]), None, falling=True).tolist()
    [1, 0, 2]
    """
    by_name = np.argsort(np.asarray(ids, dtype=str), kind="stable")
    if values is None:
        order = by_name[::-1] if falling else by_name
    else:
        signed = -values if falling else values
        order = by_name[np.argsort(signed[by_name], kind="stable")]
    return order if chosen is None else order[chosen[order]]


def unsortable(sort: str, measured: dict[str, NDArray[np.float64]]) -> DataError | None:
    """Return why tiles cannot be sorted this way; None if they can."""
    if sort == "name" or sort in measured:
        return None
    expected, mend = _NEEDS[sort]
    return DataError(f"the tiles have no {sort}", expected=expected, mend=mend)


_PREDICT = "Press 'Predict all tiles'; start 'diapir view' with --model for it."
_NEEDS = {
    "score": ("masks and a prediction", _PREDICT),
    "uncertainty": ("a prediction", _PREDICT),
    "coverage": ("masks or a prediction", _PREDICT),
    "depth": ("depths.csv", "Put depths.csv beside the images."),
}
