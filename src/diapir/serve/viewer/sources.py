"""What can be looked at: surveys, 2-D lines and pictures, as sections with axes and units."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from diapir.errors import DataError
from diapir.inference.volume import STORE
from diapir.io.labels import beside, line_name
from diapir.io.opening import open_volume
from diapir.io.volume import Geometry, check_same_geometry, geometry_of
from diapir.serve.viewer.blocks import BlockReader, KeptBlocks

Direction = Literal["inline", "crossline", "slice", "line", "tile"]
"""Along what a section runs; `slice` is one sample of every trace, `line` a 2-D line or picture."""

_AXIS = {"inline": 0, "crossline": 1, "slice": 2}
_QUANTITY = {"ms": "Two-way time (ms)", "m": "Depth (m)", "ft": "Depth (ft)", "1": "Sample"}
_MOST_SLICED = 1 << 30  # bytes of a SEG-Y file that is read whole for its slices
_LEVELS = np.concatenate([np.linspace(0, 10, 101), np.linspace(10.5, 89.5, 159),
                          np.linspace(90, 100, 101)])  # fmt: skip


@dataclass(frozen=True)
class Axis:
    """One side of a section.

    Args:
        label: With its unit.
        values: (n,) rising numbers, times or depths.
    """

    label: str
    values: NDArray[np.float64]

    @property
    def step(self) -> float:
        """Mean distance of neighbouring values; 1 for a single one."""
        count = len(self.values)
        return float(self.values[-1] - self.values[0]) / (count - 1) if count > 1 else 1.0

    @property
    def start(self) -> float:
        """Outer edge of the first pixel."""
        return float(self.values[0]) - self.step / 2

    @property
    def end(self) -> float:
        """Outer edge of the last pixel."""
        return float(self.values[-1]) + self.step / 2

    def pixel(self, value: float) -> float:
        """Return the fractional pixel at a value; pixel 0 covers 0 up to 1."""
        return (value - self.start) / self.step


@dataclass(frozen=True)
class SurveyPaths:
    """The files that belong to a survey.

    Args:
        source: SEG-Y, Zarr, MDIO, PNG or `.npy`.
        salt: `salt.zarr` of a map, or the folder that holds it.
        truth: Survey of 0 and 1 with the same geometry.
    """

    source: Path
    salt: Path | None = None
    truth: Path | None = None


class SurveySource:
    """A survey, a 2-D line or a picture, with what is known of its salt.

    Args:
        name: By which the page and its links call it.
        volume: Dataset of `diapir.io.volume`.
        paths: Where it comes from.
        salt: Probability and disagreement by name, of the survey's shape, as arrays to slice.
        truth: Array of 0 and 1 of the survey's shape.
        map_threshold: Of the map that the salt comes from.
        kept: Takes the blocks that are read, beside those of other surveys; None: of this one.
    """

    def __init__(
        self,
        name: str,
        volume: Any,
        paths: SurveyPaths,
        salt: Mapping[str, Any] | None = None,
        truth: Any = None,
        map_threshold: float = 0.5,
        kept: KeptBlocks | None = None,
    ) -> None:
        self.name = name
        self.volume = volume
        self.paths = paths
        self.map_threshold = map_threshold
        self.geometry: Geometry = geometry_of(volume)
        self._arrays = {"amplitude": volume["amplitude"].data, **(salt or {})}
        if truth is not None:
            self._arrays["truth"] = truth
        kept = KeptBlocks() if kept is None else kept
        self._readers = {
            key: BlockReader(array, kept, len(self._arrays)) for key, array in self._arrays.items()
        }

    @property
    def directions(self) -> tuple[Direction, ...]:
        """The sections that it has."""
        return ("line",) if self.geometry.is_line else ("inline", "crossline", "slice")

    @property
    def known(self) -> set[str]:
        """Which of probability, disagreement and truth there are."""
        return set(self._readers) - {"amplitude"}

    @property
    def is_segy(self) -> bool:
        """Whether the samples lie in a SEG-Y file, trace by trace."""
        return self.paths.source.is_file() and "segy" in self.volume.attrs

    @property
    def unit(self) -> str:
        """Unit of time or depth; '1' for samples."""
        return self.geometry.unit

    @property
    def most_samples(self) -> int:
        """Samples of its largest line."""
        *lines, samples = self.geometry.shape
        return max(lines) * samples

    def key(self, direction: Direction, index: int) -> str | None:
        """Return the name of the file of its labels; None for slices, which have none."""
        if direction == "slice":
            return None
        if direction == "line":
            return line_name(self.volume) or self.paths.source.stem
        return f"{direction}_{int(self.geometry.axes[direction][index])}"

    def title(self, direction: Direction, index: int) -> str:
        """Return the name of a section, such as 'Inline 1,014' or 'Time slice 512 ms'."""
        if direction == "line":
            return self.name
        if direction == "slice":
            unit = self.geometry.unit
            kind = {"ms": "Time slice", "1": "Slice"}.get(unit, "Depth slice")
            value = f"{self.geometry.sample[index]:g}"
            return f"{kind} {value}" if unit == "1" else f"{kind} {value} {unit}"
        return f"{direction.capitalize()} {int(self.geometry.axes[direction][index])}"

    def numbers(self, direction: Direction) -> NDArray[np.float64]:
        """Return the numbers, times or depths of the sections of a direction."""
        if direction == "line":
            return np.zeros(1)
        if direction == "slice":
            return self.geometry.sample
        return np.asarray(self.geometry.axes[direction], np.float64)

    def nearest(self, direction: Direction, number: float) -> int:
        """Return the index of the section whose number is closest."""
        return int(np.abs(self.numbers(direction) - number).argmin())

    def axes(self, direction: Direction) -> tuple[Axis, Axis]:
        """Return the axis across and the axis down a section."""
        geometry = self.geometry
        down = Axis(_QUANTITY.get(geometry.unit, "Sample"), geometry.sample)
        if direction == "line":
            return Axis("Trace", np.asarray(geometry.axes["trace"], np.float64)), down
        if direction == "slice":
            return self._line_axis("crossline"), self._line_axis("inline")
        return self._line_axis("crossline" if direction == "inline" else "inline"), down

    def section(
        self, direction: Direction, index: int, what: str = "amplitude", moved: int = 0
    ) -> NDArray[Any]:
        """Return the values of a section, (across, down).

        Args:
            direction: Of the section.
            index: Of the section.
            what: 'amplitude', 'probability', 'disagreement' or 'truth'.
            moved: How far one has stepped to come here: the lines beyond are read ahead.

        Raises:
            DataError: It cannot be read.
        """
        if what == "amplitude" and self.is_segy:
            return self._segy_section(direction, index)
        reader = self._readers[what]
        if direction == "line":
            return _whole(reader)
        axis = _AXIS[direction]
        found = reader.plane(axis, index)
        if moved:
            reader.prefetch(axis, index, moved)
        return found.T if direction == "slice" else found

    def array(self, what: str) -> Any:
        """Return the values of the whole survey as an array that is read when it is sliced."""
        return self._arrays[what]

    def dead(self, direction: Direction, index: int) -> NDArray[np.bool_] | None:
        """Return where a section has no trace: (across,) or, of a slice, (across, down).

        None where every trace is there.
        """
        mask = self.geometry.trace_mask
        if direction == "slice":
            missing = ~mask.T
        elif direction == "crossline":
            missing = ~mask[:, index]
        else:
            missing = ~(mask if direction == "line" else mask[index])
        return missing if missing.any() else None

    def clip_range(self, percentile: float) -> tuple[float, float]:
        """Return the amplitudes between which colours are spread.

        Args:
            percentile: 99 stands for the 1st to the 99th percentile of the survey.
        """
        low, high = np.interp([100 - percentile, percentile], _LEVELS, self._quantiles)
        return (float(low), float(high)) if low < high else (float(low) - 1, float(low) + 1)

    def close(self) -> None:
        """Stop reading ahead."""
        for reader in self._readers.values():
            reader.close()

    @cached_property
    def _quantiles(self) -> NDArray[np.float64]:
        """Amplitudes at `_LEVELS`: the shape is the middle section's, the scale the survey's."""
        direction = self.directions[0]
        middle = self.section(direction, len(self.numbers(direction)) // 2)
        values = middle[np.isfinite(middle) & (middle != 0)]
        if not values.size:
            values = np.array([-1.0, 0.0, 1.0])
        found = np.percentile(values.astype(np.float64), _LEVELS)
        low, high = np.interp([1, 99], _LEVELS, found)
        own_low, own_high = (float(self.volume.attrs.get(key, 0)) for key in ("p01", "p99"))
        if direction == "line" or not (low < high and own_low < own_high):
            return np.asarray(found)
        return np.asarray(own_low + (found - low) * (own_high - own_low) / (high - low))

    def _line_axis(self, name: str) -> Axis:
        return Axis(name.capitalize(), np.asarray(self.geometry.axes[name], np.float64))

    def _segy_section(self, direction: Direction, index: int) -> NDArray[np.float32]:
        """Read the traces of a line and nothing else; a slice needs all traces, which are kept."""
        amplitude = self.volume["amplitude"]
        if direction == "slice":
            return self._segy_slice(index)
        if direction != "line":
            amplitude = amplitude.isel({direction: slice(index, index + 1)}).squeeze(direction)
        return np.asarray(amplitude.data.compute(scheduler="synchronous"))

    def _segy_slice(self, index: int) -> NDArray[np.float32]:
        reader = self._readers["amplitude"]
        if reader.whole_bytes() > _MOST_SLICED:
            raise DataError(
                "a slice through a SEG-Y file of this size would read the whole file each time",
                where=self.paths.source,
                mend="Run 'diapir ingest FILE STORE.zarr' once, and view the store.",
            )
        return reader.plane(2, index).T


def _whole(reader: BlockReader) -> NDArray[Any]:
    """Return a 2-D array from its blocks, as if it were one line of a volume."""
    return reader.box(tuple(slice(0, size) for size in reader.shape))


def open_survey(
    paths: SurveyPaths,
    options: Mapping[str, Any] | None = None,
    kept: KeptBlocks | None = None,
) -> SurveySource:
    """Return a survey with the salt and the truth that belong to it.

    Args:
        paths: Their files.
        options: For SEG-Y, see `open_volume`.
        kept: Takes the blocks that are read, beside those of other surveys; None: of this one.

    Raises:
        DataError: One of them cannot be read, or has another shape or other axes.
    """
    volume = open_volume(paths.source, **dict(options or {}))
    salt = {} if paths.salt is None else _open_salt(paths.salt, volume)
    truth = None
    if paths.truth is not None:
        known = open_volume(paths.truth, **beside(options or {}))["amplitude"]
        check_same_geometry(known.coords, known.shape, volume, paths.truth)
        truth = known.data
    threshold = 0.5 if paths.salt is None else _map_threshold(paths.salt)
    return SurveySource(paths.source.stem, volume, paths, salt, truth, threshold, kept)


def _open_salt(path: Path, volume: Any) -> dict[str, Any]:
    import zarr

    store = path if (path / "zarr.json").exists() else path / STORE
    try:
        group: Any = zarr.open_group(store, mode="r")
        found = {name: group[name] for name in ("probability", "disagreement") if name in group}
        axes = {name: group[name] for name in volume["amplitude"].dims if name in group}
    except Exception as error:  # whatever Zarr makes of a folder that is none of its own
        raise _no_salt(path) from error
    if "probability" not in found:
        raise _no_salt(path)
    for array in found.values():
        check_same_geometry(axes, array.shape, volume, store)
    return found


def _map_threshold(path: Path) -> float:
    """Return the threshold that `map.json` beside the salt names; 0.5 where there is none."""
    folder = path.parent if (path / "zarr.json").exists() else path
    try:
        found = float(json.loads((folder / "map.json").read_text(encoding="utf-8"))["threshold"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0.5
    return found if 0 <= found <= 1 else 0.5


def _no_salt(path: Path) -> DataError:
    return DataError(
        "there is no probability of salt",
        where=path,
        expected="the folder that 'diapir map' wrote, or its salt.zarr",
    )
