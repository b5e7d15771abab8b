"""Trains a network a little further on a few sections of one survey, partly labelled."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diapir.config import Recipe
from diapir.errors import OptionError, TrainingError
from diapir.io.labels import UNLABELLED
from diapir.models.unet import SaltNet
from diapir.training.coarsest import single_pixels_told
from diapir.training.losses import combined_loss
from diapir.training.parameters import parts_with_factors


@dataclass(frozen=True, eq=False)
class LabelledSection:
    """A section with an interpretation.

    Args:
        name: Such as 'inline 120'.
        image: (S, T) uint8 grey values as the network is to see them.
        labels: (S, T) uint8: 1 salt, 0 none, `UNLABELLED`.
    """

    name: str
    image: NDArray[np.uint8]
    labels: NDArray[np.uint8]

    @property
    def labelled(self) -> NDArray[np.bool_]:
        """(S, T) bool, where there is an interpretation."""
        known: NDArray[np.bool_] = self.labels != UNLABELLED
        return known


@dataclass(frozen=True)
class Tuning:
    """How long and how strongly.

    Args:
        steps: Steps of the optimiser.
        batch: Windows a step.
        window: Side of the windows in pixels.
        lr: Learning rate at the start; it falls to a twentieth along a cosine.
        encoder_lr_factor: On the rate of the encoder.
        seed: Of windows and mirroring.
    """

    steps: int = 200
    batch: int = 8
    window: int = 128
    lr: float = 5e-4
    encoder_lr_factor: float = 0.3
    seed: int = 0

    def __post_init__(self) -> None:
        if not (0 < self.lr < math.inf and 0 < self.encoder_lr_factor < math.inf):
            raise OptionError(
                f"a learning rate of {self.lr:g}, times {self.encoder_lr_factor:g} on the encoder",
                "lr",
                expected="positive numbers",
            )


def finetune_net(
    net: SaltNet,
    sections: Sequence[LabelledSection],
    recipe: Recipe,
    tuning: Tuning,
    *,
    advance: Callable[[int], None] = lambda _: None,
) -> float:
    """Train a network in place on windows of sections; return the mean loss of the last tenth.

    The losses are those of the recipe's last stage. Nothing is chosen on the way: the last weights
    are the result, so that lines held out stay unseen.

    Args:
        net: On any device; in evaluation mode afterwards.
        sections: At least one with labels.
        recipe: Of the network.
        tuning: How long and how strongly.
        advance: Called with 1 after every step.

    Raises:
        TrainingError: No section has labels, the loss is no longer a number, or there is too little
            in a step for the network's statistics.
    """
    drawer = WindowDrawer(sections, tuning)
    device = next(net.parameters()).device
    weights = recipe.loss.stages[-1]
    optimizer = _optimizer(net, tuning)
    torch.manual_seed(tuning.seed)
    net.set_precision("float32", device.type)
    net.train()
    losses = []
    for step in range(tuning.steps):
        rate = 0.05 + 0.95 * (1 + math.cos(math.pi * step / tuning.steps)) / 2
        for group in optimizer.param_groups:
            group["lr"] = group["full_lr"] * rate
        images, labels = (each.to(device) for each in drawer.draw())
        with single_pixels_told(
            f"one window of {images.shape[-1]} pixels a step",
            mend="Give --batch-size 2 or more, or a larger --side.",
        ):
            outputs = net.forward_all(images, None)
        loss = combined_loss(outputs.final_logits, labels, weights, recipe.loss, ignore=UNLABELLED)
        if not torch.isfinite(loss):
            raise TrainingError(
                f"the loss is {loss.item()}", where=f"step {step + 1}", mend="Give a lower --lr."
            )
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(net.parameters(), 5.0)
        optimizer.step()
        losses.append(loss.item())
        advance(1)
    net.eval()
    return float(np.mean(losses[-max(1, len(losses) // 10) :]))


class WindowDrawer:
    """Draws windows that hold labels, half of them mirrored, with small changes of grey.

    Args:
        sections: With an image and labels each.
        tuning: Size, number and seed.

    Raises:
        TrainingError: No section has labels.
    """

    def __init__(self, sections: Sequence[LabelledSection], tuning: Tuning) -> None:
        self._size, self._count = tuning.window, tuning.batch
        self._rng = np.random.default_rng(tuning.seed)
        self._sections = [_widened(s, tuning.window) for s in sections if s.labelled.any()]
        if not self._sections:
            raise TrainingError(
                "no section holds a label",
                expected="pixels of 0 (no salt) or salt",
                mend="Check the value that stands for unlabelled.",
            )
        # places in flat sections: of whole lines there are as many as samples
        self._labelled = [np.flatnonzero(s.labelled).astype(np.int32) for s in self._sections]
        sizes = np.array([len(places) for places in self._labelled], np.float64)
        self._weights = sizes / sizes.sum()

    def draw(self) -> tuple[Tensor, Tensor]:
        """Return images (B, 1, H, W) float32 in 0..1, and labels of the same shape as float32."""
        windows = [self._draw_one() for _ in range(self._count)]
        images = np.stack([image for image, _ in windows])[:, None]
        labels = np.stack([label for _, label in windows])[:, None]
        return torch.from_numpy(images), torch.from_numpy(labels)

    def _draw_one(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        rng = self._rng
        which = int(rng.choice(len(self._sections), p=self._weights))
        section = self._sections[which]
        # around a labelled pixel, wherever it falls in the window: no window is without labels
        place = self._labelled[which][rng.integers(len(self._labelled[which]))]
        pixel = np.array(np.unravel_index(place, section.image.shape))
        shift = rng.integers(0, self._size, 2)
        corner = np.clip(pixel - shift, 0, np.array(section.image.shape) - self._size)
        where = tuple(slice(int(c), int(c) + self._size) for c in corner)
        image = section.image[where].astype(np.float32) / 255
        labels = section.labels[where].astype(np.float32)
        if rng.random() < 0.5:
            image, labels = image[:, ::-1], labels[:, ::-1]
        image = (image - 0.5) * rng.uniform(0.85, 1.15) + 0.5 + rng.uniform(-0.05, 0.05)
        image = np.clip(image, 0, 1).astype(np.float32)
        return np.ascontiguousarray(image), np.ascontiguousarray(labels)


def _widened(section: LabelledSection, size: int) -> LabelledSection:
    """Return a section of at least this size; what is added has no labels."""
    missing = [(0, max(0, size - n)) for n in section.image.shape]
    return LabelledSection(
        section.name,
        np.pad(section.image, missing, mode="edge"),
        np.pad(section.labels, missing, constant_values=UNLABELLED),
    )


def _optimizer(net: SaltNet, tuning: Tuning) -> torch.optim.Optimizer:
    groups = [
        {"params": part, "lr": tuning.lr * factor, "full_lr": tuning.lr * factor}
        for part, factor in parts_with_factors(net, tuning.encoder_lr_factor)
    ]
    return torch.optim.AdamW(groups, weight_decay=1e-4)
