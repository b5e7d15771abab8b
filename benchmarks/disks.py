"""Runs every verb that writes onto a full disk and onto a read-only one.

    sudo python benchmarks/disks.py --out docs/reliability/disks.json

A small file system in memory is mounted for each verb, which takes root. The verb runs once as it
should. Then the disk is filled up, and the verb runs again into the same place; then it is made
read-only, and it runs once more. Each time it must end with exit code 2 and one error, without a
traceback, and every file must be as it was before or whole.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from verbs import NEED_A_RUN, VERBS, broken_files, files_in, make_inputs, start, wait

from diapir.io.atomic import write_bytes_atomic

MEBIBYTES = 24
FREE_KIB = (0, 8, 128)
"""What is left on a full disk: nothing, or a little, so that something is written first."""
AFRESH = ("ingest", "synth tiles", "map")
"""These refuse a place where something is, or find work done: they get another."""
CANNOT_MOUNT = 3
_FULL, _READ_ONLY = "full, {} KiB left", "read-only"


@dataclass(frozen=True)
class Trial:
    """What became of a verb on a bad disk.

    Args:
        verb: That ran.
        disk: Full, with what was left of it, or read-only.
        exit_code: Of the process.
        error: Its error, in one line.
        one_error: There was one, and no traceback.
        whole: Every file was as before or whole.
        note: What was not.
    """

    verb: str
    disk: str
    exit_code: int
    error: str
    one_error: bool
    whole: bool
    note: str = ""

    @property
    def had_room(self) -> bool:
        """Whether what was left was enough."""
        return self.exit_code == 0 and self.disk not in (_FULL.format(0), _READ_ONLY)

    @property
    def passed(self) -> bool:
        """Whether it was told, or had room, and nothing was lost."""
        return self.whole and (self.had_room or (self.exit_code == 2 and self.one_error))


@contextmanager
def mounted(place: Path) -> Iterator[Path]:
    """Yield a file system of its own.

    Raises:
        PermissionError: Nothing can be mounted here.
    """
    place.mkdir()
    options = ["-t", "tmpfs", "-o", f"size={MEBIBYTES}m", "tmpfs"]
    try:
        done = subprocess.run(["mount", *options, str(place)], capture_output=True, check=False)  # noqa: S603, S607
    except OSError as error:
        raise PermissionError(str(error)) from error
    if done.returncode:
        raise PermissionError(done.stderr.decode().strip())
    try:
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=True)  # noqa: S603, S607


def fill(disk: Path, free_kib: int) -> None:
    """Write a file that leaves so much."""
    with (disk / "filler").open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            file.truncate(max(0, file.tell() - 1024 * free_kib))


def trial(verb: str, disk: str, inputs: Path, out: Path, log: Path) -> Trial:
    """Run a verb and look what it said and what it left."""
    before = files_in(out.parent)
    log.unlink(missing_ok=True)
    code = wait(start(log, *VERBS[verb](inputs, out)))
    said = log.read_text(encoding="utf-8", errors="replace")
    after = files_in(out.parent)
    lost = [name for name in before if name not in after]
    broken = [*broken_files(out), *(f"{name} is gone" for name in lost)]
    if disk == _READ_ONLY and after != before:
        broken.append("something has changed")
    told = said.count("error: ") == 1 and "Traceback" not in said
    first = next((line for line in said.splitlines() if "error: " in line), "")
    if code and not told:
        broken.append(said[-300:])
    return Trial(verb, disk, code, first, told, not broken, "; ".join(broken))


def trials(verbs: Sequence[str], folder: Path) -> Iterator[Trial]:
    """Yield what becomes of each verb on each disk."""
    inputs, log = folder / "inputs", folder / "log"
    inputs.mkdir()
    make_inputs(inputs, trained=bool(set(verbs) & set(NEED_A_RUN)))
    for number, verb in enumerate(verbs):
        with mounted(folder / f"disk-{number}") as disk:
            if wait(start(log, *VERBS[verb](inputs, disk / "sound"))):
                raise RuntimeError(f"{verb}: {log.read_text(encoding='utf-8')}")
            out = disk / ("new" if verb in AFRESH else "sound")
            out.mkdir(exist_ok=True)
            for free in FREE_KIB:
                fill(disk, free)
                yield trial(verb, _FULL.format(free), inputs, out, log)
                (disk / "filler").unlink()
            remount = ["mount", "-o", "remount,ro", str(disk)]
            subprocess.run(remount, check=True)  # noqa: S603
            yield trial(verb, _READ_ONLY, inputs, out, log)


def main() -> None:
    """Try, print, and write the counts where asked."""
    known = [verb for verb in VERBS if verb != "train --resume"]
    parser = argparse.ArgumentParser(description="Run every verb onto full and read-only disks.")
    parser.add_argument("--verb", action="append", choices=known, help="repeatable; default: all")
    parser.add_argument("--out", type=Path, help="JSON file for the counts")
    wanted = parser.parse_args()
    found: list[Trial] = []
    with tempfile.TemporaryDirectory(prefix="diapir-disks-") as name:
        try:
            for one in trials(wanted.verb or known, Path(name)):
                found.append(one)
                print("ok    " if one.passed else "FAILED", one, file=sys.stderr)
        except PermissionError as error:
            print(f"no disk can be mounted here: {error}", file=sys.stderr)
            sys.exit(CANNOT_MOUNT)
    counts = {
        "verbs": len({one.verb for one in found}),
        "tried": len(found),
        "told": sum(one.exit_code == 2 and one.one_error for one in found),
        "had_room": sum(one.had_room for one in found),
        "whole": sum(one.whole for one in found),
        "failed": sum(not one.passed for one in found),
        "each": [asdict(one) for one in found],
    }
    if wanted.out:
        write_bytes_atomic(wanted.out, (json.dumps(counts, indent=2) + "\n").encode())
    print(f"{counts['tried']} tried, {counts['failed']} failed")
    sys.exit(bool(counts["failed"]))


if __name__ == "__main__":
    main()
