"""Batches for training: tiles stay on the device as uint8, whole batches are cut by index."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import lightning
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from diapir.config import Recipe
from diapir.data.augment import augment_batch
from diapir.data.splits import Split
from diapir.errors import DataError
from diapir.io.tiles import Tiles


class Batch(NamedTuple):
    """Some tiles on the way through the network.

    Args:
        images: (B, 1, H, W) uint8, after the transfer float32 in 0..1.
        masks: (B, 1, H, W) uint8 of 0 and 1, after the transfer float32.
        z_feet: (B,) float32; 0 where depths are not known.
        places: (B,) int64 positions in the data set.
        taught: (B, 1, H, W) uint8, 255 for certain salt, after the transfer float32 in 0..1: what
            the teachers of the recipe say; None without any.
    """

    images: Tensor
    masks: Tensor
    z_feet: Tensor
    places: Tensor
    taught: Tensor | None = None


class TileDataset(Dataset[Batch]):
    """Labelled tiles as uint8 tensors on one device, fetched a whole batch at a time.

    Args:
        tiles: All tiles.
        index: Positions of those to fetch from.
        device: Where they are kept.
        taught: (N, H, W) uint8 probabilities of all tiles times 255, from the recipe's teachers.
    """

    def __init__(
        self,
        tiles: Tiles,
        index: np.ndarray,
        device: torch.device,
        taught: NDArray[np.uint8] | None = None,
    ) -> None:
        z_feet = np.zeros(len(tiles), np.float32) if tiles.z_feet is None else tiles.z_feet
        self.images = torch.from_numpy(tiles.images[index]).to(device)[:, None]
        self.masks = torch.from_numpy(tiles.truth[index]).to(device)[:, None]
        self.z_feet = torch.from_numpy(z_feet[index].astype(np.float32)).to(device)
        self.places = torch.from_numpy(np.asarray(index, np.int64)).to(device)
        self.taught = None
        if taught is not None:
            self.taught = torch.from_numpy(taught[index]).to(device)[:, None]

    def __len__(self) -> int:
        return len(self.places)

    def __getitems__(self, places: list[int]) -> Batch:
        """Return the tiles at these places as one batch."""
        chosen = torch.tensor(places, device=self.images.device)
        return Batch(
            self.images[chosen],
            self.masks[chosen],
            self.z_feet[chosen],
            self.places[chosen],
            None if self.taught is None else self.taught[chosen],
        )


class EpochSampler(Sampler[int]):
    """A fresh order every epoch that depends on seed and epoch alone, shared out among processes.

    So a resumed training sees the same tiles as one that was never interrupted.

    Args:
        size: Tiles to choose from.
        count: Tiles an epoch; more than `size` goes round again.
        seed: Of the order.
        rank: This process.
        world_size: All processes; every one gets the same number of tiles.
    """

    def __init__(
        self, size: int, count: int, seed: int, rank: int = 0, world_size: int = 1
    ) -> None:
        self.size, self.seed, self.rank, self.world_size = size, seed, rank, world_size
        self.count = -(-count // world_size) * world_size
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of this epoch; Lightning calls it before each."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        rng = np.random.default_rng([self.seed, self.epoch])
        rounds = -(-self.count // self.size)
        order = np.concatenate([rng.permutation(self.size) for _ in range(rounds)])[: self.count]
        return iter(order[self.rank :: self.world_size].tolist())

    def __len__(self) -> int:
        return self.count // self.world_size


class TileDataModule(lightning.LightningDataModule):
    """Training and validation batches of one split.

    Args:
        tiles: All labelled tiles.
        split: Which of them train and which validate.
        recipe: Batch size, tiles an epoch, augmentation and seed.
        taught: (N, H, W) uint8 probabilities of all tiles times 255, from the recipe's teachers.
    """

    def __init__(
        self,
        tiles: Tiles,
        split: Split,
        recipe: Recipe,
        taught: NDArray[np.uint8] | None = None,
    ) -> None:
        super().__init__()
        self.tiles, self.split, self.recipe, self.taught = tiles, split, recipe, taught

    def setup(self, stage: str) -> None:
        """Check that every process gets tiles; one without would leave the others waiting.

        Raises:
            DataError: There are fewer tiles than processes.
        """
        assert self.trainer is not None  # noqa: S101  # Lightning attaches it before it asks
        processes = self.trainer.world_size
        for part, index in (("training", self.split.train), ("validation", self.split.val)):
            if 0 < len(index) < processes:
                raise DataError(
                    f"{len(index)} {part} tiles for {processes} processes",
                    where=self.tiles.source,
                    expected="at least one tile for each",
                    mend="Give more tiles or take fewer --devices.",
                )

    def train_dataloader(self) -> DataLoader[Batch]:
        """Return shuffled batches; a smaller last one is left out, batch norm needs many tiles."""
        trainer, train = self.trainer, self.recipe.train
        assert trainer is not None  # noqa: S101  # Lightning attaches it before it asks
        dataset = self._dataset(self.split.train, self.taught)
        sampler = EpochSampler(
            len(dataset),
            train.tiles_per_epoch or len(dataset),
            train.seed,
            trainer.global_rank,
            trainer.world_size,
        )
        return DataLoader(
            dataset,
            batch_size=min(train.batch_size, len(sampler)),
            sampler=sampler,
            drop_last=True,
            collate_fn=_as_is,
        )

    def val_dataloader(self) -> DataLoader[Batch]:
        """Return this process's share of the validation tiles; together each tile once."""
        trainer = self.trainer
        assert trainer is not None  # noqa: S101
        share = self.split.val[trainer.global_rank :: trainer.world_size]
        batch_size = 2 * self.recipe.train.batch_size
        return DataLoader(self._dataset(share), batch_size=batch_size, collate_fn=_as_is)

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Turn uint8 into floats and, in training, change the batch at random."""
        images, masks = batch.images.float() / 255, batch.masks.float()
        if batch.taught is not None:
            masks = torch.cat([masks, batch.taught.float() / 255], dim=1)
        trainer = self.trainer
        if trainer is not None and trainer.training:
            generator = torch.Generator(device=images.device)
            place = (self.recipe.train.seed, trainer.global_step, trainer.global_rank)
            generator.manual_seed(hash(place) & 0x7FFFFFFF)
            images, masks = augment_batch(images, masks, self.recipe.augment, generator)
        taught = None if batch.taught is None else masks[:, 1:]
        return batch._replace(images=images, masks=masks[:, :1], taught=taught)

    def _dataset(self, index: np.ndarray, taught: NDArray[np.uint8] | None = None) -> TileDataset:
        assert self.trainer is not None  # noqa: S101
        return TileDataset(self.tiles, index, self.trainer.strategy.root_device, taught)


def _as_is(batch: Any) -> Any:
    return batch
