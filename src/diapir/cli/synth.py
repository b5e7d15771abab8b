"""`diapir synth`: data that is drawn, not recorded."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from diapir.cli.console import Quiet
from diapir.cli.segy_options import takes_segy_options
from diapir.cli.verb import Verb

if TYPE_CHECKING:
    from diapir.io.segy import SegyOptions

app = typer.Typer(help="Generate synthetic data.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Generate synthetic data."""


@app.command(cls=Verb)
def tiles(
    out: Annotated[Path, typer.Argument(help="New folder in the competition's layout.")],
    number: Annotated[int, typer.Option("--n", min=10, help="Number of tiles in all.")] = 600,
    test_share: Annotated[
        float, typer.Option(min=0.0, max=0.9, help="Share of unlabelled tiles.")
    ] = 0.2,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same tiles.")] = 0,
    zipped: Annotated[bool, typer.Option("--zip", help="Write train.zip and test.zip.")] = False,
) -> None:
    """Draw tiles with layers, folds, faults and salt, with the quirks of the real data."""
    from diapir.runs.synth import draw_tiles

    unlabelled = max(1, round(number * test_share))
    labelled = number - unlabelled
    draw_tiles(out, labelled, unlabelled, seed=seed, zipped=zipped)
    typer.echo(f"{labelled:,} labelled and {unlabelled:,} test tiles are in {out}")


@app.command(cls=Verb)
@takes_segy_options
def survey(
    out: Annotated[Path, typer.Argument(help="SEG-Y file to write.")],
    truth: Annotated[
        Path | None, typer.Option("--truth", help="SEG-Y of 0 and 1; default: OUT-truth.sgy.")
    ] = None,
    size: Annotated[
        tuple[int, int, int], typer.Option("--size", help="Inlines, crosslines and samples.")
    ] = (96, 112, 160),
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same survey.")] = 0,
    spacing: Annotated[
        tuple[float, float], typer.Option(help="Metres between inlines and crosslines.")
    ] = (25.0, 25.0),
    first: Annotated[
        tuple[int, int], typer.Option(help="Numbers of the first inline and crossline.")
    ] = (
        1001,
        2001,
    ),
    step: Annotated[
        tuple[int, int], typer.Option(help="Steps between line numbers; negative: they fall.")
    ] = (1, 1),
    azimuth: Annotated[
        float, typer.Option(help="Where inline numbers rise to, degrees from north.")
    ] = 0.0,
    gaps: Annotated[float, typer.Option(min=0, max=0.9, help="Share of missing traces.")] = 0.0,
    dead: Annotated[float, typer.Option(min=0, max=0.9, help="Share of dead traces.")] = 0.0,
    duplicates: Annotated[int, typer.Option(min=0, help="Traces that occur twice.")] = 0,
    by_crossline: Annotated[
        bool, typer.Option("--by-crossline", help="Write crossline after crossline.")
    ] = False,
    no_salt: Annotated[bool, typer.Option("--no-salt", help="Draw sediments only.")] = False,
    quiet: Quiet = False,
    *,
    segy: "SegyOptions",
) -> None:
    """Draw a post-stack survey with salt, and write it and its truth as SEG-Y.

    The flags on reading SEG-Y say here how it is written: bytes, --format, --byte-order,
    --interval, --start and --unit. The others are refused.
    """
    from diapir.data.survey import SurveyPlan
    from diapir.runs.synth import draw_survey

    beside = truth or out.with_name(f"{out.stem}-truth{out.suffix or '.sgy'}")
    plan = SurveyPlan(
        shape=size,
        seed=seed,
        spacing_m=spacing,
        interval=segy.interval or 4.0,
        start=segy.start or 0.0,
        unit=segy.unit,
        first=first,
        step=step,
        azimuth=azimuth,
        gaps=gaps,
        dead=dead,
        duplicates=duplicates,
        by_crossline=by_crossline,
        salt=not no_salt,
    )
    made = draw_survey(out, beside, plan, options=segy, progress=not quiet)
    traces = int(made.geometry.trace_mask.sum()) + duplicates
    typer.echo(
        f"{traces:,} traces with {made.salt.mean():.1%} salt are in {out}, the truth is in {beside}"
    )
