"""Probability and mask as SEG-Y: the input file with other samples, every header byte kept."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diapir.errors import DataError
from diapir.io.segy import SegyOptions
from diapir.io.segy_volume import read_survey, survey_fingerprint
from diapir.io.segy_write import copy_with_samples
from diapir.progress import counting

_BOX_SAMPLES = 8_000_000  # held at a time while traces are gathered


def write_salt_segy(
    facts: str, fingerprint: str, arrays: Mapping[str, Any], out: Path, *, progress: bool = False
) -> list[Path]:
    """Write arrays over a SEG-Y survey as copies of its file; return the files.

    Text, binary and trace headers stay byte for byte; dead traces stay dead. In integer formats a
    probability of 1 becomes `SampleFormat.probability_scale` (100 in 1 byte, 10,000 in 2 bytes,
    1,000,000 in 4), and the mask stays 0 and 1.

    Args:
        facts: The survey's attribute `segy`, which says where the file is and how it was read.
        fingerprint: The survey's own; a file that has changed since is refused.
        arrays: By name, 'probability' or 'mask': (I, J, S) or (T, S) arrays that give NumPy arrays
            when sliced.
        out: Folder; takes `NAME.sgy`.
        progress: Show a bar.

    Raises:
        DataError: The file is gone, or is not the one that was read.
        RunError: A file cannot be written.
    """
    survey = read_survey(*find_segy(facts, fingerprint))
    paths = []
    for name, array in arrays.items():
        scale = survey.file.format.probability_scale if name == "probability" else 1
        path = _file(out, name)
        with counting(survey.file.traces, f"writing {path.name}", shown=progress) as advance:
            copy_with_samples(
                survey.file,
                path,
                traces_of(array, survey.grid.cell_of),
                scale=scale,
                advance=advance,
            )
        paths.append(path)
    return paths


def segy_files(out: Path) -> list[Path]:
    """Return where `write_salt_segy` puts probability and mask."""
    return [_file(out, name) for name in ("probability", "mask")]


def _file(out: Path, name: str) -> Path:
    return out / f"{name}.sgy"


def find_segy(
    facts: str | None, fingerprint: str, folders: Sequence[Path] | None = None
) -> tuple[Path, SegyOptions]:
    """Return the SEG-Y file that a survey was read from, and how; its samples are not read.

    Args:
        facts: The survey's attribute `segy`; None: it has none.
        fingerprint: The survey's own.
        folders: Those that may be read; None: any. Whether a file lies elsewhere is not told.

    Raises:
        DataError: There is no such file, or it has changed since.
    """
    if facts is None:
        raise DataError(
            "the survey was not read from a SEG-Y file",
            mend="Leave out --segy: there is no file whose headers could be kept.",
        )
    try:
        table = json.loads(facts)
        path, options = Path(table["path"]), SegyOptions(**table["options"])
    except (ValueError, TypeError, KeyError) as error:
        raise DataError(
            "what the survey says of its SEG-Y file cannot be used",
            where="its attribute 'segy'",
            expected="what 'diapir ingest' of this version writes",
            mend="Ingest the file again, or give --no-segy.",
        ) from error
    try:
        there = _may_be_read(path, folders) and path.is_file()
        same = there and survey_fingerprint(path, options) == fingerprint
    except OSError as error:
        raise DataError(
            f"{path.name}, the SEG-Y file that the survey was read from, cannot be read: "
            f"{error.strerror or error}",
            where=path,
            mend="Ask for permission to read it, or give --no-segy.",
        ) from error
    if not there:
        raise DataError(
            f"{path.name}, the SEG-Y file that the survey was read from, is not there",
            where=path,
            mend="Bring it back to its place, or give --no-segy.",
        )
    if not same:
        raise DataError(
            f"{path.name}, the SEG-Y file, has changed since the survey was read from it",
            where=path,
            mend="Ingest it again, or give --no-segy.",
        )
    return path, options


def _may_be_read(path: Path, folders: Sequence[Path] | None) -> bool:
    whole = path.resolve()
    return folders is None or any(whole.is_relative_to(folder.resolve()) for folder in folders)


def traces_of(
    array: Any, cell_of: NDArray[np.int32], box_samples: int = _BOX_SAMPLES
) -> Callable[[int, int], NDArray[Any]]:
    """Return a function that gives the traces of an array in the order of a file.

    However the file is sorted, at most about `box_samples` samples are read at a time.

    Args:
        array: (I, J, S) or (T, S).
        cell_of: (N, 2) or (N, 1) cell of each trace of the file.
        box_samples: Of the array.
    """

    def gather(start: int, stop: int) -> NDArray[Any]:
        cells = cell_of[start:stop]
        found = np.zeros((len(cells), array.shape[-1]), array.dtype)
        across = tuple(
            slice(int(cells[:, axis].min()), int(cells[:, axis].max()) + 1)
            for axis in range(1, cells.shape[1])
        )
        width = int(np.prod([part.stop - part.start for part in across])) * array.shape[-1]
        lines = max(1, box_samples // max(width, 1))
        first, last = int(cells[:, 0].min()), int(cells[:, 0].max())
        for low in range(first, last + 1, lines):
            rows = np.flatnonzero((cells[:, 0] >= low) & (cells[:, 0] < low + lines))
            if not len(rows):
                continue
            box = np.asarray(array[(slice(low, min(low + lines, last + 1)), *across)])
            shift = np.array([low, *(part.start for part in across)])
            found[rows] = box[tuple((cells[rows] - shift).T)]
        return found

    return gather
