"""Tables in Markdown."""

from collections.abc import Sequence


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
