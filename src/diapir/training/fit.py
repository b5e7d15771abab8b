"""One training from tiles and a recipe to the best network, kept in a run folder."""

import logging
import signal
import traceback
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities.exceptions import SIGTERMException
from numpy.typing import NDArray
from torch import Tensor

from diapir.config import Recipe
from diapir.data.datamodule import TileDataModule
from diapir.data.splits import Split
from diapir.errors import RunError, TrainingError, signal_exit_code
from diapir.io.tiles import Tiles
from diapir.models.memory import is_out_of_memory
from diapir.models.unet import SaltNet
from diapir.training.callbacks import (
    BEST_FILE,
    SNAPSHOT_FILE,
    Clock,
    EpochHistory,
    Interrupted,
    Pace,
    ProgressBar,
    Snapshots,
    StopOnSignal,
)
from diapir.training.checkpoints import WholeCheckpoints, checkpoint_to_resume, load_best
from diapir.training.hardware import ANY_HARDWARE, Hardware
from diapir.training.task import SaltTask
from diapir.training.watch import Divergence, out_of_memory


@dataclass(frozen=True)
class FitResult:
    """What a training leaves.

    Args:
        net: The network with the weights of the chosen epoch, in evaluation mode, on the CPU; in
            the processes beside the first one, that of the last step.
        snapshots: The networks of earlier cycles of the rate, oldest first, as `net` is.
        history: A row an epoch: epoch, lr, train_* and val_* metrics, progress (the share
            of the training that is over), seconds.
        best_epoch: Counted from 1, as in the history.
        seconds: Wall time, resumed parts added up.
        interrupted: Number of the signal that ended it early, if one did.
        failure: What ended it, where the weights of an earlier epoch are good.
    """

    net: SaltNet
    snapshots: list[SaltNet]
    history: list[dict[str, float]]
    best_epoch: int
    seconds: float
    interrupted: int | None
    failure: TrainingError | None = None


def fit(
    tiles: Tiles,
    split: Split,
    recipe: Recipe,
    run: Path,
    *,
    taught: NDArray[np.uint8] | None = None,
    start: dict[str, Tensor] | None = None,
    resume: bool = False,
    hardware: Hardware = ANY_HARDWARE,
    callbacks: Sequence[lightning.Callback] = (),
) -> FitResult:
    """Return the network trained on one split.

    Args:
        tiles: Labelled tiles.
        split: Which train and which validate.
        recipe: Everything else.
        run: Folder for checkpoints, history and logs; must exist.
        taught: (N, H, W) uint8 probabilities of all tiles times 255, from the recipe's teachers.
        start: Weights of the whole network to begin with, in place of the recipe's encoder weights.
        resume: Go on from the last checkpoint of this folder.
        hardware: Where to train.
        callbacks: Yours, which Lightning calls after Diapir's own.

    Raises:
        RunError: There is nothing to resume, the hardware is not there, or the training was
            interrupted before an epoch ended.
        TrainingError: The loss is no longer a number in the first epoch, or the device's memory
            is not enough.
    """
    checkpoint = checkpoint_to_resume(run) if resume else None
    clock = Clock(recipe.train.max_minutes)
    history, stop = EpochHistory(run, recipe.train, clock), StopOnSignal()
    pace = Pace(clock, validates=len(split.val) > 0)
    own: list[Any] = [pace, history, Snapshots(run, recipe.snapshots.cycles, clock)]
    own += [ProgressBar(history, clock)] if hardware.progress else []
    own += [Divergence(lambda: history.rows), stop, _last_checkpoint(run)]
    with _quiet(), stop:
        try:
            lightning.seed_everything(recipe.train.seed, verbose=False)
            task = SaltTask(_build(recipe, start), recipe, clock.progress)
            trainer = _trainer(recipe, run, [*own, *callbacks], hardware)
        except Interrupted as error:  # asked twice
            raise _ended_too_soon("the training ended before it began", run, error.number) from None
        failure: TrainingError | None = None
        try:
            with suppress(Interrupted):  # `stop` knows
                trainer.fit(
                    task,
                    datamodule=TileDataModule(tiles, split, recipe, taught),
                    ckpt_path=checkpoint,
                    weights_only=True if checkpoint else None,
                )
        except SIGTERMException:
            # Lightning's own answer, where it looks before `stop` does; it would end with code 0
            stop.received = stop.received or int(signal.SIGTERM)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            device, size = trainer.strategy.root_device, tiles.images.shape[1:]
            traceback.clear_frames(error.__traceback__)  # they hold what fills the device
            raise out_of_memory(task, (size[0], size[1]), device) from error
        except TrainingError as error:
            if not (run / BEST_FILE).is_file():
                raise
            failure = error
    return FitResult(
        net=_best_net(task, run, stop.received)
        if trainer.is_global_zero
        else task.net.cpu().eval(),
        snapshots=_snapshots(task, run, recipe.snapshots.cycles),
        history=history.rows,
        best_epoch=history.kept_epoch,
        seconds=clock.seconds,
        interrupted=stop.received,
        failure=failure,
    )


def _build(recipe: Recipe, start: dict[str, Tensor] | None) -> SaltNet:
    if start is None:
        return SaltNet(recipe.model)
    net = SaltNet(recipe.model.model_copy(update={"weights": "none"}))
    net.load_state_dict(start)
    return net


def _trainer(
    recipe: Recipe,
    run: Path,
    callbacks: list[Any],
    hardware: Hardware,
) -> lightning.Trainer:
    return _on_hardware(
        hardware,
        precision="32-true",  # the network chooses the precision of its parts itself
        max_epochs=recipe.train.epochs,
        check_val_every_n_epoch=recipe.train.validate_every,
        gradient_clip_val=recipe.optim.clip_norm,
        deterministic=recipe.train.deterministic,
        use_distributed_sampler=False,
        callbacks=callbacks,
        plugins=[WholeCheckpoints()],
        logger=[TensorBoardLogger(run, name="logs", version="")],
        num_sanity_val_steps=0,
        log_every_n_steps=1,  # nothing is logged by steps; a larger one draws a warning
    )


def check_hardware(hardware: Hardware) -> None:
    """Refuse hardware that is not there, before anything is made for a training on it.

    Args:
        hardware: As of `fit`.

    Raises:
        RunError: It is not there, or no such thing can be.
    """
    with _quiet():
        _on_hardware(hardware, logger=False, enable_checkpointing=False)


def _on_hardware(hardware: Hardware, **options: Any) -> lightning.Trainer:
    accelerator, devices, nodes = hardware.accelerator, hardware.devices, hardware.num_nodes
    on_one_cpu = accelerator == "cpu" or not torch.cuda.is_available()
    try:
        return lightning.Trainer(
            accelerator=accelerator,
            devices=1 if on_one_cpu and devices == "auto" else devices,
            num_nodes=nodes,
            enable_progress_bar=False,
            enable_model_summary=False,
            **options,
        )
    except (MisconfigurationException, ValueError, TypeError) as error:
        raise RunError(
            f"cannot train on this hardware: {error}",
            where=f"--accelerator {accelerator} --devices {devices} --num-nodes {nodes}",
            mend="Leave these options out, or name devices that this machine has.",
        ) from error


def _last_checkpoint(run: Path) -> ModelCheckpoint:
    return ModelCheckpoint(
        dirpath=run / "checkpoints",
        filename="last",
        save_top_k=1,
        every_n_epochs=1,
        save_on_train_epoch_end=True,
        enable_version_counter=False,
    )


def _best_net(task: SaltTask, run: Path, interrupted: int | None) -> SaltNet:
    if not (run / BEST_FILE).is_file():
        what = "the training ended before its first epoch, so there is no model"
        raise _ended_too_soon(what, run, interrupted)
    return _with_weights(task.net, run / BEST_FILE)


def _ended_too_soon(what: str, run: Path, interrupted: int | None) -> RunError:
    error = RunError(what, where=run, mend="Train again and let it run for longer.")
    if interrupted is not None:
        error.exit_code = signal_exit_code(interrupted)
    return error


def _snapshots(task: SaltTask, run: Path, cycles: int) -> list[SaltNet]:
    paths = [run / SNAPSHOT_FILE.format(number) for number in range(1, cycles)]
    return [_with_weights(deepcopy(task.net), path) for path in paths if path.is_file()]


def _with_weights(net: SaltNet, path: Path) -> SaltNet:
    net = net.cpu()
    load_best(net, path)
    net.resize_to = net.config.resize_to  # a training may end before it reaches this size
    return net.eval()


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence Lightning's advertisements, and its hints that do not fit this training."""
    loggers = [logging.getLogger(f"lightning.{name}") for name in ("pytorch", "fabric")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        for pattern in _UNFIT_HINTS:
            warnings.filterwarnings("ignore", pattern)
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


_UNFIT_HINTS = (
    ".*does not have many workers.*",  # batches are cut from memory
    ".*isinstance.treespec.*",  # torch speaking to Lightning
    ".*LeafSpec.*",
    ".*Checkpoint directory .* exists.*",  # the run folder makes it
    ".*The dirpath has changed.*",  # a run folder may be moved before it is resumed
    r".*Found \d+ module\(s\) in eval mode.*",  # averaged weights and frozen batch norms
    ".*Total length of .*DataLoader.* across ranks is zero.*",  # a split without validation
    ".*lr_scheduler.step.*",  # the plateau schedule is stepped by the task
)
