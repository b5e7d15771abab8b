"""Measures everything that is claimed of speed and memory, and writes it down.

    python benchmarks/performance.py --data TGS                 # all of it
    python benchmarks/performance.py --data TGS --only help rle # some; the page keeps the others
    python benchmarks/performance.py --effort quick --out DIR   # minutes, compares with no limit

Each measurement goes into benchmarks/results/MACHINE.json as soon as it is done; the pages are
written from these files alone. Ends with 1 where a limit is not kept.
"""

import argparse
import json
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from typing import Any
from unittest import mock

from performance_page import DOCS_PAGE, RESULTS, write_pages
from performance_setting import Setting
from protocol import EFFORTS, Measured

from diapir.io.atomic import write_text_atomic
from diapir.models.modelcard import library_versions, read_card, source_commit
from diapir.runs.folder import write_json
from diapir.runs.machine import describe_machine

MEASUREMENTS = {
    "help": "performance_arrays",
    "rle": "performance_arrays",
    "score": "performance_arrays",
    "lovasz": "performance_arrays",
    "peak": "performance_peak",
    "inference": "performance_inference",
    "accuracy": "performance_inference",
    "int8": "performance_int8",
    "submission": "performance_submission",
    "growth": "performance_growth",
    "memory": "performance_growth",
    "training": "performance_training",
}
"""Names of the measurements, each with the module that holds `measure_NAME`.

Training comes last: it changes how memory is kept, for the rest of the process.
"""

ORDER = (*MEASUREMENTS, "time_to_score")
"""Of the pages; the last one has a program of its own."""


def main(arguments: list[str] | None = None) -> int:
    """Measure what is asked for, note it, and write the pages; 1 where a limit is not kept."""
    given = _parse(arguments)
    work = given.work or Path(tempfile.mkdtemp(prefix="diapir-performance-"))
    # engines are chosen anew, not as the user's cache remembers them
    with mock.patch.dict(os.environ, {"DIAPIR_CACHE": str(work / "cache")}):
        try:
            verdicts = [_measure(name, given, work) for name in given.only or MEASUREMENTS]
        finally:
            if given.work is None:
                shutil.rmtree(work, ignore_errors=True)
    return 0 if all(verdicts) else 1


def _measure(name: str, given: argparse.Namespace, work: Path) -> bool:
    """Measure one thing, note it and write the pages; return whether every limit is kept."""
    folder = work / name
    folder.mkdir(parents=True, exist_ok=True)
    figures = DOCS_PAGE.parent / "figures" if given.out == RESULTS else given.out
    figures /= machine_name(describe_machine())
    trained = {read_card(path).recipe.model.encoder: path for path in given.trained}
    setting = Setting(EFFORTS[given.effort], given.data, folder, figures, given.device, trained)
    print(f"{name} ...", flush=True)
    started = time.perf_counter()
    found = measurement(name)(setting)
    seconds = time.perf_counter() - started
    for row in found.rows:
        verdict = {True: "holds", False: "FAILS", None: "seen"}[row.holds]
        print(f"  {verdict}: {row.what}: {row.value:.4g} {row.unit}", flush=True)
    note(given.out, name, found, seconds, _command(name, given), given.effort)
    write_pages(given.out)
    return all(row.holds is not False for row in found.rows)


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--data", type=Path, help="real data in the competition's layout")
    parser.add_argument("--only", nargs="+", choices=MEASUREMENTS, metavar="NAME")
    parser.add_argument("--effort", choices=EFFORTS, default="full")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument(
        "--trained",
        type=Path,
        nargs="+",
        default=[],
        metavar="MODEL",
        help="networks that are predicted with in place of untrained ones",
    )
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for the results")
    parser.add_argument("--work", type=Path, help="folder for files on the way, kept afterwards")
    given = parser.parse_args(arguments)
    if given.effort != "full" and given.out == RESULTS:
        parser.error(f"effort {given.effort} proves nothing; give it an --out of its own")
    return given


def measurement(name: str) -> Callable[[Setting], Measured]:
    """Return the measurement of this name."""
    found: Callable[[Setting], Measured] = getattr(
        import_module(MEASUREMENTS[name]), f"measure_{name}"
    )
    return found


def machine_name(machine: str) -> str:
    """Return the file name of a machine, without the number of threads.

    >>> machine_name("AMD EPYC (AVX2), 2 cores, threads used: 2, 24 GiB memory")
    'amd-epyc-avx2-2-cores-24-gib-memory'
    """
    kept = [part for part in machine.split(", ") if not part.startswith("threads")]
    return re.sub(r"[^a-z0-9]+", "-", ", ".join(kept).lower()).strip("-")


def _command(name: str, given: argparse.Namespace) -> str:
    options = "" if given.data is None else " --data DATA"
    options += "" if given.device == "cpu" else f" --device {given.device}"
    options += " --trained MODEL" if given.trained else ""
    options += "" if given.effort == "full" else f" --effort {given.effort} --out OUT"
    return f"python benchmarks/performance.py --only {name}{options}"


def note(
    out: Path, name: str, found: Measured, seconds: float, command: str, effort: str = "full"
) -> None:
    """Write down what was measured on this machine, beside what was measured before.

    Args:
        out: Folder of the results.
        name: One of `ORDER`.
        found: What was measured.
        seconds: That it took.
        command: That does it again.
        effort: Name of the effort.
    """
    machine = describe_machine()
    store = out / f"{machine_name(machine)}.json"
    noted: dict[str, Any] = {
        "machine": machine, "name": machine_name(machine), "measurements": {}
    }  # fmt: skip
    if store.is_file():
        noted = json.loads(store.read_text(encoding="utf-8"))
    noted["measurements"][name] = {
        **found.to_json(),
        "command": command,
        "effort": effort,
        "seconds": round(seconds, 1),
        "machine": machine,
        "source": source_commit() or "unknown",
        "versions": library_versions(),
        "date": datetime.now(UTC).date().isoformat(),
    }
    order = [name for name in ORDER if name in noted["measurements"]]
    noted["measurements"] = {name: noted["measurements"][name] for name in order}
    write_json(store, noted)
    page = store.with_suffix(".md")
    if not page.exists():
        write_text_atomic(page, "")


if __name__ == "__main__":
    raise SystemExit(main())
