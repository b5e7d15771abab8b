"""The bytes of a SEG-Y file: headers, and traces by number; geometry is another module's matter.

Nothing is allocated by what a header says before the size of the file has been asked. Files are
opened anew for each read, so that a `SegyFile` can travel to other threads and processes.

Source:
    SEG Technical Standards Committee, SEG-Y revision 1 (2002) and 2.0 (2017). Byte numbers here
    count as the standard does: the binary header is 3201 to 3600, trace headers are 1 to 240.
"""

import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from diapir.errors import DataError
from diapir.io.segy_format import ByteOrder, Raw, SampleFormat, decode, sample_format
from diapir.io.volume import Unit

TEXT_BYTES, HEAD_BYTES, TRACE_HEADER_BYTES = 3200, 3600, 240
TRACE_SAMPLES_BYTE, TRACE_INTERVAL_BYTE = 115, 117  # in trace headers; 2 bytes each, unsigned
BINARY_SAMPLES_BYTE, BINARY_INTERVAL_BYTE = 3221, 3217  # the same in the binary header
MOST_SAMPLES = 65_535  # that these bytes can say
# fields of 2 bytes that hardly ever change within a file
LINE_UP_BYTES = (29, 71, 89, TRACE_SAMPLES_BYTE, TRACE_INTERVAL_BYTE)
MOSTLY_ALIKE = [*range(0, 26), *range(68, 72), *range(76, 82), *range(176, 200)]
LEAST_ALIKE = 0.75  # share of these bytes (from 0) that are the same from header to header
_FLAGS = {"sample_format": "format"}
_READ_BYTES = 1 << 24
_SPARSE_BYTES = 1 << 15  # traces longer than this are skipped over when only headers are wanted


@dataclass(frozen=True)
class SegyOptions:
    """What a user knows better than the headers; bytes count from 1.

    Args:
        inline_byte: Trace header byte of the inline number.
        crossline_byte: Of the crossline number.
        x_byte: Of the X coordinate.
        y_byte: Of the Y coordinate.
        scalar_byte: Of the coordinate scalar, 2 bytes; negative divides.
        delay_byte: Of the delay recording time in ms, 2 bytes: the time of the first sample.
        delay_scalar_byte: Of its scalar, 2 bytes; negative divides. Byte 215 counts from revision 1
            on, another one in any file.
        number_byte: Of the trace number of a 2-D line.
        offset_byte: Of the offset, by which pre-stack data is known.
        byte_order: Of headers and samples.
        sample_format: Format code in place of the header's.
        samples: Samples a trace in place of the header's.
        interval: Sample interval in `unit`.
        start: Time or depth of the first sample in `unit`, in place of the delay.
        unit: Of the sample axis; SEG-Y does not say it.
        coordinate_scale: Factor on X and Y in place of the scalar.
        text_headers: Number of extended text headers in place of the header's.
        line: Read as a 2-D line, in the order of the file.
    """

    inline_byte: int = 189
    crossline_byte: int = 193
    x_byte: int = 181
    y_byte: int = 185
    scalar_byte: int = 71
    delay_byte: int = 109
    delay_scalar_byte: int = 215
    number_byte: int = 21
    offset_byte: int = 37
    byte_order: Literal["auto", "big", "little"] = "auto"
    sample_format: int | None = None
    samples: int | None = None
    interval: float | None = None
    start: float | None = None
    unit: Literal["ms", "m", "ft"] = "ms"
    coordinate_scale: float | None = None
    text_headers: int | None = None
    line: bool = False

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if name.endswith("_byte") and not 1 <= value <= TRACE_HEADER_BYTES - 3:
                raise DataError(f"{name} is {value}", expected="a byte of the trace header, 1..237")
            if isinstance(value, float) and not math.isfinite(value):
                raise DataError(f"{name} is {value}", expected="a finite number")
        if self.samples is not None and self.samples < 1:
            raise DataError(f"samples is {self.samples}", expected="at least 1")
        if self.interval is not None and self.interval <= 0:
            raise DataError(f"interval is {self.interval}", expected="a positive number")
        if self.text_headers is not None and self.text_headers < 0:
            raise DataError(f"text_headers is {self.text_headers}", expected="at least 0")
        if self.byte_order not in ("auto", "big", "little"):
            raise DataError(f"byte_order is {self.byte_order!r}", expected="auto, big or little")
        if self.unit not in ("ms", "m", "ft"):
            raise DataError(f"unit is {self.unit!r}", expected="ms, m or ft")
        if self.sample_format is not None:
            sample_format(self.sample_format, "sample_format")

    def flags(self) -> list[str]:
        """Return what differs from the defaults as flags of the command line.

        >>> SegyOptions(inline_byte=181, line=True).flags()
        ['--inline-byte 181', '--line']
        """
        found = []
        for name, value in vars(self).items():
            if value == SegyOptions.__dataclass_fields__[name].default:
                continue
            flag = "--" + _FLAGS.get(name, name).replace("_", "-")
            number = f"{value:.10g}" if isinstance(value, float) else value
            found.append(flag if value is True else f"{flag} {number}")
        return found


@dataclass(frozen=True)
class BinaryHeader:
    """The fields of bytes 3201 to 3600 that matter here, in one byte order."""

    order: ByteOrder
    interval_us: int
    samples: int
    format_code: int
    fold: int
    sorting: int
    measurement: int
    revision: tuple[int, int]
    fixed_length: int
    text_headers: int
    extended_samples: int = 0
    extended_interval_us: float = 0.0
    trace_header_extensions: int = 0
    first_trace: int = 0
    trailer_records: int = 0


@dataclass(frozen=True)
class SegyFile:
    """A SEG-Y file whose layout is known; reads traces by number.

    Args:
        path: The file.
        order: Byte order of headers and samples.
        format: How samples are written.
        samples: Samples a trace.
        interval: Distance between samples in `unit`.
        unit: Of the sample axis.
        data_start: Bytes before the first trace.
        header_bytes: Bytes of a trace before its samples; 240 times one plus the extensions.
        traces: Number of whole traces.
        left_over: Bytes after the last whole trace that belong to none.
        binary: The binary header.
        warnings: What was decided in doubt, for people.
    """

    path: Path
    order: ByteOrder
    format: SampleFormat
    samples: int
    interval: float
    unit: Unit
    data_start: int
    header_bytes: int
    traces: int
    left_over: int
    binary: BinaryHeader
    warnings: tuple[str, ...] = field(default=())

    @property
    def trace_bytes(self) -> int:
        """Bytes of a trace with its header."""
        return self.header_bytes + self.samples * self.format.width

    def read_raw(self, start: int, stop: int) -> tuple[Raw, Raw]:
        """Return headers (n, 240) and samples (n, bytes) of the traces from start to stop."""
        count = max(0, min(stop, self.traces) - start)
        block = np.empty((count, self.trace_bytes), np.uint8)
        with self.path.open("rb", buffering=0) as file:
            file.seek(self.data_start + start * self.trace_bytes)
            view = block.reshape(-1).data
            done = 0
            while done < len(view):
                got = file.readinto(view[done:])
                if not got:
                    raise DataError("the file became shorter while it was read", where=self.path)
                done += got
        return block[:, :TRACE_HEADER_BYTES], block[:, self.header_bytes :]

    def read_headers(self, start: int, stop: int) -> Raw:
        """Return the headers of the traces from start to stop, (n, 240) uint8."""
        if self.trace_bytes < _SPARSE_BYTES:
            return self.read_raw(start, stop)[0].copy()
        count = max(0, min(stop, self.traces) - start)
        headers = np.zeros((count, TRACE_HEADER_BYTES), np.uint8)
        with self.path.open("rb", buffering=0) as file:
            for row in range(count):
                file.seek(self.data_start + (start + row) * self.trace_bytes)
                data = file.read(TRACE_HEADER_BYTES)
                headers[row, : len(data)] = np.frombuffer(data, np.uint8)
        return headers

    def read_samples(self, start: int, stop: int) -> NDArray[np.float32]:
        """Return the traces from start to stop as (n, S) float32."""
        return decode(self.read_raw(start, stop)[1], self.format.code, self.order)

    def read_traces(self, numbers: NDArray[np.integer]) -> NDArray[np.float32]:
        """Return any traces, in the given order, as (n, S) float32; neighbours are read at once."""
        wanted = np.asarray(numbers, np.int64).ravel()
        found = np.empty((len(wanted), self.samples), np.float32)
        by_place = np.argsort(wanted, kind="stable")
        places = wanted[by_place]
        most = max(1, _READ_BYTES // self.trace_bytes)
        begin = 0
        while begin < len(places):
            # one read spans traces that follow each other closely, up to the size of a buffer
            reach = np.searchsorted(places, places[begin] + most, side="left")
            gaps = np.flatnonzero(np.diff(places[begin:reach]) > 4)
            end = begin + int(gaps[0]) + 1 if len(gaps) else int(reach)
            block = self.read_samples(int(places[begin]), int(places[end - 1]) + 1)
            found[by_place[begin:end]] = block[places[begin:end] - places[begin]]
            begin = end
        return found

    def blocks(self, *, most_bytes: int = _READ_BYTES) -> Iterator[tuple[int, int]]:
        """Yield ranges of traces, start and stop, that cover the file in pieces of bounded size."""
        step = max(1, most_bytes // self.trace_bytes)
        for start in range(0, self.traces, step):
            yield start, min(start + step, self.traces)


def header_field(headers: Raw, byte: int, order: ByteOrder, width: int = 4) -> NDArray[np.int64]:
    """Return a field of many trace headers.

    Args:
        headers: (N, 240) uint8.
        byte: Its first byte, counted from 1.
        order: Byte order.
        width: 2 or 4 bytes, signed.

    Returns:
        (N,) int64.
    """
    part = np.ascontiguousarray(headers[:, byte - 1 : byte - 1 + width])
    return part.view((">" if order == "big" else "<") + f"i{width}")[:, 0].astype(np.int64)


def unsigned_field(header: bytes, byte: int, order: ByteOrder) -> int:
    """Return a field of 2 bytes of one trace header, 0 to 65,535.

    Args:
        header: The 240 bytes.
        byte: Its first byte, counted from 1.
        order: Byte order.
    """
    return int.from_bytes(header[byte - 1 : byte + 1], order)


def parse_binary(head: bytes, order: ByteOrder) -> BinaryHeader:
    """Return the binary header of the first 3600 bytes of a file; missing bytes count as zero."""
    data = head[TEXT_BYTES:HEAD_BYTES].ljust(HEAD_BYTES - TEXT_BYTES, b"\0")
    sign = ">" if order == "big" else "<"

    def get(byte: int, kind: str) -> int:
        return int(struct.unpack_from(sign + kind, data, byte - TEXT_BYTES - 1)[0])

    major, minor = data[300], data[301]
    if (major, minor) == (0, 1):  # 1 written as a 16-bit integer
        major, minor = 1, 0
    basic = BinaryHeader(
        order=order,
        interval_us=get(BINARY_INTERVAL_BYTE, "H"),
        samples=get(BINARY_SAMPLES_BYTE, "H"),
        format_code=get(3225, "H"),
        fold=get(3227, "h"),
        sorting=get(3229, "h"),
        measurement=get(3255, "h"),
        revision=(major, minor),
        fixed_length=get(3503, "h"),
        text_headers=get(3505, "h") if major in (1, 2) else 0,
    )
    if major != 2:
        return basic
    (interval,) = struct.unpack_from(sign + "d", data, 72)
    return replace(
        basic,
        extended_samples=max(0, get(3269, "i")),
        extended_interval_us=float(interval) if 0 < interval < 1e9 else 0.0,
        trace_header_extensions=max(0, get(3507, "i")),
        first_trace=get(3521, "Q"),
        trailer_records=max(0, get(3529, "i")),
    )


def find_byte_order(head: bytes) -> ByteOrder | None:
    """Return the byte order that the binary header shows, None where it fits neither."""
    constant = head[3296:3300]
    if constant == b"\x01\x02\x03\x04":
        return "big"
    if constant == b"\x04\x03\x02\x01":
        return "little"
    for order in ("big", "little"):
        if 1 <= parse_binary(head, order).format_code <= 16:
            return order
    return None


def decode_text(data: bytes) -> tuple[str, str]:
    """Return a text header as lines of 80 characters, and its encoding, EBCDIC or ASCII."""
    ascii_letters = sum(32 <= byte < 127 or byte in (0, 10, 13) for byte in data)
    ebcdic = data.decode("cp037")
    ebcdic_letters = sum(32 <= ord(letter) < 127 or letter in "\0\n\r\x85" for letter in ebcdic)
    name = "ASCII" if ascii_letters >= ebcdic_letters else "EBCDIC"
    text = data.decode("latin-1") if name == "ASCII" else ebcdic
    clean = "".join(letter if letter.isprintable() else " " for letter in text)
    lines = [clean[at : at + 80].rstrip() for at in range(0, len(clean), 80)]
    return "\n".join(lines).rstrip(), name


def read_head(path: Path, count: int = HEAD_BYTES) -> bytes:
    """Return the first bytes of a file.

    Raises:
        DataError: The file cannot be read.
    """
    try:
        with path.open("rb") as file:
            return file.read(count)
    except FileNotFoundError as error:
        raise DataError("there is no such file", where=path, mend="Check the path.") from error
    except IsADirectoryError as error:
        raise DataError(
            "a folder, not a file",
            where=path,
            expected="a SEG-Y file",
            mend="Give the file itself; a Zarr store goes to 'diapir map' or 'diapir view'.",
        ) from error
    except OSError as error:
        raise DataError(
            f"cannot read the file: {error.strerror or error}",
            where=path,
            mend="Check the path and the permission to read it.",
        ) from error


def lines_up(file: SegyFile) -> bool:
    """Return whether headers repeat at the distance of a trace, as far as they show it.

    Fields that hardly ever change within a file (identification, scalar, samples, interval) must
    be the same in most of up to 64 traces; where all are zero the headers must be much alike.
    """
    numbers = np.unique(np.linspace(0, file.traces - 1, min(file.traces, 64)).astype(np.int64))
    headers = np.concatenate([file.read_headers(int(n), int(n) + 1) for n in numbers])
    if len(numbers) <= 2:
        return True
    shown = repeated = 0
    for byte in LINE_UP_BYTES:
        values = header_field(headers, byte, file.order, 2)
        shown += bool(values[0])
        repeated += bool(values[0]) and bool(np.mean(values == values[0]) > 0.6)
    if shown:
        return 2 * repeated >= shown
    alike = headers[:, MOSTLY_ALIKE] == headers[0, MOSTLY_ALIKE]
    return bool(alike.mean() > LEAST_ALIKE)
