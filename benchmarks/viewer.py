"""How fast the viewer steps through a survey, as its server sees it.

    python benchmarks/viewer.py --folder viewer-speed --page docs/viewer.md

Draws a survey of 500 x 500 x 500 samples as a Zarr store (0.4 GB) where it is not there yet, then
steps through inlines, crosslines and time slices as the arrow keys do: reads the section, makes the
pixels of all that is shown, and packs them into the message that goes to the browser. What the
browser takes to draw it is not in it.
"""

import argparse
import json
import os
import re
import statistics
import time
from pathlib import Path

import numpy as np
import panel as pn
import zarr
from bokeh.document import Document
from bokeh.protocol import Protocol

from diapir.io.volume import Geometry, amplitude_statistics, make_volume
from diapir.runs.machine import describe_machine
from diapir.serve.viewer.library import open_library
from diapir.serve.viewer.section import MAP, SectionView
from diapir.serve.viewer.state import ViewState

SIDE, CHUNK, STEPS = 500, 128, 150


def draw(folder: Path) -> tuple[Path, Path]:
    """Write a survey of dipping layers and noise, and a probability of salt."""
    import dask.array as da

    store, salt = folder / "survey.zarr", folder / "map"
    if (folder / "done").exists():
        return store, salt
    rng = np.random.default_rng(0)
    axis = np.arange(SIDE, dtype=np.float32)
    values = np.empty((SIDE, SIDE, SIDE), np.float32)
    for line in range(SIDE):
        layers = np.sin(axis[None] / 6 + axis[:, None] / 40 + line / 30)
        values[line] = layers + 0.3 * rng.standard_normal((SIDE, SIDE), np.float32)
    numbers = np.arange(SIDE, dtype=np.int32)
    geometry = Geometry(
        axes={"inline": numbers + 1000, "crossline": numbers + 2000},
        sample=4.0 * np.arange(SIDE),
        unit="ms",
        trace_mask=np.ones((SIDE, SIDE), np.bool_),
    )
    volume = make_volume(
        da.from_array(values, chunks=CHUNK), geometry, source="drawn", fingerprint="drawn",
        statistics=amplitude_statistics(values[::50]),
    )  # fmt: skip
    encoding = {"amplitude": {"chunks": (CHUNK,) * 3, "fill_value": 0.0, "_FillValue": None}}
    volume.to_zarr(store, mode="w", zarr_format=3, consolidated=False, encoding=encoding)
    i, j, k = np.ogrid[:SIDE, :SIDE, :SIDE]
    far = np.sqrt((i - 250.0) ** 2 + (j - 250.0) ** 2 + (1.5 * (k - 350.0)) ** 2)
    probs = (1 / (1 + np.exp((far - 150) / 12))).astype(np.float32)
    group = zarr.open_group(salt / "salt.zarr", mode="w")
    group.create_array("probability", data=probs, chunks=(64, 64, SIDE))
    (folder / "done").touch()
    return store, salt


def measure(store: Path, salt: Path, direction: str, layers: list[str]) -> dict[str, object]:
    """Return what a walk over neighbouring sections took."""
    library = open_library([store], salt=salt, labels=store.parent / "labels")
    state = ViewState()
    state.param.update(data="survey", direction=direction, layers=layers, salt=MAP)
    view = SectionView(library, state, dark=False, tell=print)
    document = Document()
    document.add_root(view.figure.plot)
    events: list[object] = []
    document.on_change(events.append)
    numbers = view.source.numbers(view.direction)
    state.number = float(numbers[SIDE // 10])
    view.show()
    seconds, sizes = [], []
    started = time.perf_counter()
    for _ in range(STEPS):
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
        "steps_a_second": round(STEPS / took, 1),
        "median_ms": round(1000 * statistics.median(seconds), 1),
        "slowest_ms": round(1000 * max(seconds)),
        "kilobytes": round(statistics.mean(sizes) / 1000),
    }


def main() -> None:
    """Measure, print, and write the table of the page where one is given."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True, help="for the survey")
    parser.add_argument("--page", type=Path, help="page between whose markers the table goes")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    pn.extension()
    store, salt = draw(options.folder)
    rows = [
        measure(store, salt, direction, layers)
        for direction in ("inline", "crossline", "slice")
        for layers in ([], ["fill", "outline"])
    ]
    machine = describe_machine()
    print(json.dumps({"rows": rows, "machine": machine}, indent=2))
    if options.page is not None:
        write_table(options.page, rows, machine)


def write_table(page: Path, rows: list[dict[str, object]], machine: str) -> None:
    """Put the table between the markers of a page."""
    lines = [
        "| stepping through | layers | steps a second | median step | slowest step | sent a step |",
        "|---|---|--:|--:|--:|--:|",
        *(
            "| {direction}s | {layers} | {steps_a_second} | {median_ms} ms | {slowest_ms} ms | "
            "{kilobytes:,} kB |".format(**row)
            for row in rows
        ),
    ]
    note = (
        f"{STEPS} steps each through {SIDE} x {SIDE} x {SIDE} samples in chunks of {CHUNK}, with a "
        f"load of {os.getloadavg()[0]:.0f} on {machine}. The slowest steps are those into a block "
        "that was not read ahead in time."
    )
    command = "python benchmarks/viewer.py --folder FOLDER --page docs/viewer.md"
    block = "\n".join(["<!-- speed:begin -->", *lines, "", note, "", f"Written by `{command}`.",
                       "<!-- speed:end -->"])  # fmt: skip
    text = page.read_text(encoding="utf-8")
    text = re.sub(r"<!-- speed:begin -->.*?<!-- speed:end -->", lambda _: block, text, flags=re.S)
    page.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
