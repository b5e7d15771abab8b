"""Memory of `diapir ingest` against the size of the survey; prints a table.

    python benchmarks/ingest.py

Each ingest runs in a process of its own. The larger survey has eight times the traces; its peak
may be 1.2 times the other's at most.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from diapir.io.segy_write import write_segy
from diapir.io.volume import Geometry

SAMPLES = 500
SCRIPT = """
import json, resource, sys, time
from pathlib import Path
from diapir.io.ingest import ingest
began = time.monotonic()
done = ingest(Path(sys.argv[1]), Path(sys.argv[2]), workers=1)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(json.dumps({"seconds": time.monotonic() - began, "peak_mib": peak, "blocks": done.blocks}))
"""


def measure(folder: Path, inlines: int, crosslines: int) -> dict[str, float]:
    """Write a survey of noise, ingest it, and return time and peak memory."""
    geometry = Geometry(
        {
            "inline": np.arange(inlines, dtype=np.int32),
            "crossline": np.arange(crosslines, dtype=np.int32),
        },
        4.0 * np.arange(SAMPLES),
        "ms",
        np.ones((inlines, crosslines), np.bool_),
    )
    rng = np.random.default_rng(0)
    source = folder / "survey.sgy"
    write_segy(source, lambda part: rng.standard_normal((len(part), SAMPLES), np.float32), geometry)
    command = [sys.executable, "-c", SCRIPT, str(source), str(folder / "survey.zarr")]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout  # noqa: S603
    return {"mib": source.stat().st_size / 2**20, **json.loads(output)}


def main() -> None:
    """Print one row for a survey and one for another of eight times its size."""
    print(f"{os.cpu_count()} cores; {SAMPLES} samples a trace, 4-byte floats")
    print("| inlines x crosslines | file, MiB | blocks | seconds | peak, MiB |")
    print("|---|---|---|---|---|")
    peaks = []
    for inlines, crosslines in ((256, 256), (512, 1024)):
        with tempfile.TemporaryDirectory() as folder:
            row = measure(Path(folder), inlines, crosslines)
        peaks.append(row["peak_mib"])
        print(
            f"| {inlines} x {crosslines} | {row['mib']:.0f} | {row['blocks']} "
            f"| {row['seconds']:.1f} | {row['peak_mib']:.0f} |"
        )
    print(f"ratio of the peaks: {peaks[1] / peaks[0]:.2f} (at most 1.2)")


if __name__ == "__main__":
    main()
