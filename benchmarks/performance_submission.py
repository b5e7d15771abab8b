"""Submissions from end to end, in processes of their own: time, time in the model, peak memory."""

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from performance_models import options, ready
from performance_setting import Setting, repeated
from protocol import Measured, Row
from volume_child import peak_mib

from diapir.data.competition import write_competition
from diapir.data.synthetic import generate_tiles
from diapir.models.packaged import packaged_model

MOST_MIB = 1430
"""The most that a submission may hold: 1.5 GB."""


@dataclass(frozen=True)
class Submitted:
    """What one `diapir submit` took.

    Args:
        tiles: In the submission.
        wall: Seconds of the whole process, libraries to load included.
        seconds: Of these, from reading the models to the checked file.
        model_seconds: Of these, inside the networks.
        peak_mib: Peak of its resident memory.
    """

    tiles: int
    wall: float
    seconds: float
    model_seconds: float
    peak_mib: float


def submit_apart(setting: Setting, models: Sequence[Path], data: Path) -> Submitted:
    """Return what `diapir submit` takes in a process of its own, which writes into `setting.work`.

    Raises:
        RuntimeError: It fails.
    """
    out = setting.work / "submission.csv"
    command = [sys.executable, "-m", "diapir", "submit", *map(str, models)]
    command += ["--data", str(data), "--out", str(out), "--json", "--quiet"]
    command += ["--device", setting.device, "--engine", setting.effort.engine]
    told_at, errors_at = out.with_suffix(".told"), out.with_suffix(".errors")
    started, peak = time.perf_counter(), 0.0
    with (
        told_at.open("w", encoding="utf-8") as told_to,
        errors_at.open("w", encoding="utf-8") as errors_to,
        subprocess.Popen(command, stdout=told_to, stderr=errors_to) as child,  # noqa: S603
    ):
        while child.poll() is None:  # the kernel keeps the peak
            peak = max(peak, peak_mib(child.pid))
            time.sleep(0.02)
        wall = time.perf_counter() - started
    if child.returncode:
        errors = errors_at.read_text(encoding="utf-8")[-2000:]
        raise RuntimeError(f"diapir submit ended with {child.returncode}: {errors}")
    told = json.loads(told_at.read_text(encoding="utf-8"))
    return Submitted(told["tiles"], wall, told["seconds"], told["model_seconds"], peak)


def draw_competition(folder: Path, count: int) -> Path:
    """Write so many drawn test tiles in the competition's layout; from 200 on they repeat."""
    train = generate_tiles(40, seed=2)
    test = repeated(generate_tiles(min(count, 200), seed=3, labelled=False), count)
    write_competition(folder, train, test, zipped=True)
    return folder


def measure_submission(setting: Setting) -> Measured:
    """Compare a submission of all test tiles with the time inside the model."""
    real = setting.data if setting.effort.gates else None
    data = real or draw_competition(setting.work / "data", setting.effort.tiles)
    # a choice of engine is made once on a machine and remembered; `inference` says what it takes
    some = setting.labelled(64).images
    ready(packaged_model(), some, options("auto", setting.effort.engine, device=setting.device))
    took = submit_apart(setting, [packaged_model()], data)
    start_up = took.wall - took.seconds
    note = (
        f"One submission of {took.tiles:,} {'real' if real else 'drawn'} test tiles by the "
        f"packaged model: {took.wall:.1f} s, of which {start_up:.1f} s until the libraries are "
        f"loaded and {took.model_seconds:.1f} s in the model. The fastest engine was known before."
    )
    rows = [
        Row("8", "the whole process of `diapir submit` against the time inside the model",
            took.wall / took.model_seconds, "x", setting.gate(1.15), note=note),
        Row("8", "the same without loading Python's libraries",
            took.seconds / took.model_seconds, "x", setting.gate(1.15)),
        Row("8", "test tiles a second, end to end", took.tiles / took.wall),
        Row("memory", f"peak memory of submitting {took.tiles:,} tiles by the packaged model",
            took.peak_mib, "MiB", MOST_MIB),
    ]  # fmt: skip
    return Measured(rows)
