"""The predictor: averages, mirrors, batches, and what it needs."""

import subprocess
import sys
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from typer.testing import CliRunner

from diapir.cli.app import app
from diapir.config import Recipe
from diapir.errors import DataError, DeviceError, ModelFileError, OptionError, RunError
from diapir.inference.predict import PredictOptions, Predictor, load_predictor
from diapir.io.images import write_mask_png
from diapir.models import processor
from diapir.models.maskrule import MaskRule
from diapir.models.modelcard import ModelCard
from diapir.models.modelfile import save_model
from diapir.models.stored import built
from diapir.models.unet import SaltNet
from diapir.runs.predict import predict_images, submit

Make = Callable[..., Recipe]


def build(recipe: Recipe, seed: int = 0) -> SaltNet:
    torch.manual_seed(seed)
    return SaltNet(recipe.model).eval()


@pytest.fixture
def images() -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (7, 21, 35), np.uint8)


def plain(net: SaltNet, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    with torch.no_grad():
        x = torch.tensor(images)[:, None].float() / 255
        return torch.sigmoid(net(x))[:, 0].numpy()


def close(a: Any, b: Any) -> None:
    np.testing.assert_allclose(a, b, atol=1e-5)


def test_rows_follow_the_sample_in_one_more_folder(tmp_path: Path, tiny_recipe: Make) -> None:
    model, ids = tmp_path / "salt.safetensors", ["a", "b", "c"]
    save_model(model, build(tiny_recipe()), ModelCard(tiny_recipe(), 0.5))
    for id_ in ids:
        write_mask_png(tmp_path / "data" / "mine" / "test" / f"{id_}.png", np.eye(32, dtype=bool))
    sample = tmp_path / "data" / "mine" / "sample_submission.csv"
    sample.write_text("id,rle_mask\nb,\nc,\na,\n", encoding="utf-8")
    submit([model], tmp_path / "data", tmp_path / "out.csv", progress=False)
    rows = (tmp_path / "out.csv").read_text(encoding="utf-8").splitlines()
    assert [row.partition(",")[0] for row in rows] == ["id", "b", "c", "a"]


def test_one_model_without_mirroring(tiny_recipe: Make, images: NDArray[np.uint8]) -> None:
    net = build(tiny_recipe())
    probs = Predictor([net], flip=False).predict_probs(images)
    assert probs.dtype == np.float32
    assert probs.shape == images.shape
    close(probs, plain(net, images))
    assert probs.min() >= 0
    assert probs.max() <= 1
    assert probs.std() > 0


def test_mirrored_tiles_are_averaged(tiny_recipe: Make, images: NDArray[np.uint8]) -> None:
    net = build(tiny_recipe())
    probs = Predictor([net], flip=True).predict_probs(images)
    close(probs, (plain(net, images) + plain(net, images[:, :, ::-1].copy())[:, :, ::-1]) / 2)
    mirrored = Predictor([net], flip=True).predict_probs(images[:, :, ::-1].copy())
    close(mirrored, probs[:, :, ::-1])
    assert not np.allclose(probs, plain(net, images), atol=1e-5)


def test_models_are_averaged(tiny_recipe: Make, images: NDArray[np.uint8]) -> None:
    nets = [build(tiny_recipe(), 1), build(tiny_recipe(model__scratch_channels=[6, 8]), 2)]
    probs = Predictor(nets, flip=False).predict_probs(images)
    close(probs, (plain(nets[0], images) + plain(nets[1], images)) / 2)


@pytest.mark.parametrize("count", [5, 7, 10])  # of these the shares add up to more than 1
def test_what_all_networks_are_certain_of_is_no_more_than_certain(
    tiny_recipe: Make, images: NDArray[np.uint8], count: int
) -> None:
    net = build(tiny_recipe())
    with torch.no_grad():
        net.head.weight.zero_()
        net.head.bias.fill_(50)
    assert (Predictor([net] * count).predict_probs(images) == 1).all()


def test_images_to_come_count_while_all_are_of_one_size(
    files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def expected(*sides: int) -> list[int]:
        folder = tmp_path / "-".join(map(str, sides))
        for number, side in enumerate(sides):
            picture = np.zeros((side, side), np.uint8)
            write_mask_png(folder / f"{number}.png", picture)
        seen: list[int] = []

        def note(self: Predictor, images: NDArray[np.uint8]) -> NDArray[np.float32]:
            seen.append(self.expected)
            return np.zeros(images.shape, np.float32)

        monkeypatch.setattr(Predictor, "predict_probs", note)
        options = PredictOptions(batch_size=2, device="cpu")
        predict_images(files[:1], folder, tmp_path / "out", options=options, progress=False)
        return seen

    assert expected(40, 40, 40, 40, 40) == [5, 3, 1]
    assert expected(40, 40, 30, 30, 20) == [5, 2, 1]
    assert expected(500) == [4]  # windows


@pytest.mark.parametrize("batch_size", [1, 3, 7, 100])
def test_batches_do_not_matter(
    tiny_recipe: Make, images: NDArray[np.uint8], batch_size: int
) -> None:
    net = build(tiny_recipe(model__depth_channel=True))
    z_feet = np.linspace(50, 900, 7, dtype=np.float32)
    seen: list[int] = []
    predictor = Predictor([net], batch_size=batch_size)
    probs = predictor.predict_probs(images, z_feet, advance=seen.append)
    assert sum(seen) == 7
    assert len(seen) == -(-7 // batch_size)
    alone = [
        Predictor([net]).predict_probs(images[k : k + 1], z_feet[k : k + 1])[0] for k in range(7)
    ]
    close(probs, alone)


def test_masks_come_a_batch_at_a_time(tiny_recipe: Make, images: NDArray[np.uint8]) -> None:
    predictor = Predictor([build(tiny_recipe())], batch_size=2, rule=MaskRule(1.3, min_body=3))
    probs = predictor.predict_probs(images)
    predictor.threshold = float(np.median(probs))
    batches = list(predictor.stream_masks(images))
    assert [len(masks) for masks in batches] == [
        min(2, len(images) - k) for k in range(0, len(images), 2)
    ]
    found = np.concatenate(batches)
    assert found.any()
    assert not found.all()
    assert np.array_equal(found, predictor.make_masks(probs))


def test_no_tiles_give_no_probabilities(tiny_recipe: Make) -> None:
    predictor = Predictor([build(tiny_recipe())])
    assert predictor.predict_probs(np.empty((0, 5, 5), np.uint8)).shape == (0, 5, 5)


def test_networks_are_put_into_evaluation_mode(tiny_recipe: Make) -> None:
    net = build(tiny_recipe(model__dropout=0.5)).train()
    Predictor([net])
    assert not net.training


def test_missing_depths_are_an_error(tiny_recipe: Make, images: NDArray[np.uint8]) -> None:
    predictor = Predictor([build(tiny_recipe()), build(tiny_recipe(model__depth_channel=True))])
    assert predictor.needs_depth
    with pytest.raises(DataError, match=r"the data has none(.|\n)*depths.csv"):
        predictor.predict_probs(images)
    assert not Predictor([build(tiny_recipe())]).needs_depth


def test_read_only_tiles_draw_no_warning(tiny_recipe: Make, images: NDArray[np.uint8]) -> None:
    images.setflags(write=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Predictor([build(tiny_recipe())]).predict_probs(images)


def test_model_time_adds_up(tiny_recipe: Make, images: NDArray[np.uint8]) -> None:
    predictor = Predictor([build(tiny_recipe())])
    assert predictor.model_seconds == 0
    predictor.predict_probs(images)
    first = predictor.model_seconds
    predictor.predict_probs(images)
    assert 0 < first < predictor.model_seconds


# --- from files


@pytest.fixture
def files(tiny_recipe: Make, tmp_path: Path) -> list[Path]:
    paths = []
    for number, threshold in enumerate((0.3, 0.5)):
        recipe = tiny_recipe()
        predict = recipe.predict.model_copy(update={"flip": number == 1})
        card = ModelCard(recipe.model_copy(update={"predict": predict}), threshold)
        paths.append(tmp_path / f"{number}.safetensors")
        save_model(paths[-1], build(recipe, number), card)
    return paths


def test_files_make_a_predictor(files: list[Path], images: NDArray[np.uint8]) -> None:
    predictor, cards = load_predictor(files, PredictOptions(device="cpu", precision="float32"))
    assert predictor.threshold == pytest.approx(0.4)
    assert [card.threshold for card in cards] == [0.3, 0.5]
    assert predictor.flip is False  # as the first model says
    recipe = replace(cards[0]).recipe
    wanted = (plain(build(recipe, 0), images) + plain(build(recipe, 1), images)) / 2
    close(predictor.predict_probs(images), wanted)


def test_arguments_go_before_the_card(files: list[Path]) -> None:
    predictor, _ = load_predictor(files, PredictOptions(flip=True, threshold=0.9, batch_size=5))
    assert (predictor.flip, predictor.threshold, predictor.batch_size) == (True, 0.9, 5)
    assert load_predictor(files[1:])[0].flip is True


def test_precision_is_handed_on(files: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processor, "has_fast_bf16", lambda: True)
    predictor, _ = load_predictor(files, PredictOptions(device="cpu", precision="bf16"))
    predictor.predict_probs(np.zeros((1, 64, 64), np.uint8))
    assert {built(net).autocast_dtype for net in predictor.nets} == {torch.bfloat16}


def test_bf16_is_refused_where_it_would_take_for_ever(
    files: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processor, "has_fast_bf16", lambda: False)
    with pytest.raises(RunError, match=r"no instructions for bf16(.|\n)*--precision(.|\n)*auto"):
        load_predictor(files, PredictOptions(device="cpu", precision="bf16"))


@pytest.mark.parametrize("device", ["cuda", "tpu", "", "cpu:x"])
def test_device_that_is_not_there(
    files: list[Path], device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(OptionError, match=r"there is no device(.|\n)*--device(.|\n)*auto, cpu"):
        load_predictor(files, PredictOptions(device=device))


def test_bad_file_is_named(files: list[Path], tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match=r"gone\.safetensors"):
        load_predictor([files[0], tmp_path / "gone.safetensors"])


@pytest.mark.parametrize(("fits", "said"), [(3, "--batch-size 2,"), (0, "Not even one fits")])
def test_full_memory_names_the_batch_that_fits(
    tiny_recipe: Make, monkeypatch: pytest.MonkeyPatch, fits: int, said: str
) -> None:
    forward = SaltNet.forward

    def small_memory(self: SaltNet, images: torch.Tensor, z_feet: Any = None) -> Any:
        if len(images) > 2 * fits:  # mirrored tiles go along
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to")
        return forward(self, images, z_feet)

    monkeypatch.setattr(SaltNet, "forward", small_memory)
    predictor = Predictor([build(tiny_recipe(), 0)], batch_size=8)
    images = np.zeros((9, 32, 32), np.uint8)
    with pytest.raises(DeviceError, match=r"out of memory .* with 8 images of 32 x 32") as caught:
        predictor.predict_probs(images)
    assert said in str(caught.value)


def test_other_errors_of_torch_stay_what_they_are(
    tiny_recipe: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: SaltNet, images: torch.Tensor, z_feet: Any = None) -> Any:
        raise RuntimeError("shapes cannot be multiplied")

    monkeypatch.setattr(SaltNet, "forward", fail)
    with pytest.raises(RuntimeError, match="shapes"):
        Predictor([build(tiny_recipe(), 0)]).predict_probs(np.zeros((1, 32, 32), np.uint8))


CROWDED = """
import resource, sys
from pathlib import Path
import numpy as np, torch
from diapir.errors import DeviceError
from diapir.inference.predict import Predictor
from diapir.config import parse_recipe
from diapir.models.unet import SaltNet
from diapir.runs.predict import predict_images
batch = int(sys.argv[1])
torch.set_num_threads(1)
model = {"encoder": "scratch", "scratch_channels": [8, 16], "decoder_channels": [8]}
net = SaltNet(parse_recipe({"name": "tiny", "model": model}, where="test").model)
images = np.zeros((batch, 128, 128), np.uint8)
Predictor([net], batch_size=1).predict_probs(images[:1])
pages = int(Path("/proc/self/statm").read_text().split()[0])
limit = pages * resource.getpagesize() + (900 << 20)
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
try:
    Predictor([net], batch_size=batch, engine="eager").predict_probs(images)
    print("all")
except DeviceError as error:
    print(error.mend.split("--batch-size ")[1].split(",")[0])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="memory is limited and counted as on Linux")
def test_the_batch_that_is_named_fits() -> None:
    def predicted(batch: int) -> str:
        command = [sys.executable, "-c", CROWDED, str(batch)]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    fits = int(predicted(8192))
    assert 1 <= fits < 8192
    assert predicted(fits) == "all"


def test_tiles_that_the_sample_names_and_nobody_has_are_told(
    tmp_path: Path, tiny_recipe: Make
) -> None:
    model, data = tmp_path / "salt.safetensors", tmp_path / "data"
    save_model(model, build(tiny_recipe()), ModelCard(tiny_recipe(), 0.5))
    for id_ in "ab":
        write_mask_png(data / "test" / f"{id_}.png", np.eye(32, dtype=bool))
    (data / "sample_submission.csv").write_text("id,rle_mask\na,\nc,\nd,\n", encoding="utf-8")
    warning = submit([model], data, tmp_path / "out.csv", progress=False).warning
    said = "names 2 tiles without an image, such as c and not 1 tiles that have one, such as b"
    assert warning is not None
    assert said in warning
    words = ["check-submission", str(tmp_path / "out.csv"), "--data", str(data)]
    checked = CliRunner().invoke(app, words)
    assert checked.exit_code == 0
    assert said in checked.output.replace("\n", " ")
