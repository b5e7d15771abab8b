"""SEG-Y files that others wrote, where they are at hand (see CONTRIBUTING.md)."""

import os
from pathlib import Path

import numpy as np
import pytest
import segyio

from diapir.errors import DataError
from diapir.io.ingest import ingest
from diapir.io.segy import SegyOptions
from diapir.io.segy_doctor import diagnose
from diapir.io.segy_grid import bin_traces, scan_traces
from diapir.io.segy_layout import open_file
from diapir.io.segy_write import copy_with_samples

pytestmark = [
    pytest.mark.realdata,
    pytest.mark.skipif("DIAPIR_SEGY" not in os.environ, reason="DIAPIR_SEGY is not set"),
]
FOLDER = Path(os.environ.get("DIAPIR_SEGY", "."))
WITH_TRACES = (
    "1xN", "Format1msb", "Format3msb", "Format5lsb", "Format8msb", "delay-scalar", "f3",
    "left-small", "shot-gather", "small", "small-lsb", "small-ps",
)  # fmt: skip
SURVEYS = {
    "Format1msb": (23, 18, 75), "Format3msb": (23, 18, 75), "Format5lsb": (23, 18, 75),
    "Format8msb": (23, 18, 75), "f3": (23, 18, 75), "left-small": (5, 5, 50), "small": (5, 5, 50),
    "small-lsb": (5, 5, 50), "delay-scalar": (1, 1, 251),
}  # fmt: skip


@pytest.mark.parametrize("name", WITH_TRACES)
def test_samples_are_those_that_segyio_reads(name: str) -> None:
    path = FOLDER / f"{name}.sgy"
    file = open_file(path)
    with segyio.open(path, ignore_geometry=True, endian=file.order) as other:
        expected = other.trace.raw[:]
        assert file.interval * 1000 == segyio.tools.dt(other)
    np.testing.assert_array_equal(file.read_samples(0, file.traces), expected)


@pytest.mark.parametrize("name", WITH_TRACES)
def test_copies_differ_in_samples_alone(name: str, tmp_path: Path) -> None:
    source = open_file(FOLDER / f"{name}.sgy")
    whole = source.path.read_bytes()
    copy = tmp_path / "copy.sgy"
    copy_with_samples(source, copy, lambda a, b: np.ones((b - a, source.samples)), keep_dead=False)
    differs = np.frombuffer(whole, np.uint8) != np.frombuffer(copy.read_bytes(), np.uint8)
    at = np.flatnonzero(differs) - source.data_start
    assert at.min() >= 0
    assert (at % source.trace_bytes >= source.header_bytes).all()
    assert (open_file(copy).read_samples(0, source.traces) == 1).all()


@pytest.mark.parametrize("name", SURVEYS)
def test_surveys_are_ingested(name: str, tmp_path: Path) -> None:
    done = ingest(FOLDER / f"{name}.sgy", tmp_path / "cube.zarr", chunk=16)
    assert done.volume["amplitude"].shape == SURVEYS[name]
    file = open_file(FOLDER / f"{name}.sgy")
    traces = file.read_samples(0, file.traces)
    cells = tuple(done.survey.grid.cell_of.T)
    np.testing.assert_array_equal(done.volume["amplitude"].to_numpy()[cells], traces)


def test_the_delay_with_its_scalar_and_its_neighbour() -> None:
    for name, start in (("delay-scalar", 1000.0), ("f3", 4.0), ("small", 0.0)):
        file = open_file(FOLDER / f"{name}.sgy")
        grid = bin_traces(scan_traces(file, SegyOptions()), file, SegyOptions())
        assert grid.geometry.sample[0] == start


@pytest.mark.parametrize("name", ["1xN", "small-ps", "shot-gather"])
def test_prestack_is_refused(name: str) -> None:
    file = open_file(FOLDER / f"{name}.sgy")
    with pytest.raises(DataError, match="pre-stack"):
        bin_traces(scan_traces(file, SegyOptions()), file, SegyOptions())


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.sgy")), ids=lambda p: p.stem)
def test_the_doctor_is_right(path: Path) -> None:
    found = diagnose(path)
    assert found.usable == (path.stem in SURVEYS)
    assert found.flags == ()
    errors = [finding.what for finding in found.findings if finding.severity == "error"]
    assert bool(errors) == (path.stem not in SURVEYS)


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.sgy")), ids=lambda p: p.stem)
def test_cut_anywhere_there_is_a_diagnosis(path: Path, tmp_path: Path) -> None:
    data = path.read_bytes()
    lengths = np.random.default_rng(0).integers(0, len(data), 25)
    for length in [0, 3199, 3200, 3600, 3840, *lengths.tolist()]:
        (tmp_path / "cut.sgy").write_bytes(data[:length])
        found = diagnose(tmp_path / "cut.sgy")
        assert all("examination failed" not in finding.what for finding in found.findings)
