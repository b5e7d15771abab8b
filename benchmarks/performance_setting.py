"""What every measurement of `performance.py` is given."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import numpy as np
from protocol import Effort

from diapir.data.synthetic import generate_tiles
from diapir.io.tiles import Tiles, read_tiles


@dataclass(frozen=True)
class Setting:
    """How much is measured, on what and where.

    Args:
        effort: How much.
        data: Folder of real data in the competition's layout; None: measured on drawn tiles, and
            what needs real ones is left out.
        work: Folder for files on the way.
        figures: Folder for pictures.
        device: 'cpu' or 'cuda'.
        trained: Model files by encoder; of others the networks are measured untrained.
    """

    effort: Effort
    data: Path | None
    work: Path
    figures: Path
    device: str = "cpu"
    trained: Mapping[str, Path] = field(default_factory=dict)

    def gate(self, limit: float) -> float | None:
        """Return a limit of speed where enough is measured to compare with it, else None."""
        return limit if self.effort.gates else None

    def labelled(self, count: int) -> Tiles:
        """Return labelled tiles, real ones where there are any; drawn ones repeat from 200 on."""
        if self.data is not None:
            tiles = _read(self.data)
            return tiles.subset(np.arange(min(count, len(tiles))))
        drawn = generate_tiles(min(count, 200), seed=1)
        return repeated(drawn, count)


@cache
def _read(data: Path) -> Tiles:
    return read_tiles(data, "train", progress=False)


def repeated(tiles: Tiles, count: int) -> Tiles:
    """Return so many tiles, going round again, under names of their own."""
    chosen = np.arange(count) % len(tiles)
    return Tiles(
        tuple(f"{number:010x}" for number in range(count)),
        tiles.images[chosen],
        None if tiles.masks is None else tiles.masks[chosen],
        None if tiles.z_feet is None else tiles.z_feet[chosen],
        tiles.source,
    )
