"""Salt bodies: connected parts of a mask, found slab by slab in bounded memory."""

from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from diapir.export.frame import Frame
from diapir.io.atomic import write_text_atomic

SLAB_SAMPLES = 4_000_000
"""Samples looked at at a time; with labels and probabilities about 60 MB."""

_TOUCHING = np.ones((3, 3, 3), bool)


@dataclass(frozen=True)
class Body:
    """One connected body of salt; samples that touch at a corner are connected.

    Args:
        number: 1 is the largest.
        samples: That it consists of.
        volume_m3: None where the geometry does not give it.
        inline: First and last line number.
        crossline: First and last number across.
        z: Shallowest and deepest sample, in the unit of the survey.
        mean_prob: Of its samples, its confidence.
    """

    number: int
    samples: int
    volume_m3: float | None
    inline: tuple[float, float]
    crossline: tuple[float, float]
    z: tuple[float, float]
    mean_prob: float


class Slab(NamedTuple):
    """Some neighbouring lines.

    Args:
        start: Index of the first line.
        probs: (L, J, S) float32.
        numbers: (L, J, S) int32 number of the body of each sample; 0: none that is kept.
    """

    start: int
    probs: NDArray[np.float32]
    numbers: NDArray[np.int32]


class Box(NamedTuple):
    """Index ranges that hold a body: three pairs of first and behind the last."""

    inline: tuple[int, int]
    crossline: tuple[int, int]
    sample: tuple[int, int]


@dataclass(frozen=True, eq=False)
class BodyMap:
    """The bodies of a probability volume, and the way to their samples.

    Args:
        probs: (I, J, S) array that gives NumPy arrays when lines are cut out, such as Zarr's.
        threshold: A sample is salt where its probability is greater.
        bodies: From the largest on.
        boxes: Of each body, in the same order.
        dropped: Bodies that were too small or beyond the number wanted.
        slab_lines: Lines a slab.
        lookup: For each slab the body number of each of its own labels.
    """

    probs: Any
    threshold: float
    bodies: tuple[Body, ...]
    boxes: tuple[Box, ...]
    dropped: int
    slab_lines: int
    lookup: tuple[NDArray[np.int32], ...]

    def slabs(self) -> Iterator[Slab]:
        """Yield the volume slab by slab with the bodies' numbers."""
        parts = _label_slabs(self.probs, self.threshold, self.slab_lines)
        for own in self.lookup:
            start, probs, labels = next(parts)  # zip would keep them until the next are there
            numbers = own[labels]
            del labels
            yield Slab(start, probs, numbers)
            del probs, numbers


def find_salt_bodies(
    probs: Any,
    threshold: float,
    frame: Frame,
    *,
    min_samples: int = 1,
    max_bodies: int | None = None,
    velocity_m_s: float | None = None,
    slab_lines: int | None = None,
) -> BodyMap:
    """Return the connected bodies of a volume, the largest first.

    Memory grows with a slab and with the number of bodies, not with the volume.

    Args:
        probs: (I, J, S) probability; anything that gives NumPy arrays when lines are cut out.
        threshold: A sample is salt where its probability is greater.
        frame: Where the samples lie.
        min_samples: Smaller bodies are dropped.
        max_bodies: At most so many, the largest.
        velocity_m_s: For volumes in time, see `Frame.sample_volume_m3`.
        slab_lines: Lines looked at at a time; None: about `SLAB_SAMPLES` samples.
    """
    lines = slab_lines or max(1, SLAB_SAMPLES // (probs.shape[1] * probs.shape[2]))
    parts, union = _scan(probs, threshold, lines)
    pieces = _Pieces.joined(parts)
    roots = union.roots()
    kept = np.unique(roots[1:])
    index = np.zeros(len(roots), np.intp)  # of the body of each piece, counted in `kept`
    index[1:] = np.searchsorted(kept, roots[1:])
    whole = pieces.merged(index[1:], len(kept))
    order = np.argsort(-whole.samples, kind="stable")
    order = order[whole.samples[order] >= min_samples][:max_bodies]
    number_of = np.zeros(len(kept) + 1, np.int32)
    number_of[order] = np.arange(1, len(order) + 1)
    numbers = np.append(np.int32(0), number_of[index[1:]])
    cubic = frame.sample_volume_m3(velocity_m_s)
    return BodyMap(
        probs=probs,
        threshold=threshold,
        bodies=tuple(_describe(whole, k, n, frame, cubic) for n, k in enumerate(order, 1)),
        boxes=tuple(_box(whole, k) for k in order),
        dropped=len(kept) - len(order),
        slab_lines=lines,
        lookup=tuple(_own_lookup(numbers, part.first, len(part.pieces.samples)) for part in parts),
    )


def write_bodies_csv(path: Path, bodies: Sequence[Body], unit: str) -> None:
    """Write a row a body, pairs as two columns, the columns of depth with their unit.

    Raises:
        RunError: The file cannot be written.
    """
    names = []
    for name in (field.name for field in fields(Body)):
        if name in ("inline", "crossline", "z"):
            name = f"z_{unit}" if name == "z" else name
            names += [f"first_{name}", f"last_{name}"]
        else:
            names.append(name)
    lines = [",".join(names)]
    for body in bodies:
        flat = [part for value in astuple(body) for part in _pair(value)]
        lines.append(",".join("" if part is None else f"{part:.10g}" for part in flat))
    write_text_atomic(path, "\n".join(lines) + "\n")


def _pair(value: Any) -> tuple[Any, ...]:
    return value if isinstance(value, tuple) else (value,)


class _Pieces(NamedTuple):
    """What is known of pieces: (N,) samples and sums of probability, (N, 3) ranges of indices."""

    samples: NDArray[np.int64]
    probs: NDArray[np.float64]
    low: NDArray[np.int64]
    high: NDArray[np.int64]

    @classmethod
    def joined(cls, parts: Sequence["_Part"]) -> "_Pieces":
        return cls(*(np.concatenate(each) for each in zip(*(p.pieces for p in parts), strict=True)))

    def merged(self, index: NDArray[np.intp], count: int) -> "_Pieces":
        """Return `count` bodies from pieces, each piece part of the body `index` says."""
        low = np.full((count, 3), np.iinfo(np.int64).max)
        high = np.zeros((count, 3), np.int64)
        samples = np.zeros(count, np.int64)
        np.minimum.at(low, index, self.low)
        np.maximum.at(high, index, self.high)
        np.add.at(samples, index, self.samples)
        return _Pieces(samples, np.bincount(index, self.probs, count).astype(np.float64), low, high)


class _Part(NamedTuple):
    first: int
    """Label before the first one of this slab, counted through all slabs."""
    pieces: _Pieces


class _Union:
    """Which labels mean the same body: a forest, joined by the smaller root."""

    def __init__(self) -> None:
        self.parents = np.zeros(1, np.int64)

    def grow(self, count: int) -> None:
        start = len(self.parents)
        self.parents = np.append(self.parents, np.arange(start, start + count))

    def join(self, a: int, b: int) -> None:
        a, b = self._root(a), self._root(b)
        self.parents[max(a, b)] = min(a, b)

    def _root(self, a: int) -> int:
        while self.parents[a] != a:
            self.parents[a] = self.parents[self.parents[a]]
            a = int(self.parents[a])
        return a

    def roots(self) -> NDArray[np.int64]:
        while True:
            higher = self.parents[self.parents]
            if np.array_equal(higher, self.parents):
                return higher
            self.parents = higher


def _scan(probs: Any, threshold: float, lines: int) -> tuple[list[_Part], _Union]:
    """Label every slab, join the labels that touch across slabs, and measure the pieces."""
    union, parts = _Union(), []
    face = np.zeros(probs.shape[1:], np.int64)
    for start, slab, labels in _label_slabs(probs, threshold, lines):
        count, first = int(labels.max(initial=0)), len(union.parents) - 1
        union.grow(count)
        for a, b in _contacts(face, np.where(labels[0] > 0, labels[0] + first, 0)):
            union.join(a, b)
        face = np.where(labels[-1] > 0, labels[-1].astype(np.int64) + first, 0)
        parts.append(_Part(first, _measure(labels, slab, count, start)))
        del slab, labels
    return parts, union


def _label_slabs(
    probs: Any, threshold: float, lines: int
) -> Iterator[tuple[int, NDArray[np.float32], NDArray[np.int32]]]:
    from scipy import ndimage

    for start in range(0, probs.shape[0], lines):
        slab = np.asarray(probs[start : start + lines], np.float32)
        labels, _ = ndimage.label(slab > threshold, structure=_TOUCHING, output=np.int32)
        yield start, slab, labels
        del slab, labels  # never two slabs at a time


def _contacts(above: NDArray[np.int64], below: NDArray[np.int64]) -> list[tuple[int, int]]:
    """Return the pairs of labels that touch, corners included, in two neighbouring planes."""
    rows, columns = above.shape
    padded = np.pad(below, 1)
    pairs = [np.empty((0, 2), np.int64)]
    for i in range(3):
        for j in range(3):
            other = padded[i : i + rows, j : j + columns]
            both = (above > 0) & (other > 0)
            pairs.append(np.unique(np.stack([above[both], other[both]], axis=1), axis=0))
    found = np.unique(np.concatenate(pairs), axis=0)
    return [(int(a), int(b)) for a, b in found]


def _measure(
    labels: NDArray[np.int32], probs: NDArray[np.float32], count: int, start: int
) -> _Pieces:
    from scipy import ndimage

    flat = labels.ravel()
    samples = np.bincount(flat, minlength=count + 1)[1:].astype(np.int64)
    sums = np.bincount(flat, probs.ravel(), count + 1)[1:]
    boxes = ndimage.find_objects(labels, count)
    ranges = np.array([[(s.start, s.stop) for s in box] for box in boxes], np.int64)
    ranges = ranges.reshape(count, 3, 2)
    ranges[:, 0] += start
    return _Pieces(samples, sums.astype(np.float64), ranges[..., 0], ranges[..., 1])


def _own_lookup(numbers: NDArray[np.int32], first: int, count: int) -> NDArray[np.int32]:
    return np.append(np.int32(0), numbers[first + 1 : first + 1 + count])


def _box(whole: _Pieces, k: int) -> Box:
    pairs = ((int(a), int(b)) for a, b in zip(whole.low[k], whole.high[k], strict=True))
    return Box(*pairs)


def _describe(whole: _Pieces, k: int, number: int, frame: Frame, cubic: float | None) -> Body:
    axes = (frame.inline, frame.crossline, frame.sample)
    inline, crossline, z = (
        (float(axis[first]), float(axis[behind - 1]))
        for axis, (first, behind) in zip(axes, _box(whole, k), strict=True)
    )
    samples = int(whole.samples[k])
    return Body(
        number=number,
        samples=samples,
        volume_m3=None if cubic is None else samples * cubic,
        inline=inline,
        crossline=crossline,
        z=z,
        mean_prob=float(whole.probs[k] / samples),
    )
