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

_AT_ONCE = 256  # tiles whose uncertainty is computed at a time


class TileSource:
    """Tiles that are looked at one by one, or as a gallery.

    Args:
        name: By which the page and its links call them.
        tiles: Images, and masks and depths where they are known.
        path: Where they come from.
    """

    directions: tuple[Direction, ...] = ("tile",)

    def __init__(self, name: str, tiles: Tiles, path: Path) -> None:
        self.name = name
        self.tiles = tiles
        self.path = path
        self.quirks = find_quirks(tiles)
        self.probs: dict[str, Found] = {}
        self._uncertain: dict[str, tuple[object, NDArray[np.float64]]] = {}
        self._index = {id_: place for place, id_ in enumerate(tiles.ids)}

    @property
    def known(self) -> set[str]:
        """Whether there is truth."""
        return set() if self.tiles.masks is None else {"truth"}

    @property
    def unit(self) -> str:
        """Unit of the axis down: pixels are samples."""
        return "1"

    @property
    def most_samples(self) -> int:
        """Samples of a tile."""
        return int(np.prod(self.tiles.images.shape[1:]))

    def uncertainty(self, name: str) -> NDArray[np.float64]:
        """Return the mean of 4 p (1 - p) of each tile, 0..1, as a model in `probs` has it."""
        probs = self.probs[name]["probability"]
        known = self._uncertain.get(name)
        if known is None or known[0] is not probs:
            known = self._uncertain[name] = probs, mean_uncertainty(probs)
        return known[1]

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


def mean_uncertainty(probs: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the mean of 4 p (1 - p) of each tile (N, H, W), 0..1."""
    found = np.empty(len(probs))
    for first in range(0, len(probs), _AT_ONCE):
        part = probs[first : first + _AT_ONCE]
        values = 4 * part * (1 - part)
        found[first : first + _AT_ONCE] = values.mean(axis=(1, 2), dtype=np.float64)
    return found


def needs_masks(sort: str, tiles: Tiles) -> bool:
    """Return whether the masks of all tiles are needed to sort them this way."""
    return sort == ("coverage" if tiles.masks is None else "score")


def measure(
    sort: str, source: TileSource, salt: str, masks: NDArray[np.bool_] | None
) -> NDArray[np.float64] | None:
    """Return what tiles are sorted by, (N,); None for their names, or where it is not known.

    Args:
        sort: 'score' of the competition; 'uncertainty', see `TileSource.uncertainty`; 'coverage' of
            the truth, else of the prediction; 'depth' in feet.
        source: The tiles.
        salt: Name of the model in `source.probs`; without one there is no score and no uncertainty.
        masks: (N, H, W) what is taken as salt; only where `needs_masks` says so.
    """
    tiles = source.tiles
    if sort == "depth" and tiles.z_feet is not None:
        return tiles.z_feet.astype(np.float64)
    if sort == "coverage" and tiles.masks is not None:
        return tiles.coverage.astype(np.float64)
    if sort == "uncertainty" and salt in source.probs:
        return source.uncertainty(salt)
    if sort == "coverage" and masks is not None:
        return np.asarray(masks.mean(axis=(1, 2), dtype=np.float64))
    if sort == "score" and masks is not None and tiles.masks is not None:
        return np.asarray(tile_scores(tile_counts(masks, tiles.masks)), np.float64)
    return None


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


def unsortable(sort: str, measured: NDArray[np.float64] | None) -> DataError | None:
    """Return why tiles cannot be sorted this way; None if they can."""
    if sort == "name" or measured is not None:
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
