"""Trains several runs at the same time, each in a process of its own on its share of the cores."""

import csv
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from diapir.errors import RunError, signal_exit_code
from diapir.progress import counting
from diapir.runs.machine import when_orphaned
from diapir.training.callbacks import HISTORY_FILE, Interrupted, StopOnSignal

_PARENT = "DIAPIR_PARENT"
"""Tells a training the process with which it is to end."""
_SECONDS_BETWEEN_LOOKS = 0.5
_PER_CENT = 100


def train_side_by_side(
    runs: Sequence[Path], data: Path, *, splits: int, threads: int, progress: bool
) -> int | None:
    """Train run folders that hold recipe and split, all at once.

    A small network keeps one core busy, but not two: each of its steps is too short to share.
    Several such trainings, each on its own core, end sooner than one after the other on all.

    Args:
        runs: Folders that `resume_run` can begin or go on with.
        data: Of them all.
        splits: Trainings in each, one a fold.
        threads: That each may use.
        progress: Show one bar for all.

    Returns:
        The signal that ended them early, if one did; each has then saved its best model so far.

    Raises:
        RunError: A training failed; the others were asked to end.
    """
    trainings: list[_Training] = []
    shown = 0
    try:
        what = f"training {len(runs)} networks at once"
        with (
            StopOnSignal() as stop,
            suppress(Interrupted),
            counting(_PER_CENT, what, shown=progress) as advance,
        ):
            trainings += [_start(run, data, threads) for run in runs]
            while any(training.runs() for training in trainings):
                time.sleep(_SECONDS_BETWEEN_LOOKS)
                if stop.received or any(training.failed for training in trainings):
                    for training in trainings:
                        training.end()
                done = sum(training.progress(splits) for training in trainings) / len(trainings)
                advance(int(_PER_CENT * done) - shown)
                shown = int(_PER_CENT * done)
    finally:  # none goes on by itself when Ctrl-C comes twice
        for training in trainings:
            training.process.terminate()
    for training in trainings:
        if training.failed and stop.received is None:
            raise training.error()
    return stop.received


def end_with_parent() -> None:
    """End this training as at Ctrl-C, the best model saved, should what began it be killed."""
    parent = os.environ.pop(_PARENT, "")  # it is not that of processes that start here
    if parent.isdecimal():
        when_orphaned(int(parent), lambda: os.kill(os.getpid(), signal.SIGTERM))


@dataclass
class _Training:
    run: Path
    process: "subprocess.Popen[bytes]"
    said: IO[bytes]
    asked_to_end: bool = False

    def runs(self) -> bool:
        return self.process.poll() is None

    def end(self) -> None:
        if self.runs() and not self.asked_to_end:
            self.asked_to_end = True
            self.process.send_signal(signal.SIGTERM)

    @property
    def failed(self) -> bool:
        by_signal = (signal_exit_code(signal.SIGTERM), -signal.SIGTERM) if self.asked_to_end else ()
        return self.process.poll() not in (None, 0, *by_signal)

    def progress(self, splits: int) -> float:
        done = 0.0
        for file in self.run.glob(f"**/{HISTORY_FILE}"):
            with file.open(encoding="utf-8", newline="") as text:
                done += float([*csv.DictReader(text)][-1]["progress"])
        return done / splits

    def error(self) -> RunError:
        self.said.seek(0)
        told = self.said.read().decode(errors="replace").strip().removeprefix("error: ")
        return RunError(
            f"a training failed: {told or f'exit code {self.process.returncode}'}",
            where=self.run,
            mend="Mend what it says; then go on with 'diapir train --resume'.",
        )


def _start(run: Path, data: Path, threads: int) -> _Training:
    said = tempfile.TemporaryFile()  # noqa: SIM115  its process writes into it to the end
    words = ["train", "--resume", str(run), "--data", str(data), "--quiet"]
    own = {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    own[_PARENT] = str(os.getpid())
    process = subprocess.Popen(  # noqa: S603
        [sys.executable, "-m", "diapir", *words, "--accelerator", "cpu", "--devices", "1"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=said,
        env=os.environ | own,
        start_new_session=True,  # Ctrl-C reaches this process alone, which passes it on once
    )
    return _Training(run, process, said)
