"""Sorts the traces of a SEG-Y file into a grid of inlines and crosslines, or into a 2-D line.

Gaps, traces that occur twice, falling numbers, surveys that lie askew and single lines are normal.
Pre-stack data is refused, with the reason.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from diapir.errors import DataError
from diapir.io.segy import SegyFile, SegyOptions, header_field
from diapir.io.segy_bytes import find_line_bytes, first_headers
from diapir.io.volume import Geometry

_LEAST_FILLED = 0.02  # below this share of cells with a trace the numbers are none of a grid
_SMALL_GRID = 4096  # cells; so small a grid may be as empty as it likes
_MOST_PER_CELL = 1.5  # traces a cell from which on it is no matter of a few duplicates
_LONGEST_AXIS_STEP = 100  # common to all lines; beyond it a warning tells of coordinates
_LEAST_AGREEING = 0.9  # share of traces whose delay must be the same
_COORDINATE_UNIT_BYTE = 89
_LARGEST_ANGLES = {2: (648_000, 324_000), 3: (180, 90), 4: (1_800_000, 900_000)}  # by that byte
_TIME_SCALARS = (0, *(sign * 10**k for sign in (1, -1) for k in range(5)))


@dataclass(frozen=True)
class TraceTable:
    """What the headers say of each of N traces, in the order of the file.

    Args:
        inline: (N,) int32.
        crossline: (N,) int32.
        number: (N,) int32 trace number of a 2-D line.
        offset: (N,) int32.
        record: (N,) int32 field record, bytes 9-12.
        x: (N,) float64, scaled.
        y: (N,) float64, scaled.
        delay: (N,) float64 recording delay, scaled.
        unscaled: Traces whose delay is as it stands, because its scalar is none.
        coordinate_unit: What most traces say in bytes 89-90: 1 lengths, 2 to 4 angles, 0 nothing.
    """

    inline: NDArray[np.int32]
    crossline: NDArray[np.int32]
    number: NDArray[np.int32]
    offset: NDArray[np.int32]
    record: NDArray[np.int32]
    x: NDArray[np.float64]
    y: NDArray[np.float64]
    delay: NDArray[np.float64]
    unscaled: int = 0
    coordinate_unit: int = 0

    def __len__(self) -> int:
        return len(self.inline)


@dataclass(frozen=True)
class TraceGrid:
    """Where each trace of a file lies.

    Args:
        geometry: Axes, positions and samples.
        trace_at: Trace number for each cell of the axes, int64, -1 where there is none; of
            several traces the first.
        cell_of: (N, 1 or 2) int32, the cell of each trace in the order of the file.
        duplicates: Traces that lie in a cell which had one already.
        warnings: What was decided in doubt, for people.
    """

    geometry: Geometry
    trace_at: NDArray[np.int64]
    cell_of: NDArray[np.int32]
    duplicates: int
    warnings: tuple[str, ...]


def scan_traces(
    file: SegyFile, options: SegyOptions, advance: Callable[[int], None] | None = None
) -> TraceTable:
    """Return what all trace headers of a file say, read in pieces of bounded size.

    Args:
        file: The file.
        options: Which bytes to read.
        advance: Called with the number of traces just done, for a progress bar.
    """
    whole = {
        name: np.empty(file.traces, np.int32)
        for name in ("inline", "crossline", "number", "offset", "record")
    }
    real = {name: np.empty(file.traces, np.float64) for name in ("x", "y", "delay")}
    places = {
        "inline": options.inline_byte,
        "crossline": options.crossline_byte,
        "number": options.number_byte,
        "offset": options.offset_byte,
        "record": 9,
    }
    unscaled = 0
    units = np.zeros(max(_LARGEST_ANGLES) + 1, np.int64)
    for start, stop in file.blocks():
        headers = file.read_headers(start, stop)
        part = slice(start, stop)
        for name, byte in places.items():
            whole[name][part] = header_field(headers, byte, file.order)
        scalar = header_field(headers, options.scalar_byte, file.order, 2)
        for name, byte in (("x", options.x_byte), ("y", options.y_byte)):
            values = header_field(headers, byte, file.order)
            fixed = options.coordinate_scale
            real[name][part] = scaled(values, scalar) if fixed is None else values * fixed
        real["delay"][part], left = delay_times(
            header_field(headers, options.delay_byte, file.order, 2),
            header_field(headers, options.delay_scalar_byte, file.order, 2),
            assigned=_has_delay_scalar(file, options),
        )
        unscaled += left
        said = header_field(headers, _COORDINATE_UNIT_BYTE, file.order, 2)
        known = (said >= 0) & (said < len(units))
        units += np.bincount(said[known], minlength=len(units))
        if advance is not None:
            advance(stop - start)
    return TraceTable(
        inline=whole["inline"],
        crossline=whole["crossline"],
        number=whole["number"],
        offset=whole["offset"],
        record=whole["record"],
        x=real["x"],
        y=real["y"],
        delay=real["delay"],
        unscaled=unscaled,
        coordinate_unit=int(units.argmax()),
    )


def _has_delay_scalar(file: SegyFile, options: SegyOptions) -> bool:
    """Return whether the header has the delay's scalar: revision 0 assigns nothing to its byte."""
    return file.binary.revision[0] > 0 or options.delay_scalar_byte != SegyOptions.delay_scalar_byte


def bin_traces(table: TraceTable, file: SegyFile, options: SegyOptions) -> TraceGrid:
    """Return the grid that the traces make.

    Raises:
        DataError: The file is pre-stack, the numbers make no grid, or delays differ.
    """
    refuse_prestack(table, file, options)
    warnings = list(file.warnings)
    table = _without_angles(table, options, warnings)
    sample = _sample_axis(table, file, options, warnings)
    if options.line or _is_unnumbered(table):
        if not options.line:
            _refuse_other_bytes(file, options)
        return _bin_line(table, sample, file, warnings)
    numbers, ranks = [], []
    for name, values in (("inline", table.inline), ("crossline", table.crossline)):
        axis = _regular_axis(values, name, warnings)
        numbers.append(axis)
        ranks.append(np.searchsorted(axis, values))
    shape = (len(numbers[0]), len(numbers[1]))
    _refuse_scattered(table, shape, file)
    cell_of = np.stack(ranks, axis=1).astype(np.int32)
    trace_at, duplicates = _place(cell_of, shape)
    if duplicates:
        warnings.append(f"{duplicates:,} traces lie where another one does; the first is taken")
    axes = dict(zip(("inline", "crossline"), numbers, strict=True))
    geometry = _with_positions(axes, sample, file, table, trace_at)
    return TraceGrid(geometry, trace_at, cell_of, duplicates, tuple(warnings))


def scaled(values: NDArray[np.int64], scalar: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return header values with their SEG-Y scalar applied: negative divides, 0 counts as 1.

    >>> scaled(np.array([10000, 4, 7]), np.array([-10, 0, 10]))
    array([1000.,    4.,   70.])
    """
    size = np.maximum(np.abs(scalar), 1)
    return np.where(scalar < 0, values / size, (values * size).astype(np.float64))


def delay_times(
    delays: NDArray[np.int64], scalars: NDArray[np.int64], *, assigned: bool = True
) -> tuple[NDArray[np.float64], int]:
    """Return recording delays in ms, and how many of them have a scalar that is not applied.

    Args:
        delays: (N,) of the headers.
        scalars: (N,) of the headers; one that the standard does not know is not applied.
        assigned: Whether the headers have a scalar at all.

    Source:
        SEG-Y revision 1, trace header bytes 215-216: 1, 10, 100, 1,000 or 10,000, either sign.

    >>> delay_times(np.array([2000, 2000]), np.array([-10, 7]))
    (array([ 200., 2000.]), 1)
    """
    known = np.isin(scalars, _TIME_SCALARS) & assigned
    left = ~known & (delays != 0) & (np.abs(scalars) > 1)
    return scaled(delays, np.where(known, scalars, 0)), int(np.count_nonzero(left))


def refuse_prestack(table: TraceTable, file: SegyFile, options: SegyOptions) -> None:
    """Raise with the reason where several traces belong to one place on the surface.

    Raises:
        DataError: The file is pre-stack.
    """
    reason = prestack_reason(table, numbered=not options.line)
    if reason is not None:
        raise DataError(
            f"the file is pre-stack: {reason}",
            where=file.path,
            expected="one trace for each place: a post-stack line or survey",
            mend="Stack or migrate it first, or pass the bytes that tell the traces apart.",
        )


def prestack_reason(table: TraceTable, *, numbered: bool = True) -> str | None:
    """Return why the traces look pre-stack, None if they do not.

    Args:
        table: The headers.
        numbered: Whether inline and crossline numbers count; without them the CDP number does.
    """
    if len(table) < 2:
        return None
    if numbered and not _is_unnumbered(table):
        keys = (table.inline, table.crossline)
        name = "inline and crossline"
    else:
        keys = (table.number, np.zeros_like(table.number))
        name = "CDP number"
    by_cell = np.lexsort((table.offset, *keys))
    same = np.ones(len(table) - 1, np.bool_)
    for key in keys:
        same &= key[by_cell][1:] == key[by_cell][:-1]
    starts = np.flatnonzero(np.concatenate([[True], ~same]))
    cells = len(starts)
    offsets = table.offset[by_cell]
    spread = np.maximum.reduceat(offsets, starts) != np.minimum.reduceat(offsets, starts)
    about = "" if len(table) % cells == 0 else "about "
    most = f"{about}{len(table) / cells:.0f} traces share each {name}"
    if cells * _MOST_PER_CELL <= len(table) and spread.mean() > 0.5:
        low, high = int(table.offset.min()), int(table.offset.max())
        return f"{most}, with offsets (bytes 37-40) from {low:,} to {high:,}"
    records = len(np.unique(table.record))
    if numbered and cells == 1 and _is_unnumbered(table) and 1 < records <= len(table) / 2:
        return (
            f"it has no CDP, inline or crossline numbers, and {records:,} field records "
            f"(bytes 9-12) of {len(table) / records:.0f} traces: shot gathers"
        )
    return None


def _is_unnumbered(table: TraceTable) -> bool:
    return len(table) > 1 and all(
        values.min() == values.max() for values in (table.inline, table.crossline)
    )


def _refuse_other_bytes(file: SegyFile, options: SegyOptions) -> None:
    for pair in find_line_bytes(first_headers(file), file.order):
        if pair.looks_like_coordinates:
            continue
        raise DataError(
            "inline and crossline numbers are the same in all traces",
            where=f"{file.path} bytes {options.inline_byte} and {options.crossline_byte}",
            mend=f"Pass --inline-byte {pair.inline} --crossline-byte {pair.crossline} "
            f"({pair.why}), or --line for a 2-D line.",
        )


def _refuse_scattered(table: TraceTable, shape: tuple[int, int], file: SegyFile) -> None:
    cells = shape[0] * shape[1]
    low = table.crossline.astype(np.int64) & 0xFFFFFFFF
    own = len(np.unique((table.inline.astype(np.int64) << 32) | low))
    if own * _MOST_PER_CELL <= len(table):
        fault = f"{len(table):,} traces have only {own:,} different inline and crossline numbers"
    elif cells > _SMALL_GRID and own < cells * _LEAST_FILLED:
        fault = (
            f"{len(table):,} traces are scattered over {shape[0]:,} inlines and {shape[1]:,} "
            "crosslines"
        )
    else:
        return
    mend = "Pass --inline-byte and --crossline-byte ('diapir doctor' looks for them), or --line."
    for pair in find_line_bytes(first_headers(file), file.order)[:1]:
        mend = (
            f"Pass --inline-byte {pair.inline} --crossline-byte {pair.crossline} ({pair.why}), "
            "or --line for a 2-D line."
        )
    raise DataError(fault, where=file.path, expected="one trace for each of most cells", mend=mend)


def _regular_axis(values: NDArray[np.int32], name: str, warnings: list[str]) -> NDArray[np.int32]:
    """Return rising numbers that hold all values, with the missing ones filled in if few."""
    found = np.unique(values).astype(np.int64)
    if len(found) < 2:
        return found.astype(np.int32)
    step = int(np.gcd.reduce(np.diff(found)))
    if step > _LONGEST_AXIS_STEP:
        warnings.append(
            f"{name} numbers come in steps of {step:,}, as coordinates do: 'diapir doctor' looks "
            "for line numbers elsewhere"
        )
    count = int(found[-1] - found[0]) // step + 1
    if count == len(found):
        return found.astype(np.int32)
    if count > 4 * len(found):
        warnings.append(
            f"{name} numbers from {found[0]:,} to {found[-1]:,} are mostly missing: lines that "
            "follow each other are taken as neighbours"
        )
        return found.astype(np.int32)
    warnings.append(f"{count - len(found):,} of {count:,} {name}s are missing; they stay empty")
    return np.asarray(found[0] + step * np.arange(count), np.int32)


def _bin_line(
    table: TraceTable, sample: NDArray[np.float64], file: SegyFile, warnings: list[str]
) -> TraceGrid:
    numbers = table.number
    if len(np.unique(numbers)) != len(numbers) or np.all(np.diff(numbers) == 0):
        if len(numbers) > 1:
            warnings.append("CDP numbers repeat: traces are numbered from 1 in the file's order")
        numbers = np.arange(1, len(table) + 1, dtype=np.int32)
    axis = np.sort(numbers)
    cell_of = np.searchsorted(axis, numbers).astype(np.int32)[:, None]
    trace_at, duplicates = _place(cell_of, (len(axis),))
    geometry = _with_positions({"trace": axis}, sample, file, table, trace_at)
    return TraceGrid(geometry, trace_at, cell_of, duplicates, tuple(warnings))


def _place(cell_of: NDArray[np.int32], shape: tuple[int, ...]) -> tuple[NDArray[np.int64], int]:
    flat = np.ravel_multi_index(tuple(cell_of.T.astype(np.int64)), shape)
    trace_at = np.full(shape, -1, np.int64)
    trace_at.ravel()[flat[::-1]] = np.arange(len(flat))[::-1]  # the last written is the first
    return trace_at, len(flat) - int(np.count_nonzero(trace_at >= 0))


def _with_positions(
    axes: dict[str, NDArray[np.int32]],
    sample: NDArray[np.float64],
    file: SegyFile,
    table: TraceTable,
    trace_at: NDArray[np.int64],
) -> Geometry:
    mask = trace_at >= 0
    positions: list[NDArray[np.float64] | None] = [None, None]
    if len(table) == 1 or any(values.min() != values.max() for values in (table.x, table.y)):
        positions = [np.where(mask, values[trace_at], np.nan) for values in (table.x, table.y)]
    return Geometry(axes, sample, file.unit, mask, cdp_x=positions[0], cdp_y=positions[1])


def _without_angles(table: TraceTable, options: SegyOptions, warnings: list[str]) -> TraceTable:
    """Return the table without X and Y that are longitude and latitude: so the headers say.

    They are believed only where the numbers can be angles, and nobody gave a scale.
    """
    unit = table.coordinate_unit
    if options.coordinate_scale is not None or unit not in _LARGEST_ANGLES:
        return table
    longest, highest = _LARGEST_ANGLES[unit]
    if np.abs(table.x).max() > longest or np.abs(table.y).max() > highest:
        return table
    if not (table.x.any() or table.y.any()):
        return table
    warnings.append(
        f"the coordinates at bytes {options.x_byte} and {options.y_byte} are angles (bytes "
        f"{_COORDINATE_UNIT_BYTE}-{_COORDINATE_UNIT_BYTE + 1} say {unit}) and are left out: areas "
        "and meshes will be in line numbers. Pass --x-byte and --y-byte of projected ones, or "
        "--coordinate-scale FACTOR if these are lengths"
    )
    return replace(table, x=np.zeros_like(table.x), y=np.zeros_like(table.y))


def _sample_axis(
    table: TraceTable, file: SegyFile, options: SegyOptions, warnings: list[str]
) -> NDArray[np.float64]:
    start = options.start
    if start is None:
        values, counts = np.unique(table.delay, return_counts=True)
        start = float(values[np.argmax(counts)])
        if counts.max() < _LEAST_AGREEING * len(table):
            raise DataError(
                f"traces start at different times, from {values[0]:g} to {values[-1]:g} "
                f"({len(values):,} delays)",
                where=f"{file.path} bytes {options.delay_byte}-{options.delay_byte + 1}",
                expected="one delay recording time for all traces",
                mend="Shift the traces to one start, or read them as they are with --start TIME.",
            )
        if len(values) > 1:
            warnings.append(
                f"{len(table) - counts.max():,} traces have another delay than {start:g}; they are "
                "read like the others"
            )
        if table.unscaled:
            known = "SEG-Y knows 1, 10, 100, 1,000 and 10,000"
            why = known if _has_delay_scalar(file, options) else "revision 0 has no such scalar"
            warnings.append(
                f"the scalar of the delay (byte {options.delay_scalar_byte}) of {table.unscaled:,} "
                f"traces is not applied: {why}; pass --start if {start:g} is not the first sample"
            )
    return start + file.interval * np.arange(file.samples, dtype=np.float64)
