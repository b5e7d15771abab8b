"""The networks that are measured, as model files, and how they are asked."""

from dataclasses import fields
from pathlib import Path

import torch

from diapir.config import (
    LossConfig,
    LossStage,
    ModelConfig,
    OptimConfig,
    Recipe,
    TrainConfig,
)
from diapir.inference.predict import PredictOptions
from diapir.models.modelfile import ModelCard, save_model
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


def random_model(folder: Path, encoder: str) -> Path:
    """Write an untrained network of an encoder as a model file; return its path."""
    recipe = plain_recipe(encoder)
    torch.manual_seed(0)
    path = folder / f"{encoder}.safetensors"
    save_model(path, SaltNet(recipe.model), ModelCard(recipe, 0.5))
    return path


def options(precision: str, engine: str = "auto", **others: object) -> PredictOptions:
    """Return options for predicting; the engine is named where this version lets one choose it."""
    if "engine" in {field.name for field in fields(PredictOptions)}:
        others["engine"] = engine
    return PredictOptions(precision=precision, **others)  # type: ignore[arg-type]
