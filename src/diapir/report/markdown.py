"""Tables in Markdown, and what stands in their cells."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from diapir.metrics.bootstrap import bootstrap_interval


def markdown_table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> list[str]:
    """Return the lines of a table.

    >>> markdown_table(("what", "count"), [("tiles", 3)])
    ['| what | count |', '| --- | --- |', '| tiles | 3 |']
    """
    return [
        f"| {' | '.join(columns)} |",
        "|" + " --- |" * len(columns),
        *(f"| {' | '.join(str(cell) for cell in row)} |" for row in rows),
    ]


def mean_with_interval(values: NDArray[np.float64], form: str) -> str:
    """Return the mean of values with its 95 % bootstrap interval.

    Args:
        values: (N,), one a tile.
        form: Of each number, such as '.3f', or '+.3f' for gains.

    >>> mean_with_interval(np.full(9, 0.25), "+.3f")
    '+0.250 (+0.250 to +0.250)'
    """
    low, high = bootstrap_interval(values)
    return f"{values.mean():{form}} ({low:{form}} to {high:{form}})"
