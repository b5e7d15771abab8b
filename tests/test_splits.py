import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diapir.config import SplitConfig
from diapir.data.census import coverage_classes
from diapir.data.splits import Split, make_splits
from diapir.errors import DataError
from diapir.io.tiles import Tiles


def make_tiles(n, seed=0, *, masks=True, depths=True):
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (n, 8, 8), dtype=np.uint8)
    share = np.where(rng.random(n) < 0.4, 0, rng.random(n))
    salt = (rng.random((n, 8, 8)) < share[:, None, None]).astype(np.uint8)
    z_feet = rng.integers(50, 960, n).astype(np.float32)
    ids = tuple(f"t{i:05d}" for i in range(n))
    return Tiles(ids, images, salt if masks else None, z_feet if depths else None, "made here")


def parts_of(split):
    return np.concatenate([split.train, split.val, split.holdout])


configs = st.builds(
    SplitConfig,
    stratify=st.sampled_from(["none", "depth", "coverage", "both"]),
    holdout=st.floats(0, 0.5),
    val=st.floats(0, 0.5),
    folds=st.integers(1, 6),
    seed=st.integers(0, 1000),
)


@settings(max_examples=60, deadline=None)
@given(n=st.integers(40, 300), config=configs)
def test_each_split_is_a_partition_of_the_right_sizes(n, config):
    tiles = make_tiles(n)
    splits = make_splits(tiles, config)
    assert len(splits) == config.folds
    for split in splits:
        assert np.array_equal(np.sort(parts_of(split)), np.arange(n))
        for part in (split.train, split.val, split.holdout):
            assert part.dtype == np.intp
            assert np.array_equal(part, np.sort(part))
        assert np.array_equal(split.holdout, splits[0].holdout)
        assert abs(len(split.holdout) - config.holdout * n) <= 1
        rest = n - len(split.holdout)
        share = config.val if config.folds == 1 else 1 / config.folds
        assert abs(len(split.val) - share * rest) <= 1
    if config.folds > 1:
        dealt = np.concatenate([split.val for split in splits])
        assert np.array_equal(np.sort(dealt), np.setdiff1d(np.arange(n), splits[0].holdout))


@settings(max_examples=40, deadline=None)
@given(n=st.integers(60, 400), seed=st.integers(0, 100), folds=st.sampled_from([1, 5]))
def test_every_coverage_class_is_shared_out_to_within_one(n, seed, folds):
    tiles = make_tiles(n, seed)
    classes = coverage_classes(tiles.masks)
    config = SplitConfig(stratify="coverage", holdout=0.2, val=0.1, folds=folds, seed=seed)
    for split in make_splits(tiles, config):
        rest = np.setdiff1d(np.arange(n), split.holdout)
        for value in np.unique(classes):
            # the drawn share is a whole number of tiles, so compare with that
            in_class = (classes == value).sum()
            got = (classes[split.holdout] == value).sum()
            assert abs(got - in_class * len(split.holdout) / n) < 1
            in_rest = (classes[rest] == value).sum()
            got = (classes[split.val] == value).sum()
            assert abs(got - in_rest * len(split.val) / len(rest)) <= 1


def test_depth_strata_balance_depth_where_chance_would_not():
    tiles = make_tiles(2000, 3)
    spread = {}
    for stratify in ("none", "depth"):
        config = SplitConfig(stratify=stratify, folds=8, holdout=0)
        bins = np.searchsorted(np.quantile(tiles.z_feet, np.linspace(0.1, 0.9, 9)), tiles.z_feet)
        counts = [np.bincount(bins[s.val], minlength=10) for s in make_splits(tiles, config)]
        spread[stratify] = np.ptp(counts, axis=0).max()
    assert spread["depth"] <= 4 < spread["none"]


def test_both_balances_coverage_and_depth():
    tiles = make_tiles(3000, 5)
    (split,) = make_splits(tiles, SplitConfig(stratify="both", holdout=0.2, val=0.1))
    classes = coverage_classes(tiles.masks)
    for value in range(11):
        whole, part = (classes == value).mean(), (classes[split.holdout] == value).mean()
        assert abs(whole - part) < 1.01 / len(split.holdout)
    low = tiles.z_feet < np.median(tiles.z_feet)
    assert low[split.holdout].mean() == pytest.approx(0.5, abs=0.02)


group_lists = st.lists(st.integers(0, 40), min_size=80, max_size=200).filter(
    lambda groups: len(set(groups)) >= 6
)


@settings(max_examples=40, deadline=None)
@given(groups=group_lists, folds=st.integers(1, 4), seed=st.integers(0, 50))
def test_groups_are_never_split(groups, folds, seed):
    tiles = make_tiles(len(groups))
    names = [f"mosaic {group}" for group in groups]
    config = SplitConfig(stratify="both", holdout=0.2, val=0.2, folds=folds, seed=seed)
    for split in make_splits(tiles, config, names):
        assert np.array_equal(np.sort(parts_of(split)), np.arange(len(groups)))
        members = [{groups[i] for i in part} for part in (split.train, split.val, split.holdout)]
        assert not members[0] & members[1]
        assert not members[0] & members[2]
        assert not members[1] & members[2]


def test_grouped_parts_have_about_their_shares_and_strata():
    tiles = make_tiles(3000, 9)
    rng = np.random.default_rng(1)
    groups = np.concatenate([np.repeat(np.arange(200), 10), 1000 + np.arange(1000)])
    groups = groups[rng.permutation(3000)].tolist()
    (split,) = make_splits(tiles, SplitConfig(stratify="coverage", holdout=0.2, val=0.1), groups)
    assert len(split.holdout) == pytest.approx(600, rel=0.03)
    assert len(split.val) == pytest.approx(240, rel=0.03)
    empty = tiles.coverage == 0
    assert empty[split.holdout].mean() == pytest.approx(empty.mean(), abs=0.02)


def test_as_many_groups_as_parts_fill_every_part():
    groups = [0] * 90 + [1] * 6 + [2] * 4
    config = SplitConfig(stratify="none", holdout=0, val=0.01)
    (split,) = make_splits(make_tiles(100), config, groups)
    assert (len(split.train), len(split.val)) == (96, 4)  # the smallest group, though too large


def test_one_large_group_does_not_flood_a_small_part():
    tiles = make_tiles(200)
    groups = [0] * 90 + list(range(1, 111))
    (split,) = make_splits(tiles, SplitConfig(stratify="none", holdout=0.2, val=0.1), groups)
    assert 0 in {groups[i] for i in split.train}
    assert len(split.holdout) == pytest.approx(40, abs=2)


def test_seed_decides():
    tiles = make_tiles(300)
    first, again, other = (
        make_splits(tiles, SplitConfig(stratify="both", seed=seed))[0] for seed in (1, 1, 2)
    )
    assert np.array_equal(first.holdout, again.holdout)
    assert np.array_equal(first.val, again.val)
    assert not np.array_equal(first.holdout, other.holdout)


def test_blank_tiles_leave_training_only():
    tiles = make_tiles(200)
    tiles.images[:100] = 0
    kept = make_splits(tiles, SplitConfig())[0]
    dropped = make_splits(tiles, SplitConfig(drop_blank=True))[0]
    assert np.array_equal(dropped.train, kept.train[kept.train >= 100])
    assert np.array_equal(dropped.val, kept.val)
    assert np.array_equal(dropped.holdout, kept.holdout)
    assert (dropped.val < 100).any()


def test_vertical_masks_are_left_out_of_training_alone():
    tiles = make_tiles(200)
    tiles.masks[:50] = np.arange(8) < 3  # stripes
    tiles.masks[50:80, :4] = 0
    tiles.masks[50:80, 4:] = np.arange(8) < 5  # so in the lower half
    kept = make_splits(tiles, SplitConfig())[0]
    dropped = make_splits(tiles, SplitConfig(drop_vertical=True))[0]
    assert np.array_equal(dropped.train, kept.train[kept.train >= 80])
    assert np.array_equal(dropped.val, kept.val)
    assert np.array_equal(dropped.holdout, kept.holdout)
    assert (dropped.val < 80).any()


def test_few_tiles_still_fill_every_part():
    (split,) = make_splits(make_tiles(4), SplitConfig(stratify="none", holdout=0.05, val=0.05))
    assert (len(split.train), len(split.val), len(split.holdout)) == (2, 1, 1)


@pytest.mark.parametrize(
    ("n", "config"),
    [
        (0, SplitConfig(stratify="none")),
        (2, SplitConfig(stratify="none")),
        (5, SplitConfig(stratify="none", folds=10)),
    ],
)
def test_too_few_tiles_are_refused(n, config):
    with pytest.raises(DataError, match="too few") as caught:
        make_splits(make_tiles(n), config)
    assert caught.value.mend


def test_only_blank_tiles_leave_nothing_to_train_on():
    tiles = make_tiles(30)
    tiles.images[:] = 0
    with pytest.raises(DataError, match="'train'"):
        make_splits(tiles, SplitConfig(drop_blank=True))


@pytest.mark.parametrize("stratify", ["depth", "both"])
def test_depth_strata_need_depths(stratify):
    with pytest.raises(DataError, match="no depths") as caught:
        make_splits(make_tiles(30, depths=False), SplitConfig(stratify=stratify))
    assert "depths.csv" in caught.value.mend


@pytest.mark.parametrize("stratify", ["coverage", "both"])
def test_coverage_strata_need_masks(stratify):
    with pytest.raises(DataError, match="no masks"):
        make_splits(make_tiles(30, masks=False), SplitConfig(stratify=stratify))


def test_groups_must_match_the_tiles():
    with pytest.raises(DataError, match="29 groups for 30 tiles"):
        make_splits(make_tiles(30), SplitConfig(), list(range(29)))


def test_stored_split_comes_back_for_tiles_in_another_order():
    tiles = make_tiles(50)
    split = make_splits(tiles, SplitConfig(folds=3, seed=4))[1]
    stored = json.loads(json.dumps(split.to_json(tiles.ids)))
    assert stored["fold"] == 1
    back = Split.from_json(stored, tiles.ids)
    for part in ("train", "val", "holdout"):
        assert np.array_equal(getattr(back, part), getattr(split, part))
    assert (back.fold, back.seed, back.stratify) == (1, 4, "depth")
    reverse = tiles.ids[::-1]
    turned = Split.from_json(stored, reverse)
    assert {reverse[i] for i in turned.val} == {tiles.ids[i] for i in split.val}


def test_bad_stored_splits_are_refused():
    tiles = make_tiles(50)
    stored = make_splits(tiles, SplitConfig())[0].to_json(tiles.ids)
    with pytest.raises(DataError, match="lacks seed, val"):
        Split.from_json({k: v for k, v in stored.items() if k not in ("seed", "val")}, tiles.ids)
    with pytest.raises(DataError, match="not in the data"):
        Split.from_json(stored, tiles.ids[:-1])
    with pytest.raises(DataError, match="twice"):
        Split.from_json({**stored, "val": stored["train"][:1]}, tiles.ids)
    for wrong in (3, "tile", [3], None):
        with pytest.raises(DataError, match=r"no list of ids(.|\n)*part holdout"):
            Split.from_json({**stored, "holdout": wrong}, tiles.ids)
