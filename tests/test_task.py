"""The training task: rates, parameter groups, averaged weights, losses, and what goes wrong."""

import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from diapir.config import LossConfig, LossStage, OptimConfig, Recipe
from diapir.data.datamodule import Batch
from diapir.errors import TrainingError
from diapir.models.unet import Outputs, SaltNet
from diapir.training.losses import combined_loss
from diapir.training.task import SaltTask, rate_factor, total_loss


def make_task(recipe: Recipe, progress: float = 0.0) -> SaltTask:
    torch.manual_seed(0)
    return SaltTask(SaltNet(recipe.model), recipe, lambda: progress)


def make_batch(count: int = 4) -> Batch:
    generator = torch.Generator().manual_seed(3)
    images = torch.rand(count, 1, 16, 16, generator=generator)
    return Batch(images, (images > 0.5).float(), torch.zeros(count), torch.arange(count))


# --- rate


@pytest.mark.parametrize(
    ("schedule", "progress", "factor"),
    [
        ("constant", 0.7, 1.0),
        ("plateau", 0.7, 1.0),
        ("cosine", 0.0, 1.0),
        ("cosine", 0.5, 0.55),
        ("cosine", 1.0, 0.1),
        ("one-cycle", 0.0, 0.04),
        ("one-cycle", 0.1, 0.52),
        ("one-cycle", 0.2, 1.0),
        ("one-cycle", 0.6, 0.55),
        ("one-cycle", 1.0, 0.1),
    ],
)
def test_rate_over_the_training(schedule: Any, progress: float, factor: float) -> None:
    config = OptimConfig(schedule=schedule, lr=1e-2, min_lr=1e-3, warmup=0.2)
    assert rate_factor(config, progress) == pytest.approx(factor)


def test_one_cycle_without_warm_up_starts_at_its_peak() -> None:
    assert rate_factor(OptimConfig(schedule="one-cycle", warmup=0.0), 0.0) == 1.0


@given(st.floats(0, 1), st.floats(0, 0.9), st.sampled_from(["cosine", "one-cycle"]))
def test_rate_stays_between_its_ends(progress: float, warmup: float, schedule: Any) -> None:
    config = OptimConfig(schedule=schedule, lr=1e-2, min_lr=1e-5, warmup=warmup)
    assert 1e-3 <= rate_factor(config, progress) <= 1 + 1e-9


def test_floor_above_the_rate_counts_as_the_rate() -> None:
    assert rate_factor(OptimConfig(schedule="cosine", lr=1e-4, min_lr=1e-3), 1.0) == 1.0


# --- optimiser


def test_every_trainable_parameter_is_in_one_group(tiny_recipe: Callable[..., Recipe]) -> None:
    task = make_task(
        tiny_recipe(
            optim__encoder_lr_factor=0.5,
            optim__weight_decay=0.1,
            optim__name="adamw",
            optim__lr=0.02,
            model__freeze=1,
        )
    )
    (optimizer,), _ = task.configure_optimizers()
    assert isinstance(optimizer, torch.optim.AdamW)
    place = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    assert len(place) == sum(len(group["params"]) for group in optimizer.param_groups)
    for name, parameter in task.net.named_parameters():
        if not parameter.requires_grad:
            assert name.startswith("encoder.levels.0")
            assert id(parameter) not in place
            continue
        group = place[id(parameter)]
        assert group["weight_decay"] == (0.1 if parameter.ndim > 1 else 0.0), name
        rate = 0.01 if name.startswith("encoder.") else 0.02
        assert group["initial_lr"] == pytest.approx(rate), name


def test_schedule_scales_every_group(tiny_recipe: Callable[..., Recipe]) -> None:
    recipe = tiny_recipe(optim__encoder_lr_factor=0.5, optim__schedule="cosine")
    (optimizer,), (schedule,) = make_task(recipe, progress=1.0).configure_optimizers()
    assert schedule["interval"] == "step"
    assert {round(g["lr"], 9) for g in optimizer.param_groups} == {0.0005, 0.001}


def test_plateau_ends_at_the_floor_of_each_group(tiny_recipe: Callable[..., Recipe]) -> None:
    recipe = tiny_recipe(
        optim__schedule="plateau",
        optim__encoder_lr_factor=0.5,
        optim__plateau_patience=1,
        optim__plateau_factor=0.1,
        optim__min_lr=0.002,
    )
    (optimizer,), (entry,) = make_task(recipe).configure_optimizers()
    rates = []
    for score in (0.5, 0.6, 0.6, 0.6, 0.7, 0.7, 0.7):
        entry["scheduler"].step(score)
        rates.append(max(group["lr"] for group in optimizer.param_groups))
    assert rates == pytest.approx([0.01] * 3 + [0.002] * 4)
    assert min(group["lr"] for group in optimizer.param_groups) == pytest.approx(0.001)


# --- averaged weights


def test_averaged_weights_follow_with_their_decay(tiny_recipe: Callable[..., Recipe]) -> None:
    task = make_task(tiny_recipe(optim__ema=0.75))
    name = "head.bias"

    def step_to(value: float) -> float:
        with torch.no_grad():
            task.net.get_parameter(name).fill_(value)
        task.optimizer_step(0, 0, Mock())
        return task.best_net.get_parameter(name).item()

    assert [step_to(value) for value in (1.0, 5.0, 5.0)] == pytest.approx([1.0, 2.0, 2.75])
    assert not any(p.requires_grad for p in task.best_net.parameters())
    assert not task.best_net.training


def test_averaged_statistics_follow_too(tiny_recipe: Callable[..., Recipe]) -> None:
    task = make_task(tiny_recipe(optim__ema=0.75))
    task.optimizer_step(0, 0, Mock())
    name = next(n for n, _ in task.net.named_buffers() if n.endswith("running_mean"))
    task.net.get_buffer(name).fill_(4.0)
    task.optimizer_step(0, 1, Mock())
    assert task.best_net.get_buffer(name).flatten()[0].item() == pytest.approx(1.0)


def test_validation_looks_at_the_averaged_weights(tiny_recipe: Callable[..., Recipe]) -> None:
    task = make_task(tiny_recipe(optim__ema=0.9)).eval()
    with torch.no_grad():
        task.net.head.bias.fill_(100.0)  # says salt everywhere
        task.best_net.head.bias.fill_(-100.0)  # type: ignore[union-attr]
        task.validation_step(make_batch(), 0)
    assert task.pop_metrics("val")["val_presence_recall"] == 0.0


def test_without_averaging_the_network_itself_is_kept(tiny_recipe: Callable[..., Recipe]) -> None:
    task = make_task(tiny_recipe())
    assert task.best_net is task.net
    task.optimizer_step(0, 0, Mock())


# --- loss


def test_loss_adds_levels_and_empty_head() -> None:
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    masks = (draw(3, 1, 8, 8) > 0).float()
    masks[1] = 0
    out = Outputs(draw(3, 1, 8, 8), (draw(3, 1, 8, 8), draw(3, 1, 8, 8)), draw(3))
    stage = LossStage(bce=0.5, lovasz=1.0)
    config = LossConfig(stages=(stage,), deep_supervision_weight=0.3, empty_head_weight=0.2)
    assert out.salt_logits is not None
    wanted = (
        combined_loss(out.logits, masks, stage, config)
        + 0.3 * F.binary_cross_entropy_with_logits(out.aux_logits[0], masks)
        + 0.3 * F.binary_cross_entropy_with_logits(out.aux_logits[1], masks)
        + 0.2 * F.binary_cross_entropy_with_logits(out.salt_logits, torch.tensor([1.0, 0.0, 1.0]))
    )
    torch.testing.assert_close(total_loss(out, masks, stage, config), wanted)
    plain = total_loss(Outputs(out.logits), masks, stage, config)
    torch.testing.assert_close(plain, combined_loss(out.logits, masks, stage, config))


def test_loss_follows_the_stage_of_the_epoch(tiny_recipe: Callable[..., Recipe]) -> None:
    stages = [{"bce": 1.0}, {"from_epoch": 2, "dice": 1.0}]
    task = make_task(tiny_recipe(loss__stages=stages)).eval()
    batch, losses = make_batch(), []
    for epoch in (0, 1, 2):
        task.trainer = trainer_stub(current_epoch=epoch)
        losses.append(task.training_step(batch, 0).item())
    logits = task.net(batch.images)
    bce = F.binary_cross_entropy_with_logits(logits, batch.masks).item()
    assert losses[0] == losses[1] == pytest.approx(bce)
    assert losses[2] != pytest.approx(bce)


def test_metrics_score_the_final_answer(tiny_recipe: Callable[..., Recipe]) -> None:
    task = make_task(tiny_recipe(model__empty_head=True)).eval()
    assert task.net.salt_head is not None
    with torch.no_grad():
        task.net.head.bias.fill_(50.0)  # every pixel is salt
        task.net.salt_head.bias.fill_(-50.0)  # but no tile has any
        batch = make_batch()
        task.validation_step(batch._replace(masks=torch.zeros_like(batch.masks)), 0)
    assert task.pop_metrics("val")["val_score"] == 1.0


def test_metrics_are_those_of_the_epoch_alone(tiny_recipe: Callable[..., Recipe]) -> None:
    task = make_task(tiny_recipe()).eval()
    assert task.pop_metrics("train") == {}
    first = task.training_step(make_batch(4), 0).item()
    second = task.training_step(make_batch(2), 1).item()
    row = task.pop_metrics("train")
    assert row["train_loss"] == pytest.approx((4 * first + 2 * second) / 6)
    assert {"train_score", "train_iou", "train_accuracy"} <= set(row)
    assert task.pop_metrics("train") == {}


# --- what goes wrong


def trainer_stub(**state: Any) -> Any:
    tiles = SimpleNamespace(ids=("alpha", "beta", "gamma", "delta"))
    known = {"current_epoch": 0, "global_step": 0, "global_rank": 0}
    return SimpleNamespace(datamodule=SimpleNamespace(tiles=tiles), **(known | state))


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_lost_loss_names_step_tiles_and_mend(
    tiny_recipe: Callable[..., Recipe], value: float
) -> None:
    task = make_task(tiny_recipe())
    task.trainer = trainer_stub(current_epoch=3, global_step=41)
    batch = make_batch()
    images = torch.full_like(batch.images, value)
    with pytest.raises(TrainingError) as caught:
        task.training_step(batch._replace(images=images, places=torch.tensor([2, 0, 1, 3])), 0)
    text = str(caught.value)
    assert text.startswith("the loss is nan")
    assert "epoch 4, step 41, tiles gamma, alpha, beta, delta" in text
    assert "Lower optim.lr" in text


def test_lost_loss_of_an_epoch_is_found_where_steps_are_not_looked_at(
    tiny_recipe: Callable[..., Recipe], monkeypatch: pytest.MonkeyPatch
) -> None:
    task = make_task(tiny_recipe())
    monkeypatch.setattr(task, "_check_finite", lambda *_: None)  # as between looks on a GPU
    batch = make_batch()
    task.training_step(batch, 0)
    task.training_step(batch._replace(images=batch.images * math.nan), 1)
    task.training_step(batch, 2)
    with pytest.raises(TrainingError, match="epoch 1, train"):
        task.pop_metrics("train")


# --- randomness, precision, compilation


def test_dropout_is_seeded_by_step_and_process(tiny_recipe: Callable[..., Recipe]) -> None:
    task = make_task(tiny_recipe())

    def drawn(**state: int) -> float:
        task.trainer = trainer_stub(**state)
        task.on_train_batch_start(make_batch(), 0)
        return torch.rand(1).item()

    values = [drawn(), drawn(global_step=1), drawn(global_rank=1)]
    assert len(set(values)) == 3
    assert drawn(global_step=1) == values[1]


def test_both_networks_get_the_precision(tiny_recipe: Callable[..., Recipe]) -> None:
    task = make_task(tiny_recipe(optim__ema=0.9, train__precision="bf16"))
    task.on_fit_start()
    assert task.net.autocast_dtype == task.best_net.autocast_dtype == torch.bfloat16


@pytest.mark.parametrize("wanted", [True, False])
def test_compiles_where_asked_to(
    tiny_recipe: Callable[..., Recipe], monkeypatch: pytest.MonkeyPatch, wanted: bool
) -> None:
    compiled: list[nn.Module] = []
    monkeypatch.setattr(nn.Module, "compile", lambda self: compiled.append(self))
    task = make_task(tiny_recipe(train__compile=wanted))
    task.on_fit_start()
    assert compiled == ([task.net.encoder, task.net.decoder] if wanted else [])
