"""Runs two processes at once into the same place: no mixing, no loss.

    python benchmarks/crowds.py --out docs/reliability/crowds.json

Where two would write the same files, the second must be told so at once, with exit code 2, while
the first goes on and ends well. The first is held with the lock in its hand until the second has
ended, so that they meet for certain. Two trainings and two whole demos into one folder do not
collide: both must end well, each with a folder of its own.
"""

import argparse
import fcntl
import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import kills
from verbs import NEED_A_RUN, VERBS, broken_files, files_in, make_inputs, start, wait

import diapir.runs.demo
from diapir.io.atomic import write_bytes_atomic

COLLIDING = (
    "submit", "predict", "evaluate", "ensemble", "export", "map", "finetune", "ingest", "mosaic",
    "describe", "results", "train --resume",
)  # fmt: skip
SIDE_BY_SIDE = ("train", "demo")
_PATIENCE = 600.0


@dataclass(frozen=True)
class Meeting:
    """What became of two processes.

    Args:
        verb: Of both.
        exit_codes: Of the first and of the second.
        told: The second was told that another is writing; where nothing collides, neither was.
        whole: Every file is whole, and nothing is left behind.
        note: What was not.
    """

    verb: str
    exit_codes: tuple[int, int]
    told: bool
    whole: bool
    note: str = ""

    @property
    def passed(self) -> bool:
        """Whether nothing was mixed and nothing lost."""
        wanted = (0, 0) if self.verb in SIDE_BY_SIDE else (0, 2)
        return self.exit_codes == wanted and self.told and self.whole


def holding(held: Path, go: Path) -> Callable[[], None]:
    """Return a hook that stops a process once it has a lock, until a file appears."""

    def hook() -> None:
        lock = fcntl.flock

        def flock(descriptor: Any, operation: int) -> None:
            lock(descriptor, operation)
            held.touch()
            _wait_for(go)

        fcntl.flock = flock  # type: ignore[assignment]

    return hook


def collide(verb: str, inputs: Path, folder: Path) -> Meeting:
    """Hold one process with its lock, start another, let the first go on."""
    held, go, out = folder / "held", folder / "go", folder / "out"
    out.mkdir()
    first = start(folder / "first.log", *VERBS[verb](inputs, out), hook=holding(held, go))
    _wait_for(held)
    before = files_in(out)
    second = wait(start(folder / "second.log", *VERBS[verb](inputs, out)))
    problems = [] if files_in(out) == before else ["the second has written"]
    go.touch()
    codes = (wait(first), second)
    said = (folder / "second.log").read_text(encoding="utf-8")
    told = "another process is writing" in said and "Traceback" not in said
    problems += _unsound(out, codes, folder)
    return Meeting(verb, codes, told, not problems, "; ".join(problems))


def meet(verb: str, inputs: Path, folder: Path) -> Meeting:
    """Start two processes at the same time into one folder."""
    out = folder / "out"
    command = VERBS["train"](inputs, out)
    hook = None
    if verb == "demo":
        command = ("demo", "--out", out, "--minutes", 0.05, "--quiet")
        hook = _small_demo
    logs = [folder / "first.log", folder / "second.log"]
    children = [start(log, *command, hook=hook) for log in logs]
    codes = (wait(children[0]), wait(children[1]))
    problems = _unsound(out, codes, folder)
    runs = sorted(path.parent for path in out.rglob("metrics.json"))
    if len(runs) != 2:
        problems.append(f"{len(runs)} runs")
    if verb == "train" and len(runs) == 2:
        # in deterministic mode, undisturbed trainings end alike
        first, second = (kills.result(run) for run in runs)
        if first != second:
            problems.append("the two have disturbed each other")
    if verb == "demo" and len(list(out.rglob("submission.csv"))) != 2:
        problems.append("not two submissions")
    return Meeting(verb, codes, True, not problems, "; ".join(problems))


def _small_demo() -> None:
    diapir.runs.demo.LABELLED, diapir.runs.demo.UNLABELLED = 40, 10


def _unsound(out: Path, codes: Sequence[int], folder: Path) -> list[str]:
    problems = broken_files(out)
    problems += [f"left behind: {path.name}" for path in out.parent.rglob(".*-*")]
    if codes[0]:
        problems.append((folder / "first.log").read_text(encoding="utf-8")[-300:])
    return problems


def _wait_for(path: Path) -> None:
    deadline = time.monotonic() + _PATIENCE
    while not path.exists():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{path} does not appear")
        time.sleep(0.02)


def main() -> None:
    """Let them meet, print, and write the counts where asked."""
    known = [*COLLIDING, *SIDE_BY_SIDE]
    parser = argparse.ArgumentParser(description="Run two processes into one place.")
    parser.add_argument("--verb", action="append", choices=known, help="repeatable; default: all")
    parser.add_argument("--out", type=Path, help="JSON file for the counts")
    wanted = parser.parse_args()
    found: list[Meeting] = []
    verbs = wanted.verb or known
    with tempfile.TemporaryDirectory(prefix="diapir-crowds-") as name:
        inputs = Path(name) / "inputs"
        inputs.mkdir()
        make_inputs(inputs, trained=bool(set(verbs) & set(NEED_A_RUN)))
        for number, verb in enumerate(verbs):
            folder = Path(name) / f"meeting-{number}"
            folder.mkdir()
            one = (meet if verb in SIDE_BY_SIDE else collide)(verb, inputs, folder)
            found.append(one)
            print("ok    " if one.passed else "FAILED", one, file=sys.stderr)
    counts = {
        "verbs": len(found),
        "told": sum(one.told for one in found if one.verb in COLLIDING),
        "collided": sum(one.verb in COLLIDING for one in found),
        "failed": sum(not one.passed for one in found),
        "each": [asdict(one) for one in found],
    }
    if wanted.out:
        write_bytes_atomic(wanted.out, (json.dumps(counts, indent=2) + "\n").encode())
    print(f"{counts['verbs']} tried, {counts['failed']} failed")
    sys.exit(bool(counts["failed"]))


if __name__ == "__main__":
    main()
