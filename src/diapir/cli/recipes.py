"""`diapir recipes`: what can be trained by name."""

from diapir.cli.console import Json, print_json, print_table


def recipes(as_json: Json = False) -> None:
    """List the recipes that come with Diapir."""
    from diapir.config import load_recipe, recipe_names

    found = [(name, load_recipe(name).description) for name in recipe_names()]
    if as_json:
        print_json([{"name": name, "description": text} for name, text in found])
    else:
        print_table("Recipes", ("name", "what it is"), found)
