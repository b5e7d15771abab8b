"""Turns amplitudes of any survey into the grey values that the networks were trained on."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from diapir.errors import DataError, OptionError
from diapir.io.volume import even_sample
from diapir.models.modelcard import ModelCard
from diapir.models.pixels import TGS_PIXELS, PixelStatistics

if TYPE_CHECKING:
    import xarray as xr

_SAMPLED_VALUES = 4_000_000
_LEAST_ROUGH = 0.02  # of the training data's roughness; no stretching would make that alike


@dataclass(frozen=True)
class Look:
    """A linear map from clipped amplitudes to grey values.

    Args:
        low: Smaller amplitudes count as this one.
        high: Larger ones likewise.
        gain: Grey values, 0..255, an amplitude; negative where the polarity is reversed.
        offset: Grey value of amplitude 0.
    """

    low: float
    high: float
    gain: float
    offset: float

    def grey(self, amplitudes: NDArray[np.floating]) -> NDArray[np.uint8]:
        """Return grey values of any shape; what is no finite number counts as amplitude 0."""
        values = np.nan_to_num(amplitudes, nan=0.0, posinf=0.0, neginf=0.0)
        values = np.clip(values, self.low, self.high) * np.float32(self.gain)
        values += np.float32(self.offset)
        grey: NDArray[np.uint8] = np.clip(np.rint(values, out=values), 0, 255).astype(np.uint8)
        return grey


AS_IS = Look(0.0, 255.0, 1.0, 0.0)
"""For pictures, whose values are grey values already."""


def is_alive(amplitudes: NDArray[np.floating]) -> NDArray[np.bool_]:
    """Return which amplitudes are finite and not 0; a trace without any such sample is dead."""
    alive: NDArray[np.bool_] = np.isfinite(amplitudes) & (amplitudes != 0)
    return alive


@dataclass(frozen=True, eq=False)
class Amplitudes:
    """What a sample of a survey's amplitudes looks like.

    Args:
        low: The lower percentile of the clip.
        high: The upper one.
        mean: Of the clipped amplitudes.
        std: Of the clipped amplitudes.
        dead: Share of the values that are exactly 0 or no number, which count for nothing else.
        counts: (64,) histogram of the clipped amplitudes between `low` and `high`.
    """

    low: float
    high: float
    mean: float
    std: float
    dead: float
    counts: NDArray[np.int64]

    def look(
        self,
        trained: PixelStatistics = TGS_PIXELS,
        polarity: Literal["normal", "reverse"] = "normal",
    ) -> Look:
        """Return the map that gives the clipped amplitudes a mean and deviation.

        Args:
            trained: The pixels that the networks were trained on.
            polarity: 'reverse' where a rise in impedance has the other sign than in training.
        """
        gain = 255 * trained.std / self.std if self.std > 0 else 0.0
        if polarity == "reverse":
            gain = -gain
        return Look(self.low, self.high, gain, 255 * trained.mean - gain * self.mean)


def measure(volume: "xr.Dataset", clip: tuple[float, float] = (1.0, 99.0)) -> Amplitudes:
    """Return what the amplitudes of a survey look like, from evenly spaced lines of it.

    Args:
        volume: Dataset with `amplitude`; lines along its first dimension are read.
        clip: Percentiles between which amplitudes are kept.

    Raises:
        DataError: The survey holds nothing but zeros.
        OptionError: The percentiles are no range.
    """
    low_percent, high_percent = clip
    if not 0 <= low_percent < high_percent <= 100:
        raise OptionError(
            f"the clip runs from {low_percent:g} to {high_percent:g}",
            "clip",
            expected="two rising percentiles within 0..100, such as 1 99",
        )
    values = np.concatenate(list(_sampled(volume["amplitude"])))
    alive = values[is_alive(values)]
    if not len(alive):
        raise DataError(
            "the survey holds no amplitudes but 0",
            where=volume.attrs.get("source"),
            mend="Run 'diapir doctor' on the file: the sample format may be misread.",
        )
    low, high = (float(p) for p in np.percentile(alive, [low_percent, high_percent]))
    kept = np.clip(alive, low, high).astype(np.float64)
    counts, _ = np.histogram(kept, 64, (low, high) if low < high else (low - 1, high + 1))
    return Amplitudes(
        low, high, float(kept.mean()), float(kept.std()), 1 - len(alive) / len(values), counts
    )


def _sampled(amplitude: "xr.DataArray") -> Iterator[NDArray[np.float32]]:
    """Yield values of evenly spaced lines, always the same ones, about `_SAMPLED_VALUES`."""
    lines, step = even_sample(amplitude.shape, values=_SAMPLED_VALUES, lines=256)
    for line in lines:
        yield np.asarray(amplitude[int(line)][::step], np.float32).ravel()


def trained_pixels(cards: Sequence[ModelCard]) -> PixelStatistics:
    """Return what trained the first of some models, or the TGS data where its file is silent."""
    own = cards[0].pixels if cards else None
    return TGS_PIXELS if own is None else own


@dataclass(frozen=True, eq=False)
class Likeness:
    """How a survey compares with the training data, as the networks see it.

    Args:
        shares: (32,) share of its grey values in equal classes.
        distance: Half the sum of the differences to the training data's shares, 0..1.
        dead: Share of samples that are 0 or no number.
        roughness: Mean step between neighbours in standard deviations, across traces and along
            samples, after resampling.
        trained: The training data.
        warnings: In words, with what to do.
    """

    shares: NDArray[np.float64]
    distance: float
    dead: float
    roughness: tuple[float, float]
    trained: PixelStatistics
    warnings: tuple[str, ...]


def compare(
    volume: "xr.Dataset",
    look: Look,
    scales: tuple[float, float] = (1.0, 1.0),
    trained: PixelStatistics = TGS_PIXELS,
) -> Likeness:
    """Return how like the training data a survey is, from evenly spaced lines of it.

    Args:
        volume: Dataset with `amplitude`.
        look: From amplitudes to grey values.
        scales: How much sections are stretched across traces and along samples.
        trained: The pixels that the networks were trained on.
    """
    amplitude = volume["amplitude"]
    flat = amplitude.ndim == 2
    lines = [0]
    if not flat:
        lines = np.unique(np.linspace(0, amplitude.shape[0] - 1, 12).astype(int)).tolist()
    counts, steps, spread, dead = np.zeros(len(trained.shares)), [], [], []
    for line in lines:
        section = np.asarray(amplitude if flat else amplitude[int(line)], np.float32)
        alive = is_alive(section)
        dead.append(1 - alive.mean())
        section = section[alive.any(axis=1)]
        if not section.size:
            continue
        grey = look.grey(section)
        counts += np.histogram(grey, len(counts), (0, 256))[0]
        smooth = grey.astype(np.float32)
        steps.append([np.abs(np.diff(smooth, axis=k)).mean() if n > 1 else 0.0
                      for k, n in enumerate(smooth.shape)])  # fmt: skip
        spread.append(smooth.std())
    shares = counts / max(counts.sum(), 1)
    # a section that is stretched f times has steps about a f-th as large
    if steps:
        rough = np.mean(steps, axis=0) / max(float(np.mean(spread)), 1e-6) / np.array(scales)
    else:  # what was looked at is dead, which is told alone
        rough = np.array(trained.roughness)
    distance = float(np.abs(shares - np.array(trained.shares)).sum() / 2)
    roughness = (float(rough[0]), float(rough[1]))
    found = Likeness(shares, distance, float(np.mean(dead)), roughness, trained, ())
    return replace(found, warnings=tuple(_warnings(found, scales)))


def _warnings(found: Likeness, scales: tuple[float, float]) -> Iterator[str]:
    if found.distance > 0.25 and found.dead < 1:
        yield (
            f"the grey values differ from the training data by {100 * found.distance:.0f} %: "
            "look at the histogram, and try other --clip percentiles"
        )
    names = (("--trace-scale", "across traces"), ("--sample-scale", "along samples"))
    for (option, name), own, trained, scale in zip(
        names, found.roughness, found.trained.roughness, scales, strict=True
    ):
        ratio = own / trained
        if ratio < _LEAST_ROUGH:
            yield f"sections hardly change {name}: there is little for a network to see"
        elif not 0.5 <= ratio <= 2:
            word = "rougher" if ratio > 1 else "smoother"
            yield (
                f"sections are {max(ratio, 1 / ratio):.1f} times {word} {name} than the training "
                f"data: consider {option} {scale * ratio:.2g}"
            )
    if found.dead > 0.3:
        yield f"{100 * found.dead:.0f} % of the samples are dead"
