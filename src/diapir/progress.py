"""One kind of progress bar for everything that counts towards a known end."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager


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
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
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
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(what, total=total)
        yield lambda steps: bar.advance(task, steps)


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
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:,.0f}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=None)
        yield lambda steps: bar.advance(task, steps)
