"""Graphs are kept for the next run, which then builds no network, and are never trusted blindly."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from diapir.data.competition import write_competition
from diapir.errors import ModelFileError
from diapir.inference import graph_store
from diapir.inference.graph_store import graph_of, has_graph
from diapir.inference.graphs import logits_graph
from diapir.inference.predict import PredictOptions, load_predictor
from diapir.io.tiles import Tiles
from diapir.models import modelfile
from diapir.models.ensemble import read_networks
from diapir.models.modelcard import ModelCard
from diapir.models.modelfile import save_model
from diapir.models.stored import StoredNet

FAST = PredictOptions(device="cpu", engine="onnxruntime")


@pytest.fixture(autouse=True)
def graphs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of graphs in a cache of its own."""
    monkeypatch.setenv("DIAPIR_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "graphs"


@pytest.fixture
def no_building(monkeypatch: pytest.MonkeyPatch) -> None:
    """From here on nobody may build a network."""

    def build(*_: object, **__: object) -> None:
        raise AssertionError("a network was built")

    monkeypatch.setattr(modelfile, "build_network", build)


def stored(model: Path) -> StoredNet:
    return read_networks(model).nets[0]


def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (3, 32, 32)).astype(np.uint8)


def test_the_second_run_builds_no_network(
    model: Path, request: pytest.FixtureRequest, graphs: Path
) -> None:
    first = load_predictor([model], FAST)[0].predict_probs(images())
    assert len(list(graphs.iterdir())) == 1
    request.getfixturevalue("no_building")
    again = load_predictor([model], FAST)[0].predict_probs(images())
    assert np.array_equal(first, again)


def test_a_network_is_built_for_a_size_that_was_not_there_before(model: Path, graphs: Path) -> None:
    net = stored(model)
    graph_of(net, 32, 32)
    other = stored(model)
    assert has_graph(other)
    assert graph_of(other, 48, 32) == logits_graph(net.net(), 48, 32)
    assert len(list(graphs.iterdir())) == 2


def test_other_weights_have_other_graphs(model: Path, tmp_path: Path) -> None:
    graph_of(stored(model), 32, 32)
    net, card = modelfile.load_model(model)
    with torch.no_grad():
        net.head.bias += 1
    save_model(tmp_path / "other.safetensors", net, card)
    other = stored(tmp_path / "other.safetensors")
    assert not has_graph(other)
    assert graph_of(other, 32, 32) != graph_of(stored(model), 32, 32)


def test_another_code_has_other_graphs(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    graph_of(stored(model), 32, 32)
    assert has_graph(stored(model))
    monkeypatch.setattr(graph_store, "_sources", lambda: "another")
    assert not has_graph(stored(model))


@pytest.mark.parametrize(
    "damage", [lambda b: b[:-9], lambda b: b[:60] + b"?" + b[61:], lambda _: b""]
)
def test_a_damaged_graph_is_made_again(model: Path, graphs: Path, damage: object) -> None:
    whole = graph_of(stored(model), 32, 32)
    (file,) = graphs.iterdir()
    file.write_bytes(damage(file.read_bytes()))  # type: ignore[operator]
    assert graph_of(stored(model), 32, 32) == whole
    assert file.read_bytes()[32:] == whole


def test_a_cache_that_cannot_be_written_is_no_error(model: Path, graphs: Path) -> None:
    graphs.parent.write_text("in the way")
    assert graph_of(stored(model), 32, 32) == logits_graph(stored(model).net(), 32, 32)


@pytest.mark.usefixtures("graphs")
def test_graphs_of_a_cache_that_may_only_be_read_are_used(
    model: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = graph_of(stored(model), 32, 32)

    def refuse(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(graph_store.os, "utime", refuse)
    request.getfixturevalue("no_building")
    assert graph_of(stored(model), 32, 32) == graph


def test_the_graphs_that_were_not_used_for_longest_go(
    model: Path, graphs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    length = len(graph_of(stored(model), 32, 32))
    graph_of(stored(model), 33, 33)
    for age, file in enumerate(sorted(graphs.iterdir()), 1):
        os.utime(file, (age, age))
    graph_of(stored(model), 32, 32)  # used again: the other one is the older now
    monkeypatch.setattr(graph_store, "_MOST_BYTES", int(2.5 * length))
    graph_of(stored(model), 34, 34)
    assert sorted(f.stem.rpartition("-")[2] for f in graphs.iterdir()) == ["32x32", "34x34"]


def test_a_model_that_cannot_be_built_is_told_at_once(model: Path, tmp_path: Path) -> None:
    net, card = modelfile.load_model(model)
    with torch.no_grad():
        net.head.bias.fill_(torch.nan)
    broken = tmp_path / "broken.safetensors"
    save_model(broken, net, ModelCard(card.recipe, 0.5))
    with pytest.raises(ModelFileError, match="NaN"):
        load_predictor([broken], FAST)


def test_a_model_file_that_was_replaced_is_not_mixed_with_the_old_one(
    model: Path, tmp_path: Path
) -> None:
    used = tmp_path / "used.safetensors"
    used.write_bytes(model.read_bytes())
    graph_of(stored(used), 32, 32)
    predictor, _ = load_predictor([used], FAST)  # nothing is built: a graph is there
    net, card = modelfile.load_model(used)
    with torch.no_grad():
        net.head.bias += 1
    save_model(used, net, card)
    with pytest.raises(ModelFileError, match="replaced while it was in use"):
        predictor.predict_probs(np.zeros((1, 48, 48), np.uint8))


def test_importing_the_predictor_does_not_import_timm() -> None:
    import subprocess
    import sys

    code = "import sys, diapir.runs.predict; print({'timm', 'torchvision'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


SUBMIT = """
import sys
from pathlib import Path
from diapir.cli import main

model, data, out, loaded = sys.argv[1:]
sys.argv = ["diapir", "submit", model, "--data", data, "--out", out, "--engine", "openvino"]
try:
    main()
finally:
    Path(loaded).write_text(str("torch" in sys.modules))
"""


def test_the_second_submission_does_not_load_torch(
    model: Path, easy_tiles: Tiles, tmp_path: Path
) -> None:
    """Which would take it longer than predicting a thousand tiles."""
    pytest.importorskip("openvino")
    write_competition(
        tmp_path / "data", easy_tiles.subset(np.arange(1)), easy_tiles.subset(np.arange(1, 40))
    )

    def submit(name: str) -> tuple[str, bytes]:
        out, loaded = tmp_path / f"{name}.csv", tmp_path / "loaded"
        words = [str(path) for path in (model, tmp_path / "data", out, loaded)]
        subprocess.run([sys.executable, "-c", SUBMIT, *words], check=True, capture_output=True)
        return loaded.read_text(), out.read_bytes()

    (first, rows), (second, same) = submit("first"), submit("second")
    assert (first, second) == ("True", "False")
    assert rows == same


def test_a_cache_that_may_not_be_looked_into_is_none(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "glob", refuse)
    assert not has_graph(stored(model))


def test_a_user_without_a_home_has_no_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    def nowhere() -> None:
        raise RuntimeError("Could not determine home directory.")

    for name in ("DIAPIR_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", nowhere)
    assert graph_store.cache_folder() == Path(os.devnull)
