"""Checks anyone's submission file against the test tiles of a data set."""

from dataclasses import dataclass
from pathlib import Path

from diapir.errors import DataError
from diapir.export.submission import sample_order
from diapir.export.submission_check import Problem, check_submission
from diapir.io.tiles import read_outline


@dataclass(frozen=True)
class SubmissionCheck:
    """What was found in a submission file.

    Args:
        tiles: Test tiles of the data set.
        problems: In the order of their rows; none: the file is valid.
        warning: What is odd about the data set's own sample submission; None: nothing.
    """

    tiles: int
    problems: list[Problem]
    warning: str | None


def check_submission_file(file: Path, data: Path) -> SubmissionCheck:
    """Return everything that is wrong with a submission of a data set.

    Args:
        file: The submission.
        data: See `read_tiles`; of the test tiles names and size alone are read.

    Raises:
        SubmissionError: The file cannot be read.
        DataError: The data cannot be read.
    """
    ids, size, tables = read_outline(data, "test")
    problems = check_submission(file, ids, size)
    try:
        _, warning = sample_order(tables, ids)
    except DataError as error:  # the file may be right all the same
        warning = str(error)
    return SubmissionCheck(len(ids), problems, warning)
