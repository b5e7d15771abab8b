"""Exported models: everything from pixels to probabilities inside, of any size, checked."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from diapir.config import ModelConfig, Recipe
from diapir.errors import RunError
from diapir.export import onnx as exporting
from diapir.export.onnx import Origin, export_model, origins_of
from diapir.inference.postprocess import make_masks
from diapir.inference.predict import Predictor, load_predictor
from diapir.io.digests import file_sha256
from diapir.models.ensemble import Member, save_ensemble
from diapir.models.maskrule import MaskRule
from diapir.models.modelcard import ModelCard
from diapir.models.modelfile import save_model
from diapir.models.unet import SaltNet

onnxruntime = pytest.importorskip("onnxruntime")
EXAMPLE = Path(__file__).parents[1] / "examples" / "onnx_predict.py"
SMALL = ModelConfig(encoder="scratch", scratch_channels=(4, 8), decoder_channels=(4,))


def network(**changes: object) -> SaltNet:
    torch.manual_seed(0)
    return SaltNet(SMALL.model_copy(update=changes)).eval()


def card(threshold: float = 0.4) -> ModelCard:
    return ModelCard(Recipe(model=SMALL), threshold, metrics={"holdout_score": 0.5}).stamped()


def origins() -> list[Origin]:
    return [Origin(card().recipe, card(), "0" * 64)]


def images(*shape: int) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, shape, np.uint8)


@pytest.mark.parametrize("shape", [(1, 101, 101), (4, 64, 96), (2, 203, 77)])
@pytest.mark.parametrize(
    "changes",
    [{}, {"resize_to": 128}, {"also_resize_to": (113,), "pad_mode": "none"}],
    ids=str,
)
def test_the_graph_takes_any_number_and_size(
    shape: tuple[int, ...], changes: dict[str, object], tmp_path: Path
) -> None:
    rule = MaskRule(temperature=1.5)
    predictor = Predictor([network(**changes), network(scse=True)], rule=rule, weights=[1, 2])
    apart = export_model(predictor, 2 * origins(), tmp_path / "salt.onnx")
    assert apart <= exporting.AGREEMENT
    session = onnxruntime.InferenceSession(tmp_path / "salt.onnx")
    pixels = images(*shape)
    (probs,) = session.run(["probs"], {"images": pixels[:, None]})
    exact = Predictor(predictor.nets, rule=rule, weights=[1, 2], precision="float32")
    assert np.abs(probs[:, 0] - exact.predict_probs(pixels)).max() < 1e-4
    assert probs.dtype == np.float32


def test_metadata_say_how_to_use_it_and_where_it_comes_from(tmp_path: Path) -> None:
    rule = MaskRule(min_body=7)
    export_model(Predictor([network()], 0.4, rule=rule), origins(), tmp_path / "salt.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "salt.onnx")
    about = session.get_modelmeta().custom_metadata_map
    assert float(about["threshold"]) == 0.4
    assert int(about["min_body"]) == 7
    origin = json.loads(about["diapir"])
    assert origin["metrics"] == {"holdout_score": 0.5}
    (only,) = origin["networks"]
    assert only["recipe"]["model"]["encoder"] == "scratch"
    assert only["versions"]["torch"] == torch.__version__.partition("+")[0]


def test_metadata_name_every_network_and_no_metrics_of_a_part(tmp_path: Path) -> None:
    alone, joined = tmp_path / "alone.safetensors", tmp_path / "joined.safetensors"
    recipes = [Recipe(name=name, model=SMALL) for name in ("first", "second", "third")]
    save_model(alone, network(), replace(card(), recipe=recipes[0], git="a"))
    members = [
        Member(network(), recipe, weight)
        for recipe, weight in zip(recipes[1:], (1, 3), strict=True)
    ]
    save_ensemble(joined, members, replace(card(), recipe=recipes[1], git="b"))

    def told(*paths: Path) -> dict[str, Any]:
        predictor, _ = load_predictor(paths)
        return json.loads(exporting.metadata(predictor, origins_of(paths))["diapir"])

    both = told(alone, joined)
    assert [(n["recipe"]["name"], n["git"]) for n in both["networks"]] == [
        ("first", "a"),
        ("second", "b"),
        ("third", "b"),
    ]
    assert [n["recipe_sha256"] for n in both["networks"]] == [r.sha256() for r in recipes]
    assert [n["weight"] for n in both["networks"]] == pytest.approx([1 / 3, 1 / 6, 1 / 2])
    assert both["networks"][0]["file_sha256"] == file_sha256(alone)
    assert not {"metrics", "notes"} & set(both)
    assert told(joined)["metrics"] == {"holdout_score": 0.5}  # of the whole file


def test_openvino_gets_graph_weights_and_metadata(tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    from diapir.inference.engine import compile_openvino, quiet_openvino

    predictor = Predictor([network()], 0.4, precision="float32")
    export_model(predictor, origins(), tmp_path / "salt.xml", format_="openvino")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["salt.bin", "salt.xml"]
    model = quiet_openvino().Core().read_model(tmp_path / "salt.xml")
    assert float(model.get_rt_info(["diapir", "threshold"]).astype(str)) == 0.4
    exact = {"INFERENCE_PRECISION_HINT": "f32"}
    compiled = compile_openvino(tmp_path / "salt.xml", exact)
    pixels = images(3, 90, 101)
    probs = compiled({"images": pixels[:, None]})["probs"]
    assert np.abs(probs[:, 0] - predictor.predict_probs(pixels)).max() < 1e-4


def test_a_graph_with_depths_asks_for_them(tmp_path: Path) -> None:
    predictor = Predictor([network(depth_channel=True)], precision="float32")
    export_model(predictor, origins(), tmp_path / "salt.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "salt.onnx")
    z_feet = np.array([100.0, 900.0], np.float32)
    pixels = images(2, 101, 101)
    (probs,) = session.run(["probs"], {"images": pixels[:, None], "z_feet": z_feet})
    assert np.abs(probs[:, 0] - predictor.predict_probs(pixels, z_feet)).max() < 1e-4


def test_what_does_not_agree_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    predictor = Predictor([network()])
    graph = exporting.traced_graph
    other = exporting.SaltProbs(Predictor([network(scse=True)])).eval()
    monkeypatch.setattr(
        exporting, "traced_graph", lambda module, *rest, **named: graph(other, *rest, **named)
    )
    with pytest.raises(RunError, match="differs from the model"):
        export_model(predictor, origins(), tmp_path / "salt.onnx")
    with pytest.raises(RunError, match=r"ends in \.onnx"):
        export_model(predictor, origins(), tmp_path / "salt.pt")
    assert not list(tmp_path.iterdir())


def test_the_verb_and_the_example_work_together(tmp_path: Path) -> None:
    model, file = tmp_path / "model.safetensors", tmp_path / "salt.onnx"
    net = network()
    save_model(model, net, card(threshold=0.52))
    verb = [sys.executable, "-m", "diapir", "export", str(model)]
    done = subprocess.run(
        [*verb, "--out", str(file), "--json"], capture_output=True, text=True, check=True
    )
    said = json.loads(done.stdout)
    assert said["file"] == str(file)
    assert said["difference"] <= 1e-4
    refused = subprocess.run([*verb, "--format", "tensorrt"], capture_output=True, text=True)
    assert refused.returncode == 2
    assert "error: there is no format 'tensorrt'" in refused.stderr
    assert "expected: onnx or openvino" in refused.stderr
    pixels = images(5, 101, 101)
    np.save(tmp_path / "images.npy", pixels)
    program = [sys.executable, str(EXAMPLE), str(file)]
    files = [str(tmp_path / "images.npy"), str(tmp_path / "masks.npy")]
    done = subprocess.run([*program, *files], capture_output=True, text=True, check=True)
    assert "of 5 images hold salt" in done.stdout
    for wrong in ([*program, "none.npy", "masks.npy"], [*program[:2], "none.onnx", *files]):
        failed = subprocess.run(wrong, capture_output=True, text=True, cwd=tmp_path)
        assert failed.returncode == 1
        assert len(failed.stderr.splitlines()) == 1
        assert "none." in failed.stderr
    predictor = Predictor([net], 0.52, precision="float32")
    wanted = predictor.make_masks(predictor.predict_probs(pixels))
    found = np.load(tmp_path / "masks.npy")
    assert (found != wanted).mean() < 1e-3
    assert 0 < found.mean() < 1
    assert len(EXAMPLE.read_text().splitlines()) <= 60


def run_example(folder: Path, pixels: np.ndarray) -> subprocess.CompletedProcess[str]:
    np.save(folder / "images.npy", pixels)
    program = [sys.executable, str(EXAMPLE), "salt.onnx", "images.npy", "masks.npy"]
    return subprocess.run(program, capture_output=True, text=True, cwd=folder)


def test_the_example_cleans_masks_as_diapir_does(tmp_path: Path) -> None:
    # of these tiles the rule drops some, bodies and whole ones
    rule = MaskRule(min_body=5, min_peak=0.54, empty_below=2107.0)
    predictor = Predictor([network()], 0.52, rule=rule, precision="float32")
    export_model(predictor, origins(), tmp_path / "salt.onnx")
    pixels = images(6, 60, 70)
    done = run_example(tmp_path, pixels)
    assert not done.returncode, done.stderr
    probs = predictor.predict_probs(pixels)
    found, wanted = np.load(tmp_path / "masks.npy"), predictor.make_masks(probs)
    for weaker in ({"min_body": 0}, {"min_peak": 0.0}, {"empty_below": 0.0}):  # each counts here
        assert (make_masks(probs, 0.52, replace(rule, **weaker)) != wanted).sum() > 20, weaker
    assert wanted.any()
    assert (found != wanted).sum() < 5


def test_the_example_refuses_a_model_that_wants_depths(tmp_path: Path) -> None:
    predictor = Predictor([network(depth_channel=True)], precision="float32")
    export_model(predictor, origins(), tmp_path / "salt.onnx")
    refused = run_example(tmp_path, images(1, 60, 70))
    assert refused.returncode == 1
    assert len(refused.stderr.splitlines()) == 1
    assert "salt.onnx: this model wants the depth of each image" in refused.stderr


@pytest.mark.parametrize("mode", ["reflect", "edge", "none"])
def test_the_graph_pads_images_smaller_than_a_stride(mode: str, tmp_path: Path) -> None:
    deep = {"scratch_channels": (4,) * 5, "decoder_channels": (4,) * 4}  # a stride of 16
    predictor = Predictor([network(pad_mode=mode, **deep)], precision="float32")
    export_model(predictor, origins(), tmp_path / "salt.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "salt.onnx")
    for shape in ((1, 1, 1), (2, 5, 15), (1, 9, 200), (1, 16, 17)):
        pixels = images(*shape)
        (probs,) = session.run(["probs"], {"images": pixels[:, None]})
        assert np.abs(probs[:, 0] - predictor.predict_probs(pixels)).max() < 1e-5, shape


@pytest.mark.parametrize("mode", ["reflect", "edge", "none"])
def test_openvino_pads_images_smaller_than_a_stride(mode: str, tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    deep = {"scratch_channels": (4,) * 5, "decoder_channels": (4,) * 4}
    predictor = Predictor([network(pad_mode=mode, **deep)], precision="float32")
    # compared for such sizes before it is kept
    assert export_model(predictor, origins(), tmp_path / "salt.xml", format_="openvino") < 1e-5
