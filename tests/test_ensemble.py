"""Ensembles: one file of several networks, taken wherever a model is taken."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from diapir.config import Recipe
from diapir.errors import ModelFileError
from diapir.inference.predict import PredictOptions, load_predictor
from diapir.metrics.calibration import scale_probs
from diapir.models import modelcard
from diapir.models.ensemble import Member, read_members, read_networks, save_ensemble
from diapir.models.maskrule import MaskRule
from diapir.models.modelcard import ModelCard, read_card
from diapir.models.modelfile import load_model, save_model
from diapir.models.packaged import models_or_packaged, packaged_model
from diapir.models.unet import SaltNet

Make = Callable[..., Recipe]
CPU = PredictOptions(device="cpu", precision="float32", flip=False)


def build(recipe: Recipe, seed: int) -> SaltNet:
    torch.manual_seed(seed)
    return SaltNet(recipe.model).eval()


@pytest.fixture
def members(tiny_recipe: Make) -> list[Member]:
    recipes = [tiny_recipe(), tiny_recipe(model__scratch_channels=[6, 8])]
    return [
        Member(build(recipe, k), recipe, weight, f"run-{k}")
        for k, (recipe, weight) in enumerate(zip(recipes, (1.0, 3.0), strict=True))
    ]


@pytest.fixture
def card(members: list[Member]) -> ModelCard:
    return ModelCard(members[0].recipe, 0.42, train_ids=("a",), rule=MaskRule(2.0, 7, 30.0))


@pytest.fixture
def path(tmp_path: Path, members: list[Member], card: ModelCard) -> Path:
    save_ensemble(tmp_path / "ensemble.safetensors", members, card)
    return tmp_path / "ensemble.safetensors"


@pytest.fixture
def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (3, 32, 32)).astype(np.uint8)


def test_round_trip(path: Path, members: list[Member], card: ModelCard) -> None:
    found = read_networks(path)
    assert found.card == card == read_card(path)
    assert found.weights == (1.0, 3.0)
    assert [(m.recipe, m.name) for m in read_members(path)] == [(m.recipe, m.name) for m in members]
    x = torch.rand(2, 1, 32, 32)
    with torch.no_grad():
        for net, member in zip(found.nets, members, strict=True):
            assert torch.equal(net.net()(x), member.net(x))


def test_each_network_keeps_its_normalisation(
    tmp_path: Path, members: list[Member], card: ModelCard
) -> None:
    wanted = [(0.4, 0.3), (0.6, 0.2)]
    for member, (mean, std) in zip(members, wanted, strict=True):
        member.net.mean, member.net.std = mean, std
    path = tmp_path / "both.safetensors"
    save_ensemble(path, members, card)
    nets = [stored.net() for stored in read_networks(path).nets]
    assert [(net.mean, net.std) for net in nets] == wanted
    save_model(path, members[0].net, card)
    (stored,) = read_networks(path).nets
    assert (stored.net().mean, stored.net().std) == wanted[0]


def test_predictions_are_the_weighted_mean_at_one_temperature(
    path: Path, members: list[Member], images: np.ndarray
) -> None:
    predictor, cards = load_predictor([path], CPU)
    assert (predictor.threshold, len(cards)) == (0.42, 1)
    assert predictor.rule == MaskRule(2.0, 7, 30.0)
    with torch.no_grad():
        x = torch.tensor(images)[:, None].float() / 255
        one, other = (torch.sigmoid(member.net(x))[:, 0].numpy() for member in members)
    probs = predictor.predict_probs(images)
    assert probs == pytest.approx(scale_probs((one + 3 * other) / 4, 2.0), abs=1e-5)
    again, doubt = predictor.predict_with_doubt(images)
    assert (again == probs).all()
    assert (doubt > 0).all()


def test_beside_others_each_network_of_an_ensemble_counts_as_one(
    tmp_path: Path, members: list[Member], card: ModelCard
) -> None:
    paths = []
    for scale in (1.0, 10.0):  # the same ensemble
        paths.append(tmp_path / f"{scale:g}.safetensors")
        scaled = [replace(member, weight=scale * member.weight) for member in members]
        save_ensemble(paths[-1], scaled, card)
    save_model(tmp_path / "one.safetensors", members[0].net, card)
    for path in paths:
        predictor, _ = load_predictor([path, tmp_path / "one.safetensors"], CPU)
        assert predictor.shares == pytest.approx([0.5 / 3, 1.5 / 3, 1 / 3])


def test_one_network_seen_once_has_no_doubt(
    tmp_path: Path, members: list[Member], images: np.ndarray
) -> None:
    save_model(tmp_path / "one.safetensors", members[0].net, ModelCard(members[0].recipe, 0.5))
    found = read_networks(tmp_path / "one.safetensors")
    assert (len(found.nets), found.weights) == (1, (1.0,))
    assert read_members(tmp_path / "one.safetensors") == []
    predictor, _ = load_predictor([tmp_path / "one.safetensors"], CPU)
    assert not predictor.predict_with_doubt(images)[1].any()
    mirrored = PredictOptions(device="cpu", flip=True)
    flipped, _ = load_predictor([tmp_path / "one.safetensors"], mirrored)
    assert flipped.predict_with_doubt(images)[1].all()


def test_half_is_half_the_size(tmp_path: Path, path: Path, members: list[Member]) -> None:
    small = tmp_path / "half.safetensors"
    save_ensemble(small, members, read_card(path), half=True)
    assert {t.dtype for n, t in load_file(small).items() if n.endswith("weight")} == {torch.float16}
    nets = read_networks(small).nets
    assert {p.dtype for net in nets for p in net.net().parameters()} == {torch.float32}


def test_fine_tuning_wants_one_network(path: Path) -> None:
    with pytest.raises(ModelFileError, match=r"ensemble of 2 networks(.|\n)*of one network"):
        load_model(path)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda state, _: state.pop(next(iter(state))), "missing or unknown"),
        (lambda state, _: state.update({"7.weight": torch.zeros(1)}), "missing or unknown"),
        (lambda state, _: state["1.decoder.head.bias"].fill_(torch.nan), "NaN"),
        (lambda _, table: table["members"][0].pop("weight"), "list of members"),
        (lambda _, table: table["members"][0].update(weight=-1), "list of members"),
        (lambda _, table: table["members"][1].update(recipe={"x": 1}), "recipe is not valid"),
        (lambda _, table: table.update(members=3), "list of members"),
        (lambda _, table: table.update(format=3), "reads up to 2"),
        (
            lambda _, table: [table.update(format=3), table["members"][0].pop("weight")],
            "Update Diapir",
        ),
        (lambda _, table: table["rule"].update(temperature=0), "metadata"),
    ],
)
def test_damaged_ensemble(path: Path, change: Callable[[Any, Any], Any], text: str) -> None:
    state, table = load_file(path), modelcard.read_table(path)
    if "1.decoder.head.bias" not in state:  # whatever the last bias is called
        last = [name for name in state if name.startswith("1.") and name.endswith("bias")][-1]
        state["1.decoder.head.bias"] = state.pop(last)
        table["renamed"] = last
    change(state, table)
    last = table.pop("renamed", None)
    if last is not None and "1.decoder.head.bias" in state:
        state[last] = state.pop("1.decoder.head.bias")
    import json

    save_file(state, path, metadata={"diapir": json.dumps(table)})
    with pytest.raises(ModelFileError, match=text):
        [net.net() for net in read_networks(path).nets]


# --- the model that comes with the package


def test_missing_packaged_model_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("diapir.models.packaged.resources.files", lambda _: tmp_path)
    with pytest.raises(ModelFileError, match=r"carries none(.|\n)*diapir train"):
        models_or_packaged([])
    with pytest.raises(ModelFileError, match="carries none"):
        load_predictor([])


def test_packaged_model_is_the_default(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, members: list[Member]
) -> None:
    monkeypatch.setattr("diapir.models.packaged.resources.files", lambda _: tmp_path)
    (tmp_path / "weights").mkdir()
    card = ModelCard(members[0].recipe, 0.31)
    save_model(tmp_path / "weights" / "salt.safetensors", members[0].net, card, half=True)
    assert packaged_model() == tmp_path / "weights" / "salt.safetensors"
    assert load_predictor([], CPU)[0].threshold == 0.31
    assert models_or_packaged([Path("x")]) == [Path("x")]


def test_verbs_take_the_packaged_model_where_none_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, members: list[Member], images: np.ndarray
) -> None:
    from typer.testing import CliRunner

    from diapir.cli.app import app
    from diapir.data.competition import write_competition
    from diapir.io.tiles import Tiles

    ids, depths = ("a", "b", "c"), np.ones(3, np.float32)
    labelled = Tiles(ids, images, (images > 128).astype(np.uint8), depths, "here")
    write_competition(
        tmp_path / "data", labelled, Tiles(("d", "e", "f"), images, None, depths, "here")
    )
    monkeypatch.setattr("diapir.models.packaged.resources.files", lambda _: tmp_path)
    data, out = str(tmp_path / "data"), tmp_path / "out"
    commands = [
        ["predict", f"{data}/test/images", str(out), "-q"],
        ["evaluate", "--data", data, "--json", "-q"],
        ["submit", "--data", data, "--out", str(tmp_path / "s.csv"), "-q"],
    ]
    for command in commands:
        error = CliRunner().invoke(app, command).exception
        assert isinstance(error, ModelFileError)
        assert "carries none" in str(error)
    (tmp_path / "weights").mkdir()
    card = ModelCard(members[0].recipe, 0.31)
    save_model(tmp_path / "weights" / "salt.safetensors", members[0].net, card, half=True)
    for command in commands:
        said = CliRunner().invoke(app, command)
        assert said.exit_code == 0, said.output
    assert len(list((out / "masks").glob("*.png"))) == 3
