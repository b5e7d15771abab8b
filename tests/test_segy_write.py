"""Copies that differ in samples alone, byte for byte, and what cannot be written."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from diapir.errors import DataError, RunError
from diapir.io.segy import SegyOptions, header_field
from diapir.io.segy_format import FORMATS
from diapir.io.segy_grid import scan_traces
from diapir.io.segy_layout import open_file
from diapir.io.segy_write import copy_with_samples, write_segy
from diapir.io.volume import Geometry

Make = Callable[..., tuple[Path, np.ndarray]]


@pytest.mark.parametrize("order", ["big", "little"])
@pytest.mark.parametrize("code", FORMATS)
def test_a_copy_differs_in_samples_alone(
    make_segy: Make, tmp_path: Path, code: int, order: str
) -> None:
    path, values = make_segy(code=code, byte_order=order)
    rng = np.random.default_rng(0)
    data = bytearray(path.read_bytes())
    width = FORMATS[code].width
    trace = 240 + 30 * width
    for k in range(42):  # every header byte is something, except those that hold the layout
        start = 3600 + trace * k
        for byte in [*range(120, 180), *range(200, 214), *range(216, 240)]:
            data[start + byte] = rng.integers(256)
    data[3300:3500] = rng.integers(0, 256, 200, dtype=np.uint8).tobytes()
    data[:3200] = rng.integers(0, 256, 3200, dtype=np.uint8).tobytes()
    data += b"what follows the last trace"
    path.write_bytes(data)
    source = open_file(path)
    assert source.left_over == 27
    probability = rng.random((42, 30))
    copy = tmp_path / "copy.sgy"
    scale = FORMATS[code].probability_scale
    steps: list[int] = []
    copy_with_samples(
        source, copy, lambda a, b: probability[a:b], scale=scale, advance=steps.append
    )
    assert sum(steps) == 42
    written = np.frombuffer(copy.read_bytes(), np.uint8)
    before = np.frombuffer(bytes(data), np.uint8)
    assert len(written) == len(before)
    differs = np.flatnonzero(written != before) - 3600
    assert len(differs)
    assert differs.min() >= 0
    assert differs.max() < 42 * trace
    assert (differs % trace >= 240).all()
    found = open_file(copy).read_samples(0, 42)
    exact = 0.5 if FORMATS[code].is_integer else 1e-6
    np.testing.assert_allclose(found, probability * scale, atol=exact)
    assert values.any()


@pytest.mark.parametrize("code", [1, 3, 5, 8])
def test_dead_traces_stay_dead(make_segy: Make, tmp_path: Path, code: int) -> None:
    path, _ = make_segy(code=code)
    source = open_file(path)
    data = bytearray(path.read_bytes())
    for k in (3, 17):
        start = 3600 + k * source.trace_bytes + 240
        data[start : start + source.trace_bytes - 240] = bytes(source.trace_bytes - 240)
    path.write_bytes(data)
    copy = tmp_path / "copy.sgy"
    ones = lambda a, b: np.ones((b - a, 30))  # noqa: E731
    assert copy_with_samples(source, copy, ones) == 2
    found = open_file(copy).read_samples(0, 42)
    assert not found[[3, 17]].any()
    assert (np.delete(found, [3, 17], axis=0) == 1).all()
    assert copy_with_samples(source, copy, ones, keep_dead=False) == 0
    assert (open_file(copy).read_samples(0, 42) == 1).all()


def test_the_same_samples_make_the_same_file(make_segy: Make, tmp_path: Path) -> None:
    path, _ = make_segy(code=1)
    source = open_file(path)
    copy_with_samples(source, tmp_path / "copy.sgy", source.read_samples)
    assert (tmp_path / "copy.sgy").read_bytes() == path.read_bytes()


def test_extra_trace_headers_are_kept(make_segy: Make, tmp_path: Path) -> None:
    path, values = make_segy()
    data = path.read_bytes()
    head = bytearray(data[:3600])
    head[3500:3502] = b"\x02\x00"
    head[3506:3510] = (1).to_bytes(4, "big")
    traces = np.frombuffer(data[3600:], np.uint8).reshape(42, 360)
    more = np.full((42, 240), 0xAB, np.uint8)
    path.write_bytes(
        bytes(head) + np.concatenate([traces[:, :240], more, traces[:, 240:]], axis=1).tobytes()
    )
    source = open_file(path)
    assert source.header_bytes == 480
    np.testing.assert_array_equal(source.read_samples(0, 42), values.reshape(42, 30))
    copy_with_samples(source, tmp_path / "copy.sgy", lambda a, b: np.zeros((b - a, 30)))
    copy = np.frombuffer((tmp_path / "copy.sgy").read_bytes()[3600:], np.uint8).reshape(42, 600)
    assert (copy[:, 240:480] == 0xAB).all()
    assert not copy[:, 480:].any()


def test_a_copy_never_replaces_its_source(make_segy: Make) -> None:
    path, _ = make_segy()
    source = open_file(path)
    with pytest.raises(DataError, match="replace the file"):
        copy_with_samples(source, path, source.read_samples)


def test_a_failed_copy_leaves_nothing(make_segy: Make, tmp_path: Path) -> None:
    path, _ = make_segy()
    source = open_file(path)
    with pytest.raises(DataError, match="samples of shape"):
        copy_with_samples(source, tmp_path / "copy.sgy", lambda a, b: np.zeros((1, 1)))
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    with pytest.raises(RunError):
        copy_with_samples(source, path / "copy.sgy", source.read_samples)


@pytest.mark.parametrize(
    "wrong", [{"interval": 0.00001}, {"interval": 100.0}, {"start": 1 / 3}, {"start": 1e6 + 1}]
)
def test_what_does_not_fit_the_fields_is_refused(make_segy: Make, wrong: dict[str, float]) -> None:
    with pytest.raises(DataError):
        make_segy(**wrong)


def test_too_many_samples_are_refused(tmp_path: Path) -> None:
    geometry = Geometry({"trace": np.arange(1)}, np.arange(70_000.0), "ms", np.ones(1, np.bool_))
    with pytest.raises(DataError, match="70,000"):
        write_segy(tmp_path / "x.sgy", lambda part: np.zeros((1, 70_000)), geometry)


def test_text_headers_come_in_both_encodings(make_segy: Make) -> None:
    for ascii_text, name in ((True, "ascii"), (False, "cp037")):
        path, _ = make_segy(text=["HELLO"], ascii_text=ascii_text)
        text = path.read_bytes()[:3200].decode(name)
        assert text.startswith("C 1 HELLO")
        assert text[80:83] == "C 2"
        assert len(text) == 3200


@pytest.mark.parametrize(("easting", "scalar"), [(5e5, -100), (32_500_000.0, -10), (2e9, 1)])
def test_large_coordinates_keep_less_of_their_fraction(
    tmp_path: Path, easting: float, scalar: int
) -> None:
    mask, x = np.ones(3, np.bool_), easting + np.arange(3.0)
    geometry = Geometry({"trace": np.arange(3)}, np.arange(4.0), "ms", mask, x, x / 10)
    write_segy(tmp_path / "x.sgy", lambda part: np.ones((len(part), 4)), geometry)
    file = open_file(tmp_path / "x.sgy")
    assert header_field(file.read_headers(0, 3), 71, file.order, 2).tolist() == [scalar] * 3
    table = scan_traces(file, SegyOptions())
    assert np.abs(table.x - x).max() <= 0.5
    too_far = Geometry({"trace": np.arange(3)}, np.arange(4.0), "ms", mask, x + 3e9, x)
    with pytest.raises(DataError, match="coordinate of"):
        write_segy(tmp_path / "y.sgy", lambda part: np.ones((len(part), 4)), too_far)
