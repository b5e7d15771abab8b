"""Every verb on full and read-only disks, and two processes in one place."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import disks
import pytest

ROOT = Path(__file__).parents[1]


def count(program: str, verbs: list[str], out: Path) -> dict[str, Any]:
    """Run a program of `benchmarks/` for some verbs; return what it counted."""
    command = [sys.executable, program, "--out", str(out)]
    command += [word for verb in verbs for word in ("--verb", verb)]
    done = subprocess.run(command, cwd=ROOT / "benchmarks", capture_output=True, text=True)
    if done.returncode == disks.CANNOT_MOUNT:
        pytest.skip(f"only root can mount a disk of its own: {done.stderr.splitlines()[-1]}")
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(out.read_text(encoding="utf-8"))
    return found


def test_bad_disks_are_told_and_lose_nothing(tmp_path: Path) -> None:
    found = count("disks.py", ["submit", "predict", "ensemble", "ingest"], tmp_path / "n.json")
    assert found["failed"] == 0
    assert found["told"] + found["had_room"] == found["tried"] == 16
    assert found["told"] >= 8, "nothing left and read-only must be told of each verb"


def test_two_in_one_place_are_told_and_mix_nothing(tmp_path: Path) -> None:
    verbs = ["submit", "predict", "evaluate", "ensemble", "ingest"]
    found = count("crowds.py", verbs, tmp_path / "n.json")
    assert found["failed"] == 0
    assert found["told"] == found["collided"] == len(verbs)


def test_a_trial_that_loses_or_hides_something_fails() -> None:
    sound = disks.Trial("submit", "read-only", 2, "error: full", one_error=True, whole=True)
    assert sound.passed
    for change in ({"exit_code": 1}, {"exit_code": 0}, {"one_error": False}, {"whole": False}):
        assert not disks.Trial(**{**vars(sound), **change}).passed
