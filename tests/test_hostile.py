"""No hostile model file gets past the error, and none is run; nor by way of the encoder."""

import pickle
from pathlib import Path

import hostile
import pytest
import trial
from hostile import HOSTILE, MARK, Bomb

from diapir.config import ModelConfig
from diapir.errors import DiapirError
from diapir.models.encoders import build_encoder


def test_every_hostile_file_is_refused() -> None:
    assert len(HOSTILE) >= 30
    found, tally = hostile.try_all()
    assert [o.name for o in found if o.kind != trial.REFUSED] == []
    assert tally.tried == len(HOSTILE)


def test_the_bombs_are_real(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(Bomb(tmp_path / MARK)))  # noqa: S301
    assert (tmp_path / MARK).exists()


def test_a_file_that_is_let_in_would_be_noticed(tmp_path: Path) -> None:
    hostile.sound_file(tmp_path / "model.safetensors")
    with pytest.raises(RuntimeError, match="was loaded"):
        hostile.offer(tmp_path / "model.safetensors")


@pytest.mark.parametrize("name", ["pickle.pt", "torch-save.pth", "deep-header.safetensors"])
def test_weights_of_encoders_are_data_too(tmp_path: Path, name: str) -> None:
    HOSTILE[name](tmp_path / name)
    with pytest.raises(DiapirError):
        build_encoder(ModelConfig(encoder="test_resnet", weights=str(tmp_path / name)), 1)
    assert not (tmp_path / MARK).exists()
