"""Turns an earth model into a seismic image: reflectivity, wavelet, resolution, noise, gain.

The image of a depth migration is the reflectivity blurred by a point-spread function, whose
spectrum is the wavelet's on the length of the wave vector, cut off beyond the steepest dip that
the survey lit. Filtering noise by the same spectrum gives the crossing arcs of real sections.
All functions take sections (sample, trace) and volumes (inline, crossline, sample) alike.

Source:
    Lecomte, I. (2008), Resolution and illumination analyses in PSDM: A ray-based approach,
    The Leading Edge 27(5), 650-663; Ricker, N. (1953), Geophysics 18(1), 10-40.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from diapir.data.geology import EarthModel, Field, Grid


@dataclass(frozen=True)
class ImagingConditions:
    """How an earth is seen: resolution, illumination, noise and gain.

    Args:
        wavelength_m: Dominant wavelength of the wavelet, metres.
        steepest_degrees: Dip beyond which reflectors fade.
        noise: Migration noise in the sediments, relative to the root-mean-square of the signal.
        noise_dip: Dip that most of this noise has, degrees.
        salt_noise: Migration noise inside salt, relative to the same.
        salt_streaks: Direction of the noise inside salt, degrees of dip; None for all directions.
        random_noise: Noise without correlation, relative to the same.
        shadow_m: Thickness of salt below which the signal has lost two thirds; large for none.
        fading: How much amplitudes vary from place to place, as a natural logarithm.
        gain: Automatic gain: 0 none, 1 equal amplitude everywhere.
    """

    wavelength_m: float = 80.0
    steepest_degrees: float = 75.0
    noise: float = 0.3
    noise_dip: float = 0.0
    salt_noise: float = 0.3
    salt_streaks: float | None = None
    random_noise: float = 0.02
    shadow_m: float = 1500.0
    fading: float = 0.4
    gain: float = 0.2


def draw_conditions(rng: np.random.Generator) -> ImagingConditions:
    """Return a random way of seeing, within what the competition's tiles show."""
    noisy = rng.random() < 0.22  # subsalt and badly lit tiles hardly show a bed
    return ImagingConditions(
        wavelength_m=float(np.exp(rng.normal(np.log(80), 0.15))),
        steepest_degrees=rng.uniform(55, 85),
        noise=float(np.exp(rng.normal(np.log(1.6 if noisy else 0.4), 0.5))),
        noise_dip=rng.normal(0, 35 if noisy else 15),
        salt_noise=float(np.exp(rng.normal(np.log(0.25), 0.7))),
        salt_streaks=rng.uniform(-80, 80) if rng.random() < 0.5 else None,
        random_noise=float(np.exp(rng.normal(np.log(0.012), 0.7))),
        shadow_m=rng.uniform(600, 4000),
        fading=rng.uniform(0.2, 0.9),
        gain=rng.uniform(0, 0.7),
    )


def ricker_spectrum(wavenumber: Field, dominant: float) -> Field:
    """Return the amplitude spectrum of a Ricker wavelet, 1 at its dominant wavenumber.

    Args:
        wavenumber: Cycles per metre, any shape, not negative.
        dominant: Wavenumber of the peak, cycles per metre.

    >>> float(ricker_spectrum(np.float32(0.02), 0.02))
    1.0
    """
    ratio = np.square(wavenumber / dominant)
    return np.asarray(ratio * np.exp(1 - ratio), np.float32)


def seismic_image(
    model: EarthModel, grid: Grid, conditions: ImagingConditions, rng: np.random.Generator
) -> Field:
    """Return the seismic amplitude of an earth model; a rise of impedance is positive.

    The edges wrap around, so give the model a margin of two wavelengths and crop it afterwards.

    Args:
        model: Impedance, salt and water.
        grid: Where the model was evaluated.
        conditions: How it is seen.
        rng: Source of the noise.
    """
    shape = model.salt.shape
    waves = _WaveNumbers.of(grid)
    response = waves.response(conditions.wavelength_m, conditions.steepest_degrees)
    signal = _filter(model.log_impedance, 1j * waves.downward_sign() * waves.length * response)
    white = rng.standard_normal(shape, np.float32)
    # one draw of white noise serves all: its parts lie in other bands or at other places
    white_spectrum = np.fft.rfftn(white, axes=tuple(range(white.ndim)))
    fading = _coloured(white_spectrum, waves.below(6 * conditions.wavelength_m), shape)
    lit = _illumination(model.salt, grid, conditions.shadow_m)
    signal = signal * lit * np.exp(np.float32(conditions.fading) * fading)
    sediment = ~model.salt & ~model.water
    level = float(np.sqrt(np.mean(np.square(signal)[sediment]))) if sediment.any() else 1.0
    signal = signal / (level or 1.0)
    spectrum = response * waves.towards(conditions.noise_dip, 45)
    arcs = conditions.noise * _coloured(white_spectrum, spectrum, shape)
    # salt is fast: the same frequencies have longer waves there
    slow = waves.response(1.7 * conditions.wavelength_m, conditions.steepest_degrees)
    if conditions.salt_streaks is not None:
        slow = slow * waves.towards(conditions.salt_streaks, 25)
    streaks = conditions.salt_noise * _coloured(white_spectrum, slow, shape)
    # the image cannot switch between the two faster than its waves are long
    soft = _filter(model.salt.astype(np.float32), waves.below(conditions.wavelength_m))
    noise = arcs + soft * (streaks - arcs)
    noise = noise + conditions.random_noise * white
    image = signal + np.where(model.water, np.float32(0.05), np.float32(1)) * noise
    windows = [round(2.5 * conditions.wavelength_m / spacing) for spacing in grid.spacing_m]
    return automatic_gain(image, windows, conditions.gain)


def automatic_gain(image: Field, windows: Sequence[int], strength: float) -> Field:
    """Return the image divided by its local root-mean-square to the power ``strength``.

    Args:
        image: Amplitudes, two or three axes.
        windows: Half-length of the window on each axis, in samples.
        strength: 0 leaves the image as it is, 1 makes its level the same everywhere.
    """
    power = np.square(image)
    for axis, window in enumerate(windows):
        power = _running_mean(power, window, axis)
    floor = 1e-3 * float(power.mean()) + np.finfo(np.float32).tiny
    return np.asarray(image / np.sqrt(power + floor) ** np.float32(strength), np.float32)


def to_grey(image: Field) -> NDArray[np.uint8]:
    """Return the image stretched from its smallest to its largest value, as the tiles are."""
    low, high = float(image.min()), float(image.max())
    if high <= low:
        return np.zeros(image.shape, np.uint8)
    return np.asarray(np.rint((image - low) * (255 / (high - low))), np.uint8)


@dataclass(frozen=True)
class _WaveNumbers:
    """Wavenumbers of a real Fourier transform in cycles per metre."""

    axes: Sequence[Field]
    length: Field
    sample_axis: int

    @staticmethod
    def of(grid: Grid) -> "_WaveNumbers":
        axes = []
        rank = len(grid.shape)
        for axis, (size, spacing) in enumerate(zip(grid.shape, grid.spacing_m, strict=True)):
            frequencies = np.fft.rfftfreq if axis == rank - 1 else np.fft.fftfreq
            cycles = frequencies(size, spacing)
            to = [1] * rank
            to[axis] = -1
            axes.append(cycles.astype(np.float32).reshape(to))
        length = np.sqrt(sum((np.square(axis) for axis in axes), start=np.float32(0)))
        return _WaveNumbers(axes, np.asarray(length, np.float32), grid.sample_axis)

    def cosine(self) -> Field:
        """Cosine of the reflector's dip for each wave vector, negative for upward vectors."""
        down = self.axes[self.sample_axis]
        return np.asarray(down / np.maximum(self.length, np.float32(1e-9)), np.float32)

    def downward_sign(self) -> Field:
        """Sign of the vertical derivative, smooth where the reflector is vertical."""
        return np.asarray(np.tanh(self.cosine() / np.float32(0.1)), np.float32)

    def response(self, wavelength_m: float, steepest_degrees: float) -> Field:
        """Spectrum of the point-spread function: the wavelet, faded beyond the steepest dip."""
        dip = np.degrees(np.arccos(np.clip(np.abs(self.cosine()), 0, 1)))
        lit = 1 / (1 + np.exp(np.clip((dip - steepest_degrees) / 4, -50, 50)))
        # a broad band, as processing leaves it: the Ricker wavelet and one of half its frequency
        band = ricker_spectrum(self.length, 1 / wavelength_m)
        band = band + 0.5 * ricker_spectrum(self.length, 0.5 / wavelength_m)
        return np.asarray(band * lit, np.float32)

    def below(self, wavelength_m: float) -> Field:
        """Low-pass that keeps what is longer than a wavelength."""
        return np.asarray(np.exp(-np.square(self.length * wavelength_m)), np.float32)

    def towards(self, dip_degrees: float, width_degrees: float) -> Field:
        """Weight of reflectors near a dip along the first horizontal axis."""
        horizontal = self.axes[1 if self.sample_axis == 0 else 0]
        angle = np.degrees(np.arctan2(horizontal, self.axes[self.sample_axis]))
        away = np.mod(angle - dip_degrees + 90, 180) - 90
        return np.asarray(np.exp(-np.square(away / width_degrees)) + 0.1, np.float32)


def _filter(field: Field, spectrum: NDArray[np.complexfloating] | Field) -> Field:
    transformed = np.fft.rfftn(field, axes=tuple(range(field.ndim)))
    return _inverse(transformed * spectrum, field.shape)


def _inverse(spectrum: NDArray[np.complexfloating], shape: Sequence[int]) -> Field:
    return np.asarray(np.fft.irfftn(spectrum, s=shape, axes=tuple(range(len(shape)))), np.float32)


def _coloured(
    white_spectrum: NDArray[np.complexfloating], spectrum: Field, shape: Sequence[int]
) -> Field:
    """Return white noise filtered to a spectrum, with an expected root-mean-square of 1."""
    times = np.full(spectrum.shape[-1], 2.0)  # a real transform keeps one of each mirrored pair
    times[0] = 1.0
    if shape[-1] % 2 == 0:
        times[-1] = 1.0
    power = float((np.square(spectrum) * times).sum()) / float(np.prod(shape))
    return _inverse(white_spectrum * (spectrum / np.float32(np.sqrt(power))), shape)


def _illumination(salt: NDArray[np.bool_], grid: Grid, shadow_m: float) -> Field:
    overburden = np.cumsum(salt, axis=grid.sample_axis, dtype=np.float32) * grid.sample_interval_m
    return np.asarray(np.exp(-overburden / shadow_m), np.float32)


def _running_mean(field: Field, half: int, axis: int) -> Field:
    total = np.cumsum(field, axis=axis, dtype=np.float64)
    total = np.insert(total, 0, 0.0, axis=axis)
    size = field.shape[axis]
    low = np.clip(np.arange(size) - half, 0, size)
    high = np.clip(np.arange(size) + half + 1, 0, size)
    width = (high - low).astype(np.float64)
    to = [1] * field.ndim
    to[axis] = -1
    difference = np.take(total, high, axis=axis) - np.take(total, low, axis=axis)
    return np.asarray(difference / width.reshape(to), np.float32)
