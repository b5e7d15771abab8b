"""Volumes in Zarr stores: those of `diapir ingest`, and MDIO of version 1."""

import hashlib
import json
import os
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from diapir.errors import DataError
from diapir.io.segy_grid import delay_times
from diapir.io.volume import (
    STATISTICS,
    Geometry,
    Unit,
    amplitude_statistics,
    even_sample,
    make_volume,
    segy_facts,
)

if TYPE_CHECKING:
    import xarray as xr

JOURNAL = ".diapir-ingest"
"""File in a store whose ingest has not come to its end: a head line, then finished blocks."""

_SAMPLE_NAMES = ("sample", "time", "depth", "twt")
_METRES = ("m", "meter", "metre", "meters", "metres")
_FEET = ("ft", "foot", "feet")
_UNITS: dict[str, tuple[Unit, float]] = {
    **dict.fromkeys(("ms", "msec", "millisecond", "milliseconds"), ("ms", 1.0)),
    **dict.fromkeys(("s", "sec", "second", "seconds"), ("ms", 1e3)),
    # the micro sign and the Greek letter
    **dict.fromkeys(("us", "\u00b5s", "\u03bcs", "microsecond", "microseconds"), ("ms", 1e-3)),
    **dict.fromkeys(_METRES, ("m", 1.0)),
    **dict.fromkeys(("km", *(f"kilo{name}" for name in _METRES[1:])), ("m", 1e3)),
    **dict.fromkeys(_FEET, ("ft", 1.0)),
    "1": ("1", 1.0),
}
"""What stands for each unit that a store may state, and how many of it one is."""
_SAMPLED_LINES, _SAMPLED_VALUES, _HEADER_LINES = 64, 1 << 21, 8
_HEADERS = ["headers", "raw_headers"]
_MARKERS = ("zarr.json", ".zgroup", ".zmetadata")  # an array of version 2 alone opens as no volume
_MOST_CHUNK_BYTES, _MOST_CHUNKS = 1 << 28, 10_000_000
_SMALL_BYTES, _MOST_INFLATED = 1 << 26, 20_000
"""Of coordinates: what is read unasked, and how many times its bytes on disk more may be."""


def is_store(path: Path) -> bool:
    """Return whether a folder is a Zarr store, of version 2 or 3, by the files at its top."""
    return any((path / name).is_file() for name in _MARKERS)


def open_store(path: Path, start: float | None = None, *, keep_nan: bool = False) -> "xr.Dataset":
    """Return a store as a dataset; its samples are read when they are computed.

    Args:
        path: The store.
        start: Time or depth of the first sample, in place of what the store says.
        keep_nan: Leave samples of MDIO that are no number as they are, in place of 0.

    Raises:
        DataError: It is no Zarr store, holds no amplitudes, or its ingest is unfinished.
    """
    if (path / JOURNAL).exists():
        raise DataError(
            "the store is not complete: its ingest was interrupted",
            where=path,
            mend="Run the same 'diapir ingest' again; it goes on where it was.",
        )
    if not is_store(path):
        raise DataError(
            "a folder that is no Zarr store",
            where=path,
            expected="a SEG-Y file, a section, or a store that 'diapir ingest' or MDIO wrote",
            mend="Give the file or the store itself; a folder of images is for 'diapir predict'.",
        )
    try:
        found = open_zarr(path)
        check_coordinates(found, path)
        own = set(STATISTICS) <= set(found.attrs) and "amplitude" in found
        if not own:
            return _from_mdio(found, path, start, keep_nan)
        numbers = [float(found.attrs[name]) for name in STATISTICS]
        if not np.isfinite(numbers).all():
            raise ValueError("its statistics are no numbers")
        facts = segy_facts(found)
        if not (isinstance(facts, dict) and isinstance(facts.get("warnings", []), list)):
            raise ValueError("what it says of its SEG-Y file is no table")
        loaded = {name: found[name].load() for name in found.coords}
        if start is not None:
            axis = loaded["sample"]
            loaded["sample"] = axis.copy(data=axis.to_numpy() - float(axis[0]) + start)
        return found.assign(amplitude=guarded(found["amplitude"], path)).assign_coords(loaded)
    except DataError:
        raise
    except Exception as error:  # whatever Zarr, its codecs and xarray make of a damaged store
        raise _damaged(path, "cannot open it as a Zarr store", error) from error


def open_zarr(path: Path, meant: tuple[int, ...] = (0,)) -> "xr.Dataset":
    """Return a Zarr store whose values are NaN where they are its fill value, unless that is meant.

    Args:
        path: The store.
        meant: Fill values that are values like others. Zarr of version 2 has no other way to say
            that what is not stored is 0, and xarray takes every fill value for a missing one.
    """
    import xarray as xr

    raw = xr.open_zarr(
        path,
        chunks=None,
        consolidated=(path / ".zmetadata").exists(),  # version 3 has it in zarr.json
        mask_and_scale=False,
        decode_times=False,  # a time axis in seconds is no date
        drop_variables=_HEADERS,  # MDIO's are structures, which not every Zarr reader knows
    )
    for variable in raw.variables.values():
        if variable.dtype.kind in "biuf" and variable.attrs.get("_FillValue") in meant:
            del variable.attrs["_FillValue"]
    decoded: xr.Dataset = xr.decode_cf(raw, decode_times=False)
    return decoded


def check_coordinates(found: "xr.Dataset", path: Path) -> None:
    """Refuse coordinates whose announced size has nothing to do with what is on the disk.

    Raises:
        DataError: Reading them would fill the memory.
    """
    for name, variable in found.variables.items():
        if variable.nbytes > _SMALL_BYTES and variable.ndim < 3:
            on_disk = sum(p.stat().st_size for p in (path / str(name)).rglob("*") if p.is_file())
            if variable.nbytes > _MOST_INFLATED * on_disk:
                raise DataError(
                    f"{name} claims {variable.nbytes:,} bytes, of which {on_disk:,} are stored",
                    where=path,
                    mend="Write or copy the store again.",
                )


def guarded(array: "xr.DataArray", path: Path) -> "xr.DataArray":
    """Return an array of a store, read block by block, whose damage is told as a `DataError`.

    Raises:
        DataError: Its chunks are too large to be read one by one, too many, or of no size.
    """
    import dask.array as da

    chunks = array.variable.encoding.get("chunks") or array.shape
    sound = min(chunks, default=1) > 0
    if not sound or np.prod(np.ceil(np.divide(array.shape, chunks))) > _MOST_CHUNKS:
        raise DataError(
            f"{' x '.join(map(str, array.shape))} samples in chunks of "
            f"{' x '.join(map(str, chunks))}",
            where=path,
            expected=f"at most {_MOST_CHUNKS:,} chunks, each of one sample or more",
            mend="Write or copy the store again.",
        )
    if int(np.prod(chunks, dtype=np.float64)) * array.dtype.itemsize > _MOST_CHUNK_BYTES:
        raise DataError(
            f"chunks of {' x '.join(map(str, chunks))} samples",
            where=path,
            expected=f"at most {_MOST_CHUNK_BYTES >> 20} MiB a chunk",
            mend="Write the store again with smaller chunks.",
        )
    lazy = da.from_array(
        _StoredArray(array.variable, path),
        chunks=chunks,
        name=False,
        asarray=False,
        meta=np.empty((0,) * array.ndim, array.dtype),
    )
    return array.copy(data=lazy)


class _StoredArray:
    """A variable of a store as something that can be sliced."""

    def __init__(self, variable: "xr.Variable", path: Path) -> None:
        self._variable, self._path = variable, path
        self.shape, self.dtype, self.ndim = variable.shape, variable.dtype, variable.ndim

    def __getitem__(self, key: tuple[slice, ...]) -> NDArray[Any]:
        try:
            return np.asarray(self._variable[key].to_numpy())
        except Exception as error:  # codecs raise errors of their own, without a common base
            raise _damaged(self._path, "a block of the store cannot be read", error) from error


def _damaged(path: Path, what: str, error: Exception) -> DataError:
    return DataError(
        f"{what}: {_first_line(error)}",
        where=path,
        expected="a store that 'diapir ingest' or MDIO wrote",
        mend="Write or copy the store again.",
    )


def _from_mdio(
    found: "xr.Dataset", path: Path, start: float | None, keep_nan: bool
) -> "xr.Dataset":
    name = "amplitude" if "amplitude" in found else found.attrs.get("defaultVariableName")
    if name not in found:
        held = ", ".join(map(str, found.variables)) or "nothing"
        raise DataError(
            f"the store has no amplitudes, only {held}",
            where=path,
            expected="a variable 'amplitude' of (inline, crossline, time or depth)",
        )
    amplitude = guarded(found[name], path)
    dims = [str(dim) for dim in amplitude.dims]
    names = ["trace" if dim == "cdp" else dim for dim in dims[:-1]]
    if dims[-1] not in _SAMPLE_NAMES or names not in (["inline", "crossline"], ["trace"]):
        raise DataError(
            f"amplitudes over ({', '.join(dims)})",
            where=path,
            expected="(inline, crossline, time or depth), or (cdp, time or depth) for a line",
            mend="Stack pre-stack data first.",
        )
    mask = _over_lines(found, "trace_mask", dims, np.True_).astype(np.bool_)
    unit, factor = _unit(found, dims[-1], path)
    positions, measurement = _positions(found, dims)
    # MDIO fills the gaps with NaN
    filled = amplitude.where(np.isfinite(amplitude), 0)
    geometry = Geometry(
        axes={
            new: _axis(found, old, size).astype(np.int32)
            for new, old, size in zip(names, dims[:-1], amplitude.shape, strict=False)
        },
        sample=_samples(found, dims[-1], factor, path, mask, start),
        unit=unit,
        trace_mask=mask,
        cdp_x=positions[0],
        cdp_y=positions[1],
        measurement=measurement,
    )
    statistics = amplitude_statistics(np.concatenate([*_sampled(filled, mask)]))
    samples = _axis(found, dims[-1], amplitude.shape[-1])  # as they are stored, without `start`
    return make_volume(
        (amplitude if keep_nan else filled).data.astype(np.float32),
        geometry,
        source=str(path),
        fingerprint=_fingerprint(path, geometry, samples, statistics),
        statistics=statistics,
    )


def _sampled(
    amplitude: "xr.DataArray", mask: NDArray[np.bool_]
) -> Iterator[NDArray[np.floating[Any]]]:
    """Yield values of live traces in evenly spaced lines, `_SAMPLED_VALUES` at most in all."""
    lines, step = even_sample(amplitude.shape, values=_SAMPLED_VALUES, lines=_SAMPLED_LINES)
    for line in lines:
        values = amplitude[int(line)].to_numpy()
        yield values[mask[int(line)]][::step].ravel()


def _samples(
    found: "xr.Dataset",
    name: str,
    factor: float,
    path: Path,
    mask: NDArray[np.bool_],
    start: float | None,
) -> NDArray[np.float64]:
    """Return time or depth of the samples, times a factor, the first at its delay.

    Source:
        multidimio 1.1 counts its time axis from 0 whatever the delay (byte 109), but keeps that
        among the trace headers.
    """
    size = found[name].size if name in found.variables else found.sizes[name]
    axis: NDArray[np.float64] = _axis(found, name, size).astype(np.float64) * factor
    if start is not None:
        return np.asarray(axis - axis[0] + start)
    return axis if axis[0] else np.asarray(axis + _delay_of_headers(path, mask))


def _delay_of_headers(path: Path, mask: NDArray[np.bool_]) -> float:
    """Return the delay that most traces of some lines have, 0 where the headers do not say it."""
    import zarr

    live = np.flatnonzero(mask.any(axis=tuple(range(1, mask.ndim))))
    lines = live[np.linspace(0, len(live) - 1, min(len(live), _HEADER_LINES)).astype(int)]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # structures are no part of the Zarr standard yet
            headers: Any = zarr.open_group(path, mode="r")["headers"]
            read = [np.atleast_1d(headers[int(line)])[mask[int(line)]] for line in lines]
        table = np.concatenate([part.reshape(-1) for part in read])
        delays = table["delay_recording_time"].astype(np.int64)
    except Exception:  # not every Zarr reads them, and not every MDIO has them
        return 0.0
    scalar = np.zeros_like(delays)
    if "times_scalar" in (table.dtype.names or ()):
        scalar = table["times_scalar"].astype(np.int64)
    values, counts = np.unique(delay_times(delays, scalar)[0], return_counts=True)
    return float(values[counts.argmax()]) if len(values) else 0.0


def _axis(found: "xr.Dataset", name: str, size: int) -> NDArray[Any]:
    return found[name].to_numpy() if name in found.variables else np.arange(size)


def _over_lines(found: "xr.Dataset", name: str, dims: list[str], default: Any) -> Any:
    if name in found.variables and list(found[name].dims) == dims[:-1]:
        return found[name].to_numpy()
    if default is None:
        return None
    return np.full([found.sizes[dim] for dim in dims[:-1]], default)


def _stated_unit(found: "xr.Dataset", name: str) -> str:
    """Return the unit that a variable states, in small letters; empty where it states none."""
    attributes = found[name].attrs if name in found.variables else {}
    text = attributes.get("units") or attributes.get("unitsV1") or {}
    if isinstance(text, dict):  # MDIO writes {"time": "ms"} or {"length": "m"}
        text = next(iter(text.values()), "")
    return str(text).strip().lower()


def _unit(found: "xr.Dataset", name: str, path: Path) -> tuple[Unit, float]:
    """Return the unit of the samples, and how many of it one of the store's is.

    Raises:
        DataError: The store states a unit that is none of time or depth.
    """
    stated = _stated_unit(found, name)
    if not stated:
        return ("m" if name == "depth" else "ms"), 1.0
    if stated not in _UNITS:
        raise DataError(
            f"samples in {stated!r}",
            where=f"{path}, {name}",
            expected="a time in s, ms or us, or a depth in m, km or ft",
            mend="Write the store with one of these units.",
        )
    return _UNITS[stated]


def _positions(
    found: "xr.Dataset", dims: list[str]
) -> tuple[tuple[Any, Any], Literal["", "m", "ft"]]:
    """Return easting and northing with their unit; none where they are in one of no plane."""
    x, y = (_over_lines(found, name, dims, None) for name in ("cdp_x", "cdp_y"))
    stated = {_stated_unit(found, name) for name in ("cdp_x", "cdp_y")} - {""}
    if x is None or y is None or not stated:
        return (x, y), ""
    units = {_UNITS.get(text, ("1", 1.0)) for text in stated}
    unit, factor = units.pop()
    if units or (unit != "m" and unit != "ft"):  # degrees, for example
        return (None, None), ""
    return (x * factor, y * factor), unit


def _fingerprint(
    path: Path, geometry: Geometry, samples: NDArray[Any], statistics: Mapping[str, float]
) -> str:
    """Return a hash of a store that others wrote, which changes when any of its files does.

    It holds line numbers, samples, coordinates, what sampled amplitudes are like, and name, size
    and time of every file. To read all amplitudes would take as long as to predict them, and a
    chunk that is written anew may have its old size, so that the time is needed. A copy therefore
    counts as another survey, unless it keeps the times of its files, to the second.
    """
    known = [statistics, geometry.shape, geometry.unit, geometry.measurement, _state(path)]
    digest = hashlib.sha256(json.dumps(known, sort_keys=True).encode())
    arrays: list[NDArray[Any] | None] = [*geometry.axes.values(), samples, geometry.trace_mask]
    for array in (*arrays, geometry.cdp_x, geometry.cdp_y):
        digest.update(b"none" if array is None else np.ascontiguousarray(array).data)
    return digest.hexdigest()


def _state(folder: Path) -> str:
    """Return a hash of name, size and time, in seconds, of every file in a folder.

    The hashes of the files are added up, whose order then does not matter: there may be millions,
    more than should be held to be sorted.
    """
    total, left = 0, [str(folder)]
    while left:
        with os.scandir(left.pop()) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    left.append(entry.path)
                    continue
                about = entry.stat(follow_symlinks=False)
                name = os.fsencode(entry.path[len(str(folder)) :])
                known = b"%s %d %d" % (name, about.st_size, about.st_mtime_ns // 10**9)
                total += int.from_bytes(hashlib.sha256(known).digest())
    return f"{total % (1 << 256):064x}"


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
