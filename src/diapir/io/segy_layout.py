"""Decides how a SEG-Y file is laid out, from its headers, its size and what the user knows."""

import math
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from diapir.errors import DataError
from diapir.io.segy import (
    HEAD_BYTES,
    LEAST_ALIKE,
    LINE_UP_BYTES,
    MOST_SAMPLES,
    MOSTLY_ALIKE,
    TEXT_BYTES,
    TRACE_HEADER_BYTES,
    TRACE_INTERVAL_BYTE,
    TRACE_SAMPLES_BYTE,
    BinaryHeader,
    SegyFile,
    SegyOptions,
    find_byte_order,
    header_field,
    lines_up,
    parse_binary,
    read_head,
    unsigned_field,
)
from diapir.io.segy_format import FORMATS, ByteOrder, SampleFormat, sample_format

ASK_DOCTOR = "Run 'diapir doctor' on the file: it says what the file is and which flags to pass."
_END_OF_TEXT = "((SEG: EndText))"
_MOST_TEXT_HEADERS = 1024
_PROBE_BYTES = 1 << 22
_ABOUT_ALIKE = 0.06
_LONGEST_TRACE = 1 << 24  # samples; what revision 2 may announce beyond this is taken for damage


def open_file(path: Path, options: SegyOptions | None = None) -> SegyFile:
    """Return a file with its layout resolved; what was decided in doubt is in its `warnings`.

    Raises:
        DataError: The file cannot be read, holds no trace, or its headers do not fit its size.
    """
    options = options or SegyOptions()
    head = read_head(path)
    size = path.stat().st_size
    if len(head) < HEAD_BYTES:
        raise DataError(
            f"{size:,} bytes are too few for a SEG-Y file",
            where=path,
            expected=f"at least {HEAD_BYTES:,} bytes of headers, then traces",
            mend="Copy or download the file again.",
        )
    warnings: list[str] = []
    binary = parse_binary(head, _choose_order(head, size, options, path))
    entry = sample_format(options.sample_format or binary.format_code, f"{path} bytes 3225-3226")
    data_start = _data_start(path, size, binary, options, warnings)
    header_bytes = TRACE_HEADER_BYTES * (1 + binary.trace_header_extensions)
    end = size - _trailer_bytes(binary, size - data_start)
    if end - data_start < TRACE_HEADER_BYTES + entry.width:
        raise DataError(
            "there are headers but no traces",
            where=path,
            expected="traces after the headers",
            mend="Ask for the whole file: this one holds text only, or was cut off.",
        )
    first = read_head(path, data_start + TRACE_HEADER_BYTES)[data_start:]
    samples = _choose_samples(binary, first, end - data_start, header_bytes, entry, options, path)
    interval = _choose_interval(binary, first, options, path, warnings)
    traces, left_over = divmod(end - data_start, header_bytes + samples * entry.width)
    if left_over:
        warnings.append(
            f"{left_over:,} bytes after the last whole trace belong to none: the file is cut off"
        )
    file = SegyFile(
        path,
        binary.order,
        entry,
        samples,
        interval,
        options.unit,
        data_start,
        header_bytes,
        traces,
        left_over,
        binary,
        tuple(warnings),
    )
    if options.samples is None and not lines_up(file):
        raise _out_of_step(file)
    return file


def find_strides(
    path: Path, data_start: int, order: ByteOrder, header_bytes: int = TRACE_HEADER_BYTES
) -> tuple[int, ...]:
    """Return the distances in bytes at which trace headers seem to repeat, the likeliest first.

    Looks at the first 4 MiB of traces for places where the fields that hardly ever change within
    a file are the same as in the first trace; nothing is returned where the first header does not
    show any.
    """
    with path.open("rb") as file:
        file.seek(data_start)
        data = np.frombuffer(file.read(_PROBE_BYTES), np.uint8)
    if len(data) < 2 * header_bytes + 1:
        return ()
    head = data[:TRACE_HEADER_BYTES].reshape(1, -1)
    shown = [byte for byte in LINE_UP_BYTES if header_field(head, byte, order, 2)[0]]
    longest = min(header_bytes + 8 * MOST_SAMPLES, (len(data) - TRACE_HEADER_BYTES) // 2)
    strides = np.arange(header_bytes + 1, longest + 1)
    if not shown:
        return _alike_strides(data, strides, path.stat().st_size - data_start)
    needed = len(shown) - (len(shown) > 2)  # one of them may be odd in the first trace alone
    for repeat in range(1, 40):
        places = strides * repeat
        inside = places + TRACE_HEADER_BYTES <= len(data)
        places = places[inside]
        same = np.zeros(len(places), np.int64)
        for byte in shown:
            same += (data[places + byte - 1] == data[byte - 1]) & (
                data[places + byte] == data[byte]
            )
        fits = np.ones(len(strides), np.bool_)
        fits[inside] = same >= needed
        strides = strides[fits]
    smallest: list[int] = []
    for stride in strides[:64].tolist():  # of a trace and several traces, the trace
        if all(stride % other for other in smallest):
            smallest.append(stride)
    payload = path.stat().st_size - data_start
    return tuple(sorted(smallest, key=lambda stride: payload % stride != 0))


def _alike_strides(
    data: NDArray[np.uint8], strides: NDArray[np.int64], payload: int
) -> tuple[int, ...]:
    """Return the distance at which headers without any of the usual fields are most alike."""
    share = np.zeros(len(strides))
    for repeat in (1, 2):
        for at in MOSTLY_ALIKE:
            share += data[strides * repeat + at] == data[at]
    share /= 2 * len(MOSTLY_ALIKE)
    if not len(share) or share.max() < LEAST_ALIKE:
        return ()
    # several traces further, headers may be as much alike as one trace further
    close = strides[share > share.max() - _ABOUT_ALIKE]
    whole = close[payload % close == 0]
    return (int(whole[0] if len(whole) else strides[np.argmax(share)]),)


def _choose_order(head: bytes, size: int, options: SegyOptions, path: Path) -> ByteOrder:
    if options.byte_order != "auto":
        return options.byte_order
    found = find_byte_order(head)
    if found is not None:
        return found
    if options.sample_format is not None:
        width = FORMATS[options.sample_format].width
        orders: tuple[ByteOrder, ByteOrder] = ("big", "little")
        for order in orders:
            samples = options.samples or parse_binary(head, order).samples
            if samples and (size - HEAD_BYTES) % (TRACE_HEADER_BYTES + samples * width) == 0:
                return order
        return "big"
    code = parse_binary(head, "big").format_code
    raise DataError(
        f"the sample format code is {code}, which exists in neither byte order",
        where=f"{path} bytes 3225-3226",
        expected="1 to 16",
        mend=f"{ASK_DOCTOR} It may not be SEG-Y at all.",
    )


def _data_start(
    path: Path, size: int, binary: BinaryHeader, options: SegyOptions, warnings: list[str]
) -> int:
    if options.text_headers is not None:
        return _checked_start(HEAD_BYTES + TEXT_BYTES * options.text_headers, size, path)
    if HEAD_BYTES <= binary.first_trace < size:
        return binary.first_trace
    count = binary.text_headers
    if count == -1:
        count = _count_text_headers(path)
    start = HEAD_BYTES + TEXT_BYTES * count
    if count >= 0 and start < size:
        return start
    warnings.append(
        f"bytes 3505-3506 announce {count:,} extended text headers, which do not fit the file"
    )
    return HEAD_BYTES


def _checked_start(start: int, size: int, path: Path) -> int:
    if start < size:
        return start
    raise DataError(
        f"{(start - HEAD_BYTES) // TEXT_BYTES:,} extended text headers are more than the file has",
        where=path,
        mend="Pass a smaller --text-headers.",
    )


def _count_text_headers(path: Path) -> int:
    """Return how many blocks there are up to the end stanza; 0 if it does not come."""
    with path.open("rb") as file:
        file.seek(HEAD_BYTES)
        for number in range(1, _MOST_TEXT_HEADERS + 1):
            block = file.read(TEXT_BYTES)
            if any(_END_OF_TEXT in block.decode(name) for name in ("cp037", "latin-1")):
                return number
            if len(block) < TEXT_BYTES:
                break
    return 0


def _trailer_bytes(binary: BinaryHeader, payload: int) -> int:
    trailer = binary.trailer_records * TEXT_BYTES
    return trailer if trailer < payload else 0


def _choose_samples(
    binary: BinaryHeader,
    first: bytes,
    payload: int,
    header_bytes: int,
    entry: SampleFormat,
    options: SegyOptions,
    path: Path,
) -> int:
    if options.samples is not None:
        candidates = [options.samples]
    else:
        in_trace = unsigned_field(first, TRACE_SAMPLES_BYTE, binary.order)
        candidates = [n for n in (binary.extended_samples, binary.samples, in_trace) if n]
    longest = min((payload - header_bytes) // entry.width, _LONGEST_TRACE)
    possible = [n for n in candidates if n <= longest]
    if not possible:
        found = f"{candidates[0]:,} samples a trace" if candidates else "no sample count"
        raise DataError(
            f"{found} in the headers, and {payload:,} bytes for all traces",
            where=f"{path} bytes 3221-3222",
            expected="one whole trace at least",
            mend=ASK_DOCTOR,
        )
    for samples in possible:
        if payload % (header_bytes + samples * entry.width) == 0:
            return samples
    return possible[0]


def _choose_interval(
    binary: BinaryHeader, first: bytes, options: SegyOptions, path: Path, warnings: list[str]
) -> float:
    if options.interval is not None:
        return options.interval
    in_trace = unsigned_field(first, TRACE_INTERVAL_BYTE, binary.order)
    in_file = binary.extended_interval_us or float(binary.interval_us)
    if in_file and in_trace and not math.isclose(in_file, in_trace, abs_tol=0.5):
        warnings.append(
            f"the sample interval is {in_file:g} us in the binary header and {in_trace} us in the "
            "first trace; the binary header's is taken, --interval chooses another"
        )
    interval_us = in_file or float(in_trace)
    if not interval_us:
        raise DataError(
            "no sample interval in the headers",
            where=f"{path} bytes 3217-3218, and 117-118 of the first trace",
            expected="microseconds",
            mend="Pass --interval, such as --interval 4 for 4 ms.",
        )
    return interval_us / 1000


def _out_of_step(file: SegyFile) -> DataError:
    strides = find_strides(file.path, file.data_start, file.order, file.header_bytes)
    mend = ASK_DOCTOR
    for stride in strides:
        samples, rest = divmod(stride - file.header_bytes, file.format.width)
        if not rest and samples:
            mend = f"Pass --samples {samples}: headers repeat every {stride:,} bytes."
            break
    return DataError(
        f"traces of {file.samples:,} samples of {file.format.width} bytes do not line up: "
        "trace headers come at other distances",
        where=file.path,
        expected="traces of one length",
        mend=mend,
    )
