"""Several encoders, folds, snapshots and rounds of pseudo-labels by one command; every recipe."""

import json
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from diapir.cli.app import app
from diapir.config import Recipe, load_recipe, parse_recipe
from diapir.data.competition import write_competition
from diapir.data.datamodule import TileDataModule
from diapir.errors import DataError, ModelFileError, RecipeError, RunError
from diapir.inference.evaluate import evaluate
from diapir.inference.predict import PredictOptions, load_predictor
from diapir.io.tiles import Tiles, read_tiles
from diapir.metrics.calibration import scale_probs
from diapir.models import processor
from diapir.models.ensemble import read_members
from diapir.models.modelcard import read_card
from diapir.models.modelfile import load_model
from diapir.runs import train as train_module
from diapir.runs.evaluate import evaluate_models
from diapir.runs.out_of_fold import read_out_of_fold, run_models
from diapir.runs.rounds import member_recipe
from diapir.runs.train import resume_run, train_recipe
from diapir.training.hardware import Hardware

Make = Callable[..., Recipe]
CPU = Hardware(accelerator="cpu", devices=1, progress=False)
pytestmark = pytest.mark.usefixtures("no_figures")
TINY = {
    "ensemble__encoders": ["scratch", "test_efficientnet"],
    "pseudo_labels__rounds": 1,
    "snapshots__cycles": 2,
    "optim__schedule": "cosine",
    "train__select": "last",
    "split__folds": 2,
}


@pytest.fixture(scope="module")
def data(easy_tiles: Tiles, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "tiles"
    test = easy_tiles.subset(range(60, 80))
    unlabelled = Tiles(tuple(f"u{k}" for k in range(20)), test.images, None, test.z_feet, "test")
    write_competition(folder, easy_tiles.subset(range(60)), unlabelled)
    return folder


class Counted:
    """A function that counts how often it is called."""

    def __init__(self, original: Callable[..., Any]) -> None:
        self.original, self.calls = original, 0

    def __call__(self, *args: Any, **options: Any) -> Any:
        self.calls += 1
        return self.original(*args, **options)


@pytest.fixture(scope="module")
def joined(
    data: Path,
    tiny_recipe: Make,
    without_figures: Callable[[], AbstractContextManager[None]],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """Two encoders, two folds, two snapshots, one round after the first."""
    with without_figures():
        trained = train_recipe(tiny_recipe(**TINY), data, tmp_path_factory.mktemp("runs"), CPU)
    assert len(trained.trainings) == 2 * 2 * 2
    assert trained.together is not None
    seconds = sum(result.seconds for result in trained.trainings)
    assert trained.together.seconds == pytest.approx(seconds)
    return trained.folder.path


def table(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def test_each_training_leaves_an_ordinary_run(joined: Path) -> None:
    places = sorted(path.name for path in joined.glob("round-*"))
    assert places == [
        f"round-{k}-{encoder}" for k in (0, 1) for encoder in ("scratch", "test_efficientnet")
    ]
    for place in places:
        assert (joined / place / "out_of_fold.npz").is_file()
        recipe = load_recipe(str(joined / place / "fold-1" / "recipe.json"))
        assert recipe.model.encoder in place
        assert not recipe.joins_trainings
        assert bool(recipe.pseudo_labels.models) == place.startswith("round-1")


def test_a_fold_learns_from_its_own_models_of_the_round_before(joined: Path) -> None:
    models = load_recipe(str(joined / "round-1-scratch" / "fold-0" / "recipe.json"))
    names = {Path(model).relative_to(joined) for model in models.pseudo_labels.models}
    assert names == {
        Path(f"round-0-{encoder}", "fold-{fold}", f"{kind}.safetensors")
        for encoder in ("scratch", "test_efficientnet")
        for kind in ("snapshot-1", "model")
    }
    split = table(joined / "round-1-scratch" / "fold-0" / "split.json")
    card = read_card(joined / "round-0-test_efficientnet" / "fold-0" / "model.safetensors")
    assert not set(card.train_ids) & {*split["val"], *split["holdout"]}


def test_the_model_joins_encoders_folds_and_snapshots_of_the_last_round(
    joined: Path, data: Path
) -> None:
    members = read_members(joined / "model.safetensors")
    assert len(members) == 2 * 2 * 2
    assert {member.recipe.model.encoder for member in members} == {"scratch", "test_efficientnet"}
    assert all(member.recipe.pseudo_labels.models for member in members)
    metrics = table(joined / "metrics.json")
    assert metrics["joined"]["networks"] == 8
    assert metrics["joined"]["chosen_on"] == "48 out-of-fold tiles"
    assert metrics["trainings"] == 8
    # the hold-out is scored by all of them together
    assert metrics["holdout"]["tiles"] == 12
    judged = evaluate_models([joined / "model.safetensors"], data, progress=False)
    score = metrics["holdout"]["metrics"]["score"]["value"]
    assert judged.found.metrics["score"].value == pytest.approx(score)
    assert (joined / "report.html").is_file()
    assert f"{joined / 'model.safetensors'}" in (joined / "next.txt").read_text(encoding="utf-8")


def test_out_of_fold_predictions_are_means_over_snapshots(joined: Path, data: Path) -> None:
    run = joined / "round-0-scratch"
    assert [path.name for path in run_models(run)] == 2 * [
        "snapshot-1.safetensors",
        "model.safetensors",
    ]
    stored = read_out_of_fold(run)
    tiles = read_tiles(data, "train")
    raw = []
    for file in run_models(run)[:2]:
        predictor, (card,) = load_predictor([file], PredictOptions(device="cpu"))
        part = tiles.select(card.val_ids)
        raw.append(scale_probs(predictor.predict_probs(part.images), 1 / card.rule.temperature))
    place = [stored.ids.index(id_) for id_ in part.ids]
    assert stored.probs[place] == pytest.approx(np.mean(raw, axis=0), abs=2e-3)
    assert not np.allclose(raw[0], raw[1], atol=2e-3)


def test_interrupted_rounds_go_on_with_what_is_missing(
    data: Path, tiny_recipe: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = tiny_recipe(
        ensemble__encoders=["scratch"], pseudo_labels__rounds=1, split__holdout=0.0
    )
    seen: list[int] = []
    original = TileDataModule.on_after_batch_transfer

    def transfer(self: TileDataModule, batch: Any, dataloader_idx: int) -> Any:
        seen.append(len(self.tiles))
        if len(self.tiles) > 60 and self.trainer is not None and self.trainer.global_step == 7:
            os.kill(os.getpid(), signal.SIGTERM)
        return original(self, batch, dataloader_idx)

    with monkeypatch.context() as patch:
        patch.setattr(TileDataModule, "on_after_batch_transfer", transfer)
        trained = train_recipe(recipe, data, tmp_path, CPU)
    assert max(seen) > 60  # the second round had pseudo-labels
    assert trained.interrupted == signal.SIGTERM
    (folder,) = tmp_path.iterdir()
    assert trained.folder.path == folder
    assert not (folder / "model.safetensors").exists()
    assert f"--resume {folder}" in (folder / "next.txt").read_text(encoding="utf-8")
    first = folder / f"round-0-{recipe.model.encoder}"
    left = {path: path.stat().st_mtime_ns for path in first.glob("*.safetensors")}
    assert left
    with monkeypatch.context() as patch:
        patch.setattr(train_module, "fit", fitted := Counted(train_module.fit))
        again = resume_run(folder, data, CPU)
    assert fitted.calls == 1  # the first round was finished, and stays as it is
    assert {path: path.stat().st_mtime_ns for path in left} == left
    (former, _), (same, other) = trained.trainings, again.trainings
    assert np.array_equal(same.val_probs, former.val_probs)
    assert same.val is not None
    assert former.val is not None
    assert same.val.to_dict() == former.val.to_dict()
    assert same.threshold == former.threshold
    assert again.together is not None
    assert again.together.holdout is None
    assert again.interrupted is None
    assert table(folder / "metrics.json")["holdout"] is None
    assert (folder / "model.safetensors").is_file()
    whole = train_recipe(recipe, data, tmp_path / "whole", CPU)
    assert np.array_equal(whole.trainings[1].val_probs, other.val_probs)


def test_a_round_can_begin_where_the_one_before_ended_and_all_are_joined(
    data: Path, tiny_recipe: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    starts: list[dict[str, Any] | None] = []
    original = train_module.fit

    def fit(*args: Any, **options: Any) -> Any:
        starts.append(options["start"])
        return original(*args, **options)

    monkeypatch.setattr(train_module, "fit", fit)
    recipe = tiny_recipe(
        pseudo_labels__rounds=1,
        pseudo_labels__warm_start=True,
        pseudo_labels__join_rounds=True,
        predict__threshold=0.5,
    )
    trained = train_recipe(recipe, data, tmp_path, CPU)
    folder = trained.folder.path
    first, _ = load_model(folder / f"round-0-{recipe.model.encoder}" / "model.safetensors")
    assert starts[0] is None
    assert starts[1] is not None
    for name, tensor in first.state_dict().items():
        assert torch.equal(starts[1][name], tensor)
    metrics = table(folder / "metrics.json")
    assert metrics["joined"]["networks"] == 2
    assert metrics["data_fingerprint"] == read_tiles(data, "train").fingerprint()
    assert metrics["threshold"] == 0.5  # the recipe's, not one that few tiles chose
    assert metrics["epochs"] == sum(
        table(result.folder.metrics)["epochs"] for result in trained.trainings
    )
    # validation is that of both networks together
    options = PredictOptions(device="cpu")
    predictor, (card,) = load_predictor([folder / "model.safetensors"], options)
    val = read_tiles(data, "train").select(card.val_ids)
    judged = evaluate(predictor.predict_probs(val.images), val, 0.5, rule=predictor.rule)
    assert metrics["val"]["metrics"]["score"]["value"] == judged.metrics["score"].value


def test_a_start_needs_no_encoder_weights_and_may_differ_by_encoder(
    data: Path, tiny_recipe: Make, model: Path, tmp_path: Path
) -> None:
    encoders = ["mobilenetv3_small_050", "mobilenetv3_small_075"]
    recipe = tiny_recipe(
        ensemble__encoders=encoders,
        ensemble__changes={encoders[1]: {"train": {"start_from": str(model)}}},
    )
    found = [member_recipe(recipe, encoder, (), None).train.start_from for encoder in encoders]
    assert found == [None, str(model)]
    assert member_recipe(recipe, encoders[1], (), "warm").train.start_from == "warm"
    again = tiny_recipe(
        train__start_from=str(model), model__weights="nowhere.safetensors", train__epochs=1
    )
    assert train_recipe(again, data, tmp_path, CPU).folder.model.is_file()


def test_another_network_is_no_start(
    data: Path, tiny_recipe: Make, model: Path, tmp_path: Path
) -> None:
    recipe = tiny_recipe(model__decoder_channels=[6], train__start_from=str(model))
    with pytest.raises(ModelFileError, match=r"another network(.|\n)*train.start_from"):
        train_recipe(recipe, data, tmp_path, CPU)


def test_rounds_without_unlabelled_tiles_end_before_anything_trains(
    easy_tiles: Tiles, tiny_recipe: Make, tmp_path: Path
) -> None:
    for kind in ("images", "masks"):
        (tmp_path / "data" / kind).mkdir(parents=True)
    write_competition(tmp_path / "whole", easy_tiles.subset(range(8)), easy_tiles.subset([9]))
    for kind in ("images", "masks"):
        for file in (tmp_path / "whole" / "train" / kind).iterdir():
            file.rename(tmp_path / "data" / kind / file.name)
    with pytest.raises(DataError, match=r"pseudo_labels.rounds=0"):
        train_recipe(tiny_recipe(pseudo_labels__rounds=1), tmp_path / "data", tmp_path / "r", CPU)
    assert not (tmp_path / "r").exists()


def test_other_data_does_not_go_on(joined: Path, easy_tiles: Tiles, tmp_path: Path) -> None:
    test = easy_tiles.subset([0])
    write_competition(
        tmp_path / "other", easy_tiles, Tiles(("p",), test.images, None, test.z_feet, "test")
    )
    with pytest.raises(RunError, match="the data differs"):
        resume_run(joined, tmp_path / "other", CPU)


def test_several_machines_are_refused(data: Path, tiny_recipe: Make, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"by one machine(.|\n)*model.encoder=NAME"):
        train_recipe(tiny_recipe(**TINY), data, tmp_path / "runs", Hardware("cpu", num_nodes=2))
    assert not (tmp_path / "runs").exists()


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Compute as a process does that has one core: another number of threads rounds otherwise."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("one_thread")
def test_encoders_are_trained_side_by_side(data: Path, tiny_recipe: Make, tmp_path: Path) -> None:
    changes = {"test_efficientnet": {"train": {"seed": 5}}}
    recipe = tiny_recipe(ensemble__encoders=["scratch", "test_efficientnet"])
    recipe = parse_recipe(
        recipe.model_dump(mode="json")
        | {"ensemble": {"encoders": recipe.ensemble.encoders, "changes": changes}},
        where="test",
    )
    one_by_one = train_recipe(recipe, data, tmp_path / "one", CPU)
    trained = train_recipe(recipe, data, tmp_path / "two", Hardware("cpu", 2, progress=False))
    folder = trained.folder
    for mine, wanted in zip(trained.trainings, one_by_one.trainings, strict=True):
        np.testing.assert_allclose(mine.val_probs, wanted.val_probs, atol=1e-4)
        # another process trained it, for the command of this one
        (ahead, *_) = table(mine.folder.starts)["starts"]
        assert "--resume" not in ahead["command"]
    recipes = [load_recipe(str(result.folder.recipe)) for result in trained.trainings]
    assert [member.train.seed for member in recipes] == [recipe.train.seed, 5]
    longest = max(result.seconds for result in trained.trainings)
    assert trained.together is not None
    assert trained.together.seconds == longest
    assert table(folder.metrics)["training_seconds"] == round(longest, 1)
    assert read_members(folder.model)


@pytest.mark.parametrize(
    ("models", "said"), [(0, "no epoch had ended"), (1, "saved, of 1 of 2 networks")]
)
def test_encoders_side_by_side_that_are_ended_tell_what_is_saved(
    models: int,
    said: str,
    data: Path,
    tiny_recipe: Make,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def end(runs: Sequence[Path], *_: Any, **__: Any) -> int:
        for run in runs[:models]:
            (run / "model.safetensors").touch()
        return signal.SIGINT

    monkeypatch.setattr(train_module, "train_side_by_side", end)
    recipe = tiny_recipe(ensemble__encoders=["scratch", "test_efficientnet"])
    with pytest.raises(RunError, match=said) as told:
        train_recipe(recipe, data, tmp_path, Hardware("cpu", 2, progress=False))
    (folder,) = tmp_path.iterdir()
    assert told.value.exit_code == 130
    assert f"--resume {folder}" in (folder / "next.txt").read_text(encoding="utf-8")


def test_an_unknown_encoder_is_found_before_anything_trains(
    data: Path, tiny_recipe: Make, tmp_path: Path
) -> None:
    recipe = tiny_recipe(**TINY | {"ensemble__encoders": ["scratch", "resnet0"]})
    with pytest.raises(RecipeError, match="resnet0"):
        train_recipe(recipe, data, tmp_path / "runs", CPU)
    assert not (tmp_path / "runs").exists()


def test_bf16_is_refused_before_anything_trains(
    data: Path, tiny_recipe: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processor, "has_fast_bf16", lambda: False)
    with pytest.raises(RunError, match=r"no instructions for bf16(.|\n)*train.precision"):
        train_recipe(tiny_recipe(train__precision="bf16"), data, tmp_path / "runs", CPU)
    assert not (tmp_path / "runs").exists()


def test_nothing_may_wait_for_a_validation_that_is_not_there(
    data: Path, tiny_recipe: Make, tmp_path: Path
) -> None:
    for changes in ({"train__early_stopping": 3}, {"optim__schedule": "plateau"}):
        recipe = tiny_recipe(split__val=0.0, **changes)
        with pytest.raises(RecipeError, match=r"no tile validates(.|\n)*split.val=0.1"):
            train_recipe(recipe, data, tmp_path / "runs", CPU)
        recipe = tiny_recipe(train__validate_every=9, **changes)
        with pytest.raises(RecipeError, match=r"comes too late(.|\n)*epochs, which is 2"):
            train_recipe(recipe, data, tmp_path / "runs", CPU)


# --- the recipes that come with the package, end to end on a few tiles

QUICK = (
    "model.weights=none",
    "model.resize_to=null",
    "train.small_first=null",
    "train.epochs=1",
    "train.tiles_per_epoch=8",
    "train.batch_size=4",
)


def train_by_command(name: str, data: Path, runs: Path, *settings: str) -> Path:
    words = ["train", name, "--data", str(data), "--runs", str(runs), "--accelerator", "cpu", "-q"]
    words += ["--devices", "1"]  # each process of its own takes seconds to import torch
    for setting in (*QUICK, *settings):
        words += ["--set", setting]
    said = CliRunner().invoke(app, words)
    assert said.exit_code == 0, said.output
    (folder,) = runs.iterdir()
    assert folder.name.endswith(f"-{name}")
    return folder


def test_recipe_small_trains_on_every_tile_and_packs(data: Path, tmp_path: Path) -> None:
    folder = train_by_command("small", data, tmp_path / "runs")
    card = read_card(folder / "model.safetensors")
    assert set(card.train_ids) == set(read_tiles(data, "train").ids)
    assert (card.val_ids, card.metrics, card.threshold) == ((), {}, 0.5)
    assert card.pixels is not None
    metrics = table(folder / "metrics.json")
    assert (metrics["val"], metrics["holdout"]) == (None, None)
    steps = (folder / "next.txt").read_text(encoding="utf-8")
    assert "diapir evaluate" not in steps  # there is nothing to evaluate it on
    (command,) = [line for line in steps.splitlines() if line.startswith("diapir ensemble")]
    words = command.replace("salt.safetensors", str(tmp_path / "salt.safetensors")).split()[1:]
    said = CliRunner().invoke(app, words)
    assert said.exit_code == 0, said.output
    packed = read_card(tmp_path / "salt.safetensors")
    assert packed.train_ids == card.train_ids
    assert packed.pixels == card.pixels  # 'diapir map' needs them
    assert (tmp_path / "salt.safetensors").stat().st_size < 10e6


def test_recipe_gpu_gives_out_of_fold_scores(data: Path, tmp_path: Path) -> None:
    folder = train_by_command("gpu", data, tmp_path / "runs", "split.folds=2")
    assert table(folder / "metrics.json")["val"]["tiles"] == 60
    assert len(run_models(folder)) == 2


def test_recipe_winner_is_one_command(data: Path, tmp_path: Path) -> None:
    folder = train_by_command(
        "winner",
        data,
        tmp_path / "runs",
        "split.folds=2",
        "ensemble.encoders=['test_resnet', 'test_efficientnet']",
        "model.decoder_channels=[8, 8]",
        "snapshots.cycles=2",
        "pseudo_labels.rounds=1",
        "optim.schedule=cosine",
    )
    metrics = table(folder / "metrics.json")
    assert metrics["joined"]["networks"] == 2 * 2 * 2
    assert metrics["trainings"] == 8
    assert metrics["holdout"]["tiles"] == 6
