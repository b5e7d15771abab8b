"""Submissions of the competition, written valid by construction; `check_submission` is here too.

Source: TGS Salt Identification Challenge, evaluation page: ``id,rle_mask``, one row for each test
tile, run-lengths column-major and 1-based, nothing for an empty mask.
"""

import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from diapir.errors import SubmissionError
from diapir.export.submission_check import KINDS, Problem, check_submission
from diapir.io.atomic import write_text_atomic
from diapir.io.csv_tables import RLE_HEADER, read_rle_csv
from diapir.io.rle import encode_rle_many

__all__ = [
    "KINDS",
    "Problem",
    "check_ids",
    "check_submission",
    "sample_order",
    "write_run_lengths",
    "write_submission",
]

_UNFIT_FOR_CSV = re.compile(r'[\s,"\x00-\x1f]')


def write_submission(
    path: Path,
    ids: Sequence[str],
    masks: NDArray[Any],
    *,
    order: Sequence[str] | None = None,
) -> None:
    """Write a submission, whole or not at all.

    Args:
        path: The CSV file to write; its folder is created if it is missing.
        ids: N different names of test tiles.
        masks: Their masks on the original grid, (N, H, W) bool or integers, salt where not 0.
        order: The same names in the order of the rows, such as that of ``sample_submission.csv``;
            None keeps the order of `ids`.

    Raises:
        SubmissionError: Numbers of ids and masks differ, a name is there twice or would break the
            CSV, the masks are not masks, or `order` names other tiles.
        RunError: The place cannot be written.
    """
    _check_masks(ids, masks)
    write_run_lengths(path, ids, encode_rle_many(masks), order=order)


def sample_order(tables: Path, ids: Collection[str]) -> tuple[list[str] | None, str | None]:
    """Return the order of the rows that the competition's sample has, or why it does not fit.

    Args:
        tables: The folder in which ``sample_submission.csv`` may lie.
        ids: Of the test tiles that are there.

    Returns:
        The order, where the sample lists exactly these tiles, and a warning, where it does not;
        neither where there is no sample.

    Raises:
        DataError: The sample cannot be read.
    """
    sample = tables / "sample_submission.csv"
    if not sample.is_file():
        return None, None
    order, known = [*read_rle_csv(sample)], set(ids)
    if set(order) == known:
        return order, None
    missing, more = [id_ for id_ in order if id_ not in known], known.difference(order)
    parts = [f"{len(missing):,} tiles without an image, such as {missing[0]}"] if missing else []
    parts += [f"not {len(more):,} tiles that have one, such as {min(more)}"] if more else []
    return None, f"{sample.name} names {' and '.join(parts)}: is the test part complete?"


def write_run_lengths(
    path: Path, ids: Sequence[str], texts: Sequence[str], *, order: Sequence[str] | None = None
) -> None:
    """Write a submission of masks that are encoded already, whole or not at all.

    Args:
        path: As of `write_submission`.
        ids: As of `write_submission`.
        texts: Their run-lengths, as `io.rle.encode_rle_many` gives them.
        order: As of `write_submission`.

    Raises:
        SubmissionError: Numbers of ids and texts differ, a name is there twice or would break the
            CSV, or `order` names other tiles.
        RunError: The place cannot be written.
    """
    check_ids(ids)
    if len(texts) != len(ids):
        raise SubmissionError(
            f"{len(texts)} run-lengths for {len(ids)} ids", mend="Give one for each id."
        )
    rows = _put_in_order(dict(zip(ids, texts, strict=True)), ids if order is None else order)
    write_text_atomic(path, "\n".join([",".join(RLE_HEADER), *rows, ""]))


def _check_masks(ids: Sequence[str], masks: NDArray[Any]) -> None:
    if masks.ndim != 3 or len(masks) != len(ids):
        raise SubmissionError(
            f"masks of shape {masks.shape} for {len(ids)} ids",
            expected=f"({len(ids)}, height, width)",
            mend="Give one mask for each id.",
        )
    if masks.dtype.kind not in "bui":
        raise SubmissionError(
            f"masks of {masks.dtype}",
            expected="bool or integers, salt where not 0",
            mend="Compare the probabilities with the threshold first.",
        )


def check_ids(ids: Sequence[str]) -> None:
    """Refuse names that no submission can hold, before anything is predicted for them.

    Raises:
        SubmissionError: One is there twice or would break the CSV.
    """
    twice = [name for name, count in Counter(ids).items() if count > 1]
    if twice:
        raise SubmissionError(f"duplicate id {twice[0]!r}", mend="Give each tile once.")
    unfit = [name for name in ids if not name or _UNFIT_FOR_CSV.search(name)]
    if unfit:
        raise SubmissionError(
            f"the id {unfit[0]!r} does not fit into a CSV file",
            expected="a name without blanks, commas and quotes",
            mend="Rename the image.",
        )


def _put_in_order(texts: Mapping[str, str], order: Sequence[str]) -> list[str]:
    if len(order) != len(texts) or set(order) != set(texts):
        extra = sorted(set(order) - set(texts)) + sorted(set(texts) - set(order))
        example = f", such as {extra[0]!r}" if extra else ""
        raise SubmissionError(
            f"the order has {len(order)} ids and there are {len(texts)} masks; "
            f"they are not the same ids{example}",
            mend="Predict exactly the tiles that the sample submission names, each once.",
        )
    return [f"{name},{texts[name]}" for name in order]
