"""Kills trainings and shows that nothing is lost.

    python benchmarks/kills.py --kills 25 --out docs/reliability/kills.json

A tiny training is run to its end for reference, on one CPU and in deterministic mode. Then it is
started again and again and killed with SIGKILL, at random moments or in the middle of writing a
checkpoint, and resumed. What it ends with must be what the reference ended with: the same metrics,
the same history, the same weights bit by bit. Every process is forked from this one, which has
loaded the libraries already, and runs the command line as a user would.
"""

import argparse
import csv
import json
import os
import random
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import onnx
import torch
from PIL import Image
from safetensors.torch import load_file

import diapir.runs.train  # noqa: F401  # loaded once, here
from diapir.cli import main as command_line
from diapir.config import parse_recipe
from diapir.data.competition import write_competition
from diapir.io import atomic
from diapir.io.atomic import write_bytes_atomic
from diapir.io.tiles import Tiles
from diapir.training.checkpoints import LAST_CHECKPOINT

RECIPE = {
    "name": "tiny",
    "split": {"stratify": "none", "holdout": 0.2, "val": 0.25},
    "model": {"encoder": "scratch", "scratch_channels": [4, 8], "decoder_channels": [8]},
    "loss": {"stages": [{"bce": 1.0, "dice": 1.0}]},
    "optim": {"lr": 0.01, "min_lr": 0.001, "schedule": "constant", "ema": 0.9},
    "train": {"epochs": 6, "batch_size": 8, "precision": "float32", "deterministic": True},
}
WHERES = ("half of a checkpoint is written", "a checkpoint has not its name yet", "it just got it")


@dataclass(frozen=True)
class Kill:
    """What became of one killed training.

    Args:
        moment: When the signal came.
        epochs_done: Epochs in `history.csv` at that moment.
        epochs_lost: Of these, not in the checkpoint from which it goes on.
        whole: Every file of the run was whole.
        same: It ended with the metrics, history and weights of the reference.
        note: What went wrong, or that nothing had begun.
    """

    moment: str
    epochs_done: int
    epochs_lost: int
    whole: bool
    same: bool
    note: str = ""

    @property
    def survived(self) -> bool:
        """Whether nothing was lost beyond one interval."""
        return self.whole and self.same and self.epochs_lost <= 1


def write_inputs(folder: Path, **train: Any) -> None:
    """Write tiny tiles and the recipe."""
    rng = np.random.default_rng(0)
    masks = np.zeros((60, 24, 24), np.uint8)
    for place in range(1, 60):
        row, column = rng.integers(0, 12, 2)
        masks[place, row : row + 10, column : column + 10] = place % 4 > 0
    images = (40 + 120 * masks + rng.integers(0, 60, masks.shape)).astype(np.uint8)
    ids = tuple(f"tile{k:03d}" for k in range(60))
    depths = rng.integers(50, 900, 60).astype(np.float32)
    labelled = Tiles(ids[:50], images[:50], masks[:50], depths[:50], "kills")
    write_competition(
        folder / "data", labelled, Tiles(ids[50:], images[50:], None, depths[50:], "kills")
    )
    recipe = parse_recipe({**RECIPE, "train": {**RECIPE["train"], **train}}, where="kills")
    (folder / "tiny.json").write_text(recipe.model_dump_json(), encoding="utf-8")


def start(log: Path, *arguments: object, hook: Callable[[], None] | None = None) -> int:
    """Run the command line in a child; return its process id.

    Args:
        log: Takes what it prints.
        arguments: Of `diapir`.
        hook: Called in the child before.
    """
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        with log.open("ab", buffering=0) as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        sys.argv = ["diapir", *map(str, arguments)]
        if hook is not None:
            hook()
        command_line()
        code = 0
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
    except Exception:  # a defect: the log is to show it
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def wait(child: int) -> int:
    """Return the exit code of a child, as a shell would give it."""
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    return 128 - code if code < 0 else code


def train(folder: Path, runs: Path) -> tuple[object, ...]:
    """Return the arguments of the training."""
    options = ("--data", folder / "data", "--runs", runs, "--accelerator", "cpu", "--quiet")
    return ("train", folder / "tiny.json", *options)


def resume(folder: Path, run: Path) -> tuple[object, ...]:
    """Return the arguments that go on with a run."""
    options = ("--data", folder / "data", "--accelerator", "cpu", "--quiet")
    return ("train", "--resume", run, *options)


def die_while_writing(number: int, where: str) -> Callable[[], None]:
    """Return a hook that kills the process while it writes its n-th checkpoint."""

    def die() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def hook() -> None:
        written, save, replace = 0, torch.save, Path.replace

        def save_half(what: Any, path: Any, *args: Any, **options: Any) -> None:
            nonlocal written
            save(what, path, *args, **options)
            written += 1
            if written == number and where == WHERES[0]:
                os.truncate(path, Path(path).stat().st_size // 2)
                die()

        def replace_or_die(self: Path, target: Any) -> Any:
            mine = str(target).endswith("last.ckpt") and written == number
            if mine and where == WHERES[1]:
                die()
            done = replace(self, target)
            if mine and where == WHERES[2]:
                die()
            return done

        torch.save = save_half
        atomic.Path.replace = replace_or_die  # type: ignore[method-assign]

    return hook


def result(run: Path) -> dict[str, Any]:
    """Return what a finished run ended with, without times, commands and machines."""
    metrics = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    kept = {k: metrics[k] for k in ("threshold", "epochs", "best_epoch", "val", "holdout")}
    with (run / "history.csv").open(encoding="utf-8") as file:
        history = [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(file)]
    state = load_file(run / "model.safetensors")
    weights = {name: tensor.numpy().tobytes().hex() for name, tensor in state.items()}
    return {"metrics": kept, "history": history, "weights": weights}


def broken_files(run: Path) -> list[str]:
    """Return the files of a run that are not whole; those still being written have other names."""
    readers: dict[str, Callable[[Path], object]] = {
        ".json": lambda path: json.loads(path.read_text(encoding="utf-8")),
        ".csv": lambda path: path.read_text(encoding="utf-8").rindex("\n"),
        ".html": lambda path: path.read_text(encoding="utf-8").rindex("</html>"),
        ".png": lambda path: Image.open(path).load(),
        ".safetensors": load_file,
        ".ckpt": lambda path: torch.load(path, weights_only=True),
        ".onnx": onnx.load,
    }
    broken = []
    for path in sorted(run.rglob("*")):
        if path.name[0] != "." and path.suffix in readers:
            try:
                readers[path.suffix](path)
            except Exception as error:  # whatever a half file makes of its reader
                broken.append(f"{path.name}: {error}")
    return broken


def lost_epochs(run: Path) -> tuple[int, int]:
    """Return the epochs that had ended, and how many of them the checkpoint does not hold."""
    history = run / "history.csv"
    done = len(history.read_text(encoding="utf-8").splitlines()) - 1 if history.is_file() else 0
    if not (run / LAST_CHECKPOINT).is_file():
        return done, done
    held = torch.load(run / LAST_CHECKPOINT, weights_only=True)
    rows = next(s["rows"] for s in held["callbacks"].values() if "rows" in s)
    return done, done - len(rows)


def kill_once(
    folder: Path, name: str, moment: str, seconds: float, hook: Callable[[], None] | None,
    wanted: dict[str, Any],
) -> Kill:  # fmt: skip
    """Start, kill, look, resume, compare."""
    runs, log = folder / name, folder / f"{name}.log"
    child = start(log, *train(folder, runs), hook=hook)
    if hook is None:
        time.sleep(seconds)
        os.kill(child, signal.SIGKILL)
    code = wait(child)
    found = sorted(runs.glob("*/split.json"))
    if not found:
        again = wait(start(log, *train(folder, runs)))
        run = sorted(runs.glob("*/split.json"))[0].parent
        return Kill(moment, 0, 0, True, again == 0 and result(run) == wanted, "not begun yet")
    run = found[0].parent
    broken = broken_files(run)
    done, lost = lost_epochs(run)
    note = "; ".join(broken) or ("ended before" if code == 0 else "")
    code = wait(start(log, *resume(folder, run)))
    if code:
        note = f"--resume ended with {code}: {log.read_text(encoding='utf-8')[-300:]}"
        return Kill(moment, done, lost, not broken, False, note)
    left = [p.name for p in run.rglob(".*-*") if p.is_file()]
    if left:
        note = f"left behind: {left}"
    return Kill(moment, done, lost, not broken and not left, result(run) == wanted, note)


def kill_many(folder: Path, count: int, seed: int) -> Iterator[tuple[float, Kill]]:
    """Yield the seconds of the reference, and what became of each killed training."""
    write_inputs(folder)
    began = time.monotonic()
    if wait(start(folder / "reference.log", *train(folder, folder / "reference"))):
        raise RuntimeError((folder / "reference.log").read_text(encoding="utf-8"))
    seconds = time.monotonic() - began
    wanted = result(next((folder / "reference").iterdir()))
    rng = random.Random(seed)  # noqa: S311  # to be repeated
    for number in range(count):
        hook, after = None, rng.uniform(0.05, 1.0) * seconds
        moment = f"after {after / seconds:.0%} of the time"
        if number % 5 in (1, 3):
            which, where = rng.randint(1, RECIPE["train"]["epochs"]), WHERES[number % 3]
            moment, hook = f"checkpoint {which}: {where}", die_while_writing(which, where)
        kill = kill_once(folder, f"kill-{number}", moment, after, hook, wanted)
        print(f"{number + 1:3} {kill}", file=sys.stderr)
        yield seconds, kill


def processor_seconds(process: int) -> float:
    """Return the processor time of a process so far (proc(5), fields 14 and 15 of stat)."""
    fields = Path(f"/proc/{process}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def stop_by(folder: Path, number: signal.Signals) -> dict[str, Any]:
    """Send a signal to a long training; return its exit code and the seconds that took."""
    place = folder / number.name
    place.mkdir()
    write_inputs(place, epochs=100_000)
    child = start(place / "log", *train(place, place / "runs"))
    deadline = time.monotonic() + 120
    while not list(place.glob(f"runs/*/{LAST_CHECKPOINT}")) and time.monotonic() < deadline:
        time.sleep(0.05)
    began, used = time.monotonic(), processor_seconds(child)
    os.kill(child, number)
    _, status, usage = os.wait4(child, 0)
    code = os.waitstatus_to_exitcode(status)
    code = 128 - code if code < 0 else code
    (run,) = (place / "runs").iterdir()
    return {
        "signal": number.name,
        "exit_code": code,
        "seconds": round(time.monotonic() - began, 1),
        "processor_seconds": round(usage.ru_utime + usage.ru_stime - used, 1),
        "has_model": (run / "model.safetensors").is_file(),
        "broken": broken_files(run),
    }


def summarise(kills: list[Kill], seconds: float, stops: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the counts."""
    return {
        "kills": len(kills),
        "while_writing_a_checkpoint": sum("checkpoint" in kill.moment for kill in kills),
        "before_it_had_begun": sum(kill.note == "not begun yet" for kill in kills),
        "after_it_had_ended": sum(kill.note == "ended before" for kill in kills),
        "survived": sum(kill.survived for kill in kills),
        "most_epochs_lost": max((kill.epochs_lost for kill in kills), default=0),
        "reference_seconds": round(seconds, 1),
        "each": [asdict(kill) for kill in kills],
        "stops": stops,
    }


def main() -> None:
    """Kill, print, and write the counts where asked, after each so that nothing is lost."""
    parser = argparse.ArgumentParser(description="Kill trainings.")
    parser.add_argument("--kills", type=int, default=25)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="JSON file for the counts")
    wanted = parser.parse_args()
    kills: list[Kill] = []
    found: dict[str, Any] = {}

    def keep(seconds: float, stops: list[dict[str, Any]]) -> None:
        found.update(summarise(kills, seconds, stops))
        if wanted.out:
            write_bytes_atomic(wanted.out, (json.dumps(found, indent=2) + "\n").encode())

    with tempfile.TemporaryDirectory(prefix="diapir-kills-") as name:
        folder = Path(name)
        stops = [stop_by(folder, number) for number in (signal.SIGTERM, signal.SIGINT)]
        for seconds, kill in kill_many(folder, wanted.kills, wanted.seed):
            kills.append(kill)
            keep(seconds, stops)
    print(f"{len(kills)} kills, {found['survived']} survived; {stops}")
    sys.exit(found["survived"] != len(kills))


if __name__ == "__main__":
    main()
