"""Are two networks better than the better one of them? Scores validation tiles so.

    python benchmarks/pairs.py RUN RUN... --data DATA --out FILE.md

The runs must share their validation tiles. Each network is scored, and the mean of each two, as
`diapir submit` averages two model files: by the mean of their probabilities, thresholds and rules.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

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
from diapir.io.tiles import Tiles, read_tiles
from diapir.metrics.calibration import scale_probs
from diapir.metrics.score import tile_counts, tile_scores
from diapir.models.maskrule import AS_THRESHOLDED, MaskRule, mean_rule
from diapir.report.markdown import mean_with_interval

COLUMNS = ("networks", "score", "gain over the better one")
_HEAD = """# Two networks as one

This page is written by `benchmarks/pairs.py` from finished runs. The probabilities of two networks
are averaged, as `diapir submit` does with two model files, and their score is compared with that of
the better one of the two, on {tiles:,} validation tiles that all runs share, tile by tile, with
95 % bootstrap intervals. Thresholds and clean-up are those of the model files, of two the mean.
What a run chose on these tiles, such as its epoch or its threshold, flatters its score. The
hold-out is not among them.

```
{command}
```
"""


@dataclass(frozen=True, eq=False)
class Network:
    """What a network says of the validation tiles, and how that becomes masks.

    Args:
        name: Of its run.
        probs: (N, H, W) in 0..1, not yet divided by the temperature of the rule.
        threshold: Pixels above it are salt.
        rule: Calibration and clean-up.
    """

    name: str
    probs: NDArray[np.float32]
    threshold: float
    rule: MaskRule


def main() -> None:
    """Write the page."""
    options = read_options(__doc__, least=2)
    tiles = shared_validation(options.runs, read_tiles(options.data, "train"))
    names = run_names(options.runs)
    networks = [ask(run, name, tiles) for run, name in zip(options.runs, names, strict=True)]
    head = _HEAD.format(tiles=len(tiles), command=command("pairs.py", options))
    write_page(options.out, head, COLUMNS, table_rows(networks, tiles.truth))


def ask(run: Path, name: str, tiles: Tiles) -> Network:
    """Return what the network of a run says of tiles."""
    predictor = open_run(run)
    rule, predictor.rule = predictor.rule, AS_THRESHOLDED
    probs = predictor.predict_probs(tiles.images, tiles.z_feet)
    return Network(name, probs, predictor.threshold, rule)


def table_rows(networks: Sequence[Network], truth: NDArray[np.uint8]) -> list[list[str]]:
    """Return a row for each network, then one for each two of them."""
    alone = {network.name: scores((network,), truth) for network in networks}
    rows = [[name, f"{found.mean():.3f}", "-"] for name, found in alone.items()]
    for pair in combinations(networks, 2):
        both = scores(pair, truth)
        better = max((alone[network.name] for network in pair), key=np.mean)
        name = " and ".join(network.name for network in pair)
        rows.append([name, f"{both.mean():.3f}", mean_with_interval(both - better, "+.3f")])
    return rows


def scores(networks: Sequence[Network], truth: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Return the score of each tile, (N,), by the mean of networks.

    Args:
        networks: One or more.
        truth: (N, H, W) masks.
    """
    rule = mean_rule([network.rule for network in networks])
    mean = np.mean([network.probs for network in networks], axis=0, dtype=np.float32)
    threshold = float(np.mean([network.threshold for network in networks]))
    masks = make_masks(scale_probs(mean, rule.temperature), threshold, rule)
    return tile_scores(tile_counts(masks, truth))


if __name__ == "__main__":
    main()
