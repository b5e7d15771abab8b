"""Text that a program writes into a page of the docs, between two marks."""


def fill(page: str, name: str, text: str) -> str:
    """Return a page with another text between the marks of this name.

    Args:
        page: Has `<!-- NAME:begin -->` and `<!-- NAME:end -->`, each once.
        name: Of the marks.
        text: Goes between them.

    Raises:
        ValueError: The page lacks a mark.
    """
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    before, found, rest = page.partition(begin)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        raise ValueError(f"the page lacks {begin} or, after it, {end}")
    return f"{before}{begin}\n{text}\n{end}{after}"
