import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from diapir.data.census import census
from diapir.data.competition import write_competition
from diapir.data.geology import (
    SALT_LOG_IMPEDANCE,
    BedLog,
    Geology,
    Grid,
    Massif,
    draw_waves,
    earth_model,
    salt_distance,
    section_grid,
    volume_grid,
)
from diapir.data.imaging import (
    ImagingConditions,
    automatic_gain,
    draw_conditions,
    ricker_spectrum,
    seismic_image,
    to_grey,
)
from diapir.data.scenarios import draw_beds, draw_geology
from diapir.data.synthetic import draw_tile, generate_tiles
from diapir.errors import DataError, RunError
from diapir.io.images import read_mask
from diapir.io.tiles import Tiles, read_tiles

QUIET = ImagingConditions(
    noise=0.0, salt_noise=0.0, random_noise=0.0, fading=0.0, gain=0.0, shadow_m=1e9
)


@pytest.fixture(scope="module")
def tiles() -> Tiles:
    return generate_tiles(200, seed=7)


def flat_earth(top_m: float, edges_m: list[float], values: list[float]) -> Geology:
    """An earth of level beds over level salt, without anything random."""
    still = draw_waves(np.random.default_rng(0), 0.0, (100, 200))
    thickness = np.diff(edges_m)
    integral = np.concatenate([[0.0], np.cumsum(np.asarray(values) * thickness)])
    return Geology(
        beds=BedLog(np.asarray(edges_m), integral),
        tilt=(0.0, 0.0),
        folds=still,
        wobble=still,
        faults=(),
        lenses=(),
        salt=(Massif(top_m, still, still),),
        drag_m=0.0,
        drag_reach_m=1.0,
        unconformity=None,
        seabed=None,
    )


# --- geology


def test_section_is_a_slice_of_the_volume():
    geology = draw_geology(np.random.default_rng(4))
    volume = earth_model(
        geology, volume_grid((24, 6, 30), (25.0, 30.0, 40.0), inline_m=-300.0, depth_m=900.0)
    )
    section = earth_model(
        geology,
        section_grid((30, 24), (40.0, 25.0), inline_m=-300.0, crossline_m=60.0, depth_m=900.0),
    )
    assert volume.salt.shape == (24, 6, 30)
    # only the width over which salt grades into sediments depends on the spacing
    np.testing.assert_array_equal(volume.salt[:, 2, :].T, section.salt)
    far = np.abs(volume.log_impedance[:, 2, :].T - section.log_impedance) > 1e-3
    assert far.mean() < 0.05


def test_neighbouring_sections_meet():
    geology = draw_geology(np.random.default_rng(5))
    whole = earth_model(geology, section_grid((50, 80), (8.0, 12.0), depth_m=1000.0))
    right = earth_model(
        geology, section_grid((50, 40), (8.0, 12.0), inline_m=480.0, depth_m=1000.0)
    )
    np.testing.assert_allclose(whole.log_impedance[:, 40:], right.log_impedance, atol=2e-3)


def test_earth_without_salt_has_none():
    for seed in range(5):
        geology = draw_geology(np.random.default_rng(seed), salt=False)
        model = earth_model(geology, section_grid((40, 40), (100.0, 200.0), inline_m=-4000.0))
        assert not model.salt.any()


def test_salt_distance_is_negative_inside_and_metric_above_a_level_top():
    geology = flat_earth(500.0, [0, 1000], [0.0])
    grid = section_grid((101, 3), (10.0, 10.0))
    np.testing.assert_allclose(
        salt_distance(geology, grid)[:, 0], 500 - grid.depth_m[:, 0], atol=1e-3
    )
    model = earth_model(geology, grid)
    assert model.salt[51:].all()
    assert not model.salt[:50].any()
    np.testing.assert_allclose(model.log_impedance[60], SALT_LOG_IMPEDANCE, rtol=1e-6)


def test_bed_log_averages_thin_beds():
    beds = BedLog(np.array([0.0, 10.0, 20.0]), np.array([0.0, 10.0, 40.0]))  # values 1 and 3
    average = beds.average(np.array([5.0, 15.0, 10.0], np.float32), 10.0)
    np.testing.assert_allclose(average, [1.0, 3.0, 2.0])


def test_drawn_beds_cover_the_region_and_the_beds_above_an_unconformity():
    for seed in range(20):
        beds = draw_beds(np.random.default_rng(seed))
        assert beds.edges_m[0] <= -8000
        assert beds.edges_m[-1] > 5000 + 9000
        assert (np.diff(beds.edges_m) > 0).all()


def test_waves_have_the_asked_strength_and_the_sum_of_cosines():
    waves = draw_waves(np.random.default_rng(1), 30.0, (100.0, 900.0), depth_share=1.0)
    rng = np.random.default_rng(2)
    inline, crossline, depth = rng.uniform(-20000, 20000, (3, 20000, 1)).astype(np.float32)
    field = waves(Grid(inline, crossline, depth, (1.0, 1.0)))
    assert field.std() == pytest.approx(30.0, rel=0.05)
    few = np.hstack([inline, crossline, depth])[:50].astype(np.float64)
    phase = few @ waves.vectors.T.astype(np.float64) + waves.phases
    np.testing.assert_allclose(field[:50, 0], (waves.amplitudes * np.cos(phase)).sum(1), atol=0.5)


# --- imaging


def test_top_salt_is_a_bright_peak_at_its_depth_and_salt_is_quiet():
    geology = flat_earth(640.0, [0, 300, 330, 2000], [0.0, 0.05, 0.0])
    grid = section_grid((128, 64), (10.0, 10.0))
    model = earth_model(geology, grid)
    image = seismic_image(model, grid, QUIET, np.random.default_rng(0))
    trace = image[20:110, 32]
    assert 20 + int(trace.argmax()) in (63, 64)
    assert np.abs(image[80:110]).max() < 0.05 * image.max()
    bed = image[25:40, 32]
    assert bed.max() > 0
    assert bed.min() < 0  # a thin bed: rise and fall


def test_a_volume_is_imaged_as_its_sections_are():
    geology = flat_earth(640.0, [0, 300, 330, 2000], [0.0, 0.05, 0.0])
    section, volume = section_grid((96, 16), (10.0, 10.0)), volume_grid((16, 8, 96), (10.0,) * 3)
    rng = np.random.default_rng(0)
    flat = seismic_image(earth_model(geology, section), section, QUIET, rng)
    cube = seismic_image(earth_model(geology, volume), volume, QUIET, rng)
    np.testing.assert_allclose(cube[:, 3, :].T, flat, atol=1e-3 * np.abs(flat).max())


def test_ricker_spectrum_peaks_at_its_wavenumber():
    wavenumbers = np.linspace(0, 0.1, 1001, dtype=np.float32)
    spectrum = ricker_spectrum(wavenumbers, 0.02)
    assert wavenumbers[spectrum.argmax()] == pytest.approx(0.02)
    assert spectrum[0] == 0


def test_noise_and_gain_do_what_they_say():
    geology = flat_earth(640.0, [0, 300, 330, 2000], [0.0, 0.05, 0.0])
    grid = section_grid((96, 96), (10.0, 10.0))
    model = earth_model(geology, grid)
    noisy = ImagingConditions(noise=0.2, salt_noise=4.0, random_noise=0.0, fading=0.0, gain=0.0)
    image = seismic_image(model, grid, noisy, np.random.default_rng(0))
    assert image[75:90].std() > 8 * image[40:50].std()
    levelled = automatic_gain(image, [5, 5], 1.0)
    assert 0.5 < levelled[75:90].std() / levelled[40:50].std() < 2
    np.testing.assert_array_equal(automatic_gain(image, [10, 10], 0.0), image)


def test_grey_uses_the_full_range_and_survives_a_constant():
    grey = to_grey(np.array([[-3.0, 0.0, 5.0]], np.float32))
    assert grey.dtype == np.uint8
    assert grey[0, [0, 2]].tolist() == [0, 255]
    assert not to_grey(np.full((2, 2), 4.0, np.float32)).any()


# --- tiles


@settings(max_examples=8, deadline=None)
@given(coverage=st.floats(0.02, 0.98), seed=st.integers(0, 2**32), size=st.integers(16, 64))
@example(coverage=0.5, seed=969, size=16)  # a small body that 110 small windows missed
def test_drawn_tile_comes_near_the_wanted_coverage(coverage, seed, size):
    image, mask = draw_tile(np.random.default_rng(seed), coverage, size)
    assert image.shape == mask.shape == (size, size)
    assert image.dtype == mask.dtype == np.uint8
    assert set(np.unique(mask)) <= {0, 1}
    assert image.min() == 0
    assert image.max() == 255
    assert mask.any()


def interior_contrast(image, mask, margin=12):
    """Standard deviation of each side of the salt boundary, well away from it; NaN if too small."""
    spread = []
    for value in (1, 0):
        far = mask == value
        for axis in (0, 1):
            for shift in (-margin, margin):
                far &= np.roll(mask, shift, axis) == value
        spread.append(image[far].std() if far.sum() > 200 else np.nan)
    return spread


def test_salt_differs_from_sediments_by_texture():
    """In half of the real tiles the inside of salt varies half as much as the beds; so here."""
    drawn = [draw_tile(np.random.default_rng(seed), 0.5) for seed in range(50)]
    spread = np.array([interior_contrast(image, mask) for image, mask in drawn])
    ratio = spread[:, 0] / spread[:, 1]
    ratio = ratio[~np.isnan(ratio)]
    assert len(ratio) > 40
    assert 0.3 < np.median(ratio) < 0.7
    assert (ratio < 0.9).mean() > 0.7


def test_no_tile_is_degenerate(tiles):
    pictures = tiles.images[~tiles.blank].astype(float)
    spread = pictures.std(axis=(1, 2))
    assert spread.min() > 5
    assert np.median(spread) == pytest.approx(28, abs=5)  # as in the real data
    assert pictures.mean() == pytest.approx(120, abs=10)


def test_quirks_of_the_real_data(tiles):
    found = census(tiles)
    assert found.empty_share == pytest.approx(0.39, abs=0.02)
    assert found.full_masks == 0
    assert found.blank_images == found.blank_with_empty_mask == 4
    assert found.duplicate_image_groups == 0
    assert 5 <= found.vertical_masks <= 8
    assert found.vertical_below >= 1
    assert 7 <= found.masks_under_100 <= 20
    assert found.duplicate_mask_groups >= 1
    assert 51 <= found.depth_min_feet < 300 < found.depth_max_feet <= 959
    assert min(found.coverage_classes[1:10]) >= 2  # every coverage occurs


def test_masks_touch_every_border(tiles):
    masks = tiles.masks[tiles.coverage > 0]
    edges = (masks[:, 0], masks[:, -1], masks[:, :, 0], masks[:, :, -1])
    for edge in edges:
        assert 0.35 < edge.any(axis=1).mean() < 0.95


def test_shallow_and_deep_tiles_have_less_salt():
    tiles = generate_tiles(400, seed=1, size=16)
    has_salt = tiles.coverage > 0
    middle = (tiles.z_feet > 380) & (tiles.z_feet < 650)
    assert has_salt[tiles.z_feet < 250].mean() < has_salt[middle].mean() - 0.15
    assert has_salt.mean() == pytest.approx(0.61, abs=0.01)


def test_tiles_follow_from_the_seed():
    first, second = generate_tiles(6, 3, size=32), generate_tiles(6, 3, size=32)
    assert first.fingerprint() == second.fingerprint()
    np.testing.assert_array_equal(first.z_feet, second.z_feet)
    assert first.fingerprint() != generate_tiles(6, 4, size=32).fingerprint()


def test_unlabelled_tiles_of_the_same_seed_are_others():
    train, test = generate_tiles(6, 3, size=32), generate_tiles(6, 3, size=32, labelled=False)
    assert test.masks is None
    assert not set(train.ids) & set(test.ids)
    assert not any((a == b).all() for a in train.images for b in test.images if a.any())


def test_progress_is_told():
    told = []
    generate_tiles(5, 0, size=16, advance=told.append)
    assert told == [1] * 5


@pytest.mark.parametrize("request_", [(0, 0, 101), (3, -1, 101), (3, 0, 15), (3, 0, 5000)])
def test_impossible_requests_are_refused(request_):
    n, seed, size = request_
    with pytest.raises(DataError, match="cannot generate"):
        generate_tiles(n, seed, size=size)


@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_few_tiles_are_possible(n):
    assert len(generate_tiles(n, 0, size=16)) == n


def test_generation_is_fast():
    start = time.process_time()
    generate_tiles(40, seed=2)
    assert time.process_time() - start < 40 * 0.05  # 15 ms a tile, with room for slow machines


# --- the competition's layout


@pytest.mark.parametrize("zipped", [False, True])
def test_written_data_reads_back(tmp_path, zipped):
    train = generate_tiles(12, 1, size=32)
    test = generate_tiles(5, 1, size=32, labelled=False)
    write_competition(tmp_path / "data", train, test, zipped=zipped)
    back = read_tiles(tmp_path / "data", "train")
    assert back.ids == train.ids
    assert back.fingerprint() == train.fingerprint()
    np.testing.assert_array_equal(back.z_feet, train.z_feet)
    unlabelled = read_tiles(tmp_path / "data", "test")
    assert unlabelled.fingerprint() == test.fingerprint()
    assert unlabelled.masks is None
    assert sorted(p.name for p in tmp_path.iterdir()) == ["data"]  # no temporary folder is left


def test_masks_are_16_bit_and_the_tables_are_the_competitions(tmp_path):
    train = generate_tiles(12, 1, size=32)
    write_competition(tmp_path / "d", train, generate_tiles(5, 1, size=32, labelled=False))
    png = (tmp_path / "d/train/masks" / f"{train.ids[0]}.png").read_bytes()
    assert png[24] == 16  # the bit depth in the PNG header
    np.testing.assert_array_equal(read_mask(png, "mask"), train.masks[0])
    rows = (tmp_path / "d/sample_submission.csv").read_text().splitlines()
    assert rows[0] == "id,rle_mask"
    assert len(rows) == 6
    assert all(row.endswith(",1 1") for row in rows[1:])
    assert len((tmp_path / "d/depths.csv").read_text().splitlines()) == 1 + 17


def test_train_csv_stands_in_for_the_masks(tmp_path):
    train = generate_tiles(12, 1, size=32)
    write_competition(tmp_path / "d", train, generate_tiles(3, 1, size=32, labelled=False))
    for mask in (tmp_path / "d/train/masks").iterdir():
        mask.unlink()
    (tmp_path / "d/train/masks").rmdir()
    assert read_tiles(tmp_path / "d", "train").fingerprint() == train.fingerprint()


def test_equal_data_give_equal_zips(tmp_path):
    train, test = generate_tiles(3, 1, size=16), generate_tiles(3, 1, size=16, labelled=False)
    for name in ("a", "b"):
        write_competition(tmp_path / name, train, test, zipped=True)
    assert (tmp_path / "a/train.zip").read_bytes() == (tmp_path / "b/train.zip").read_bytes()
    with zipfile.ZipFile(tmp_path / "a/train.zip") as archive:
        assert archive.namelist()[0] == f"images/{train.ids[0]}.png"


def test_a_folder_in_use_is_left_alone(tmp_path):
    train, test = generate_tiles(3, 1, size=16), generate_tiles(3, 1, size=16, labelled=False)
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(RunError, match="something at this place"):
        write_competition(tmp_path, train, test)
    with pytest.raises(RunError, match="something at this place"):
        write_competition(tmp_path / "mine.txt", train, test)
    with pytest.raises(RunError):
        write_competition(tmp_path / "mine.txt" / "below", train, test)
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]


def test_an_empty_folder_is_filled(tmp_path):
    (tmp_path / "d").mkdir()
    train, test = generate_tiles(3, 1, size=16), generate_tiles(3, 1, size=16, labelled=False)
    write_competition(tmp_path / "d", train, test)
    assert len(read_tiles(tmp_path / "d", "train")) == 3


def test_nothing_half_written_when_the_disk_is_full(tmp_path, monkeypatch):
    train, test = generate_tiles(3, 1, size=16), generate_tiles(3, 1, size=16, labelled=False)

    def full(self: Path, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(RunError, match="No space left"):
        write_competition(tmp_path / "d", train, test)
    assert list(tmp_path.iterdir()) == []


def test_parts_that_do_not_fit_are_refused(tmp_path):
    train, test = generate_tiles(3, 1, size=16), generate_tiles(3, 1, size=16, labelled=False)
    with pytest.raises(DataError, match="no masks"):
        write_competition(tmp_path / "d", test, test)
    with pytest.raises(DataError, match="training tiles too"):
        write_competition(tmp_path / "d", train, train)
    assert list(tmp_path.iterdir()) == []


def test_surveys_differ():
    surveys = [draw_conditions(np.random.default_rng(seed)) for seed in range(50)]
    assert any(survey.salt_streaks is None for survey in surveys)
    assert any(survey.salt_streaks is not None for survey in surveys)
    assert all(survey.wavelength_m > 0 and survey.noise > 0 for survey in surveys)
