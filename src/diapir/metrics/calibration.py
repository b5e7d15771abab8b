"""How far probabilities can be trusted: calibration, and which tiles are doubtful."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diapir.metrics.bootstrap import bootstrap_interval
from diapir.metrics.crossfit import deal_parts

_SMALLEST = 1e-6
"""Probabilities closer to 0 or 1 count as this close, so that logits are finite."""
_LOGIT_BINS = 2801
_LOGIT_END = 14.0  # beyond the logit of `_SMALLEST`
_TEMPERATURES = (0.2, 5.0)
_DOUBT_PIXELS = 50.0


@dataclass(frozen=True, eq=False)
class Reliability:
    """Predicted against found shares of salt, by classes of probability.

    Args:
        edges: (B + 1,) ends of the classes, 0 to 1.
        predicted: (B,) mean probability of the pixels in each class; NaN where there are none.
        found: (B,) share of these pixels that are salt; NaN where there are none.
        pixels: (B,) pixels in each class, int64.
    """

    edges: NDArray[np.float64]
    predicted: NDArray[np.float64]
    found: NDArray[np.float64]
    pixels: NDArray[np.int64]

    @property
    def error(self) -> float:
        """Expected calibration error: mean distance of predicted and found, weighed by pixels.

        Source:
            Guo et al. 2017, On Calibration of Modern Neural Networks, equation 3.
        """
        some = self.pixels > 0
        gaps = np.abs(self.predicted[some] - self.found[some])
        return float((gaps * self.pixels[some]).sum() / self.pixels.sum())


def reliability(probs: NDArray[Any], truth: NDArray[Any], *, bins: int = 15) -> Reliability:
    """Return how often pixels of each class of probability are salt.

    Args:
        probs: Probabilities in 0..1, of any shape.
        truth: Salt where not 0, of the same shape.
        bins: Number of classes of equal width.

    Raises:
        ValueError: There are no pixels, or the shapes differ.

    >>> reliability(np.array([0.25, 0.25]), np.array([0, 1]), bins=2).error
    0.25
    """
    probs, truth = _flat(probs, truth)
    place = np.minimum((probs * bins).astype(np.int16), bins - 1)
    pixels = np.bincount(place, minlength=bins)
    with np.errstate(invalid="ignore"):
        predicted = np.bincount(place, weights=probs, minlength=bins) / pixels
        found = np.bincount(place, weights=truth, minlength=bins) / pixels
    return Reliability(np.linspace(0, 1, bins + 1), predicted, found, pixels.astype(np.int64))


def fit_temperature(probs: NDArray[Any], truth: NDArray[Any]) -> float:
    """Return the temperature that makes the truth most likely, between 0.2 and 5.

    Logits are counted in fine classes first, so that a hundred million pixels cost no more than a
    thousand. Without a pixel of each kind there is nothing to fit, and it is 1.

    Args:
        probs: Probabilities in 0..1, of any shape.
        truth: Salt where not 0, of the same shape.

    Raises:
        ValueError: There are no pixels, or the shapes differ.

    Source:
        Guo et al. 2017, On Calibration of Modern Neural Networks, section 4.2.
    """
    return _likeliest(*_logit_counts(*_flat(probs, truth)))


@dataclass(frozen=True)
class TemperatureTrial:
    """A fitted temperature, and what it gains on tiles that did not fit it.

    Args:
        temperature: Fitted on all tiles.
        likelihood_gain: Fall of the negative log-likelihood in nats a pixel, cross-fitted.
        likelihood_low: Lower end of the 95 % interval of that, paired by tile.
        error_gain: Fall of the expected calibration error, cross-fitted.
        error_low: Lower end of the 95 % interval of that, paired by tile.
    """

    temperature: float = 1.0
    likelihood_gain: float = 0.0
    likelihood_low: float = 0.0
    error_gain: float = 0.0
    error_low: float = 0.0

    @property
    def helps(self) -> bool:
        """Whether likelihood and calibration error are both better beyond doubt."""
        return self.likelihood_low > 0 and self.error_low > 0

    @property
    def kept(self) -> float:
        """The temperature to use: that which was fitted where it helps, otherwise 1."""
        return self.temperature if self.helps else 1.0


def try_temperature(
    probs: NDArray[Any], truth: NDArray[Any], *, folds: int = 5, samples: int = 2000
) -> TemperatureTrial:
    """Return the temperature that is fitted on all tiles, and what it gains, cross-fitted.

    A temperature that was fitted on a hundred tiles always suits these tiles, and may make others
    worse. So each part of the tiles is judged with a temperature that the other parts fitted.

    Args:
        probs: (N, H, W) probabilities in 0..1.
        truth: (N, H, W), salt where not 0.
        folds: Parts, dealt by how much salt there is; the order of the tiles does not matter.
        samples: Of the bootstrap over tiles.

    Raises:
        ValueError: There are no pixels, or the shapes differ.
    """
    parts = deal_parts(probs, truth, folds=folds)
    counts = [_logit_counts(*_flat(probs[part], truth[part])) for part in parts]
    salt, rest = (np.sum(each, axis=0) for each in zip(*counts, strict=True))
    if len(parts) < 2 or not salt.any() or not rest.any():
        return TemperatureTrial()
    judged = [
        _tile_gains(probs[part], truth[part], _likeliest(salt - own_salt, rest - own_rest))
        for part, (own_salt, own_rest) in zip(parts, counts, strict=True)
    ]
    gains, before, after = (np.concatenate(each) for each in zip(*judged, strict=True))
    low, _ = bootstrap_interval(gains, samples=samples)
    error_gain, error_low = _error_gain(before, after, samples)
    return TemperatureTrial(
        temperature=_likeliest(salt, rest),
        likelihood_gain=float(gains.mean()),
        likelihood_low=low,
        error_gain=error_gain,
        error_low=error_low,
    )


def _logit_counts(
    probs: NDArray[Any], truth: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return how many pixels with salt and without fall into each fine class of logits."""
    scale = (_LOGIT_BINS - 1) / (2 * _LOGIT_END)
    place = np.rint((_logits(probs) + _LOGIT_END) * scale).astype(np.int32)
    salt = np.bincount(place[truth], minlength=_LOGIT_BINS).astype(np.float64)
    return salt, np.bincount(place, minlength=_LOGIT_BINS) - salt


def _likeliest(salt: NDArray[np.float64], rest: NDArray[np.float64]) -> float:
    """Return the best temperature of counted logits; 1 where pixels of one kind are missing."""
    if not salt.any() or not rest.any():
        return 1.0
    logits = np.linspace(-_LOGIT_END, _LOGIT_END, _LOGIT_BINS)

    def loss(log_temperature: float) -> float:
        scaled = logits / np.exp(log_temperature)
        return float((salt * np.logaddexp(0, -scaled) + rest * np.logaddexp(0, scaled)).sum())

    return float(np.exp(_minimum(loss, *np.log(_TEMPERATURES))))


def _tile_gains(
    probs: NDArray[Any], truth: NDArray[Any], temperature: float
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Return of each tile the fall of its loss, and its calibration gaps before and after."""
    logits, salt = _logits(probs), truth != 0
    signed = np.where(salt, -logits, logits)
    loss = np.logaddexp(0, signed) - np.logaddexp(0, signed / np.float32(temperature))
    scaled = scale_probs(probs, temperature)
    gains = loss.mean(axis=(1, 2), dtype=np.float64)
    return gains, _tile_gaps(probs, salt), _tile_gaps(scaled, salt)


def _tile_gaps(probs: NDArray[Any], salt: NDArray[np.bool_], bins: int = 15) -> NDArray[np.float64]:
    """Return (N, bins) predicted minus found salt of each tile's pixels, as shares of a tile."""
    tiles = len(probs)
    place = np.minimum((probs * bins).astype(np.int32), bins - 1)
    place += bins * np.arange(tiles, dtype=np.int32)[:, None, None]
    gaps = np.bincount(
        place.ravel(), weights=(probs - salt).ravel(), minlength=bins * tiles
    ).reshape(tiles, bins)
    return np.asarray(gaps / salt[0].size, np.float64)


def _error_gain(
    before: NDArray[np.float64], after: NDArray[np.float64], samples: int
) -> tuple[float, float]:
    """Return the fall of the calibration error, and the lower end of its 95 % interval."""
    tiles = len(before)
    rng = np.random.default_rng(0)
    drawn = rng.multinomial(tiles, np.full(tiles, 1 / tiles), size=samples) / tiles

    def fall(weights: NDArray[np.float64]) -> NDArray[np.float64]:
        old, new = (np.abs(weights @ gaps).sum(axis=-1) for gaps in (before, after))
        return np.asarray(old - new, np.float64)

    return float(fall(np.full(tiles, 1 / tiles))), float(np.quantile(fall(drawn), 0.025))


def scale_probs(probs: NDArray[Any], temperature: float) -> NDArray[np.float32]:
    """Return probabilities with their logits divided by a temperature, float32.

    >>> scale_probs(np.array([0.5, 0.9]), 2.0).round(2).tolist()
    [0.5, 0.75]
    """
    if temperature == 1:
        return np.asarray(probs, np.float32)
    return sigmoid(_logits(probs) / np.float32(temperature))


def sigmoid(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return probabilities of logits, float32.

    >>> sigmoid(np.array([0, -1000], np.float32)).tolist()
    [0.5, 0.0]
    """
    with np.errstate(over="ignore"):  # of a logit below -88 the probability is 0
        probs = np.exp(-logits)
    probs += 1
    return np.reciprocal(probs, out=probs)


def tile_doubt(probs: NDArray[Any]) -> NDArray[np.float64]:
    """Return how doubtful each tile is, from its probabilities alone.

    The sum of min(p, 1 - p) is the number of pixels expected to be wrong; it is divided by the salt
    that is expected. Small bodies are more doubtful than large ones with a border of the same
    width, as they are to the score.

    Args:
        probs: (N, H, W) calibrated probabilities.

    Returns:
        (N,) 0 where all is certain, rising.
    """
    wrong = np.minimum(probs, 1 - probs).sum(axis=(1, 2), dtype=np.float64)
    salt = probs.sum(axis=(1, 2), dtype=np.float64)
    return np.asarray(wrong / (salt + _DOUBT_PIXELS), np.float64)


def tile_disagreement(views: NDArray[Any]) -> NDArray[np.float64]:
    """Return how far the predictions of each tile differ: mirrored, or from several networks.

    Args:
        views: (V, N, H, W) probabilities of the same tiles.

    Returns:
        (N,) mean over views of the absolute difference to their mean, beside the salt there is.
    """
    mean = views.mean(axis=0, dtype=np.float32)
    apart = np.abs(views - mean).sum(axis=(2, 3), dtype=np.float64).mean(axis=0)
    salt = mean.sum(axis=(1, 2), dtype=np.float64)
    return np.asarray(apart / (salt + _DOUBT_PIXELS), np.float64)


def kept_curve(
    scores: NDArray[Any], doubt: NDArray[Any]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the mean score of the least doubtful tiles, for every share of tiles kept.

    Args:
        scores: (N,) of the tiles.
        doubt: (N,) of the tiles; equal ones keep their order.

    Returns:
        (N,) shares 1/N, 2/N, ..., 1 and (N,) mean scores.

    Source:
        Geifman and El-Yaniv 2017, Selective Classification for Deep Neural Networks, section 2.

    >>> kept_curve(np.array([0.0, 1.0]), np.array([0.9, 0.1]))[1].tolist()
    [1.0, 0.5]
    """
    if scores.shape != doubt.shape or scores.ndim != 1 or not len(scores):
        raise ValueError(f"scores {scores.shape} and doubt {doubt.shape} must be (N,), N > 0")
    count = np.arange(1, len(scores) + 1)
    order = np.argsort(doubt, kind="stable")
    return count / len(scores), np.cumsum(scores[order]) / count


def _logits(probs: NDArray[Any]) -> NDArray[np.float32]:
    inside = np.clip(probs, _SMALLEST, 1 - _SMALLEST).astype(np.float32)
    return np.asarray(np.log(inside) - np.log1p(-inside), np.float32)


def _flat(probs: NDArray[Any], truth: NDArray[Any]) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    if probs.shape != truth.shape or not probs.size:
        raise ValueError(f"probs {probs.shape} and truth {truth.shape} must have one shape")
    return np.ravel(probs), np.ravel(truth) != 0


def _minimum(loss: Any, low: float, high: float) -> float:
    """Return where a function with one valley is least, by golden sections."""
    golden = (np.sqrt(5) - 1) / 2
    while high - low > 1e-4:
        left, right = high - golden * (high - low), low + golden * (high - low)
        low, high = (low, right) if loss(left) < loss(right) else (left, high)
    return float(low + high) / 2
