"""Submissions from end to end, in processes of their own: time, what the model takes, memory.

They take turns with the same predictor over tiles that are decoded already. The time that a
submission spends inside its model says less: meanwhile others of its threads decode tiles, so that
the model is slower there than alone.
"""

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

from performance_models import options, ready
from performance_setting import Setting, repeated
from protocol import Comparison, Measured, Row, compare, ratio_row, spread
from volume_child import peak_mib

from diapir.data.competition import write_competition
from diapir.data.synthetic import generate_tiles
from diapir.io.tiles import read_tiles
from diapir.models.packaged import packaged_model
from diapir.runs.machine import keep_freed_memory

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
    """Compare submissions of all test tiles with the same predictor over decoded tiles."""
    keep_freed_memory()  # as `diapir submit` does
    real = setting.data if setting.effort.gates else None
    data = real or draw_competition(setting.work / "data", setting.effort.tiles)
    # a choice of engine is made once on a machine and remembered; `inference` says what it takes
    some = setting.labelled(64).images
    chosen = options("auto", setting.effort.engine, device=setting.device)
    alone = ready(packaged_model(), some, chosen)
    decoded = read_tiles(data, "test", progress=False).images
    taken: list[Submitted] = []
    turns = compare(
        lambda: taken.append(submit_apart(setting, [packaged_model()], data)),
        lambda: alone.predictor.predict_probs(decoded),
        rounds=setting.effort.rounds,
        warm_up=int(setting.effort.gates),
    )
    # the cores of another process are not counted
    whole, taken = replace(turns, cores=None), taken[-setting.effort.rounds :]
    without = replace(whole, baseline=tuple(one.seconds for one in taken))
    inside = Comparison(
        tuple(one.wall for one in taken), tuple(one.model_seconds for one in taken), whole.threads
    )
    wall, tiles = median(inside.baseline), len(decoded)
    start_up = median(one.wall - one.seconds for one in taken)
    note = (
        f"{tiles:,} {'real' if real else 'drawn'} test tiles by the packaged model "
        f"({alone.engine}; chosen before): {wall:.1f} s a submission, of which "
        f"{start_up:.1f} s until the libraries are loaded; {median(whole.candidate):.1f} s for the "
        "same predictor over the same tiles, decoded and at hand, without making masks."
    )
    beside = (
        f"Inside its model a submission spends {median(inside.candidate):.1f} s, as it decodes "
        "tiles beside it; the row that compares with that flatters it."
    )
    rows = [
        ratio_row("8", "the whole process of `diapir submit` against the predictor alone, over "
                  "tiles already decoded", whole, setting.gate(1.15), at_least=False, note=note),
        ratio_row("8", "the same without loading Python's libraries", without,
                  setting.gate(1.15), at_least=False),
        ratio_row("8", "the whole process of `diapir submit` against the time inside its model",
                  inside, None, note=beside),
        Row("8", "test tiles a second, end to end", tiles / wall,
            quartiles=spread([tiles / one.wall for one in taken]), rounds=len(taken)),
        Row("memory", f"peak memory of submitting {tiles:,} tiles by the packaged model",
            max(one.peak_mib for one in taken), "MiB", MOST_MIB),
    ]  # fmt: skip
    return Measured(rows)
