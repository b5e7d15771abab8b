"""Interpreted sections of a survey: masks as PNG, SEG-Y, Zarr or NumPy, partly unlabelled."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from diapir.errors import DataError
from diapir.io.images import MAX_PIXELS, read_grey
from diapir.io.opening import open_volume
from diapir.io.stores import check_coordinates, guarded, open_zarr
from diapir.io.volume import check_same_geometry

if TYPE_CHECKING:
    import xarray as xr

ACROSS = {"inline": "crossline", "crossline": "inline", "line": "trace"}
"""The axis across a section, by what it runs along."""

UNLABELLED = 255
"""Label of samples that nobody has interpreted."""

Line = Literal["inline", "crossline", "line"]
"""What a section runs along; 'line' is a 2-D line or a picture, which has but one section."""

PNG_UNLABELLED, VOLUME_UNLABELLED = 127, -1
"""What stands for "unlabelled" in a file unless one says otherwise."""

PNG_SALT = (1, 255)
"""What stands for salt in a picture."""

_NAME = re.compile(r"(inline|crossline)(?:[_ ](-?\d+)|-?(\d+))$", re.I)
_TRACES = re.compile(r"traces (\d+) to (\d+)")
_MOST_LINES = 400
_SAMPLES_AT_ONCE = 1 << 25  # of labels that are read; a line at a time would decode chunks anew
_OF_THE_SURVEY = ("sample_format", "byte_order", "samples", "text_headers")
"""What of reading SEG-Y says how the samples of one file lie, not how its traces are numbered."""


@dataclass(frozen=True, eq=False)
class LabelledLine:
    """The interpretation of one line of a survey.

    Args:
        direction: What the line runs along.
        index: Of the line in the survey; 0 of a 2-D line.
        number: Of the line as its headers count; 0 of a 2-D line.
        labels: (T, S) uint8, traces by samples: 1 salt, 0 none, `UNLABELLED`.
    """

    direction: Line
    index: int
    number: int
    labels: NDArray[np.uint8]

    @property
    def labelled_traces(self) -> NDArray[np.intp]:
        """Indices of the traces with any label, rising."""
        return np.flatnonzero((self.labels != UNLABELLED).any(axis=1))

    @property
    def name(self) -> str:
        """What people call it: of a 2-D line the traces that are labelled, counted from 1."""
        if self.direction != "line":
            return f"{self.direction} {self.number}"
        return _traces_name(self.labelled_traces)

    def shared_with(self, name: str) -> str | None:
        """Return the name of what this line shares with the one of a name, None where nothing.

        Of a 2-D line, these are its labelled traces within the other's range.

        >>> line = LabelledLine("line", 0, 0, np.zeros((9, 4), np.uint8))
        >>> line.name, line.shared_with("traces 7 to 20"), line.shared_with("traces 10 to 20")
        ('traces 1 to 9', 'traces 7 to 9', None)
        """
        if self.direction != "line":
            return name if name == self.name else None
        match = _TRACES.fullmatch(name)
        if match is None:
            return None
        traces = self.labelled_traces
        shared = traces[(traces + 1 >= int(match[1])) & (traces + 1 <= int(match[2]))]
        return _traces_name(shared) if len(shared) else None


def _traces_name(traces: NDArray[np.intp]) -> str:
    return f"traces {traces[0] + 1} to {traces[-1] + 1}"


def read_labels(
    path: Path,
    survey: "xr.Dataset",
    *,
    unlabelled: float | None = None,
    options: Mapping[str, Any] | None = None,
) -> list[LabelledLine]:
    """Return the labelled lines of a survey, by direction and number; of a 2-D line itself.

    Args:
        path: A folder of PNG files named `inline_NUMBER.png` or `crossline_NUMBER.png`, samples
            downwards, 0 for none and 1 or 255 for salt; or a SEG-Y file, Zarr store or NumPy array
            of the survey's own geometry with 0 and 1. Of a volume the inlines that hold labels are
            taken, 400 at most. Of a 2-D line or a picture `NAME.png`, with the name of its file,
            or a folder with one.
        survey: Dataset with dimensions (inline, crossline, sample) or (trace, sample).
        unlabelled: Value of samples without an interpretation; None: 127 in PNG, -1 or NaN else.
        options: How SEG-Y is read, see `open_volume`: those of the survey.

    Raises:
        DataError: There are no labels, they do not fit the survey, or hold other values.
    """
    if "inline" not in survey["amplitude"].dims:
        lines = list(_of_line(path, survey, unlabelled, dict(options or {})))
    elif label_pictures(path):
        lines = list(_from_pictures(path, survey, unlabelled))
    else:
        lines = list(_from_volume(path, survey, unlabelled, dict(options or {})))
    if not lines:
        raise DataError(
            "there are no labels",
            where=path,
            expected="at least one line with samples of 0 or 1",
            mend="Check the value that stands for unlabelled.",
        )
    return sorted(lines, key=lambda line: (line.direction, line.index))


def label_pictures(folder: Path) -> list[Path]:
    """Return the pictures of labels in a folder, by name; none where it is no folder.

    Hidden ones are passed over: a save that was interrupted leaves its temporary file.
    """
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.glob("*.png") if not path.name.startswith("."))


def line_name(survey: "xr.Dataset") -> str:
    """Return the name under which labels of a 2-D line lie, that of the file it came from."""
    return Path(str(survey.attrs.get("source", ""))).stem


def beside(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return how SEG-Y beside a survey is read, such as its labels, of how the survey is.

    Its samples have a format of their own, and a size that would be misread with the survey's.
    """
    return {name: value for name, value in options.items() if name not in _OF_THE_SURVEY}


def _of_line(
    path: Path, survey: "xr.Dataset", unlabelled: float | None, options: dict[str, Any]
) -> Iterator[LabelledLine]:
    """Yield the labels of a 2-D line or a picture, where there are any."""
    file = path
    if label_pictures(path):
        file = path / f"{line_name(survey)}.png"
        if not file.is_file():
            raise DataError(
                f"the folder has no {file.name}",
                where=path,
                expected="labels under the name of the line itself",
                mend="Rename them, or give the file.",
            )
    if file.suffix.lower() == ".png":
        labels = _from_picture(file, survey, "line", _recorded(survey), unlabelled)
    else:
        values, live = _open_labels(file, survey, options)
        blank = VOLUME_UNLABELLED if unlabelled is None else unlabelled
        labels = coded(np.asarray(values), (1,), blank, file)
        labels[~live] = UNLABELLED
    if (labels != UNLABELLED).any():
        yield LabelledLine("line", 0, 0, labels)


def _from_pictures(
    path: Path, survey: "xr.Dataset", unlabelled: float | None
) -> Iterator[LabelledLine]:
    seen: dict[tuple[str, int], Path] = {}
    for file in label_pictures(path):
        match = _NAME.search(file.stem)
        if match is None:
            raise DataError(
                "the name does not say which line it is",
                where=file,
                expected="inline_NUMBER.png or crossline_NUMBER.png",
                mend="Rename it, or move it out of the folder.",
            )
        direction: Line = "inline" if match[1].lower() == "inline" else "crossline"
        number = int(match[2] or match[3])
        other = seen.setdefault((direction, number), file)
        if other != file:
            raise DataError(
                f"the labels of {direction} {number} are there twice",
                where=file,
                expected=f"one picture of it; the other is {other.name}",
                mend="Remove one of them, or move it out of the folder.",
            )
        places = np.flatnonzero(np.asarray(survey[direction]) == number)
        if not len(places):
            known = np.asarray(survey[direction])
            raise DataError(
                f"the survey has no {direction} {number}",
                where=file,
                expected=f"{known.min():g} to {known.max():g}",
            )
        recorded = np.take(_recorded(survey), places[0], axis=int(direction == "crossline"))
        labels = _from_picture(file, survey, direction, recorded, unlabelled)
        if (labels != UNLABELLED).any():
            yield LabelledLine(direction, int(places[0]), number, labels)


def _recorded(survey: "xr.Dataset") -> NDArray[np.bool_]:
    """Return where the survey has traces; elsewhere there is nothing to label."""
    mask = survey.coords.get("trace_mask")
    shape = survey["amplitude"].shape[:-1]
    return np.ones(shape, bool) if mask is None else np.asarray(mask, bool)


def _from_picture(
    file: Path,
    survey: "xr.Dataset",
    direction: Line,
    recorded: NDArray[np.bool_],
    unlabelled: float | None,
) -> NDArray[np.uint8]:
    """Return the labels (T, S) of a picture of one section, whose traces `recorded` (T,) has."""
    blank = PNG_UNLABELLED if unlabelled is None else unlabelled
    try:
        content = file.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read the labels: {error.strerror or error}", where=file) from error
    expected = survey.sizes[ACROSS[direction]], survey.sizes["sample"]
    values = read_grey(content, str(file), max(MAX_PIXELS, expected[0] * expected[1])).T
    if values.shape != expected:
        raise DataError(
            f"the picture is {values.shape[0]} wide and {values.shape[1]} high",
            where=file,
            expected=f"{expected[0]} traces wide and {expected[1]} samples high",
            mend="Draw the mask on the section itself, without borders or resampling.",
        )
    labels = coded(values, PNG_SALT, blank, file)
    labels[~recorded] = UNLABELLED
    return labels


def _from_volume(
    path: Path, survey: "xr.Dataset", unlabelled: float | None, options: dict[str, Any]
) -> Iterator[LabelledLine]:
    values, live = _open_labels(path, survey, options)
    blank = VOLUME_UNLABELLED if unlabelled is None else unlabelled
    numbers = np.asarray(survey["inline"])
    found: list[tuple[int, NDArray[np.uint8]]] = []
    every, seen = 1, 0  # of the lines with labels only every such one is held, 2 * _MOST_LINES
    at_once = max(1, _SAMPLES_AT_ONCE // (values.shape[1] * values.shape[2]))
    for start in range(0, values.shape[0], at_once):
        part = slice(start, start + at_once)
        labels = coded(np.asarray(values[part]), (1,), blank, path)
        labels[~live[part]] = UNLABELLED
        for k in np.flatnonzero((labels != UNLABELLED).any(axis=(1, 2))):
            if seen % every == 0:
                found.append((start + int(k), labels[k].copy()))
            seen += 1
        while len(found) > 2 * _MOST_LINES:
            found, every = found[::2], 2 * every
    chosen = np.unique(np.linspace(0, len(found) - 1, min(len(found), _MOST_LINES)).astype(int))
    for k in chosen if found else ():
        index, labels = found[k]
        yield LabelledLine("inline", index, int(numbers[index]), labels)


def _open_labels(
    path: Path, survey: "xr.Dataset", options: dict[str, Any]
) -> tuple["xr.DataArray", NDArray[np.bool_]]:
    """Return the values (I, J, S) and where there are traces, after comparing the geometry."""
    labels = _open_store(path) if path.is_dir() else None
    if labels is None:
        volume = open_volume(path, keep_nan=True, **beside(options))
        labels = volume["amplitude"]
    check_same_geometry(labels.coords, labels.shape, survey, path)
    live, own = _recorded(survey), labels.coords.get("trace_mask")
    return labels, live if own is None else live & np.asarray(own, bool)


def _open_store(path: Path) -> "xr.DataArray | None":
    """Return `labels` or `mask` of a Zarr store that has one of them, NaN where it is filled."""
    try:
        store = open_zarr(path, meant=(0, 1))
        check_coordinates(store, path)
        store = store.assign_coords({name: store[name].load() for name in store.coords})
    except Exception:  # whatever it is, open_volume says what is wrong
        return None
    found = next((store[name] for name in ("labels", "mask") if name in store), None)
    return None if found is None else guarded(found, path)


def coded(
    values: NDArray[Any], salt: tuple[int, ...], blank: float, where: Path
) -> NDArray[np.uint8]:
    """Return 0, 1 and `UNLABELLED` for a file's own values.

    Args:
        values: Of the file.
        salt: Those that stand for salt; 0 stands for none.
        blank: The one that stands for no interpretation, beside NaN.
        where: The file.

    Raises:
        DataError: There are other values.
    """
    labels = np.full(values.shape, UNLABELLED, np.uint8)
    known = (values == blank) | ~np.isfinite(values.astype(np.float32))
    is_salt = np.isin(values, salt) & ~known
    is_rock = (values == 0) & ~known
    odd = ~(known | is_salt | is_rock)
    if odd.any():
        found = ", ".join(f"{v:g}" for v in np.unique(values[odd])[:5])
        raise DataError(
            f"values of {found} among the labels",
            where=where,
            expected=f"0, {' or '.join(map(str, salt))}, and {blank:g} for unlabelled",
            mend="Say with --unlabelled which value has no interpretation.",
        )
    labels[is_salt], labels[is_rock] = 1, 0
    return labels
