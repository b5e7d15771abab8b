"""A person's corrections: painted, undone, kept as drafts, saved as labels to learn from."""

import json
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diapir.errors import DataError
from diapir.io.atomic import write_bytes_atomic, write_text_atomic
from diapir.io.images import MAX_PIXELS, encode_png, read_grey
from diapir.io.labels import PNG_SALT, PNG_UNLABELLED, UNLABELLED, coded, label_pictures

DRAFTS = ".drafts"
"""Folder inside that of the labels; what learns from labels does not look into it."""

RECORD = "source.json"
"""File beside the labels that says whose they are, where one folder holds those of several."""

_UNDO_BYTES = 64 << 20  # of what strokes have covered; the last step is kept whatever its size
_MOST_VERTICES = 20_000

Points = Sequence[tuple[float, float]]

Box = tuple[slice, slice]


class Canvas:
    """The labels of one section, with the way back.

    Args:
        labels: (T, S) uint8: 0 no salt, 1 salt, `UNLABELLED`.
    """

    def __init__(self, labels: NDArray[np.uint8]) -> None:
        self.labels = labels
        self.files: tuple[object, ...] | None = None  # as of which they are, see `LabelFolder`
        self._before: deque[tuple[Box, NDArray[np.uint8]]] = deque()  # what was in a box
        self._held = 0

    @classmethod
    def empty(cls, shape: tuple[int, ...]) -> "Canvas":
        """Return labels that say nothing."""
        return cls(np.full(shape, UNLABELLED, np.uint8))

    @property
    def is_empty(self) -> bool:
        """Whether nothing is labelled."""
        return bool((self.labels == UNLABELLED).all())

    @property
    def can_undo(self) -> bool:
        """Whether there is a step to take back."""
        return bool(self._before)

    def paint(self, where: NDArray[np.bool_], value: int) -> bool:
        """Label the samples of a mask; return whether anything changed.

        Args:
            where: (T, S).
            value: 1, 0 or `UNLABELLED`.
        """
        return self._change(np.where(where, np.uint8(value), self.labels))

    def fill_rest(self, salt: NDArray[np.bool_]) -> bool:
        """Label what nobody has labelled yet as a mask says; return whether anything changed."""
        rest = self.labels == UNLABELLED
        return self._change(np.where(rest, salt.astype(np.uint8), self.labels))

    def clear(self) -> bool:
        """Take all labels away; `undo` brings them back."""
        return self._change(np.full_like(self.labels, UNLABELLED))

    def undo(self) -> bool:
        """Take the last step back; return whether there was one."""
        if not self._before:
            return False
        box, before = self._before.pop()
        self._held -= before.nbytes
        self.labels = self.labels.copy()  # what is drawn may still be on its way to the browser
        self.labels[box] = before
        return True

    def _change(self, labels: NDArray[np.uint8]) -> bool:
        changed = labels != self.labels
        if not changed.any():
            return False
        box = _box_of(changed)
        before = self.labels[box].copy()
        self._before.append((box, before))
        self._held += before.nbytes
        while self._held > _UNDO_BYTES and len(self._before) > 1:
            self._held -= self._before.popleft()[1].nbytes
        self.labels = labels
        return True


def _box_of(changed: NDArray[np.bool_]) -> Box:
    """Return the smallest box that holds all that is True; there must be something."""
    sides = [np.flatnonzero(changed.any(axis=axis)) for axis in (1, 0)]
    across, down = (slice(int(side[0]), int(side[-1]) + 1) for side in sides)
    return across, down


def polygon_mask(points: Points, shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Return the samples whose middle lies inside a polygon.

    Args:
        points: Corners in fractional pixels (across, down); pixel 0 covers 0 up to 1.
        shape: (T, S) of the section.

    >>> polygon_mask([(0, 0), (2, 0), (2, 1), (0, 1)], (3, 2)).astype(int).tolist()
    [[1, 0], [1, 0], [0, 0]]
    """
    corners = _checked(points)
    if len(corners) < 3:
        return np.zeros(shape, np.bool_)
    inside = np.zeros(shape, np.bool_)
    middles = np.arange(shape[0]) + 0.5
    xs, ys = corners[:, 0], corners[:, 1]
    next_x, next_y = np.roll(xs, -1), np.roll(ys, -1)
    for row in range(max(0, int(ys.min())), min(shape[1], int(np.ceil(ys.max())))):
        height = row + 0.5
        crossing = (ys <= height) != (next_y <= height)
        share = (height - ys[crossing]) / (next_y[crossing] - ys[crossing])
        at = np.sort(xs[crossing] + share * (next_x[crossing] - xs[crossing]))
        inside[:, row] = np.searchsorted(at, middles, side="right") % 2 == 1
    return inside


def brush_mask(
    points: Points, radii: tuple[float, float], shape: tuple[int, int]
) -> NDArray[np.bool_]:
    """Return the samples whose middle lies under a stroke.

    Args:
        points: Of the stroke in fractional pixels (across, down).
        radii: Of the brush in pixels, across and down; at least the pixel it is on is taken.
        shape: (T, S) of the section.
    """
    scale = np.maximum(np.asarray(radii, np.float64), 0.5)
    line = _checked(points)
    found = np.zeros(shape, np.bool_)
    for start, end in zip(line, line[1:] if len(line) > 1 else line, strict=False):
        low = np.floor(np.minimum(start, end) - scale).astype(int)
        high = np.ceil(np.maximum(start, end) + scale).astype(int)
        box = tuple(
            slice(max(0, a), max(0, min(b, size)))
            for a, b, size in zip(low, high, shape, strict=True)
        )
        # in units of the radii the brush is a circle
        middles = np.meshgrid(
            *(
                (np.arange(part.start, part.stop) + 0.5) / radius
                for part, radius in zip(box, scale, strict=True)
            ),
            indexing="ij",
        )
        found[box] |= _distance(middles, start / scale, end / scale) <= 1.0
    return found


def _distance(
    places: Sequence[NDArray[np.float64]], start: NDArray[np.float64], end: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return how far places lie from a segment."""
    along = end - start
    length = float(along @ along)
    offset = [place - first for place, first in zip(places, start, strict=True)]
    share = (offset[0] * along[0] + offset[1] * along[1]) / length if length else 0.0
    share = np.clip(share, 0.0, 1.0)
    away: NDArray[np.float64] = np.hypot(
        *(o - share * a for o, a in zip(offset, along, strict=True))
    )
    return away


def _checked(points: Points) -> NDArray[np.float64]:
    """Return points as an array; what a browser sends may be anything."""
    try:
        found = np.asarray(points, np.float64).reshape(-1, 2)
    except (TypeError, ValueError) as error:
        raise DataError("a shape that is no list of points", expected="pairs of numbers") from error
    if len(found) > _MOST_VERTICES:
        raise DataError(f"a shape of {len(found):,} points", expected=f"at most {_MOST_VERTICES:,}")
    return found[np.isfinite(found).all(axis=1)]


@dataclass(frozen=True)
class LabelEntry:
    """One labelled section.

    Args:
        key: Name of its file without suffix, such as 'inline_1014'.
        saved: Whether it is among the labels; else it is a draft only.
        draft: Whether there is a draft, newer than what is saved.
        labelled: Share of its samples that are labelled.
        salt: Share of these that are salt.
    """

    key: str
    saved: bool
    draft: bool
    labelled: float
    salt: float


class LabelFolder:
    """The folder in which labels are kept, as `diapir finetune --labels` reads it.

    Every change goes into a draft at once; saving moves it among the labels. A page that is closed
    by accident finds its drafts again. Of two pages that change the labels of one section the
    second is refused, until it has loaded what the first has drawn.

    Args:
        path: The folder; made when something is written.
        most: Pixels of the largest section.
        record: What is written into `RECORD` with the first labels; None: nothing.
    """

    def __init__(
        self, path: Path, most: int = MAX_PIXELS, record: Mapping[str, str] | None = None
    ) -> None:
        self.path = path
        self._most = max(most, MAX_PIXELS)
        self._record = record
        self._shares: dict[tuple[Path, int], tuple[float, float]] = {}

    def load(self, key: str, shape: tuple[int, ...]) -> Canvas:
        """Return the draft of a section, else what is saved, else an empty canvas.

        Raises:
            DataError: The file is no PNG of the section's size, or has other values than labels.
        """
        files = self._files(key)
        found = [path for path in (self._draft(key), self._saved(key)) if path.is_file()]
        canvas = Canvas(_read(found[0], shape, self._most)) if found else Canvas.empty(shape)
        canvas.files = files
        return canvas

    def keep_draft(self, key: str, canvas: Canvas) -> None:
        """Write a draft; one that says nothing removes what there was.

        Raises:
            DataError: The files have changed since the canvas was loaded.
            RunError: It cannot be written.
        """
        self._check_unchanged(key, canvas)
        if canvas.is_empty and not self._saved(key).exists():
            self._draft(key).unlink(missing_ok=True)
        else:
            self._write(self._draft(key), canvas)
        canvas.files = self._files(key)

    def save(self, key: str, canvas: Canvas) -> Path | None:
        """Write the labels of a section and drop its draft; empty ones are removed.

        Raises:
            DataError: The files have changed since the canvas was loaded.
            RunError: They cannot be written.
        """
        self._check_unchanged(key, canvas)
        path: Path | None = self._saved(key)
        if canvas.is_empty:
            self._saved(key).unlink(missing_ok=True)
            path = None
        else:
            self._write(self._saved(key), canvas)
        self._draft(key).unlink(missing_ok=True)
        canvas.files = self._files(key)
        return path

    def _write(self, path: Path, canvas: Canvas) -> None:
        record = self.path / RECORD
        if self._record is not None and not record.exists():
            write_text_atomic(record, json.dumps(self._record, indent=2) + "\n")
        write_bytes_atomic(path, _encoded(canvas.labels))

    def _check_unchanged(self, key: str, canvas: Canvas) -> None:
        if canvas.files is not None and canvas.files != self._files(key):
            raise DataError(
                "somebody else has changed the labels of this section meanwhile",
                where=self._saved(key),
                mend="Step away and back, or reload the page, to see them; what was drawn here "
                "since then is not kept.",
            )

    def _files(self, key: str) -> tuple[object, ...]:
        """Return what tells one state of the files of a section from another."""
        states: list[object] = []
        for path in (self._draft(key), self._saved(key)):
            try:
                found = path.stat()
            except FileNotFoundError:
                states.append(None)
            else:
                states.append((found.st_mtime_ns, found.st_size, found.st_ino))
        return tuple(states)

    def entries(self) -> list[LabelEntry]:
        """Return all labelled sections, by name."""
        saved = {path.stem: path for path in label_pictures(self.path)}
        drafts = {path.stem: path for path in label_pictures(self.path / DRAFTS)}
        found = []
        for key in sorted({*saved, *drafts}):
            labelled, salt = self._share(drafts.get(key) or saved[key])
            found.append(LabelEntry(key, key in saved, key in drafts, labelled, salt))
        return found

    def _share(self, path: Path) -> tuple[float, float]:
        known = (path, path.stat().st_mtime_ns)
        if known not in self._shares:
            try:
                labels = _of_picture(path, self._most)
            except DataError:
                return 0.0, 0.0
            spoken = labels != UNLABELLED
            salt = (labels == 1).sum() / max(1, spoken.sum())
            self._shares[known] = float(spoken.mean()), float(salt)
        return self._shares[known]

    def _saved(self, key: str) -> Path:
        return self.path / f"{key}.png"

    def _draft(self, key: str) -> Path:
        return self.path / DRAFTS / f"{key}.png"


def _encoded(labels: NDArray[np.uint8]) -> bytes:
    values = np.full(labels.shape, PNG_UNLABELLED, np.uint8)
    values[labels == 1] = max(PNG_SALT)
    values[labels == 0] = 0
    return encode_png(np.ascontiguousarray(values.T))


def _read(path: Path, shape: tuple[int, ...], most: int) -> NDArray[np.uint8]:
    labels = _of_picture(path, max(most, shape[0] * shape[1]))
    if labels.shape != tuple(shape):
        raise DataError(
            f"the labels are {labels.shape[0]} wide and {labels.shape[1]} high",
            where=path,
            expected=f"{shape[0]} wide and {shape[1]} high, as the section",
            mend="Give another folder with --labels: these belong to another survey.",
        )
    return labels


def _of_picture(path: Path, most: int) -> NDArray[np.uint8]:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read the labels: {error.strerror or error}", where=path) from error
    return coded(read_grey(content, str(path), most).T, PNG_SALT, PNG_UNLABELLED, path)


def read_record(folder: Path) -> dict[str, Any] | None:
    """Return whose labels a folder holds; None where it does not say."""
    try:
        found = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None
