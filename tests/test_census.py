import json
import os
from pathlib import Path

import numpy as np
import pytest

from diapir.data.census import census, coverage_class_names, coverage_classes
from diapir.errors import DataError
from diapir.io.tiles import Tiles, read_tiles

SIZE = 20


def make_tiles(masks, images=None, z_feet=None):
    masks = np.asarray(masks, np.uint8)
    if images is None:
        images = np.random.default_rng(0).integers(0, 256, masks.shape, dtype=np.uint8)
    ids = tuple(f"tile{i:02d}" for i in range(len(masks)))
    return Tiles(ids, images, masks, z_feet, "made here")


def mask_of(count):
    """A mask of `count` salt pixels that is not vertical."""
    mask = np.zeros(SIZE * SIZE, np.uint8)
    mask[:count] = 1
    return mask.reshape(SIZE, SIZE)


def stripe(columns, rows=slice(None)):
    mask = np.zeros((SIZE, SIZE), np.uint8)
    mask[rows, columns] = 1
    return mask


def test_every_quirk_is_counted_once():
    below = stripe(slice(0, 4), slice(5, None))
    masks = [
        mask_of(0),  # 0 blank image, empty
        mask_of(0),  # 1 blank image, empty
        mask_of(0),  # 2 empty
        mask_of(SIZE * SIZE),  # 3 full
        stripe(slice(3, 7)),  # 4 vertical
        stripe(slice(3, 7)),  # 5 the same mask again
        below,  # 6 vertical in the lower half only
        mask_of(1),
        mask_of(10),
        mask_of(11),
        mask_of(50),
        mask_of(51),
        mask_of(99),
        mask_of(100),
    ]
    tiles = make_tiles(masks, z_feet=np.array([10, 10, 20] + [30] * 11, np.float32))
    tiles.images[0] = tiles.images[1] = 0
    tiles.images[8] = tiles.images[9] = tiles.images[10]
    found = census(tiles)
    assert found.tiles == 14
    assert (found.height, found.width) == (SIZE, SIZE)
    assert found.blank_images == found.blank_with_empty_mask == 2
    assert (found.duplicate_image_groups, found.duplicate_image_tiles) == (1, 3)
    assert (found.empty_masks, found.full_masks) == (3, 1)
    assert found.empty_share == pytest.approx(3 / 14)
    assert (found.vertical_masks, found.vertical_below) == (2, 1)
    # the three stripes have 80, 80 and 60 pixels
    assert (found.masks_1_to_10, found.masks_1_to_50, found.masks_under_100) == (2, 4, 9)
    assert (found.duplicate_mask_groups, found.duplicate_mask_tiles) == (1, 2)
    assert found.distinct_depths == 3
    assert (found.depth_min_feet, found.depth_median_feet, found.depth_max_feet) == (10, 30, 30)
    assert sum(found.coverage_classes) == 14
    assert found.coverage_classes[0] == 3
    assert found.coverage_classes[10] == 1


def test_pixel_moments_are_those_of_numpy():
    tiles = make_tiles(np.zeros((5, 8, 9)))
    found = census(tiles)
    assert found.pixel_mean == pytest.approx((tiles.images / 255).mean())
    assert found.pixel_std == pytest.approx((tiles.images / 255).std())


def test_a_blank_image_with_salt_is_told_apart():
    tiles = make_tiles([mask_of(0), mask_of(30)])
    tiles.images[:] = 7
    found = census(tiles)
    assert (found.blank_images, found.blank_with_empty_mask) == (2, 1)
    assert found.duplicate_image_groups == 0  # blank images are not called duplicates


@pytest.mark.parametrize(
    ("percent", "expected"),
    [(0, 0), (1, 1), (10, 1), (11, 2), (70, 7), (71, 8), (99, 10), (100, 10)],
)
def test_coverage_classes_have_exact_edges(percent, expected):
    mask = np.zeros(100, np.uint8)
    mask[:percent] = 1
    assert coverage_classes(mask.reshape(1, 10, 10)).tolist() == [expected]


def test_unlabelled_tiles_have_no_mask_counts():
    images = np.zeros((2, 8, 8), np.uint8)
    found = census(Tiles(("a", "b"), images, None, None, "made here"))
    assert found.blank_images == 2
    assert found.empty_masks is None
    assert found.blank_with_empty_mask is None
    assert found.coverage_classes is None
    assert not any("mask" in label or "depth" in label for label, _ in found.rows())


def test_census_becomes_json_and_rows():
    found = census(make_tiles([mask_of(0), mask_of(45)], z_feet=np.array([51, 959], np.float32)))
    table = json.loads(json.dumps(found.to_dict()))
    assert table["coverage_classes"]["0 %"] == 1
    assert table["coverage_classes"]["10-20 %"] == 1
    rows = dict(found.rows())
    assert rows["empty masks"] == "1 (50.00 %)"
    assert rows["size"] == "20 x 20 pixels"
    assert rows["depth min / median / max (feet)"] == "51 / 505 / 959"
    assert rows["full masks"] == "0"
    assert [label for label in rows if label.startswith("coverage")] == [
        f"coverage {name}" for name in coverage_class_names()
    ]


def test_no_tiles_is_an_error():
    with pytest.raises(DataError, match="no tiles"):
        census(make_tiles(np.zeros((0, 8, 8))))


@pytest.mark.realdata
@pytest.mark.skipif("DIAPIR_TGS" not in os.environ, reason="DIAPIR_TGS does not point to the data")
def test_the_real_data_are_as_known():
    """The counts of the full 4,000 labelled tiles; a part of them holds about its share."""
    known = {
        "empty_masks": 1562,
        "blank_images": 80,
        "blank_with_empty_mask": 80,
        "vertical_masks": 113,
        "vertical_below": 22,
        "masks_1_to_10": 45,
        "masks_1_to_50": 113,
        "masks_under_100": 166,
        "duplicate_mask_groups": 30,
        "duplicate_mask_tiles": 67,
    }
    found = census(read_tiles(Path(os.environ["DIAPIR_TGS"]), "train")).to_dict()
    part = found["tiles"] / 4000
    for key, count in known.items():
        share = part**2 if key.startswith("duplicate") else part  # both of a pair must be there
        assert found[key] <= count
        assert found[key] == pytest.approx(share * count, rel=0.15, abs=4), key
    assert found["full_masks"] == 0
    assert found["duplicate_image_groups"] == 0
    assert found["distinct_depths"] <= 909
    assert (found["depth_min_feet"], found["depth_max_feet"]) == (51, 959)
