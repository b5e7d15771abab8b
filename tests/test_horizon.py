import csv
import warnings
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pytest

from diapir.errors import RunError
from diapir.export.horizon import (
    MOST_NODES,
    GridPlan,
    Horizon,
    salt_interval,
    write_horizons,
    zmap_nodes,
)


def read_zmap(path):
    """A reader of our own: by the fixed width of the fields, not by blanks."""
    lines = path.read_text().splitlines()
    lines = [line for line in lines if not line.startswith("!")]
    assert lines[0].startswith("@")
    assert lines[4] == "@"
    per_line = int(lines[0].split(",")[2])
    width, null = (part.strip() for part in lines[1].split(",")[:2])
    rows, columns, *extent = (float(part) for part in lines[2].split(","))
    values, row = [], []
    for line in lines[5:]:
        assert len(line) <= per_line * int(width)
        row += [float(line[k : k + int(width)]) for k in range(0, len(line), int(width))]
        if len(row) == rows:  # a column of the grid begins on a line of its own
            values.append(row)
            row = []
    assert not row
    grid = np.array(values).T
    assert grid.shape == (rows, columns)
    return np.where(grid >= float(null), np.nan, grid), extent


class Grid(NamedTuple):
    """Nodes as GDAL sees them: easting rising, northing falling, values by rows."""

    x: np.ndarray
    y: np.ndarray
    z: np.ndarray


def read_with_gdal(path):
    import rasterio

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it says that the grid is in no map projection
        # the header tells the range of the nodes; GDAL takes it for that of the pixels' edges
        # unless told otherwise
        with (
            rasterio.Env(ZMAP_PIXEL_IS_POINT="TRUE"),
            rasterio.open(path, driver="ZMap") as grid,
        ):
            z = grid.read(1)
            z[z == np.float64(grid.nodata)] = np.nan
            x, _ = grid.xy(0, np.arange(grid.width))
            _, y = grid.xy(np.arange(grid.height), 0)
    return Grid(np.asarray(x), np.asarray(y), z)


def read_opendtect(path):
    """Columns by the names in the header, as its import dialogue asks for them."""
    names, rows = {}, []
    for line in path.read_text().splitlines():
        if line.startswith("#"):
            head = line.strip("# ")
            if head[:1].isdigit():
                number, name = head.split(":")
                names[name.strip()] = int(number) - 1
        else:
            rows.append([float(part) for part in line.split("\t")])
    table = np.array(rows)
    return {name: table[:, column] for name, column in names.items()}


@pytest.fixture
def horizon(make_frame):
    frame = make_frame(gaps=[(2, 3)])
    i, j = np.meshgrid(np.arange(5.0), np.arange(7.0), indexing="ij")
    z = 210 + 1.25 * i + 0.37 * j
    z[2, 3] = z[0, :2] = np.nan
    return Horizon("top_salt", z, frame)


@pytest.fixture
def written(horizon, tmp_path):
    return {path.suffix: path for path in write_horizons(tmp_path / "new", horizon)}


def test_the_crossing_lies_between_samples():
    probs = np.array([0, 0.25, 0.75, 1, 1, 0.9, 0.1, 0], np.float32)
    top, base = salt_interval(probs, probs > 0.5, 0.5, 100 + 4.0 * np.arange(8))
    assert np.isclose(top, 106)
    assert np.isclose(base, 122)
    top, _ = salt_interval(probs, probs > 0.3, 0.3, 100 + 4.0 * np.arange(8))
    assert np.isclose(top, 104 + 4 * 0.1)


def test_a_ramp_of_probability_is_found_exactly():
    depth = np.arange(0, 200, 4.0)
    truth = np.linspace(41, 97, 29)
    probs = np.clip(0.5 + (depth - truth[:, None]) / 20, 0, 1)
    top, base = salt_interval(probs, probs > 0.5, 0.5, depth)
    assert np.allclose(top, truth, atol=1e-9)
    assert np.allclose(base, depth[-1])  # the salt runs out of the trace


def test_a_perfect_mask_is_within_one_sample():
    depth = 1000 + 3.0 * np.arange(60)
    truth_top, truth_base = np.array([1010.2, 1044.9]), np.array([1099.0, 1101.7])
    mask = (depth >= truth_top[:, None]) & (depth <= truth_base[:, None])
    top, base = salt_interval(mask.astype(np.float32), mask, 0.5, depth)
    assert (np.abs(top - truth_top) <= 3).all()
    assert (np.abs(base - truth_base) <= 3).all()


def test_only_samples_inside_the_chosen_bodies_count():
    probs = np.array([[0, 1, 1, 0, 0, 1, 1, 0]], np.float32)
    inside = np.array([[0, 0, 0, 0, 0, 1, 1, 0]], bool)
    top, base = salt_interval(probs, inside, 0.5, np.arange(8.0))
    assert (top[0], base[0]) == (4.5, 6.5)


def test_without_salt_there_is_no_horizon():
    top, base = salt_interval(np.zeros((2, 3, 5)), np.zeros((2, 3, 5), bool), 0.5, np.arange(5.0))
    assert np.isnan(top).all()
    assert np.isnan(base).all()


def test_long_numbers_are_written_in_full(make_frame, tmp_path):
    frame = replace(make_frame(), inline=1_001_237.0 + np.arange(5))
    paths = write_horizons(tmp_path, Horizon("top", np.ones((5, 7)), frame), ["xyz", "csv"])
    for path in paths:
        told = path.read_text().splitlines()[-1].replace(",", " ").split()
        assert told[0] == "1001241"


def test_xyz_holds_every_trace_with_salt(horizon, written):
    table = np.loadtxt(written[".xyz"])
    i, j = np.nonzero(np.isfinite(horizon.z))
    assert np.allclose(table[:, 0], horizon.frame.inline[i])
    assert np.allclose(table[:, 1], horizon.frame.crossline[j])
    assert np.allclose(table[:, 2], horizon.frame.x[i, j], atol=0.01)
    assert np.allclose(table[:, 3], horizon.frame.y[i, j], atol=0.01)
    assert np.allclose(table[:, 4], horizon.z[i, j], atol=1e-4)


def test_opendtect_file_reads_back(horizon, written):
    found = read_opendtect(written[".dat"])
    i, j = np.nonzero(np.isfinite(horizon.z))
    assert list(found) == ["Inline", "Crossline", "Z (m)"]
    assert np.array_equal(found["Inline"], horizon.frame.inline[i])
    assert np.array_equal(found["Crossline"], horizon.frame.crossline[j])
    assert np.allclose(found["Z (m)"], horizon.z[i, j], atol=1e-4)


def test_zmap_of_an_upright_survey_has_its_traces_as_nodes(horizon, written):
    grid, extent = read_zmap(written[".zmap"])
    assert np.allclose(extent, [500_000, 500_075, 6_000_000, 6_000_100])
    # the first row is the northernmost, which is the last line
    assert np.allclose(grid, horizon.z[::-1], atol=1e-4, equal_nan=True)


@pytest.mark.parametrize("angle", [0, 33])
def test_gdal_reads_the_zmap_grid(angle, make_frame, tmp_path):
    frame = make_frame((9, 12, 5), angle=angle, gaps=[(2, 3)])
    i, j = np.meshgrid(np.arange(9.0), np.arange(12.0), indexing="ij")
    z = 210 + 1.25 * i + 0.37 * j
    z[2, 3] = z[0, :2] = np.nan
    horizon = Horizon("top_salt", z, frame)
    (path,) = write_horizons(tmp_path, horizon, ["zmap"])
    found = read_with_gdal(path)
    east, north, grid = zmap_nodes(horizon)
    assert np.allclose(found.x, east, atol=1e-3)
    assert np.allclose(found.y, north, atol=1e-3)
    assert np.allclose(found.z, grid, atol=1e-4, equal_nan=True)
    assert np.isnan(grid).any()


@pytest.mark.parametrize("angle", [30, 117])
def test_zmap_of_a_rotated_survey_is_the_same_surface(angle, make_frame):
    frame = make_frame((30, 40, 5), angle=angle)
    x, y = frame.trace_xy()
    plane = 200 + 0.01 * (x - 500_000) - 0.02 * (y - 6_000_000)
    east, north, grid = zmap_nodes(Horizon("h", plane, frame))
    node_x, node_y = np.meshgrid(east, north)
    expected = 200 + 0.01 * (node_x - 500_000) - 0.02 * (node_y - 6_000_000)
    i, j = frame.to_indices(node_x, node_y)
    well_inside = (i > 0.01) & (i < 28.9) & (j > 0.01) & (j < 38.9)
    outside = (i < -1) | (i > 30) | (j < -1) | (j > 40)
    assert well_inside.sum() > 800
    assert np.allclose(grid[well_inside], expected[well_inside], atol=1e-6)
    assert np.isnan(grid[outside]).all()


def kept_lines(frame, kept, numbers=None):
    inline = frame.inline[kept] if numbers is None else np.asarray(numbers, np.float64)
    x, y, live = frame.x[kept], frame.y[kept], frame.live[kept]
    return replace(frame, inline=inline, x=x, y=y, live=live)


def test_a_zmap_grid_bridges_no_hole_in_the_lines(make_frame):
    frame = kept_lines(make_frame((300, 7, 5)), np.r_[0:50, 51:100, 250:300])
    i, _ = np.meshgrid(frame.inline, frame.crossline, indexing="ij")
    _, north, grid = zmap_nodes(Horizon("h", i, frame))
    number = 100 + (north - 6_000_000) / 25
    assert grid.shape == (300, 7)
    empty = (number > 200.5) & (number < 348.5)  # lines 199 and 350 are the last and the next
    assert np.isnan(grid[empty]).all()
    assert np.allclose(grid[~empty], number[~empty, None])  # one missing line is bridged


def test_a_blank_first_header_leaves_the_nodes_where_traces_are(make_frame):
    whole = make_frame((60, 7, 5))
    frame = kept_lines(whole, np.r_[0, 20:60], [0, *whole.inline[20:]])
    x, y = (np.vstack([a[:1] - 100 * step, a[1:]]) for a, step in ((frame.x, 0), (frame.y, 25)))
    frame = replace(frame, x=x, y=y)
    _, _, grid = zmap_nodes(Horizon("h", np.ones((41, 7)), frame))
    assert grid.shape == (160, 7)
    assert np.isfinite(grid).all(axis=1).sum() == 40 + 1 + 2  # a node beside either end of the hole


@pytest.mark.parametrize("stray", [999_999, 2_000_000_000])
def test_a_stray_line_number_makes_a_plan_without_making_its_grid(stray, make_frame):
    whole = make_frame((102, 70, 5))
    frame = kept_lines(whole, np.arange(102), [*whole.inline[:101], stray])
    frame = replace(frame, x=None, y=None)
    assert GridPlan.of(frame).nodes == (stray - 100 + 1) * (2 * 69 // 2 + 1)
    assert GridPlan.of(frame).nodes > MOST_NODES
    swath = make_frame((10, 20_000, 5), angle=45)
    assert GridPlan.of(swath).nodes > MOST_NODES


def test_a_large_zmap_grid_is_made_in_parts_and_is_the_same(make_frame, monkeypatch):
    frame = make_frame((30, 40, 5), angle=30)
    i, j = np.meshgrid(np.arange(30.0), np.arange(40.0), indexing="ij")
    _, _, whole = zmap_nodes(Horizon("h", i + j, frame))
    monkeypatch.setattr("diapir.export.horizon._NODES_AT_A_TIME", 1)
    _, _, parts = zmap_nodes(Horizon("h", i + j, frame))
    assert np.array_equal(parts, whole, equal_nan=True)


def test_csv_and_parquet_hold_the_same_table(horizon, written):
    import pyarrow.parquet as parquet

    with written[".csv"].open(newline="") as file:
        rows = list(csv.DictReader(file))
    table = parquet.read_table(written[".parquet"]).to_pydict()
    assert list(table) == list(rows[0]) == ["inline", "crossline", "x", "y", "z_m"]
    for name, values in table.items():
        assert np.allclose([float(row[name]) for row in rows], values, atol=0.01)
    assert np.allclose(table["z_m"], horizon.table()["z"], atol=0)


def test_a_horizon_without_any_salt_is_written_all_the_same(tmp_path, make_frame):
    frame = make_frame()
    empty = Horizon("base_salt", np.full(frame.shape[:2], np.nan), frame)
    paths = write_horizons(tmp_path, empty)
    assert np.isnan(read_zmap(tmp_path / "base_salt.zmap")[0]).all()
    assert all(path.exists() for path in paths)


def test_a_format_that_is_left_out_leaves_no_earlier_file(horizon, written, tmp_path):
    write_horizons(tmp_path / "new", horizon, ["xyz", "csv"])
    assert {path.suffix for path in (tmp_path / "new").iterdir()} == {".xyz", ".csv"}


def test_a_place_that_cannot_be_written_is_told(horizon, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError):
        write_horizons(tmp_path / "file", horizon)
