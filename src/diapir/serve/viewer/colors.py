"""Colours of amplitudes and salt: every slider is a change of palette, never of pixels."""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from diapir.report.style import AGREED, FALSE, MISSED, OUTLINE

Palette = list[str]

CLEAR = "#00000000"
SALT = OUTLINE
ADDED, REMOVED = "#009E73", "#CC79A7"
"""Of samples that a person said are salt, or are none; Okabe and Ito's green and purple."""

LEVELS = 255
"""What a probability of 1 is as a pixel."""

DROPPED = 256
"""Added to the pixel of a probability that a model's rule for masks does not take as salt."""

_TRUE = 128  # pixels from here on are salt in the truth
_TRUTH_LEVELS = 127

_STOPS: dict[str, tuple[tuple[int, int, int], ...]] = {
    "gray": ((0, 0, 0), (255, 255, 255)),
    "gray_r": ((255, 255, 255), (0, 0, 0)),
    "seismic": ((0, 0, 77), (0, 0, 255), (255, 255, 255), (255, 0, 0), (128, 0, 0)),
    # troughs cyan and blue, peaks red and yellow, grey where nothing happens, as interpreters know
    # it from their workstations
    "petrel": ((161, 255, 255), (0, 0, 191), (77, 77, 77), (204, 204, 204), (97, 69, 0),
               (191, 0, 0), (255, 255, 0)),
    # Matplotlib's viridis and inferno at five places: dark is low, equal steps look equal
    "heat": ((68, 1, 84), (59, 82, 139), (33, 145, 140), (94, 201, 98), (253, 231, 37)),
    "doubt": ((0, 0, 4), (87, 16, 110), (188, 55, 84), (249, 142, 9), (252, 255, 164)),
}  # fmt: skip

SYMMETRIC = frozenset({"seismic", "petrel"})
"""Displays whose middle colour belongs to amplitude 0."""


@lru_cache(maxsize=32)
def ramp(name: str, count: int = 256) -> tuple[str, ...]:
    """Return colours evenly spread over a named scale.

    >>> ramp("gray", 3)
    ('#000000', '#808080', '#ffffff')
    """
    stops = np.array(_STOPS[name], float)
    places = np.linspace(0, len(stops) - 1, count)
    columns = [np.interp(places, np.arange(len(stops)), stops[:, c]) for c in range(3)]
    return tuple(f"#{r:02x}{g:02x}{b:02x}" for r, g, b in np.rint(np.stack(columns, 1)).astype(int))


def amplitude_palette(display: str, *, reverse: bool) -> Palette:
    """Return 256 colours of amplitudes; a reversed polarity turns them over."""
    colors = list(ramp(display))
    return colors[::-1] if reverse else colors


def amplitude_span(clip: tuple[float, float], display: str) -> tuple[float, float]:
    """Return the amplitudes of the first and the last colour.

    Args:
        clip: Low and high.
        display: A symmetric one puts amplitude 0 in the middle, unless nothing is below 0.

    >>> amplitude_span((-2.0, 1.0), "seismic")
    (-2.0, 2.0)
    """
    low, high = clip
    if display in SYMMETRIC and low < 0:
        far = max(abs(low), abs(high))
        return -far, far
    return low, high


def as_int16(section: NDArray[np.floating]) -> tuple[NDArray[np.int16], float]:
    """Return a section as 16-bit integers and the amplitude of one step of them.

    What is no finite number becomes 0. The browser spreads colours over these; a change of clip,
    colours or polarity sends no pixels again, and the cursor reads amplitudes to a 32,767th.
    """
    values = np.nan_to_num(section, nan=0.0, posinf=0.0, neginf=0.0)
    top = float(np.abs(values).max(initial=0.0))
    unit = top / 32767 if top > 0 else 1.0
    return np.rint(values * np.float32(1 / unit)).astype(np.int16), unit


def prob_pixels(
    probs: NDArray[np.floating], dropped: NDArray[np.bool_] | None = None
) -> NDArray[np.unsignedinteger]:
    """Return probabilities as pixels of 0..255.

    Args:
        probs: In 0..1.
        dropped: Where `DROPPED` is added, in pixels of two bytes then; None: nowhere.
    """
    pixels = np.asarray(np.rint(np.clip(np.nan_to_num(probs), 0, 1) * LEVELS), np.uint8)
    if dropped is None or not dropped.any():
        return pixels
    return pixels + np.where(dropped, np.uint16(DROPPED), np.uint16(0))


def truth_pixels(probs: NDArray[np.floating], truth: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Return probability and truth in one pixel: 7 bits of probability, and 128 for salt."""
    levels = np.rint(np.clip(np.nan_to_num(probs), 0, 1) * _TRUTH_LEVELS).astype(np.uint8)
    return np.asarray(levels + np.where(truth, _TRUE, 0).astype(np.uint8), np.uint8)


def fill_palette(threshold: float) -> Palette:
    """Return a colour for each pixel of `prob_pixels`: salt above the threshold, else none."""
    salt = [SALT if level / LEVELS > threshold else CLEAR for level in range(DROPPED)]
    return salt + [CLEAR] * DROPPED


def truth_palette(threshold: float) -> Palette:
    """Return a colour for each pixel of `truth_pixels`: agreed, missed or false."""
    above = [level / _TRUTH_LEVELS > threshold for level in range(128)]
    without = [FALSE if salt else CLEAR for salt in above]
    return without + [AGREED if salt else MISSED for salt in above]


def ramp_palette(name: str, floor: float = 0.02) -> Palette:
    """Return a scale whose lowest values are clear, so that rock stays visible under it."""
    colors = list(ramp(name))
    cut = round(floor * 255)
    return [CLEAR] * cut + colors[cut:]


LABEL_PALETTE: Sequence[str] = (REMOVED, ADDED, *([CLEAR] * 254))
"""Of labels: 0 no salt, 1 salt, 255 without interpretation."""


def as_rgb(color: str) -> tuple[int, int, int]:
    """Return red, green and blue of a colour such as '#E69F00'.

    >>> as_rgb("#E69F00")
    (230, 159, 0)
    """
    return int(color[1:3], 16), int(color[3:5], 16), int(color[5:7], 16)
