"""Proofs of `diapir map` that take minutes: same bytes, kills, memory, time; prints a table.

    python benchmarks/volume.py [MODEL.safetensors]

Without a model a small untrained network serves: bytes, memory and resuming do not hang on what it
has learnt.
"""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

SETTINGS = "MapSettings(threshold=0.5, lines={lines}, tiling=Tiling(128, 32))"
SCRIPT = """
import json, resource, sys, time
from pathlib import Path
from diapir.inference.schedule import Workers
from diapir.inference.sections import Tiling
from diapir.runs.map import MapSettings, map_survey

if __name__ == "__main__":
    source, out, model, count, kind, lines = sys.argv[1:7]
    settings = {settings}
    workers = Workers(int(count), kind == "processes")
    result = map_survey(Path(source), Path(out), [Path(model)], settings, workers=workers,
                        progress=False, segy=False)
    took = result.prediction
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    below = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    print(json.dumps(dict(seconds=took.seconds, model=took.model_seconds, block=took.block_seconds,
                          resumed=took.resumed, own_mib=own / 1024, worker_mib=below / 1024)))
"""


def command(source, out, model, count, kind, lines=8):
    """Return the command line of one map in a process of its own."""
    settings = SETTINGS.format(lines="int(lines)")
    script = Path(tempfile.gettempdir()) / f"diapir-bench-{os.getpid()}.py"
    script.write_text(SCRIPT.replace("{settings}", settings))
    return [sys.executable, script, source, out, model, str(count), kind, str(lines)]


def run(*arguments, **more):
    """Map in a process of its own; return what it measured."""
    done = subprocess.run(  # noqa: S603
        list(map(str, command(*arguments, **more))), check=True, capture_output=True, text=True
    )
    return json.loads(done.stdout.splitlines()[-1])


def stored(out):
    """Return the bytes of every file of the finished store."""
    files = sorted(p for p in (out / "salt.zarr").rglob("*") if p.is_file())
    return {str(p.relative_to(out)): p.read_bytes() for p in files}


def write_cube(path, shape):
    """Write smooth random amplitudes as a .npy survey."""
    rng = np.random.default_rng(0)
    coarse = rng.normal(0, 1, tuple(-(-n // 4) for n in shape)).astype(np.float32)
    np.save(path, np.kron(coarse, np.ones((4, 4, 4), np.float32))[tuple(map(slice, shape))])
    return path


def small_model(folder):
    """Write a small untrained network as a model file."""
    from diapir.config import parse_recipe
    from diapir.models.modelfile import ModelCard, save_model
    from diapir.models.unet import SaltNet

    table = {"encoder": "scratch", "scratch_channels": [16, 32, 64], "decoder_channels": [32, 16]}
    recipe = parse_recipe({"name": "small", "model": table}, where="benchmark")
    save_model(folder / "small.safetensors", SaltNet(recipe.model), ModelCard(recipe, 0.5))
    return folder / "small.safetensors"


def same_bytes(folder, model):
    """Map with one and with several workers, processes and threads: equal bytes."""
    cube = write_cube(folder / "cube.npy", (48, 56, 64))
    outs = {}
    for count, kind in ((1, "processes"), (4, "processes"), (4, "threads"), (2, "processes")):
        out = folder / f"same-{count}-{kind}"
        run(cube, out, model, count, kind)
        outs[count, kind] = stored(out)
    first = outs[1, "processes"]
    assert all(found == first for found in outs.values())
    return f"equal for {', '.join(f'{n} {kind}' for n, kind in outs)}: {len(first)} files"


def kills(folder, model, number=20, workers=2, lines=4):
    """Kill a map at random moments with SIGKILL until it ends: equal bytes."""
    cube = write_cube(folder / "kills.npy", (64, 64, 96))
    whole, out = folder / "whole", folder / "killed"
    began = time.perf_counter()
    run(cube, whole, model, workers, "processes", lines=lines)
    wall = time.perf_counter() - began
    rng, hits = random.Random(0), 0  # noqa: S311
    expected = 64 // lines * 2
    while hits < number:
        if (out / "salt.zarr").exists():
            shutil.rmtree(out)
        before = done(out)
        child = subprocess.Popen(  # noqa: S603
            list(map(str, command(cube, out, model, workers, "processes", lines))),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        time.sleep(rng.uniform(0.3 * wall, wall))
        if child.poll() is None:
            os.kill(child.pid, signal.SIGKILL)
            hits += 1
        child.wait()
        time.sleep(0.5)
        print(f"  kill {hits}: {before} -> {done(out)} of {expected} blocks", file=sys.stderr)
    last = run(cube, out, model, workers, "processes", lines=lines)
    assert stored(out) == stored(whole)
    return f"{hits} kills; equal at the end; {last['resumed']} of {expected} blocks resumed last"


def done(out):
    """Return how many blocks the journal holds."""
    return sum(1 for p in out.glob(".unfinished-*/journal/*.json") if p.name[0] != ".")


def memory(folder, model):
    """Return the peak memory of a survey and of one eight times as large."""
    peaks = []
    for name, shape in (("one", (96, 96, 128)), ("eight", (192, 192, 256))):
        cube = write_cube(folder / f"{name}.npy", shape)
        took = run(cube, folder / name, model, 2, "processes", lines=plan_lines(shape))
        peaks.append((took["own_mib"], took["worker_mib"]))
        shutil.rmtree(folder / name)
    (own, worker), (own8, worker8) = peaks
    return (
        f"worker {worker:.0f} -> {worker8:.0f} MiB ({worker8 / worker:.2f}x), "
        f"client {own:.0f} -> {own8:.0f} MiB ({own8 / own:.2f}x) for eight times the volume"
    )


def plan_lines(shape):
    """Return the lines a block that a survey gets by itself."""
    from diapir.inference.volume import Plan

    return Plan.of(shape).lines


def wall_time(folder, model):
    """Return wall time against the time inside the network."""
    cube = write_cube(folder / "time.npy", (96, 96, 128))
    took = run(cube, folder / "time", model, 1, "processes", lines=16)
    return f"{took['seconds']:.1f} s wall, {took['model']:.1f} s in the network: " + (
        f"{took['seconds'] / took['model']:.2f}x"
    )


def main():
    """Run every proof and print a row of a table for each."""
    folder = Path(tempfile.mkdtemp(prefix="diapir-bench-"))
    try:
        model = Path(sys.argv[1]).resolve() if len(sys.argv) > 1 else small_model(folder)
        for proof in (same_bytes, memory, wall_time, kills):
            print(f"| {proof.__name__.replace('_', ' ')} | {proof(folder, model)} |", flush=True)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
