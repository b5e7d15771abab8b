"""Proofs of `diapir map` on surveys: measures them one by one, and writes docs/volume-results.md.

    python benchmarks/volume.py                         # all of them, some minutes
    python benchmarks/volume.py --only kills memory     # some; the page keeps the others
    python benchmarks/volume.py --only finetune --demo demo/DATE-TIME-survey
    python benchmarks/volume.py --page-only

Each proof leaves a JSON file in benchmarks/results; the page is written from these alone.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import volume_kills
from volume_page import RESULTS, write_page

HERE = Path(__file__).parent
CHILD = HERE / "volume_child.py"
Rows = list[tuple[str, str, str, bool]]
"""What was measured, the value, what is wanted, and whether it holds."""


def run_child(**wanted: Any) -> dict[str, Any]:
    """Map in a process of its own; return what it took."""
    text = json.dumps({name: str(v) if isinstance(v, Path) else v for name, v in wanted.items()})
    done = subprocess.run([sys.executable, str(CHILD), text], capture_output=True, text=True)  # noqa: S603
    assert done.returncode == 0, done.stderr[-2000:]
    return dict(json.loads(done.stdout.splitlines()[-1]))


def write_ball(path: Path, shape: tuple[int, ...]) -> Path:
    """Write a ball of salt in noise as a survey of grey values."""
    rng = np.random.default_rng(0)
    axes = np.ogrid[tuple(slice(-1, 1, n * 1j) for n in shape)]
    grey = np.empty(shape, np.uint8)
    for i, plane in enumerate(grey):
        x, y, z = axes[0][i], axes[1][0], axes[2][0]
        distance = np.sqrt(x**2 + y**2 + z**2)
        plane[...] = np.clip(128 + 900 * (0.55 - distance), 10, 240)
        plane += rng.integers(0, 10, plane.shape).astype(np.uint8)
    np.save(path, grey)
    return path


def small_model(folder: Path, *, knows_balls: bool = False) -> Path:
    """Write a network as a model file: that of the recipe `demo`, or a tiny one that finds balls.

    The first is untrained. What an untrained network takes for salt is a sponge, with a surface in
    every sample, which no survey has: the second has learnt that bright is salt.
    """
    import torch

    from diapir.config import load_recipe
    from diapir.models.modelcard import ModelCard
    from diapir.models.modelfile import save_model
    from diapir.models.unet import SaltNet

    tiny = ["model.encoder=scratch", "model.scratch_channels=[4, 8]", "model.decoder_channels=[4]"]
    recipe = load_recipe("demo", tiny if knows_balls else [])
    torch.manual_seed(0)
    net = SaltNet(recipe.model)
    if knows_balls:
        teach_balls(net)
    save_model(folder / "demo.safetensors", net, ModelCard(recipe, 0.5))
    return folder / "demo.safetensors"


def teach_balls(net: Any, steps: int = 200) -> None:
    """Train a small network on bright discs in noise, some seconds."""
    import torch

    optimiser = torch.optim.Adam(net.parameters(), lr=0.01)
    axes = torch.meshgrid(torch.linspace(-1, 1, 96), torch.linspace(-1, 1, 96), indexing="ij")
    for _ in range(steps):
        middle, radius = torch.rand(2, 8, 1, 1, 1) - 0.5, 0.3 + torch.rand(8, 1, 1, 1)
        distance = torch.hypot(axes[0] - middle[0], axes[1] - middle[1])
        dark, bright = 0.35 * torch.rand(8, 1, 1, 1), 0.65 + 0.35 * torch.rand(8, 1, 1, 1)
        images = torch.where(distance < radius, bright, dark) + 0.02 * torch.randn(8, 1, 96, 96)
        logits = net(images)
        truth = (distance < radius).float()
        loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, truth)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    net.eval()


def prove_workers(folder: Path, _: argparse.Namespace) -> Rows:
    """Map with one and with several workers, processes and threads, through a real network."""
    model, cube = small_model(folder), write_ball(folder / "cube.npy", (36, 40, 48))
    found = {}
    for count, processes in ((1, True), (4, True), (4, False)):
        out = folder / f"same-{count}-{processes}"
        run_child(
            source=cube,
            out=out,
            model=model,
            workers=count,
            processes=processes,
            lines=5,
            window=64,
        )
        found[f"{count} {'processes' if processes else 'threads'}"] = volume_kills.stored(out)
    first = found["1 processes"]
    equal = all(files == first for files in found.values())
    text = f"{len(first)} files with {', '.join(found)}: {'equal' if equal else 'DIFFERENT'}"
    return [("same bytes with one worker and with four", text, "equal", equal)]


def prove_kills(folder: Path, given: argparse.Namespace) -> Rows:
    """Kill maps with SIGKILL at random moments."""
    import distributed  # noqa: F401  # once, for all the processes to be forked

    import diapir.runs.map

    del diapir
    found = volume_kills.kill_maps(folder, given.kills)
    kinds = ", ".join(f"{n} of the {kind}" for kind, n in found["by_kind"].items())
    redone, worst = found["blocks_redone_a_kill"], found["blocks_redone_a_kill_at_worst"]
    return [
        ("SIGKILL at random moments", f"{found['kills']} kills ({kinds}) of {found['maps']} maps; "
         "every finished store has the bytes of an uninterrupted one", "20 kills, equal",
         found["kills"] >= 20),
        ("blocks done again for each kill, of two workers",
         f"{redone:.2f} on average, {worst:.2f} in the map that lost most",
         f"at most {found['blocks_allowed_a_kill']}", worst <= found["blocks_allowed_a_kill"]),
    ]  # fmt: skip


def prove_memory(folder: Path, _: argparse.Namespace) -> Rows:
    """Map a survey and one eight times as large, products included."""
    rows: Rows = []
    for model in (small_model(folder, knows_balls=True), None):
        peaks = []
        for name, shape in (("one", (160, 176, 192)), ("eight", (320, 352, 384))):
            cube = write_ball(folder / f"{name}.npy", shape)
            peaks.append(run_child(
                source=cube, out=folder / name, model=model, workers=2, window=404, overlap=101
            ))  # fmt: skip
            shutil.rmtree(folder / name)
            cube.unlink()
        parts = {"worker_mib": "a worker", "own_mib": "the process that makes the products"}
        for key, what in parts.items():
            one, eight = (peak[key] for peak in peaks)
            text = f"{one:.0f} MiB, then {eight:.0f} MiB: {eight / one:.2f} times"
            if model is not None:
                rows.append((f"peak memory of {what}, eight times the volume", text,
                             "at most 1.2 times", eight <= 1.2 * one))  # fmt: skip
            elif key == "worker_mib":
                rows.append((f"the same of {what} without a network", text, "no limit set", True))
    return rows


def prove_time(folder: Path, given: argparse.Namespace) -> Rows:
    """Map through a network in one process; wall time against the time inside the network."""
    model = given.model or small_model(folder)
    cube = write_ball(folder / "time.npy", (64, 160, 192))
    ratios, whole = [], []
    for number in range(3):
        took = run_child(
            source=cube,
            out=folder / f"time-{number}",
            model=model,
            lines=16,
            window=128,
            overlap=32,
        )
        ratios.append(took["seconds"] / took["model_seconds"])
        whole.append(took["whole_seconds"] / took["model_seconds"])
    middle = sorted(ratios)[1]
    text = f"{middle:.3f} times, the median of {', '.join(f'{r:.3f}' for r in ratios)}"
    alone = f"{sorted(whole)[1]:.2f} times, the median of {', '.join(f'{r:.2f}' for r in whole)}"
    return [
        ("wall time of predicting and storing against the time inside the network", text,
         "at most 1.15 times", middle <= 1.15),
        ("the same with libraries to load and all products, on this small survey", alone,
         "no limit set", True),
    ]  # fmt: skip


def prove_finetune(_: Path, given: argparse.Namespace) -> Rows:
    """Score both maps of `diapir demo --survey` on the inlines that nobody interpreted."""
    assert given.demo is not None, "give --demo FOLDER, which 'diapir demo --survey' has made"
    from diapir.io.opening import open_volume

    truth = open_volume(given.demo / "truth.sgy")["amplitude"].load() > 0.5
    names = [path.stem for path in (given.demo / "labels").glob("*.png")]
    free = ~np.isin(truth["inline"], [int(name.rpartition("_")[2]) for name in names])
    before, after = (score(given.demo / name, truth, free) for name in ("map", "map-finetuned"))
    lines = f"{len(names)} interpreted inlines, on the {int(free.sum())} others"
    return [
        (f"IoU of the volume before and after {lines}", f"{before[0]:.3f}, then {after[0]:.3f}",
         "clearly more", after[0] > before[0] + 0.05),
        ("median distance of top salt from the truth there",
         f"{before[1]:.1f} samples, then {after[1]:.1f}", "no limit set", True),
        ("traces with salt there in which a top is found",
         f"{100 * before[2]:.0f} %, then {100 * after[2]:.0f} %", "no limit set", True),
    ]  # fmt: skip


def score(folder: Path, truth: Any, free: np.ndarray) -> tuple[float, float, float]:
    """Return IoU, median error of top salt in samples, and the share of tops that are found."""
    import zarr

    store: Any = zarr.open_group(folder / "salt.zarr", mode="r")
    own, salt = store["mask"][...][free] > 0, truth.to_numpy()[free]
    table = np.loadtxt(folder / "horizons" / "top_salt.xyz", ndmin=2)
    top = np.full(truth.shape[:2], np.nan)
    at = [np.searchsorted(truth[n], table[:, k]) for k, n in enumerate(("inline", "crossline"))]
    sample = truth["sample"].to_numpy()
    top[tuple(at)] = (table[:, 4] - sample[0]) / (sample[1] - sample[0])
    actual = np.where(salt.any(axis=-1), salt.argmax(axis=-1), np.nan)
    away = np.abs(top[free] - actual)
    found = np.isfinite(away)
    return (
        float((own & salt).sum() / (own | salt).sum()),
        float(np.median(away[found])),
        float(found.sum() / np.isfinite(actual).sum()),
    )


def proofs() -> dict[str, Callable[[Path, argparse.Namespace], Rows]]:
    """Return every proof by its name."""
    from volume_products import PROOFS
    from volume_tutorial import prove_tutorial

    return {
        **PROOFS,
        "workers": prove_workers,
        "kills": prove_kills,
        "memory": prove_memory,
        "time": prove_time,
        "tutorial": prove_tutorial,
        "finetune": prove_finetune,
    }


def main() -> int:
    """Measure what is asked for, note it, and write the page; 1 where something does not hold."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", nargs="+", metavar="PROOF", help="some proofs instead of all")
    parser.add_argument("--model", type=Path, help="for 'time'; default: an untrained network")
    parser.add_argument("--demo", type=Path, help="for 'finetune': folder of demo --survey")
    parser.add_argument("--segy", type=Path, help="for 'bytes': a folder of SEG-Y files as well")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--work", type=Path, help="folder to go on in after an interruption")
    parser.add_argument("--page-only", action="store_true")
    given = parser.parse_args()
    known = proofs()
    wanted = [] if given.page_only else given.only or [n for n in known if n != "finetune"]
    work = given.work or Path(tempfile.mkdtemp(prefix="diapir-bench-"))
    all_hold = True
    try:
        for name in wanted:
            folder = work / name
            folder.mkdir(parents=True, exist_ok=True)
            began = time.perf_counter()
            rows = known[name](folder, given)
            note(name, rows, time.perf_counter() - began)
            all_hold &= all(row[3] for row in rows)
            for row in rows:
                print(f"{'holds' if row[3] else 'FAILS'}: {row[0]}: {row[1]}", flush=True)
    finally:
        if given.work is None:
            shutil.rmtree(work, ignore_errors=True)
    write_page()
    return 0 if all_hold else 1


def note(name: str, rows: Rows, seconds: float) -> None:
    """Write down what was measured, with what belongs to it."""
    from diapir.models.modelcard import source_commit
    from diapir.runs.machine import describe_machine

    table = {
        "proof": name,
        "rows": rows,
        "command": f"python benchmarks/volume.py --only {name}"
        + (" --demo FOLDER" if name == "finetune" else ""),
        "seconds": round(seconds, 1),
        "machine": describe_machine(),
        "source": source_commit(),
        "date": datetime.now(UTC).date().isoformat(),
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"volume-{name}.json").write_text(json.dumps(table, indent=2) + "\n")


if __name__ == "__main__":
    raise SystemExit(main())
