"""What happens around the steps: the history of epochs, the best weights, progress, signals."""

import csv
import io
import os
import signal
import stat
import threading
import time
from pathlib import Path
from typing import Any, Self

import lightning
import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from safetensors.torch import save

from diapir.config import TrainConfig
from diapir.errors import RunError, TrainingError
from diapir.io.atomic import write_bytes_atomic, write_text_atomic
from diapir.training.task import SaltTask

HISTORY_FILE = "history.csv"
BEST_FILE = "checkpoints/best.safetensors"
SNAPSHOT_FILE = "checkpoints/snapshot-{}.safetensors"


_EPOCH_SCORES = "Scores of epochs are at threshold 0.5, those at the end at the chosen one."
"""Why the lines of epochs and the table at the end differ."""


class Interrupted(Exception):  # noqa: N818  # it is no error
    """The user or the system asked the training to end.

    Args:
        number: Of the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(f"interrupted by {signal.Signals(number).name}")
        self.number = number


class Clock:
    """How much of the training is over, by steps and, where there is a limit, by time."""

    def __init__(self, max_minutes: float | None) -> None:
        self.limit_seconds = None if max_minutes is None else 60 * max_minutes
        self.total_steps = 1
        self.step = 0
        self.elapsed = 0.0  # seconds after the last step, the same in all processes
        self.started = time.monotonic()

    @property
    def seconds(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self.started

    def progress(self) -> float:
        """Return the share that is over, 0..1."""
        by_steps = self.step / self.total_steps
        by_time = self.elapsed / self.limit_seconds if self.limit_seconds else 0.0
        return min(max(by_steps, by_time), 1.0)


def _largest(trainer: lightning.Trainer, *values: float) -> list[float]:
    """Return the largest that any process has of each value, so that all decide alike."""
    if trainer.world_size == 1:
        return list(values)
    mine = torch.tensor(values, dtype=torch.float32, device=trainer.strategy.root_device)
    found: list[float] = trainer.strategy.reduce(mine, reduce_op="max").tolist()
    return found


class EpochHistory(lightning.Callback):
    """Writes a row an epoch to `history.csv`, keeps the best weights, stops when nothing improves.

    As long as there is no score, the last weights count as the best. Epochs count from 1, here and
    wherever they are shown; 0 stands for none.

    Args:
        run: The run folder.
        config: Which epoch is kept, and how patient to be.
        clock: Measures the seconds of each row.
    """

    def __init__(self, run: Path, config: TrainConfig, clock: Clock) -> None:
        self.run, self.config, self.clock = run, config, clock
        self.rows: list[dict[str, float]] = []
        self.steps = 0  # of an epoch
        self.kept_epoch = 0
        self.best_epoch, self.best_score = 0, -1.0

    @property
    def state_key(self) -> str:
        """Name of its state in a checkpoint, whatever the class is called.

        Lightning takes the name of the class, and passes over a state under any other: a training
        that is resumed would begin a new history. This is what the class was called at first.
        """
        return "Journal"

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        """Close the epoch: read the metrics, write the row, keep the weights."""
        row: dict[str, float] = {"epoch": trainer.current_epoch + 1}
        row |= {"lr": max(group["lr"] for group in trainer.optimizers[0].param_groups)}
        row |= pl_module.pop_metrics("train") | pl_module.pop_metrics("val")
        row["progress"] = round(self.clock.progress(), 4)
        row["seconds"] = round(self.clock.seconds, 2)
        self.rows.append(row)
        for logger in trainer.loggers:
            logger.log_metrics(row, trainer.current_epoch + 1)
        self._keep(trainer, pl_module, row)

    def _keep(self, trainer: lightning.Trainer, task: SaltTask, row: dict[str, float]) -> None:
        score, epoch = row.get("val_score"), trainer.current_epoch + 1
        better = score is not None and score > self.best_score
        if score is not None and better:
            self.best_epoch, self.best_score = epoch, score
        if better or self.config.select == "last" or self.best_epoch == 0:
            if trainer.is_global_zero:
                _write_weights(self.run / BEST_FILE, task)
            self.kept_epoch = epoch
        if trainer.is_global_zero:
            write_text_atomic(self.run / HISTORY_FILE, _as_csv(self.rows))
        self._stop_if_patience_is_over(trainer)

    def on_train_start(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        """Leave a training alone that is resumed but had ended.

        Raises:
            RunError: It had other steps, so that its schedule would be another.
        """
        steps = int(trainer.num_training_batches)
        if self.steps not in (0, steps):
            raise RunError(
                f"an epoch of this run had {self.steps} steps, and would have {steps} now",
                where=self.run,
                expected="as many processes as when it began, or its schedule would be another",
                mend="Give --devices and --num-nodes as then.",
            )
        self.steps = steps
        self._stop_if_patience_is_over(trainer)

    def _stop_if_patience_is_over(self, trainer: lightning.Trainer) -> None:
        patience = self.config.early_stopping
        if patience is None or not self.rows or "val_score" not in self.rows[-1]:
            return
        if self.rows[-1]["epoch"] - self.best_epoch >= patience:
            trainer.should_stop = True

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed training must know."""
        return {
            "rows": self.rows,
            "steps": self.steps,
            "kept_epoch": self.kept_epoch,
            "best_epoch": self.best_epoch,
            "best_score": self.best_score,
            "seconds": self.clock.seconds,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up the history of the training that is resumed."""
        self.rows = list(state_dict["rows"])
        self.steps = int(state_dict.get("steps", 0))  # 0 of versions that did not note it
        self.kept_epoch = state_dict["kept_epoch"]
        self.best_epoch, self.best_score = state_dict["best_epoch"], state_dict["best_score"]
        self.clock.started = time.monotonic() - state_dict["seconds"]


class Snapshots(lightning.Callback):
    """Keeps the weights with which each cycle of the rate ends; `EpochHistory` keeps the last ones.

    Args:
        run: The run folder.
        cycles: Of the whole training.
        clock: Says where it is.
    """

    def __init__(self, run: Path, cycles: int, clock: Clock) -> None:
        self.run, self.cycles, self.clock = run, cycles, clock
        self.ended = 0

    def on_train_batch_end(self, trainer: lightning.Trainer, pl_module: Any, *args: Any) -> None:
        """Write the weights after the last step of a cycle."""
        ended = min(int(self.clock.progress() * self.cycles), self.cycles - 1)
        if ended == self.ended:
            return
        self.ended = ended
        path = self.run / SNAPSHOT_FILE.format(ended)
        # a resumed training is past cycles whose weights are there
        if trainer.is_global_zero and not path.exists():
            _write_weights(path, pl_module)


def _write_weights(path: Path, task: SaltTask) -> None:
    state = {name: value.contiguous().cpu() for name, value in task.best_net.state_dict().items()}
    for name, value in state.items():  # a loss of before the last step does not show it
        if not torch.isfinite(value).all():
            raise TrainingError(
                f"the weights are no longer numbers, first {name}",
                where=f"epoch {task.current_epoch + 1}, after step {task.global_step}",
                mend="Lower optim.lr, set optim.clip_norm, or train.precision = 'float32'.",
            )
    write_bytes_atomic(path, save(state))


class Pace(lightning.Callback):
    """Tells the clock every step and ends the training when its time is over.

    Args:
        clock: Is told of every step.
        validates: Whether there are tiles to validate on, for which time must be left.
    """

    def __init__(self, clock: Clock, *, validates: bool) -> None:
        self.clock = clock
        self.validation_seconds = None if validates else 0.0

    def on_train_start(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        """Take the number of steps from Lightning."""
        self.clock.total_steps = max(int(trainer.estimated_stepping_batches), 1)
        self.clock.step = trainer.global_step
        if self.clock.step:  # a resumed training may have had its time; a new one gets a step
            self._stop_if_time_is_over(trainer)

    def on_train_epoch_start(self, trainer: lightning.Trainer, *args: Any) -> None:
        """Validate after the last epoch whatever `train.validate_every` is."""
        if trainer.current_epoch + 1 == trainer.max_epochs:
            trainer.check_val_every_n_epoch = 1

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        """Count the step before the schedule asks."""
        self.clock.step = trainer.global_step + 1

    def on_train_batch_end(self, trainer: lightning.Trainer, *args: Any) -> None:
        """Stop early enough to validate once more within the limit."""
        self._stop_if_time_is_over(trainer)

    def _stop_if_time_is_over(self, trainer: lightning.Trainer) -> None:
        limit = self.clock.limit_seconds
        if limit is None:
            return
        reserve = 0.05 * limit if self.validation_seconds is None else self.validation_seconds
        now = self.clock.seconds
        self.clock.elapsed, end = _largest(trainer, now, now + 1.1 * reserve)
        if end >= limit:
            trainer.should_stop = True
            trainer.check_val_every_n_epoch = 1  # for which there is time left

    def on_validation_start(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        """Start to measure a validation."""
        self.validation_seconds = -self.clock.seconds

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        """Remember how long a validation takes."""
        self.validation_seconds = (self.validation_seconds or 0.0) + self.clock.seconds


class ProgressBar(lightning.Callback):
    """One bar for the whole training with loss, score, time gone and left; a line an epoch."""

    def __init__(self, history: EpochHistory, clock: Clock) -> None:
        self.history, self.clock = history, clock
        self.loss = float("nan")
        self.bar = Progress(
            TextColumn("{task.percentage:>3.0f} %"),
            BarColumn(bar_width=None),  # what is left of the line, so that 80 columns hold it
            TextColumn("{task.fields[status]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            speed_estimate_period=120,
            expand=True,
        )
        self.task = self.bar.add_task("training", total=1.0, status="")

    def on_train_start(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        """Show the bar."""
        if trainer.is_global_zero:
            self.bar.start()
            self.bar.console.print(_EPOCH_SCORES, highlight=False, soft_wrap=True)

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: Any, outputs: Any, *args: Any
    ) -> None:
        """Move the bar."""
        if trainer.global_step % 5:
            return
        loss = float(outputs["loss"])
        self.loss = loss if self.loss != self.loss else 0.9 * self.loss + 0.1 * loss
        epoch = f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}"
        status = f"{epoch}  loss {self.loss:.3f}{self._best()}"
        self.bar.update(self.task, completed=self.clock.progress(), status=status)

    def _best(self) -> str:
        return f"  best {self.history.best_score:.3f}" if self.history.best_epoch > 0 else ""

    def on_fit_end(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        """Leave the full bar on the screen, with what the training came to."""
        self._show_end(trainer)
        self.bar.update(self.task, completed=1.0)
        self.bar.stop()

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Leave the bar where it was so that the message can be read."""
        self._show_end(trainer)
        self.bar.stop()

    def _show_end(self, trainer: lightning.Trainer) -> None:
        best = self._best() and f"{self._best()} (epoch {self.history.best_epoch})"
        status = f"{len(self.history.rows)} of {trainer.max_epochs} epochs{best}"
        self.bar.update(self.task, status=status)

    def print_row(self, row: dict[str, float]) -> None:
        """Print an epoch above the bar."""
        parts = [f"epoch {int(row['epoch']):>3}"]
        for stage in ("train", "val"):
            if f"{stage}_loss" in row:
                loss, score = row[f"{stage}_loss"], row[f"{stage}_score"]
                parts.append(f"{stage} loss {loss:.3f} score {score:.3f}")
        parts.append(f"{row['seconds']:.0f} s")
        self.bar.console.print("  ".join(parts), highlight=False, soft_wrap=True)

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        """Print the epoch; `EpochHistory` has run before."""
        if trainer.is_global_zero and self.history.rows:
            self.print_row(self.history.rows[-1])


class StopOnSignal(lightning.Callback):
    """Ends the training after the step in hand: at Ctrl-C, SIGTERM, or when its terminal closes.

    Listens inside its `with` block. All processes of a training end after the same step, whichever
    of them got the signal. What `nohup` has made immune to a closing terminal stays so.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self.previous: dict[int, Any] = {}

    def __enter__(self) -> Self:
        # Python lets only the main thread handle signals
        if threading.current_thread() is threading.main_thread():
            self.previous = {n: signal.signal(n, self._note) for n in _ending_signals()}
        return self

    def __exit__(self, *args: object) -> None:
        for number, handler in self.previous.items():
            signal.signal(number, handler)

    def on_train_batch_end(self, trainer: lightning.Trainer, *args: Any) -> None:
        """End here if any process was asked to."""
        on_cpu = trainer.strategy.root_device.type == "cpu"
        if trainer.world_size > 1 and not on_cpu and trainer.global_step % 10:
            return  # asking all cards at every step would make them wait
        (number,) = _largest(trainer, self.received or 0)
        if number:
            self.received = int(number)
            raise Interrupted(self.received)

    def on_validation_batch_end(self, trainer: lightning.Trainer, *args: Any) -> None:
        """End here if asked to; processes may have unequal numbers of batches, so only if alone."""
        if self.received is not None and trainer.world_size == 1:
            raise Interrupted(self.received)

    def _note(self, number: int, frame: Any) -> None:
        if number == _HANGUP:
            _leave_terminal()
        if self.received is not None:  # asked twice: at once
            raise Interrupted(number)
        self.received = number


# that of a closed terminal; Windows has none
_HANGUP = getattr(signal, "SIGHUP", None)


def _ending_signals() -> list[int]:
    numbers = [signal.SIGINT, signal.SIGTERM]
    if _HANGUP is not None and signal.getsignal(_HANGUP) != signal.SIG_IGN:
        numbers.append(_HANGUP)
    return [int(number) for number in numbers]


def _leave_terminal() -> None:
    # what is still to be said would fail, and with it the saving of the model
    with Path(os.devnull).open("w") as nowhere:
        for stream in (1, 2):
            if stat.S_ISCHR(os.fstat(stream).st_mode):  # no isatty any more
                os.dup2(nowhere.fileno(), stream)


def _as_csv(rows: list[dict[str, float]]) -> str:
    names = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
