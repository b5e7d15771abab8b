"""Says what a SEG-Y file is, what is odd about it, and which flags read it; whatever its bytes."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from diapir.errors import DataError, DiapirError
from diapir.io.segy import (
    HEAD_BYTES,
    TEXT_BYTES,
    TRACE_SAMPLES_BYTE,
    SegyFile,
    SegyOptions,
    decode_text,
    find_byte_order,
    header_field,
    parse_binary,
    read_head,
    unsigned_field,
)
from diapir.io.segy_bytes import BytePair, find_line_bytes, first_headers
from diapir.io.segy_chart import Chart, Diagnosis, Finding
from diapir.io.segy_fit import best_format, format_misfits, header_order, repaired_options
from diapir.io.segy_format import FORMATS
from diapir.io.segy_grid import TraceGrid, TraceTable, bin_traces, prestack_reason, scan_traces
from diapir.io.segy_layout import open_file
from diapir.io.segy_volume import sampled_traces
from diapir.io.volume import amplitude_statistics

__all__ = ["Diagnosis", "Finding", "diagnose"]

_OTHERS = {
    b"PK\x03\x04": "a zip archive",
    b"\x1f\x8b": "a gzip archive",
    b"\x89HDF": "an HDF5 or NetCDF file",
    b"CDF": "a NetCDF file",
    b"\x89PNG": "a PNG picture",
    b"%PDF": "a PDF document",
}
_COORDINATES = ((181, 185), (73, 77), (81, 85), (189, 193))
_ODD_SHARE, _TOO_ODD_SHARE = 0.01, 0.5


def diagnose(
    path: Path,
    options: SegyOptions | None = None,
    advance: Callable[[int], None] | None = None,
) -> Diagnosis:
    """Return what a file is and how to read it; any bytes get a diagnosis, none an exception.

    Args:
        path: The file.
        options: What the user knows already.
        advance: Called with the number of traces just read, for a progress bar.

    Raises:
        DataError: There is no such file, it is a folder, or it may not be read.
    """
    chart = Chart()
    head = read_head(path)
    try:
        _examine(path, head, options or SegyOptions(), chart, advance)
    except DiapirError as error:
        chart.blame(error)
    except Exception as error:  # a doctor must not faint; the tests see to it that this is rare
        chart.find(
            "error",
            f"the examination failed: {type(error).__name__}: {error}",
            "Please report this, with the file if you can share it.",
        )
    return Diagnosis(
        path,
        tuple(chart.facts),
        tuple(chart.findings),
        chart.flags,
        chart.usable,
        chart.text,
    )


def _examine(
    path: Path,
    head: bytes,
    options: SegyOptions,
    chart: Chart,
    advance: Callable[[int], None] | None,
) -> None:
    size = path.stat().st_size
    chart.fact("size", f"{size:,} bytes")
    if not _look_at_head(head, chart):
        return
    file, options = _open(path, head, options, chart)
    if file is None:
        return
    file, options = _in_order_of_headers(file, options, chart)
    file, options, garbled = _look_at_samples(file, options, chart)
    garbled |= not _look_at_layout(file, chart)
    pairs = find_line_bytes(first_headers(file), file.order)
    _look_at_bytes(pairs, chart)
    table = scan_traces(file, options, advance)
    _look_at_traces(table, file, options, chart)
    grid, options = _find_grid(table, pairs, file, options, chart)
    chart.flags = tuple(options.flags())
    if grid is not None:
        chart.usable = not garbled
        _look_at_grid(grid, chart)


def _look_at_head(head: bytes, chart: Chart) -> bool:
    """Take down text and binary header; return whether there can be traces at all."""
    for magic, what in _OTHERS.items():
        if head.startswith(magic):
            chart.find("error", f"this is {what}, not SEG-Y", "Unpack or export it first.")
            return False
    if len(head) < HEAD_BYTES:
        chart.find(
            "error",
            f"{len(head):,} bytes are fewer than the {HEAD_BYTES:,} of the headers",
            "Copy or download the file again.",
        )
        return False
    chart.text, encoding = decode_text(head[:TEXT_BYTES])
    chart.fact("text header", encoding)
    binary = parse_binary(head, find_byte_order(head) or "big")
    major, minor = binary.revision
    chart.fact("revision", f"{major}.{minor}")
    if major > 2:
        chart.find("warning", f"revision {major}.{minor} does not exist", "It is read as 1.0.")
    if binary.text_headers:
        chart.fact("extended text headers", binary.text_headers)
    return True


def _open(
    path: Path, head: bytes, options: SegyOptions, chart: Chart
) -> tuple[SegyFile | None, SegyOptions]:
    """Open the file as its headers say, or else as its bytes show."""
    try:
        return open_file(path, options), options
    except DataError as error:
        first = error
    repaired = repaired_options(path, head, options)
    for wanted in repaired:
        try:
            file = open_file(path, wanted)
        except DataError:
            continue
        new = [flag for flag in wanted.flags() if flag not in options.flags()]
        chart.find("error", first.what, f"It reads with {' '.join(new)}.")
        if wanted.interval is not None and options.interval is None:
            chart.find(
                "warning",
                f"the sample interval of {wanted.interval:g} {options.unit} is a guess",
                "Pass the true one with --interval.",
            )
        return file, wanted
    chart.blame(first)
    return None, options


def _in_order_of_headers(
    file: SegyFile, options: SegyOptions, chart: Chart
) -> tuple[SegyFile, SegyOptions]:
    """Open the file again if its trace headers are in another byte order than its binary one."""
    order = header_order(file.read_headers(0, min(file.traces, 64)))
    if order is None or order == file.order or options.byte_order != "auto":
        return file, options
    wanted = replace(
        options,
        byte_order=order,
        sample_format=file.format.code,
        samples=file.samples,
        interval=file.interval,
    )
    try:
        again = open_file(file.path, wanted)
    except DataError:
        return file, options
    chart.find(
        "error",
        f"the binary header is {file.order}-endian, the trace headers are {order}-endian",
        f"It reads with {' '.join(wanted.flags())}.",
    )
    return again, wanted


def _look_at_samples(
    file: SegyFile, options: SegyOptions, chart: Chart
) -> tuple[SegyFile, SegyOptions, bool]:
    """Open the file with the format that fits its data; the last tells that none can be read."""
    numbers = np.unique(np.linspace(0, file.traces - 1, min(64, file.traces)).astype(np.int64))
    raw = np.concatenate([file.read_raw(int(n), int(n) + 1)[1] for n in numbers])
    better = best_format(format_misfits(raw, file.format.width), file.format.code, file.order)
    if better is None:
        return file, options, False
    code, order = better
    what = f"format code {file.format.code} ({file.format.name}) does not fit the data"
    if order != file.order:
        chart.find(
            "error",
            f"{what}; {FORMATS[code].name} in {order}-endian byte order does, but the headers are "
            f"{file.order}-endian",
            "Have the file written again, in one byte order.",
        )
        return file, options, True
    wanted = replace(options, sample_format=code)
    chart.find("error", f"{what}; {FORMATS[code].name} does", f"It reads with --format {code}.")
    return open_file(file.path, wanted), wanted, False


def _look_at_layout(file: SegyFile, chart: Chart) -> bool:
    """Take down layout and amplitudes; return whether there are any to speak of."""
    chart.fact("byte order", file.order)
    chart.fact("sample format", f"{file.format.code}, {file.format.name}")
    chart.fact("traces", f"{file.traces:,} of {file.samples:,} samples")
    chart.fact("sample interval", f"{file.interval:g} {file.unit}")
    for warning in file.warnings:
        chart.find("warning", warning)
    first = file.read_headers(0, 1).tobytes()
    for place, count in (
        ("the binary header", file.binary.samples),
        ("the first trace header", unsigned_field(first, TRACE_SAMPLES_BYTE, file.order)),
    ):
        if count and count != file.samples:
            chart.find(
                "note",
                f"{place} says {count:,} samples a trace; the file has {file.samples:,}",
            )
    if file.binary.fold > 1:
        chart.find("note", f"bytes 3227-3228 tell of a fold of {file.binary.fold:,}")
    values = sampled_traces(file)
    live = values.any(axis=1)
    finite = np.isfinite(values)
    odd = 1 - float(finite.mean())
    stats = amplitude_statistics(values[live])
    chart.fact(
        "amplitudes",
        ", ".join(f"{name} {stats[name]:.4g}" for name in ("p01", "p50", "p99", "mean", "std")),
    )
    if odd:
        chart.find(
            "error" if odd > _ODD_SHARE else "warning",
            f"{odd:.2%} of the samples are no finite numbers; they are read as 0",
        )
    looked = "" if len(values) == file.traces else f" of {len(values):,} looked at"
    chart.fact("dead traces", f"{int((~live).sum()):,}{looked}")
    if not live.any():
        chart.find("error", "all samples are 0", "Ask for the data again.")
    flat = bool(live.any()) and not np.ptp(np.where(finite, values, 0)[live], axis=1).any()
    if flat:
        chart.find("error", "no trace ever changes its value", "Ask for the data again.")
    return bool(live.any()) and not flat and odd < _TOO_ODD_SHARE


def _look_at_bytes(pairs: list[BytePair], chart: Chart) -> None:
    for pair in pairs[:3]:
        chart.fact(f"line numbers at {pair.inline} and {pair.crossline}?", pair.why)


def _look_at_traces(table: TraceTable, file: SegyFile, options: SegyOptions, chart: Chart) -> None:
    for name, values, byte in (
        ("inline", table.inline, options.inline_byte),
        ("crossline", table.crossline, options.crossline_byte),
    ):
        chart.fact(
            f"{name} (byte {byte})",
            f"{values.min():,} to {values.max():,}, {len(np.unique(values)):,} different",
        )
    chart.fact("first sample", f"{np.median(table.delay):g} (byte {options.delay_byte})")
    reason = prestack_reason(table, numbered=not options.line)
    chart.fact("pre-stack", "yes" if reason else "no")
    if not table.delay.any() and options.delay_byte == 109 and options.start is None:
        lag = header_field(file.read_headers(0, 1), 105, file.order, 2)[0]
        if lag:
            chart.find(
                "warning",
                f"the delay (byte 109) is 0, but byte 105 holds {lag}: some put the start there",
                "If traces start at that time, pass --delay-byte 105.",
            )


def _find_grid(
    table: TraceTable,
    pairs: list[BytePair],
    file: SegyFile,
    options: SegyOptions,
    chart: Chart,
) -> tuple[TraceGrid | None, SegyOptions]:
    """Return the grid at the bytes that were given, or else at those that look right."""
    first = _doubt(pairs, file, options)
    if first is None:
        try:
            grid = bin_traces(table, file, options)
        except DataError as error:
            first = error
        else:
            return grid, _with_coordinates(table, file, options, chart)
    looks_prestack = prestack_reason(table, numbered=not options.line) is not None
    for pair in pairs[: 0 if looks_prestack else 1]:
        wanted = replace(options, inline_byte=pair.inline, crossline_byte=pair.crossline)
        other = scan_traces(file, wanted)
        try:
            bin_traces(other, file, wanted)
        except DataError:
            continue
        wanted = _with_coordinates(other, file, wanted, chart)
        flags = [flag for flag in wanted.flags() if flag not in options.flags()]
        chart.find("error", first.what, f"It reads with {' '.join(flags)}.")
        return bin_traces(scan_traces(file, wanted), file, wanted), wanted
    chart.blame(first)
    return None, options


def _doubt(pairs: list[BytePair], file: SegyFile, options: SegyOptions) -> DataError | None:
    """Return why the chosen bytes are none of line numbers although they make a grid."""
    given = (options.inline_byte, options.crossline_byte)
    chosen = next((pair for pair in pairs if (pair.inline, pair.crossline) == given), None)
    if chosen is None or options.line or not chosen.looks_like_coordinates:
        return None
    if pairs[0].looks_like_coordinates:
        return None
    return DataError(
        f"the numbers at bytes {given[0]} and {given[1]} come in steps of {chosen.steps[0]:,} and "
        f"{chosen.steps[1]:,}, as coordinates do",
        where=file.path,
    )


def _with_coordinates(
    table: TraceTable, file: SegyFile, options: SegyOptions, chart: Chart
) -> SegyOptions:
    """Return options with the bytes of coordinates, where others than the given look like them."""
    lines = (options.inline_byte, options.crossline_byte)
    given = (options.x_byte, options.y_byte)
    usable = given != lines and not set(given) & set(lines) and _spread(table.x, table.y)
    if usable or file.traces == 1:
        return options
    headers = first_headers(file)
    for x_byte, y_byte in _COORDINATES:
        if {x_byte, y_byte} & set(lines):
            continue
        x, y = (header_field(headers, byte, file.order) for byte in (x_byte, y_byte))
        if _spread(x.astype(np.float64), y.astype(np.float64)):
            chart.find(
                "warning",
                f"no coordinates at bytes {given[0]} and {given[1]}; {x_byte} and {y_byte} look "
                "like them",
                f"Pass --x-byte {x_byte} --y-byte {y_byte}.",
            )
            return replace(options, x_byte=x_byte, y_byte=y_byte)
    chart.find("note", "there are no coordinates: areas and meshes will be in line numbers")
    return options


def _spread(x: np.ndarray[Any, np.dtype[np.float64]], y: Any) -> bool:
    pairs = np.unique(np.stack([x, y], axis=1), axis=0)
    return len(pairs) > max(1, len(x) // 2)


def _look_at_grid(grid: TraceGrid, chart: Chart) -> None:
    geometry = grid.geometry
    what = "2-D line" if geometry.is_line else "survey"
    size = " x ".join(f"{n:,}" for n in geometry.shape)
    chart.fact("grid", f"{what} of {size} ({', '.join(geometry.dims)})")
    empty = int((~geometry.trace_mask).sum())
    chart.fact("empty cells", f"{empty:,} of {geometry.trace_mask.size:,}")
    chart.fact("duplicate traces", f"{grid.duplicates:,}")
    last = geometry.sample[-1]
    chart.fact("samples", f"{geometry.sample[0]:g} to {last:g} {geometry.unit}")
    for name, values in (("X", geometry.cdp_x), ("Y", geometry.cdp_y)):
        if values is not None:
            chart.fact(name, f"{np.nanmin(values):,.1f} to {np.nanmax(values):,.1f}")
    known = {finding.what for finding in chart.findings}
    for warning in grid.warnings:
        if warning not in known:
            chart.find("warning", warning)
