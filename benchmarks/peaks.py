"""Does it help to drop bodies of salt of which no pixel is certain? Scores validation tiles so.

    python benchmarks/peaks.py RUN... --data DATA --out FILE.md

The runs must share their validation tiles, and have chosen nothing on them but the temperature:
`train.select = "last"` and a fixed threshold. Each network is scored, and the mean of each two,
by the probability that a body must exceed somewhere (`predict.min_peak`).
"""

import argparse
from itertools import combinations
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from diapir.inference.postprocess import make_masks
from diapir.inference.predict import PredictOptions, load_predictor
from diapir.io.atomic import write_text_atomic
from diapir.io.tiles import Tiles, read_tiles
from diapir.metrics.bootstrap import bootstrap_interval
from diapir.metrics.score import tile_counts, tile_scores
from diapir.models.maskrule import MaskRule
from diapir.report.markdown import markdown_table
from diapir.runs.folder import RunFolder, read_json

THRESHOLD = 0.5
PEAKS = (0.6, 0.65, 0.7, 0.75, 0.8)
_HEAD = """# Bodies of which no pixel is certain

This page is written by `benchmarks/peaks.py` from finished runs. A body of salt without a
probability above `predict.min_peak` is dropped. The first column of scores is without that; the
others are what it gains, on {tiles:,} validation tiles that all runs share, tile by tile, with 95 %
bootstrap intervals. These tiles chose nothing in the networks but the temperature of their
probabilities. The hold-out is not among them.

```
python benchmarks/peaks.py {runs} --data {data} --out {out}
```
"""


def main() -> None:
    """Write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    tiles = shared_validation(options.runs, read_tiles(options.data, "train"))
    probs = {run.name: predict(run, tiles) for run in options.runs}
    groups = [(name,) for name in probs] + list(combinations(probs, 2))
    rows = [
        [" and ".join(names), *row(np.mean([probs[name] for name in names], axis=0), tiles.truth)]
        for names in groups
    ]
    head = _HEAD.format(
        tiles=len(tiles), runs=" ".join(map(str, options.runs)), data=options.data, out=options.out
    )
    table = markdown_table(["networks", "score", *(f"{peak:g}" for peak in PEAKS)], rows)
    write_text_atomic(options.out, "\n".join([head, *table, ""]))


def shared_validation(runs: list[Path], tiles: Tiles) -> Tiles:
    """Return the validation tiles of runs that must agree on them."""
    ids = {tuple(read_json(RunFolder(run).split)["val"]) for run in runs}
    if len(ids) != 1:
        raise SystemExit("The runs have different validation tiles; give runs of one split.")
    return tiles.select(ids.pop())


def predict(run: Path, tiles: Tiles) -> NDArray[np.float32]:
    """Return the probabilities (N, H, W) of a run's model."""
    predictor, _ = load_predictor([RunFolder(run).model], PredictOptions())
    return predictor.predict_probs(tiles.images, tiles.z_feet)


def row(probs: NDArray[np.float32], truth: NDArray[np.uint8]) -> list[str]:
    """Return the score of plain masks, and what each peak gains."""
    plain, *others = (
        tile_scores(tile_counts(make_masks(probs, THRESHOLD, MaskRule(min_peak=peak)), truth))
        for peak in (0.0, *PEAKS)
    )
    return [f"{plain.mean():.3f}", *(_gain(other - plain) for other in others)]


def _gain(gains: NDArray[np.float64]) -> str:
    low, high = bootstrap_interval(gains)
    return f"{gains.mean():+.3f} ({low:+.3f} to {high:+.3f})"


if __name__ == "__main__":
    main()
