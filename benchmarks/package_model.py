"""Make a run the packaged model, and write its scores into its card.

    python benchmarks/package_model.py RUN --like docs/results/NAME

RUN trained on every labelled tile, so no tile is left to score it. --like names the record of a
run of the same recipe on a part of the tiles; docs/model-card.md tells the hold-out scores of that
one, and goes into the model file. In place of RUN the packaged file itself may be given, to write a
card into it that has changed.
"""

import argparse
import json
import re
from dataclasses import replace
from pathlib import Path

from pages import fill

from diapir.config import Recipe, load_recipe
from diapir.models.modelfile import load_model, save_model
from diapir.models.packaged import packaged_model
from diapir.runs.results import score_tables

CARD = Path(__file__).parents[1] / "docs" / "model-card.md"
_MEBIBYTES = 10


def main() -> None:
    """Write the model file and the card."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--like", type=Path, required=True)
    given = parser.parse_args()
    net, card = load_model(given.run / "model.safetensors" if given.run.is_dir() else given.run)
    like = load_recipe(str(given.like / "recipe.json"))
    if training_of(like) != training_of(card.recipe):
        raise SystemExit(f"{given.like} and {given.run} were not trained alike")
    CARD.write_text(with_scores(CARD.read_text(encoding="utf-8"), given.like), encoding="utf-8")
    save_model(packaged_model(), net, replace(card, notes=notes_of_page()), half=True)
    size = packaged_model().stat().st_size / 2**20
    if size > _MEBIBYTES:
        raise SystemExit(f"{size:.1f} MiB, more than {_MEBIBYTES}")
    print(f"{packaged_model()}: {len(card.train_ids):,} training tiles, {size:.1f} MiB")


def training_of(recipe: Recipe) -> Recipe:
    """Return what makes two trainings alike: all but the names and the split."""
    plain = Recipe()
    same = {"name": plain.name, "description": plain.description, "split": plain.split}
    return recipe.model_copy(update=same)


def with_scores(page: str, like: Path) -> str:
    """Return a page with the scores of a recorded run between its marks."""
    record = json.loads((like / "metrics.json").read_text(encoding="utf-8"))
    tiles = record["tiles"]
    told = (
        f"Trained with the same recipe on {tiles['train']:,} tiles and scored on "
        f"{tiles['holdout']:,} others, with 95 % intervals:"
    )
    return fill(page, "scores", "\n".join([told, "", *score_tables(record["holdout"])]))


def notes_of_page() -> str:
    """Return the card as it stands in the model file: the page without its marks."""
    page = CARD.read_text(encoding="utf-8")
    return re.sub(r"<!-- scores:(begin|end) -->\n", "", page)


if __name__ == "__main__":
    main()
