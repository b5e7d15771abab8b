"""Does it help to show a network the neighbours of a tile? Scores labelled tiles both ways.

    python benchmarks/neighbours.py MODEL DATA [--all] [--false-share 0.02] [--json FILE]

Only labelled tiles with a known neighbour are scored, and of these only those that the model's
training has not seen, unless --all is given, which flatters both ways alike. The gain is paired by
tile, with a bootstrap interval.
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from diapir.data.mosaic import find_mosaics
from diapir.inference.neighbours import MARGIN, predict_with_neighbours
from diapir.inference.predict import PredictOptions, load_predictor
from diapir.metrics.bootstrap import bootstrap_interval
from diapir.metrics.score import tile_counts, tile_scores
from diapir.runs.mosaic import read_all


def main() -> None:
    """Print the scores with and without neighbours."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--all", action="store_true", help="also tiles that trained the model")
    parser.add_argument("--false-share", type=float, default=0.02)
    parser.add_argument("--margin", type=int, default=MARGIN)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    predictor, cards = load_predictor([options.model], PredictOptions())
    tiles, labelled = read_all(options.data)
    found = find_mosaics(tiles.images, false_share=options.false_share)
    seen = set() if options.all else {i for c in cards for i in (*c.train_ids, *c.val_ids)}
    fresh = np.array([id_ not in seen for id_ in tiles.ids])
    chosen = np.flatnonzero(labelled & fresh & (found.groups() >= 0))
    truth = tiles.truth[chosen]
    alone = predictor.predict_probs(tiles.images[chosen])
    nobody = replace(found, mosaics=())
    mirrored = predict_with_neighbours(
        tiles.images, nobody, predictor.predict_probs, chosen, margin=options.margin
    )
    around = predict_with_neighbours(
        tiles.images, found, predictor.predict_probs, chosen, margin=options.margin
    )
    scores = {
        name: tile_scores(tile_counts(predictor.make_masks(probs), truth))
        for name, probs in (("alone", alone), ("mirror image", mirrored), ("neighbours", around))
    }
    table: dict[str, Any] = {
        "tiles": len(chosen),
        "scores": {k: float(v.mean()) for k, v in scores.items()},
    }
    for name in ("mirror image", "alone"):
        gain = scores["neighbours"] - scores[name]
        low, high = bootstrap_interval(gain)
        table[f"gain over {name}"] = [float(gain.mean()), low, high]
    print(json.dumps(table, indent=2))
    if options.json is not None:
        options.json.write_text(json.dumps(table, indent=2) + "\n")


if __name__ == "__main__":
    main()
