"""Opening SEG-Y: both byte orders, every format, and headers that lie."""

import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import segyio

from diapir.errors import DataError
from diapir.io.segy import (
    SegyOptions,
    decode_text,
    find_byte_order,
    header_field,
    parse_binary,
)
from diapir.io.segy_format import FORMATS
from diapir.io.segy_layout import find_strides, open_file

Make = Callable[..., tuple[Path, np.ndarray]]


def patch(path: Path, byte: int, kind: str, value: int) -> Path:
    """Write a value at a byte counted from 1."""
    with path.open("r+b") as file:
        file.seek(byte - 1)
        file.write(struct.pack(kind, value))
    return path


@pytest.mark.parametrize("order", ["big", "little"])
@pytest.mark.parametrize("code", FORMATS)
def test_what_was_written_is_read(make_segy: Make, code: int, order: str) -> None:
    path, values = make_segy(code=code, byte_order=order, start=1000.5)
    file = open_file(path)
    assert (file.order, file.format.code, file.traces, file.samples) == (order, code, 42, 30)
    assert (file.interval, file.left_over, file.warnings) == (4.0, 0, ())
    np.testing.assert_array_equal(file.read_samples(0, 42), values.reshape(42, 30))


@pytest.mark.parametrize("order", ["big", "little"])
@pytest.mark.parametrize("code", [1, 2, 3, 5, 8])
def test_another_library_reads_the_same(make_segy: Make, code: int, order: str) -> None:
    path, values = make_segy(code=code, byte_order=order, start=12.5)
    with segyio.open(path, ignore_geometry=True, endian=order) as other:
        np.testing.assert_array_equal(other.trace.raw[:], values.reshape(42, 30))
        header = other.header[8]
        assert (header[189], header[193], header[109], header[215]) == (101, 301, 125, -10)
        assert (header[181], header[185], header[71]) == (43_002_500, 678_001_250, -100)
        assert other.samples[1] - other.samples[0] == 4


def test_traces_are_read_by_number_in_any_order(make_segy: Make) -> None:
    path, values = make_segy(shape=(20, 20, 5))
    file = open_file(path)
    numbers = np.random.default_rng(0).permutation(400)[:90]
    wanted = np.concatenate([numbers, numbers[:3]])
    np.testing.assert_array_equal(file.read_traces(wanted), values.reshape(400, 5)[wanted])
    assert file.read_traces(np.array([], np.int64)).shape == (0, 5)
    blocks = list(file.blocks(most_bytes=file.trace_bytes * 64))
    assert blocks[0] == (0, 64)
    assert blocks[-1] == (384, 400)


def test_headers_of_long_traces_are_read_without_their_samples(make_segy: Make) -> None:
    path, _ = make_segy(shape=(2, 3, 9000), code=5)
    file = open_file(path)
    headers = file.read_headers(1, 6)
    np.testing.assert_array_equal(headers, file.read_raw(1, 6)[0])
    assert header_field(headers, 193, "big").tolist() == [301, 302, 300, 301, 302]


def test_a_file_that_is_cut_off_keeps_its_whole_traces(make_segy: Make) -> None:
    path, values = make_segy()
    path.write_bytes(path.read_bytes()[:-100])
    file = open_file(path)
    assert (file.traces, file.left_over) == (41, 260)
    assert "cut off" in file.warnings[0]
    np.testing.assert_array_equal(file.read_samples(0, 99), values.reshape(42, 30)[:41])


@pytest.mark.parametrize("length", [0, 1, 3199, 3599, 3600, 3700, 3840, 3843])
def test_a_file_without_a_trace_is_refused(make_segy: Make, length: int) -> None:
    path, _ = make_segy()
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(DataError):
        open_file(path)


@pytest.mark.parametrize("samples", [29, 31, 60, 0])
def test_a_wrong_sample_count_is_told_with_the_right_one(make_segy: Make, samples: int) -> None:
    path, values = make_segy()
    patch(path, 3221, ">H", samples)
    patch(path, 3600 + 115, ">H", samples)
    with pytest.raises(DataError) as caught:
        open_file(path)
    if samples:
        assert "--samples 30" in str(caught.value.mend)
    file = open_file(path, SegyOptions(samples=30))
    np.testing.assert_array_equal(file.read_samples(0, 42), values.reshape(42, 30))


def test_the_count_that_fits_the_size_is_believed(make_segy: Make) -> None:
    path, _ = make_segy()
    patch(path, 3221, ">H", 1000)
    assert open_file(path).samples == 30  # of the trace header


def test_huge_counts_allocate_nothing(make_segy: Make) -> None:
    path, _ = make_segy()
    data = bytearray(path.read_bytes())
    data[3500:3502] = b"\x02\x00"
    struct.pack_into(">i", data, 3268, 2**31 - 1)
    struct.pack_into(">i", data, 3506, 2**31 - 1)
    struct.pack_into(">Q", data, 3520, 2**63)
    path.write_bytes(data)
    with pytest.raises(DataError):
        open_file(path)


def test_extended_text_headers_are_stepped_over(make_segy: Make) -> None:
    path, values = make_segy()
    data = path.read_bytes()
    stanza = "((SEG: EndText))".ljust(3200).encode("cp037")
    for count, blocks in ((2, b" " * 6400), (-1, b"@" * 3200 + stanza)):
        path.write_bytes(data[:3600] + blocks + data[3600:])
        patch(path, 3505, ">h", count)
        file = open_file(path)
        assert file.data_start == 10_000
        np.testing.assert_array_equal(file.read_samples(0, 1)[0], values[0, 0])
    patch(path, 3505, ">h", 9000)
    assert open_file(path, SegyOptions(text_headers=2)).traces == 42
    with pytest.raises(DataError):
        open_file(path, SegyOptions(text_headers=9000))


def test_an_impossible_number_of_text_headers_is_doubted(make_segy: Make) -> None:
    path, _ = make_segy()
    file = open_file(patch(path, 3505, ">h", 9000))
    assert file.data_start == 3600
    assert "9,000" in file.warnings[0]


def test_revision_2_fields_count_only_in_revision_2(make_segy: Make) -> None:
    path, _ = make_segy()
    data = bytearray(path.read_bytes())
    struct.pack_into(">d", data, 3272, 2500.0)
    assert parse_binary(bytes(data), "big").extended_interval_us == 0
    data[3500:3502] = b"\x02\x00"
    assert parse_binary(bytes(data), "big").extended_interval_us == 2500
    data[3296:3300] = b"\x04\x03\x02\x01"
    assert find_byte_order(bytes(data)) == "little"


def test_interval_conflicts_are_told_and_decided(make_segy: Make) -> None:
    path, _ = make_segy()
    patch(path, 3217, ">H", 2000)
    file = open_file(path)
    assert file.interval == 2
    assert "4000" in file.warnings[0]
    assert open_file(path, SegyOptions(interval=4.0)).warnings == ()


def test_no_interval_at_all_asks_for_one(make_segy: Make) -> None:
    path, _ = make_segy()
    patch(patch(path, 3217, ">H", 0), 3600 + 117, ">H", 0)
    with pytest.raises(DataError, match="no sample interval"):
        open_file(path)


def test_a_code_that_does_not_exist_asks_the_doctor(make_segy: Make) -> None:
    path, _ = make_segy()
    patch(path, 3225, ">h", 77)
    with pytest.raises(DataError) as caught:
        open_file(path)
    assert "diapir doctor" in str(caught.value.mend)
    assert open_file(path, SegyOptions(sample_format=5)).traces == 42


def test_strides_are_found_with_and_without_usual_fields(make_segy: Make) -> None:
    path, _ = make_segy()
    assert find_strides(path, 3600, "big") == (360,)
    data = bytearray(path.read_bytes())
    for trace in range(42):
        for byte in (29, 71, 89, 115, 117):
            data[3600 + 360 * trace + byte - 1 : 3600 + 360 * trace + byte + 1] = b"\0\0"
    path.write_bytes(data)
    assert find_strides(path, 3600, "big") == (360,)
    assert find_strides(path, 3600 + 42 * 360, "big") == ()


@pytest.mark.parametrize(("encoding", "name"), [("cp037", "EBCDIC"), ("ascii", "ASCII")])
def test_text_headers_are_told_apart(encoding: str, name: str) -> None:
    text, found = decode_text("C 1 CLIENT SOMEONE".ljust(3200).encode(encoding))
    assert (text, found) == ("C 1 CLIENT SOMEONE", name)


@pytest.mark.parametrize(
    "wrong",
    [
        {"inline_byte": 0}, {"y_byte": 240}, {"samples": 0}, {"interval": -1.0}, {"unit": "km"},
        {"byte_order": "middle"}, {"sample_format": 99}, {"start": float("nan")},
        {"text_headers": -1}, {"interval": float("inf")},
    ],
)  # fmt: skip
def test_options_that_make_no_sense_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(DataError):
        SegyOptions(**wrong)  # type: ignore[arg-type]


def test_flags_name_only_what_differs() -> None:
    assert SegyOptions().flags() == []
    options = SegyOptions(inline_byte=9, sample_format=1, interval=2.5, unit="m", line=True)
    assert options.flags() == [
        "--inline-byte 9", "--format 1", "--interval 2.5", "--unit m", "--line",
    ]  # fmt: skip
