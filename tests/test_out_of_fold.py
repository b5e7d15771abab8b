"""Runs with folds: scored out of fold, joined to one file, threshold and clean-up chosen there."""

import json
import math
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from typer.testing import CliRunner

from diapir.cli.app import app
from diapir.config import Recipe
from diapir.data.competition import write_competition
from diapir.errors import DataError, ModelFileError, OptionError, RunError
from diapir.inference.evaluate import evaluate
from diapir.inference.postprocess import choose
from diapir.inference.predict import PredictOptions, load_predictor
from diapir.io.tiles import Tiles, read_tiles
from diapir.metrics.calibration import scale_probs
from diapir.models.ensemble import read_members
from diapir.models.modelcard import read_card
from diapir.models.modelfile import load_model
from diapir.runs.ensemble import make_ensemble
from diapir.runs.evaluate import evaluate_models
from diapir.runs.out_of_fold import read_out_of_fold, run_models
from diapir.runs.train import train_recipe
from diapir.training.hardware import Hardware

Make = Callable[..., Recipe]


@pytest.fixture(scope="module")
def data(easy_tiles: Tiles, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "tiles"
    test = easy_tiles.subset(np.arange(4))
    unlabelled = Tiles(("p", "q", "r", "s"), test.images, None, test.z_feet, "test")
    write_competition(folder, easy_tiles, unlabelled)
    return folder


@pytest.fixture(scope="module")
def run(
    data: Path,
    tiny_recipe: Make,
    without_figures: Callable[[], AbstractContextManager[None]],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """A run of two folds."""
    recipe = tiny_recipe(train__epochs=3, optim__lr=0.03, split__folds=2)
    quiet = Hardware(accelerator="cpu", progress=False)
    with without_figures():
        return train_recipe(recipe, data, tmp_path_factory.mktemp("runs"), quiet).folder.path


def test_folds_are_scored_by_predictions_of_tiles_they_never_saw(run: Path, data: Path) -> None:
    judged = evaluate_models([run], data, progress=False)
    stored = read_out_of_fold(run)
    assert len(judged.found) == len(stored.ids) == 64  # all but the hold-out
    tiles = read_tiles(data, "train").select(stored.ids)
    chosen = choose(stored.probs, tiles.truth)
    probs = scale_probs(stored.probs, chosen.rule.temperature)
    expected = evaluate(probs, tiles, chosen.threshold, rule=chosen.rule)
    assert judged.found.metrics == expected.metrics
    # each tile by the fold that validated on it
    for file in run_models(run):
        predictor, (card,) = load_predictor([file], PredictOptions(device="cpu"))
        part = tiles.select(card.val_ids)
        own = scale_probs(predictor.predict_probs(part.images), 1 / card.rule.temperature)
        place = [stored.ids.index(id_) for id_ in card.val_ids]
        assert stored.probs[place] == pytest.approx(own, abs=2e-3)
    # as the training itself wrote it
    written = json.loads((run / "metrics.json").read_text())["val"]
    assert written["choice"]["threshold"] == chosen.threshold
    assert written["metrics"]["score"]["value"] == expected.metrics["score"].value


@pytest.mark.parametrize(
    ("part", "options"),
    [("all", {}), ("auto", {"threshold": 0.4}), ("auto", {"flip": False})],
)
def test_what_stored_predictions_cannot_answer_is_refused(
    run: Path, data: Path, part: str, options: dict[str, float]
) -> None:
    with pytest.raises(DataError, match=r"as they are stored(.|\n)*the models of the run"):
        evaluate_models([run], data, part=part, options=PredictOptions(**options), progress=False)


def test_evaluation_tells_of_trust_and_draws_it(run: Path, data: Path, tmp_path: Path) -> None:
    said = CliRunner().invoke(
        app, ["evaluate", str(run), "--data", str(data), "--out", str(tmp_path), "--json", "-q"]
    )
    assert said.exit_code == 0, said.output
    table = json.loads(said.stdout)
    assert set(table["rule"]) == {"temperature", "min_body", "empty_below", "min_peak"}
    error = table["trust"]["expected_calibration_error"]
    assert error["after"] <= error["before"] + 0.01
    assert table["choice"]["score"] == pytest.approx(table["metrics"]["score"]["value"])
    assert (tmp_path / "figures" / "reliability.png").is_file()
    assert (tmp_path / "figures" / "kept.png").is_file()
    assert "Most doubtful by probabilities" in (tmp_path / "report.html").read_text()


def test_the_page_of_results_shows_a_run_with_folds(run: Path, tmp_path: Path) -> None:
    page = tmp_path / "results.md"
    said = CliRunner().invoke(app, ["results", str(run), "--out", str(page)])
    assert said.exit_code == 0, said.output
    told = json.loads((run / "metrics.json").read_text())
    score = told["val"]["metrics"]["score"]
    text = page.read_text(encoding="utf-8")
    assert "## tiny, 2 folds, random weights" in text
    (line,) = [line for line in text.splitlines() if line.startswith("| [tiny]")]
    assert "| 64 out of 2 folds |" in line
    assert f"{score['value']:.3f} ({score['low']:.3f} to {score['high']:.3f})" in line
    assert f"threshold {told['threshold']:.2f}, temperature" in text
    assert told["calibration"] in text
    page.unlink()  # what is kept beside it is enough
    assert CliRunner().invoke(app, ["results", "--out", str(page)]).exit_code == 0
    assert page.read_text(encoding="utf-8") == text


def test_a_run_with_folds_is_no_model_file_but_becomes_one(run: Path) -> None:
    with pytest.raises(ModelFileError, match=r"a folder(.|\n)*Join its folds: diapir ensemble"):
        load_predictor([run])


def test_an_ensemble_is_one_thing_to_predict_with(run: Path, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "all.safetensors"
    said = CliRunner().invoke(
        app, ["ensemble", str(run), "--data", str(data), "--out", str(out), "--json", "-q"]
    )
    assert said.exit_code == 0, said.output
    table = json.loads(said.stdout)
    assert (table["networks"], table["chosen_on"]) == (2, "64 out-of-fold tiles")
    card = read_card(out)
    assert len(card.train_ids) == 64  # every tile but the hold-out trained one of them
    judged = evaluate_models([out], data, progress=False)
    assert len(judged.found) == 16
    assert "disagreement" in judged.trust.kept
    moved = tmp_path / "elsewhere.safetensors"
    shutil.move(out, moved)
    submission = tmp_path / "submission.csv"
    for command in (
        ["submit", str(moved), "--data", str(data), "--out", str(submission), "-q"],
        ["predict", str(moved), str(data / "test" / "images"), str(tmp_path / "p"), "-q"],
        ["info", str(moved)],
    ):
        said = CliRunner().invoke(app, command)
        assert said.exit_code == 0, said.output
    written = json.loads(submission.with_suffix(".json").read_text())
    assert written["rule"]["temperature"] == card.rule.temperature
    assert len(list((tmp_path / "p" / "masks").glob("*.png"))) == 4


def test_probabilities_of_an_ensemble_are_the_mean(run: Path, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "all.safetensors"
    make_ensemble([run], out, progress=False)  # keeps what the run chose
    written = json.loads((run / "metrics.json").read_text())["val"]["choice"]
    predictor, (card,) = load_predictor([out], PredictOptions(device="cpu"))
    assert card.threshold == written["threshold"]
    assert card.rule.temperature == written["rule"]["temperature"]
    images = read_tiles(data, "test").images
    raw = []
    for file in run_models(run):
        one, (own,) = load_predictor([file], PredictOptions(device="cpu"))
        raw.append(scale_probs(one.predict_probs(images), 1 / own.rule.temperature))
    expected = scale_probs(np.mean(raw, axis=0), card.rule.temperature)
    assert predictor.predict_probs(images) == pytest.approx(expected, abs=2e-3)


def test_weights_validation_tiles_and_packing(run: Path, data: Path, tmp_path: Path) -> None:
    shutil.copytree(run / "fold-0", run / "fold-0-old")  # whatever else lies there
    one, other = run_models(run)
    shutil.rmtree(run / "fold-0-old")
    out = tmp_path / "some.safetensors"
    make_ensemble([one, other], out, weights=[1, 3], progress=False)
    assert [m.weight for m in read_members(out)] == [1, 3]
    # the folds train on each other's validation tiles: none is left to choose on
    with pytest.raises(DataError, match=r"no validation tile(.|\n)*Leave out --data"):
        make_ensemble([one, other], out, data=data, progress=False)
    packed = make_ensemble([one], out, data=data, half=True, progress=False)
    assert (packed.networks, packed.chosen_on) == (1, "32 validation tiles")
    net, card = load_model(out)
    assert card.metrics == read_card(one).metrics
    with safe_open(out, "np") as file:
        kinds = {file.get_slice(name).get_dtype() for name in net.state_dict()}
    assert "F16" in kinds
    assert "F32" not in kinds


def test_what_cannot_be_joined(run: Path, data: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"one file of weights, not \.json(.|\n)*m\.safetensors"):
        make_ensemble([run], tmp_path / "m.json")
    for weights in ([1, 2], [0], [-1], [math.nan], [math.inf]):
        told = rf"{len(weights)} weights?(.|\n)*finite one above 0 for each run"
        with pytest.raises(OptionError, match=told):
            make_ensemble([run], tmp_path / "m.safetensors", weights=weights)
    assert not (tmp_path / "m.safetensors").exists()
    (tmp_path / "empty").mkdir()
    with pytest.raises(RunError, match="there is no model in this folder"):
        make_ensemble([tmp_path / "empty"], tmp_path / "m.safetensors")
    with pytest.raises(RunError, match="no out-of-fold predictions"):
        read_out_of_fold(tmp_path / "empty")
    other = tmp_path / "other"
    shutil.copytree(data, other)
    masks = sorted((other / "train" / "images").glob("*.png"))
    masks[0].write_bytes(masks[1].read_bytes())
    for act in (
        lambda: evaluate_models([run], other, progress=False),
        lambda: make_ensemble([run], tmp_path / "m.safetensors", data=other, progress=False),
    ):
        with pytest.raises(DataError, match="data differs"):
            act()
    broken = tmp_path / "broken"
    shutil.copytree(run, broken)
    whole = (run / "out_of_fold.npz").read_bytes()
    spoilt = bytearray(whole)
    spoilt[len(whole) // 2] ^= 255
    for content in (b"PK", whole[:-100], bytes(spoilt)):
        (broken / "out_of_fold.npz").write_bytes(content)
        with pytest.raises(RunError, match="cannot read the out-of-fold"):
            evaluate_models([broken], data, progress=False)
