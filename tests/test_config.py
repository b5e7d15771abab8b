"""The recipe: defaults, files, overrides, and what its errors say."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from diapir.config import LossConfig, ModelConfig, Recipe, load_recipe, parse_recipe, recipe_names
from diapir.errors import RecipeError
from diapir.runs.rounds import member_recipe

CLASSIC = ("classic-resnet34", "classic-scratch", "classic-vgg16", "classic-vgg19")


def test_packaged_recipes_are_listed() -> None:
    assert set(CLASSIC) | {"cpu", "demo"} <= set(recipe_names())
    assert recipe_names() == sorted(recipe_names())


@pytest.mark.parametrize("name", recipe_names())
def test_packaged_recipe_loads_and_is_described(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.name == name
    assert recipe.description
    assert recipe.split.stratify == "depth"


def test_cpu_is_small_and_a_second_network_scored_on_a_holdout() -> None:
    small, cpu = load_recipe("small"), load_recipe("cpu")
    assert (small.split.holdout, small.split.val, small.split.folds) == (0, 0, 1)
    assert (cpu.split.holdout, cpu.split.val) == (0.2, 0.05)
    assert not small.joins_trainings
    own = {"name": "", "description": "", "split": cpu.split, "ensemble": cpu.ensemble}
    assert small.model_copy(update=own) == cpu.model_copy(update=own)
    first, second = (member_recipe(cpu, encoder, (), None) for encoder in cpu.ensemble.encoders)
    own = {"name": "", "description": "", "split": cpu.split}
    assert small.model_copy(update=own) == first.model_copy(update=own)
    assert (second.model.encoder, second.model.resize_to) == ("tf_efficientnet_lite2", 160)
    assert second.model.decoder_channels == first.model.decoder_channels
    assert second.train.small_first is not None
    assert second.train.max_minutes == first.train.max_minutes


def test_an_encoder_that_would_not_be_trained_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"resnet34 would not be trained(.|\n)*encoders=\[\]"):
        load_recipe("cpu", ["model.encoder=resnet34"])
    alone = load_recipe("cpu", ["model.encoder=resnet34", "ensemble.encoders=[]"])
    assert alone.model.encoder == "resnet34"
    assert not alone.joins_trainings


def test_what_an_ensemble_changes_for_an_encoder_is_checked() -> None:
    recipe = load_recipe("cpu", ["ensemble.changes.tf_efficientnet_lite0.model.resize_too=1"])
    with pytest.raises(
        RecipeError, match=r"resize_too: there is no such(.|\n)*cpu, ensemble.changes of tf_eff"
    ):
        member_recipe(recipe, "tf_efficientnet_lite0", (), None)


def test_gpu_and_winner_are_what_they_say() -> None:
    gpu, winner = load_recipe("gpu"), load_recipe("winner")
    assert gpu.split.folds == 5
    assert gpu.train.max_minutes is not None
    assert 5 * gpu.train.max_minutes < 30
    assert len(winner.ensemble.encoders) == 3
    assert (winner.split.folds, winner.snapshots.cycles) == (5, 4)
    assert winner.pseudo_labels.rounds == 2
    assert winner.joins_trainings
    assert not gpu.joins_trainings
    assert winner.model == gpu.model  # by its base
    assert winner.train.batch_size == gpu.train.batch_size
    for recipe in (gpu, winner):
        assert "not run" in recipe.description


def test_a_recipe_may_begin_with_another(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('base = "cpu"\n[train]\nseed = 3\n', encoding="utf-8")
    recipe, cpu = load_recipe(str(path), ["train.batch_size=8"]), load_recipe("cpu")
    assert (recipe.name, recipe.train.seed, recipe.train.batch_size) == ("mine", 3, 8)
    assert recipe.train.max_minutes == cpu.train.max_minutes
    assert recipe.model == cpu.model
    lite0, lite2 = recipe.ensemble.encoders
    path.write_text(
        f'base = "cpu"\n[ensemble.changes.{lite0}]\ntrain = {{ epochs = 9 }}\n'
        f"[ensemble.changes.{lite2}.model]\ndrop_path = 0.3\n",
        encoding="utf-8",
    )
    changes = load_recipe(str(path)).ensemble.changes
    assert changes[lite0] == {"train": {"epochs": 9}}
    assert changes[lite2]["train"] == cpu.ensemble.changes[lite2]["train"]
    assert changes[lite2]["model"] == {**cpu.ensemble.changes[lite2]["model"], "drop_path": 0.3}
    path.write_text('base = "gone"\n', encoding="utf-8")
    with pytest.raises(RecipeError, match=r"base = 'gone'(.|\n)*mine.toml(.|\n)*classic-vgg16"):
        load_recipe(str(path))
    path.write_text("base = [1]\n", encoding="utf-8")
    with pytest.raises(RecipeError, match="base"):
        load_recipe(str(path))


@pytest.mark.parametrize("name", CLASSIC)
def test_classic_recipes_are_the_classic_system(name: str) -> None:
    recipe = load_recipe(name)
    last = recipe.loss.stages[-1]
    assert (last.lovasz, last.bce, last.dice) == (0.7, 0.15, 0.15)
    assert (recipe.optim.name, recipe.optim.schedule) == ("adam", "plateau")
    assert (recipe.optim.lr, recipe.optim.min_lr) == (1e-3, 1e-4)
    assert (recipe.train.epochs, recipe.train.tiles_per_epoch) == (55, 1280)
    assert recipe.train.early_stopping is not None
    assert (recipe.model.resize_to, recipe.model.dropout) == (128, 0.1)
    assert (recipe.model.upsampling, recipe.model.batch_norm) == ("transposed", False)
    assert recipe.split.holdout == 0.2
    assert recipe.augment.flip
    assert recipe.augment.brightness
    assert recipe.augment.zoom


@pytest.mark.parametrize(
    ("override", "key", "value"),
    [
        ("train.epochs=3", "epochs", 3),
        ("train.max_minutes=1.5", "max_minutes", 1.5),
        ("train.max_minutes=null", "max_minutes", None),
        ("train.compile=true", "compile", True),
        ("train.select=last", "select", "last"),
        ('train.select="last"', "select", "last"),
    ],
)
def test_override_takes_toml_or_plain_text(override: str, key: str, value: object) -> None:
    assert getattr(load_recipe("demo", [override]).train, key) == value


def test_overrides_reach_lists_paths_and_later_ones_win() -> None:
    recipe = load_recipe(
        "cpu",
        [
            "loss.stages=[{bce=1.0},{from_epoch=4,lovasz=2}]",
            "model.weights=/some/where.safetensors",
            "train.seed=1",
            "train.seed=2",
        ],
    )
    assert [stage.from_epoch for stage in recipe.loss.stages] == [0, 4]
    assert recipe.model.weights == "/some/where.safetensors"
    assert recipe.train.seed == 2


def test_file_names_only_what_differs(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text("[train]\nepochs = 7\n", encoding="utf-8")
    recipe = load_recipe(str(path))
    assert recipe == Recipe(name="mine", train=recipe.train)
    assert recipe.train.epochs == 7


def test_resolved_recipe_reads_back_the_same(tmp_path: Path) -> None:
    recipe = load_recipe("classic-vgg19", ["train.epochs=3", "model.weights=none"])
    path = tmp_path / "recipe.json"
    path.write_text(json.dumps(recipe.model_dump(mode="json")), encoding="utf-8")
    again = load_recipe(str(path))
    assert again == recipe
    assert again.sha256() == recipe.sha256()
    assert again.sha256() != load_recipe("classic-vgg19").sha256()


def test_recipe_is_frozen() -> None:
    with pytest.raises(ValidationError):
        Recipe().train.epochs = 3  # type: ignore[misc]


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("train.epoch=3", ("train.epoch: there is no such setting", "epochs", "--set")),
        ("trian.epochs=3", ("trian: there is no such setting", "train", "--set")),
        ("loss.stages=[{bse=1.0}]", ("loss.stages.0.bse:", "symmetric_lovasz")),
        (
            "train.small_first={until_progress=0.5,resize_to=64,tiles=3}",
            ("train.small_first.tiles: there is no", "until_progress"),
        ),
        ("train.seed=5000000000", ("train.seed:", "4294967295")),
        ("train.epochs=0", ("train.epochs:", "greater than or equal to 1", "found 0")),
        ("train.epochs=many", ("train.epochs:", "integer", "'many'")),
        ("optim.lr=nan", ("optim.lr:", "finite")),
        ("optim.schedule=zigzag", ("optim.schedule:", "'one-cycle'", "zigzag")),
        ("model.freeze=some", ("model.freeze:", "'all-but-last-stage'", "'some'")),
        ("model.scratch_channels=[4]", ("model.scratch_channels:", "at least 2")),
        ("model.scratch_channels=[0,4]", ("model.scratch_channels.0:", "found 0")),
        ("model.decoder_channels=[]", ("model.decoder_channels:", "at least 1")),
        ("model.decoder_channels=[1000000000]", ("model.decoder_channels.0:", "4096")),
        ("model.encoder=hf-hub:someone/thing", ("model.encoder:", "pattern")),
        ("name=../../elsewhere", ("name:", "pattern")),
        ("loss.stages=[{bce=0.0}]", ("loss.stages.0:", "all loss weights are 0")),
        ("loss.stages=[{from_epoch=3,bce=1}]", ("loss:", "start at epoch 0", "[(3, 0.0)]")),
        ("model=3", ("model:", "found 3")),
        ("ensemble.encoders=['a','a']", ("ensemble:", "lists one twice")),
        ("ensemble.encoders=['a/b']", ("ensemble.encoders.0:", "pattern")),
        ("ensemble={encoders=['a'],changes={b={}}}", ("ensemble:", "'b', which encoders")),
        ("ensemble={encoders=['a'],changes={a={split={}}}}", ("ensemble:", "'split', which all")),
        ("augment.elastic=0.2", ("augment.elastic:", "0.08")),
    ],
)
def test_error_names_key_and_mend(override: str, said: tuple[str, ...]) -> None:
    with pytest.raises(RecipeError) as caught:
        load_recipe("demo", [override])
    text = str(caught.value)
    for part in (*said, "where: demo", "Correct the recipe or the --set option."):
        assert part in text


@pytest.mark.parametrize("override", ["train.epochs", "=3", " =3"])
def test_override_without_key_or_value_is_refused(override: str) -> None:
    with pytest.raises(RecipeError, match=r"has no '='\n  where: --set\n  expected: key=value"):
        load_recipe("demo", [override])


def test_override_below_a_value_is_refused() -> None:
    with pytest.raises(RecipeError, match="'epochs' is a value, not a section"):
        load_recipe("demo", ["train.epochs.more=1"])


def test_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(RecipeError) as caught:
        load_recipe("classic-vgg")
    assert "no recipe named 'classic-vgg'" in str(caught.value)
    assert "classic-vgg19" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("bad.toml", "[train\n", "cannot read the recipe"),
        ("bad.json", "{", "cannot read the recipe"),
        ("bad.toml", None, "cannot read the recipe"),
        ("list.json", "[1]", "no table"),
        ("deep.json", "[" * 100_000, "cannot read the recipe"),
    ],
)
def test_unusable_file_is_named(tmp_path: Path, name: str, text: str | None, said: str) -> None:
    path = tmp_path / name
    if text is not None:
        path.write_text(text, encoding="utf-8")
    with pytest.raises(RecipeError) as caught:
        load_recipe(str(path))
    assert said in str(caught.value)
    assert str(path) in str(caught.value)


def test_binary_file_is_no_recipe(tmp_path: Path) -> None:
    path = tmp_path / "bad.toml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(RecipeError, match="cannot read the recipe"):
        load_recipe(str(path))


def test_parse_recipe_says_where() -> None:
    with pytest.raises(RecipeError, match="where: model file"):
        parse_recipe({"surprise": 1}, where="model file")


def test_defaults_are_valid_and_stages_must_rise() -> None:
    assert LossConfig().stages[0].lovasz == 0.7
    assert ModelConfig().in_channels == 1
    with pytest.raises(ValidationError, match="rise"):
        LossConfig.model_validate({"stages": [{"bce": 1}, {"bce": 1}]})


def test_config_needs_no_torch() -> None:
    code = "import sys, diapir.config as c; c.load_recipe('cpu'); sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_stages_follow_the_epochs():
    stages = [{"bce": 1}, {"from_epoch": 3, "lovasz": 1}, {"from_epoch": 9, "symmetric_lovasz": 1}]
    loss = parse_recipe({"loss": {"stages": stages}}, "test").loss
    starts = [loss.stage_at(epoch).from_epoch for epoch in range(11)]
    assert starts == [0, 0, 0, 3, 3, 3, 3, 3, 3, 9, 9]


def test_stages_follow_the_share_of_the_training():
    stages = [{"bce": 1}, {"from_progress": 0.4, "lovasz": 1}]
    loss = parse_recipe({"loss": {"stages": stages}}, "test").loss
    starts = [loss.stage_at(7, progress).from_progress for progress in (0.0, 0.39, 0.4, 1.0)]
    assert starts == [0.0, 0.0, 0.4, 0.4]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"train": {"select": "best"}}, "train.select = 'last'"),
        ({"train": {"select": "last"}, "optim": {"schedule": "plateau"}}, "optim.schedule"),
    ],
)
def test_snapshots_need_a_rate_that_restarts(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        parse_recipe({"snapshots": {"cycles": 2}, **changes}, "test")
