"""Where traces lie: gaps, duplicates, falling numbers, lines, pre-stack, delays, other bytes."""

import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diapir.errors import DataError
from diapir.io.segy import SegyFile, SegyOptions, header_field
from diapir.io.segy_bytes import find_line_bytes, first_headers
from diapir.io.segy_grid import TraceGrid, TraceTable, bin_traces, prestack_reason, scan_traces
from diapir.io.segy_layout import open_file
from diapir.io.segy_volume import TraceArray

Make = Callable[..., tuple[Path, np.ndarray]]


def grid_of(path: Path, **options: object) -> tuple[SegyFile, TraceGrid]:
    chosen = SegyOptions(**options)  # type: ignore[arg-type]
    file = open_file(path, chosen)
    return file, bin_traces(scan_traces(file, chosen), file, chosen)


def cube_of(path: Path, **options: object) -> np.ndarray:
    file, grid = grid_of(path, **options)
    array = TraceArray(file, grid.trace_at)
    return array[(slice(None),) * array.ndim]


def put(path: Path, byte: int, values: list[int], kind: str = ">i") -> None:
    """Write a trace header field of every trace of a 30-sample file of 4-byte floats."""
    data = bytearray(path.read_bytes())
    for trace, value in enumerate(values):
        struct.pack_into(kind, data, 3600 + 360 * trace + byte - 1, value)
    path.write_bytes(data)


def test_a_plain_cube(make_segy: Make) -> None:
    path, values = make_segy()
    _, grid = grid_of(path)
    assert grid.geometry.shape == (6, 7, 30)
    assert grid.geometry.axes["inline"].tolist() == [100, 101, 102, 103, 104, 105]
    assert grid.duplicates == 0
    assert grid.warnings == ()
    assert grid.geometry.cdp_x is not None
    assert grid.geometry.cdp_y is not None
    assert grid.geometry.cdp_x[:, 0].tolist() == [430_000 + 25 * k for k in range(6)]
    assert grid.geometry.cdp_y[0, 3] == 6_780_037.5
    np.testing.assert_array_equal(cube_of(path), values)


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_any_order_of_traces_makes_the_same_cube(seed: int) -> None:
    rng = np.random.default_rng(seed)
    step = rng.choice([-3, -1, 1, 2], 2)
    cells = np.argwhere(rng.random((5, 4)) < 0.8)
    cells = np.concatenate([[[0, 0], [4, 3], [1, 1], [2, 2], [3, 0]], cells])
    cells = np.unique(cells, axis=0)
    rng.shuffle(cells)
    zeros = np.zeros(len(cells))
    table = TraceTable(
        inline=(50 + step[0] * cells[:, 0]).astype(np.int32),
        crossline=(70 + step[1] * cells[:, 1]).astype(np.int32),
        number=zeros.astype(np.int32),
        offset=zeros.astype(np.int32),
        record=zeros.astype(np.int32),
        x=zeros,
        y=zeros,
        delay=zeros,
    )
    file = SegyFile(
        Path("x"), "big", None, 3, 4.0, "ms", 3600, 240, len(cells), 0, None,  # type: ignore[arg-type]
    )  # fmt: skip
    grid = bin_traces(table, file, SegyOptions())
    axes = grid.geometry.axes
    for trace, cell in enumerate(grid.cell_of):
        assert grid.trace_at[tuple(cell)] == trace
        assert axes["inline"][cell[0]] == table.inline[trace]
        assert axes["crossline"][cell[1]] == table.crossline[trace]
    assert grid.geometry.trace_mask.sum() == len(cells)
    assert all(len(np.unique(np.diff(axis))) == 1 for axis in axes.values())
    assert all(np.diff(axis)[0] > 0 for axis in axes.values())


@pytest.mark.parametrize("unit", [2, 3, 4])
def test_longitude_and_latitude_are_no_lengths(make_segy: Make, unit: int) -> None:
    path, values = make_segy()
    put(path, 89, [unit] * 42, ">h")
    put(path, 71, [-100] * 42, ">h")
    put(path, 181, [250 + trace for trace in range(42)])
    put(path, 185, [6000 + trace for trace in range(42)])
    _, grid = grid_of(path)
    assert (grid.geometry.cdp_x, grid.geometry.cdp_y) == (None, None)
    [warning] = grid.warnings
    assert f"bytes 181 and 185 are angles (bytes 89-90 say {unit})" in warning
    np.testing.assert_array_equal(cube_of(path), values)
    _, scaled = grid_of(path, coordinate_scale=1)
    assert scaled.geometry.cdp_x is not None
    assert scaled.geometry.cdp_x[0, 1] == 251
    assert scaled.warnings == ()


@pytest.mark.parametrize("unit", [2, 3, 4])
def test_coordinates_too_large_for_angles_are_lengths(make_segy: Make, unit: int) -> None:
    path, _ = make_segy()
    put(path, 89, [unit] * 42, ">h")
    _, grid = grid_of(path)
    assert grid.geometry.cdp_y is not None
    assert grid.geometry.cdp_y[0, 3] == 6_780_037.5
    assert grid.warnings == ()


def test_falling_and_stepped_numbers_rise_in_the_cube(make_segy: Make) -> None:
    path, values = make_segy(step=(-2, 5))
    _, grid = grid_of(path)
    assert grid.geometry.axes["inline"].tolist() == [90, 92, 94, 96, 98, 100]
    assert grid.geometry.axes["crossline"].tolist() == [300 + 5 * k for k in range(7)]
    np.testing.assert_array_equal(cube_of(path), values[::-1])


def test_gaps_stay_empty(make_segy: Make) -> None:
    mask = np.random.default_rng(1).random((6, 7)) < 0.7
    mask[2] = False
    mask[0, 0] = mask[5, 6] = True
    path, values = make_segy(mask=mask)
    _, grid = grid_of(path)
    np.testing.assert_array_equal(grid.geometry.trace_mask, mask)
    np.testing.assert_array_equal(cube_of(path), values)
    assert any("1 of 6 inlines are missing" in warning for warning in grid.warnings)
    assert grid.geometry.cdp_x is not None
    assert np.isnan(grid.geometry.cdp_x[~mask]).all()


def test_of_duplicates_the_first_is_taken(make_segy: Make) -> None:
    cells = np.argwhere(np.ones((6, 7), bool)).astype(np.int32)
    path, values = make_segy(cells=np.insert(cells, [5, 20], cells[[5, 20]], axis=0))
    put(path, 115, [30] * 44, ">h")
    data = bytearray(path.read_bytes())
    data[3600 + 360 * 6 + 240 : 3600 + 360 * 7] = b"\x41" * 120  # the second of a pair
    path.write_bytes(data)
    _, grid = grid_of(path)
    assert grid.duplicates == 2
    assert len(grid.cell_of) == 44
    np.testing.assert_array_equal(cube_of(path), values)


def test_lines_far_apart_are_not_filled_up(make_segy: Make) -> None:
    path, values = make_segy()
    numbers = np.repeat([100, 101, 102, 103, 104, 2_000_000_000], 7)
    put(path, 189, numbers.tolist())
    _, grid = grid_of(path)
    assert grid.geometry.shape == (6, 7, 30)
    assert any("mostly missing" in warning for warning in grid.warnings)
    np.testing.assert_array_equal(cube_of(path), values)


def test_a_single_inline_is_a_volume_of_one_line(make_segy: Make) -> None:
    path, values = make_segy(shape=(1, 40, 30))
    _, grid = grid_of(path)
    assert grid.geometry.shape == (1, 40, 30)
    np.testing.assert_array_equal(cube_of(path), values)


def test_a_single_trace_is_read(make_segy: Make) -> None:
    path, values = make_segy(shape=(1, 1, 30))
    np.testing.assert_array_equal(cube_of(path), values)


def test_a_line_without_numbers_is_a_line(make_segy: Make) -> None:
    path, values = make_segy(shape=(40, 30), first=(7,), step=(-1,))
    _, grid = grid_of(path)
    assert grid.geometry.dims == ("trace", "sample")
    assert grid.geometry.axes["trace"].tolist() == list(range(-32, 8))
    np.testing.assert_array_equal(cube_of(path), values[::-1])
    put(path, 21, [5] * 40)
    _, grid = grid_of(path)
    assert grid.geometry.axes["trace"].tolist() == list(range(1, 41))
    np.testing.assert_array_equal(cube_of(path), values)


def test_a_cube_can_be_read_as_a_line(make_segy: Make) -> None:
    path, values = make_segy()
    _, grid = grid_of(path, line=True)
    assert grid.geometry.shape == (42, 30)
    np.testing.assert_array_equal(cube_of(path, line=True), values.reshape(42, 30))


def test_a_path_through_a_survey_is_no_cube(make_segy: Make) -> None:
    path, _ = make_segy(shape=(1, 100, 30))
    put(path, 189, list(range(100)))
    with pytest.raises(DataError, match="scattered over 100 inlines") as caught:
        grid_of(path)
    assert "--line" in str(caught.value.mend)


def test_other_bytes_are_asked_for_by_name(make_segy: Make) -> None:
    path, values = make_segy(options=SegyOptions(inline_byte=9, crossline_byte=13))
    with pytest.raises(DataError) as caught:
        grid_of(path)
    assert "--inline-byte 9 --crossline-byte" in str(caught.value.mend)
    np.testing.assert_array_equal(cube_of(path, inline_byte=9, crossline_byte=13), values)


def test_the_bytes_of_teapot_dome_are_found(make_segy: Make) -> None:
    there = SegyOptions(inline_byte=181, crossline_byte=185, x_byte=189, y_byte=193)
    path, _ = make_segy(shape=(12, 9, 30), options=there)
    file = open_file(path)
    best = find_line_bytes(first_headers(file), file.order)[0]
    assert (best.inline, best.crossline) == (181, 185)
    assert "every trace has a pair of its own" in best.why
    assert best.lines == (12, 9)


def test_crossline_order_does_not_swap_the_standard_bytes(make_segy: Make) -> None:
    cells = np.argwhere(np.ones((7, 6), bool)).astype(np.int32)[:, ::-1]
    path, values = make_segy(cells=cells)
    file = open_file(path)
    best = find_line_bytes(first_headers(file), file.order)[0]
    assert (best.inline, best.crossline) == (189, 193)
    np.testing.assert_array_equal(cube_of(path), values)


def test_offsets_within_a_place_are_prestack(make_segy: Make) -> None:
    cells = np.repeat(np.argwhere(np.ones((6, 7), bool)), 3, axis=0).astype(np.int32)
    path, _ = make_segy(cells=cells)
    with pytest.raises(DataError, match="have only 42 different"):
        grid_of(path)  # three copies without offsets: not pre-stack, but no survey either
    put(path, 37, [100, 200, 300] * 42)
    with pytest.raises(DataError, match=r"pre-stack: 3 traces share each .* from 100 to 300"):
        grid_of(path)
    with pytest.raises(DataError, match="each CDP number"):
        grid_of(path, line=True)


def test_shot_gathers_are_prestack(make_segy: Make) -> None:
    path, _ = make_segy(shape=(40, 30))
    put(path, 21, [0] * 40)
    put(path, 9, np.repeat([1, 2, 3, 4], 10).tolist())
    with pytest.raises(DataError, match=r"4 field records .* of 10 traces: shot gathers"):
        grid_of(path)
    assert grid_of(path, line=True)[1].geometry.shape == (40, 30)


def test_one_trace_is_never_prestack(make_segy: Make) -> None:
    path, _ = make_segy(shape=(1, 1, 30))
    file = open_file(path)
    assert prestack_reason(scan_traces(file, SegyOptions())) is None


@pytest.mark.parametrize("start", [0.0, 4.0, -8.0, 1000.5, 3.25, 32_767.0, 40_000.0, 0.125])
def test_the_first_sample_is_at_the_delay(make_segy: Make, start: float) -> None:
    path, _ = make_segy(start=start)
    sample = grid_of(path)[1].geometry.sample
    assert sample[0] == start
    assert sample[-1] == start + 29 * 4
    assert grid_of(path, start=7.0)[1].geometry.sample[0] == 7


@pytest.mark.parametrize(
    ("scalar", "start"), [(0, 10_000), (1, 10_000), (10, 100_000), (-10, 1000)]
)
def test_the_delay_has_a_scalar(make_segy: Make, scalar: int, start: float) -> None:
    path, _ = make_segy()
    put(path, 109, [10_000] * 42, ">h")
    put(path, 215, [scalar] * 42, ">h")
    assert grid_of(path)[1].geometry.sample[0] == start


def set_revision(path: Path, revision: int) -> None:
    data = bytearray(path.read_bytes())
    data[3500] = revision
    path.write_bytes(data)


@pytest.mark.parametrize("scalar", [7, -5, 20, 32_767])
def test_a_scalar_that_is_none_leaves_the_delay_as_it_is(make_segy: Make, scalar: int) -> None:
    path, _ = make_segy()
    put(path, 109, [2000] * 42, ">h")
    put(path, 215, [scalar] * 42, ">h")
    _, grid = grid_of(path)
    assert grid.geometry.sample[0] == 2000
    assert "(byte 215) of 42 traces is not applied: SEG-Y knows 1, 10" in grid.warnings[0]
    assert not grid_of(path, start=7.0)[1].warnings
    put(path, 109, [0] * 42, ">h")
    assert not grid_of(path)[1].warnings


def test_revision_0_has_no_scalar_of_the_delay_unless_one_is_asked_for(make_segy: Make) -> None:
    path, _ = make_segy()
    put(path, 109, [2000] * 42, ">h")
    put(path, 215, [-10] * 42, ">h")
    assert grid_of(path)[1].geometry.sample[0] == 200
    set_revision(path, 0)
    _, grid = grid_of(path)
    assert grid.geometry.sample[0] == 2000
    assert "is not applied: revision 0 has no such scalar; pass --start" in grid.warnings[0]
    put(path, 201, [-10] * 42, ">h")
    assert grid_of(path, delay_scalar_byte=201)[1].geometry.sample[0] == 200


def test_the_delay_may_stand_elsewhere(make_segy: Make) -> None:
    path, _ = make_segy()
    put(path, 105, [1500] * 42, ">h")
    assert grid_of(path)[1].geometry.sample[0] == 0
    assert grid_of(path, delay_byte=105)[1].geometry.sample[0] == 1500


def test_delays_that_differ_are_refused_unless_few(make_segy: Make) -> None:
    path, _ = make_segy()
    put(path, 109, [100] * 40 + [0, 0], ">h")
    _, grid = grid_of(path)
    assert grid.geometry.sample[0] == 100
    assert "2 traces have another delay" in grid.warnings[0]
    put(path, 109, [100] * 20 + [0] * 22, ">h")
    with pytest.raises(DataError, match="different times, from 0 to 100"):
        grid_of(path)
    assert grid_of(path, start=0.0)[1].geometry.sample[0] == 0


@pytest.mark.parametrize(("scalar", "factor"), [(0, 1), (1, 1), (10, 10), (-10, 0.1), (-100, 0.01)])
def test_coordinates_have_a_scalar(make_segy: Make, scalar: int, factor: float) -> None:
    path, _ = make_segy()
    put(path, 71, [scalar] * 42, ">h")
    x = grid_of(path)[1].geometry.cdp_x
    assert x is not None
    assert x[0, 0] == pytest.approx(43_000_000 * factor, rel=1e-15)
    x = grid_of(path, coordinate_scale=0.5)[1].geometry.cdp_x
    assert x is not None
    assert x[0, 0] == 21_500_000


def test_without_coordinates_there_are_none(make_segy: Make) -> None:
    path, _ = make_segy(located=False)
    geometry = grid_of(path)[1].geometry
    assert geometry.cdp_x is None
    assert geometry.cdp_y is None


def test_samples_that_are_no_numbers_are_read_as_zero(make_segy: Make) -> None:
    path, values = make_segy()
    data = bytearray(path.read_bytes())
    data[3600 + 240 : 3600 + 248] = struct.pack(">2f", float("nan"), float("inf"))
    path.write_bytes(data)
    cube = cube_of(path)
    assert cube[0, 0, :2].tolist() == [0, 0]
    np.testing.assert_array_equal(cube[1:], values[1:])


def test_a_box_reads_only_what_it_needs(make_segy: Make) -> None:
    path, values = make_segy()
    file, grid = grid_of(path)
    array = TraceArray(file, grid.trace_at)
    assert array.shape == values.shape
    assert array.ndim == 3
    box = array[1:4, ::2, 5:9]
    np.testing.assert_array_equal(box, values[1:4, ::2, 5:9])
    empty = TraceArray(file, np.full_like(grid.trace_at, -1))
    assert not empty[:, :, 0:3].any()


def test_header_fields_are_signed_and_ordered() -> None:
    headers = np.zeros((1, 240), np.uint8)
    headers[0, 70:72] = [0xFF, 0x9C]
    assert header_field(headers, 71, "big", 2).tolist() == [-100]
    assert header_field(headers, 71, "little", 2).tolist() == [-25_345]


def test_options_can_be_replaced() -> None:
    assert replace(SegyOptions(), inline_byte=5).inline_byte == 5
