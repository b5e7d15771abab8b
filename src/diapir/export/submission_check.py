"""Every fault of anyone's submission file, with its row and its mend.

The file is read by hand, line by line, and not by a CSV reader: a reader stops at the first fault
or silently takes what the competition would refuse. What a wrong header tells about the rest of the
file (another separator, an index column) is used to read on, so that no fault hides another.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from diapir.errors import DataError, SubmissionError
from diapir.io.csv_tables import MAX_TABLE_BYTES, MAX_TABLE_ROWS, RLE_HEADER
from diapir.io.rle import parse_rle

LIMIT = 20
"""Problems of one kind that are named before the rest is only counted."""

_HEADER = ",".join(RLE_HEADER)
_HEADER_MEND = f"Write exactly {_HEADER!r}."
_NOT_TEXT = (
    (b"PK\x03\x04", "a zip archive or an Excel workbook", "Unpack it, or export the sheet as CSV."),
    (b"\x1f\x8b", "a gzip archive", "Unpack it with gunzip."),
    (b"\xff\xfe", "UTF-16 text", "Save it as UTF-8."),
    (b"\xfe\xff", "UTF-16 text", "Save it as UTF-8."),
    (b"\x89PNG", "a PNG image", "Give the CSV file."),
    (b"%PDF", "a PDF document", "Give the CSV file."),
)
_STAND_INS = {
    "nan", "null", "none", "na", "n/a", "#n/a", "<na>", "nat", "[]", "()", "{}", "''", "-", "-1",
    "0", "0 0", "1 0", "empty",
}  # fmt: skip


@dataclass(frozen=True)
class Problem:
    """One fault of a submission, or the count of the rest of its kind.

    Args:
        kind: What sort of fault it is; one of the words in `KINDS`.
        message: What is wrong, with the value that was found.
        mend: What to do.
        row: Line in the file, the header being 1; None where the fault has no line.
        count: How many faults this entry stands for.
    """

    kind: str
    message: str
    mend: str
    row: int | None = None
    count: int = 1

    def __str__(self) -> str:
        place = "" if self.row is None else f"row {self.row}: "
        return f"{place}{self.message} {self.mend}"

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain values."""
        return asdict(self)


KINDS = (
    "not text",
    "empty",
    "byte-order mark",
    "header",
    "separator",
    "columns",
    "quotes",
    "blank row",
    "unknown id",
    "duplicate id",
    "missing id",
    "run-lengths",
)
"""Every kind of problem that `check_submission` tells apart."""


def check_submission(
    file: Path,
    expected_ids: Iterable[str],
    shape: tuple[int, int],
    *,
    limit: int = LIMIT,
) -> list[Problem]:
    """Return everything that is wrong with a submission file; an empty list is a valid one.

    Windows and old Mac line ends, blank lines at the end and any order of the rows are fine. Masks
    written row by row instead of column by column cannot be told from others.

    Args:
        file: Anyone's file.
        expected_ids: Names of all test tiles.
        shape: (H, W) of the tiles.
        limit: Problems named of each kind; one more entry counts the rest. At least 1.

    Returns:
        Problems in the order of their rows, those of the whole file first, missing ids last.

    Raises:
        SubmissionError: There is no such file, it is a folder, or it cannot be read.
    """
    data = _read(file)
    unreadable = _refuse_bytes(data)
    if unreadable is not None:
        return [unreadable]
    return _cut_short(_find_problems(data.decode("utf-8"), list(expected_ids), shape), limit)


def _read(file: Path) -> bytes:
    try:
        size = file.stat().st_size
        data = file.read_bytes() if size <= MAX_TABLE_BYTES else b""
        if size > MAX_TABLE_BYTES or data.count(b"\n") + data.count(b"\r") > 2 * MAX_TABLE_ROWS:
            raise SubmissionError(
                f"the submission has {size:,} bytes",
                where=file,
                expected=f"at most {MAX_TABLE_ROWS:,} rows and {MAX_TABLE_BYTES:,} bytes",
                mend="Give the CSV file of a submission.",
            )
        return data
    except OSError as error:
        raise SubmissionError(
            f"cannot read the submission: {error.strerror or error}",
            where=file,
            mend="Give the path of a CSV file.",
        ) from error


def _refuse_bytes(data: bytes) -> Problem | None:
    for start, name, mend in _NOT_TEXT:
        if data.startswith(start):
            return Problem("not text", f"The file is {name}, not CSV text.", mend)
    mend = "Export it as CSV in UTF-8."
    if b"\x00" in data:
        place = data.index(b"\x00")
        message = f"Byte {place} is 0: this is not a text file."
        return Problem("not text", message, mend, _row_of(data, place))
    try:
        data.decode("utf-8")
    except UnicodeDecodeError as error:
        place = error.start
        message = f"Byte {place} (0x{data[place]:02x}) is not UTF-8 text."
        return Problem("not text", message, mend, _row_of(data, place))
    return None


def _row_of(data: bytes, place: int) -> int:
    return len(re.findall(rb"\r\n|\r|\n", data[:place])) + 1


class _Layout(NamedTuple):
    """How the lines of this file are to be read, right or wrong as it may be."""

    separator: str
    id_column: int
    rle_column: int
    columns: int
    first_row: int


_EXPECTED_LAYOUT = _Layout(",", 0, 1, 2, 2)


def _find_problems(text: str, expected: list[str], shape: tuple[int, int]) -> Iterator[Problem]:
    if text.startswith("\ufeff"):
        yield Problem(
            "byte-order mark",
            "The file begins with a byte-order mark, which sticks to the name of the first column.",
            "Save it as UTF-8 without BOM (in pandas: encoding='utf-8').",
            1,
        )
        text = text[1:]
    # Not str.splitlines, which also breaks at form feeds and other marks within a row.
    lines = re.split(r"\r\n|\r|\n", text)
    while lines and not lines[-1].strip():
        lines.pop()
    if not lines:
        yield Problem("empty", "The file is empty.", f"Begin it with {_HEADER!r}.")
        return
    layout, faults = _read_header(lines[0])
    yield from faults
    known, seen = set(expected), dict[str, int]()
    for row, line in enumerate(lines[layout.first_row - 1 :], start=layout.first_row):
        yield from _check_row(line, row, layout, known, seen, shape)
    yield from _find_missing(expected, seen)


def _read_header(line: str) -> tuple[_Layout, list[Problem]]:
    """Return how to read on after this first line, so that one fault does not hide the others."""
    if line == _HEADER:
        return _EXPECTED_LAYOUT, []
    separator = next((mark for mark in ",;\t|" if mark in line), ",")
    names = [name.strip().strip("\"'").strip() for name in line.split(separator)]
    lowered = [name.lower() for name in names]
    if not set(RLE_HEADER) <= set(lowered):
        return _read_strange_header(line, lowered, separator)
    layout = _Layout(separator, lowered.index("id"), lowered.index("rle_mask"), len(names), 2)
    return layout, list(_name_header_faults(line, names, layout))


def _name_header_faults(line: str, names: list[str], layout: _Layout) -> Iterator[Problem]:
    found = f"The header is {_shorten(line)!r}"
    fine = True
    if layout.separator != ",":
        message = f"{found}: the columns are not separated by commas."
        yield Problem("separator", message, "Export with commas.", 1)
        fine = False
    if layout.columns > 2:
        others = [name or "a nameless one" for name in names if name.lower() not in RLE_HEADER]
        message = f"{found}: columns too many ({_shorten(', '.join(others)) or 'one twice'})."
        mend = "Write id and rle_mask only (in pandas: index=False)."
        yield Problem("columns", message, mend, 1)
        fine = False
    if '"' in line or "'" in line:
        yield Problem("quotes", f"{found}, with quotes.", _HEADER_MEND, 1)
        fine = False
    if not set(RLE_HEADER) <= set(names):
        yield Problem("header", f"{found}: small letters matter.", _HEADER_MEND, 1)
    elif layout.id_column > layout.rle_column:
        yield Problem("header", f"{found}: the columns are swapped.", _HEADER_MEND, 1)
    elif fine:
        yield Problem("header", f"{found}, with blanks in it.", _HEADER_MEND, 1)


def _read_strange_header(
    line: str, lowered: list[str], separator: str
) -> tuple[_Layout, list[Problem]]:
    # A first line whose second field is run-lengths or nothing is a row, and no header at all.
    is_row = len(lowered) == 2 and re.fullmatch(r"[\d ]*", lowered[1]) and lowered[0] != "id"
    layout = _EXPECTED_LAYOUT._replace(separator=separator, first_row=1 if is_row else 2)
    if is_row:
        message = f"There is no header; the first row is {_shorten(line)!r}."
        return layout, [Problem("header", message, f"Begin the file with {_HEADER!r}.", 1)]
    return layout, [Problem("header", f"The header is {_shorten(line)!r}.", _HEADER_MEND, 1)]


def _check_row(
    line: str,
    row: int,
    layout: _Layout,
    known: set[str],
    seen: dict[str, int],
    shape: tuple[int, int],
) -> Iterator[Problem]:
    if not line.strip():
        yield Problem("blank row", "The row is blank.", "Remove it.", row)
        return
    if '"' in line:
        message = f"Values are in quotes: {_shorten(line)!r}."
        mend = "Write them without (in csv: QUOTE_NONE)."
        if '""' in line:
            mend = "Write nothing at all for an empty mask (in csv: QUOTE_NONE)."
        yield Problem("quotes", message, mend, row)
        line = line.replace('"', "")
    fields = line.split(layout.separator)
    if len(fields) != layout.columns:
        yield _wrong_columns(line, row, len(fields), layout)
    # A row too short for its mask still names its tile, which shall not be called missing too.
    if len(fields) > layout.id_column:
        yield from _check_id(fields[layout.id_column], row, known, seen)
    if len(fields) > max(layout.id_column, layout.rle_column):
        name, text = fields[layout.id_column], fields[layout.rle_column]
        yield from _check_run_lengths(text, name, row, shape)


def _wrong_columns(line: str, row: int, found: int, layout: _Layout) -> Problem:
    message = f"{found} column{'' if found == 1 else 's'} instead of {layout.columns}"
    mend = f"Write the id, a comma and the run-lengths separated by blanks, as {_HEADER!r}."
    if found == 1:
        mend = "Write a comma after the id even where the mask is empty."
    return Problem("columns", f"{message}: {_shorten(line)!r}.", mend, row)


def _check_id(name: str, row: int, known: set[str], seen: dict[str, int]) -> Iterator[Problem]:
    plain = _plain_id(name)
    if name not in known:
        if plain in known:
            message = f"The id {_shorten(name)!r} is not quite {plain!r}."
            yield Problem("unknown id", message, f"Write {plain!r} and nothing more.", row)
            name = plain
        else:
            message = f"The id {_shorten(name)!r} is not among the test tiles."
            yield Problem("unknown id", message, "Remove the row or correct the id.", row)
    first = seen.setdefault(name, row)
    if first != row:
        message = f"The id {_shorten(name)!r} is already in row {first}."
        yield Problem("duplicate id", message, "Keep one of the two rows.", row)


def _plain_id(name: str) -> str:
    """Return the id without what often sticks to one: blanks, a folder, a suffix."""
    plain = name.strip().strip("'").rpartition("/")[2].rpartition("\\")[2]
    return re.sub(r"\.png$", "", plain, flags=re.IGNORECASE)


def _check_run_lengths(text: str, name: str, row: int, shape: tuple[int, int]) -> Iterator[Problem]:
    if text and not text.strip():
        # only an empty string is an empty mask, see `diapir.io.rle`
        message = f"The mask of {_shorten(name)!r} is {_shorten(text)!r}, which is not empty."
        yield Problem("run-lengths", message, "Write nothing at all for an empty mask.", row)
        return
    if text.strip().lower() in _STAND_INS:
        message = f"The mask of {_shorten(name)!r} is {text.strip()!r}."
        mend = "Leave an empty mask empty (in pandas: na_rep='')."
        yield Problem("run-lengths", message, mend, row)
        return
    try:
        parse_rle(text, shape, where=f"row {row}")
    except DataError as error:
        message = f"The mask of {_shorten(name)!r}: {error.what}."
        yield Problem("run-lengths", message, _mend_run_lengths(text), row)


def _mend_run_lengths(text: str) -> str:
    if re.search(r"\d(\.\d|e\+?\d)", text):
        return "Write whole numbers without a decimal point."
    if re.search(r"[\[\](),;:]", text):
        return "Write numbers separated by single blanks, without brackets and commas."
    if re.match(r"\s*0\s", text):
        return "Count the pixels from 1, not from 0."
    return "Write 'start length' pairs, counted from 1 down the columns, rising, not overlapping."


def _find_missing(expected: list[str], seen: Mapping[str, int]) -> Iterator[Problem]:
    for name in expected:
        if name not in seen:
            yield Problem(
                "missing id",
                f"The test tile {name!r} has no row.",
                f"Add '{name},' with its run-lengths, or with nothing for an empty mask.",
            )


def _cut_short(problems: Iterable[Problem], limit: int) -> list[Problem]:
    limit = max(limit, 1)
    named: list[Problem] = []
    counts: Counter[str] = Counter()
    for problem in problems:
        counts[problem.kind] += 1
        if counts[problem.kind] <= limit:
            named.append(problem)
    for kind, count in counts.items():
        if count > limit:
            last = max(k for k, problem in enumerate(named) if problem.kind == kind)
            rest = Problem(
                kind,
                f"{count - limit:,} more of this kind ({kind}).",
                "Mend them in the same way.",
                count=count - limit,
            )
            named.insert(last + 1, rest)
    return named


def _shorten(text: str, most: int = 60) -> str:
    return text if len(text) <= most else f"{text[: most - 3]}..."
