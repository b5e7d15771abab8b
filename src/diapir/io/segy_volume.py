"""A SEG-Y file as a volume: headers are read at once, samples when they are asked for."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from diapir.errors import DataError
from diapir.io.digests import file_fingerprint
from diapir.io.segy import TEXT_BYTES, SegyFile, SegyOptions, decode_text, read_head
from diapir.io.segy_grid import TraceGrid, bin_traces, scan_traces
from diapir.io.segy_layout import open_file
from diapir.io.volume import CHUNK, amplitude_statistics, make_volume

if TYPE_CHECKING:
    import xarray as xr

_SAMPLED_VALUES = 1 << 21
_GATHERED_VALUES = 1 << 22
_MOST_CHUNK_BYTES = 1 << 27


@dataclass(frozen=True)
class SegySurvey:
    """A SEG-Y file with everything that its headers say.

    Args:
        file: Layout.
        options: How it was read.
        grid: Where its traces lie.
        statistics: Of its amplitudes, from traces spread evenly over the file.
        fingerprint: Hash of content and options.
    """

    file: SegyFile
    options: SegyOptions
    grid: TraceGrid
    statistics: dict[str, float]
    fingerprint: str

    @property
    def amplitudes(self) -> "TraceArray":
        """The samples as something that can be sliced."""
        return TraceArray(self.file, self.grid.trace_at)

    def facts(self) -> dict[str, Any]:
        """Return what the headers say, fit for JSON; `options` opens the file the same way."""
        file, binary = self.file, self.file.binary
        return {
            "path": str(file.path.resolve()),
            "options": asdict(self.options),
            "byte_order": file.order,
            "format": file.format.code,
            "samples": file.samples,
            "interval": file.interval,
            "unit": file.unit,
            "traces": file.traces,
            "revision": list(binary.revision),
            "text_encoding": decode_text(read_head(file.path, TEXT_BYTES))[1],
            "measurement": {1: "m", 2: "ft"}.get(binary.measurement, ""),
            "duplicates": self.grid.duplicates,
            "warnings": list(self.grid.warnings),
        }


@dataclass(frozen=True)
class TraceArray:
    """The samples of a SEG-Y file as an array over the axes of its grid, read on slicing.

    Cells without a trace are 0, and so are samples that are no finite number, unless `keep_nan`.
    """

    file: SegyFile
    trace_at: NDArray[np.int64]
    keep_nan: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape with the samples last."""
        return (*self.trace_at.shape, self.file.samples)

    @property
    def dtype(self) -> np.dtype[np.float32]:
        """Type of the samples."""
        return np.dtype(np.float32)

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return self.trace_at.ndim + 1

    def __getitem__(self, key: tuple[slice, ...]) -> NDArray[np.float32]:
        """Return a box of the array; one slice an axis."""
        *lines, samples = key
        wanted = self.trace_at[tuple(lines)]
        width = len(range(*samples.indices(self.file.samples)))
        box = np.zeros((wanted.size, width), np.float32)
        live = np.flatnonzero(wanted.ravel() >= 0)
        most = max(1, _GATHERED_VALUES // self.file.samples)
        for start in range(0, len(live), most):  # so that the box is the only large array
            part = live[start : start + most]
            box[part] = self.file.read_traces(wanted.ravel()[part])[:, samples]
        if not self.keep_nan:
            box[~np.isfinite(box)] = 0
        return box.reshape(*wanted.shape, width)


def read_survey(
    path: Path, options: SegyOptions, advance: Callable[[int], None] | None = None
) -> SegySurvey:
    """Return a file with its grid and statistics; all headers and some of the samples are read.

    Raises:
        DataError: As in `open_file` and `bin_traces`.
    """
    file = open_file(path, options)
    grid = bin_traces(scan_traces(file, options, advance), file, options)
    digest = survey_fingerprint(path, options)
    return SegySurvey(file, options, grid, sampled_statistics(file), digest)


def survey_fingerprint(path: Path, options: SegyOptions) -> str:
    """Return the hash of a file and of how it is read; quick for any size."""
    known = json.dumps(asdict(options), sort_keys=True)
    return hashlib.sha256(f"{file_fingerprint(path)} {known}".encode()).hexdigest()


def sampled_statistics(file: SegyFile) -> dict[str, float]:
    """Return the amplitude statistics of live traces spread evenly over the file."""
    values = sampled_traces(file)
    return amplitude_statistics(values[values.any(axis=1)])


def sampled_traces(file: SegyFile) -> NDArray[np.float32]:
    """Return traces spread evenly over the file, (n, S) float32, of at most about 2 M values."""
    count = min(file.traces, max(16, _SAMPLED_VALUES // file.samples))
    return file.read_traces(np.unique(np.linspace(0, file.traces - 1, count).astype(np.int64)))


def open_segy(path: Path, *, keep_nan: bool = False, **options: Any) -> "xr.Dataset":
    """Return a SEG-Y file as a dataset whose samples are read when they are computed.

    Args:
        path: The file.
        keep_nan: Leave samples that are no number as they are, in place of 0.
        **options: Fields of `SegyOptions`.

    Raises:
        DataError: It is no SEG-Y file, does not fit its headers, or is pre-stack.
    """
    import dask.array as da

    unknown = set(options) - set(SegyOptions.__dataclass_fields__)
    if unknown:
        raise DataError(
            f"unknown option {sorted(unknown)[0]!r}",
            expected=", ".join(SegyOptions.__dataclass_fields__),
        )
    survey = read_survey(path, SegyOptions(**options))
    samples = replace(survey.amplitudes, keep_nan=keep_nan)
    amplitude = da.from_array(
        samples,
        chunks=chunk_shape(samples.shape),
        name=f"segy-{survey.fingerprint}-{keep_nan}",
        asarray=False,
        meta=np.empty((0,) * samples.ndim, np.float32),
    )
    return make_volume(
        amplitude,
        survey.grid.geometry,
        source=str(path),
        fingerprint=survey.fingerprint,
        statistics=survey.statistics,
        segy=survey.facts(),
    )


def chunk_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return chunks of whole traces, as many as make about 128 MiB at most.

    >>> chunk_shape((600, 400, 1500))
    (128, 128, 1500)
    """
    edge = CHUNK
    while edge > 1 and edge ** (len(shape) - 1) * shape[-1] * 4 > _MOST_CHUNK_BYTES:
        edge //= 2
    return (*(min(edge, size) for size in shape[:-1]), shape[-1])
