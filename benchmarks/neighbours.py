"""Does it help to show a network the neighbours of a tile? Scores labelled tiles both ways.

    python benchmarks/neighbours.py MODEL DATA [--all] [--false-share 0.02] [--json FILE]

Only labelled tiles with a known neighbour are scored, and of these only those that the model's
training has not seen, unless --all is given, which flatters both ways alike. MODEL may be the
folder of a run with folds: then each tile is predicted by the fold that validated on it. The gain
is paired by tile, with a bootstrap interval.
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diapir.data.mosaic import Mosaics, find_mosaics
from diapir.inference.neighbours import MARGIN, predict_with_neighbours
from diapir.inference.predict import PredictOptions, Predictor, load_predictor
from diapir.io.tiles import Tiles
from diapir.metrics.bootstrap import bootstrap_interval
from diapir.metrics.score import tile_counts, tile_scores
from diapir.runs.mosaic import read_all
from diapir.runs.out_of_fold import run_models


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
    tiles, labelled, _ = read_all(options.data)
    found = find_mosaics(tiles.images, false_share=options.false_share)
    candidates = labelled & (found.groups() >= 0)
    folds = options.model.is_dir()
    parts = []
    # a fold's last network and its snapshots are of the same tiles
    places = dict.fromkeys(file.parent for file in run_models(options.model)) if folds else ()
    for files in [sorted(place.glob("*.safetensors")) for place in places] or [[options.model]]:
        predictor, (card, *_) = load_predictor(files, PredictOptions())
        unseen = set(tiles.ids) - {*card.train_ids, *card.val_ids}
        own = set(card.val_ids) if folds else set(tiles.ids) if options.all else unseen
        chosen = np.flatnonzero(candidates & np.array([id_ in own for id_ in tiles.ids]))
        parts.append(score_three_ways(predictor, tiles, found, chosen, options.margin))
    scores = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    table: dict[str, Any] = {
        "tiles": len(scores["alone"]),
        "scores": {k: float(v.mean()) for k, v in scores.items()},
    }
    for name in ("mirror image", "alone"):
        gain = scores["neighbours"] - scores[name]
        low, high = bootstrap_interval(gain)
        table[f"gain over {name}"] = [float(gain.mean()), low, high]
    print(json.dumps(table, indent=2))
    if options.json is not None:
        options.json.write_text(json.dumps(table, indent=2) + "\n")


def score_three_ways(
    predictor: Predictor, tiles: Tiles, found: Mosaics, chosen: NDArray[np.intp], margin: int
) -> dict[str, NDArray[np.float64]]:
    """Return the scores of the chosen tiles: alone, mirrored at their borders, with neighbours."""

    def around(mosaics: Mosaics) -> NDArray[np.float32]:
        probs = predictor.predict_probs
        return predict_with_neighbours(tiles.images, mosaics, probs, chosen, margin=margin)

    ways = {
        "alone": predictor.predict_probs(tiles.images[chosen]),
        "mirror image": around(replace(found, mosaics=())),
        "neighbours": around(found),
    }
    truth = tiles.truth[chosen]
    return {
        name: tile_scores(tile_counts(predictor.make_masks(probs), truth))
        for name, probs in ways.items()
    }


if __name__ == "__main__":
    main()
