"""The part of a section that is sent to the browser: all of it, or what is on screen."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diapir.serve.viewer.sources import Axis

MOST_PIXELS = 1 << 22
"""Of a section sent to the browser; a larger one is thinned until one zooms in."""

Ranges = tuple[tuple[float, float], tuple[float, float]]
"""What is on screen, across and down, as values of the axes."""


@dataclass(frozen=True)
class Window:
    """The part of a section that is sent, and how it is thinned.

    Args:
        across: First pixel, the one after the last, and the step.
        down: Likewise.
    """

    across: tuple[int, int, int]
    down: tuple[int, int, int]

    def of(self, section: NDArray[Any]) -> NDArray[Any]:
        """Return the part of a section (across, down)."""
        return section[slice(*self.across), slice(*self.down)]

    def place(self, axes: tuple[Axis, Axis]) -> dict[str, list[Any]]:
        """Return where it lies, and how large the samples are of which it takes every n-th."""
        sides = []
        for axis, (start, stop, step) in zip(axes, (self.across, self.down), strict=True):
            count = -(-(stop - start) // step)
            sides.append((axis.start + start * axis.step, count * step * axis.step, axis.step))
        (x, dw, sample_x), (y, dh, sample_y) = sides
        return {"x": [x], "y": [y], "dw": [dw], "dh": [dh],
                "sample": [[sample_x, sample_y]]}  # fmt: skip

    def serves(self, axes: tuple[Axis, Axis], ranges: Ranges, most: int | None = None) -> bool:
        """Return whether it shows what is on screen as finely as it can be shown."""
        wanted = fit_window(axes, ranges, most)
        for axis, span, (start, stop, _) in zip(
            axes, ranges, (self.across, self.down), strict=True
        ):
            low, high = np.clip(_pixels(axis, span), 0, len(axis.values))
            if low < start or high > stop:
                return False
        return self.across[2] <= wanted.across[2]


def fit_window(axes: tuple[Axis, Axis], ranges: Ranges | None, most: int | None = None) -> Window:
    """Return what to send of a section.

    Args:
        axes: Across and down.
        ranges: What is on screen; None: everything.
        most: Pixels; None: `MOST_PIXELS`.

    Returns:
        The whole section where it is small enough, else what is on screen and half as much again
        on each side, every so-many-th pixel of it.
    """
    most = MOST_PIXELS if most is None else most
    sizes = [len(axis.values) for axis in axes]
    if sizes[0] * sizes[1] <= most or ranges is None:
        spans = [(0, size) for size in sizes]
    else:
        spans = []
        for axis, span, size in zip(axes, ranges, sizes, strict=True):
            low, high = _pixels(axis, span)
            margin = (high - low) / 2
            first = int(np.clip(np.floor(low - margin), 0, size - 1))
            spans.append((first, int(np.clip(np.ceil(high + margin), first + 1, size))))
    step = 1
    while np.prod([-(-(stop - start) // step) for start, stop in spans]) > most:
        step += 1
    return Window(*((start, stop, step) for start, stop in spans))


def _pixels(axis: Axis, span: tuple[float, float]) -> tuple[float, float]:
    low, high = sorted(axis.pixel(value) for value in span)
    return low, high
