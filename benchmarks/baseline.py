"""The baseline: what a user writes with `segmentation_models_pytorch`, in eager float32.

A U-Net of the same encoder with the library's own decoder, a `DataLoader` over single tiles, losses
of the library. Nothing of Diapir is used here, so that nothing of it is measured twice.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import segmentation_models_pytorch as smp
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

_MEAN = torch.tensor((0.485, 0.456, 0.406)).view(3, 1, 1)
_STD = torch.tensor((0.229, 0.224, 0.225)).view(3, 1, 1)
STRIDE = 32

Change = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""From image and mask, (1, H, W) float in 0..1 each, to the same after an augmentation."""


def plain_unet(encoder: str, weights: Path | None = None) -> nn.Module:
    """Return the library's U-Net of an encoder, from random weights or with a given encoder.

    Args:
        encoder: A name of the library's, or of timm's.
        weights: A safetensors file with timm's names of the encoder's parameters.

    Raises:
        KeyError: The file lacks a parameter of the encoder.
    """
    known = encoder in smp.encoders.get_encoder_names()
    net = smp.Unet(encoder if known else f"tu-{encoder}", encoder_weights=None)
    if weights is not None:
        inner = net.encoder.model  # the library wraps timm's encoder, which keeps its own names
        state, own = load_file(weights), inner.state_dict()
        counters = {name: own[name] for name in own if name.endswith("num_batches_tracked")}
        state = counters | {name: value.float() for name, value in state.items()}
        inner.load_state_dict({name: state[name] for name in own})
    return net


class PlainTiles(Dataset[tuple[Tensor, Tensor]]):
    """Tiles one by one: enlarged, normalised, three channels.

    Args:
        images: (N, H, W) uint8.
        masks: (N, H, W) uint8 of 0 and 1; None: zeros.
        change: Augmentation, before that.
    """

    def __init__(
        self,
        images: NDArray[np.uint8],
        masks: NDArray[np.uint8] | None = None,
        *,
        change: Change | None = None,
    ) -> None:
        self.images, self.masks, self.change = images, masks, change

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, place: int) -> tuple[Tensor, Tensor]:
        image = torch.tensor(self.images[place])[None].float() / 255
        mask = torch.zeros_like(image)
        if self.masks is not None:
            mask = torch.tensor(self.masks[place])[None].float()
        if self.change is not None:
            image, mask = self.change(image, mask)
        image, mask = enlarged(image), enlarged(mask)
        return (image - _MEAN) / _STD, (mask > 0.5).float()


def enlarged(tile: Tensor) -> Tensor:
    """Return a tile (1, H, W) mirrored up to the next multiple of 32."""
    top, left, missing = _margins(tile.shape[-2:])
    pads = (left, missing[1] - left, top, missing[0] - top)
    mode = "reflect" if max(missing) < 2 * min(tile.shape[-2:]) - 1 else "replicate"
    return F.pad(tile[None], pads, mode=mode)[0]


def shrunk(logits: Tensor, size: tuple[int, int]) -> Tensor:
    """Return logits (B, 1, H, W) at the size of the tiles, undoing `enlarged`."""
    top, left, _ = _margins(size)
    return logits[..., top : top + size[0], left : left + size[1]]


def _margins(size: tuple[int, ...]) -> tuple[int, int, list[int]]:
    missing = [-length % STRIDE for length in size]
    return missing[0] // 2, missing[1] // 2, missing


@torch.inference_mode()
def predict_plainly(
    net: nn.Module,
    images: NDArray[np.uint8],
    *,
    batch_size: int = 32,
    device: str = "cpu",
) -> NDArray[np.float32]:
    """Return (N, H, W) probabilities, as a loop over a DataLoader gives them."""
    loader = DataLoader(PlainTiles(images), batch_size=batch_size)
    found = []
    for batch, _ in loader:
        logits = net(batch.to(device))
        size = (images.shape[1], images.shape[2])
        found.append(torch.sigmoid(shrunk(logits, size))[:, 0].cpu().numpy())
    return np.concatenate(found)


def flip_and_brighten(image: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Return image and mask mirrored half of the time, the image brighter or darker."""
    if torch.rand(()) < 0.5:
        image, mask = image.flip(2), mask.flip(2)
    return (image + 0.2 * (torch.rand(()) - 0.5)).clamp(0, 1), mask


def forever(loader: DataLoader[tuple[Tensor, Tensor]]) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield batches epoch after epoch."""
    while True:
        yield from loader


def bce_and_dice() -> Callable[[Tensor, Tensor], Tensor]:
    """Return half the cross-entropy and half the Dice loss, both of libraries."""
    dice = smp.losses.DiceLoss("binary")

    def loss(logits: Tensor, masks: Tensor) -> Tensor:
        found: Tensor = F.binary_cross_entropy_with_logits(logits, masks) + dice(logits, masks)
        return found / 2

    return loss


class PlainLoop:
    """The training loop of the baseline; each call is a step.

    Args:
        net: On the device.
        tiles: What it learns.
        batch_size: Tiles a step.
        lr: Learning rate.
        device: Where the network is.
    """

    def __init__(
        self,
        net: nn.Module,
        tiles: PlainTiles,
        *,
        batch_size: int,
        lr: float = 1e-3,
        device: str = "cpu",
    ) -> None:
        self.net, self.device = net.train(), device
        self.loader = DataLoader(tiles, batch_size=batch_size, shuffle=True, drop_last=True)
        self.optimizer = torch.optim.AdamW(net.parameters(), lr=lr, weight_decay=0.01)
        self.loss = bce_and_dice()
        self._batches = forever(self.loader)

    def __call__(self) -> None:
        """Take the next batch and step."""
        images, masks = next(self._batches)
        logits = self.net(images.to(self.device))
        loss = self.loss(logits, masks.to(self.device))
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
