"""The networks that are measured, as model files, and how they are asked."""

import time
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from diapir.config import (
    LossConfig,
    LossStage,
    ModelConfig,
    OptimConfig,
    Recipe,
    TrainConfig,
    load_recipe,
)
from diapir.inference.predict import PredictOptions, Predictor, load_predictor
from diapir.models.modelcard import ModelCard
from diapir.models.modelfile import save_model
from diapir.models.unet import SaltNet


def plain_recipe(encoder: str, batch_size: int = 16) -> Recipe:
    """Return a recipe for a U-Net like the baseline's: same encoder, loss, optimiser, 128 x 128.

    Args:
        encoder: A timm name.
        batch_size: Tiles a step.
    """
    # a VGG has four halvings here; the library's adds a fifth and a block in its middle
    channels = (256, 128, 64, 32) if encoder.startswith("vgg") else (256, 128, 64, 32, 16)
    return Recipe(
        name="benchmark",
        model=ModelConfig(encoder=encoder, decoder_channels=channels, stem_stride=2),
        loss=LossConfig(stages=(LossStage(bce=0.5, dice=0.5),)),
        optim=OptimConfig(weight_decay=0.01),
        train=TrainConfig(epochs=1, batch_size=batch_size, select="last"),
    )


def cpu_recipe(encoder: str) -> Recipe:
    """Return the network of recipe `small` on another encoder, from random weights."""
    return load_recipe("small", ["model.weights=none", f"model.encoder={encoder}"])


SURE = 5.0
"""Bias of the head of untrained networks: no pixel is near the threshold.

An engine in bf16 flips pixels of a network that knows nothing, and would be refused for it.
"""


def random_model(folder: Path, recipe: Recipe) -> Path:
    """Write the untrained network of a recipe as a model file; return its path."""
    torch.manual_seed(0)
    path = folder / f"{recipe.model.encoder}-{recipe.name}.safetensors"
    net = SaltNet(recipe.model)
    torch.nn.init.constant_(net.head.bias, SURE)  # type: ignore[arg-type]
    save_model(path, net, ModelCard(recipe, 0.5))
    return path


def options(precision: str, engine: str = "auto", **others: object) -> PredictOptions:
    """Return options for predicting; the engine is named where this version lets one choose it."""
    if "engine" in {field.name for field in fields(PredictOptions)}:
        others["engine"] = engine
    return PredictOptions(precision=precision, **others)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Ready:
    """A predictor that has chosen its engine and is warm.

    Args:
        predictor: The predictor.
        engine: What it chose, in words.
        seconds: From the model file to the end of the first batches.
    """

    predictor: Predictor
    engine: str
    seconds: float


def ready(path: Path, images: NDArray[np.uint8], chosen: PredictOptions) -> Ready:
    """Return a predictor of a model that is ready as it is within a submission.

    For a few tiles a predictor would not care to look for the fastest engine; here it is told that
    a whole competition follows.

    Args:
        path: Model file.
        images: (N, H, W) uint8, some of the tiles.
        chosen: Options.
    """
    started = time.perf_counter()
    predictor, _ = load_predictor([path], chosen)
    if hasattr(predictor, "engines"):
        some = images[:64, None].astype(np.float32) / np.float32(255)
        predictor.engines.prepare(some.shape[-2:], _COMPETITION, lambda: (some, None))
    predictor.predict_probs(images)
    described = predictor.engines.describe() if hasattr(predictor, "engines") else ["torch"]
    return Ready(predictor, "; ".join(described), time.perf_counter() - started)


_COMPETITION = 18_000
