"""One `diapir map` in a process of its own, for benchmarks/volume.py; prints what it took as JSON.

    python benchmarks/volume_child.py '{"source": ..., "out": ..., ...}'

Heavy imports stand below, so that Dask's workers, who import this file as well, load only what they
need.
"""

import json
import os
import sys
import threading
import time
from functools import partial
from pathlib import Path

import numpy as np


class StandIn:
    """In place of a network: grey values as probabilities, as slowly as told, with a log.

    Args:
        log: Gets a byte for every call; None: no log.
        sleep: Seconds a call.
    """

    def __init__(self, log: str | None, sleep: float) -> None:
        self.model_seconds = 0.0
        self._log, self._sleep = log, sleep

    def predict_probs(self, images: np.ndarray) -> np.ndarray:
        """Return (N, H, W) grey values as float32 in 0..1."""
        if self._log is not None:
            file = os.open(self._log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
            os.write(file, b".")
            os.close(file)
        time.sleep(self._sleep)
        return images.astype(np.float32) / np.float32(255)


class PeakMemory:
    """Watches the peak of this process and of those below it, in MiB."""

    def __init__(self) -> None:
        self.workers = 0.0
        self._ended = threading.Event()
        threading.Thread(target=self._watch, daemon=True).start()

    def end(self) -> tuple[float, float]:
        """Return the peaks of this process and of the largest below it."""
        self._ended.set()
        return peak_mib(os.getpid()), self.workers

    def _watch(self) -> None:
        while not self._ended.wait(0.02):
            self.workers = max([self.workers, *map(peak_mib, children(os.getpid()))])


def peak_mib(process: int) -> float:
    """Return the peak resident memory of a process; not getrusage's, which a fork inherits."""
    try:
        text = Path(f"/proc/{process}/status").read_text()
    except OSError:
        return 0.0
    lines = [line for line in text.splitlines() if line.startswith("VmHWM")]
    return int(lines[0].split()[1]) / 1024 if lines else 0.0


def children(process: int) -> list[int]:
    """Return the processes that a process has started."""
    try:
        texts = [p.read_text() for p in Path(f"/proc/{process}/task").glob("*/children")]
    except OSError:
        return []
    return [int(number) for text in texts for number in text.split()]


def map_once(wanted: dict) -> dict:
    """Map as wanted; return seconds and peaks of memory."""
    from diapir.inference.schedule import Workers
    from diapir.inference.sections import SectionSettings, Tiling
    from diapir.runs.map import map_survey
    from diapir.runs.map_result import MapSettings

    model = wanted.get("model")
    stand_in = partial(StandIn, wanted.get("log"), wanted.get("sleep", 0.0))
    memory = PeakMemory()
    began = time.perf_counter()
    result = map_survey(
        Path(wanted["source"]),
        Path(wanted["out"]),
        [] if model is None else [Path(model)],
        MapSettings(
            SectionSettings(
                normalise=model is not None,
                tiling=Tiling(wanted.get("window", 128), wanted.get("overlap", 32)),
            ),
            threshold=0.5,
            lines=wanted.get("lines"),
        ),
        workers=Workers(wanted.get("workers", 1), wanted.get("processes", True)),
        progress=False,
        segy=wanted.get("segy", False),
        load_model=stand_in if model is None else None,
    )
    took = result.prediction  # None where an earlier attempt had finished it
    own, below = memory.end()
    return {
        "whole_seconds": time.perf_counter() - began,
        "seconds": took and took.seconds,
        "model_seconds": took and took.model_seconds,
        "own_mib": own,
        "worker_mib": below,
    }


if __name__ == "__main__":
    print(json.dumps(map_once(json.loads(sys.argv[1]))))
