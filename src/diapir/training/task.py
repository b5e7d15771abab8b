"""The training task: what one step computes, which metrics it keeps, how the rate falls."""

import math
from collections.abc import Callable
from typing import Any, Literal

import lightning
import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torchmetrics import MeanMetric

from diapir.config import LossConfig, LossStage, OptimConfig, Recipe
from diapir.data.datamodule import Batch
from diapir.errors import TrainingError
from diapir.metrics.torch_metrics import SaltMetrics
from diapir.models.unet import Outputs, SaltNet
from diapir.training.coarsest import single_pixels_told
from diapir.training.losses import bce, combined_loss
from diapir.training.parameters import parts_with_factors

Stage = Literal["train", "val"]


class SaltTask(lightning.LightningModule):
    """Trains a `SaltNet` by a recipe.

    Args:
        net: The network.
        recipe: Loss, optimiser, precision.
        progress: Returns how much of the training is over, 0..1; the rate follows it.
    """

    def __init__(self, net: SaltNet, recipe: Recipe, progress: Callable[[], float]) -> None:
        super().__init__()
        self.net, self.recipe, self.progress = net, recipe, progress
        self.averaged = _averaged(net, recipe.optim.ema)
        # the default leaves out what is no number, which here must be seen
        self.train_loss = MeanMetric(nan_strategy="disable")
        self.val_loss = MeanMetric(nan_strategy="disable")
        self.train_metrics, self.val_metrics = SaltMetrics(), SaltMetrics()

    @property
    def best_net(self) -> SaltNet:
        """The network that validates: averaged weights where the recipe averages them."""
        return self.net if self.averaged is None else self.averaged.module  # type: ignore[return-value]

    def on_fit_start(self) -> None:
        """Choose the precision for the device that Lightning has picked."""
        for net in {self.net, self.best_net}:
            net.set_precision(self.recipe.train.precision, self.device.type)
        if self.recipe.train.compile:
            self.net.encoder.compile()
            self.net.decoder.compile()

    def on_train_epoch_start(self) -> None:
        """Choose the tile size."""
        first = self.recipe.train.small_first
        small = first is not None and self.progress() < first.until_progress
        for net in (self.net, self.best_net):
            net.resize_to = first.resize_to if first and small else net.config.resize_to

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Seed dropout by step and process, so that a resumed training draws the same."""
        place = (self.recipe.train.seed, self.global_step, self.global_rank)
        torch.manual_seed(hash(place) & 0x7FFFFFFF)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the loss of a batch."""
        with single_pixels_told(
            "a step of one tile",
            where=f"epoch {self.current_epoch + 1}, tiles of {batch.images.shape[-1]} pixels",
            mend="Give train.batch_size 2 or more, more tiles, or a larger model.resize_to.",
        ):
            outputs = self.net.forward_all(batch.images, batch.z_feet)
        return self._step(batch, outputs, "train")

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Score a batch with the weights that would be kept."""
        outputs = self.best_net.forward_all(batch.images, batch.z_feet)
        self._step(batch, outputs, "val")

    def _step(self, batch: Batch, outputs: Outputs, stage: Stage) -> Tensor:
        weights = self.recipe.loss.stage_at(self.current_epoch, self.progress())
        loss = total_loss(outputs, batch.masks, weights, self.recipe.loss)
        if batch.taught is not None:
            loss = loss + self.recipe.distill.weight * bce(outputs.logits, batch.taught)
        self._check_finite(loss, batch)
        mean, metrics = self._meters(stage)
        mean.update(loss.detach().expand(len(batch.images)))  # 'disable' ignores weights, too
        metrics.update(outputs.final_logits.detach() > 0, batch.masks)
        return loss

    def _meters(self, stage: Stage) -> tuple[MeanMetric, SaltMetrics]:
        if stage == "train":
            return self.train_loss, self.train_metrics
        return self.val_loss, self.val_metrics

    def _check_finite(self, loss: Tensor, batch: Batch) -> None:
        # asking a GPU for the value waits for it, so there only now and then
        if self.device.type != "cpu" and self.global_step % 50:
            return
        if not torch.isfinite(loss):
            ids = self.trainer.datamodule.tiles.ids  # type: ignore[attr-defined]
            names = ", ".join(ids[place] for place in batch.places.tolist())
            step = f"epoch {self.current_epoch + 1}, step {self.global_step}"
            raise _not_finite(loss, f"{step}, tiles {names}")

    def pop_metrics(self, stage: Stage) -> dict[str, float]:
        """Return the epoch's loss and metrics over all processes, and start anew.

        Empty where no batch of this stage was seen.

        Raises:
            TrainingError: The loss is no longer a number.
        """
        mean, metrics = self._meters(stage)
        if not mean.update_called:
            return {}
        values = {"loss": mean.compute(), **metrics.compute()}
        mean.reset()
        metrics.reset()
        if not torch.isfinite(values["loss"]):
            raise _not_finite(values["loss"], f"epoch {self.current_epoch + 1}, {stage}")
        return {f"{stage}_{name}": float(value) for name, value in values.items()}

    def on_validation_epoch_end(self) -> None:
        """Let the plateau schedule see the score; Lightning would do so after the checkpoint."""
        scheduler = self.lr_schedulers()
        if isinstance(scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau):
            scheduler.step(float(self.val_metrics.compute()["score"]))

    def lr_scheduler_step(self, scheduler: Any, metric: Any) -> None:
        """Step the schedules that follow the number of steps."""
        if not isinstance(scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau):
            scheduler.step()

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Step, and move the averaged weights: what looks after a step sees them moved."""
        super().optimizer_step(*args, **kwargs)
        if self.averaged is not None:
            self.averaged.update_parameters(self.net)

    def configure_optimizers(self) -> Any:
        """Return the optimiser and its schedule."""
        config = self.recipe.optim
        optimizer = _optimizer(self.net, config)
        if config.schedule == "plateau":
            return [optimizer], [_plateau(optimizer, config)]
        cycles = self.recipe.snapshots.cycles
        scheduler = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda _: rate_factor(config, self.progress(), cycles)
        )
        return [optimizer], [{"scheduler": scheduler, "interval": "step"}]


def _not_finite(loss: Tensor, where: str) -> TrainingError:
    return TrainingError(
        f"the loss is {loss.item()}",
        where=where,
        mend="Lower optim.lr, set optim.clip_norm, or train.precision = 'float32'.",
    )


def total_loss(outputs: Outputs, masks: Tensor, weights: LossStage, config: LossConfig) -> Tensor:
    """Return the loss of every output, weighed: pixels, coarser levels, and the empty-tile head.

    Args:
        outputs: Of the network.
        masks: (B, 1, H, W) float of 0 and 1.
        weights: Of the losses in this epoch.
        config: Weights of the auxiliary outputs.
    """
    loss = combined_loss(outputs.logits, masks, weights, config)
    for logits in outputs.aux_logits:
        loss = loss + config.deep_supervision_weight * bce(logits, masks)
    if outputs.salt_logits is not None:
        has_salt = masks.amax(dim=(1, 2, 3))
        loss = loss + config.empty_head_weight * (
            torch.nn.functional.binary_cross_entropy_with_logits(outputs.salt_logits, has_salt)
        )
    return loss


def rate_factor(config: OptimConfig, progress: float, cycles: int = 1) -> float:
    """Return the learning rate over `config.lr` when a share of the training is over.

    Args:
        config: Schedule and its ends.
        progress: Share that is over, 0..1.
        cycles: How often the schedule is run through.

    Source:
        Restarts: Loshchilov and Hutter 2017, arXiv 1608.03983; snapshots of them: Huang et al.
        2017, arXiv 1704.00109.

    >>> config = OptimConfig(schedule="cosine", lr=1e-3, min_lr=1e-4)
    >>> rate_factor(config, 1.0), rate_factor(config, 0.5, cycles=2)
    (0.1, 1.0)
    """
    if progress < 1:
        progress = progress * cycles % 1
    floor = min(config.min_lr / config.lr, 1.0)
    if config.schedule == "one-cycle" and progress < config.warmup:
        start = 0.04  # a 25th of the peak, as in Smith and Topin 2017, arXiv 1708.07120
        return start + (1 - start) * progress / config.warmup
    if config.schedule == "one-cycle":
        progress = (progress - config.warmup) / (1 - config.warmup)
    if config.schedule in ("one-cycle", "cosine"):
        return floor + (1 - floor) * (1 + math.cos(math.pi * min(progress, 1.0))) / 2
    return 1.0


def _averaged(net: SaltNet, decay: float | None) -> AveragedModel | None:
    if decay is None:
        return None
    averaged = AveragedModel(net, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True)  # type: ignore[no-untyped-call]
    return averaged.requires_grad_(False).eval()


def _optimizer(net: SaltNet, config: OptimConfig) -> torch.optim.Optimizer:
    """Return Adam or AdamW; weights decay, biases and batch-norm factors do not."""
    groups: list[dict[str, Any]] = []
    for part, factor in parts_with_factors(net, config.encoder_lr_factor):
        for decays in (True, False):
            chosen = [p for p in part if (p.ndim > 1) == decays]
            decay = config.weight_decay if decays else 0.0
            if chosen:
                groups.append({"params": chosen, "lr": config.lr * factor, "weight_decay": decay})
    cls = torch.optim.AdamW if config.name == "adamw" else torch.optim.Adam
    return cls(groups, fused=True)


def _plateau(optimizer: torch.optim.Optimizer, config: OptimConfig) -> dict[str, Any]:
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(
        optimizer,
        mode="max",
        factor=config.plateau_factor,
        patience=config.plateau_patience,
        min_lr=[config.min_lr * group["lr"] / config.lr for group in optimizer.param_groups],
    )
    # the task steps it itself; it is listed so that checkpoints hold it
    never = 10**9
    return {"scheduler": scheduler, "interval": "epoch", "monitor": "val_score", "frequency": never}
