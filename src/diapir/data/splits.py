"""Divides labelled tiles into training, validation and hold-out, stratified and repeatable."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diapir.config import SplitConfig
from diapir.data.census import coverage_classes, vertical_masks
from diapir.errors import DataError
from diapir.io.tiles import Tiles

Index = NDArray[np.intp]

_DEPTH_BINS = 10
_PARTS = ("train", "val", "holdout")


@dataclass(frozen=True, eq=False)
class Split:
    """Which tiles train, which choose epoch and threshold, and which only report the score.

    Args:
        train: Sorted positions of the training tiles.
        val: Sorted positions of the validation tiles.
        holdout: Sorted positions of the hold-out tiles; the same for every fold.
        fold: Number of the fold, from 0; None for a single split.
        seed: Seed it was drawn from.
        stratify: What it was stratified by.
    """

    train: Index
    val: Index
    holdout: Index
    fold: int | None
    seed: int
    stratify: str

    def to_json(self, ids: Sequence[str]) -> dict[str, Any]:
        """Return the split with ids in place of positions, as plain values.

        Args:
            ids: Names of all tiles, in the order that the positions refer to.
        """
        parts = {part: [ids[i] for i in getattr(self, part)] for part in _PARTS}
        return {"fold": self.fold, "seed": self.seed, "stratify": self.stratify, **parts}

    @staticmethod
    def from_json(stored: dict[str, Any], ids: Sequence[str]) -> "Split":
        """Return a stored split for tiles in any order; it may leave tiles out.

        Args:
            stored: What `to_json` returned.
            ids: Names of all tiles; positions will refer to this order.

        Raises:
            DataError: A key is missing, an id is not among the tiles, or one occurs twice.
        """
        _check_stored(stored)
        position = {id_: i for i, id_ in enumerate(ids)}
        seen: set[str] = set()
        parts: dict[str, Index] = {}
        for part in _PARTS:
            for id_ in stored[part]:
                _check_stored_id(id_, part, position, seen)
                seen.add(id_)
            parts[part] = np.sort(np.array([position[i] for i in stored[part]], np.intp))
        return Split(**parts, fold=stored["fold"], seed=stored["seed"], stratify=stored["stratify"])


def make_splits(
    tiles: Tiles, config: SplitConfig, groups: Sequence[Hashable] | None = None
) -> list[Split]:
    """Return one split, or one for each fold, drawn from the seed of the configuration.

    First the hold-out is set aside. With one fold, validation is a share of the rest; with more,
    the rest is dealt into folds and split k validates on fold k. Each part takes its share of
    every stratum, to within one tile unless groups forbid it.

    Args:
        tiles: The labelled tiles.
        config: Shares, folds, strata and seed.
        groups: For each tile the group it belongs to; tiles of a group stay in one part.

    Raises:
        DataError: Depths or masks to stratify by are missing, groups do not match the tiles, or
            there are too few tiles for so many parts.
    """
    strata = _strata(tiles, config.stratify)
    units = _units(tiles, groups)
    rng = np.random.default_rng(config.seed)
    everything = np.arange(len(tiles), dtype=np.intp)
    rest, holdout = _part(everything, strata, units, config.holdout, rng)
    if config.folds == 1:
        pairs = [_part(rest, strata, units, config.val, rng)]
    else:
        dealt = _deal(strata[rest], units[rest], (1 / config.folds,) * config.folds, rng)
        pairs = [(rest[dealt != fold], rest[dealt == fold]) for fold in range(config.folds)]
    keep = _worth_training(tiles, config)
    splits = [
        Split(
            train=train[keep[train]],
            val=val,
            holdout=holdout,
            fold=None if config.folds == 1 else fold,
            seed=config.seed,
            stratify=config.stratify,
        )
        for fold, (train, val) in enumerate(pairs)
    ]
    for split in splits:
        _check_filled(split, config, len(np.unique(units)), tiles.source)
    return splits


def _worth_training(tiles: Tiles, config: SplitConfig) -> NDArray[np.bool_]:
    """Return (N,) which tiles may train; validation and hold-out keep all, as the world does."""
    keep = ~tiles.blank if config.drop_blank else np.ones(len(tiles), np.bool_)
    if config.drop_vertical:
        vertical, below = vertical_masks(tiles.truth)
        keep &= ~vertical & ~below
    return keep


def _strata(tiles: Tiles, stratify: str) -> Index:
    """Return the stratum of each tile as a number, neighbours being alike."""
    code = np.zeros(len(tiles), np.intp)
    if stratify in ("depth", "both"):
        code = code + _depth_bins(tiles)
    if stratify in ("coverage", "both"):
        if tiles.masks is None:
            raise DataError(
                "these tiles have no masks to stratify by coverage",
                where=tiles.source,
                mend="Give labelled tiles or set split.stratify to depth or none.",
            )
        code = code + _DEPTH_BINS * coverage_classes(tiles.masks)
    return code


def _depth_bins(tiles: Tiles) -> Index:
    if tiles.z_feet is None:
        raise DataError(
            "these tiles have no depths to stratify by",
            where=tiles.source,
            expected="depths.csv with a row id,z for every tile",
            mend="Add depths.csv or set split.stratify to coverage or none.",
        )
    inner = np.linspace(0, 1, _DEPTH_BINS + 1)[1:-1]
    edges = np.quantile(tiles.z_feet, inner) if len(tiles) else inner
    return np.asarray(np.searchsorted(edges, tiles.z_feet, side="right"), np.intp)


def _units(tiles: Tiles, groups: Sequence[Hashable] | None) -> Index:
    """Return for each tile the number of the unit that must stay whole."""
    if groups is None:
        return np.arange(len(tiles), dtype=np.intp)
    if len(groups) != len(tiles):
        raise DataError(
            f"{len(groups)} groups for {len(tiles)} tiles",
            where=tiles.source,
            expected="one group for each tile",
        )
    number: dict[Hashable, int] = {}
    return np.array([number.setdefault(group, len(number)) for group in groups], np.intp)


def _part(
    of: Index, strata: Index, units: Index, share: float, rng: np.random.Generator
) -> tuple[Index, Index]:
    """Return (the rest, a share) of the positions; a share above 0 gets at least one unit."""
    if share <= 0 or len(of) == 0:
        return of, of[:0]
    taken = _deal(strata[of], units[of], (1 - share, share), rng) == 1
    return of[~taken], of[taken]


def _deal(strata: Index, units: Index, shares: Sequence[float], rng: np.random.Generator) -> Index:
    """Return for each tile the part it is dealt to, whole units at a time."""
    if len(np.unique(units)) == len(units):
        return _deal_tiles(strata, shares, rng)
    return _deal_groups(strata, units, shares, rng)


def _deal_tiles(strata: Index, shares: Sequence[float], rng: np.random.Generator) -> Index:
    """Deal tiles one by one: each part's count in any stratum is within one of its share.

    Tiles stand in a row, ordered by stratum and shuffled within. Equal parts take turns; a share
    takes evenly spaced places. Either way a stretch of the row holds the right number of each.
    """
    n = len(strata)
    row = rng.permutation(n)
    row = row[np.argsort(strata[row], kind="stable")]
    place = np.arange(n, dtype=np.intp)
    part = np.empty(n, np.intp)
    if len(shares) == 2 and shares[0] != shares[1]:
        count = min(max(round(shares[1] * n), 1), n - 1) if n > 1 else 0
        part[row] = (place + 1) * count // n - place * count // n
    else:
        part[row] = place % len(shares)
    return part


def _deal_groups(
    strata: Index, units: Index, shares: Sequence[float], rng: np.random.Generator
) -> Index:
    """Deal whole groups, the largest first, each to the part that lacks its strata most.

    The cost of a deal is the chi-square distance of each part's strata from its share of them, so
    that a small part is not flooded by one large group.
    """
    share = np.asarray(shares)[:, None]
    _, stratum = np.unique(strata, return_inverse=True)
    _, unit = np.unique(units, return_inverse=True)
    tally = np.zeros((int(unit.max()) + 1, int(stratum.max()) + 1), np.float64)
    np.add.at(tally, (unit, stratum), 1)
    lack = share * tally.sum(axis=0)
    order = rng.permutation(len(tally))
    order = order[np.argsort(-tally[order].sum(axis=1), kind="stable")]
    part_of_unit = np.empty(len(tally), np.intp)
    for group in order:
        cost = ((tally[group] ** 2 - 2 * tally[group] * lack) / share).sum(axis=1)
        part_of_unit[group] = best = int(np.argmin(cost))
        lack[best] -= tally[group]
    _fill_empty_parts(part_of_unit, order, len(shares))
    return np.asarray(part_of_unit[unit], np.intp)


def _fill_empty_parts(part_of_unit: Index, order: Index, parts: int) -> None:
    """Move the smallest groups from parts that have several to parts that have none."""
    for part in np.setdiff1d(np.arange(parts), part_of_unit):
        for group in order[::-1]:
            if (part_of_unit == part_of_unit[group]).sum() > 1:
                part_of_unit[group] = part
                break


def _check_filled(split: Split, config: SplitConfig, units: int, source: str) -> None:
    wanted = {"train": True, "val": config.folds > 1 or config.val > 0}
    wanted["holdout"] = config.holdout > 0
    for part in _PARTS:
        if wanted[part] and len(getattr(split, part)) == 0:
            raise DataError(
                f"no tile is left for the part {part!r}: {units} tiles or groups are too few",
                where=source,
                expected=f"enough for {config.folds} fold(s) and a hold-out of {config.holdout:g}",
                mend="Give more tiles, or ask for fewer folds or other shares.",
            )


def _check_stored(stored: dict[str, Any]) -> None:
    missing = [key for key in ("fold", "seed", "stratify", *_PARTS) if key not in stored]
    if missing:
        raise DataError(
            f"the stored split lacks {', '.join(missing)}",
            expected="what Split.to_json returned",
            mend="Take the split of another run or make a new one.",
        )
    for part in _PARTS:
        ids = stored[part]
        if not isinstance(ids, list) or not all(isinstance(id_, str) for id_ in ids):
            raise DataError(
                "a part of the stored split is no list of ids",
                where=f"part {part}",
                expected="what Split.to_json returned",
                mend="Take the split of another run or make a new one.",
            )


def _check_stored_id(id_: str, part: str, position: dict[str, int], seen: set[str]) -> None:
    if id_ not in position:
        raise DataError(
            f"the tile {id_} of the stored split is not in the data",
            where=f"part {part}",
            mend="Give the data that the run was trained on.",
        )
    if id_ in seen:
        raise DataError(f"the tile {id_} occurs twice in the stored split", where=f"part {part}")
