"""Writes what `performance.py` measured as pages: one a machine, and the tables of the docs.

    python benchmarks/performance_page.py

Reads benchmarks/results/MACHINE.json, writes MACHINE.md beside each, and replaces what stands
between the marks in docs/performance.md.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pages import fill

from diapir.io.atomic import write_text_atomic

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
DOCS_PAGE = ROOT / "docs" / "performance.md"

HEAD = ["target", "what", "measured", "quartiles", "wanted", "holds"]
NOT_YET = "Not measured yet."


def machine_page(found: dict[str, Any], figures: str = "../../docs/figures") -> str:
    """Return the page of one machine: everything that was measured on it.

    Args:
        found: What the JSON file of the machine holds.
        figures: Folder of the pictures, seen from the page.
    """
    parts = [f"# Performance: {found['machine']}", _ABOUT, overview(found)]
    for name, measured in found["measurements"].items():
        parts += [f"## {name}", _obtained(measured)]
        explained = details(measured, f"{figures}/{found['name']}")
        parts += [explained] if explained else []
    return "\n\n".join(parts) + "\n"


_ABOUT = (
    "Written by `benchmarks/performance.py` from the JSON file beside this page; nothing in it is "
    "typed by hand. [docs/performance.md](../../docs/performance.md) says what is measured and how."
)


def overview(found: dict[str, Any]) -> str:
    """Return every row with its limit, in the order of the targets."""
    rows = [row for part in found["measurements"].values() for row in part["rows"]]
    rows.sort(key=lambda row: [int(n) if n.isdigit() else 99 for n in row["target"].split(".")])
    return table(HEAD, [_cells(row) for row in rows]) if rows else NOT_YET


def details(measured: dict[str, Any], figures: str) -> str:
    """Return the notes of the rows, and the pictures and tables that explain them."""
    parts = [f"- {note}" for note in _notes(measured)]
    parts += [f"\n![{text}]({figures}/{name})" for name, text in measured["figures"].items()]
    for shown in measured["tables"]:
        parts += [f"\n**{shown['title']}**\n", table(shown["head"], shown["cells"])]
        parts += [f"\n{shown['note']}"] if shown["note"] else []
    return "\n".join(parts).strip()


def _notes(measured: dict[str, Any]) -> list[str]:
    return list(dict.fromkeys(row["note"] for row in measured["rows"] if row["note"]))


def _obtained(measured: dict[str, Any]) -> str:
    return (
        f"```sh\n{measured['command']}\n```\n\n"
        f"{measured['date']}, {measured['machine']}, source `{measured['source'][:12]}`, "
        f"effort {measured['effort']}, {measured['seconds']:.0f} s."
    )


def _cells(row: dict[str, Any]) -> list[str]:
    value, unit = row["value"], row["unit"]
    measured = f"{number(value)}{_gap(unit)}"
    if row["baseline"] is not None:
        measured += f" ({number(row['baseline'])} s / {number(row['candidate'])} s"
        cores = row["cores"]
        measured += f"; {cores[0]:.1f} / {cores[1]:.1f} cores)" if cores else ")"
    ends = row["quartiles"]
    between = "" if ends is None else f"{number(ends[0])} to {number(ends[1])}, {row['rounds']} x"
    sign = "at least" if row["at_least"] else "at most"
    wanted = "" if row["limit"] is None else f"{sign} {number(row['limit'])}{_gap(unit)}"
    holds = {True: "yes", False: "**no**", None: ""}[row["holds"]]
    return [row["target"], row["what"], measured, between, wanted, holds]


def _gap(unit: str) -> str:
    return f" {unit}" if unit and unit != "x" else unit


def number(value: float) -> str:
    """Return a number with three digits that count.

    >>> number(0.01234), number(3.456), number(1234.5), number(0), number(1e-7)
    ('0.0123', '3.46', '1,234', '0', '1e-07')
    """
    if value == 0 or (float(value).is_integer() and abs(value) < 1000):
        return f"{value:.0f}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def table(head: Sequence[str], cells: Sequence[Sequence[Any]]) -> str:
    """Return rows of cells under a head; numbers get three digits that count."""
    lines = [head, ["---"] * len(head), *cells]
    shown = [[c if isinstance(c, str) else number(c) for c in line] for line in lines]
    return "\n".join(f"| {' | '.join(line)} |" for line in shown)


def machines(results: Path = RESULTS) -> list[dict[str, Any]]:
    """Return what was measured on every machine."""
    paths = sorted(page.with_suffix(".json") for page in results.glob("*.md"))
    return [json.loads(path.read_text(encoding="utf-8")) for path in paths]


def render(page: str, found: Sequence[dict[str, Any]]) -> str:
    """Return the page of the docs: tables of machines that were measured in all, links to others.

    Args:
        page: As it is.
        found: What was measured on each machine; the time to score stands there for all of them.
    """
    whole = [machine for machine in found if set(machine["measurements"]) >= WHOLE]
    for name, write in SECTIONS.items():
        # a comparison of its own, on whatever machine it was made
        shown = found if name == "time_to_score" else whole
        parts = [part for part in map(write, shown) if part]
        page = fill(page, name, "\n\n".join(parts) or NOT_YET)
    others = [_link(machine) for machine in found if machine not in whole]
    return fill(page, "others", "\n".join(others) or "None yet.")


def _link(found: dict[str, Any]) -> str:
    rows = [row for part in found["measurements"].values() for row in part["rows"]]
    verdicts = [row["holds"] for row in rows if row["holds"] is not None]
    return (
        f"- [{found['machine']}](../benchmarks/results/{found['name']}.md): "
        f"{', '.join(found['measurements'])}; {sum(verdicts)} of {len(verdicts)} limits are kept"
    )


def _targets(found: dict[str, Any]) -> str:
    return f"**{found['machine']}**\n\n{overview(found)}"


def _explained(name: str) -> Any:
    def write(found: dict[str, Any]) -> str:
        measured = found["measurements"].get(name)
        if not measured:
            return ""
        explained = details(measured, f"figures/{found['name']}")
        return f"**{found['machine']}**\n\n{explained}" if explained else ""

    return write


def _times_to_score(found: dict[str, Any]) -> str:
    measured = found["measurements"].get("time_to_score")
    if not measured:
        return ""
    rows = table(HEAD, [_cells(row) for row in measured["rows"]])
    return f"**{found['machine']}**\n\n{rows}\n\n{details(measured, '')}"


SECTIONS = {"targets": _targets, "time_to_score": _times_to_score} | {
    name: _explained(name)
    for name in (
        "peak",
        "inference",
        "accuracy",
        "int8",
        "training",
        "submission",
        "growth",
    )
}

WHOLE = set(SECTIONS) - {"targets", "time_to_score"}
"""What must have been measured on a machine for its tables to stand in the docs."""


def write_pages(results: Path) -> None:
    """Write the page of each machine in a folder; for the published ones the docs' tables, too."""
    published = results == RESULTS
    for path in sorted(results.glob("*.md")):
        found = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        page = machine_page(found) if published else machine_page(found, ".")
        write_text_atomic(path, page)
    if published:
        page = DOCS_PAGE.read_text(encoding="utf-8")
        write_text_atomic(DOCS_PAGE, render(page, machines(results)))


if __name__ == "__main__":
    write_pages(RESULTS)
