"""Follows the tutorial of docs/mapping.md in a fresh folder; a part of benchmarks/volume.py.

The commands, the Python and the files that shall be there are read out of the page, so that what is
timed is what the page says.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

PAGE = Path(__file__).parents[1] / "docs" / "mapping.md"
HEADING = "From a SEG-Y file to a top-salt map in ten minutes"
MINUTES = 10


class Step(NamedTuple):
    """A block of the page: a command of the shell, or some lines of Python."""

    language: str
    text: str

    @property
    def name(self) -> str:
        """The verb, for people."""
        if self.language == "python":
            return "python"
        words = self.text.split()
        if words[0] != "diapir":
            return words[0]
        return " ".join(words[1:3] if words[1] in ("synth", "train") else words[1:2])


def read_steps(page: str, heading: str) -> tuple[list[Step], list[str]]:
    """Return the steps below a heading of a page, and the files that its text names.

    Each command of a shell block is a step; the files are those within `` ` `` that lie in a
    folder.
    """
    part = re.split(r"^## ", page.split(f"## {heading}\n", 1)[1], maxsplit=1, flags=re.M)[0]
    steps = []
    for language, text in re.findall(r"^```(sh|python)\n(.*?)^```", part, re.M | re.S):
        whole = [text] if language == "python" else text.replace("\\\n", " ").splitlines()
        steps += [Step(language, one) for one in whole if one.strip()]
    prose = re.sub(r"^```.*?^```", "", part, flags=re.M | re.S)
    return steps, re.findall(r"`([\w-]+/[\w./-]+)`", prose)


def follow(steps: list[Step], folder: Path) -> list[float]:
    """Run each step in a folder; return the seconds of each.

    Raises:
        RuntimeError: A step failed.
    """
    shutil.rmtree(folder, ignore_errors=True)  # of an attempt that was interrupted
    folder.mkdir(parents=True)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    seconds = []
    for step in steps:
        shell = step.language == "sh"
        command = ["sh", "-c", step.text] if shell else [sys.executable, "-c", step.text]
        began = time.perf_counter()
        done = subprocess.run(  # noqa: S603
            command, cwd=folder, env={**os.environ, "PATH": path}, capture_output=True, text=True
        )
        seconds.append(time.perf_counter() - began)
        if done.returncode != 0:
            raise RuntimeError(f"{step.text}\nfailed:\n{done.stdout[-500:]}{done.stderr[-1500:]}")
        print(f"  {seconds[-1]:.0f} s: {step.text.splitlines()[0]}", flush=True)
    return seconds


def prove_tutorial(folder: Path, _: argparse.Namespace) -> list[tuple[str, str, str, bool]]:
    """Time the tutorial, to the first map and to its end."""
    steps, files = read_steps(PAGE.read_text(), HEADING)
    tour = folder / "tutorial"
    seconds = follow(steps, tour)
    missing = [name for name in files if not (tour / name).exists()]
    first = 1 + next(k for k, step in enumerate(steps) if step.name == "map")
    each = ", ".join(f"{step.name} {s:.0f}" for step, s in zip(steps, seconds, strict=True))
    to_map = sum(seconds[:first])
    return [
        ("commands of the tutorial that end well, from a fresh folder",
         f"{len(seconds)} of {len(steps)}; {len(files) - len(missing)} of the {len(files)} files "
         "that it names are there", "all", not missing),
        ("seconds of the tutorial to the report with the map of top salt",
         f"{to_map:.0f} ({', '.join(each.split(', ')[:first])})", f"at most {60 * MINUTES}",
         to_map <= 60 * MINUTES),
        ("seconds of the tutorial to its end, with six inlines learnt and mapped again",
         f"{sum(seconds):.0f} (after that {', '.join(each.split(', ')[first:])})", "no limit set",
         True),
    ]  # fmt: skip
