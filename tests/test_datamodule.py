"""Batches: which tiles come when, how processes share them, what the network gets."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from diapir.config import Recipe
from diapir.data.datamodule import Batch, EpochSampler, TileDataModule, TileDataset
from diapir.data.splits import Split, make_splits
from diapir.errors import DataError
from diapir.io.tiles import Tiles

CPU = torch.device("cpu")


@given(
    size=st.integers(1, 50),
    count=st.integers(1, 120),
    seed=st.integers(0, 5),
    world=st.integers(1, 4),
)
def test_every_process_gets_its_share_of_an_even_deal(
    size: int, count: int, seed: int, world: int
) -> None:
    shares = [list(EpochSampler(size, count, seed, rank, world)) for rank in range(world)]
    lengths = {len(share) for share in shares}
    assert lengths == {len(EpochSampler(size, count, seed, 0, world))}
    dealt = [place for share in shares for place in share]
    assert count <= len(dealt) < count + world
    # each tile comes as often as any other, to within one
    times = np.bincount(dealt, minlength=size)
    assert times.max() - times.min() <= 1
    # and together they see what one process would
    alone = list(EpochSampler(size, len(dealt), seed))
    assert [share[k] for k in range(len(shares[0])) for share in shares] == alone


def test_order_depends_on_seed_and_epoch_alone() -> None:
    def order(seed: int, epoch: int) -> list[int]:
        sampler = EpochSampler(30, 30, seed)
        sampler.set_epoch(epoch)
        assert list(sampler) == list(sampler)
        return list(sampler)

    assert order(0, 3) == order(0, 3)
    assert order(0, 3) != order(0, 4)
    assert order(0, 3) != order(1, 3)
    assert sorted(order(0, 3)) == list(range(30))
    # (seed, epoch) = (0, 1) and (1, 0) are different streams
    assert order(0, 1) != order(1, 0)


def test_dataset_cuts_batches_by_place(easy_tiles: Tiles) -> None:
    index = np.array([5, 9, 40])
    batch = TileDataset(easy_tiles, index, CPU).__getitems__([2, 0])
    assert easy_tiles.masks is not None
    assert easy_tiles.z_feet is not None
    assert batch.images.dtype == batch.masks.dtype == torch.uint8
    assert np.array_equal(batch.images[:, 0].numpy(), easy_tiles.images[[40, 5]])
    assert np.array_equal(batch.masks[:, 0].numpy(), easy_tiles.masks[[40, 5]])
    assert np.array_equal(batch.z_feet.numpy(), easy_tiles.z_feet[[40, 5]])
    assert batch.places.tolist() == [40, 5]


def test_unknown_depths_are_zero(easy_tiles: Tiles) -> None:
    bare = Tiles(easy_tiles.ids, easy_tiles.images, easy_tiles.masks, None, "bare")
    assert TileDataset(bare, np.arange(3), CPU).__getitems__([1]).z_feet.tolist() == [0.0]


def module(
    tiles: Tiles, recipe: Recipe, rank: int = 0, world: int = 1, **state: Any
) -> TileDataModule:
    data = TileDataModule(tiles, make_splits(tiles, recipe.split)[0], recipe)
    trainer = SimpleNamespace(
        global_rank=rank,
        world_size=world,
        global_step=0,
        training=True,
        strategy=SimpleNamespace(root_device=CPU),
    )
    trainer.__dict__.update(state)
    data.trainer = trainer  # type: ignore[assignment]
    return data


def test_epoch_holds_the_training_tiles_once_in_full_batches(
    easy_tiles: Tiles, tiny_recipe: Callable[..., Recipe]
) -> None:
    data = module(easy_tiles, tiny_recipe())
    batches = list(data.train_dataloader())
    assert len(data.split.train) == 48
    assert [len(batch.images) for batch in batches] == [8] * 6
    seen = np.concatenate([batch.places.numpy() for batch in batches])
    assert np.array_equal(np.sort(seen), data.split.train)


@pytest.mark.parametrize(("count", "batches"), [(16, 2), (100, 12), (3, 1)])
def test_tiles_per_epoch_sets_the_length(
    easy_tiles: Tiles, tiny_recipe: Callable[..., Recipe], count: int, batches: int
) -> None:
    data = module(easy_tiles, tiny_recipe(train__tiles_per_epoch=count))
    found = list(data.train_dataloader())
    assert len(found) == batches
    assert {len(batch.images) for batch in found} == {min(8, count)}
    assert {*np.concatenate([b.places for b in found])} <= set(data.split.train)


def test_processes_share_validation_without_repeats(
    easy_tiles: Tiles, tiny_recipe: Callable[..., Recipe]
) -> None:
    shares = [
        np.concatenate([b.places for b in module(easy_tiles, tiny_recipe(), r, 3).val_dataloader()])
        for r in range(3)
    ]
    split = module(easy_tiles, tiny_recipe()).split
    assert np.array_equal(np.sort(np.concatenate(shares)), split.val)


def test_fewer_tiles_than_processes_is_an_error(
    easy_tiles: Tiles, tiny_recipe: Callable[..., Recipe]
) -> None:
    recipe = tiny_recipe()
    with pytest.raises(DataError, match=r"16 validation tiles for 17 processes(.|\n)*--devices"):
        module(easy_tiles, recipe, world=17).setup("fit")
    module(easy_tiles, recipe, world=16).setup("fit")
    without = module(easy_tiles, tiny_recipe(split__val=0.0), world=4)
    assert len(without.split.val) == 0
    without.setup("fit")


def transferred(data: TileDataModule) -> Batch:
    dataset = data._dataset(np.arange(8))
    return data.on_after_batch_transfer(dataset.__getitems__(list(range(8))), 0)


def test_training_batches_change_by_step_and_process_and_repeat(
    easy_tiles: Tiles, tiny_recipe: Callable[..., Recipe]
) -> None:
    recipe = tiny_recipe(augment__brightness=0.2)
    first = transferred(module(easy_tiles, recipe)).images
    assert first.dtype == torch.float32
    assert torch.equal(first, transferred(module(easy_tiles, recipe)).images)
    assert not torch.equal(first, transferred(module(easy_tiles, recipe, global_step=1)).images)
    assert not torch.equal(first, transferred(module(easy_tiles, recipe, rank=1, world=2)).images)
    other = tiny_recipe(augment__brightness=0.2, train__seed=1)
    assert not torch.equal(first, transferred(module(easy_tiles, other)).images)


def test_validation_batches_are_left_as_they_are(
    easy_tiles: Tiles, tiny_recipe: Callable[..., Recipe]
) -> None:
    batch = transferred(module(easy_tiles, tiny_recipe(), training=False))
    assert easy_tiles.masks is not None
    images = torch.from_numpy(easy_tiles.images[:8])[:, None].float() / 255
    assert torch.equal(batch.images, images)
    assert torch.equal(batch.masks[:, 0], torch.from_numpy(easy_tiles.masks[:8]).float())


def test_split_is_kept_by_the_module(easy_tiles: Tiles, tiny_recipe: Callable[..., Recipe]) -> None:
    split = Split(np.arange(9), np.arange(9, 12), np.arange(0), None, 0, "none")
    data = TileDataModule(easy_tiles, split, tiny_recipe())
    assert data.split is split


def test_what_teachers_say_moves_with_the_image(
    easy_tiles: Tiles, tiny_recipe: Callable[..., Recipe]
) -> None:
    recipe = tiny_recipe(augment__flip=1.0, augment__brightness=0.0, augment__shift=0.2)
    data = module(easy_tiles, recipe)
    data.taught = easy_tiles.truth * np.uint8(200)
    batch = data.on_after_batch_transfer(next(iter(data.train_dataloader())), 0)
    assert batch.taught is not None
    assert batch.taught.shape == batch.masks.shape == batch.images.shape
    assert set(batch.masks.unique().tolist()) == {0.0, 1.0}
    # apart from the seam, where it is interpolated, it lies on the mask
    assert ((batch.taught > 100 / 255) == (batch.masks > 0)).float().mean() > 0.99
    assert float(batch.taught.max()) == pytest.approx(200 / 255)
