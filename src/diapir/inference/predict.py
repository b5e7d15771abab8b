"""Salt probabilities of tiles and sections from one or several models."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diapir.errors import DataError, ModelFileError
from diapir.models.modelfile import ModelCard, load_model
from diapir.models.unet import SaltNet


@dataclass
class Predictor:
    """Averages the salt probabilities of models and of mirrored tiles.

    Args:
        nets: In evaluation mode, on one device.
        threshold: Probability from which a pixel counts as salt.
        flip: Average with the prediction of the mirrored tile.
        needs_depth: Whether any network has a depth channel.
        batch_size: Tiles a forward pass, before mirroring.
        model_seconds: Time spent in the networks so far, without reading and writing.
    """

    nets: Sequence[SaltNet]
    threshold: float = 0.5
    flip: bool = True
    batch_size: int = 32
    model_seconds: float = field(default=0.0, init=False)

    def __post_init__(self) -> None:
        self.device = next(self.nets[0].parameters()).device
        for net in self.nets:
            net.eval()

    @property
    def needs_depth(self) -> bool:
        """Whether a network wants the depth of each tile."""
        return any(net.config.depth_channel for net in self.nets)

    def predict_probs(
        self,
        images: NDArray[np.uint8],
        z_feet: NDArray[np.float32] | None = None,
        *,
        advance: Callable[[int], None] | None = None,
    ) -> NDArray[np.float32]:
        """Return the probability of salt for every pixel.

        Args:
            images: (N, H, W) uint8 grey values of any height and width.
            z_feet: (N,) depths in feet, where the models want them.
            advance: Called with the number of tiles done after every batch.

        Returns:
            (N, H, W) float32 in 0..1.

        Raises:
            DataError: A model wants depths and there are none.
        """
        if self.needs_depth and z_feet is None:
            raise DataError(
                "this model uses the depth of each tile, but the data has none",
                expected="depths.csv (id,z) beside the images",
                mend="Add the depths, or use a model trained without model.depth_channel.",
            )
        probs = np.empty(images.shape, np.float32)
        started = time.perf_counter()
        for start in range(0, len(images), self.batch_size):
            stop = start + self.batch_size
            depths = None if z_feet is None else torch.tensor(z_feet[start:stop])
            # a copy: the array may be read-only, which torch warns of
            batch = self._batch_probs(torch.tensor(images[start:stop]), depths)
            probs[start:stop] = batch.cpu().numpy()
            if advance is not None:
                advance(len(batch))
        self.model_seconds += time.perf_counter() - started
        return probs

    @torch.inference_mode()
    def _batch_probs(self, images: Tensor, z_feet: Tensor | None) -> Tensor:
        """Return (B, H, W) probabilities; mirrored tiles go through in the same batch."""
        x = images.to(self.device)[:, None].float() / 255
        depths = None if z_feet is None else z_feet.to(self.device)
        if self.flip:
            x = torch.cat([x, x.flip(3)])
            depths = None if depths is None else torch.cat([depths, depths])
        total = torch.zeros_like(x)
        for net in self.nets:
            total += torch.sigmoid(net(x, depths))
        mean = total / len(self.nets)
        if self.flip:
            straight, mirrored = mean.chunk(2)
            mean = (straight + mirrored.flip(3)) / 2
        return mean[:, 0]


@dataclass(frozen=True)
class PredictOptions:
    """How models are applied; the defaults do what the models' recipes say.

    Args:
        flip: Mirror at test time; None: as the first model's recipe says.
        threshold: Probability above which a pixel is salt; None: the mean of the models' own.
        batch_size: Tiles a forward pass.
        device: 'auto', 'cpu' or 'cuda'.
        precision: 'auto', 'float32' or 'bf16', as in the recipe.
    """

    flip: bool | None = None
    threshold: float | None = None
    batch_size: int = 32
    device: str = "auto"
    precision: str = "auto"


AS_TRAINED = PredictOptions()
"""The options that follow the models' recipes."""


def load_predictor(
    paths: Sequence[Path], options: PredictOptions = AS_TRAINED
) -> tuple[Predictor, list[ModelCard]]:
    """Return a predictor over one or several model files, and their cards.

    Args:
        paths: Model files; their probabilities are averaged.
        options: How they are applied.

    Raises:
        ModelFileError: A file is no usable model, or the device is not there.
    """
    device = _choose_device(options.device)
    loaded = [load_model(path) for path in paths]
    nets, cards = [net.to(device) for net, _ in loaded], [card for _, card in loaded]
    for net in nets:
        net.set_precision(options.precision, device)
    own_flip, own_threshold = cards[0].recipe.predict.flip, np.mean([c.threshold for c in cards])
    predictor = Predictor(
        nets,
        threshold=float(own_threshold) if options.threshold is None else options.threshold,
        flip=own_flip if options.flip is None else options.flip,
        batch_size=options.batch_size,
    )
    return predictor, cards


def _choose_device(device: str) -> str:
    known = ("auto", "cpu", "cuda") if torch.cuda.is_available() else ("auto", "cpu")
    if device not in known:
        raise ModelFileError(
            f"there is no device {device!r} here", where="--device", expected=", ".join(known)
        )
    return known[-1] if device == "auto" else device
