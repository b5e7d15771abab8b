"""`diapir synth`: data that is drawn, not recorded."""

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="Generate synthetic data.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Generate synthetic data."""


@app.command()
def tiles(
    out: Annotated[Path, typer.Argument(help="New folder in the competition's layout.")],
    number: Annotated[int, typer.Option("--n", min=10, help="Tiles in all.")] = 600,
    test_share: Annotated[float, typer.Option(min=0.0, max=0.9, help="Unlabelled share.")] = 0.2,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same tiles.")] = 0,
    zipped: Annotated[bool, typer.Option("--zip", help="Write train.zip and test.zip.")] = False,
) -> None:
    """Draw tiles with layers, folds, faults and salt, with the quirks of the real data."""
    from diapir.data.competition import write_competition
    from diapir.data.synthetic import generate_tiles

    unlabelled = max(1, round(number * test_share))
    labelled = generate_tiles(number - unlabelled, seed)
    test = generate_tiles(unlabelled, seed + 1, labelled=False)
    write_competition(out, labelled, test, zipped=zipped)
    typer.echo(f"{len(labelled):,} labelled and {len(test):,} test tiles are in {out}")
