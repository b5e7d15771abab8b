"""One kind of progress bar for everything that counts towards a known end."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import ProgressColumn


@contextmanager
def counting(total: int, what: str, *, shown: bool) -> Iterator[Callable[[int], None]]:
    """Show a bar on standard error with count, time gone and time left while the block runs.

    Args:
        total: Steps in all.
        what: Written before the bar.
        shown: Without it nothing is written, and the function does nothing.

    Yields:
        A function to call with the number of steps just done.
    """
    if not shown:
        yield lambda _: None
        return
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with _bar(columns, what, total) as advance:
        yield advance


@contextmanager
def pulsing(what: str, *, shown: bool) -> Iterator[Callable[[int], None]]:
    """Show a count without a known end on standard error while the block runs.

    Args:
        what: Written before the count.
        shown: Without it nothing is written, and the function does nothing.

    Yields:
        A function to call with the number of steps just done.
    """
    if not shown:
        yield lambda _: None
        return
    from rich.progress import BarColumn, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:,.0f}"),
        TimeElapsedColumn(),
    )
    with _bar(columns, what, None, transient=True) as advance:
        yield advance


@contextmanager
def _bar(
    columns: "Sequence[ProgressColumn]", what: str, total: int | None, *, transient: bool = False
) -> Iterator[Callable[[int], None]]:
    from rich.console import Console
    from rich.progress import Progress

    with Progress(*columns, console=Console(stderr=True), transient=transient) as bar:
        task = bar.add_task(what, total=total)
        yield lambda steps: bar.advance(task, steps)
