from dataclasses import replace

import numpy as np
import pytest
import xarray as xr

from diapir.export.frame import Frame


@pytest.mark.parametrize("angle", [0, 33, 90, 200])
def test_indices_and_world_are_inverse(angle, make_frame):
    frame = make_frame(angle=angle)
    places = np.array([[0, 0, 0], [4, 6, 8], [1.5, 2.25, 3.5], [-0.5, 6.5, 8.5]])
    world = frame.to_world(places)
    assert np.allclose(world[0], [500_000, 6_000_000, 200])
    assert np.allclose(world[1, :2], [frame.x[4, 6], frame.y[4, 6]])
    assert np.allclose(world[:, 2], 200 + 4 * places[:, 2])
    i, j = frame.to_indices(world[:, 0], world[:, 1])
    assert np.allclose(np.stack([i, j], axis=1), places[:, :2])


def test_lines_that_are_missing_move_nothing(make_frame):
    whole = make_frame((12, 7, 9), angle=33)
    for order in (slice(None), slice(None, None, -1)):
        kept = np.array([0, 1, 2, 3, 9, 10, 11])[order]
        holed = replace(whole, inline=whole.inline[kept], x=whole.x[kept], y=whole.y[kept],
                        live=whole.live[kept])  # fmt: skip
        assert np.isclose(holed.bin_area, whole.bin_area)
        i, j = holed.to_indices(holed.x[:, 4], holed.y[:, 4])
        assert np.allclose(i, np.arange(7), atol=1e-6)
        assert np.allclose(j, 4, atol=1e-6)


def test_traces_that_only_fill_the_grid_do_not_bend_it(make_frame):
    whole, padded = make_frame(angle=33), make_frame(angle=33)
    padded.x[0], padded.y[0] = 0, 0
    assert np.allclose(padded.affine, whole.affine)
    assert np.allclose(padded.trace_xy()[0], whole.trace_xy()[0])


@pytest.mark.parametrize("stray", [150.0, 999_999.0, 2e9])
@pytest.mark.parametrize("angle", [0, 33])
def test_one_wrong_number_does_not_turn_the_grid(stray, angle, make_frame):
    whole = make_frame((20, 15, 5), angle=angle)
    numbered = replace(
        whole,
        inline=np.array([*whole.inline, stray]),
        x=np.vstack([whole.x, np.full((1, 15), np.nan)]),
        y=np.vstack([whole.y, np.full((1, 15), np.nan)]),
        live=np.vstack([whole.live, np.zeros((1, 15), bool)]),
    )
    for array in (numbered.x, numbered.y, numbered.live):  # trace (7, 4) came under another number
        array[20, 4], array[7, 4] = array[7, 4], array[20, 4]
    assert numbered.located
    assert np.allclose(numbered.affine, whole.affine, atol=1e-4)
    assert np.isclose(numbered.bin_area, whole.bin_area)
    assert numbered.astray == 1
    assert whole.astray == 0


def test_rounded_coordinates_are_fitted_as_they_are(make_frame):
    whole = make_frame((40, 30, 5), angle=33, bins=(3.0, 2.0))
    rounded = replace(whole, x=np.rint(whole.x), y=np.rint(whole.y))
    design = np.stack([np.ones(1200), *np.indices((40, 30)).reshape(2, -1)])
    expected = np.linalg.lstsq(design.T, rounded.x.ravel(), rcond=None)[0]
    assert np.allclose(rounded.affine[0, 1:] * [1, 2], expected[1:])
    assert rounded.astray == 0


def test_coordinates_without_any_grid_are_fitted_and_told(make_frame):
    frame = make_frame((20, 15, 5))
    rng = np.random.default_rng(0)
    frame = replace(frame, x=rng.permuted(frame.x.ravel()).reshape(20, 15))
    assert frame.astray > 100


def test_coordinates_in_feet_have_areas_in_square_metres(make_frame):
    frame = replace(make_frame(unit="ms"), measurement="ft")
    assert frame.plane_unit == "ft"
    assert np.isclose(frame.sample_volume_m3(3000), 25 * 12.5 * 0.3048**2 * 6)
    assert np.isclose(replace(frame, unit="m").sample_volume_m3(), 25 * 12.5 * 0.3048**2 * 4)
    assert make_frame(unit="ms").plane_unit == "m"


def test_a_bin_has_its_area_and_a_sample_its_volume(make_frame):
    assert np.isclose(make_frame(angle=33).sample_volume_m3(), 25 * 12.5 * 4)
    assert np.isclose(make_frame(unit="ft").sample_volume_m3(), 25 * 12.5 * 4 * 0.3048**3)
    in_time = make_frame(unit="ms")
    assert in_time.sample_volume_m3() is None
    # 4 ms of two-way time at 3000 m/s are 6 m
    assert np.isclose(in_time.sample_volume_m3(3000), 25 * 12.5 * 6)


def test_gaps_get_the_coordinates_of_the_grid_and_traces_keep_theirs(make_frame):
    whole, holed = make_frame(angle=33), make_frame(angle=33, gaps=[(2, 3), (0, 0)])
    holed.x[4, 4] += 0.4  # a header rounded
    x, y = holed.trace_xy()
    assert abs(x[2, 3] - whole.x[2, 3]) < 0.1
    assert abs(y[0, 0] - whole.y[0, 0]) < 0.1
    assert x[4, 4] == whole.x[4, 4] + 0.4


def test_falling_numbers_are_as_good_as_rising_ones(make_frame):
    frame = make_frame()
    turned = Frame(
        frame.inline[::-1], frame.crossline, frame.sample, "m",
        frame.x[::-1], frame.y[::-1], frame.live,
    )  # fmt: skip
    assert np.allclose(turned.to_world(np.array([[4.0, 6, 0]])), frame.to_world([[0, 6, 0]]))
    assert np.isclose(turned.bin_area, frame.bin_area)


@pytest.mark.parametrize("how", ["none", "all zero", "on one point", "on one line"])
def test_without_coordinates_the_numbers_serve(how, make_frame):
    frame = make_frame()
    x, y = {
        "none": (None, None),
        "all zero": (frame.x * 0, frame.y * 0),
        "on one point": (frame.x * 0 + 7, frame.y * 0 + 8),
        "on one line": (frame.x * 0 + 7, frame.y),
    }[how]
    bare = Frame(frame.inline, frame.crossline, frame.sample, "m", x, y, frame.live)
    assert not bare.located
    assert bare.sample_volume_m3() is None
    assert np.allclose(bare.to_world(np.array([[1.0, 2, 3]])), [[304, 101, 212]])
    gx, gy = bare.trace_xy()
    assert (gx[0, 1], gy[0, 1]) == (302, 100)


def test_a_volume_gives_its_frame(make_frame):
    frame = make_frame(gaps=[(1, 1)])
    flat = ("inline", "crossline")
    volume = xr.Dataset(
        {"amplitude": ((*flat, "sample"), np.zeros(frame.shape, np.float32))},
        {
            "inline": frame.inline.astype(np.int32),
            "crossline": frame.crossline.astype(np.int32),
            "sample": ("sample", frame.sample, {"units": "m"}),
            "trace_mask": (flat, frame.live),
            "cdp_x": (flat, frame.x),
            "cdp_y": (flat, frame.y),
        },
    )
    found = Frame.from_volume(volume)
    assert found.unit == "m"
    assert found.shape == frame.shape
    assert np.array_equal(found.live, frame.live)
    assert np.array_equal(found.x, frame.x, equal_nan=True)
    assert np.allclose(found.affine, frame.affine)
