"""Synthetic competition data: tiles cut from random earths, with the quirks of the real ones.

Each tile is a window on an earth of its own (`scenarios`, `geology`), seen by a survey of its own
(`imaging`). Shares of empty, tiny, vertical and blank tiles, the spread of coverage and its weak
dependence on depth are those of the labelled tiles of the TGS Salt Identification Challenge.
"""

from collections.abc import Callable
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from diapir.config import TILE_SIZE
from diapir.data.geology import REGION_M, Geology, Grid, earth_model, salt_distance, section_grid
from diapir.data.imaging import draw_conditions, seismic_image, to_grey
from diapir.data.scenarios import draw_geology
from diapir.errors import DataError
from diapir.io.tiles import Tiles

Pixels = NDArray[np.uint8]

_COVERAGE_DECILES = (0.005, 0.02, 0.07, 0.145, 0.25, 0.365, 0.48, 0.595, 0.745, 0.9, 0.99)
"""Deciles of the share of salt in the real tiles that have any, rounded."""

_SMALLEST, _LARGEST = 16, 2048


class _Kind(IntEnum):
    SEDIMENTS = 0
    BLANK = 1
    ALL_SALT = 2
    SALT = 3
    TINY = 4
    VERTICAL = 5
    VERTICAL_BELOW = 6


_SHARES = {
    _Kind.BLANK: 80 / 4000,
    _Kind.ALL_SALT: 120 / 4000,  # not counted in the real data, where they are labelled empty
    _Kind.TINY: 166 / 4000,
    _Kind.VERTICAL: 113 / 4000,
    _Kind.VERTICAL_BELOW: 22 / 4000,
}
_EMPTY_SHARE = 1562 / 4000
_WITHOUT_SALT = (_Kind.SEDIMENTS, _Kind.BLANK, _Kind.ALL_SALT)


def generate_tiles(
    n: int,
    seed: int,
    *,
    size: int = TILE_SIZE,
    labelled: bool = True,
    advance: Callable[[int], None] | None = None,
) -> Tiles:
    """Return synthetic tiles with the quirks of the competition's, sorted by id.

    Quirks, from 40 tiles on at least one of each: blank tiles, all-salt tiles labelled empty,
    masks of a few pixels, masks of vertical stripes that disagree with the image (some in the
    lower half only), and masks that occur twice.

    Args:
        n: Number of tiles.
        seed: Equal seeds give equal tiles; labelled and unlabelled ones of a seed differ.
        size: Height and width in pixels.
        labelled: Whether the tiles get masks.
        advance: Called with 1 after each tile, for a progress bar.

    Raises:
        DataError: ``n`` or ``seed`` is out of range, or tiles of this size cannot be made.
    """
    _check_request(n, seed, size)
    rng = np.random.default_rng([seed, int(labelled)])
    z_feet = _draw_depths(rng, n)
    kinds = _draw_kinds(rng, z_feet)
    ids = _draw_ids(rng, n)
    images = np.zeros((n, size, size), np.uint8)
    masks = np.zeros((n, size, size), np.uint8)
    for i, kind in enumerate(kinds):
        tile_rng = np.random.default_rng([seed, int(labelled), i])
        images[i], masks[i] = _draw_labelled(tile_rng, _Kind(kind), size)
        if advance is not None:
            advance(1)
    _repeat_masks(rng, masks, np.flatnonzero(kinds == _Kind.VERTICAL))
    return Tiles(ids, images, masks if labelled else None, z_feet, f"synthetic, seed {seed}")


def draw_tile(
    rng: np.random.Generator, coverage: float, size: int = TILE_SIZE
) -> tuple[Pixels, Pixels]:
    """Return a grey image and its true salt mask, (size, size) uint8 each.

    Args:
        rng: Source of randomness.
        coverage: Share of salt to come close to, 0..1; 0 gives no salt at all.
        size: Height and width in pixels.
    """
    geology = draw_geology(rng, salt=coverage > 0)
    conditions = draw_conditions(rng)
    pixels_per_wave = float(np.clip(np.exp(rng.normal(np.log(16), 0.5)), 5, 40))
    sample_m = conditions.wavelength_m / pixels_per_wave
    # sections are usually shown taller than they are: traces lie farther apart than samples
    trace_m = sample_m * float(np.clip(np.exp(rng.normal(np.log(1.7), 0.35)), 1, 3.5))
    corner = _place_window(rng, geology, coverage, (size * sample_m, size * trace_m))
    margin = _fast_margin(size, round(min(2.0 * pixels_per_wave, 32)) + 4)
    grid = section_grid(
        (size + 2 * margin, size + 2 * margin),
        (sample_m, trace_m),
        inline_m=corner[0] - margin * trace_m,
        depth_m=corner[1] - margin * sample_m,
    )
    model = earth_model(geology, grid)
    image = seismic_image(model, grid, conditions, rng)
    inner = _best_crop(model.salt, size, margin, coverage)
    return to_grey(image[inner]), model.salt[inner].astype(np.uint8)


def _check_request(n: int, seed: int, size: int) -> None:
    if n < 1 or seed < 0:
        raise DataError(
            f"cannot generate {n} tiles from seed {seed}",
            expected="at least one tile and a seed of 0 or more",
        )
    if not _SMALLEST <= size <= _LARGEST:
        raise DataError(
            f"cannot generate tiles of {size} pixels",
            expected=f"{_SMALLEST} to {_LARGEST} pixels",
            mend=f"Ask for the competition's size, {TILE_SIZE}.",
        )


def _draw_depths(rng: np.random.Generator, n: int) -> NDArray[np.float32]:
    return np.clip(np.rint(rng.normal(507, 205, n)), 51, 959).astype(np.float32)


def _draw_kinds(rng: np.random.Generator, z_feet: NDArray[np.float32]) -> NDArray[np.intp]:
    """Return the `_Kind` of each tile: exact shares, tiles without salt rather shallow or deep."""
    n = len(z_feet)
    least = 1 if n >= 40 else 0
    count = {kind: max(least, round(share * n)) for kind, share in _SHARES.items()}
    empty = max(round(_EMPTY_SHARE * n), count[_Kind.BLANK] + count[_Kind.ALL_SALT])
    count[_Kind.SEDIMENTS] = empty - count[_Kind.BLANK] - count[_Kind.ALL_SALT]
    count[_Kind.SALT] = n - sum(count.values())
    # the real shares of empty masks by depth quintile are 0.61, 0.31, 0.30, 0.31 and 0.43
    weight = np.interp(z_feet, [250, 380, 650, 800], [2.6, 1.0, 1.0, 1.6])
    without_salt = np.zeros(n, np.bool_)
    without_salt[rng.choice(n, empty, replace=False, p=weight / weight.sum())] = True
    kinds = np.empty(n, np.intp)
    for chosen in (True, False):
        pool = [
            kind for kind in _Kind if (kind in _WITHOUT_SALT) == chosen for _ in range(count[kind])
        ]
        kinds[without_salt == chosen] = rng.permutation(np.array(pool, np.intp))
    return kinds


def _draw_ids(rng: np.random.Generator, n: int) -> tuple[str, ...]:
    """Return different names of ten hexadecimal digits, sorted, as the competition's are."""
    numbers: set[int] = set()
    while len(numbers) < n:
        numbers.update(int(number) for number in rng.integers(0, 16**10, n - len(numbers)))
    return tuple(f"{number:010x}" for number in sorted(numbers))


def _draw_labelled(rng: np.random.Generator, kind: _Kind, size: int) -> tuple[Pixels, Pixels]:
    """Return the image of a tile and the mask that the competition would give it."""
    empty = np.zeros((size, size), np.uint8)
    if kind is _Kind.BLANK:
        return empty, empty
    if kind is _Kind.SEDIMENTS:
        return draw_tile(rng, 0.0, size)
    if kind is _Kind.ALL_SALT:
        image, _ = _draw_until(rng, 1.0, size, lambda salt: bool(salt.all()))
        return image, empty
    if kind is _Kind.VERTICAL:
        image, _ = draw_tile(rng, 0.0, size)
        return image, _draw_stripe(rng, size)
    if kind is _Kind.VERTICAL_BELOW:
        return _draw_stripe_below(rng, size)
    area = size * size
    if kind is _Kind.TINY:
        most = max(2, area * 99 // TILE_SIZE**2)
        coverage = float(rng.choice([0.05, 0.3, 0.75], p=[0.27, 0.41, 0.32])) * most / area
        return _draw_until(rng, coverage, size, lambda salt: 0 < salt.sum() <= most)
    coverage = float(np.interp(rng.random(), np.linspace(0, 1, 11), _COVERAGE_DECILES))
    return _draw_until(rng, coverage, size, lambda salt: 0 < salt.sum() < area)


def _draw_until(
    rng: np.random.Generator, coverage: float, size: int, fits: Callable[[Pixels], bool]
) -> tuple[Pixels, Pixels]:
    """Return a tile whose mask fits, or an empty mask in the rare case that none does."""
    for _ in range(12):
        image, salt = draw_tile(rng, coverage, size)
        if fits(salt):
            return image, salt
    return draw_tile(rng, 0.0, size)


def _draw_stripe(rng: np.random.Generator, size: int) -> Pixels:
    """Return a mask whose rows are all equal: salt from a column to the left or right edge."""
    mask = np.zeros((size, size), np.uint8)
    width = int(rng.integers(max(1, size // 25), 2 * size // 3))
    mask[:, :width] = 1
    return mask if rng.random() < 0.5 else mask[:, ::-1].copy()


def _draw_stripe_below(rng: np.random.Generator, size: int) -> tuple[Pixels, Pixels]:
    """Return a tile whose mask has equal rows in the lower half only."""
    image, salt = draw_tile(rng, 0.5, size)
    mask = _draw_stripe(rng, size)
    mask[: size // 2] &= salt[: size // 2]
    mask[: size // 4] = 0  # whatever the salt, the whole mask is not vertical
    return image, mask


def _repeat_masks(rng: np.random.Generator, masks: Pixels, vertical: NDArray[np.intp]) -> None:
    """Give every other vertical mask to a second tile: 67 of 4,000 real tiles share 30 masks."""
    for first, second in zip(vertical[0::2], vertical[1::2], strict=False):
        if first == vertical[0] or rng.random() < 0.5:
            masks[second] = masks[first]


_ROUNDS = 50
"""Of windows that are tried until one meets salt."""


def _place_window(
    rng: np.random.Generator,
    geology: Geology,
    coverage: float,
    extent_m: tuple[float, float],
    tries: int = 110,
) -> tuple[float, float]:
    """Return the corner (inline, depth) of a window with about the wanted share of salt."""
    half = REGION_M[0] / 2
    raster = (np.arange(8) + 0.5) / 8
    for _ in range(_ROUNDS):
        inline = rng.uniform(-half, max(half - extent_m[1], -half), tries)
        depth = rng.uniform(150, max(REGION_M[1] - extent_m[0], 150), tries)
        if not geology.salt:
            return float(inline[0]), float(depth[0])
        grid = Grid(
            inline_m=(inline[:, None, None] + extent_m[1] * raster[None, None, :]).astype(
                np.float32
            ),
            crossline_m=np.zeros((1, 1, 1), np.float32),
            depth_m=(depth[:, None, None] + extent_m[0] * raster[None, :, None]).astype(np.float32),
            spacing_m=(1.0, extent_m[0] / 8, extent_m[1] / 8),
        )
        share = (salt_distance(geology, grid) < 0).mean(axis=(1, 2))
        if share.any():  # small windows may all miss a small body
            break
    miss = np.abs(share - coverage) + np.where((share == 0) & (coverage > 0), 1, 0)
    best = int(np.argmin(miss))
    return float(inline[best]), float(depth[best])


def _best_crop(
    salt: NDArray[np.bool_], size: int, margin: int, coverage: float
) -> tuple[slice, slice]:
    """Return the window near the middle whose share of salt is closest to the wanted one."""
    reach = margin // 2  # the outer half of the margin may carry what wrapped around
    total = np.zeros((salt.shape[0] + 1, salt.shape[1] + 1), np.int64)
    total[1:, 1:] = salt.cumsum(axis=0).cumsum(axis=1)
    low = slice(margin - reach, margin + reach + 1)
    high = slice(low.start + size, low.stop + size)
    counts = total[high, high] - total[low, high] - total[high, low] + total[low, low]
    miss = np.abs(counts - coverage * size * size)
    if 0 < coverage < 1:
        miss[counts == 0] += size * size  # a little salt too much is better than none
    offsets = np.abs(np.arange(-reach, reach + 1))
    miss = miss + 1e-3 * (offsets[:, None] + offsets[None, :])  # of equals the one in the middle
    row, column = np.unravel_index(int(np.argmin(miss)), miss.shape)
    top, left = low.start + int(row), low.start + int(column)
    return slice(top, top + size), slice(left, left + size)


def _fast_margin(size: int, least: int) -> int:
    """Return the smallest margin that makes a length which the Fourier transform likes."""
    margin = least
    while not _is_smooth(size + 2 * margin):
        margin += 1
    return margin


def _is_smooth(length: int) -> bool:
    for factor in (2, 3, 5, 7):
        while length % factor == 0:
            length //= factor
    return length == 1
