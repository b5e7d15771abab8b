"""The competition's two-column tables: depths, run-length masks, submissions."""

import csv
import io
import math
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from diapir.errors import DataError

RLE_HEADER = ("id", "rle_mask")
DEPTHS_HEADER = ("id", "z")
GROUPS_HEADER = ("id", "group")
MAX_TABLE_BYTES = 1 << 26
"""Larger tables are refused: rows take many times their length in memory."""
MAX_TABLE_ROWS = 1_000_000
"""Tables of more rows are refused."""

_LONGEST_FIELD = 1 << 28  # run-lengths of a 16-megapixel mask; the module's default is 131,072


class CsvRow(NamedTuple):
    """One row of a two-column table; `row` counts lines as an editor does, the header being 1."""

    row: int
    id: str
    value: str


def read_rows(path: Path, header: tuple[str, str] = RLE_HEADER) -> list[CsvRow]:
    """Return every row of a two-column table, in order; ids may repeat.

    Takes a byte-order mark, Windows line ends and blank lines as they come.

    Args:
        path: A CSV file in UTF-8.
        header: The names that the first line must hold.

    Raises:
        DataError: The file cannot be read, has another header, or a row with other than two
            columns or without an id.
    """
    reader = csv.reader(io.StringIO(_read_text(path), newline=""), strict=True)
    rows: list[CsvRow] = []
    limit = csv.field_size_limit(_LONGEST_FIELD)
    try:
        _check_header(next(reader, []), header, path)
        for fields in reader:
            if fields:
                rows.append(_check_fields(fields, reader.line_num, path))
            if reader.line_num > MAX_TABLE_ROWS:
                raise _too_large(path, f"more than {MAX_TABLE_ROWS:,} rows")
    except csv.Error as error:
        raise DataError(
            f"not valid CSV: {error}",
            where=f"{path} row {reader.line_num}",
            mend="Correct the quotes in this row or export the table again.",
        ) from error
    finally:
        csv.field_size_limit(limit)
    return rows


def index_rows(rows: Iterable[CsvRow], path: Path) -> dict[str, CsvRow]:
    """Return the rows by id.

    Raises:
        DataError: An id stands in two rows.
    """
    by_id: dict[str, CsvRow] = {}
    for row in rows:
        if row.id in by_id:
            raise DataError(
                f"duplicate id {row.id!r}",
                where=f"{path} rows {by_id[row.id].row} and {row.row}",
                expected="one row for each id",
                mend="Remove one of the rows.",
            )
        by_id[row.id] = row
    return by_id


def read_rle_csv(path: Path, header: tuple[str, str] = RLE_HEADER) -> dict[str, str]:
    """Return the run-length text of each id, in the order of the file; the texts are not decoded.

    Args:
        path: ``train.csv``, ``sample_submission.csv`` or a submission.
        header: The names that the first line must hold.

    Raises:
        DataError: The table is malformed or an id stands in two rows; the row is named.
    """
    rows = index_rows(read_rows(path, header), path)
    return {id_: row.value for id_, row in rows.items()}


def read_depths(path: Path) -> dict[str, float]:
    """Return the depth in feet of each id, in the order of the file.

    Args:
        path: ``depths.csv`` with columns ``id,z``.

    Raises:
        DataError: The table is malformed, an id stands in two rows, or a depth is no finite
            number; the row is named.
    """
    rows = index_rows(read_rows(path, DEPTHS_HEADER), path)
    return {id_: _parse_depth(row, path) for id_, row in rows.items()}


def read_groups(path: Path) -> dict[str, str]:
    """Return the group of each id of a table of neighbours, in the order of the file.

    Args:
        path: A CSV file with the columns id and group, as `diapir mosaic` writes it.

    Raises:
        DataError: As `read_rows`, or an id occurs twice.
    """
    return {id_: row.value for id_, row in index_rows(read_rows(path, GROUPS_HEADER), path).items()}


def _parse_depth(row: CsvRow, path: Path) -> float:
    try:
        depth = float(row.value)
    except ValueError:
        depth = math.nan
    if not math.isfinite(depth):
        raise DataError(
            f"the depth of {row.id!r} is {row.value!r}",
            where=f"{path} row {row.row}",
            expected="a finite number of feet",
            mend="Correct the row, or remove the file: depths are optional.",
        )
    return depth


def _read_text(path: Path) -> str:
    try:
        size = path.stat().st_size
        if size > MAX_TABLE_BYTES:
            raise _too_large(path, f"{size:,} bytes")
        return path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise DataError(
            f"cannot read the table: {error.strerror or error}",
            where=path,
            mend="Check the path and the permission to read it.",
        ) from error
    except UnicodeDecodeError as error:
        raise DataError(
            f"not a text file in UTF-8: byte {error.start} is 0x{error.object[error.start]:02x}",
            where=path,
            mend="Export the table as CSV in UTF-8; an .xlsx or .zip file will not do.",
        ) from error


def _too_large(path: Path, found: str) -> DataError:
    return DataError(
        f"the table has {found}",
        where=path,
        expected=f"at most {MAX_TABLE_ROWS:,} rows and {MAX_TABLE_BYTES:,} bytes",
        mend="Is this the right file? Leave out rows of other tiles.",
    )


def _check_header(fields: list[str], header: tuple[str, str], path: Path) -> None:
    found = ",".join(field.strip() for field in fields)
    if found != ",".join(header):
        raise DataError(
            f"the header is {found[:80]!r}" if fields else "the file has no header",
            where=f"{path} row 1",
            expected=",".join(header),
            mend="Name the columns so, separated by a comma.",
        )


def _check_fields(fields: list[str], row: int, path: Path) -> CsvRow:
    if len(fields) != 2:
        raise DataError(
            f"{len(fields)} column{'s' if len(fields) > 1 else ''} instead of 2",
            where=f"{path} row {row}",
            expected="an id, a comma and a value, which may be empty",
            mend="Correct this row.",
        )
    id_, value = fields
    if not id_ or id_ != id_.strip():
        raise DataError(
            f"the id is {id_!r}",
            where=f"{path} row {row}",
            expected="the name of a tile without blanks around it and without '.png'",
            mend="Correct this row.",
        )
    return CsvRow(row, id_, value)
