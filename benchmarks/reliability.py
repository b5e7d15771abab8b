"""Writes the figures of docs/reliability.md from what the other programs have counted.

    python benchmarks/reliability.py

Reads the JSON files in docs/reliability/ and replaces what stands between the marks in the page.
"""

import json
from pathlib import Path
from typing import Any

from pages import fill

from diapir.io.atomic import write_text_atomic

DOCS = Path(__file__).parents[1] / "docs"
PAGE = DOCS / "reliability.md"


def kills(found: dict[str, Any]) -> str:
    """Return what became of killed trainings, in a table."""
    stops = [
        f"| {stop['signal']} to a training | exit {stop['exit_code']} after {stop['seconds']:g} s"
        f"{_processor(stop)}, "
        f"model {'saved' if stop['has_model'] else 'missing'} |"
        for stop in found["stops"]
    ]
    rows = [
        ("trainings killed with SIGKILL", found["kills"]),
        ("of these in the middle of writing a checkpoint", found["while_writing_a_checkpoint"]),
        (
            "of these before the run had begun, so that nothing was there",
            found["before_it_had_begun"],
        ),
        ("of these not before the training had ended by itself", found["after_it_had_ended"]),
        ("ended with the metrics, history and weights of the reference", found["survived"]),
        ("most finished epochs that had to be trained again", found["most_epochs_lost"]),
    ]
    return table([*(f"| {name} | {value} |" for name, value in rows), *stops])


def _processor(stop: dict[str, Any]) -> str:
    # the machine may have been busy with other things
    used = stop.get("processor_seconds")
    return "" if used is None else f" ({used:g} s of the processor)"


def fuzz(found: dict[str, Any]) -> str:
    """Return the counts of mutated inputs, a row a reader."""
    head = ["| reader | inputs | read | refused | failed | longest | most memory |"]
    head += ["|---|---|---|---|---|---|---|"]
    rows = [
        f"| {name} | {n['tried']:,} | {n['read']:,} | {n['refused']:,} | {n['failed']} | "
        f"{n['longest_seconds']:g} s | {n['most_mebibytes']} MiB |"
        for name, n in found["readers"].items()
    ]
    total = (
        f"{found['tried']:,} inputs of {found['asked']:,} that were asked for, in "
        f"{found['minutes']:g} minutes; {found['failed']} failed."
    )
    return "\n".join([*head, *rows, "", total])


def hostile(found: dict[str, Any]) -> str:
    """Return the counts of hostile model files."""
    rows = [
        f"| hostile files made | {found['tried']} |",
        f"| refused with the error that says what and where | {found['refused']} |",
        f"| got through, ran code, or broke a limit | {found['failed'] + found['read']} |",
        f"| longest | {found['longest_seconds']:g} s |",
        f"| most memory | {found['most_mebibytes']} MiB |",
    ]
    return table(rows)


def disks(found: dict[str, Any]) -> str:
    """Return what became of verbs on full and read-only disks."""
    rows = [
        f"| verbs that write | {found['verbs']} |",
        f"| times one ran on a full or a read-only disk | {found['tried']} |",
        f"| told with one error and exit code 2 | {found['told']} |",
        f"| ended well with the little that was left | {found['had_room']} |",
        f"| left every file as it was or whole | {found['whole']} |",
        f"| failed | {found['failed']} |",
    ]
    return "\n".join([table(rows), "", f"Tried: {_verbs(found)}."])


def crowds(found: dict[str, Any]) -> str:
    """Return what became of two processes in one place."""
    rows = [
        f"| verbs run twice at once into one place | {found['verbs']} |",
        f"| of these, would write the same files | {found['collided']} |",
        f"| of these, the second was told so and wrote nothing | {found['told']} |",
        f"| failed | {found['failed']} |",
    ]
    return "\n".join([table(rows), "", f"Tried: {_verbs(found)}."])


def _verbs(found: dict[str, Any]) -> str:
    return ", ".join(f"`{verb}`" for verb in dict.fromkeys(one["verb"] for one in found["each"]))


def table(rows: list[str]) -> str:
    """Return rows of two cells under a head."""
    return "\n".join(["| what | count |", "|---|---|", *rows])


SECTIONS = {"kills": kills, "fuzz": fuzz, "hostile": hostile, "disks": disks, "crowds": crowds}


def render(page: str) -> str:
    """Return the page with the figures of the counts that there are."""
    for name, write in SECTIONS.items():
        counts = DOCS / "reliability" / f"{name}.json"
        text = "Not counted yet."
        if counts.is_file():
            text = write(json.loads(counts.read_text(encoding="utf-8")))
        page = fill(page, name, text)
    return page


if __name__ == "__main__":
    write_text_atomic(PAGE, render(PAGE.read_text(encoding="utf-8")))
