"""What a submission, a report, an evaluation or a run says of how it was made."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from diapir.errors import RunError
from diapir.io.digests import file_sha256
from diapir.runs.folder import read_json

_NESTED = ("provenance", "versions", "models", "tiles", "metrics")
"""Tables inside that belong to it; the rest are curves and scores by group."""


def read_origin(path: Path) -> list[tuple[str, str]]:
    """Return what a file's own JSON says of it, as rows of name and value.

    Args:
        path: A submission, beside which the `.json` of the same name lies; or such a JSON file:
            that of a submission, `metrics.json`, `evaluation.json` or `map.json`; or a report.

    Raises:
        RunError: Nothing says it, or that is damaged.
    """
    if path.suffix.lower() == ".html":
        from diapir.report.html import read_report_origin  # matplotlib comes with it

        return list(_rows(read_report_origin(path)))
    if path.suffix.lower() == ".json":
        return list(_rows(read_json(path)))
    beside = path.with_suffix(".json")
    if not beside.is_file():
        raise RunError(
            "nothing says how this file was made",
            where=path,
            expected=f"{beside.name} beside it, as 'diapir submit' writes it",
            mend="Give a model file, a submission with its .json, or a .json of a run.",
        )
    table = read_json(beside)
    rows = list(_rows(table))
    known = table.get("sha256")
    if known is not None and known != _digest(path):
        rows.insert(0, ("changed", "the file is another than was written then"))
    return rows


def _digest(path: Path) -> str:
    try:
        return file_sha256(path)
    except OSError as error:
        raise RunError(f"cannot read the file: {error.strerror or error}", where=path) from error


def _rows(table: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, value in table.items():
        if isinstance(value, list) and name == "models":
            for number, model in enumerate(value, start=1):
                if isinstance(model, dict):
                    yield from _rows(model, f"{prefix}model {number} ")
        elif isinstance(value, dict) and name in _NESTED:
            inner = "" if name in ("provenance", "versions") else f"{name} "
            yield from _rows(value, f"{prefix}{inner}")
        elif isinstance(value, str | int | float) or value is None:
            yield f"{prefix}{name}", "-" if value is None else str(value)
