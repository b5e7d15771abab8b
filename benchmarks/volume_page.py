"""Writes docs/volume-results.md from what benchmarks/volume.py has noted."""

import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
PAGE = ROOT / "docs" / "volume-results.md"

HEAD = """# Results on surveys

This page is written by `benchmarks/volume.py` from what it measured; nothing in it is typed by
hand. Ratios and equalities count here; the machine may have been busy with other work, and the
times of a ratio were taken within the same process. The seconds of the tutorial are those of the
machine that its part names.

`make test` holds most of this on smaller surveys with every change.
"""

ABOUT = {
    "bytes": (
        "Surveys in every sample format that Diapir writes and in both byte orders, with random "
        "probabilities; with --segy FOLDER, the post-stack SEG-Y files in a folder as well. "
        "`probability.sgy` and `mask.sgy` are compared with the input byte for byte."
    ),
    "identity": (
        "The network is replaced by one that returns its input: whatever differs afterwards "
        "is the fault of windows, blending, both directions and storing."
    ),
    "top": (
        "The mask is the truth of synthetic surveys. Time and depth of the horizon are "
        "compared with the first salt sample of each trace."
    ),
    "mesh": (
        "The meshes of the salt of synthetic surveys, of balls and of probabilities; volumes "
        "by the divergence theorem, bodies of a thousand samples and more."
    ),
    "readers": (
        "Files that a map wrote, read by a program that is not the writer, and compared value "
        "by value with the horizon or the mesh in memory."
    ),
    "workers": ("An untrained network of the recipe `demo` on a survey of 36 x 40 x 48."),
    "kills": (
        "A survey of 48 x 56 x 64 in blocks of four lines, two worker processes; a stand-in "
        "that takes 50 ms a section in place of a network. A fifth of the kills fall into the "
        "start, the others after a random number of sections."
    ),
    "memory": (
        "Surveys of 160 x 176 x 192 and 320 x 352 x 384, predicted along both directions by two "
        "worker processes, with every product but SEG-Y, by a tiny network that has learnt to "
        "find the ball in them, in windows of 404 pixels. A stand-in that needs no torch then "
        "takes the network's place: it shows what the survey itself takes. Peaks are VmHWM of /proc."
    ),
    "time": (
        "A network of the recipe `demo` on a survey of 64 x 160 x 192 in windows of 128 pixels "
        "that overlap by 32, one worker in the process itself, three times. Creating the "
        "stores counts; importing libraries and loading the model do not, but in the second row."
    ),
    "tutorial": (
        "Every command and every line of Python of the tutorial in [mapping.md](mapping.md), read "
        "out of that page and run one after the other in a fresh folder."
    ),
    "finetune": (
        "`diapir demo --survey` on a survey of 96 x 112 x 160 that it draws. The model was "
        "trained for four minutes on synthetic tiles, none of them of this survey; then it "
        "learns from six inlines. The interpreted lines do not count in the score after."
    ),
}


def write_page() -> None:
    """Write the page from all results that there are."""
    found = {path.stem.removeprefix("volume-"): path for path in RESULTS.glob("volume-*.json")}
    tables = [json.loads(found[name].read_text()) for name in ABOUT if name in found]
    missing = [name for name in ABOUT if name not in found]
    parts = [HEAD, *_overview(tables)]
    if missing:
        parts.append(f"Not measured yet: {', '.join(missing)}.\n")
    parts += [_section(table) for table in tables]
    PAGE.write_text("\n".join(parts).rstrip() + "\n")


def _overview(tables: list[dict[str, Any]]) -> list[str]:
    lines = ["| what | measured | wanted | holds |", "| --- | --- | --- | --- |"]
    for table in tables:
        for what, measured, wanted, holds in table["rows"]:
            lines.append(f"| {what} | {measured} | {wanted} | {'yes' if holds else '**no**'} |")
    return [*lines, ""]


def _section(table: dict[str, Any]) -> str:
    return (
        f"## {table['proof']}\n\n{ABOUT[table['proof']]}\n\n```sh\n{table['command']}\n```\n\n"
        f"{table['date']}, {table['machine']}, source `{(table['source'] or 'unknown')[:12]}`, "
        f"{table['seconds']:.0f} s.\n"
    )
