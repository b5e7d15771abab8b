"""What the pixels that trained a network look like, so that surveys can be brought to that look."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

_CLASSES = 32
_MOST_TILES = 500


@dataclass(frozen=True)
class PixelStatistics:
    """Grey values of the tiles that trained a network.

    Args:
        mean: Of the pixels, 0..1.
        std: Of the pixels, 0..1.
        shares: Share of the pixels in equal classes of grey value, 32 of them.
        roughness: Mean step from pixel to pixel in standard deviations of a tile, across traces and
            along samples.
    """

    mean: float
    std: float
    shares: tuple[float, ...]
    roughness: tuple[float, float]

    @classmethod
    def from_json(cls, table: dict[str, Any]) -> "PixelStatistics":
        """Return the statistics of a table as `dataclasses.asdict` makes it.

        Raises:
            KeyError: Something is missing.
            ValueError: It says what pixels cannot be.
        """
        across, along = map(float, table["roughness"])
        found = cls(
            mean=float(table["mean"]),
            std=float(table["std"]),
            shares=tuple(map(float, table["shares"])),
            roughness=(across, along),
        )
        if not (0 <= found.mean <= 1 and 0 < found.std <= 1 and len(found.shares) == _CLASSES):
            raise ValueError("pixel statistics that cannot be")
        return found


TGS_PIXELS = PixelStatistics(
    mean=0.482,
    std=0.148,
    shares=(
        0.0006, 0.0010, 0.0018, 0.0028, 0.0045, 0.0073, 0.0118, 0.0185,
        0.0285, 0.0392, 0.0528, 0.0673, 0.0745, 0.0814, 0.0863, 0.0855,
        0.0803, 0.0723, 0.0635, 0.0545, 0.0455, 0.0356, 0.0273, 0.0192,
        0.0123, 0.0085, 0.0055, 0.0039, 0.0027, 0.0018, 0.0022, 0.0012,
    ),
    roughness=(0.20, 0.22),
)  # fmt: skip
"""Of the TGS competition's training tiles that are not blank; for model files that say nothing."""


def pixel_statistics(images: NDArray[np.uint8]) -> PixelStatistics | None:
    """Return what the pixels of tiles look like; None where every tile is blank.

    Blank tiles, of one grey value, count for nothing; of many tiles, evenly spaced ones are taken.

    Args:
        images: (N, H, W) grey values, samples by traces.
    """
    alive = np.flatnonzero(np.ptp(images.reshape(len(images), -1), axis=1)) if len(images) else ()
    if not len(alive):
        return None
    chosen = np.linspace(0, len(alive) - 1, min(len(alive), _MOST_TILES)).round().astype(int)
    grey = images[np.asarray(alive)[chosen]]
    counts = np.histogram(grey, _CLASSES, (0, 256))[0]
    pixels = grey.astype(np.float32) / 255
    spread = float(pixels.std(axis=(1, 2)).mean())
    across, along = (
        float(np.abs(np.diff(pixels, axis=axis)).mean()) / spread if pixels.shape[axis] > 1 else 0.0
        for axis in (2, 1)
    )
    return PixelStatistics(
        mean=float(pixels.mean(dtype=np.float64)),
        std=float(pixels.std(dtype=np.float64)),
        shares=tuple((counts / counts.sum()).round(6).tolist()),
        roughness=(across, along),
    )
