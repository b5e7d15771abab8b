"""Counts what is in a labelled data set, above all what may mislead a training on it."""

from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diapir.errors import DataError
from diapir.io.tiles import Tiles

COVERAGE_CLASSES = 11
"""Number of coverage classes: no salt, then ten steps of 10 %, each with its upper end."""


@dataclass(frozen=True)
class Census:
    """What a data set holds; every field is a plain value.

    Args:
        tiles: Number of tiles.
        height: Of each tile in pixels.
        width: Of each tile in pixels.
        pixel_mean: Mean over all pixels of all tiles, 0..1.
        pixel_std: Standard deviation over the same.
        blank_images: Images of one constant value.
        blank_with_empty_mask: Of these, how many have an empty mask; None without masks.
        duplicate_image_groups: Groups of images, blank ones aside, that are equal in every byte.
        duplicate_image_tiles: Tiles in these groups.
        distinct_depths: Number of different depths; None without depths, as are the next three.
        depth_min_feet: Smallest depth.
        depth_median_feet: Median depth.
        depth_max_feet: Largest depth.
        empty_masks: Tiles without salt; None without masks, as is all that follows.
        empty_share: The same as a share of all tiles; the score of predicting no salt anywhere.
        full_masks: Masks that cover the whole tile.
        vertical_masks: Masks, neither empty nor full, whose rows are all equal.
        vertical_below: Masks that are so in the lower half only.
        masks_1_to_10: Masks of 1 to 10 salt pixels.
        masks_1_to_50: Masks of 1 to 50 salt pixels.
        masks_under_100: Masks of 1 to 99 salt pixels.
        duplicate_mask_groups: Groups of equal masks with salt.
        duplicate_mask_tiles: Tiles in these groups.
        coverage_classes: Tiles in each class of coverage (`coverage_classes`), 11 numbers.
    """

    tiles: int
    height: int
    width: int
    pixel_mean: float
    pixel_std: float
    blank_images: int
    blank_with_empty_mask: int | None
    duplicate_image_groups: int
    duplicate_image_tiles: int
    distinct_depths: int | None
    depth_min_feet: float | None
    depth_median_feet: float | None
    depth_max_feet: float | None
    empty_masks: int | None
    empty_share: float | None
    full_masks: int | None
    vertical_masks: int | None
    vertical_below: int | None
    masks_1_to_10: int | None
    masks_1_to_50: int | None
    masks_under_100: int | None
    duplicate_mask_groups: int | None
    duplicate_mask_tiles: int | None
    coverage_classes: tuple[int, ...] | None

    def to_dict(self) -> dict[str, Any]:
        """Return the census as plain values that JSON can hold."""
        table = asdict(self)
        if self.coverage_classes is not None:
            table["coverage_classes"] = dict(
                zip(coverage_class_names(), self.coverage_classes, strict=True)
            )
        return table

    def rows(self) -> list[tuple[str, str]]:
        """Return the census as (label, value) rows for a table, unknown values left out."""
        rows = [(label, _show(write(self))) for label, write in _ROWS]
        if self.coverage_classes is not None:
            pairs = zip(coverage_class_names(), self.coverage_classes, strict=True)
            rows += [(f"coverage {name}", f"{count:,}") for name, count in pairs]
        return [(label, value) for label, value in rows if value]


def census(tiles: Tiles) -> Census:
    """Return the counts of a data set, labelled or not.

    Args:
        tiles: At least one tile.

    Raises:
        DataError: There are no tiles.
    """
    if len(tiles) == 0:
        raise DataError("there are no tiles to count", where=tiles.source)
    blank = tiles.blank
    mean, std = _pixel_moments(tiles.images)
    groups, members = _count_equal(tiles.images[~blank])
    z_feet = tiles.z_feet
    return Census(
        tiles=len(tiles),
        height=tiles.images.shape[1],
        width=tiles.images.shape[2],
        pixel_mean=mean,
        pixel_std=std,
        blank_images=int(blank.sum()),
        duplicate_image_groups=groups,
        duplicate_image_tiles=members,
        distinct_depths=None if z_feet is None else len(np.unique(z_feet)),
        depth_min_feet=None if z_feet is None else float(z_feet.min()),
        depth_median_feet=None if z_feet is None else float(np.median(z_feet)),
        depth_max_feet=None if z_feet is None else float(z_feet.max()),
        **_count_masks(tiles.masks, blank),
    )


def find_quirks(tiles: Tiles) -> dict[str, NDArray[np.bool_]]:
    """Return which tiles have which of the quirks that the census counts.

    Args:
        tiles: With or without masks; quirks of masks are left out without.

    Returns:
        (N,) bool by the name of the quirk, those of no tile included.
    """
    blank = tiles.blank
    found = {"blank image": blank, "image twice": _is_repeated(tiles.images) & ~blank}
    if tiles.masks is None:
        return found
    salt = tiles.masks.sum(axis=(1, 2), dtype=np.int64)
    vertical, below = vertical_masks(tiles.masks)
    return {
        **found,
        "no salt": np.asarray(salt == 0),
        "all salt": np.asarray(salt == tiles.masks[0].size),
        "vertical mask": vertical,
        "vertical in the lower half": below,
        "1-10 salt pixels": np.asarray((salt > 0) & (salt <= 10)),
        "under 100 salt pixels": np.asarray((salt > 0) & (salt < 100)),
        "mask twice": np.asarray(_is_repeated(tiles.masks) & (salt > 0)),
    }


def vertical_masks(
    masks: NDArray[np.uint8],
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return which masks are vertical stripes, and which are so in their lower half only.

    Many of them contradict their image (docs/tgs.md).

    Args:
        masks: (N, H, W) uint8 of 0 and 1.

    Returns:
        Two of (N,); no mask is in both, none of them is empty or full.
    """
    vertical = _rows_equal(masks)
    return vertical, _rows_equal(masks[:, masks.shape[1] // 2 :]) & ~vertical


def coverage_classes(masks: NDArray[np.uint8]) -> NDArray[np.intp]:
    """Return the coverage class of each mask: 0 without salt, k for (10 (k - 1), 10 k] percent.

    Args:
        masks: (N, H, W) uint8 of 0 and 1.

    >>> coverage_classes(np.array([[[0, 0]], [[0, 1]], [[1, 1]]], np.uint8)).tolist()
    [0, 5, 10]
    """
    salt = masks.sum(axis=(1, 2), dtype=np.intp)
    return classes_by_pixels(salt, masks.shape[1] * masks.shape[2])


def classes_by_pixels(salt: NDArray[Any], pixels: NDArray[Any] | int) -> NDArray[np.intp]:
    """Return the coverage classes of tiles by how many of their pixels are salt.

    Args:
        salt: (N,) whole numbers.
        pixels: Of each tile, (N,) or one number for all.
    """
    return np.asarray(-(-10 * salt // pixels), np.intp)  # whole numbers: 10 % is exactly 10 %


def count_by_coverage(masks: NDArray[np.uint8]) -> tuple[int, ...]:
    """Return how many masks (N, H, W) are in each of the `COVERAGE_CLASSES`."""
    counts = np.bincount(coverage_classes(masks), minlength=COVERAGE_CLASSES)
    return tuple(int(count) for count in counts)


def coverage_class_names() -> list[str]:
    """Return the names of the coverage classes in order, such as ``"0 %"`` and ``"0-10 %"``."""
    return ["0 %", *(f"{low}-{low + 10} %" for low in range(0, 100, 10))]


def _count_masks(masks: NDArray[np.uint8] | None, blank: NDArray[np.bool_]) -> dict[str, Any]:
    if masks is None:
        names = list(Census.__dataclass_fields__)
        of_masks = ["blank_with_empty_mask", *names[names.index("empty_masks") :]]
        return dict.fromkeys(of_masks)
    area = masks.shape[1] * masks.shape[2]
    salt = masks.sum(axis=(1, 2), dtype=np.int64)
    vertical, below = vertical_masks(masks)
    groups, members = _count_equal(masks[salt > 0])
    return {
        "blank_with_empty_mask": int((blank & (salt == 0)).sum()),
        "empty_masks": int((salt == 0).sum()),
        "empty_share": float((salt == 0).mean()),
        "full_masks": int((salt == area).sum()),
        "vertical_masks": int(vertical.sum()),
        "vertical_below": int(below.sum()),
        "masks_1_to_10": int(((salt > 0) & (salt <= 10)).sum()),
        "masks_1_to_50": int(((salt > 0) & (salt <= 50)).sum()),
        "masks_under_100": int(((salt > 0) & (salt < 100)).sum()),
        "duplicate_mask_groups": groups,
        "duplicate_mask_tiles": members,
        "coverage_classes": count_by_coverage(masks),
    }


def _rows_equal(masks: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Return which masks, neither empty nor full, have equal rows."""
    equal = (masks == masks[:, :1]).all(axis=(1, 2))
    mixed = masks[:, 0].any(axis=1) & ~masks[:, 0].all(axis=1)
    return np.asarray(equal & mixed, np.bool_)


def _count_equal(arrays: NDArray[np.uint8]) -> tuple[int, int]:
    """Return the number of groups of equal arrays and of arrays in such groups."""
    repeated = [
        count for count in Counter(array.tobytes() for array in arrays).values() if count > 1
    ]
    return len(repeated), sum(repeated)


def _is_repeated(arrays: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Return which arrays are equal to another one."""
    times = Counter(array.tobytes() for array in arrays)
    return np.array([times[array.tobytes()] > 1 for array in arrays], np.bool_)


def _pixel_moments(images: NDArray[np.uint8]) -> tuple[float, float]:
    """Return mean and standard deviation over 0..1, exact, from the 256 counts of values."""
    counts = np.bincount(images.ravel(), minlength=256).astype(np.float64)
    values = np.arange(256) / 255
    mean = float(counts @ values / counts.sum())
    return mean, float(np.sqrt(counts @ (values - mean) ** 2 / counts.sum()))


def _show(value: int | float | str | None) -> str:
    if value is None:
        return ""
    if isinstance(value, int):
        return f"{value:,}"
    return value if isinstance(value, str) else f"{value:.4f}"


def _groups(groups: int | None, members: int | None) -> str | None:
    return None if groups is None else f"{groups:,} groups, {members:,} tiles"


def _depth_range(found: Census) -> str | None:
    if found.distinct_depths is None:
        return None
    feet = (found.depth_min_feet, found.depth_median_feet, found.depth_max_feet)
    return "{:g} / {:g} / {:g}".format(*feet)


def _empty(found: Census) -> str | None:
    if found.empty_masks is None:
        return None
    return f"{found.empty_masks:,} ({100 * found.empty_masks / found.tiles:.2f} %)"


def _blank(found: Census) -> str:
    if found.blank_with_empty_mask is None:
        return f"{found.blank_images:,}"
    return f"{found.blank_images:,} ({found.blank_with_empty_mask:,} with an empty mask)"


_ROWS: tuple[tuple[str, Callable[[Census], int | float | str | None]], ...] = (
    ("tiles", lambda found: found.tiles),
    ("size", lambda found: f"{found.width} x {found.height} pixels"),
    ("pixel mean / std (of 0..1)", lambda found: f"{found.pixel_mean:.4f} / {found.pixel_std:.4f}"),
    ("blank images", _blank),
    (
        "byte-identical images (not blank)",
        lambda found: _groups(found.duplicate_image_groups, found.duplicate_image_tiles),
    ),
    ("distinct depths", lambda found: found.distinct_depths),
    ("depth min / median / max (feet)", _depth_range),
    ("empty masks", _empty),
    ("full masks", lambda found: found.full_masks),
    ("vertical masks (all rows equal)", lambda found: found.vertical_masks),
    ("vertical in the lower half only", lambda found: found.vertical_below),
    ("masks of 1-10 pixels", lambda found: found.masks_1_to_10),
    ("masks of 1-50 pixels", lambda found: found.masks_1_to_50),
    ("masks under 100 pixels", lambda found: found.masks_under_100),
    (
        "identical masks with salt",
        lambda found: _groups(found.duplicate_mask_groups, found.duplicate_mask_tiles),
    ),
)
