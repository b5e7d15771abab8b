"""Does it help to drop bodies of salt of which no pixel is certain? Scores validation tiles so.

    python benchmarks/peaks.py RUN... --data DATA --out FILE.md

The runs must share their validation tiles, and have chosen nothing on them but the temperature:
`train.select = "last"` and a fixed threshold. Each network is scored, and the mean of each two,
by the probability that a body must exceed somewhere (`predict.min_peak`).
"""

from itertools import combinations

import numpy as np
from finished_runs import (
    command,
    open_run,
    read_options,
    run_names,
    shared_validation,
    write_page,
)
from numpy.typing import NDArray

from diapir.inference.postprocess import make_masks
from diapir.io.tiles import read_tiles
from diapir.metrics.score import tile_counts, tile_scores
from diapir.models.maskrule import MaskRule
from diapir.report.markdown import mean_with_interval

THRESHOLD = 0.5
PEAKS = (0.6, 0.65, 0.7, 0.75, 0.8)
_HEAD = """# Bodies of which no pixel is certain

This page is written by `benchmarks/peaks.py` from finished runs. A body of salt without a
probability above `predict.min_peak` is dropped. The first column of scores is without that; the
others are what it gains, on {tiles:,} validation tiles that all runs share, tile by tile, with 95 %
bootstrap intervals. These tiles chose nothing in the networks but the temperature of their
probabilities. The hold-out is not among them.

```
{command}
```
"""


def main() -> None:
    """Write the page."""
    options = read_options(__doc__)
    tiles = shared_validation(options.runs, read_tiles(options.data, "train"))
    probs = {
        name: open_run(run).predict_probs(tiles.images, tiles.z_feet)
        for name, run in zip(run_names(options.runs), options.runs, strict=True)
    }
    groups = [(name,) for name in probs] + list(combinations(probs, 2))
    rows = [
        [" and ".join(names), *row(np.mean([probs[name] for name in names], axis=0), tiles.truth)]
        for names in groups
    ]
    head = _HEAD.format(tiles=len(tiles), command=command("peaks.py", options))
    write_page(options.out, head, ["networks", "score", *(f"{peak:g}" for peak in PEAKS)], rows)


def row(probs: NDArray[np.float32], truth: NDArray[np.uint8]) -> list[str]:
    """Return the score of plain masks, and what each peak gains."""
    plain, *others = (
        tile_scores(tile_counts(make_masks(probs, THRESHOLD, MaskRule(min_peak=peak)), truth))
        for peak in (0.0, *PEAKS)
    )
    return [f"{plain.mean():.3f}", *(mean_with_interval(other - plain, "+.3f") for other in others)]


if __name__ == "__main__":
    main()
