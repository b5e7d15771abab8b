"""Opens a survey or a section, whatever kind of file it lies in, as a dataset of `io.volume`."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from diapir.errors import DataError
from diapir.io.digests import file_fingerprint
from diapir.io.images import read_grey
from diapir.io.segy_volume import open_segy
from diapir.io.stores import open_store
from diapir.io.volume import CHUNK, Geometry, amplitude_statistics, make_volume

if TYPE_CHECKING:
    import xarray as xr

_SAMPLED_VALUES = 1 << 22  # values from which the statistics of a large array are estimated


def is_picture(path: Path) -> bool:
    """Return whether a survey's file holds grey values, as its name says."""
    return path.suffix.lower() == ".png"


def open_volume(path: Path, *, keep_nan: bool = False, **options: Any) -> "xr.Dataset":
    """Return a survey or a section as a dataset; large ones are read when they are computed.

    Takes SEG-Y, Zarr stores (those of `diapir ingest`, and MDIO of version 1), ``.npy`` arrays of
    (sample, trace) or (inline, crossline, sample), and PNG sections of (sample, trace).

    Args:
        path: File or store.
        keep_nan: Leave samples of SEG-Y and MDIO that are no number as they are, in place of 0.
        **options: For SEG-Y the fields of `diapir.io.segy.SegyOptions`, such as ``inline_byte``; of
            these, stores take ``start``.

    Raises:
        DataError: It cannot be read, is no kind of file that Diapir knows, or is pre-stack.
    """
    path = Path(path)
    if not path.exists():
        raise DataError("there is no such file", where=path, mend="Check the path.")
    if path.is_dir():
        return open_store(path, start=options.get("start"), keep_nan=keep_nan)
    if is_picture(path):
        return _open_picture(path)
    if path.suffix.lower() == ".npy":
        return _open_array(path)
    return open_segy(path, keep_nan=keep_nan, **options)


def _open_picture(path: Path) -> "xr.Dataset":
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read it: {error.strerror or error}", where=path) from error
    return _from_array(read_grey(data, str(path)).T.astype(np.float32), path)


def _open_array(path: Path) -> "xr.Dataset":
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
        shape, dtype = array.shape, array.dtype  # an .npz by this name has none
    except Exception as error:  # NumPy lets through what its parser of headers raises
        raise DataError(
            f"cannot read the array: {error}",
            where=path,
            expected="a .npy file of numbers, as numpy.save writes it",
        ) from error
    if array.ndim not in (2, 3) or dtype.kind not in "fiu" or 0 in shape:
        raise DataError(
            f"an array of shape {shape} and type {dtype}",
            where=path,
            expected="real numbers, (sample, trace) or (inline, crossline, sample)",
            mend="Transpose or slice it and save it again.",
        )
    return _from_array(array.T if array.ndim == 2 else array, path)


def _from_array(array: NDArray[Any], path: Path) -> "xr.Dataset":
    import dask.array as da

    names = ("trace",) if array.ndim == 2 else ("inline", "crossline")
    geometry = Geometry(
        axes={
            n: np.arange(size, dtype=np.int32) for n, size in zip(names, array.shape, strict=False)
        },
        sample=np.arange(array.shape[-1], dtype=np.float64),
        unit="1",
        trace_mask=np.ones(array.shape[:-1], np.bool_),
    )
    steps = [max(1, int(np.ceil((array.size / _SAMPLED_VALUES) ** (1 / array.ndim))))] * array.ndim
    statistics = amplitude_statistics(array[tuple(slice(None, None, step) for step in steps)])
    lazy = da.from_array(array, chunks=(CHUNK,) * array.ndim, name=False).astype(np.float32)
    return make_volume(
        lazy,
        geometry,
        source=str(path),
        fingerprint=file_fingerprint(path),
        statistics=statistics,
    )
