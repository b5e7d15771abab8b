"""Judges from the data itself how samples are written, where headers are wrong about it."""

from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from diapir.io.segy import (
    HEAD_BYTES,
    TEXT_BYTES,
    TRACE_HEADER_BYTES,
    TRACE_INTERVAL_BYTE,
    TRACE_SAMPLES_BYTE,
    SegyOptions,
    find_byte_order,
    header_field,
    parse_binary,
    unsigned_field,
)
from diapir.io.segy_format import FORMATS, IBM_FLOAT, ByteOrder, Raw, ibm_to_double
from diapir.io.segy_layout import find_strides

Misfits = dict[tuple[int, ByteOrder], float]

_IEEE_FLOAT = 5
_ORDERS: tuple[ByteOrder, ByteOrder] = ("big", "little")
_COMMON = (5, IBM_FLOAT, 3, 8, 2, 11, 16, 10, 6)
_CLEAR = 0.4  # misfit by which another format must be better to be believed
_FITTING = 1.6  # misfit of data that is seismic
_ENOUGH = 500  # samples other than 0 below which nothing is said
_GUESSED_INTERVAL = 4.0
_SMALL_NUMBERS = (1, 5, 9, 13, 17, 21, 37, 189, 193)
_SMALL_PAIRS = (29, 71, 89, TRACE_SAMPLES_BYTE, TRACE_INTERVAL_BYTE)
_CLEARLY_SMALLER = 0.75  # powers of two, on average


def format_misfits(raw: Raw, width: int) -> Misfits:
    """Return how badly samples fit each format of a width, in each byte order; small is good.

    Seismic samples are finite, span few powers of ten, and change little from one to the next.
    IBM floats are normalised: the first hexadecimal digit of their fraction is not 0.

    Args:
        raw: (n, bytes) uint8, traces.
        width: Bytes a sample.
    """
    found: Misfits = {}
    for entry in FORMATS.values():
        if entry.width == width and entry.code in _COMMON:
            for order in _ORDERS[: 1 if width == 1 else 2]:
                found[entry.code, order] = _misfit(raw, entry.code, order)
    if width == 1:
        found |= {(code, "little"): value for (code, _), value in found.items()}
    return found


def best_format(misfits: Misfits, code: int, order: ByteOrder) -> tuple[int, ByteOrder] | None:
    """Return the format that fits clearly better than the declared one; None if none does."""
    best = min(misfits, key=lambda key: (misfits[key], key[1] != order, _COMMON.index(key[0])))
    declared = misfits.get((code, order))
    if declared is None or misfits[best] > _FITTING or declared - misfits[best] < _CLEAR:
        return None
    return best


def header_order(headers: Raw) -> ByteOrder | None:
    """Return the byte order in which the numbers of trace headers are small; None if in both.

    Args:
        headers: (N, 240) uint8.
    """
    size = {}
    for order in _ORDERS:
        values = [header_field(headers, byte, order) for byte in _SMALL_NUMBERS]
        values += [header_field(headers, byte, order, 2) * 65_536 for byte in _SMALL_PAIRS]
        size[order] = float(np.mean([np.log2(1.0 + np.abs(v)).mean() for v in values]))
    if abs(size["big"] - size["little"]) < _CLEARLY_SMALLER:
        return None
    return min(_ORDERS, key=lambda order: size[order])


def repaired_options(path: Path, head: bytes, options: SegyOptions) -> list[SegyOptions]:
    """Return options that may open a file whose headers contradict its size, likeliest first.

    Args:
        path: The file.
        head: Its first 3,600 bytes.
        options: What the user knows; it is not called into question.
    """
    size = path.stat().st_size
    starts = dict.fromkeys([HEAD_BYTES + TEXT_BYTES * (options.text_headers or 0), HEAD_BYTES])
    found: list[SegyOptions] = []
    for start in starts:
        if start + TRACE_HEADER_BYTES < size:
            found += _repairs(path, head, start, size - start, options)
    return list(dict.fromkeys(found))


def _repairs(
    path: Path, head: bytes, start: int, payload: int, options: SegyOptions
) -> list[SegyOptions]:
    with path.open("rb") as file:
        file.seek(start)
        first = file.read(TRACE_HEADER_BYTES)
        body = np.frombuffer(file.read(1 << 20), np.uint8)
    counts = _sample_counts(head, first, options)
    widths = _widths(head, options)
    strides = find_strides(path, start, "big")
    layouts: list[tuple[int, int]] = []
    for stride, width in product(strides, widths):
        samples, rest = divmod(stride - TRACE_HEADER_BYTES, width)
        if samples > 0 and not rest and samples in counts:
            layouts.append((samples, width))
    if not strides:
        layouts += [
            (samples, width)
            for samples, width in product(counts, widths)
            if payload % (TRACE_HEADER_BYTES + samples * width) == 0
        ]
        # one trace that fills the file, or a count that runs beyond its end
        layouts += [
            (samples, width)
            for samples, width in product(counts, widths)
            if TRACE_HEADER_BYTES + samples * width <= payload
        ]
    for stride in strides:
        for width in widths:
            samples, rest = divmod(stride - TRACE_HEADER_BYTES, width)
            if samples > 0 and not rest:
                layouts.append((samples, width))
    tried = [
        _with_layout(head, first, body, samples, width, options)
        for samples, width in list(dict.fromkeys(layouts))[:8]
    ]
    # one that fits the data clearly worse than another comes after it
    lowest = min((misfit for misfit, _ in tried), default=0.0)
    tried.sort(key=lambda one: one[0] > lowest + _CLEAR)
    return [wanted for _, wanted in tried]


def _with_layout(
    head: bytes, first: bytes, body: Raw, samples: int, width: int, options: SegyOptions
) -> tuple[float, SegyOptions]:
    """Return options for a layout, and how badly the samples fit the best format in it."""
    trace = TRACE_HEADER_BYTES + samples * width
    whole = (len(body) + TRACE_HEADER_BYTES) // trace
    padded = np.concatenate([np.zeros(TRACE_HEADER_BYTES, np.uint8), body])
    raw = padded[: max(whole, 1) * trace]
    raw = raw[: len(raw) // trace * trace].reshape(-1, trace)[:64, TRACE_HEADER_BYTES:]
    shown = header_order(np.frombuffer(first, np.uint8).reshape(1, -1))
    code, order = _guess_format(head, np.ascontiguousarray(raw), width, options, shown)
    binary = parse_binary(head, order)
    wanted = options
    if options.byte_order == "auto" and find_byte_order(head) != order:
        wanted = replace(wanted, byte_order=order)
    if options.sample_format is None and binary.format_code != code:
        wanted = replace(wanted, sample_format=code)
    if options.samples is None and binary.samples != samples:
        wanted = replace(wanted, samples=samples)
    if options.interval is None and not binary.interval_us:
        in_trace = unsigned_field(first, TRACE_INTERVAL_BYTE, order)
        if not in_trace:
            other = parse_binary(head, "little" if order == "big" else "big").interval_us
            wanted = replace(wanted, interval=other / 1000 or _GUESSED_INTERVAL)
    return _misfit(np.ascontiguousarray(raw), code, order) if raw.size else 0.0, wanted


def _guess_format(
    head: bytes, raw: Raw, width: int, options: SegyOptions, shown: ByteOrder | None
) -> tuple[int, ByteOrder]:
    misfits = format_misfits(raw, width) if raw.size else {}
    declared = [(parse_binary(head, order).format_code, order) for order in _ORDERS]
    possible = {
        key: value
        for key, value in misfits.items()
        if options.sample_format in (None, key[0]) and options.byte_order in ("auto", key[1])
    }
    if not possible:
        order = (shown or "big") if options.byte_order == "auto" else options.byte_order
        fallback = next(c for c in _COMMON if FORMATS[c].width == width)
        return options.sample_format or fallback, order
    lowest = min(possible.values())
    close = [key for key, value in possible.items() if value < lowest + _CLEAR]
    return min(
        close,
        key=lambda key: (key[1] != (shown or key[1]), key not in declared, possible[key], key),
    )


def _sample_counts(head: bytes, first: bytes, options: SegyOptions) -> list[int]:
    if options.samples is not None:
        return [options.samples]
    counts = [parse_binary(head, order).samples for order in _ORDERS]
    counts += [unsigned_field(first, TRACE_SAMPLES_BYTE, order) for order in _ORDERS]
    return [count for count in dict.fromkeys(counts) if count]


def _widths(head: bytes, options: SegyOptions) -> list[int]:
    if options.sample_format is not None:
        return [FORMATS[options.sample_format].width]
    codes = [parse_binary(head, order).format_code for order in _ORDERS]
    widths = [FORMATS[code].width for code in codes if code in FORMATS]
    return list(dict.fromkeys([*widths, 4, 2, 1]))


def _misfit(raw: Raw, code: int, order: ByteOrder) -> float:
    values = _wide(raw, code, order)
    live = values[values.any(axis=1)]
    finite = np.isfinite(live)
    size = np.abs(live[finite & (live != 0)])
    if size.size < _ENOUGH:
        # too few to judge, unless it is this format that makes them no numbers
        return 10.0 * float(1 - finite.mean()) if live.size > _ENOUGH else 0.0
    misfit = 10.0 * float(1 - finite.mean()) + _roughness(np.where(finite, live, 0.0), size)
    entry = FORMATS[code]
    if entry.is_integer:
        # floats read as integers lie far out, at the bits of their exponents
        far = float(np.median(size)) > 0.2 * np.iinfo(entry.kind).max
        return misfit + (1.0 if entry.width == 4 and far else 0.0)
    misfit += max(0.0, float(np.std(np.log10(size))) - 1.5)
    if np.median(size) < 1e-30:
        misfit += 5.0  # integers read as floats are next to nothing
    if entry.width == 4:
        misfit += _digit_misfit(raw, code, order)
    return misfit


def _wide(raw: Raw, code: int, order: ByteOrder) -> NDArray[np.float64]:
    """Return samples as float64, where no IBM float is too large or too small."""
    entry = FORMATS[code]
    values = np.ascontiguousarray(raw).view(entry.dtype(order))
    if code == IBM_FLOAT:
        return ibm_to_double(values.astype(np.uint32))
    with np.errstate(invalid="ignore"):
        return values.astype(np.float64)


def _roughness(values: NDArray[np.float64], size: NDArray[np.float64]) -> float:
    """Return the energy of differences over that of the values: 1 for white noise, 0 if smooth."""
    with np.errstate(over="ignore"):
        bounded = np.clip(values / np.median(size), -10, 10)
    bounded = bounded - bounded.mean(axis=1, keepdims=True)
    energy = float(np.square(bounded).mean())
    if values.shape[1] < 2 or not energy:
        return 0.0
    return float(np.square(np.diff(bounded, axis=1)).mean()) / (2 * energy)


def _digit_misfit(raw: Raw, code: int, order: ByteOrder) -> float:
    """Return what the first digit of the fraction tells: of a normalised IBM float it is not 0.

    In IEEE floats the same four bits are 0 in one of sixteen.
    """
    bits = np.ascontiguousarray(raw).view(">u4" if order == "big" else "<u4")
    bits = bits[(bits & 0x7FFFFFFF) != 0]
    if bits.size < _ENOUGH:
        return 0.0
    zero = float(np.mean((bits & 0x00F00000) == 0))
    if code == IBM_FLOAT:
        return min(2.0, 20 * max(0.0, zero - 0.01))
    return 0.6 if code == _IEEE_FLOAT and zero < 0.005 and bits.size > 2 * _ENOUGH else 0.0
