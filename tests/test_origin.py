"""Submissions and scores say what made them, and `diapir info` shows it."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from diapir.cli import app
from diapir.config import Recipe
from diapir.data.competition import write_competition
from diapir.errors import RunError
from diapir.io.tiles import Tiles
from diapir.models.modelfile import ModelCard, save_model
from diapir.models.unet import SaltNet
from diapir.runs.evaluate import evaluate_models
from diapir.runs.origin import read_origin
from diapir.runs.predict import submit

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
    assert "warning" not in rows
    out.write_text("id,rle_mask\n", encoding="utf-8")
    shown = CliRunner().invoke(app, ["info", str(out), "--json"]).output
    assert json.loads(shown)["warning"] == "the file has changed since it was written"
    assert not list(tmp_path.glob(".*")), "no lock is left"


def test_an_evaluation_says_what_made_it(
    easy_tiles: Tiles, tiny_recipe: Make, tmp_path: Path
) -> None:
    model = make(tmp_path, easy_tiles, tiny_recipe())
    evaluate_models([model], tmp_path / "data", out=tmp_path / "e", progress=False)
    rows = dict(read_origin(tmp_path / "e" / "evaluation.json"))
    assert rows["model 1 data SHA-256"] == "abc"
    assert {"torch", "git", "data_fingerprint"} <= set(rows)


def test_a_file_without_origin_is_told(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="nothing says how this file was made"):
        read_origin(tmp_path / "s.csv")
    (tmp_path / "s.json").write_text("{}", encoding="utf-8")
    assert read_origin(tmp_path / "s.csv") == []
    (tmp_path / "s.json").write_text('{"sha256": "x"}', encoding="utf-8")
    with pytest.raises(RunError, match="cannot read the file"):
        read_origin(tmp_path / "s.csv")
