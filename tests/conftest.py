"""What several test modules need: a tiny recipe, and tiles that are easy to learn."""

import os
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import settings

from diapir.config import Recipe, parse_recipe
from diapir.io.tiles import Tiles

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command line does

# a busy machine is slow, which says nothing about the code
settings.register_profile("diapir", deadline=None)
settings.load_profile("diapir")

TINY: dict[str, dict[str, Any]] = {
    "split": {"stratify": "none", "holdout": 0.2, "val": 0.25},
    "model": {
        "encoder": "scratch",
        "scratch_channels": [4, 8],
        "decoder_channels": [8],
    },
    "augment": {"brightness": 0.05, "zoom": 0.0},
    "loss": {"stages": [{"bce": 1.0, "dice": 1.0}]},
    "optim": {"lr": 0.01, "min_lr": 0.001, "schedule": "constant"},
    "train": {"epochs": 2, "batch_size": 8, "precision": "float32"},
}


@pytest.fixture(scope="session")
def tiny_recipe() -> Callable[..., Recipe]:
    """A recipe for a tiny net; keywords such as ``train__epochs=3`` change it."""

    def make(**changes: Any) -> Recipe:
        table: dict[str, Any] = {section: dict(values) for section, values in TINY.items()}
        for key, value in changes.items():
            section, _, name = key.partition("__")
            table[section][name] = value
        return parse_recipe({"name": "tiny", **table}, where="test")

    return make


def draw_easy_tiles(count: int, size: int = 32, seed: int = 0) -> Tiles:
    """Tiles whose salt is bright and whose rest is dark; every fourth has none."""
    rng = np.random.default_rng(seed)
    masks = np.zeros((count, size, size), np.uint8)
    for place in range(count):
        if place % 4:
            top, left = rng.integers(0, size // 2, 2)
            height, width = rng.integers(size // 4, size // 2, 2)
            masks[place, top : top + height, left : left + width] = 1
    noise = rng.integers(0, 60, masks.shape)
    images = (40 + 120 * masks + noise).astype(np.uint8)
    ids = tuple(f"tile{place:04d}" for place in range(count))
    z_feet = rng.integers(50, 960, count).astype(np.float32)
    return Tiles(ids, images, masks, z_feet, "easy tiles")


@pytest.fixture(scope="session")
def easy_tiles() -> Tiles:
    """Eighty tiles of 32 x 32."""
    return draw_easy_tiles(80)
