"""Numbers that run away, weights that are none, and memory that is not enough."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from diapir.config import Recipe
from diapir.data.competition import write_competition
from diapir.data.splits import make_splits
from diapir.errors import TrainingError
from diapir.io.tiles import Tiles
from diapir.models.memory import largest_batch
from diapir.models.modelfile import load_model
from diapir.runs.folder import RunFolder
from diapir.runs.train import train_recipe
from diapir.training.fit import fit
from diapir.training.hardware import Hardware
from diapir.training.task import SaltTask
from diapir.training.watch import diverges

Make = Callable[..., Recipe]


def train(tiles: Tiles, recipe: Recipe, run: Path) -> Any:
    (run / "checkpoints").mkdir(parents=True, exist_ok=True)
    split = make_splits(tiles, recipe.split)[0]
    return fit(tiles, split, recipe, run, hardware=Hardware("cpu", progress=False))


def spoil(monkeypatch: pytest.MonkeyPatch, step: int, spoiled: Callable[[SaltTask], Any]) -> None:
    """Call something in the middle of a step."""
    original = SaltTask.on_train_batch_end

    def end(self: SaltTask, *args: Any) -> None:
        original(self, *args)
        if self.global_step == step:
            spoiled(self)

    monkeypatch.setattr(SaltTask, "on_train_batch_end", end)


def put_nan(task: SaltTask) -> None:
    with torch.no_grad():
        task.net.head.bias.fill_(float("nan"))


def test_the_last_good_model_is_kept(
    easy_tiles: Tiles, tiny_recipe: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    test = Tiles(("x",), easy_tiles.images[:1], None, easy_tiles.z_feet[:1], "test")  # type: ignore[index]
    write_competition(tmp_path / "data", easy_tiles, test)
    spoil(monkeypatch, 8, put_nan)  # six steps make an epoch
    with pytest.raises(TrainingError, match=r"loss is nan") as caught:
        train_recipe(
            tiny_recipe(train__epochs=4),
            tmp_path / "data",
            tmp_path / "runs",
            Hardware(accelerator="cpu", progress=False),
        )
    said = str(caught.value)
    for part in ("epoch 2, step 8", "tiles tile0", "The model of epoch 1 is kept in"):
        assert part in said
    (model,) = tmp_path.glob("runs/*/model.safetensors")
    assert str(model) in said
    assert load_model(model)
    assert not RunFolder(model.parent).is_finished()  # resumed, it is trained on


def test_weights_that_are_no_numbers_are_never_kept(
    easy_tiles: Tiles, tiny_recipe: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil(monkeypatch, 8, put_nan)  # after the last step of the only epoch, without validation
    recipe = tiny_recipe(train__epochs=1, split__val=0.0)
    with pytest.raises(TrainingError, match=r"no longer numbers, first head.bias(.|\n)*step 8"):
        train(easy_tiles, recipe, tmp_path)
    assert not list(tmp_path.glob("checkpoints/*.safetensors"))


def test_a_training_that_diverges_says_so(
    easy_tiles: Tiles,
    tiny_recipe: Make,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    measure = SaltTask.pop_metrics

    def rising(self: SaltTask, stage: Any) -> dict[str, float]:
        row = measure(self, stage)
        if stage == "train":
            row["train_loss"] = 1.0 + 3 * self.current_epoch
        return row

    monkeypatch.setattr(SaltTask, "pop_metrics", rising)
    train(easy_tiles, tiny_recipe(train__epochs=6), tmp_path / "one")
    err = capfd.readouterr().err
    assert err.count("the training diverges: its loss rose from 1.000 to 10.000") == 1
    assert "optim.lr" in err
    # losses of another kind may be larger: 7 after 1 and 4 is no divergence, nor is 10 after 7
    stages = [{"bce": 1.0}, {"from_epoch": 2, "lovasz": 1.0}]
    train(easy_tiles, tiny_recipe(train__epochs=5, loss__stages=stages), tmp_path / "two")
    assert "diverges" not in capfd.readouterr().err


@pytest.mark.parametrize("losses", [[], [1.0], [3.0, 2.0, 1.0, 0.5], [0.0, 1.0, 2.0, 3.0, 4.0]])
def test_what_does_not_diverge(losses: list[float]) -> None:
    assert not diverges(losses)


@pytest.mark.parametrize(("fits", "said"), [(3, "train.batch_size=2,"), (0, "Not even one tile")])
def test_full_memory_suggests_the_batch_that_fits(
    easy_tiles: Tiles,
    tiny_recipe: Make,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    fits: int,
    said: str,
) -> None:
    from diapir.models.unet import SaltNet

    forward = SaltNet.forward_all

    def small_memory(self: SaltNet, images: torch.Tensor, z_feet: Any = None) -> Any:
        if len(images) > fits:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(self, images, z_feet)

    monkeypatch.setattr(SaltNet, "forward_all", small_memory)
    with pytest.raises(TrainingError, match="out of memory on the device with 8 tiles") as caught:
        train(easy_tiles, tiny_recipe(), tmp_path)
    assert said in str(caught.value)


def test_halves_are_tried_from_large_to_small() -> None:
    tried: list[int] = []

    def step(count: int) -> None:
        tried.append(count)
        if count > 5:
            raise torch.OutOfMemoryError

    assert largest_batch(step, 64) == 4
    assert tried == [32, 16, 8, 4]


def test_other_errors_are_not_taken_for_full_memory() -> None:
    def step(count: int) -> None:
        raise RuntimeError("shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="shapes"):
        largest_batch(step, 8)
