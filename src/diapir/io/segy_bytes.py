"""Finds which bytes of the trace headers hold inline and crossline numbers, and says why."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from diapir.io.segy import SegyFile, header_field
from diapir.io.segy_format import ByteOrder, Raw

STANDARD = (189, 193)
_KNOWN = (STANDARD, (9, 21), (181, 185), (221, 225), (5, 21), (17, 21), (9, 13), (17, 25), (41, 45))
_FIELDS = (
    1, 5, 9, 13, 17, 21, 25, 41, 45, 53, 57, 61, 65, 73, 77, 81, 85, 181, 185, 189, 193, 197,
    201, 205, 209, 213, 217, 221, 225, 229, 233, 237,
)  # fmt: skip
_MOST_TRACES = 20_000
_LEAST_FILLED, _LEAST_DISTINCT = 0.35, 0.98
_LONGEST_LINE_STEP = 10  # steps beyond it are those of coordinates rather than of line numbers


@dataclass(frozen=True)
class BytePair:
    """Two header fields that number the traces like the lines of a survey.

    Args:
        inline: Byte of the inline number.
        crossline: Byte of the crossline number.
        lines: Distinct values of each in the traces looked at.
        filled: Share of the grid of these values that has a trace.
        distinct: Share of the traces that have a pair of values of their own.
        steps: Usual distance between neighbouring values of each.
    """

    inline: int
    crossline: int
    lines: tuple[int, int]
    filled: float
    distinct: float
    steps: tuple[int, int]

    @property
    def looks_like_coordinates(self) -> bool:
        """Whether the values come in longer steps than line numbers do."""
        return max(self.steps) > _LONGEST_LINE_STEP

    @property
    def why(self) -> str:
        """The evidence, in words."""
        each = " and ".join(
            f"{count:,} values in steps of {step:,}"
            for count, step in zip(self.lines, self.steps, strict=True)
        )
        own = "every trace has" if self.distinct == 1 else f"{self.distinct:.1%} of traces have"
        return f"{each}; {own} a pair of its own; {self.filled:.0%} of their grid is filled"


def first_headers(file: SegyFile) -> Raw:
    """Return the headers of the first traces, as many as the search needs."""
    return file.read_headers(0, min(file.traces, _MOST_TRACES))


def find_line_bytes(headers: Raw, order: ByteOrder) -> list[BytePair]:
    """Return the pairs of fields that look like inline and crossline, the likeliest first.

    A pair qualifies when hardly any two traces share its values and their grid is well filled.
    Customary places and small steps go first: coordinates of a survey along the compass make a
    grid as well.

    Args:
        headers: (N, 240) uint8, traces in the order of the file.
        order: Byte order.
    """
    fields = {byte: header_field(headers, byte, order) for byte in _FIELDS}
    varying = {byte: field for byte, field in fields.items() if field.min() != field.max()}
    ranks = {byte: np.unique(field, return_inverse=True) for byte, field in varying.items()}
    changes = {byte: int(np.count_nonzero(np.diff(field))) for byte, field in varying.items()}
    found = []
    for slow in varying:
        for fast in varying:
            if slow == fast or (changes[slow], slow) > (changes[fast], fast):
                continue
            pair = _judge(slow, fast, ranks)
            if pair is not None:
                found.append(pair)
    return sorted(found, key=_preference)


def _judge(
    slow: int, fast: int, ranks: dict[int, tuple[NDArray[np.int64], NDArray[np.intp]]]
) -> BytePair | None:
    (slow_values, slow_rank), (fast_values, fast_rank) = ranks[slow], ranks[fast]
    traces, cells = len(slow_rank), len(slow_values) * len(fast_values)
    if cells * _LEAST_FILLED > traces or cells < traces * _LEAST_DISTINCT:
        return None
    distinct = len(np.unique(slow_rank * len(fast_values) + fast_rank))
    if distinct < traces * _LEAST_DISTINCT or distinct < cells * _LEAST_FILLED:
        return None
    lines = (len(slow_values), len(fast_values))
    steps = (_usual_step(slow_values), _usual_step(fast_values))
    if (fast, slow) in _KNOWN:
        slow, fast, lines, steps = fast, slow, lines[::-1], steps[::-1]
    return BytePair(slow, fast, lines, distinct / cells, distinct / traces, steps)


def _usual_step(values: NDArray[np.int64]) -> int:
    return int(np.median(np.diff(values)))


def _preference(pair: BytePair) -> tuple[float, ...]:
    place = (pair.inline, pair.crossline)
    custom = _KNOWN.index(place) if place in _KNOWN else len(_KNOWN)
    return (pair.looks_like_coordinates, custom, -round(pair.filled, 2), max(pair.steps), *place)
