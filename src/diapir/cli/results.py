"""`diapir results`: finished runs as one page."""

from pathlib import Path
from typing import Annotated

import typer


def results(
    runs: Annotated[
        list[Path] | None,
        typer.Argument(help="Folders of finished runs; none: redraw the page of those kept."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="Markdown file; default: results.md, or tried.md."),
    ] = None,
    submission: Annotated[
        list[Path] | None,
        typer.Option(help="A .json file that 'diapir submit' wrote; repeatable."),
    ] = None,
    compare: Annotated[
        bool, typer.Option("--compare", help="One table of what was tried, against a baseline.")
    ] = False,
    baseline: Annotated[
        Path | None, typer.Option(help="With --compare: this run; default: the first one.")
    ] = None,
    on: Annotated[
        str | None,
        typer.Option(
            help="With --compare: validation (of runs with folds their out-of-fold tiles) or "
            "hold-out; default: as the page was, at first validation."
        ),
    ] = None,
    groups: Annotated[
        Path | None,
        typer.Option(
            help="With --compare: a table id,group; compare on tiles with neighbours too."
        ),
    ] = None,
    title: Annotated[
        str | None,
        typer.Option(help="Heading of the page; default: as it was."),
    ] = None,
) -> None:
    """Write a page of results, with commands and figures, from finished runs alone.

    What it needs of a run is kept beside the page, so that later runs join the earlier ones. With
    --compare the page is one table: what differs from a baseline, gain and its interval.
    """
    if not compare and (baseline, on, groups) != (None, None, None):
        raise typer.BadParameter("--baseline, --on and --groups go with --compare")
    if compare and submission:
        raise typer.BadParameter("--submission does not go with --compare")
    from diapir.runs.comparison import write_comparison
    from diapir.runs.results import write_results

    if compare:
        out = out or Path("tried.md")
        count = write_comparison(
            runs or [], out, part=on, baseline=baseline, groups=groups, title=title
        )
    else:
        out = out or Path("results.md")
        count = write_results(runs or [], submission or [], out, title=title)
    typer.echo(f"{count:,} runs are in {out}")
