"""Runs: from data on disk to a folder that explains itself, and on from an interruption."""

import csv
import dataclasses
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from diapir.cli.train import _show
from diapir.config import Recipe, load_recipe
from diapir.data.competition import write_competition
from diapir.data.datamodule import TileDataModule
from diapir.data.splits import make_splits
from diapir.errors import DataError, ModelFileError, RecipeError, RunError, WeightsError
from diapir.inference.evaluate import evaluate
from diapir.inference.postprocess import choose
from diapir.inference.predict import Predictor
from diapir.io.tiles import Tiles, read_tiles
from diapir.metrics.score import competition_score
from diapir.models import processor
from diapir.models.modelfile import load_model
from diapir.models.unet import SaltNet
from diapir.runs.ensemble import make_ensemble
from diapir.runs.folder import RunFolder, is_main_process, new_run_folder
from diapir.runs.next_steps import after_interruption
from diapir.runs.outcome import RunResult, Trained
from diapir.runs.score import score_network
from diapir.runs.train import resume_run, train_recipe
from diapir.training.hardware import Hardware

Make = Callable[..., Recipe]
QUIET = Hardware(accelerator="cpu", progress=False)


@pytest.fixture(scope="module")
def data(easy_tiles: Tiles, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "my tiles"
    test = easy_tiles.subset(np.arange(4))
    unlabelled = Tiles(("p", "q", "r", "s"), test.images, None, test.z_feet, "test")
    write_competition(folder, easy_tiles, unlabelled)
    return folder


@pytest.fixture(scope="module")
def finished(
    data: Path, tiny_recipe: Make, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Recipe, RunResult]:
    """A short training that has learned something."""
    recipe = tiny_recipe(train__epochs=4, optim__lr=0.03, split__stratify="depth")
    (result,) = train_recipe(recipe, data, tmp_path_factory.mktemp("runs"), QUIET).trainings
    return recipe, result


def names(folder: Path) -> set[str]:
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}


def table(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


# --- the folder of one run


def test_folder_holds_every_file(finished: tuple[Recipe, RunResult]) -> None:
    folder = finished[1].folder.path
    found = names(folder)
    assert {
        "recipe.json",
        "split.json",
        "history.csv",
        "metrics.json",
        "model.safetensors",
        "report.html",
        "next.txt",
        "checkpoints/last.ckpt",
        "checkpoints/best.safetensors",
        "figures/training.png",
        "figures/threshold.png",
        "figures/tiles-random.png",
        "figures/tiles-worst.png",
        "figures/tiles-best.png",
        "figures/score-coverage.png",
        "figures/score-depth.png",
    } <= found
    assert any(name.startswith("logs/events.out.tfevents") for name in found)
    # nothing half-written is left
    assert not [name for name in found if Path(name).name.startswith(".") and ".lock" not in name]
    assert folder.name.endswith("-tiny")


def test_recipe_and_split_are_those_that_trained(
    finished: tuple[Recipe, RunResult], data: Path
) -> None:
    recipe, result = finished
    assert load_recipe(str(result.folder.recipe)) == recipe
    split = table(result.folder.split)
    tiles = read_tiles(data, "train")
    parts = [split[part] for part in ("train", "val", "holdout")]
    assert sorted(id_ for part in parts for id_ in part) == sorted(tiles.ids)
    assert [len(part) for part in parts] == [48, 16, 16]
    assert split["data"]["fingerprint"] == tiles.fingerprint()


def test_metrics_hold_scores_and_provenance(finished: tuple[Recipe, RunResult]) -> None:
    recipe, result = finished
    metrics = table(result.folder.metrics)
    assert metrics["recipe_sha256"] == recipe.sha256()
    assert metrics["epochs"] == 4
    assert metrics["interrupted"] is None
    assert metrics["threshold"] == result.threshold
    # a temperature that is not kept is told, too
    kept = metrics["rule"]["temperature"] != 1
    assert ("is kept" if kept else "not kept") in metrics["calibration"]
    assert metrics["calibration"] in result.folder.report.read_text(encoding="utf-8")
    assert result.val is not None
    assert result.holdout is not None
    for part, found in (("val", result.val), ("holdout", result.holdout)):
        score = metrics[part]["metrics"]["score"]
        assert score["value"] == pytest.approx(found.metrics["score"].value)
        assert score["low"] <= score["value"] <= score["high"]
        assert metrics[part]["tiles"] == 16
    assert result.holdout.metrics["score"].value > 0.5


def test_model_file_gives_the_reported_score(
    finished: tuple[Recipe, RunResult], data: Path
) -> None:
    recipe, result = finished
    net, card = load_model(result.folder.model)
    assert card.recipe == recipe
    assert card.threshold == result.threshold
    split = table(result.folder.split)
    assert list(card.train_ids) == split["train"]
    assert list(card.val_ids) == split["val"]
    holdout = read_tiles(data, "train").select(split["holdout"])
    assert card.data_fingerprint == split["data"]["fingerprint"]
    net.set_precision("float32", "cpu")
    predictor = Predictor([net], card.threshold, flip=True, rule=card.rule)
    masks = predictor.make_masks(predictor.predict_probs(holdout.images))
    score = competition_score(masks, holdout.truth)
    assert card.metrics["holdout_score"] == pytest.approx(score)


def test_threshold_is_chosen_on_validation_alone(
    finished: tuple[Recipe, RunResult], data: Path
) -> None:
    result = finished[1]
    val = read_tiles(data, "train").select(table(result.folder.split)["val"])
    chosen = choose(result.val_probs, val.truth)
    assert (result.threshold, result.val.threshold) == (chosen.threshold, chosen.threshold)
    assert load_model(result.folder.model)[1].rule == chosen.rule
    assert result.val.metrics["score"].value == pytest.approx(chosen.score)


def test_next_steps_are_commands_for_a_shell(
    finished: tuple[Recipe, RunResult], data: Path
) -> None:
    text = finished[1].folder.next_steps.read_text(encoding="utf-8")
    for verb in ("evaluate", "submit", "check-submission", "predict"):
        assert f"diapir {verb} " in text
    assert f"--data '{data}'" in text  # the path has a space
    assert "--resume" not in text
    script = "diapir() { printf '%s|' \"$@\"; echo; }\n" + text
    shell = ["bash", "-c", script]
    shown = subprocess.run(shell, check=True, capture_output=True, text=True)
    assert f"evaluate|{finished[1].folder.model}|--data|{data}|" in shown.stdout


def test_report_stands_alone(finished: tuple[Recipe, RunResult]) -> None:
    page = finished[1].folder.report.read_text(encoding="utf-8")
    assert "score on hold-out" in page
    assert page.count("data:image/png;base64,") >= 5
    assert "http://" not in page.replace("http://www.w3.org", "")


def test_history_has_a_row_for_each_epoch(finished: tuple[Recipe, RunResult]) -> None:
    with (finished[1].folder.path / "history.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["epoch"]) for row in rows] == [1, 2, 3, 4]
    assert {"train_loss", "train_score", "val_loss", "val_score", "val_iou", "seconds"} <= {
        *rows[0]
    }


def test_scores_are_shown_beside_those_of_empty_masks(
    finished: tuple[Recipe, RunResult], data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = finished[1]
    assert result.holdout is not None
    assert result.warnings == []
    _show(Trained(result.folder, [result]), as_json=True)
    printed = capsys.readouterr()
    (row,) = json.loads(printed.out)
    empty = table(result.folder.metrics)["holdout"]["every_mask_empty"]["value"]
    assert row["hold-out"] > row["every mask empty"]["hold-out"] == empty > 0
    assert (row["warnings"], printed.err) == ([], "")
    assert "every mask were empty" in result.folder.report.read_text(encoding="utf-8")
    # the same run, had it found nothing
    tiles = read_tiles(data, "train").select(result.holdout.ids)
    blind = evaluate(np.zeros(tiles.images.shape, np.float32), tiles, 0.5)
    blinded = dataclasses.replace(result, holdout=blind)
    _show(Trained(result.folder, [blinded]), as_json=False)
    printed = capsys.readouterr()
    assert "on hold-out, no salt is found" in printed.err
    shown = [line.split() for line in printed.out.splitlines() if "empty" in line]
    assert f"{empty:.4f}" in shown[0]


def test_a_run_goes_on_on_as_many_processes(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "joined" / "run")
    folder.make()
    folder.note_start({"command": "diapir train demo --data x --devices 2 --quiet"})
    assert after_interruption(folder, Path("x")).endswith(" --data x --devices 2\n")
    (tmp_path / "joined" / "recipe.json").touch()  # now it is one of several networks
    assert after_interruption(folder, Path("x")).endswith(" --data x\n")


def test_resume_of_a_finished_run_writes_the_same_again(
    finished: tuple[Recipe, RunResult], data: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(finished[1].folder.path, copy)
    for name in ("model.safetensors", "metrics.json", "report.html"):
        (copy / name).unlink()
    (again,) = resume_run(copy, data, QUIET).trainings
    assert again.threshold == finished[1].threshold
    assert np.array_equal(again.val_probs, finished[1].val_probs)
    assert names(copy) >= {"model.safetensors", "metrics.json", "report.html"}


def test_a_model_is_not_replaced_for_want_of_a_checkpoint(
    finished: tuple[Recipe, RunResult], data: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(finished[1].folder.path, copy)
    shutil.rmtree(copy / "checkpoints")
    model = (copy / "model.safetensors").read_bytes()
    with pytest.raises(RunError, match="no checkpoint to go on from"):
        resume_run(copy, data, QUIET)
    assert (copy / "model.safetensors").read_bytes() == model


def test_run_without_validation_and_hold_out(data: Path, tiny_recipe: Make, tmp_path: Path) -> None:
    recipe = tiny_recipe(split__val=0.0, split__holdout=0.0, train__epochs=1)
    (result,) = train_recipe(recipe, data, tmp_path, QUIET).trainings
    assert (result.val, result.holdout, result.threshold) == (None, None, 0.5)
    assert {"model.safetensors", "report.html", "figures/training.png"} <= names(result.folder.path)
    assert "No tile was left to score this training" in result.folder.report.read_text("utf-8")
    assert "diapir evaluate" not in result.folder.next_steps.read_text("utf-8")


@pytest.mark.usefixtures("no_figures")
def test_threshold_of_the_recipe_is_kept(data: Path, tiny_recipe: Make, tmp_path: Path) -> None:
    recipe = tiny_recipe(train__epochs=1).model_copy(
        update={"predict": load_recipe("demo", ["predict.threshold=0.42"]).predict}
    )
    (result,) = train_recipe(recipe, data, tmp_path, QUIET).trainings
    assert result.threshold == 0.42
    packed = make_ensemble([result.folder.path], tmp_path / "a.safetensors", data=data)
    assert packed.chosen_on == "no tiles: the recipe's; calibrated on 16 validation tiles"
    card = load_model(result.folder.model)[1]
    assert card.threshold == 0.42
    assert not card.rule.cleans


# --- every classic recipe, end to end


@pytest.mark.parametrize("name", ["scratch", "vgg16", "resnet34", "vgg19"])
def test_classic_recipe_runs_to_the_end(name: str, data: Path, tmp_path: Path) -> None:
    tiny = ["weights=none", "freeze=none", "epochs=1", "tiles_per_epoch=4", "batch_size=2"]
    sections = ["model", "model", "train", "train", "train"]
    settings = [f"{section}.{setting}" for section, setting in zip(sections, tiny, strict=True)]
    recipe = load_recipe(f"classic-{name}", [*settings, "split.val=0.07", "split.holdout=0.05"])
    (result,) = train_recipe(recipe, data, tmp_path, QUIET).trainings
    assert result.val is not None
    assert result.holdout is not None
    assert len(result.holdout) == 4
    assert (result.folder.path / "report.html").is_file()
    net, card = load_model(result.folder.model)
    assert card.recipe.name == f"classic-{name}"
    assert net.config.resize_to == 128
    shutil.rmtree(tmp_path)  # some hundred megabytes


def test_a_frozen_encoder_needs_weights(data: Path, tmp_path: Path) -> None:
    recipe = load_recipe("classic-vgg19", ["model.weights=none"])
    with pytest.raises(RecipeError, match=r"random weights and is frozen(.|\n)*model.freeze=none"):
        train_recipe(recipe, data, tmp_path, QUIET)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("accelerator", "devices", "changes", "said"),
    [
        ("gpu", "auto", {}, "cannot train on this hardware"),
        ("cpu", "many", {}, "cannot train on this hardware"),
        ("cpu", "auto", {"train__start_from": "none.safetensors"}, "does not exist"),
        ("cpu", "auto", {"pseudo_labels__models": ["none.safetensors"]}, "does not exist"),
        ("cpu", "auto", {"distill__models": ["none.safetensors"]}, "does not exist"),
        (
            "cpu",
            "auto",
            {"pseudo_labels__models": ["none.safetensors"], "ensemble__encoders": ["scratch"]},
            "does not exist",
        ),
    ],
)
def test_what_is_not_there_is_found_before_there_is_a_folder(
    accelerator: str,
    devices: str,
    changes: dict[str, Any],
    said: str,
    data: Path,
    tiny_recipe: Make,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    hardware = Hardware(accelerator, devices, progress=False)
    with pytest.raises((RunError, ModelFileError), match=said):
        train_recipe(tiny_recipe(**changes), data, tmp_path, hardware)
    assert not list(tmp_path.iterdir())


# --- folds


@pytest.mark.parametrize("channel", ["model__depth_channel", "model__coord_channels"])
def test_a_frozen_stem_never_learns_of_more_channels(
    channel: str, data: Path, tiny_recipe: Make, tmp_path: Path
) -> None:
    frozen = {"model__encoder": "test_resnet", "model__weights": "imagenet", "model__freeze": 1}
    with pytest.raises(RecipeError, match="never look at them") as caught:
        train_recipe(tiny_recipe(**frozen, **{channel: True}), data, tmp_path, QUIET)
    assert "--set model.freeze=none" in str(caught.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("no_figures")
def test_folds_give_every_tile_one_prediction(
    data: Path, tiny_recipe: Make, tmp_path: Path
) -> None:
    recipe = tiny_recipe(split__folds=2, split__holdout=0.1, train__epochs=1)
    trained = train_recipe(recipe, data, tmp_path, QUIET)
    results = trained.trainings
    (folder,) = tmp_path.iterdir()
    places = [place.path for place, _ in trained.by_folder()]
    assert places == [folder / "fold-0", folder / "fold-1", folder]
    splits = [table(result.folder.split) for result in results]
    assert splits[0]["holdout"] == splits[1]["holdout"]
    assert not {*splits[0]["val"]} & {*splits[1]["val"]}
    with np.load(folder / "out_of_fold.npz") as stored:
        ids, probs = stored["ids"].tolist(), stored["probs"]
    assert sorted(ids) == sorted(splits[0]["val"] + splits[1]["val"])
    assert probs.shape == (72, 32, 32)
    assert probs.dtype == np.float16
    np.testing.assert_allclose(probs[: len(results[0].val_probs)], results[0].val_probs, atol=1e-3)
    joined = table(folder / "metrics.json")
    assert joined["tiles"] == {"train": 36, "val": 72, "holdout": 8}
    assert joined["val"]["tiles"] == 72
    assert joined["val"]["metrics"]["score"]["value"] == trained.together.val.metrics["score"].value
    assert joined["epochs"] == joined["folds"] == joined["trainings"] == 2
    assert trained.together.seconds == sum(result.seconds for result in results)
    assert joined["training_seconds"] == pytest.approx(trained.together.seconds, abs=0.1)
    assert all(result.folder.model.is_file() for result in results)
    steps = (folder / "next.txt").read_text(encoding="utf-8")
    assert f"diapir ensemble {folder} --out {folder}/model.safetensors" in steps
    assert "hold-out" in steps


# --- interruption and resumption


def terminate_when(patch: pytest.MonkeyPatch, due: Callable[[Any], bool]) -> None:
    """Send SIGTERM to this process when a batch is handed over to a trainer that is so far."""
    original = TileDataModule.on_after_batch_transfer

    def transfer(self: TileDataModule, batch: Any, dataloader_idx: int) -> Any:
        assert self.trainer is not None
        if self.trainer.training and due(self.trainer):
            os.kill(os.getpid(), signal.SIGTERM)
        return original(self, batch, dataloader_idx)

    patch.setattr(TileDataModule, "on_after_batch_transfer", transfer)


@pytest.mark.usefixtures("no_figures")
def test_interrupted_run_has_a_model_and_goes_on(
    data: Path, tiny_recipe: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = tiny_recipe(train__epochs=3)
    (whole,) = train_recipe(recipe, data, tmp_path / "whole", QUIET).trainings
    with monkeypatch.context() as patch:
        terminate_when(patch, lambda trainer: trainer.global_step == 9)
        (part,) = train_recipe(recipe, data, tmp_path / "part", QUIET).trainings
    assert part.interrupted == signal.SIGTERM
    assert table(part.folder.metrics)["epochs"] == 1
    assert load_model(part.folder.model)
    next_steps = part.folder.next_steps.read_text(encoding="utf-8")
    assert f"diapir train --resume {part.folder.path} --data '{data}'" in next_steps
    (rest,) = resume_run(part.folder.path, data, QUIET).trainings
    assert rest.interrupted is None
    assert np.array_equal(rest.val_probs, whole.val_probs)
    assert table(rest.folder.metrics)["epochs"] == 3


@pytest.mark.usefixtures("no_figures")
@pytest.mark.parametrize("fixed", [None, 0.3])
def test_ctrl_c_while_scoring_leaves_the_model_and_how_to_go_on(
    data: Path,
    tiny_recipe: Make,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    fixed: float | None,
) -> None:
    recipe = tiny_recipe(train__epochs=1, **({"predict__threshold": fixed} if fixed else {}))

    def press_ctrl_c(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt  # a signal itself does nothing where its sender ignores SIGINT

    with monkeypatch.context() as patch:
        patch.setattr("diapir.runs.score.evaluate", press_ctrl_c)
        with pytest.raises(RunError, match="SIGINT ended the scoring; the model is saved") as told:
            train_recipe(recipe, data, tmp_path, QUIET)
    assert told.value.exit_code == 130
    (path,) = tmp_path.iterdir()
    folder = RunFolder(path)
    assert str(folder.next_steps) in str(told.value)
    assert f"diapir train --resume {path} " in folder.next_steps.read_text(encoding="utf-8")
    net, card = load_model(folder.model)
    assert card.threshold == (fixed or 0.5)
    assert not card.metrics
    assert not folder.is_finished()
    resume_run(path, data, QUIET)
    assert folder.is_finished()
    scored, card = load_model(folder.model)
    assert "val_score" in card.metrics
    assert all(map(np.array_equal, net.state_dict().values(), scored.state_dict().values()))


def test_folds_end_at_an_interruption(
    data: Path, tiny_recipe: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = TileDataModule.val_dataloader

    def interrupt(self: TileDataModule) -> Any:
        os.kill(os.getpid(), signal.SIGINT)  # lands in the first epoch of the first fold
        return original(self)

    monkeypatch.setattr(TileDataModule, "val_dataloader", interrupt)
    recipe = tiny_recipe(split__folds=2, train__epochs=1)
    with pytest.raises(RunError, match="ended before its first epoch") as caught:
        train_recipe(recipe, data, tmp_path, QUIET)
    assert caught.value.exit_code == 128 + signal.SIGINT
    (folder,) = tmp_path.iterdir()
    assert caught.value.mend == f"Go on with the command in {folder / 'next.txt'}."
    said = (folder / "next.txt").read_text(encoding="utf-8")
    assert f"diapir train --resume {folder} --data '{data}'" in said
    assert not (folder / "fold-1").exists()
    assert not (folder / "metrics.json").exists()
    monkeypatch.undo()
    begun = folder / "fold-0" / "split.json"
    stored = begun.read_text(encoding="utf-8")
    split = json.loads(stored)
    split["train"][0], split["val"][0] = split["val"][0], split["train"][0]
    begun.write_text(json.dumps(split), encoding="utf-8")
    with pytest.raises(RunError, match="divided otherwise than when this run began"):
        resume_run(folder, data, QUIET)
    begun.write_text(stored, encoding="utf-8")
    trained = resume_run(folder, data, QUIET)
    places = [place.path.name for place, _ in trained.by_folder()]
    assert places == ["fold-0", "fold-1", folder.name]
    assert {"metrics.json", "report.html", "next.txt"} <= {path.name for path in folder.iterdir()}
    assert "Each fold by itself" in (folder / "report.html").read_text(encoding="utf-8")


@pytest.mark.usefixtures("no_figures")
def test_after_an_interrupted_fold_all_folds_are_resumed(
    data: Path, tiny_recipe: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    terminate_when(monkeypatch, lambda trainer: trainer.current_epoch == 1)
    recipe = tiny_recipe(split__folds=2, train__epochs=2)
    trained = train_recipe(recipe, data, tmp_path, QUIET)
    (folder,) = tmp_path.iterdir()
    assert trained.interrupted == signal.SIGTERM
    assert trained.together is None
    ((place, _),) = trained.by_folder()
    assert place.path == trained.folder.path == folder
    said = (folder / "next.txt").read_text(encoding="utf-8")
    assert f"diapir train --resume {folder} --data '{data}'" in said


@pytest.fixture
def sees_depths(data: Path, tiny_recipe: Make, tmp_path: Path) -> RunFolder:
    """A run that was killed before its first epoch, of a network that sees depths."""
    tiles, recipe = read_tiles(data, "train"), tiny_recipe(model__depth_channel=True)
    folder = RunFolder(tmp_path / "run")
    folder.make()
    folder.write_inputs(recipe, make_splits(tiles, recipe.split)[0], tiles)
    return folder


@pytest.mark.parametrize(
    ("change", "said"), [("vanished", "has none any more"), ("other", "differ from those")]
)
def test_other_depths_are_noticed(
    change: str, said: str, sees_depths: RunFolder, data: Path
) -> None:
    tiles = read_tiles(data, "train")
    assert tiles.z_feet is not None
    z_feet = None if change == "vanished" else tiles.z_feet[::-1].copy()
    other = dataclasses.replace(tiles, z_feet=z_feet)
    sees_depths.read_inputs(tiles)
    with pytest.raises(RunError, match=said):
        sees_depths.read_inputs(other)
    stored = table(sees_depths.split)
    del stored["data"]["depths_fingerprint"]  # as older runs have it
    sees_depths.split.write_text(json.dumps(stored), encoding="utf-8")
    sees_depths.read_inputs(tiles)
    blind = table(sees_depths.recipe)
    blind["model"]["depth_channel"] = False
    sees_depths.recipe.write_text(json.dumps(blind), encoding="utf-8")
    sees_depths.read_inputs(other)


def test_a_resumed_run_is_refused_what_its_processor_cannot(
    sees_depths: RunFolder, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = table(sees_depths.recipe)
    recipe["train"]["precision"] = "bf16"
    sees_depths.recipe.write_text(json.dumps(recipe), encoding="utf-8")
    monkeypatch.setattr(processor, "has_fast_bf16", lambda: False)
    with pytest.raises(RunError, match="no instructions for bf16"):
        resume_run(sees_depths.path, data, QUIET)
    assert not sees_depths.starts.exists()


@pytest.mark.parametrize("drop", ["drop_blank", "drop_vertical"])
def test_tiles_unfit_for_training_are_no_hold_out(
    drop: str, easy_tiles: Tiles, tiny_recipe: Make
) -> None:
    images, masks = easy_tiles.images.copy(), easy_tiles.truth.astype(np.uint8)
    images[::5] = 7
    masks[::5] = 0
    masks[::5, :, 3:9] = 1
    tiles = dataclasses.replace(easy_tiles, images=images, masks=masks)
    recipe = tiny_recipe(**{f"split__{drop}": True})
    (split,) = make_splits(tiles, recipe.split)
    card = score_network(tiles, split, recipe, SaltNet(recipe.model).eval(), math.inf).card
    held = {tiles.ids[i] for i in split.holdout}
    assert card.dropped_ids
    assert set(tiles.ids) - {*card.train_ids, *card.val_ids, *card.dropped_ids} == held


def test_data_that_changed_cannot_be_resumed(
    finished: tuple[Recipe, RunResult], data: Path, easy_tiles: Tiles, tmp_path: Path
) -> None:
    before = names(finished[1].folder.path)
    images = easy_tiles.images.copy()
    images[3, 5, 5] ^= 1
    changed = Tiles(easy_tiles.ids, images, easy_tiles.masks, easy_tiles.z_feet, "changed")
    with pytest.raises(RunError) as caught:
        finished[1].folder.read_inputs(changed)
    assert "the data differs from that of the run" in str(caught.value)
    assert str(finished[1].folder.path) in str(caught.value)
    other = tmp_path / "other"
    test = easy_tiles.subset([0])
    write_competition(other, changed, Tiles(("p",), test.images, None, test.z_feet, "test"))
    with pytest.raises(RunError, match="the data differs"):
        resume_run(finished[1].folder.path, other, QUIET)
    assert names(finished[1].folder.path) == before


@pytest.mark.parametrize("name", ["", "nothing"])
def test_folder_that_is_no_run(data: Path, tmp_path: Path, name: str) -> None:
    with pytest.raises(RunError, match=r"not a run folder(.|\n)*recipe.json and split.json"):
        resume_run(tmp_path / name, data, QUIET)
    assert not names(tmp_path)


def test_damaged_files_of_a_run_are_named(
    finished: tuple[Recipe, RunResult], data: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(finished[1].folder.path, copy)
    (copy / "checkpoints" / "last.ckpt").write_bytes(b"damaged")
    with pytest.raises(RunError, match=r"damaged(.|\n)*last.ckpt"):
        resume_run(copy, data, QUIET)
    for about in (0.0, [], {}):
        split = json.loads((finished[1].folder.path / "split.json").read_text(encoding="utf-8"))
        (copy / "split.json").write_text(json.dumps(split | {"data": about}), encoding="utf-8")
        with pytest.raises(RunError, match="the data differs"):
            resume_run(copy, data, QUIET)
    (copy / "split.json").write_text("{", encoding="utf-8")
    with pytest.raises(RunError, match=r"cannot read(.|\n)*split.json"):
        resume_run(copy, data, QUIET)


# --- two at once


def test_locked_folder_is_left_alone(
    finished: tuple[Recipe, RunResult], data: Path, tmp_path: Path
) -> None:
    copy = RunFolder(tmp_path / "copy")
    shutil.copytree(finished[1].folder.path, copy.path)
    with copy.locked(), pytest.raises(RunError, match="another process is writing into this"):
        resume_run(copy.path, data, QUIET)
    with copy.locked():
        pass  # free again


def test_lock_in_a_folder_that_is_gone(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="cannot write into the run folder"):
        RunFolder(tmp_path / "gone").locked().__enter__()


def test_new_folders_never_coincide(tmp_path: Path) -> None:
    folders = [new_run_folder(tmp_path / "runs", "a").path for _ in range(5)]
    assert len(set(folders)) == 5
    assert all(folder.is_dir() for folder in folders)


def test_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(RunError, match="--runs"):
        new_run_folder(tmp_path / "file" / "runs", "a")
    with pytest.raises(RunError, match="--runs"):
        RunFolder(tmp_path / "file").make()


@pytest.mark.parametrize("name", ["LOCAL_RANK", "NODE_RANK", "RANK", "GROUP_RANK", "SLURM_PROCID"])
def test_only_the_first_process_writes(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for other in ("LOCAL_RANK", "NODE_RANK", "RANK", "GROUP_RANK", "SLURM_PROCID"):
        monkeypatch.delenv(other, raising=False)
    assert is_main_process()
    monkeypatch.setenv(name, "0")
    assert is_main_process()
    monkeypatch.setenv(name, "1")
    assert not is_main_process()


# --- what cannot be trained leaves no folder


def test_missing_depths_are_found_first(
    easy_tiles: Tiles, tiny_recipe: Make, tmp_path: Path
) -> None:
    bare = Tiles(easy_tiles.ids, easy_tiles.images, easy_tiles.masks, None, "bare")
    test = easy_tiles.subset([0])
    write_competition(tmp_path / "bare", bare, Tiles(("p",), test.images, None, None, "test"))
    with pytest.raises(DataError, match=r"has no depths(.|\n)*model.depth_channel = false"):
        train_recipe(tiny_recipe(model__depth_channel=True), tmp_path / "bare", tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


def test_missing_weights_are_found_first(data: Path, tiny_recipe: Make, tmp_path: Path) -> None:
    recipe = tiny_recipe(
        model__encoder="resnet18",
        model__weights=str(tmp_path / "gone.safetensors"),
        model__decoder_channels=[8] * 5,
    )
    with pytest.raises(WeightsError, match=r"gone\.safetensors"):
        train_recipe(recipe, data, tmp_path / "runs", QUIET)
    assert not (tmp_path / "runs").exists()


# --- through the command line


def command(recipe: Recipe, data: Path, folder: Path, *options: str) -> list[str]:
    path = folder / "tiny.json"
    path.write_text(json.dumps(recipe.model_dump(mode="json")), encoding="utf-8")
    start = [sys.executable, "-m", "diapir", "train", str(path), "--data", str(data)]
    return [*start, "--runs", str(folder / "runs"), "--accelerator", "cpu", "--quiet", *options]


def environment() -> dict[str, str]:
    ranks = ("LOCAL_RANK", "NODE_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    kept = {name: value for name, value in os.environ.items() if name not in ranks}
    return kept | {"OMP_NUM_THREADS": "1"}


@contextmanager
def started(arguments: list[str]) -> Iterator[subprocess.Popen[str]]:
    """Run a command; at the end no process of it is left, whatever went wrong."""
    process = subprocess.Popen(
        arguments,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def test_ctrl_c_leaves_the_best_model_and_says_so(
    data: Path, tiny_recipe: Make, tmp_path: Path
) -> None:
    recipe = tiny_recipe(train__epochs=100_000)
    with started(command(recipe, data, tmp_path, "--json")) as process:
        deadline = time.monotonic() + 120
        while not list(tmp_path.glob("runs/*/checkpoints/last.ckpt")):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=120)
    assert process.returncode == 130
    # so short a training may find nothing, which is told
    assert [line for line in err.splitlines() if not line.startswith("warning: ")] == []
    (folder,) = (tmp_path / "runs").iterdir()
    assert json.loads(out)[0]["run"] == str(folder)
    assert table(folder / "metrics.json")["interrupted"] == signal.SIGINT
    assert load_model(folder / "model.safetensors")
    assert "--resume" in (folder / "next.txt").read_text(encoding="utf-8")


def test_two_processes_train_folds_into_one_folder(
    data: Path, tiny_recipe: Make, tmp_path: Path
) -> None:
    recipe = tiny_recipe(
        split__folds=2, split__holdout=0.0, train__epochs=2, train__batch_size=4, optim__ema=0.9
    )
    with started(command(recipe, data, tmp_path, "--devices", "2", "--json")) as process:
        out, err = process.communicate(timeout=240)
    assert process.returncode == 0, err
    (folder,) = (tmp_path / "runs").iterdir()
    assert [row["run"] for row in json.loads(out)] == [
        str(folder / "fold-0"),
        str(folder / "fold-1"),
        str(folder),
    ]
    for fold in ("fold-0", "fold-1"):
        assert load_model(folder / fold / "model.safetensors")
        assert table(folder / fold / "metrics.json")["epochs"] == 2
        with (folder / fold / "history.csv").open(encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        assert [row["epoch"] for row in rows] == ["1", "2"]
        # both processes count together: 40 tiles of a fold, so tenths of fortieths
        hits = 400 * float(rows[-1]["val_score"])
        assert hits == pytest.approx(round(hits), abs=1e-3)
    assert table(folder / "metrics.json")["val"]["tiles"] == 80


def test_a_training_asked_to_end_does_not_score_for_long(
    easy_tiles: Tiles, tiny_recipe: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    from diapir.data.splits import make_splits
    from diapir.inference.predict import Predictor
    from diapir.models.unet import SaltNet
    from diapir.runs.score import score_network

    recipe = tiny_recipe()
    split = make_splits(easy_tiles, recipe.split)[0]
    net = SaltNet(recipe.model).eval()
    quick = score_network(easy_tiles, split, recipe, net, 1e9)
    assert quick.val is not None
    assert quick.holdout is not None
    original = Predictor.predict_probs

    def slow(self: Predictor, *args: object, **options: object) -> object:
        found = original(self, *args, **options)  # type: ignore[arg-type]
        self.model_seconds += 1000
        return found

    monkeypatch.setattr(Predictor, "predict_probs", slow)
    scored = score_network(easy_tiles, split, recipe, net, 15.0)
    assert scored.val is None
    assert scored.holdout is None
    assert scored.threshold == 0.5
    assert len(scored.card.val_ids) == len(split.val)


def test_the_curves_of_joined_trainings_are_those_of_the_last_round(tmp_path: Path) -> None:
    from diapir.runs.results import _figure

    for number in (0, 2, 10):
        figure = tmp_path / f"round-{number}-resnet18" / "figures" / "training.png"
        figure.parent.mkdir(parents=True)
        figure.touch()
    assert _figure(RunFolder(tmp_path), "training") == figure
