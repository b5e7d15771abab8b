"""One HTML page for a run: key figures, provenance, tables and figures, in a single file.

The page loads nothing from anywhere: pictures are embedded, nothing in it runs and there are no
fonts to fetch, and its content security policy says so. It is made for light and dark screens, for
phones, for paper and for screen readers. For programs, it holds what made it as a block of JSON.
"""

import base64
import io
import json
import re
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from matplotlib.figure import Figure

from diapir import __version__
from diapir.errors import RunError
from diapir.io.atomic import write_text_atomic
from diapir.io.json_text import json_text
from diapir.report.figures import DPI, figure_png, save_figure

Cell = str | int | float | bool | None
"""A value in a table; None shows as a dash."""

_ORIGIN = re.compile(rb'<script type="application/json" id="origin">(.*?)</script>', re.DOTALL)
_LARGEST_PAGE = 1 << 28
_PNG = b"\x89PNG\r\n\x1a\n"
_NUMBER = re.compile(r"[-+<>~ ]*[\d,.]+(e[-+]?\d+)?( ?(%|ft|s|min|h|ms|MB|GB|px))?$")


@dataclass(frozen=True)
class Card:
    """A key figure in the head of the page.

    Args:
        label: What it is, in a few words.
        value: The figure itself, ready to read, such as ``"0.834"``.
        note: A line beneath, such as its interval; may be empty.
    """

    label: str
    value: str
    note: str = ""


@dataclass(frozen=True)
class Table:
    """A table with a caption.

    Args:
        caption: What the table shows.
        columns: Names of C columns.
        rows: Rows of C cells; floats are shown with `decimals`, integers with thousands parted.
        decimals: Digits after the point of every float.

    Raises:
        ValueError: A row has another number of cells than there are columns.
    """

    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    decimals: int = 4

    def __post_init__(self) -> None:
        for number, row in enumerate(self.rows):
            if len(row) != len(self.columns):
                raise ValueError(
                    f"row {number} of the table {self.caption!r} has {len(row)} cells for "
                    f"{len(self.columns)} columns"
                )

    @property
    def texts(self) -> list[list[str]]:
        """Rows of cells as shown."""
        return [[_cell_text(cell, self.decimals) for cell in row] for row in self.rows]

    @property
    def numeric(self) -> list[bool]:
        """For each column whether it holds numbers only, which are set flush right."""
        columns = list(zip(*self.texts, strict=True)) or [() for _ in self.columns]
        return [
            any(text != _DASH for text in column)
            and all(text == _DASH or _NUMBER.match(text) is not None for text in column)
            for column in columns
        ]


@dataclass(frozen=True)
class Picture:
    """A PNG picture with its caption and its description in words.

    Args:
        png: The bytes of the PNG file.
        caption: What the picture shows and how to read it.
        alt: What somebody who cannot see it should know; never empty.

    Raises:
        ValueError: The bytes are no PNG, or a text is empty.
    """

    png: bytes = field(repr=False)
    caption: str
    alt: str

    def __post_init__(self) -> None:
        if not self.png.startswith(_PNG) or len(self.png) < 24:
            raise ValueError(f"the picture {self.caption!r} is no PNG")
        if not self.alt.strip() or not self.caption.strip():
            raise ValueError("a picture needs a caption and an alternative text")

    @classmethod
    def from_figure(cls, figure: Figure, caption: str, alt: str | None = None) -> "Picture":
        """Return the picture of a figure; its own description serves where `alt` is None."""
        return cls(figure_png(figure), caption, alt or str(figure.get_label()))

    @classmethod
    def from_file(cls, path: Path, caption: str, alt: str | None = None) -> "Picture":
        """Return a picture that `save_figure` wrote, with the description kept in it.

        Args:
            path: A PNG file.
            caption: What the picture shows.
            alt: Replaces the description in the file; needed where the file has none.

        Raises:
            OSError: The file cannot be read.
        """
        from PIL import Image

        png = path.read_bytes()
        if alt is None and png.startswith(_PNG):
            with Image.open(io.BytesIO(png)) as image:
                alt = str(image.info.get("Description", ""))
        return cls(png, caption, alt or "")

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels, from the PNG's header (PNG specification, 11.2.2)."""
        width, height = struct.unpack(">II", self.png[16:24])
        return width, height

    @cached_property
    def data_uri(self) -> str:
        """The picture as a ``data:`` address."""
        return f"data:image/png;base64,{base64.b64encode(self.png).decode('ascii')}"


def keep_picture(figure: Figure, path: Path, caption: str, *, dpi: int = DPI) -> Picture:
    """Save a figure as PNG, and return it as a picture for a page.

    Args:
        figure: The figure, with its description as its label.
        path: The file to write; its folder is created if it is missing.
        caption: What the picture shows.
        dpi: Dots per inch.

    Raises:
        RunError: The place cannot be written.
    """
    save_figure(figure, path, dpi=dpi)
    return Picture.from_file(path, caption)


@dataclass(frozen=True)
class Section:
    """A part of the page under a heading of its own, listed in the contents.

    Args:
        title: The heading.
        text: Paragraphs, plain text.
        tables: Shown after the text.
        pictures: Shown after the tables.
        commands: Command lines, shown last, to be copied.
    """

    title: str
    text: Sequence[str] = ()
    tables: Sequence[Table] = ()
    pictures: Sequence[Picture] = ()
    commands: Sequence[str] = ()


@dataclass(frozen=True)
class ReportContent:
    """Everything on the page.

    Args:
        title: Of the page, such as the name of the run.
        subtitle: One line beneath; may be empty.
        cards: The key figures.
        sections: The body.
        provenance: Name and value of what made this result: data, recipe, seed, versions.
        origin: The same and more for programs, as plain values that `json.dumps` takes; NaN is
            written as null.
    """

    title: str
    subtitle: str = ""
    cards: Sequence[Card] = ()
    sections: Sequence[Section] = ()
    provenance: Sequence[tuple[str, str]] = ()
    origin: Mapping[str, Any] = field(default_factory=dict)


def render_report(content: ReportContent) -> str:
    """Return the page as HTML; all text is escaped, and the same content gives the same page."""
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    source = resources.files("diapir.report") / "templates" / "report.html.jinja"
    template = environment.from_string(source.read_text(encoding="utf-8"))
    return template.render(content=content, version=__version__, origin=_origin_json(content))


def _origin_json(content: ReportContent) -> str:
    """Return what made the report as JSON that cannot end the element in which it stands.

    Source: HTML standard, 4.12.1.3: "</script" and "<!--" are what a script element must not hold.
    """
    table = {"title": content.title, "report_by": f"Diapir {__version__}", **content.origin}
    text = json_text(table)
    for mark in "<>&":
        text = text.replace(mark, f"\\u{ord(mark):04x}")
    return text


def read_report_origin(page: Path) -> dict[str, Any]:
    """Return what a page that `write_report` wrote says of how it was made.

    Raises:
        RunError: It cannot be read, is no such page, or is damaged.
    """
    mend = "Give a report.html that Diapir wrote, in version 0.1 or later."
    try:
        if page.stat().st_size > _LARGEST_PAGE:
            raise RunError(
                f"{page.stat().st_size:,} bytes, more than any report", where=page, mend=mend
            )
        found = _ORIGIN.search(page.read_bytes())
        table = None if found is None else json.loads(found[1])
    except (OSError, ValueError, RecursionError) as error:
        raise RunError(f"cannot read the report: {error}", where=page, mend=mend) from error
    if not isinstance(table, dict):
        raise RunError("this page does not say how it was made", where=page, mend=mend)
    return table


def write_report(path: Path, content: ReportContent) -> None:
    """Write the page, whole or not at all.

    Args:
        path: The HTML file to write; its folder is created if it is missing.
        content: What to show.

    Raises:
        RunError: The place cannot be written.
    """
    write_text_atomic(path, render_report(content))


_DASH = "\N{EN DASH}"


def _cell_text(cell: Cell, decimals: int) -> str:
    if cell is None or cell != cell:  # NaN is not equal to itself
        return _DASH
    if isinstance(cell, bool):
        return "yes" if cell else "no"
    if isinstance(cell, int):
        return f"{cell:,}"
    return f"{cell:.{decimals}f}" if isinstance(cell, float) else str(cell)
