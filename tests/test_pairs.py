"""The pages that are written from finished runs of one split: pairs of networks, and peaks."""

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import finished_runs
import numpy as np
import pairs
import peaks
import pytest
import torch

from diapir.config import Recipe
from diapir.data.competition import write_competition
from diapir.errors import DataError
from diapir.inference.predict import load_predictor
from diapir.io.tiles import Tiles, read_tiles
from diapir.metrics.bootstrap import bootstrap_interval
from diapir.metrics.score import tile_counts, tile_scores
from diapir.models.maskrule import MaskRule
from diapir.models.modelcard import ModelCard
from diapir.models.modelfile import save_model
from diapir.models.unet import SaltNet

PAIRS = [(0,), (1,), (2,), (0, 1), (0, 2), (1, 2)]
IDS = [f"tile{place:04d}" for place in range(3, 15)]


@pytest.fixture(scope="module")
def data(easy_tiles: Tiles, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "tiles"
    write_competition(folder, easy_tiles.subset(range(20)), easy_tiles.subset(range(20, 24)))
    return folder


@pytest.fixture(scope="module")
def runs(
    tiny_recipe: Callable[..., Recipe], tmp_path_factory: pytest.TempPathFactory
) -> list[Path]:
    """Three runs with networks that have learnt nothing, each with a threshold and a rule."""
    place, recipe = tmp_path_factory.mktemp("runs"), tiny_recipe()
    folders = [place / f"run{number}" for number in range(3)]
    for number, folder in enumerate(folders):
        folder.mkdir()
        torch.manual_seed(number)
        card = ModelCard(recipe, 0.48 + number / 50, rule=MaskRule(1 + number / 2, number))
        save_model(folder / "model.safetensors", SaltNet(recipe.model), card)
        write_split(folder, IDS)
    return folders


def write_split(folder: Path, ids: list[str]) -> None:
    (folder / "split.json").write_text(json.dumps({"train": [], "val": ids, "holdout": []}))


def write(program: ModuleType, monkeypatch: pytest.MonkeyPatch, *words: object) -> str:
    """Run a program whose last word is the page; return the page."""
    monkeypatch.setattr(sys, "argv", [f"{program.__name__}.py", *map(str, words)])
    program.main()
    return Path(str(words[-1])).read_text(encoding="utf-8")


def table(page: str) -> list[list[str]]:
    """Return the cells of the rows under the head of a page's table."""
    lines = [line for line in page.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def test_two_networks_are_scored_as_two_model_files_are(
    data: Path, runs: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "pairs.md"
    page = write(pairs, monkeypatch, *runs, "--data", data, "--out", out)
    rows = table(page)
    assert [row[0] for row in rows] == [" and ".join(f"run{n}" for n in pair) for pair in PAIRS]
    tiles = read_tiles(data, "train").select(IDS)
    for row, pair in zip(rows, PAIRS, strict=True):
        predictor, _ = load_predictor([runs[number] / "model.safetensors" for number in pair])
        masks = predictor.make_masks(predictor.predict_probs(tiles.images, tiles.z_feet))
        score = tile_scores(tile_counts(masks, tiles.truth)).mean()
        assert float(row[1]) == pytest.approx(score, abs=0.01)  # a sum in another order
    command = " ".join(map(str, ["benchmarks/pairs.py", *runs, "--data", data, "--out", out]))
    assert f"```\npython {command}\n```" in page
    assert "on 12 validation tiles that all runs share" in page


def test_the_gain_is_over_the_better_one_tile_by_tile() -> None:
    truth = np.zeros((8, 4, 4), np.uint8)
    truth[:, :2] = 1

    def network(name: str, threshold: float, missed: slice) -> pairs.Network:
        probs = np.where(truth, 0.9, 0.1).astype(np.float32)
        probs[missed] = np.where(truth[missed], 0.3, 0.1)
        return pairs.Network(name, probs, threshold, MaskRule())

    rows = pairs.table_rows([network("a", 0.4, slice(4)), network("b", 0.6, slice(4, 6))], truth)
    assert rows[:2] == [["a", "0.500", "-"], ["b", "0.750", "-"]]
    low, high = bootstrap_interval([0, 0, 0, 0, 1, 1, 0, 0])
    assert rows[2:] == [["a and b", "1.000", f"+0.250 ({low:+.3f} to {high:+.3f})"]]


def test_runs_of_other_splits_are_refused(
    data: Path, runs: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other, out = tmp_path / "other", tmp_path / "page.md"
    other.mkdir()
    for ids, error, told in (
        (IDS[1:], SystemExit, "different validation tiles"),
        (["nobody"], DataError, "not in the data"),
        ([], SystemExit, "no validation tiles"),
    ):
        write_split(other, ids)
        asked = [other, runs[0]] if ids == IDS[1:] else [other, other]
        with pytest.raises(error, match=told):
            write(pairs, monkeypatch, *asked, "--data", data, "--out", out)
    with pytest.raises(SystemExit, match="2"):
        write(pairs, monkeypatch, runs[0], "--data", data, "--out", out)
    assert not out.exists()


def test_folders_of_one_name_are_told_apart() -> None:
    assert finished_runs.run_names([Path("a/x"), Path("b/y")]) == ["x", "y"]
    assert finished_runs.run_names([Path("a/x"), Path("b/x")]) == ["a/x", "b/x"]


def test_peaks_are_shown_for_each_network_and_each_two(
    data: Path, runs: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = write(peaks, monkeypatch, *runs, "--data", data, "--out", tmp_path / "peaks.md")
    rows = table(page)
    assert [row[0] for row in rows] == [" and ".join(f"run{n}" for n in pair) for pair in PAIRS]
    assert all(len(row) == 2 + len(peaks.PEAKS) for row in rows)


def test_the_page_on_peaks_begins_as_its_program_writes_it() -> None:
    path = Path(__file__).parents[1] / "docs" / "tried-peaks.md"
    page = path.read_text(encoding="utf-8")
    (command,) = re.findall(r"^python benchmarks/peaks\.py .*$", page, re.M)
    assert page.startswith(peaks._HEAD.format(tiles=640, command=command))
