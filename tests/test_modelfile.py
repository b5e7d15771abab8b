"""The model file: what goes in comes out, and nothing hostile gets through."""

import json
import pickle
import struct
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from diapir.config import Recipe
from diapir.errors import ModelFileError, RunError
from diapir.models import modelcard
from diapir.models.modelcard import ModelCard, Normalisation, read_card
from diapir.models.modelfile import load_model, save_model, serialise
from diapir.models.unet import SaltNet
from diapir.runs.provenance import provenance


@pytest.fixture
def recipe(tiny_recipe: Callable[..., Recipe]) -> Recipe:
    return tiny_recipe()


@pytest.fixture
def net(recipe: Recipe) -> SaltNet:
    torch.manual_seed(0)
    net = SaltNet(recipe.model).train()
    net(torch.rand(4, 1, 16, 16))  # moves the statistics of batch norm
    return net.eval()


@pytest.fixture
def card(recipe: Recipe) -> ModelCard:
    return ModelCard(
        recipe=recipe,
        threshold=0.37,
        metrics={"val_score": 0.8},
        data_fingerprint="abc",
        train_ids=("a", "b"),
        val_ids=("c",),
        notes="ünïcode",
    )


@pytest.fixture
def path(tmp_path: Path, net: SaltNet, card: ModelCard) -> Path:
    path = tmp_path / "model.safetensors"
    save_model(path, net, card)
    return path


def test_round_trip(path: Path, net: SaltNet, card: ModelCard) -> None:
    again, found = load_model(path)
    assert found == replace(card, normalisation=Normalisation(net.mean, net.std))
    assert not again.training
    x = torch.rand(2, 1, 101, 101)
    with torch.no_grad():
        assert torch.equal(again(x), net(x))


def test_loading_needs_no_encoder_weights(tmp_path: Path, net: SaltNet, card: ModelCard) -> None:
    model = card.recipe.model.model_copy(update={"weights": "/gone.safetensors", "freeze": 1})
    path = tmp_path / "model.safetensors"
    recipe = card.recipe.model_copy(update={"model": model})
    save_model(path, net, ModelCard(recipe=recipe, threshold=0.5))
    again, found = load_model(path)
    assert found.recipe == recipe
    assert all(p.requires_grad for p in again.parameters())


def test_half_is_half_the_size_and_nearly_the_same(
    tmp_path: Path, path: Path, net: SaltNet, card: ModelCard
) -> None:
    small = tmp_path / "half.safetensors"
    save_model(small, net, card, half=True)
    weights = {n for n, t in load_file(small).items() if t.dtype == torch.float16}
    assert weights == {n for n, t in net.state_dict().items() if t.is_floating_point()}
    again, _ = load_model(small)
    assert all(p.dtype == torch.float32 for p in again.parameters())
    x = torch.rand(2, 1, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(again(x), net(x), atol=0.02, rtol=0.02)


def test_half_keeps_what_float16_cannot_hold(tmp_path: Path, net: SaltNet, card: ModelCard) -> None:
    name = next(n for n in net.state_dict() if n.endswith("running_var"))
    net.state_dict()[name].fill_(1e6)
    save_model(tmp_path / "half.safetensors", net, card, half=True)
    again, _ = load_model(tmp_path / "half.safetensors")
    assert again.state_dict()[name].max() == 1e6


def test_same_network_and_card_give_the_same_bytes(net: SaltNet, card: ModelCard) -> None:
    assert serialise(net, card) == serialise(net, card)


def test_stamp_tells_versions_and_time(card: ModelCard) -> None:
    stamped = card.stamped()
    assert torch.__version__.startswith(stamped.versions["torch"].partition("+")[0])
    assert {"diapir", "torch", "timm", "python"} <= set(stamped.versions)
    assert stamped.created.endswith("+00:00")
    assert stamped.threshold == card.threshold


def test_commit_is_that_of_the_repository_that_tracks_the_source(tmp_path: Path) -> None:
    source = tmp_path / "package" / "modelfile.py"
    source.parent.mkdir()
    source.write_text("", encoding="utf-8")

    def git(*arguments: str) -> str:
        identity = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
        command = ["git", "-C", str(tmp_path), *identity, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    assert modelcard._read_commit(source) is None  # no repository
    git("init", "-q")
    (tmp_path / "other").write_text("", encoding="utf-8")
    git("add", "other")
    git("commit", "-qm", "other", "--no-verify")
    assert modelcard._read_commit(source) is None  # somebody else's repository
    git("add", "package")
    git("commit", "-qm", "package", "--no-verify")
    assert modelcard._read_commit(source) == git("rev-parse", "HEAD").strip()


def test_a_commit_made_meanwhile_is_not_named(
    card: ModelCard, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = modelcard.source_commit()
    monkeypatch.setattr(modelcard.subprocess, "run", lambda *a, **k: pytest.fail("asked again"))
    assert card.stamped().git == begun


# --- hostile and damaged files


def refused(path: Path, *said: str) -> None:
    with pytest.raises(ModelFileError) as caught:
        load_model(path)
    for part in (*said, str(path)):
        assert part in str(caught.value)
    assert caught.value.mend


def rewrite(
    path: Path,
    change: Callable[[dict[str, Tensor]], Any] = lambda state: None,
    card: Callable[[dict[str, Any]], Any] = lambda table: None,
) -> None:
    """Save the file again with changed tensors and card."""
    state = load_file(path)
    with safe_open(path, "pt") as file:
        table = json.loads(file.metadata()["diapir"])
    change(state)
    card(table)
    save_file(state, path, metadata={"diapir": json.dumps(table)})


def test_missing_file(tmp_path: Path) -> None:
    refused(tmp_path / "none.safetensors", "does not exist", "diapir train")


def test_folder_is_no_file(tmp_path: Path) -> None:
    refused(tmp_path, "this is a folder", "of a run folder")
    (tmp_path / "model.safetensors").write_bytes(b"")
    refused(tmp_path, "this is a folder", f"Give {tmp_path / 'model.safetensors'}")


class Bomb:
    def __reduce__(self) -> tuple[Any, ...]:
        return pytest.fail, ("unpickled",)


@pytest.mark.parametrize("content", [b"", b"\x00" * 7, b"\xff" * 64, b"PK\x03\x04 a zip"])
def test_foreign_bytes(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    refused(path, "cannot be read as safetensors")


def test_renamed_pickle_is_never_unpickled(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(pickle.dumps(Bomb()))
    refused(path, "cannot be read as safetensors")
    torch.save({"weight": Bomb()}, path)
    refused(path, "cannot be read as safetensors")


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.999])
def test_truncated_file(path: Path, share: float) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    refused(path, "cannot be read as safetensors")


def test_header_that_claims_too_much(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(struct.pack("<Q", 2**62) + content[8:])
    refused(path, "cannot be read as safetensors")


def test_other_safetensors_file(tmp_path: Path) -> None:
    path = tmp_path / "encoder.safetensors"
    save_file({"weight": torch.zeros(1)}, path)
    refused(path, "not a Diapir model")


def test_wrong_shape(path: Path) -> None:
    rewrite(path, lambda state: state.update({"head.weight": torch.zeros(1, 9, 1, 1)}))
    refused(path, "head.weight has shape (1, 9, 1, 1), expected (1, 8, 1, 1)")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_no_numbers(path: Path, value: float) -> None:
    rewrite(path, lambda state: state["head.bias"].fill_(value))
    refused(path, "head.bias holds NaN or infinity")


def test_missing_tensor(path: Path) -> None:
    rewrite(path, lambda state: state.pop("head.bias"))
    refused(path, "1 tensors are missing or unknown, first 'head.bias'")


def test_extra_tensor(path: Path) -> None:
    rewrite(path, lambda state: state.update({"trojan": torch.zeros(3)}))
    refused(path, "1 tensors are missing or unknown, first 'trojan'")


def test_format_from_the_future(path: Path) -> None:
    def change(table: dict[str, Any]) -> None:
        table.clear()
        table["format"] = modelcard.LATEST_FORMAT + 1

    rewrite(path, card=change)
    refused(path, "has format 3, this Diapir reads up to 2", "Update Diapir.")


@pytest.mark.parametrize("threshold", [0, 1, -0.1, 7, float("nan"), "high", None])
def test_bad_threshold(path: Path, threshold: Any) -> None:
    rewrite(path, card=lambda table: table.update(threshold=threshold))
    refused(path, "not a usable model file")


@pytest.mark.parametrize("key", ["format", "recipe", "threshold", "metrics", "train_ids"])
def test_missing_part_of_the_card(path: Path, key: str) -> None:
    rewrite(path, card=lambda table: table.pop(key))
    refused(path, "its metadata cannot be read (KeyError)")


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("recipe", {"modle": {}}, "its recipe is not valid: modle"),
        ("recipe", [], "not valid"),
        ("recipe", {"model": {"encoder": "no_such_net"}}, "its recipe cannot be built"),
        ("recipe", {"model": {"encoder": "hf-hub:someone/thing"}}, "model.encoder"),
        ("recipe", {"model": {"scratch_channels": [10**9, 10**9]}}, "model.scratch_channels"),
        ("metrics", [], "its metadata cannot be read"),
        ("metrics", {"score": "good"}, "its metadata cannot be read"),
        ("format", "1", "its metadata cannot be read"),
        ("normalisation", {"mean": 0.5, "std": 0}, "its metadata cannot be read"),
        ("normalisation", {"mean": float("nan"), "std": 1}, "its metadata cannot be read"),
        ("normalisation", {"mean": 10**400, "std": 1}, "not a usable"),
        ("rule", {"temperature": 10**400, "min_body": 0, "empty_below": 0}, "not a usable"),
        ("rule", {"temperature": 1, "min_body": 10**400, "empty_below": 0}, "not a usable"),
        ("rule", {"temperature": 1, "min_body": float("inf"), "empty_below": 0}, "not a usable"),
    ],
)
def test_hostile_card(path: Path, key: str, value: Any, said: str) -> None:
    rewrite(path, card=lambda table: table.update({key: value}))
    refused(path, said)


@pytest.mark.parametrize("text", ["", "[]", "{", "null", "[" * 100_000])
def test_card_that_is_no_table(path: Path, text: str) -> None:
    save_file(load_file(path), path, metadata={"diapir": text})
    refused(path, "its metadata cannot be read")


def test_card_is_read_without_weights(path: Path, card: ModelCard) -> None:
    rewrite(path, lambda state: state.clear())
    assert read_card(path) == replace(card, normalisation=Normalisation(0.5, 0.5))


def test_normalisation_is_that_of_the_training(
    tmp_path: Path, net: SaltNet, card: ModelCard
) -> None:
    net.mean, net.std = 0.4, 0.3  # as another version of timm had it
    path = tmp_path / "model.safetensors"
    save_model(path, net, card)
    again, found = load_model(path)
    assert (again.mean, again.std) == (0.4, 0.3)
    shown = ("normalisation of pixels", "mean 0.4000, standard deviation 0.3000")
    assert shown in provenance(found)
    save_model(path, again, found)
    assert read_card(path) == found
    rewrite(path, card=lambda table: table.pop("normalisation"))  # a file of before
    again, found = load_model(path)
    assert (again.mean, again.std) == (0.5, 0.5)
    assert found.normalisation is None


def test_unwritable_place_leaves_nothing(tmp_path: Path, net: SaltNet, card: ModelCard) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(RunError):
        save_model(tmp_path / "file" / "model.safetensors", net, card)
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
