"""Watches the numbers of a training: losses that run away, and memory that is not enough."""

import sys
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import lightning
import torch

from diapir.errors import TrainingError
from diapir.models.memory import largest_batch
from diapir.training.task import SaltTask, total_loss

_TIMES, _EPOCHS = 2.0, 3


class Divergence(lightning.Callback):
    """Says once, on standard error, that the training loss runs away."""

    def __init__(self, rows: Callable[[], list[dict[str, float]]]) -> None:
        self.rows = rows
        self.said = False

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        """Look at the losses so far; the journal has run before."""
        stages = pl_module.recipe.loss
        rows = [row for row in self.rows() if "train_loss" in row]
        kinds = [stages.stage_at(int(row["epoch"]) - 1, row.get("progress", 0.0)) for row in rows]
        # losses of another kind are no measure of these
        losses = [
            row["train_loss"] for row, kind in zip(rows, kinds, strict=True) if kind == kinds[-1]
        ]
        if not self.said and trainer.is_global_zero and diverges(losses):
            self.said = True
            sys.stderr.write(
                f"warning: the training diverges: its loss rose from {min(losses):.3f} to "
                f"{losses[-1]:.3f}. Lower optim.lr, or set optim.clip_norm.\n"
            )


def diverges(losses: list[float]) -> bool:
    """Return whether a loss has been more than twice its least for three epochs, and rises.

    >>> diverges([1.0, 0.5, 1.1, 1.2, 1.3])
    True
    >>> diverges([1.0, 0.5, 1.1, 1.2, 1.1])
    False
    """
    last = losses[-_EPOCHS:]
    if len(losses) <= _EPOCHS or min(losses) <= 0:
        return False
    rises = all(a < b for a, b in pairwise(last))
    return rises and min(last) > _TIMES * min(losses)


def out_of_memory(task: SaltTask, size: tuple[int, int], device: torch.device) -> TrainingError:
    """Return the error for a device whose memory is full, with the batch size that would fit.

    Smaller batches are tried on the device, each half of the one before, until one goes through.

    Args:
        task: That ran out of memory.
        size: (H, W) of the tiles.
        device: Where it ran.
    """
    batch = task.recipe.train.batch_size
    fits = largest_batch(lambda count: _try_step(task, count, size, device), batch)
    advice = (
        f"Set train.batch_size={fits}, which fits."
        if fits
        else "Not even one tile fits: use a smaller network or model.resize_to."
    )
    return TrainingError(
        f"out of memory on the device with {batch} tiles a step",
        where=str(device),
        mend=advice,
    )


def _try_step(task: SaltTask, count: int, size: tuple[int, int], device: torch.device) -> None:
    """Compute the gradients of a batch, beside what an optimiser keeps."""
    task.to(device).zero_grad()
    try:
        kept = [torch.zeros_like(p) for p in task.parameters() for _ in range(2)]
        images = torch.zeros(count, 1, *size, device=device)
        depths = torch.zeros(count, device=device)
        outputs = task.net.forward_all(images, depths)
        stage = task.recipe.loss.stages[-1]
        total_loss(outputs, images, stage, task.recipe.loss).backward()  # type: ignore[no-untyped-call]
        del kept
    finally:
        task.zero_grad()
        task.cpu()
        if device.type == "cuda":
            torch.cuda.empty_cache()
