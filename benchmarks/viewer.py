"""How fast the viewer steps through a survey, as its server sees it.

    python benchmarks/viewer.py --folder viewer-speed --json docs/figures/viewer-speed.json \
        --page docs/viewer.md

Draws a survey of 500 x 500 x 500 samples as a Zarr store (0.4 GB) where it is not there yet, then
steps through inlines, crosslines and time slices as the arrow keys do: reads the section, makes the
pixels of all that is shown, and packs them into the message that goes to the browser. What the
browser takes to draw it is not in it.
"""

import argparse
import json
import os
import shlex
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import panel as pn
import zarr
from bokeh.document import Document
from bokeh.protocol import Protocol
from pages import fill

from diapir.io.atomic import write_text_atomic
from diapir.io.volume import Geometry, amplitude_statistics, make_volume
from diapir.runs.machine import describe_machine
from diapir.serve.viewer.library import open_library
from diapir.serve.viewer.section import MAP, SectionView
from diapir.serve.viewer.state import ViewState

CHUNK = 128
TARGET = 10
"""Sections a second that the page is to keep up with."""


def draw(folder: Path, side: int) -> tuple[Path, Path]:
    """Write a survey of dipping layers and noise, and a probability of salt."""
    import dask.array as da

    folder = folder / str(side)
    store, salt = folder / "survey.zarr", folder / "map"
    if (folder / "done").exists():
        return store, salt
    rng = np.random.default_rng(0)
    axis = np.arange(side, dtype=np.float32)
    values = np.empty((side, side, side), np.float32)
    for line in range(side):
        layers = np.sin(axis[None] / 6 + axis[:, None] / 40 + line / 30)
        values[line] = layers + 0.3 * rng.standard_normal((side, side), np.float32)
    numbers = np.arange(side, dtype=np.int32)
    geometry = Geometry(
        axes={"inline": numbers + 1000, "crossline": numbers + 2000},
        sample=4.0 * np.arange(side),
        unit="ms",
        trace_mask=np.ones((side, side), np.bool_),
    )
    volume = make_volume(
        da.from_array(values, chunks=CHUNK), geometry, source="drawn", fingerprint="drawn",
        statistics=amplitude_statistics(values[:: max(1, side // 10)]),
    )  # fmt: skip
    encoding = {"amplitude": {"chunks": (CHUNK,) * 3, "fill_value": 0.0, "_FillValue": None}}
    volume.to_zarr(store, mode="w", zarr_format=3, consolidated=False, encoding=encoding)
    i, j, k = np.ogrid[:side, :side, :side]
    far = np.sqrt((i - side / 2) ** 2 + (j - side / 2) ** 2 + (1.5 * (k - 0.7 * side)) ** 2)
    probs = (1 / (1 + np.exp((far - 0.3 * side) / 12))).astype(np.float32)
    group = zarr.open_group(salt / "salt.zarr", mode="w")
    group.create_array("probability", data=probs, chunks=(64, 64, side))
    (folder / "done").touch()
    return store, salt


def measure(
    store: Path, salt: Path, direction: str, layers: list[str], steps: int
) -> dict[str, object]:
    """Return what a walk over neighbouring sections took."""
    library = open_library([store], salt=salt, labels=store.parent / "labels")
    state = ViewState()
    state.param.update(data="survey", direction=direction, layers=layers, salt=MAP)
    view = SectionView(library, state, dark=False)
    document = Document()
    document.add_root(view.figure.plot)
    events: list[object] = []
    document.on_change(events.append)
    numbers = view.wanted.source.numbers(view.wanted.direction)
    state.number = float(numbers[len(numbers) // 10])
    view.show()
    seconds, sizes = [], []
    started = time.perf_counter()
    for _ in range(steps):
        events.clear()
        before = time.perf_counter()
        view.step(1)
        view.show()
        message = Protocol().create("PATCH-DOC", list(events))
        size = len(message.content_json) + sum(len(b.to_bytes()) for b in message._buffers)
        seconds.append(time.perf_counter() - before)
        sizes.append(size)
    took = time.perf_counter() - started
    library.close()
    return {
        "direction": direction,
        "layers": "amplitudes" if not layers else "amplitudes, salt, outline",
        "steps_a_second": round(steps / took, 1),
        "median_ms": round(1000 * statistics.median(seconds), 1),
        "slowest_ms": round(1000 * max(seconds)),
        "kilobytes": round(statistics.mean(sizes) / 1000),
    }


def _without_paths(arguments: list[str]) -> list[str]:
    """Return the arguments with FOLDER in place of the folder, which is anyone's own."""
    after = ["", *arguments]
    return ["FOLDER" if a == "--folder" else b for a, b in zip(after, arguments, strict=False)]


def main() -> None:
    """Measure, print, and write JSON and the table of the page where they are given."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True, help="for the survey")
    parser.add_argument("--side", type=int, default=500, help="samples along each axis")
    parser.add_argument("--steps", type=int, default=150, help="in each direction")
    parser.add_argument("--json", type=Path, help="takes the results")
    parser.add_argument("--page", type=Path, help="page between whose markers the table goes")
    options = parser.parse_args()
    pn.extension()
    load = os.getloadavg()[0]
    store, salt = draw(options.folder, options.side)
    rows = [
        measure(store, salt, direction, layers, options.steps)
        for direction in ("inline", "crossline", "slice")
        for layers in ([], ["fill", "outline"])
    ]
    found = {
        "command": shlex.join(["python", "benchmarks/viewer.py", *_without_paths(sys.argv[1:])]),
        "machine": describe_machine(),
        "load_before": round(load, 1),
        "side": options.side,
        "chunk": CHUNK,
        "steps": options.steps,
        "rows": rows,
    }
    print(json.dumps(found, indent=2))
    if options.json is not None:
        write_text_atomic(options.json, json.dumps(found, indent=2) + "\n")
    if options.page is not None:
        write_table(options.page, found)


def write_table(page: Path, found: dict[str, Any]) -> None:
    """Put the table between the markers of a page."""
    rows, side = found["rows"], found["side"]
    slowest = min(row["steps_a_second"] for row in rows)
    lines = [
        f"`{found['command']}`: {found['steps']} steps each through {side} x {side} x {side} "
        f"samples in chunks of {found['chunk']}, on {found['machine']}, with a load average of "
        f"{found['load_before']} from other work before it began. Aim: {TARGET} sections a second; "
        f"the slowest row has {slowest}.",
        "",
        "| stepping through | layers | steps a second | median step | slowest step | sent a step |",
        "|---|---|--:|--:|--:|--:|",
        *(
            "| {direction}s | {layers} | {steps_a_second} | {median_ms} ms | {slowest_ms} ms | "
            "{kilobytes:,} kB |".format(**row)
            for row in rows
        ),
        "",
        "A step is what the server does: it reads the section, makes the pixels of all that is "
        "shown, and packs them into the message to the browser. What the browser takes to draw it "
        "is not in it. The slowest steps are those into a block that was not read ahead in time.",
    ]
    text = fill(page.read_text(encoding="utf-8"), "speed", "\n".join(lines))
    write_text_atomic(page, text)


if __name__ == "__main__":
    main()
