"""Ingest: the store holds what the file does, in bounded memory, after any interruption."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
import zarr
from typer.testing import CliRunner

from diapir.cli import app
from diapir.errors import DataError, RunError
from diapir.export.frame import Frame
from diapir.io import ingest as module
from diapir.io.ingest import ingest
from diapir.io.opening import open_volume
from diapir.io.segy import SegyOptions
from diapir.io.segy_volume import open_segy
from diapir.io.stores import JOURNAL
from diapir.io.volume import geometry_of

Make = Callable[..., tuple[Path, np.ndarray]]


@pytest.mark.parametrize("code", [1, 3, 5])
def test_a_store_holds_what_the_file_does(make_segy: Make, tmp_path: Path, code: int) -> None:
    mask = np.random.default_rng(0).random((11, 13)) < 0.8
    mask[0, 0] = mask[-1, -1] = True
    path, values = make_segy(code=code, shape=(11, 13, 30), mask=mask, start=1000.5, step=(-1, 2))
    done = ingest(path, tmp_path / "cube.zarr", chunk=8)
    assert (done.blocks, done.written) == (4, 4)
    plain = xr.open_zarr(tmp_path / "cube.zarr", consolidated=False)
    assert plain["amplitude"].dtype == np.float32
    assert plain["amplitude"].dims == ("inline", "crossline", "sample")
    assert plain["amplitude"].data.chunksize == (8, 8, 8)
    assert plain["sample"].attrs["units"] == "ms"
    assert plain["sample"][0] == 1000.5
    np.testing.assert_array_equal(plain["amplitude"], values[::-1])
    np.testing.assert_array_equal(plain["trace_mask"], mask[::-1])
    direct = open_segy(path)
    stored = open_volume(tmp_path / "cube.zarr")
    xr.testing.assert_identical(stored.load().drop_encoding(), direct.load())
    assert geometry_of(stored).shape == (11, 13, 30)
    assert not (tmp_path / "cube.zarr" / JOURNAL).exists()


@pytest.mark.parametrize("damaged", ["{", "3"])
def test_damaged_facts_of_a_store_are_told(make_segy: Make, tmp_path: Path, damaged: str) -> None:
    path, _ = make_segy()
    ingest(path, tmp_path / "cube.zarr")
    zarr.open_group(tmp_path / "cube.zarr", mode="r+").attrs["segy"] = damaged
    with pytest.raises(DataError, match="cannot open it as a Zarr store"):
        open_volume(tmp_path / "cube.zarr")


def test_a_line_has_traces_and_samples(make_segy: Make, tmp_path: Path) -> None:
    path, values = make_segy(shape=(40, 30), first=(1,))
    stored = ingest(path, tmp_path / "line.zarr", chunk=16).volume
    assert stored["amplitude"].dims == ("trace", "sample")
    np.testing.assert_array_equal(stored["amplitude"], values)


def test_options_travel_into_the_store(make_segy: Make, tmp_path: Path) -> None:
    path, values = make_segy(options=SegyOptions(inline_byte=9, crossline_byte=21))
    options = SegyOptions(inline_byte=9, crossline_byte=21, unit="m", start=5.0, interval=2.0)
    stored = ingest(path, tmp_path / "cube.zarr", options).volume
    np.testing.assert_array_equal(stored["amplitude"], values)
    assert stored["sample"].attrs["units"] == "m"
    assert stored["sample"].to_numpy()[:2].tolist() == [5, 7]
    assert '"inline_byte": 9' in stored.attrs["segy"]


def test_statistics_leave_dead_traces_out(make_segy: Make) -> None:
    path, values = make_segy()
    data = bytearray(path.read_bytes())
    data[3600 + 240 : 3600 + 360] = bytes(120)
    path.write_bytes(data)
    attributes = open_segy(path).attrs
    live = values.reshape(42, 30)[1:]
    assert attributes["mean"] == pytest.approx(live.mean())
    assert attributes["p99"] == pytest.approx(np.percentile(live, 99))


def test_a_finished_store_is_left_alone(make_segy: Make, tmp_path: Path) -> None:
    path, _ = make_segy()
    store = tmp_path / "cube.zarr"
    ingest(path, store)
    assert ingest(path, store).written == 0
    other, values = make_segy("other.sgy", seed=1)
    with pytest.raises(RunError, match="something else"):
        ingest(other, store)
    np.testing.assert_array_equal(ingest(other, store, overwrite=True).volume["amplitude"], values)


def test_a_link_to_a_store_stays_one(make_segy: Make, tmp_path: Path) -> None:
    link, place = tmp_path / "cube.zarr", tmp_path / "large-disk" / "cube.zarr"
    link.symlink_to(place)
    for name, seed in (("first.sgy", 0), ("second.sgy", 1)):
        path, values = make_segy(name, seed=seed)
        stored = ingest(path, link, overwrite=True).volume
        np.testing.assert_array_equal(stored["amplitude"], values)
        assert link.is_symlink()
        assert [one.name for one in place.parent.iterdir()] == ["cube.zarr"]


def test_a_foreign_folder_is_never_removed(make_segy: Make, tmp_path: Path) -> None:
    path, _ = make_segy()
    folder = tmp_path / "photographs"
    folder.mkdir()
    (folder / "a.jpg").write_bytes(b"x")
    with pytest.raises(RunError, match="no Zarr store"):
        ingest(path, folder, overwrite=True)
    assert (folder / "a.jpg").exists()


def test_after_an_interruption_only_the_rest_is_done(
    make_segy: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, values = make_segy(shape=(20, 20, 30))
    store = tmp_path / "cube.zarr"
    whole = module._BlockWriter.__call__

    def until_the_fifth(self: object, number: int, block: object) -> None:
        if number == 4:
            raise OSError(errno.ENOSPC, "No space left on device")
        whole(self, number, block)  # type: ignore[arg-type]

    monkeypatch.setattr(module._BlockWriter, "__call__", until_the_fifth)
    with pytest.raises(RunError, match="No space left"):
        ingest(path, store, chunk=8, workers=1)
    with pytest.raises(DataError, match="interrupted"):
        open_volume(store)
    noted = (store / JOURNAL).read_text().count("\n") - 1
    assert noted < 9
    with (store / JOURNAL).open("a") as file:
        file.write("8")  # a line that was cut off counts as not written
    monkeypatch.setattr(module._BlockWriter, "__call__", whole)
    done = ingest(path, store, chunk=8)
    assert (done.blocks, done.written) == (9, 9 - noted)
    np.testing.assert_array_equal(done.volume["amplitude"], values)


def test_a_number_cut_off_in_the_journal_joins_no_other(
    make_segy: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, values = make_segy(shape=(20, 20, 30))
    store = tmp_path / "cube.zarr"
    whole = module._BlockWriter.__call__
    written: list[int] = []
    ends = [2, 4]

    def in_pairs(self: object, number: int, block: object) -> None:
        if len(written) == ends[0]:
            raise OSError(errno.ENOSPC, "No space left on device")
        whole(self, number, block)  # type: ignore[arg-type]
        written.append(number)

    monkeypatch.setattr(module._BlockWriter, "__call__", in_pairs)
    while ends:
        with pytest.raises(RunError, match="No space left"):
            ingest(path, store, chunk=5, workers=1)
        noted = (store / JOURNAL).read_text().splitlines()[1:]
        assert {int(number) for number in noted} == set(written)
        with (store / JOURNAL).open("a") as file:
            file.write("1")  # the rest is lost; a number behind it would be taken for another
        ends.pop(0)
    monkeypatch.setattr(module._BlockWriter, "__call__", whole)
    assert ingest(path, store, chunk=5).written == 12
    np.testing.assert_array_equal(open_volume(store)["amplitude"], values)


def test_an_unfinished_store_of_other_options_is_not_taken_up(
    make_segy: Make, tmp_path: Path
) -> None:
    path, _ = make_segy()
    store = tmp_path / "cube.zarr"
    ingest(path, store)
    (store / JOURNAL).write_text("{}\n0\n")
    with pytest.raises(RunError):
        ingest(path, store)
    assert ingest(path, store, overwrite=True).written == 1


def test_a_killed_ingest_goes_on(make_segy: Make, tmp_path: Path) -> None:
    path, values = make_segy(shape=(24, 24, 30))
    store = tmp_path / "cube.zarr"
    code = f"""
import time
import warnings
from pathlib import Path
from diapir.io import ingest
whole = ingest._BlockWriter.__call__
def slowly(self, number, block):
    whole(self, number, block)
    time.sleep(0.2)
ingest._BlockWriter.__call__ = slowly
ingest.ingest(Path({str(path)!r}), Path({str(store)!r}), chunk=4, workers=2)
"""
    with subprocess.Popen([sys.executable, "-c", code]) as process:
        deadline = time.monotonic() + 600
        journal = store / JOURNAL
        while time.monotonic() < deadline and process.poll() is None:
            if journal.exists() and journal.read_text().count("\n") > 3:
                break
            time.sleep(0.02)
        os.kill(process.pid, signal.SIGKILL)
    noted = journal.read_text().count("\n") - 1
    assert 2 < noted < 36
    done = ingest(path, store, chunk=4)
    assert done.written == 36 - noted
    np.testing.assert_array_equal(done.volume["amplitude"], values)


def test_prestack_is_refused_before_anything_is_written(make_segy: Make, tmp_path: Path) -> None:
    cells = np.repeat(np.argwhere(np.ones((6, 7), bool)), 2, axis=0).astype(np.int32)
    path, _ = make_segy(cells=cells)
    data = bytearray(path.read_bytes())
    for trace in range(84):
        data[3600 + 360 * trace + 39] = 1 + trace % 2
    path.write_bytes(data)
    with pytest.raises(DataError, match="pre-stack"):
        ingest(path, tmp_path / "cube.zarr")
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_a_place_that_cannot_be_written_is_said(make_segy: Make) -> None:
    path, _ = make_segy()
    with pytest.raises(RunError):
        ingest(path, path / "cube.zarr")


def test_mdio_stores_open(tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(size=(4, 5, 6)).astype(np.float32)
    mask = np.ones((4, 5), bool)
    mask[1, 2] = False
    mdio = xr.Dataset(
        {
            "amplitude": (("inline", "crossline", "time"), values),
            "trace_mask": (("inline", "crossline"), mask),
        },
        {
            "inline": np.arange(10, 14), "crossline": np.arange(20, 25),
            "time": ("time", np.arange(100, 124, 4), {"unitsV1": {"time": "ms"}}),
            "cdp_x": (("inline", "crossline"), np.ones((4, 5))),
            "cdp_y": (("inline", "crossline"), np.ones((4, 5))),
        },
        {"apiVersion": "1.0.0"},
    )  # fmt: skip
    mdio.to_zarr(tmp_path / "cube.mdio", zarr_format=2)
    found = open_volume(tmp_path / "cube.mdio")
    assert found["amplitude"].dims == ("inline", "crossline", "sample")
    np.testing.assert_array_equal(found["amplitude"], values)
    assert found["sample"].to_numpy()[0] == 100
    assert found["sample"].attrs["units"] == "ms"
    assert not found["trace_mask"].to_numpy()[1, 2]
    assert found.attrs["mean"] == pytest.approx(values[mask].mean(), abs=1e-6)


@pytest.fixture(params=[2, 3])
def foreign(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A store of 100 inlines that others wrote long ago, each in a file of its own."""
    path, values = tmp_path / "cube.mdio", np.random.default_rng(0).normal(size=(100, 5, 6))
    store = zarr.open_group(path, mode="w", zarr_format=request.param)
    content = {
        "amplitude": (values.astype(np.float32), ["inline", "crossline", "time"]),
        "inline": (np.arange(100, 200), ["inline"]),
        "crossline": (np.arange(20, 25), ["crossline"]),
        "time": (np.arange(0, 24, 4), ["time"]),
    }
    for name, (array, dims) in content.items():
        named: dict[str, Any] = {"dimension_names": dims}
        if request.param == 2:
            named = {"attributes": {"_ARRAY_DIMENSIONS": dims}}
        store.create_array(
            name, data=array, chunks=(1, *array.shape[1:]), compressors=None, **named
        )
    make_old(path)
    return path


def make_old(folder: Path) -> None:
    for path in folder.rglob("*"):
        os.utime(path, (10**9, 10**9))


def mark_of(path: Path, **options: Any) -> str:
    return str(open_volume(path, **options).attrs["fingerprint"])


def test_a_line_of_a_foreign_store_that_is_written_anew_is_noticed(foreign: Path) -> None:
    before, statistics = mark_of(foreign), open_volume(foreign).attrs["mean"]
    array: Any = zarr.open_group(foreign, mode="r+")["amplitude"]
    array[1] = array[1] + 1
    assert open_volume(foreign).attrs["mean"] == statistics  # it is not among the sampled ones
    assert mark_of(foreign) != before


@pytest.mark.parametrize("name", ["inline", "crossline", "time"])
def test_a_foreign_store_whose_axis_is_numbered_anew_is_noticed(foreign: Path, name: str) -> None:
    before = mark_of(foreign)
    array: Any = zarr.open_group(foreign, mode="r+")[name]
    array[:] = array[:] + 100
    make_old(foreign)
    assert mark_of(foreign) != before


def test_a_copy_of_a_foreign_store_is_the_same_where_it_keeps_its_times(
    foreign: Path, tmp_path: Path
) -> None:
    before = mark_of(foreign)
    assert mark_of(foreign, start=500.0) == before
    shutil.copytree(foreign, tmp_path / "kept.mdio")
    assert mark_of(tmp_path / "kept.mdio") == before
    shutil.copytree(foreign, tmp_path / "new.mdio", copy_function=shutil.copy)
    assert mark_of(tmp_path / "new.mdio") != before


def test_a_store_of_any_version_may_be_overwritten(
    make_segy: Make, foreign: Path, tmp_path: Path
) -> None:
    path, values = make_segy()
    with pytest.raises(RunError, match="something else"):
        ingest(path, foreign)
    done = CliRunner().invoke(app, ["ingest", str(path), str(foreign), "--overwrite", "--quiet"])
    assert done.exit_code == 0, done.output
    np.testing.assert_array_equal(open_volume(foreign)["amplitude"], values)


def test_a_fill_value_of_0_is_a_value(tmp_path: Path) -> None:
    """Zarr of version 2 fills with 0 unless told otherwise, and counts that as any other value."""
    mask = np.ones((4, 5), bool)
    mask[1, 2] = False
    values = np.arange(4 * 5 * 6, dtype=np.int16).reshape(4, 5, 6) - 60
    values[3, 4, 5] = -99
    content = {
        "amplitude": (values, ["inline", "crossline", "time"], -99),
        "inline": (np.arange(4), ["inline"], 0),
        "crossline": (np.arange(5), ["crossline"], 0),
        "time": (np.arange(0, 24, 4), ["time"], 0),
        "trace_mask": (mask, ["inline", "crossline"], False),
    }
    store = zarr.open_group(tmp_path / "cube.mdio", mode="w", zarr_format=2)
    for name, (array, dims, fill) in content.items():
        store.create_array(
            name, data=array, fill_value=fill, attributes={"_ARRAY_DIMENSIONS": dims}
        )
    store["amplitude"].attrs["scale_factor"] = 0.5
    zarr.consolidate_metadata(tmp_path / "cube.mdio", zarr_format=2)
    found = open_volume(tmp_path / "cube.mdio")
    assert found["inline"].to_numpy().tolist() == [0, 1, 2, 3]
    assert found["crossline"].to_numpy().tolist() == [0, 1, 2, 3, 4]
    assert found["sample"].to_numpy().tolist() == [0, 4, 8, 12, 16, 20]
    np.testing.assert_array_equal(found["trace_mask"], mask)
    values[3, 4, 5] = 0  # this one was filled
    np.testing.assert_array_equal(found["amplitude"], values * 0.5)
    assert np.isnan(open_volume(tmp_path / "cube.mdio", keep_nan=True)["amplitude"]).sum() == 1


@pytest.fixture
def multidimio_store(tmp_path: Path) -> tuple[Path, np.ndarray, np.ndarray]:
    """A store laid out as multidimio 1.1 lays it out: NaN in gaps, no delay on the time axis."""
    values = np.random.default_rng(0).normal(size=(4, 5, 6)).astype(np.float32)
    mask = np.ones((4, 5), bool)
    mask[1, 2] = mask[0, 0] = False
    values[~mask] = np.nan
    flat = ("inline", "crossline")
    mdio = xr.Dataset(
        {"amplitude": ((*flat, "time"), values), "trace_mask": (flat, mask)},
        {
            "inline": np.arange(10, 14),
            "crossline": np.arange(20, 25),
            "time": ("time", np.arange(0, 24, 4, dtype=np.int32)),
            "cdp_x": (flat, np.ones((4, 5)), {"unitsV1": {"length": "m"}}),
            "cdp_y": (flat, np.ones((4, 5)), {"unitsV1": {"length": "m"}}),
        },
        {"apiVersion": "1.1.3", "name": "PostStack3DTime"},
    )
    path = tmp_path / "cube.mdio"
    mdio.to_zarr(path, zarr_format=3, consolidated=False)
    headers = np.zeros((4, 5), [("inline", "<i4"), ("delay_recording_time", "<i2"),
                                ("times_scalar", "<i2")])  # fmt: skip
    headers["delay_recording_time"][mask], headers["times_scalar"][mask] = 2000, -10
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # structures are no part of the Zarr standard yet
        zarr.open_group(path, mode="r+").create_array(
            "headers", data=headers, chunks=(4, 5), dimension_names=flat
        )
    return path, values, mask


def test_gaps_and_delay_of_multidimio(
    multidimio_store: tuple[Path, np.ndarray, np.ndarray],
) -> None:
    path, values, mask = multidimio_store
    found = open_volume(path)
    np.testing.assert_array_equal(found["amplitude"], np.nan_to_num(values))
    np.testing.assert_array_equal(found["trace_mask"], mask)
    assert found["amplitude"].dtype == np.float32
    assert found["sample"].to_numpy().tolist() == [200, 204, 208, 212, 216, 220]
    assert found["sample"].attrs["units"] == "ms"
    assert open_volume(path, start=48.0)["sample"].to_numpy()[:2].tolist() == [48, 52]
    labels = open_volume(path, keep_nan=True)["amplitude"]
    np.testing.assert_array_equal(labels, values)
    assert np.isnan(labels).any()


def tell_unit(path: Path, name: str, key: str, value: object) -> None:
    """Write an attribute of a variable of a store."""
    zarr.open_group(path, mode="r+")[name].attrs[key] = value


@pytest.mark.parametrize(
    ("key", "stated", "unit", "step"),
    [
        ("unitsV1", {"time": "s"}, "ms", 4000),
        ("unitsV1", {"time": "us"}, "ms", 0.004),
        ("unitsV1", {"time": "\u00b5s"}, "ms", 0.004),
        ("units", "Seconds", "ms", 4000),
        ("units", "milliseconds", "ms", 4),
        ("unitsV1", {"length": "km"}, "m", 4000),
        ("unitsV1", {"length": "ft"}, "ft", 4),
        ("other", "furlongs", "ms", 4),
    ],
)
def test_units_of_samples_are_converted(
    multidimio_store: tuple[Path, np.ndarray, np.ndarray],
    key: str,
    stated: object,
    unit: str,
    step: float,
) -> None:
    path, _, _ = multidimio_store
    shutil.rmtree(path / "headers")
    tell_unit(path, "time", key, stated)
    found = open_volume(path)["sample"]
    assert found.attrs["units"] == unit
    np.testing.assert_allclose(np.diff(found), step)


def test_a_unit_that_nobody_knows_is_refused(
    multidimio_store: tuple[Path, np.ndarray, np.ndarray],
) -> None:
    path, _, _ = multidimio_store
    tell_unit(path, "time", "unitsV1", {"length": "furlong"})
    with pytest.raises(DataError, match=r"samples in 'furlong'(.|\n)*time(.|\n)*s, ms or us"):
        open_volume(path)


@pytest.mark.parametrize(
    ("stated", "unit", "x"), [("ft", "ft", 1), ("km", "m", 1000), ("m", "m", 1), ("deg", "", None)]
)
def test_units_of_coordinates_are_carried(
    multidimio_store: tuple[Path, np.ndarray, np.ndarray], stated: str, unit: str, x: float | None
) -> None:
    path, _, _ = multidimio_store
    for name in ("cdp_x", "cdp_y"):
        tell_unit(path, name, "unitsV1", {"length": stated})
    found = open_volume(path)
    assert geometry_of(found).measurement == unit
    assert Frame.from_volume(found).measurement == unit
    if x is None:
        assert "cdp_x" not in found
    else:
        assert float(found["cdp_x"][3, 3]) == x


def test_without_headers_mdio_starts_at_its_own_axis(
    multidimio_store: tuple[Path, np.ndarray, np.ndarray],
) -> None:
    path, _, _ = multidimio_store
    shutil.rmtree(path / "headers")
    assert open_volume(path)["sample"].to_numpy()[0] == 0


@pytest.mark.parametrize(
    ("size", "chunk"),
    [(7, 0), (2**32 - 1, 7)],  # blocks of nothing, and more blocks than anybody counts
)
def test_lying_chunks_are_refused(tmp_path: Path, size: int, chunk: int) -> None:
    path = tmp_path / "cube.zarr"
    values = ("inline", "crossline", "time"), np.ones((6, 7, 30), np.float32)
    xr.Dataset({"amplitude": values}).to_zarr(path, zarr_format=3, consolidated=False)
    about = json.loads((path / "amplitude" / "zarr.json").read_text(encoding="utf-8"))
    about["shape"][1] = size
    about["chunk_grid"]["configuration"]["chunk_shape"][1] = chunk
    (path / "amplitude" / "zarr.json").write_text(json.dumps(about), encoding="utf-8")
    with pytest.raises(
        DataError, match=r"(samples in chunks of|block of the store)(.|\n)*copy the store"
    ):
        open_volume(path)


def test_stores_without_amplitudes_are_refused(tmp_path: Path) -> None:
    xr.Dataset({"velocity": ("x", np.ones(3))}).to_zarr(tmp_path / "a.zarr", zarr_format=3)
    with pytest.raises(DataError, match="only velocity"):
        open_volume(tmp_path / "a.zarr")
    xr.Dataset({"amplitude": (("offset", "time"), np.ones((3, 3)))}).to_zarr(tmp_path / "b.zarr")
    with pytest.raises(DataError, match=r"over \(offset, time\)"):
        open_volume(tmp_path / "b.zarr")
    (tmp_path / "c.zarr").mkdir()
    with pytest.raises(DataError, match=r"no Zarr store(.|\n)*diapir predict"):
        open_volume(tmp_path / "c.zarr")


def test_sections_open(tmp_path: Path) -> None:
    from diapir.io.images import write_mask_png

    section = np.arange(12.0).reshape(3, 4)
    np.save(tmp_path / "section.npy", section)
    found = open_volume(tmp_path / "section.npy")
    assert found["amplitude"].dims == ("trace", "sample")
    np.testing.assert_array_equal(found["amplitude"], section.T)
    assert found["sample"].attrs["units"] == "1"
    cube = np.random.default_rng(0).integers(-9, 9, (3, 4, 5)).astype(np.int16)
    np.save(tmp_path / "cube.npy", cube)
    np.testing.assert_array_equal(open_volume(tmp_path / "cube.npy")["amplitude"], cube)
    write_mask_png(tmp_path / "mask.png", np.eye(3, 4, dtype=np.uint8))
    picture = open_volume(tmp_path / "mask.png")["amplitude"]
    assert picture.shape == (4, 3)
    assert picture[0, 0] > picture[0, 1]


def test_arrays_that_are_none_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "flat.npy", np.ones(5))
    (tmp_path / "text.npy").write_text("no array")
    for name in ("flat.npy", "text.npy", "none.npy"):
        with pytest.raises(DataError):
            open_volume(tmp_path / name)
    (tmp_path / "x.sgy").write_bytes(b"")
    with pytest.raises(DataError, match="unknown option 'inlin'"):
        open_volume(tmp_path / "x.sgy", inlin=5)


def test_the_verb_says_what_it_did(make_segy: Make, tmp_path: Path) -> None:
    path, _ = make_segy()
    store = tmp_path / "cube.zarr"
    result = CliRunner().invoke(app, ["ingest", str(path), str(store), "-q"])
    assert result.exit_code == 0
    assert "42 traces are in" in result.stdout
    assert "6 x 7 x 30 (inline, crossline, sample)" in result.stdout
    again = CliRunner().invoke(app, ["ingest", str(path), str(store), "-q", "--json"])
    assert '"written": 0' in again.stdout
