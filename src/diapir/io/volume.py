"""Seismic volumes and lines as one kind of xarray dataset, whatever file they come from.

A volume has the dims (inline, crossline, sample), a 2-D line (trace, sample). Variables and
coordinates:

| name | dims | what |
|---|---|---|
| `amplitude` | all | float32, 0 where there is no trace |
| `inline`, `crossline` or `trace` | its own | numbers, rising |
| `sample` | its own | float64 time or depth; attribute `units`: ms, m, ft or 1 (sample number) |
| `cdp_x`, `cdp_y` | all but sample | float64 world coordinates, NaN without a trace; optional |
| `trace_mask` | all but sample | True where a trace was recorded |

`cdp_x` and `cdp_y` have the attribute `units`, m or ft, where a store states it.

Attributes: `p01`, `p50`, `p99`, `mean`, `std` of the amplitudes, `source`, `fingerprint`, and for
SEG-Y `segy`, the facts of its headers as JSON.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from diapir.errors import DataError

if TYPE_CHECKING:
    import xarray as xr

Unit = Literal["ms", "m", "ft", "1"]

_FEWEST_LINES = 16  # to be looked at, however long they are
_WITHOUT_HEADERS = (".npy", ".png")  # their lines and samples are counted from 0
_ROUNDING = 0.01  # of a sample interval, which headers have in whole microseconds

CHUNK = 128
"""Edge of a chunk of an ingested volume, in lines, traces and samples."""

STATISTICS = ("p01", "p50", "p99", "mean", "std")
"""Names of the attributes that describe the amplitudes."""


@dataclass(frozen=True)
class Geometry:
    """Where the samples of a volume or a 2-D line lie.

    Args:
        axes: Rising line numbers by name: inline and crossline, or trace alone; (n,) int32 each.
        sample: (S,) float64 time or depth of the samples; the first is the recording delay.
        unit: Unit of `sample`.
        trace_mask: Boolean over the axes, True where a trace was recorded.
        cdp_x: World coordinates over the axes, float64, NaN without a trace; None if unknown.
        cdp_y: The same for the other direction.
        measurement: Unit of both, 'm' or 'ft'; empty where only SEG-Y headers or nothing say it.
    """

    axes: Mapping[str, NDArray[np.int32]]
    sample: NDArray[np.float64]
    unit: Unit
    trace_mask: NDArray[np.bool_]
    cdp_x: NDArray[np.float64] | None = None
    cdp_y: NDArray[np.float64] | None = None
    measurement: Literal["", "m", "ft"] = ""
    dims: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "dims", (*self.axes, "sample"))

    @property
    def shape(self) -> tuple[int, ...]:
        """Numbers of lines, traces and samples."""
        return (*(len(axis) for axis in self.axes.values()), len(self.sample))

    @property
    def is_line(self) -> bool:
        """Whether this is a 2-D line."""
        return "trace" in self.axes

    @property
    def sample_interval(self) -> float:
        """Distance between samples in `unit`; 1 for a single sample."""
        return float(self.sample[1] - self.sample[0]) if len(self.sample) > 1 else 1.0


def make_volume(
    amplitude: Any,
    geometry: Geometry,
    *,
    source: str,
    fingerprint: str,
    statistics: Mapping[str, float],
    segy: Mapping[str, Any] | None = None,
) -> "xr.Dataset":
    """Return amplitudes with their geometry as a dataset as described at the top of this module.

    Args:
        amplitude: float32 array of NumPy or Dask, shaped as the geometry.
        geometry: Where the samples lie.
        source: Where they come from, for people.
        fingerprint: Hash that changes when the content of the source does.
        statistics: Value of each of `STATISTICS`.
        segy: Facts of the SEG-Y headers that can be written as JSON.
    """
    import xarray as xr

    flat = geometry.dims[:-1]
    coords: dict[str, Any] = {name: (name, axis) for name, axis in geometry.axes.items()}
    coords["sample"] = ("sample", geometry.sample, {"units": geometry.unit})
    coords["trace_mask"] = (flat, geometry.trace_mask)
    if geometry.cdp_x is not None and geometry.cdp_y is not None:
        stated = {"units": geometry.measurement} if geometry.measurement else {}
        coords["cdp_x"] = (flat, geometry.cdp_x, stated)
        coords["cdp_y"] = (flat, geometry.cdp_y, stated)
    attributes: dict[str, Any] = {name: float(statistics[name]) for name in STATISTICS}
    attributes |= {"source": source, "fingerprint": fingerprint}
    if segy is not None:
        attributes["segy"] = json.dumps(segy, sort_keys=True)
    return xr.Dataset({"amplitude": (geometry.dims, amplitude)}, coords, attributes)


def segy_facts(volume: "xr.Dataset") -> dict[str, Any]:
    """Return what a survey says of the SEG-Y file that it was read from; nothing without one."""
    found: dict[str, Any] = json.loads(volume.attrs.get("segy", "{}"))
    return found


def reading_warnings(volume: "xr.Dataset") -> tuple[str, ...]:
    """Return what was decided in doubt when the SEG-Y file of a survey was read, in words."""
    return tuple(segy_facts(volume).get("warnings", ()))


def geometry_of(volume: "xr.Dataset") -> Geometry:
    """Return the geometry of a dataset that `io.opening.open_volume` or `make_volume` returned."""
    names = [str(name) for name in volume["amplitude"].dims[:-1]]
    has_position = "cdp_x" in volume.coords and "cdp_y" in volume.coords
    return Geometry(
        axes={name: volume[name].to_numpy().astype(np.int32) for name in names},
        sample=volume["sample"].to_numpy().astype(np.float64),
        unit=volume["sample"].attrs.get("units", "1"),
        trace_mask=volume["trace_mask"].to_numpy().astype(np.bool_),
        cdp_x=volume["cdp_x"].to_numpy() if has_position else None,
        cdp_y=volume["cdp_y"].to_numpy() if has_position else None,
        measurement=volume["cdp_x"].attrs.get("units", "") if has_position else "",
    )


def check_same_geometry(
    axes: Mapping[Any, Any], shape: tuple[int, ...], survey: "xr.Dataset", where: Path
) -> None:
    """Refuse what lies beside a survey, such as labels or a truth, and was not made of it.

    Line numbers must be those of the survey; of samples, rounding in a header is forgiven. Arrays
    and pictures state neither, and fit by their shape.

    Args:
        axes: Numbers along the axes of what lies beside, by the names that the survey has for
            them; an axis that is not among them fits by its length.
        shape: Of what lies beside.
        survey: Dataset as described at the top of this module.
        where: The file of what lies beside.

    Raises:
        DataError: The shape or an axis is another than the survey's.
    """
    wanted = survey["amplitude"]
    if tuple(shape) != wanted.shape:
        raise _of_another_survey(
            f"the shape is {tuple(shape)}", f"{tuple(wanted.shape)}, that of the survey", where
        )
    sources = where, Path(str(survey.attrs.get("source", "")))
    if any(source.suffix.lower() in _WITHOUT_HEADERS for source in sources):
        return
    for name in map(str, wanted.dims):
        if name in axes:
            _check_same_axis(name, axes[name], np.asarray(survey[name], np.float64), where)


def _check_same_axis(name: str, values: Any, known: NDArray[np.float64], where: Path) -> None:
    if np.shape(values) != known.shape:
        raise _of_another_survey(
            f"its {name} axis has the shape {np.shape(values)}", f"{known.shape}", where
        )
    try:
        found = np.asarray(values).astype(np.float64)
    except Exception as error:  # codecs of a store raise errors of their own
        raise DataError(
            f"its {name} axis cannot be read as numbers: {error}",
            where=where,
            mend="Write or copy it again.",
        ) from error
    step = abs(known[-1] - known[0]) / max(1, len(known) - 1)
    differs = ~(np.abs(found - known) <= (_ROUNDING * step if name == "sample" else 0))
    if differs.any():
        k = int(differs.argmax())
        raise _of_another_survey(
            f"its {name} axis is another than the survey's: value {k + 1:,} of {len(known):,} is "
            f"{found[k]:.10g}",
            f"{known[k]:.10g}, as in the survey",
            where,
        )


def _of_another_survey(what: str, expected: str, where: Path) -> DataError:
    return DataError(
        what,
        where=where,
        expected=expected,
        mend="Give what was made of this survey itself; 'diapir doctor' shows the numbers of a "
        "SEG-Y file, and with which flags it is read.",
    )


def even_sample(shape: tuple[int, ...], *, values: int, lines: int) -> tuple[NDArray[np.intp], int]:
    """Return evenly spaced lines of a volume, and the step along each, always the same ones.

    Where lines are long, every n-th trace of several is taken rather than one line whole: the
    first and last ones of a survey are often unlike the others.

    Args:
        shape: Of the volume, lines first.
        values: At most so many in all, up to rounding.
        lines: At most so many.

    >>> found, step = even_sample((100, 20, 50), values=3000, lines=64)
    >>> found.tolist(), step
    ([3, 9, 15, 21, 28, 34, 40, 46, 53, 59, 65, 71, 78, 84, 90, 96], 6)
    """
    a_line = int(np.prod(shape[1:]))
    count = min(shape[0], max(_FEWEST_LINES, values // a_line), lines)
    chosen = ((np.arange(count) + 0.5) * shape[0] / count).astype(np.intp)
    return chosen, max(1, -(-count * a_line // values))


def amplitude_statistics(values: NDArray[Any]) -> dict[str, float]:
    """Return the percentiles, mean and standard deviation of amplitudes; zeros without any.

    >>> amplitude_statistics(np.array([1.0, 2.0, np.nan, 3.0]))["p50"]
    2.0
    """
    finite = np.asarray(values, np.float64).ravel()
    finite = finite[np.isfinite(finite)]
    if not finite.size:
        return dict.fromkeys(STATISTICS, 0.0)
    low, middle, high = np.percentile(finite, [1, 50, 99])
    found = (low, middle, high, finite.mean(), finite.std())
    return {name: float(value) for name, value in zip(STATISTICS, found, strict=True)}
