"""Rubbish for every reader, and that the machinery which counts would see a defect."""

import json
import os
import random
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from ctypes import c_size_t, c_void_p, memset
from functools import partial
from pathlib import Path

import pytest
import trial
from mutate import mutate

from diapir.errors import DataError
from diapir.io import csv_tables
from diapir.io.csv_tables import read_rows
from diapir.io.sources import open_source
from diapir.io.tiles import read_tiles

ROOT = Path(__file__).parents[1]
COUNT = 2000


def test_rubbish_is_read_or_refused(tmp_path: Path) -> None:
    out = tmp_path / "counts.json"
    command = [sys.executable, "fuzz.py", "--count", str(COUNT), "--seed", "1", "--out", str(out)]
    done = subprocess.run(command, cwd=ROOT / "benchmarks", capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    counts = json.loads(out.read_text(encoding="utf-8"))
    assert counts["tried"] >= COUNT
    assert counts["failed"] == 0
    for name, found in counts["readers"].items():
        assert found["read"] + found["refused"] == found["tried"], name
        assert found["refused"] > found["tried"] // 20, f"hardly any input for {name} is damaged"


def test_counts_go_on_where_they_were_ended(tmp_path: Path) -> None:
    tally = trial.Tally()
    tally.add(trial.Outcome("png 0", "refused", "bad", 0.5, 3.0))
    tally.add(trial.Outcome("png 1", "crash", "exit code 3"))
    again = trial.Tally.from_json(json.loads(json.dumps(tally.to_json())))
    assert again == tally
    reads: list[Callable[[], object]] = [lambda: None] * 3
    numbers = [o.name for o in trial.run_trials(3, partial(outcomes, reads), first=again.tried)]
    assert numbers == ["2"]


def wrong_key() -> None:
    raise KeyError("x")


def bad_data() -> None:
    raise DataError("bad")


def outcomes(
    reads: list[Callable[[], object]], folder: Path, number: int
) -> Iterator[trial.Outcome]:
    for place in range(number, len(reads)):
        yield trial.attempt(str(place), reads[place])


def fill_memory() -> None:
    assert b"x" * (700 << 20)


def test_every_kind_of_failure_is_noticed() -> None:
    reads = [
        lambda: None,
        bad_data,
        wrong_key,
        partial(time.sleep, 60),
        fill_memory,
        partial(os._exit, 3),
        lambda: None,
    ]
    found = list(trial.run_trials(len(reads), partial(outcomes, reads)))
    kinds = [outcome.kind for outcome in found]
    expected = ["read", "refused", "other error", "too slow", "too much memory", "crash", "read"]
    assert kinds == expected


def test_memory_freed_before_a_trial_hides_nothing() -> None:
    """A process that once held much keeps it resident under what was allocated last."""

    def reads_after_a_feast(folder: Path, number: int) -> Iterator[trial.Outcome]:
        malloc, free = trial.LIBC.malloc, trial.LIBC.free
        malloc.restype, malloc.argtypes, free.argtypes = c_void_p, [c_size_t], [c_void_p]
        blocks = [malloc(64 << 10) for _ in range(15_000)]  # small enough to come from the heap
        for block in blocks:
            memset(block, 1, 64 << 10)
        malloc(64 << 10)
        for block in blocks:
            free(block)
        yield trial.attempt("0", fill_memory)

    assert [o.kind for o in trial.run_trials(1, reads_after_a_feast)] == ["too much memory"]


@pytest.mark.parametrize("name", ["a.png", "a.csv", "a.json", "a.bin"])
def test_changes_follow_from_the_number(name: str) -> None:
    data = (ROOT / "docs" / "figures").glob("*.png")
    sound = next(data).read_bytes()[:4000] if name == "a.bin" else b"id,rle_mask\na,1 2\n"
    if name == "a.png":
        import numpy as np

        from diapir.io.images import encode_mask_png

        sound = encode_mask_png(np.eye(5))
    twice = [mutate(sound, name, random.Random(7)) for _ in range(2)]  # noqa: S311
    assert twice[0] == twice[1]


# --- what the fuzzer's small files cannot show


def bomb(path: Path, method: int, claimed: int | None) -> None:
    """Write a zip with an image that unpacks to 300 MB, its size told or not."""
    with zipfile.ZipFile(path, "w", method) as packed:
        packed.writestr("images/a.png", bytes(300 << 20))
    if claimed is not None:
        data = bytearray(path.read_bytes())
        local, central = data.find(b"PK\3\4"), data.find(b"PK\1\2")
        for place in (local + 22, central + 24):
            data[place : place + 4] = claimed.to_bytes(4, "little")
        path.write_bytes(data)


@pytest.mark.parametrize("claimed", [None, 100])
def test_zip_bombs_are_not_unpacked(tmp_path: Path, claimed: int | None) -> None:
    bomb(tmp_path / "bomb.zip", zipfile.ZIP_DEFLATED, claimed)

    def read() -> None:
        with open_source(tmp_path / "bomb.zip") as source:
            source.read("images/a.png")

    (found,) = trial.run_trials(1, partial(outcomes, [read]))
    assert found.kind == "refused"
    assert found.mebibytes < 50


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_methods_that_unpack_all_at_once_are_refused(tmp_path: Path, method: int) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w", method) as packed:
        packed.writestr("images/a.png", b"x")
    with (
        open_source(tmp_path / "a.zip") as source,
        pytest.raises(DataError, match="unusual method"),
    ):
        source.read("images/a.png")


def test_entries_never_leave_the_zip(tmp_path: Path) -> None:
    inner = tmp_path / "deep" / "er"
    inner.mkdir(parents=True)
    with zipfile.ZipFile(inner / "test.zip", "w") as packed:
        for name in ("../evil.png", "/evil.png", "images/../../evil.png", "images/..\\evil.png"):
            packed.writestr(name, b"x")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(DataError):
        read_tiles(inner, "test")
    assert sorted(tmp_path.rglob("*")) == before


def test_tables_have_an_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "t.csv"
    path.write_text("id,rle_mask\n" + "".join(f"{k},\n" for k in range(50)), encoding="utf-8")
    assert len(read_rows(path)) == 50
    monkeypatch.setattr(csv_tables, "MAX_TABLE_ROWS", 20)
    with pytest.raises(DataError, match="more than 20 rows"):
        read_rows(path)
    monkeypatch.setattr(csv_tables, "MAX_TABLE_BYTES", 20)
    with pytest.raises(DataError, match=r"the table has \d+ bytes"):
        read_rows(path)
