"""`diapir info`: what a model file says of itself."""

from pathlib import Path
from typing import Annotated

import typer

from diapir.cli.console import Json, print_json, print_table


def info(
    model: Annotated[Path, typer.Argument(help="A model file.")], as_json: Json = False
) -> None:
    """Show the provenance, the recipe and the scores that a model file carries."""
    from diapir.models.modelfile import read_card
    from diapir.runs.report import provenance

    card = read_card(model)
    if as_json:
        facts = dict(provenance(card))
        settings = card.recipe.model_dump(mode="json")
        print_json({**facts, "metrics": card.metrics, "recipe_settings": settings})
        return
    print_table(str(model), ("what", "value"), provenance(card))
    if card.metrics:
        print_table("Scores", ("metric", "value"), sorted(card.metrics.items()))
