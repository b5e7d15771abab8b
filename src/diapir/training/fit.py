"""One training from tiles and a recipe to the best network, kept in a run folder."""

import logging
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from safetensors.torch import load_file

from diapir.config import Recipe
from diapir.data.datamodule import TileDataModule
from diapir.data.splits import Split
from diapir.errors import RunError
from diapir.io.tiles import Tiles
from diapir.models.unet import SaltNet
from diapir.training.callbacks import (
    BEST_FILE,
    Clock,
    Interrupted,
    Journal,
    Pace,
    ProgressBar,
    StopOnSignal,
)
from diapir.training.task import SaltTask

LAST_CHECKPOINT = "checkpoints/last.ckpt"


@dataclass(frozen=True)
class FitResult:
    """What a training leaves.

    Args:
        net: The network with the weights of the chosen epoch, in evaluation mode, on the CPU.
        history: A row an epoch: epoch, lr, train_* and val_* metrics, seconds.
        best_epoch: Counted from 0.
        seconds: Wall time, resumed parts added up.
        interrupted: Number of the signal that ended it early, if one did.
    """

    net: SaltNet
    history: list[dict[str, float]]
    best_epoch: int
    seconds: float
    interrupted: int | None


def fit(
    tiles: Tiles,
    split: Split,
    recipe: Recipe,
    run: Path,
    *,
    resume: bool = False,
    accelerator: str = "auto",
    devices: int | str = "auto",
    num_nodes: int = 1,
    progress: bool = True,
) -> FitResult:
    """Return the network trained on one split.

    Args:
        tiles: Labelled tiles.
        split: Which train and which validate.
        recipe: Everything else.
        run: Folder for checkpoints, history and logs; must exist.
        resume: Go on from the last checkpoint of this folder.
        accelerator: Lightning's: 'auto', 'cpu', 'gpu'.
        devices: Lightning's: processes on a CPU, cards on a GPU machine.
        num_nodes: Machines that train together.
        progress: Show a bar.

    Raises:
        RunError: There is nothing to resume, or the training was interrupted before an epoch ended.
        TrainingError: The loss is no longer a number.
    """
    _quieten()
    lightning.seed_everything(recipe.train.seed, verbose=False)
    checkpoint = _checkpoint_to_resume(run) if resume else None
    clock = Clock(recipe.train.max_minutes)
    journal = Journal(run, recipe.train, clock)
    task = SaltTask(SaltNet(recipe.model), recipe, clock.progress)
    trainer = _trainer(recipe, run, clock, journal, accelerator, devices, num_nodes, progress)
    interrupted = None
    try:
        trainer.fit(
            task,
            datamodule=TileDataModule(tiles, split, recipe),
            ckpt_path=checkpoint,
            weights_only=True if checkpoint else None,
        )
    except Interrupted as signal:
        interrupted = signal.number
    return FitResult(
        net=_best_net(task, run),
        history=journal.rows,
        best_epoch=journal.best_epoch,
        seconds=clock.seconds,
        interrupted=interrupted,
    )


def _trainer(
    recipe: Recipe,
    run: Path,
    clock: Clock,
    journal: Journal,
    accelerator: str,
    devices: int | str,
    num_nodes: int,
    progress: bool,
) -> lightning.Trainer:
    callbacks: list[Any] = [Pace(clock), journal]
    if progress:
        callbacks.append(ProgressBar(journal, clock))
    callbacks += [StopOnSignal(), _last_checkpoint(run)]
    on_one_cpu = accelerator == "cpu" or not _has_gpu()
    return lightning.Trainer(
        accelerator=accelerator,
        devices=1 if on_one_cpu and devices == "auto" else devices,
        num_nodes=num_nodes,
        precision="32-true",  # the network chooses the precision of its parts itself
        max_epochs=recipe.train.epochs,
        check_val_every_n_epoch=recipe.train.validate_every,
        gradient_clip_val=recipe.optim.clip_norm,
        deterministic=recipe.train.deterministic,
        use_distributed_sampler=False,
        callbacks=callbacks,
        logger=[TensorBoardLogger(run, name="logs", version="")],
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        log_every_n_steps=10**9,
    )


def _last_checkpoint(run: Path) -> ModelCheckpoint:
    return ModelCheckpoint(
        dirpath=run / "checkpoints",
        filename="last",
        save_top_k=1,
        every_n_epochs=1,
        save_on_train_epoch_end=True,
        enable_version_counter=False,
    )


def _checkpoint_to_resume(run: Path) -> str:
    checkpoint = run / LAST_CHECKPOINT
    if not checkpoint.is_file():
        raise RunError(
            "there is no checkpoint to go on from",
            where=run,
            expected=LAST_CHECKPOINT,
            mend="Give the folder of a run that ended at least one epoch, or train anew.",
        )
    return str(checkpoint)


def _best_net(task: SaltTask, run: Path) -> SaltNet:
    if not (run / BEST_FILE).is_file():
        raise RunError(
            "the training ended before its first epoch, so there is no model",
            where=run,
            mend="Train again and let it run for longer.",
        )
    net = task.net.cpu()
    net.load_state_dict(load_file(run / BEST_FILE))
    return net.eval()


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def _quieten() -> None:
    """Silence Lightning's advertisements and hints that do not fit data held in memory."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    for pattern in (".*does not have many workers.*", ".*`isinstance.treespec.*", ".*LeafSpec.*"):
        warnings.filterwarnings("ignore", pattern)
    warnings.filterwarnings("ignore", ".*lr_scheduler.step.*", UserWarning)
    warnings.filterwarnings("ignore", ".*Checkpoint directory .* exists.*")
