from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

from diapir.errors import ModelFileError
from diapir.models.modelcard import ModelCard, read_card
from diapir.models.modelfile import save_model
from diapir.models.pixels import TGS_PIXELS, PixelStatistics, pixel_statistics
from diapir.models.unet import SaltNet


def test_mean_deviation_and_shares_are_those_of_the_pixels_that_are_not_blank():
    images = np.random.default_rng(0).integers(40, 200, (9, 20, 30)).astype(np.uint8)
    images[4] = 0
    found = pixel_statistics(images)
    alive = np.delete(images, 4, axis=0) / 255
    assert found.mean == pytest.approx(alive.mean(), abs=1e-6)
    assert found.std == pytest.approx(alive.std(), abs=1e-6)
    assert sum(found.shares) == pytest.approx(1, abs=1e-4)
    assert found.shares[:5] == (0,) * 5
    assert found.shares[25:] == (0,) * 7


def test_roughness_tells_traces_from_samples():
    ramp = np.tile(np.arange(0, 200, 5, dtype=np.uint8)[:, None], (1, 40))  # changes downwards
    found = pixel_statistics(np.stack([ramp, ramp]))
    assert found.roughness[0] == 0
    assert found.roughness[1] == pytest.approx(5 / ramp.std())


def test_blank_tiles_say_nothing():
    assert pixel_statistics(np.full((3, 8, 8), 7, np.uint8)) is None
    assert pixel_statistics(np.zeros((0, 8, 8), np.uint8)) is None


def test_the_model_file_keeps_them(tiny_recipe, tmp_path: Path):
    recipe = tiny_recipe()
    net = SaltNet(recipe.model)
    card = ModelCard(recipe, 0.5, pixels=replace(TGS_PIXELS, mean=0.4))
    save_model(tmp_path / "new.safetensors", net, card)
    assert read_card(tmp_path / "new.safetensors").pixels == card.pixels
    save_model(tmp_path / "silent.safetensors", net, ModelCard(recipe, 0.5))
    assert read_card(tmp_path / "silent.safetensors").pixels is None


@pytest.mark.parametrize("wrong", [{"mean": 2.0}, {"std": 0.0}, {"shares": [1.0]}])
def test_a_file_with_impossible_pixels_is_refused(tiny_recipe, tmp_path: Path, wrong):
    recipe = tiny_recipe()
    card = ModelCard(recipe, 0.5, pixels=PixelStatistics(**{**asdict(TGS_PIXELS), **wrong}))
    save_model(tmp_path / "odd.safetensors", SaltNet(recipe.model), card)
    with pytest.raises(ModelFileError, match="metadata"):
        read_card(tmp_path / "odd.safetensors")
