"""`diapir info`: what a model file or a result says of itself."""

from pathlib import Path
from typing import Annotated

import typer

from diapir.cli.console import Json, print_json, print_table, printable


def info(
    model: Annotated[
        Path,
        typer.Argument(
            metavar="FILE", help="A model file, a submission, a report, or a .json of a run."
        ),
    ],
    as_json: Json = False,
) -> None:
    """Show what a model file carries, or what made a submission, a report or a run."""
    if model.suffix.lower() in (".csv", ".json", ".html"):
        from diapir.runs.origin import read_origin

        rows = read_origin(model)
        if as_json:
            print_json(dict(rows))
        else:
            print_table(str(model), ("what", "value"), rows)
        return

    from diapir.models.modelcard import read_card
    from diapir.runs.provenance import provenance

    card = read_card(model)
    if as_json:
        facts = dict(provenance(card))
        settings = card.recipe.model_dump(mode="json")
        told = {"metrics": card.metrics, "recipe_settings": settings, "notes": card.notes}
        print_json({**facts, **told})
        return
    print_table(str(model), ("what", "value"), provenance(card))
    if card.metrics:
        print_table("Scores", ("metric", "value"), sorted(card.metrics.items()))
    if card.notes:
        typer.echo(printable(card.notes))
