"""Kills maps at random moments, and counts what is lost; a part of benchmarks/volume.py.

Every attempt is a process of its own with two worker processes. By turns a signal SIGKILL goes to
the process with its workers, to the process alone, and to one worker. Kills are written down, so
that the proof itself goes on where it was.
"""

import json
import os
import random
import shutil
import signal
import time
import traceback
from pathlib import Path

import numpy as np
from volume_child import children, map_once

SHAPE, LINES, WORKERS, SLEEP = (48, 56, 64), 4, 2, 0.05
SECTIONS = SHAPE[0] + SHAPE[1]
KINDS = ("process and workers", "process alone", "one worker")


def kill_maps(folder: Path, number: int) -> dict:
    """Return what `number` kills did, after an equal end was asserted."""
    folder.mkdir(parents=True, exist_ok=True)
    cube, log, notes = folder / "cube.npy", folder / "log", folder / "kills.json"
    if not cube.exists():
        np.save(cube, np.random.default_rng(0).integers(0, 256, SHAPE).astype(np.uint8))
    kills = json.loads(notes.read_text()) if notes.exists() else []
    plain = folder / "plain"
    if not (plain / "map.json").exists():
        attempt(cube, plain, folder / "plain-log", None, random.Random(0))  # noqa: S311
    while len(kills) < number:
        out, before = folder / "out", size(log)
        rng = random.Random(len(kills) + 1000 * before)  # noqa: S311
        hit = attempt(cube, out, log, KINDS[len(kills) % len(KINDS)], rng)
        if hit is not None:
            kills.append({**hit, "sections": size(log) - before, "blocks": blocks(out)})
            notes.write_text(json.dumps(kills))
            print(f"  kill {len(kills)}: {kills[-1]}", flush=True)
        if (out / "map.json").exists():
            end_cycle(out, plain, log, len(kills))
    while not (folder / "out" / "map.json").exists():
        if not any((folder / "out").glob(".unfinished-*")) and size(log) == 0:
            break  # the last kill hit a map that came to its end all the same
        attempt(cube, folder / "out", log, None, random.Random(0))  # noqa: S311
    if (folder / "out" / "map.json").exists():
        end_cycle(folder / "out", plain, log, len(kills))
    cycles = json.loads((folder / "cycles.json").read_text())
    lost = sum(sections - SECTIONS for sections, _ in cycles)
    struck = np.diff([0, *(total for _, total in cycles)])
    worst = max((n - SECTIONS) / LINES / max(k, 1)
                for (n, _), k in zip(cycles, struck, strict=True))  # fmt: skip
    return {
        "kills": len(kills),
        "by_kind": {kind: sum(k["kind"] == kind for k in kills) for kind in KINDS},
        "at_sections": sorted(k["at"] for k in kills),
        "maps": len(cycles),
        "sections_redone": lost,
        "blocks_redone_a_kill": lost / LINES / len(kills),
        "blocks_redone_a_kill_at_worst": float(worst),
        "blocks_allowed_a_kill": WORKERS,
    }


def end_cycle(out: Path, plain: Path, log: Path, kills: int) -> None:
    """Compare a finished map with the uninterrupted one, note its sections, and clear it away."""
    assert stored(out) == stored(plain)
    path = out.parent / "cycles.json"
    cycles = json.loads(path.read_text()) if path.exists() else []
    path.write_text(json.dumps([*cycles, (size(log), kills)]))
    log.unlink()
    shutil.rmtree(out)


def attempt(cube: Path, out: Path, log: Path, kind: str | None, rng: random.Random) -> dict | None:
    """Map in a process of its own and kill as told; return what was hit, None if nothing was."""
    wanted = {
        "source": str(cube), "out": str(out), "log": str(log), "sleep": SLEEP,
        "lines": LINES, "workers": WORKERS,
    }  # fmt: skip
    before = size(log)
    # in a fifth of the cases while it starts, else after some more sections
    target = before if rng.random() < 0.2 else before + rng.randint(1, max(1, SECTIONS - before))
    child = os.fork()  # what this process has imported need not be imported again
    if child == 0:
        code = 1
        try:
            map_once(wanted)
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    ended = False
    while not ended and kind is not None:
        started = len(workers_of(child)) == WORKERS
        if size(log) >= target and (started or rng.random() < 0.002):
            time.sleep(rng.uniform(0, 2 * SLEEP))
            break
        time.sleep(0.005)
        ended = os.waitpid(child, os.WNOHANG)[0] != 0
    hit = None
    if not ended and kind is not None:
        hit = {"kind": kind, "at": size(log)}
        strike(child, kind, rng)
    if not ended:
        status = os.waitpid(child, 0)[1]
        assert status == 0 or hit is not None, "a map that nobody killed failed"
    return hit


def strike(child: int, kind: str, rng: random.Random) -> None:
    """Send SIGKILL to what the kind names."""
    workers = workers_of(child)
    if kind == "one worker" and workers:
        os.kill(rng.choice(workers), signal.SIGKILL)
        return
    for process in [child, *(workers if kind == "process and workers" else [])]:
        os.kill(process, signal.SIGKILL)


def workers_of(process: int) -> list[int]:
    """Return the worker processes of a map."""
    found = []
    for one in children(process):
        try:
            command = Path(f"/proc/{one}/cmdline").read_bytes()
        except OSError:
            continue
        if b"spawn_main" in command:
            found.append(one)
    return found


def size(path: Path) -> int:
    """Return the size of a file, 0 where there is none."""
    return path.stat().st_size if path.exists() else 0


def blocks(out: Path) -> int:
    """Return how many blocks the journal holds."""
    return sum(1 for p in out.glob(".unfinished-*/journal/*.json") if p.name[0] != ".")


def stored(out: Path) -> dict[str, bytes]:
    """Return the bytes of every file of the finished store."""
    store = out / "salt.zarr"
    files = sorted(p for p in store.rglob("*") if p.is_file())
    return {str(p.relative_to(store)): p.read_bytes() for p in files}
