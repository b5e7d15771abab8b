"""Writes SEG-Y: new files of revision 1, and copies that differ in their samples alone."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diapir.errors import DataError
from diapir.io.atomic import atomic_write
from diapir.io.segy import (
    BINARY_INTERVAL_BYTE,
    BINARY_SAMPLES_BYTE,
    HEAD_BYTES,
    MOST_SAMPLES,
    TEXT_BYTES,
    TRACE_HEADER_BYTES,
    TRACE_INTERVAL_BYTE,
    TRACE_SAMPLES_BYTE,
    SegyFile,
    SegyOptions,
)
from diapir.io.segy_format import ByteOrder, Raw, decode, encode, sample_format
from diapir.io.volume import Geometry

_COPY_BYTES = 1 << 24
_METRES, _FEET = 1, 2
_MOST_COORDINATE = 2**31 - 1
_LIVE_TRACE = 1


def copy_with_samples(
    source: SegyFile,
    target: Path,
    samples: Callable[[int, int], NDArray[Any]],
    *,
    scale: float = 1.0,
    keep_dead: bool = True,
    advance: Callable[[int], None] | None = None,
) -> int:
    """Write a copy of a file with other samples; every other byte stays what it is.

    Text, binary and trace headers, extended headers and whatever follows the last whole trace are
    copied. Integer formats round and clip; `SampleFormat.probability_scale` is what a probability
    of 1 becomes by convention.

    Args:
        source: The file to copy.
        target: Where to; appears whole or not at all.
        samples: Called with the first trace and the one after the last; returns (n, S) numbers.
        scale: Factor on the samples.
        keep_dead: Leave traces alone whose samples are all 0.
        advance: Called with the number of traces just done, for a progress bar.

    Returns:
        How many dead traces were left alone.

    Raises:
        DataError: Source and target are the same file, or the samples have another shape.
        RunError: The target cannot be written.
    """
    if target.exists() and target.samefile(source.path):
        raise DataError(
            "the copy would replace the file it is made from",
            where=target,
            mend="Choose another name.",
        )
    dead = 0
    with atomic_write(target) as temporary, temporary.open("wb") as out:
        _copy(source.path, out, 0, source.data_start)
        for start, stop in source.blocks():
            block, kept = _replaced(source, start, stop, samples, scale, keep_dead)
            out.write(block.tobytes())
            dead += kept
            if advance is not None:
                advance(stop - start)
        end = source.data_start + source.traces * source.trace_bytes
        _copy(source.path, out, end, source.path.stat().st_size)
    return dead


def write_segy(
    target: Path,
    samples: Callable[[NDArray[np.int32]], NDArray[Any]],
    geometry: Geometry,
    *,
    cells: NDArray[np.int32] | None = None,
    code: int = 5,
    byte_order: ByteOrder = "big",
    options: SegyOptions | None = None,
    text: Sequence[str] = (),
    coordinate_scalar: int = -100,
    ascii_text: bool = False,
    advance: Callable[[int], None] | None = None,
) -> None:
    """Write a new SEG-Y file of revision 1.

    Args:
        target: Where to; appears whole or not at all.
        samples: Called with cells (n, axes) of the geometry; returns their traces, (n, S) numbers.
        geometry: Numbers, positions and samples.
        cells: (N, axes) the cell of each trace, in the order of the file; without it every cell
            that has a trace, the last axis fastest.
        code: Sample format.
        byte_order: Of headers and samples.
        options: At which bytes of the trace headers numbers, positions and delay go.
        text: Lines of the text header, at most 40, without their numbers.
        coordinate_scalar: What goes into the scalar; -100 keeps centimetres. Coordinates that
            are too large for it get one that keeps less.
        ascii_text: Write the text header as ASCII instead of EBCDIC.
        advance: Called with the number of traces just done, for a progress bar.

    Raises:
        DataError: The geometry does not fit into SEG-Y's fields.
        RunError: The target cannot be written.
    """
    options = options or SegyOptions()
    entry = sample_format(code)
    if cells is None:
        cells = np.argwhere(geometry.trace_mask).astype(np.int32)
    interval_us = _interval_us(geometry, target)
    delay, delay_scalar = _delay(float(geometry.sample[0]), target)
    coordinate_scalar = _fitting_scalar(geometry, coordinate_scalar, target)
    template = np.zeros(TRACE_HEADER_BYTES, np.uint8)
    shared = _HeaderBlock(template[None], byte_order)
    shared.put(29, _LIVE_TRACE, 2)
    shared.put(options.scalar_byte, coordinate_scalar, 2)
    shared.put(89, 1, 2)
    shared.put(options.delay_byte, delay, 2)
    shared.put(options.delay_scalar_byte, delay_scalar, 2)
    shared.put(TRACE_SAMPLES_BYTE, len(geometry.sample), 2)
    shared.put(TRACE_INTERVAL_BYTE, interval_us, 2)
    step = max(1, _COPY_BYTES // (TRACE_HEADER_BYTES + len(geometry.sample) * entry.width))
    with atomic_write(target) as temporary, temporary.open("wb") as out:
        out.write(_text_header(text, ascii_text))
        out.write(_binary_header(geometry, code, byte_order, interval_us))
        for start in range(0, len(cells), step):
            part = cells[start : start + step]
            headers = np.repeat(template[None], len(part), axis=0)
            _number(_HeaderBlock(headers, byte_order), part, start, geometry, options)
            _locate(_HeaderBlock(headers, byte_order), part, geometry, options, coordinate_scalar)
            body = encode(samples(part), code, byte_order)
            out.write(np.concatenate([headers, body], axis=1).tobytes())
            if advance is not None:
                advance(len(part))


class _HeaderBlock:
    """Trace headers (N, 240) that fields are put into."""

    def __init__(self, headers: Raw, order: ByteOrder) -> None:
        self._headers = headers
        self._sign = ">" if order == "big" else "<"

    def put(self, byte: int, values: Any, width: int = 4) -> None:
        """Write a field; 2-byte fields hold 0 to 65,535 as well."""
        # an array, because NumPy's scalars know no byte order
        whole = np.atleast_1d(np.asarray(values, np.int64)) & ((1 << (8 * width)) - 1)
        typed = whole.astype(f"{self._sign}u{width}")
        cells = np.broadcast_to(typed, len(self._headers))
        part = np.ascontiguousarray(cells).view(np.uint8).reshape(-1, width)
        self._headers[:, byte - 1 : byte - 1 + width] = part


def _replaced(
    source: SegyFile,
    start: int,
    stop: int,
    samples: Callable[[int, int], NDArray[Any]],
    scale: float,
    keep_dead: bool,
) -> tuple[Raw, int]:
    _, old = source.read_raw(start, stop)
    block = old.base
    assert isinstance(block, np.ndarray)  # noqa: S101 - both parts are views of whole traces
    values = np.asarray(samples(start, stop))
    if values.shape != (stop - start, source.samples):
        raise DataError(
            f"samples of shape {values.shape} for traces {start:,} to {stop:,}",
            where=source.path,
            expected=str((stop - start, source.samples)),
        )
    scaled = values if scale == 1 else np.asarray(values, np.float64) * scale
    new = encode(scaled, source.format.code, source.order)
    dead: NDArray[np.bool_] = np.zeros(stop - start, np.bool_)
    if keep_dead:
        dead = np.logical_not(np.any(decode(old, source.format.code, source.order), axis=1))
    block[~dead, source.header_bytes :] = new[~dead]
    return block, int(dead.sum())


def _copy(source: Path, out: Any, start: int, stop: int) -> None:
    with source.open("rb") as file:
        file.seek(start, os.SEEK_SET)
        while start < stop:
            data = file.read(min(_COPY_BYTES, stop - start))
            if not data:
                break
            out.write(data)
            start += len(data)


def _interval_us(geometry: Geometry, target: Path) -> int:
    interval_us = geometry.sample_interval * 1000
    count = len(geometry.sample)
    if not (1 <= round(interval_us) <= 65_535 and abs(interval_us - round(interval_us)) < 1e-6):
        raise DataError(
            f"a sample interval of {geometry.sample_interval:g} {geometry.unit}",
            where=target,
            expected="1 to 65,535 whole thousandths",
        )
    if not 1 <= count <= MOST_SAMPLES:
        raise DataError(
            f"{count:,} samples a trace", where=target, expected=f"at most {MOST_SAMPLES:,}"
        )
    return round(interval_us)


def _delay(start: float, target: Path) -> tuple[int, int]:
    """Return delay and scalar whose quotient is exactly the time of the first sample."""
    for divisor in (1, 10, 100, 1000):
        value = round(start * divisor)
        if abs(value) <= 32_767 and abs(value - start * divisor) < 1e-6:
            return value, 0 if divisor == 1 else -divisor
    if start % 10 == 0 and abs(start) <= 327_670:
        return round(start / 10), 10
    raise DataError(
        f"a first sample at {start:g}",
        where=target,
        expected="a number that fits into 2 bytes, times 1, 0.1, 0.01 or 0.001",
        mend="Shift the samples to a rounder start.",
    )


def _text_header(text: Sequence[str], ascii_text: bool) -> bytes:
    numbered = [*text, *[""] * 40][:40]
    lines = [f"C{number:>2} {line}"[:80].ljust(80) for number, line in enumerate(numbered, 1)]
    return "".join(lines).encode("ascii" if ascii_text else "cp037", "replace")


def _binary_header(geometry: Geometry, code: int, order: ByteOrder, interval_us: int) -> bytes:
    header = np.zeros((1, HEAD_BYTES - TEXT_BYTES), np.uint8)
    fields = _HeaderBlock(header, order)
    values = {
        BINARY_INTERVAL_BYTE: interval_us,
        BINARY_SAMPLES_BYTE: len(geometry.sample),
        3225: code,
        3227: 1,  # fold
        3229: 4,  # horizontally stacked
        3255: _FEET if (geometry.measurement or geometry.unit) == "ft" else _METRES,
        3503: 1,  # traces of one length
    }
    for byte, value in values.items():
        fields.put(byte - TEXT_BYTES, value, 2)
    header[0, 3501 - TEXT_BYTES - 1] = 1  # revision 1.0, the same in both byte orders
    return header.tobytes()


def _number(
    block: _HeaderBlock,
    cells: NDArray[np.int32],
    start: int,
    geometry: Geometry,
    options: SegyOptions,
) -> None:
    running = start + 1 + np.arange(len(cells))
    block.put(1, running)
    block.put(5, running)
    if geometry.is_line:
        block.put(options.number_byte, geometry.axes["trace"][cells[:, 0]])
        return
    block.put(options.number_byte, geometry.axes["crossline"][cells[:, 1]])
    block.put(options.inline_byte, geometry.axes["inline"][cells[:, 0]])
    block.put(options.crossline_byte, geometry.axes["crossline"][cells[:, 1]])


def _factor(scalar: int) -> float:
    """Return by what coordinates are multiplied in a header with this scalar."""
    return -scalar if scalar < 0 else 1 / max(scalar, 1)


def _fitting_scalar(geometry: Geometry, wanted: int, target: Path) -> int:
    """Return the scalar that is wanted, or the finest one in which all coordinates fit."""
    found = [np.abs(part) for part in (geometry.cdp_x, geometry.cdp_y) if part is not None]
    largest = max((float(np.nan_to_num(part).max(initial=0)) for part in found), default=0.0)
    for scalar in (wanted, -10, 1):
        if largest * _factor(scalar) < _MOST_COORDINATE:
            return scalar
    raise DataError(
        f"a coordinate of {largest:g} does not fit into SEG-Y's fields",
        where=target,
        expected=f"less than {_MOST_COORDINATE:,}",
    )


def _locate(
    block: _HeaderBlock,
    cells: NDArray[np.int32],
    geometry: Geometry,
    options: SegyOptions,
    scalar: int,
) -> None:
    factor = _factor(scalar)
    place = tuple(cells.T)
    for byte, positions in ((options.x_byte, geometry.cdp_x), (options.y_byte, geometry.cdp_y)):
        if positions is not None:
            block.put(byte, np.rint(np.nan_to_num(positions[place]) * factor).astype(np.int64))
