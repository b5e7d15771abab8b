"""Submissions and scores say what made them, and `diapir info` shows it."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from diapir.cli import app
from diapir.config import Recipe
from diapir.data.competition import write_competition
from diapir.errors import RunError
from diapir.io.tiles import Tiles
from diapir.models import modelcard
from diapir.models.modelcard import ModelCard, read_card
from diapir.models.modelfile import save_model
from diapir.models.unet import SaltNet
from diapir.runs.evaluate import evaluate_models
from diapir.runs.folder import read_json
from diapir.runs.map import map_survey
from diapir.runs.origin import read_origin
from diapir.runs.predict import submit
from diapir.runs.train import resume_run, train_recipe
from diapir.training.hardware import Hardware

Make = Callable[..., Recipe]


def make(folder: Path, tiles: Tiles, recipe: Recipe) -> Path:
    test = Tiles(("x", "y"), tiles.images[:2], None, tiles.z_feet[:2], "test")  # type: ignore[index]
    write_competition(folder / "data", tiles.subset(range(12)), test)
    path = folder / "model.safetensors"
    card = ModelCard(recipe, 0.5, {"val_score": 0.25}, "abc", ("t",)).stamped()
    save_model(path, SaltNet(recipe.model), card)
    return path


def test_a_submission_says_what_made_it(
    easy_tiles: Tiles, tiny_recipe: Make, tmp_path: Path
) -> None:
    recipe = tiny_recipe()
    model, out = make(tmp_path, easy_tiles, recipe), tmp_path / "s.csv"
    submit([model], tmp_path / "data", out, progress=False)
    rows = dict(read_origin(out))
    assert rows["model 1 recipe SHA-256"] == recipe.sha256()
    assert rows["model 1 data SHA-256"] == "abc"
    assert rows["model 1 seed"] == "0"
    assert rows["model 1 metrics val_score"] == "0.25"
    assert {"diapir", "torch", "git", "data_fingerprint", "command"} <= set(rows)
    assert "changed" not in rows
    assert (rows["warning"] == "-") == (rows["with_salt"] != "0")
    out.write_text("id,rle_mask\n", encoding="utf-8")
    shown = CliRunner().invoke(app, ["info", str(out), "--json"]).output
    assert json.loads(shown)["changed"] == "the file is another than was written then"
    assert not list(tmp_path.glob(".*")), "no lock is left"


def test_an_evaluation_says_what_made_it(
    easy_tiles: Tiles, tiny_recipe: Make, tmp_path: Path
) -> None:
    model = make(tmp_path, easy_tiles, tiny_recipe())
    evaluate_models([model], tmp_path / "data", out=tmp_path / "e", progress=False)
    rows = dict(read_origin(tmp_path / "e" / "evaluation.json"))
    assert rows["model 1 data SHA-256"] == "abc"
    assert {"torch", "git", "data_fingerprint"} <= set(rows)
    report = CliRunner().invoke(app, ["info", str(tmp_path / "e" / "report.html"), "--json"])
    shown = json.loads(report.output)
    assert shown["model 1 recipe SHA-256"] == rows["model 1 recipe SHA-256"]
    assert shown["data_fingerprint"] == rows["data_fingerprint"]
    assert 0 <= float(shown["metrics score"]) <= 1
    assert {"torch", "git", "model 1 seed", "model 1 metrics val_score"} <= set(shown)


def test_a_training_says_what_it_began_with(
    easy_tiles: Tiles, tiny_recipe: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = tiny_recipe(train__epochs=1)
    make(tmp_path, easy_tiles, recipe)
    hardware = Hardware(accelerator="cpu", progress=False)
    monkeypatch.setattr(modelcard, "_COMMIT", "first")
    folder = train_recipe(recipe, tmp_path / "data", tmp_path / "runs", hardware).folder
    (start,) = read_json(folder.starts)["starts"]
    assert start["git"] == "first"
    assert start["recipe_sha256"] == recipe.sha256()
    assert {"time", "versions", "command", "machine"} <= set(start)
    assert read_card(folder.model).git == "first"
    rows = dict(read_origin(folder.report))
    assert rows["source commit"] == "first"
    assert rows["recipe SHA-256"] == recipe.sha256()
    assert {"data SHA-256", "seed", "torch", "metrics holdout_score"} <= set(rows)
    monkeypatch.setattr(modelcard, "_COMMIT", "second")
    monkeypatch.setattr("sys.argv", ["diapir", "train", "--resume", "RUN"])
    resume_run(folder.path, tmp_path / "data", hardware)
    assert read_card(folder.model).git == "first, then second"
    metrics = read_json(folder.metrics)
    assert metrics["git"] == "first, then second"
    assert metrics["command"] == start["command"]
    folder.starts.write_text('{"starts": 3}', encoding="utf-8")
    with pytest.raises(RunError, match="damaged"):
        folder.commits()


def test_a_map_says_what_made_it(tiny_recipe: Make, tmp_path: Path) -> None:
    recipe = tiny_recipe()
    model = tmp_path / "model.safetensors"
    save_model(model, SaltNet(recipe.model), ModelCard(recipe, 0.5, {"val_score": 0.25}, "abc"))
    noise = np.random.default_rng(0).normal(size=(40, 40))
    np.save(tmp_path / "line.npy", noise.astype(np.float32))
    map_survey(tmp_path / "line.npy", tmp_path / "map", [model], device="cpu", progress=False)
    for name in ("map.json", "report.html"):
        rows = dict(read_origin(tmp_path / "map" / name))
        assert rows["model 1 recipe SHA-256"] == recipe.sha256()
        assert rows["model 1 data SHA-256"] == "abc"
        assert rows["model 1 metrics val_score"] == "0.25"
        assert {"torch", "git", "data_fingerprint", "command", "model 1 sha256"} <= set(rows)


def test_a_file_without_origin_is_told(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="nothing says how this file was made"):
        read_origin(tmp_path / "s.csv")
    (tmp_path / "s.json").write_text("{}", encoding="utf-8")
    assert read_origin(tmp_path / "s.csv") == []
    (tmp_path / "s.json").write_text('{"sha256": "x"}', encoding="utf-8")
    with pytest.raises(RunError, match="cannot read the file"):
        read_origin(tmp_path / "s.csv")
