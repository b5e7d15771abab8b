"""The doctor: what it says of good, odd and damaged files, and that nothing makes it faint."""

import json
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from diapir.cli import app
from diapir.errors import DataError
from diapir.io.segy import SegyOptions
from diapir.io.segy_doctor import Diagnosis, diagnose
from diapir.io.segy_volume import open_segy

Make = Callable[..., tuple[Path, np.ndarray]]

TRACE = 240 + 30 * 4


def put(path: Path, byte: int, kind: str, value: float, traces: int = 0) -> Path:
    """Write at a byte of the file, or, with traces, of the header of each of them."""
    data = bytearray(path.read_bytes())
    for trace in range(traces or 1):
        start = 3600 + trace * TRACE if traces else 0
        struct.pack_into(kind, data, start + byte - 1, value)
    path.write_bytes(data)
    return path


def said(found: Diagnosis) -> str:
    return "\n".join(f"{f.severity}: {f.what} {f.mend}" for f in found.findings)


def opens(found: Diagnosis, values: np.ndarray) -> bool:
    """Whether the flags that the doctor prints really read the file."""
    result = CliRunner().invoke(
        app, ["doctor", str(found.path), "--json", "-q", *" ".join(found.flags).split()]
    )
    again = json.loads(result.stdout)
    assert result.exit_code == 0, result.stdout
    assert again["usable"]
    assert again["flags"] == list(found.flags)
    options = {}
    for flag in found.flags:
        name, _, value = flag.removeprefix("--").partition(" ")
        key = {"format": "sample_format"}.get(name, name.replace("-", "_"))
        text = {"byte_order": str, "interval": float}.get(key, int)
        options[key] = text(value) if value else True
    volume = open_segy(found.path, **options)
    return bool(np.array_equal(volume["amplitude"].to_numpy(), values))


def test_a_good_file_is_well(make_segy: Make) -> None:
    path, values = make_segy(start=1000.5)
    found = diagnose(path)
    assert found.usable
    assert found.flags == ()
    assert found.findings == ()
    facts = dict(found.facts)
    assert facts["byte order"] == "big"
    assert facts["text header"] == "EBCDIC"
    assert facts["revision"] == "1.0"
    assert facts["traces"] == "42 of 30 samples"
    assert facts["inline (byte 189)"] == "100 to 105, 6 different"
    assert facts["samples"] == "1000.5 to 1116.5 ms"
    assert facts["X"] == "430,000.0 to 430,125.0"
    assert facts["dead traces"] == "0"
    assert facts["pre-stack"] == "no"
    assert facts["empty cells"] == "0 of 42"
    assert "100% of their grid" in facts["line numbers at 189 and 193?"]
    assert opens(found, values)


@pytest.mark.parametrize("order", ["big", "little"])
@pytest.mark.parametrize("declared", [1, 2, 3, 5, 8, 0, 99])
@pytest.mark.parametrize("true", [1, 5, 3, 8])
def test_a_wrong_format_code_is_found_out(
    make_segy: Make, true: int, declared: int, order: str
) -> None:
    path, values = make_segy(code=true, byte_order=order, shape=(12, 14, 60))
    put(path, 3225, ">h" if order == "big" else "<h", declared)
    found = diagnose(path)
    assert found.usable, said(found)
    if declared == true:
        assert found.flags == ()
    else:
        assert f"--format {true}" in found.flags, said(found)
    assert opens(found, values)


@pytest.mark.parametrize("samples", [0, 1, 29, 31, 60, 65535])
def test_a_wrong_sample_count_is_found_out(make_segy: Make, samples: int) -> None:
    path, values = make_segy()
    put(path, 3221, ">H", samples)
    for trace in range(42):
        put(path, 3600 + TRACE * trace + 115, ">H", samples)
    found = diagnose(path)
    assert found.flags == ("--samples 30",), said(found)
    assert opens(found, values)


def test_a_binary_header_in_the_other_byte_order_is_found_out(make_segy: Make) -> None:
    path, values = make_segy(first=(1, 1))
    data = bytearray(path.read_bytes())
    pairs = np.frombuffer(bytes(data[3200:3600]), ">u2").astype("<u2").tobytes()
    data[3200:3600] = pairs
    data[3500:3502] = b"\x01\x00"
    path.write_bytes(data)
    found = diagnose(path)
    assert "the binary header is little-endian, the trace headers are big-endian" in said(found)
    assert opens(found, values)


def test_samples_in_another_byte_order_than_headers_are_told(make_segy: Make) -> None:
    path, _ = make_segy(shape=(12, 14, 60))
    data = path.read_bytes()
    traces = np.frombuffer(data[3600:], np.uint8).reshape(-1, 240 + 240).copy()
    traces[:, 240:] = np.ascontiguousarray(traces[:, 240:]).view(">f4").astype("<f4").view(np.uint8)
    path.write_bytes(data[:3600] + traces.tobytes())
    found = diagnose(path)
    assert not found.usable
    assert "little-endian byte order does, but the headers are big-endian" in said(found)


def test_bytes_of_lines_and_coordinates_are_found(make_segy: Make) -> None:
    there = SegyOptions(inline_byte=181, crossline_byte=185, x_byte=189, y_byte=193)
    path, values = make_segy(options=there, shape=(12, 9, 30))
    found = diagnose(path)
    assert set(found.flags) == {
        "--inline-byte 181", "--crossline-byte 185", "--x-byte 189", "--y-byte 193",
    }  # fmt: skip
    assert opens(found, values)


def test_coordinates_at_the_source_are_found(make_segy: Make) -> None:
    path, _ = make_segy(options=SegyOptions(x_byte=73, y_byte=77))
    assert diagnose(path).flags == ("--x-byte 73", "--y-byte 77")


def test_no_coordinates_are_a_note(make_segy: Make) -> None:
    path, _ = make_segy(located=False)
    found = diagnose(path)
    assert found.usable
    assert "there are no coordinates" in said(found)


def test_prestack_is_refused_with_the_reason(make_segy: Make) -> None:
    cells = np.repeat(np.argwhere(np.ones((6, 7), bool)), 2, axis=0).astype(np.int32)
    path, _ = make_segy(cells=cells)
    for trace in range(84):
        put(path, 3600 + TRACE * trace + 37, ">i", 100 + trace % 2)
    found = diagnose(path)
    assert not found.usable
    assert dict(found.facts)["pre-stack"] == "yes"
    assert ": 2 traces share each inline and crossline, with offsets" in said(found)


def test_dead_traces_gaps_and_no_numbers_are_counted(make_segy: Make) -> None:
    mask = np.ones((6, 7), bool)
    mask[2, 3] = False
    path, _ = make_segy(mask=mask)
    data = bytearray(path.read_bytes())
    data[3600 + 240 : 3600 + TRACE] = bytes(120)
    struct.pack_into(">f", data, 3600 + TRACE + 240, float("nan"))
    path.write_bytes(data)
    found = diagnose(path)
    assert dict(found.facts)["dead traces"] == "1"
    assert dict(found.facts)["empty cells"] == "1 of 42"
    assert "warning: 0.08% of the samples are no finite numbers" in said(found)


def test_oddities_of_headers_are_told(make_segy: Make) -> None:
    path, _ = make_segy()
    put(path, 3217, ">H", 2000)
    put(path, 3227, ">h", 24)
    put(path, 3501, ">H", 0x0700)
    put(path, 105, ">h", 1500, traces=42)
    told = said(diagnose(path))
    assert "2000 us in the binary header and 4000 us in the first trace" in told
    assert "fold of 24" in told
    assert "revision 7.0 does not exist" in told
    assert "byte 105 holds 1500" in told
    assert "--delay-byte 105" in told


def test_a_missing_interval_is_guessed_and_said_so(make_segy: Make) -> None:
    path, _ = make_segy()
    put(path, 3217, ">H", 0)
    put(path, 117, ">H", 0, traces=42)
    found = diagnose(path)
    assert "--interval 4" in found.flags
    assert "is a guess" in said(found)


def test_zeros_only_are_an_error(make_segy: Make) -> None:
    path, _ = make_segy()
    data = np.frombuffer(path.read_bytes(), np.uint8).copy()
    data[3600:].reshape(42, TRACE)[:, 240:] = 0
    path.write_bytes(data.tobytes())
    assert "error: all samples are 0" in said(diagnose(path))


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "fewer than"), (b"PK\x03\x04" + bytes(9000), "zip archive"),
        (b"\x89PNG" + bytes(9000), "PNG picture"), (bytes(3600), "does not exist"),
        (b"\xff" * 20_000, "does not exist"), (bytes(20_000), "does not exist"),
        (b"C 1 TEXT".ljust(3200), "fewer than"),
    ],
)  # fmt: skip
def test_what_is_no_segy_is_said(tmp_path: Path, data: bytes, words: str) -> None:
    path = tmp_path / "x.sgy"
    path.write_bytes(data)
    found = diagnose(path)
    assert not found.usable
    assert words in said(found) or "exists in neither byte order" in said(found)
    assert "examination failed" not in said(found)


def test_what_is_no_file_is_an_error_as_of_any_verb(tmp_path: Path) -> None:
    for path, told in ((tmp_path / "none.sgy", "no such file"), (tmp_path, "a folder, not a file")):
        with pytest.raises(DataError, match=told) as caught:
            diagnose(path)
        assert (caught.value.where, caught.value.exit_code) == (str(path), 2)
        result = CliRunner().invoke(app, ["doctor", str(path), "-q"])
        assert isinstance(result.exception, DataError)  # which the command turns into exit code 2
        assert "cannot be used" not in result.output


@pytest.fixture(scope="module")
def small_file(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A whole SEG-Y file of 12 traces of 10 samples."""
    from diapir.io.segy_write import write_segy
    from diapir.io.volume import Geometry

    geometry = Geometry(
        {"inline": np.arange(3, dtype=np.int32), "crossline": np.arange(4, dtype=np.int32)},
        4.0 * np.arange(10),
        "ms",
        np.ones((3, 4), np.bool_),
    )
    path = tmp_path_factory.mktemp("doctor") / "small.sgy"
    rng = np.random.default_rng(0)
    write_segy(path, lambda part: rng.normal(size=(len(part), 10)), geometry)
    return path.read_bytes()


HEADER_PLACES = [*range(3200, 3260), *range(3260, 3300), *range(3500, 3532), *range(3600, 3840)]


@settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_no_bytes_make_the_doctor_faint(
    small_file: bytes, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    bad = bytearray(small_file)
    for _ in range(data.draw(st.integers(0, 6))):
        at = data.draw(st.sampled_from(HEADER_PLACES) | st.integers(0, len(bad) - 1))
        new = data.draw(st.binary(min_size=1, max_size=4))
        bad[at : at + len(new)] = new
    length = data.draw(st.just(len(bad)) | st.integers(0, len(bad)))
    path = tmp_path_factory.getbasetemp() / "bad.sgy"
    path.write_bytes(bytes(bad[:length]) + data.draw(st.binary(max_size=500)))
    found = diagnose(path)
    assert "examination failed" not in said(found)
    json.dumps(found.to_dict())
    if found.usable and not found.flags:
        open_segy(path)


@settings(max_examples=60, deadline=None)
@given(noise=st.binary(max_size=6000))
def test_noise_does_not_make_it_faint(
    tmp_path_factory: pytest.TempPathFactory, noise: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "noise.sgy"
    path.write_bytes(noise)
    assert "examination failed" not in said(diagnose(path))


def test_a_failure_of_the_doctor_is_a_finding(
    make_segy: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError("by chance")

    monkeypatch.setattr("diapir.io.segy_doctor._look_at_bytes", fail)
    assert "ZeroDivisionError: by chance" in said(diagnose(make_segy()[0]))


def test_the_verb_prints_findings_and_flags(make_segy: Make) -> None:
    path, _ = make_segy(options=SegyOptions(inline_byte=9, crossline_byte=21))
    result = CliRunner().invoke(app, ["doctor", str(path), "--text"])
    assert result.exit_code == 0
    assert "Flags to pass: --inline-byte 9 --crossline-byte 21" in result.stdout
    assert "fix: It reads with" in result.stdout
    assert result.stdout.startswith("C 1")
    path.write_bytes(b"nothing")
    result = CliRunner().invoke(app, ["doctor", str(path)])
    assert result.exit_code == 1
    assert "cannot be used" in result.stdout
