"""Salt probabilities of tiles and sections from one or several models."""

import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from diapir.errors import DataError, DeviceError, OptionError
from diapir.inference.engine_choice import images_to_try
from diapir.inference.engine_pool import EnginePool
from diapir.inference.graph_store import has_graph
from diapir.inference.postprocess import check_threshold, make_masks
from diapir.inference.signature import Floats
from diapir.io.stack import ImageStack
from diapir.io.tiles import Tiles
from diapir.metrics.calibration import scale_probs, sigmoid, tile_disagreement
from diapir.models.ensemble import read_networks
from diapir.models.maskrule import AS_THRESHOLDED, MaskRule, mean_rule
from diapir.models.memory import is_out_of_memory, largest_batch
from diapir.models.modelcard import ModelCard
from diapir.models.packaged import models_or_packaged
from diapir.models.processor import may_have_card
from diapir.models.stored import AnyNet, StoredNet, device_type
from diapir.progress import counting


@dataclass
class Predictor:
    """Averages the salt probabilities of models and of mirrored tiles.

    Args:
        nets: In evaluation mode, on one device; those not yet built are on the CPU.
        threshold: Probability from which a pixel counts as salt.
        flip: Average with the prediction of the mirrored tile.
        batch_size: Tiles a forward pass, before mirroring.
        rule: Its temperature calibrates the mean probability, the rest cleans up masks.
        weights: One a network; None: all alike.
        engine: What computes, as of `EnginePool`.
        precision: As of `EnginePool`.
        expected: Images that are going to come in several calls, for the choice of an engine.
        model_seconds: Time spent in the networks so far, without reading and writing.
    """

    nets: Sequence[AnyNet]
    threshold: float = 0.5
    flip: bool = True
    batch_size: int = 32
    rule: MaskRule = AS_THRESHOLDED
    weights: Sequence[float] | None = None
    engine: str = "auto"
    precision: str = "auto"
    expected: int = 0
    model_seconds: float = field(default=0.0, init=False)

    def __post_init__(self) -> None:
        shares = np.ones(len(self.nets)) if self.weights is None else np.asarray(self.weights)
        self.shares: list[float] = (shares / shares.sum()).tolist()
        for net in self.nets:
            if not isinstance(net, StoredNet):
                net.eval()
        self.engines = EnginePool(self.nets, self.engine, self.precision)

    @property
    def needs_depth(self) -> bool:
        """Whether a network wants the depth of each tile."""
        return any(net.config.depth_channel for net in self.nets)

    def make_masks(self, probs: NDArray[np.float32]) -> NDArray[np.bool_]:
        """Return the masks (N, H, W) of probabilities that `predict_probs` gave."""
        return make_masks(probs, self.threshold, self.rule)

    def predict_probs(
        self,
        images: NDArray[np.uint8],
        z_feet: NDArray[np.float32] | None = None,
        *,
        advance: Callable[[int], None] | None = None,
    ) -> NDArray[np.float32]:
        """Return the probability of salt for every pixel.

        Args:
            images: (N, H, W) uint8 grey values of any height and width.
            z_feet: (N,) depths in feet, where the models want them.
            advance: Called with the number of tiles done after every batch.

        Returns:
            (N, H, W) float32 in 0..1.

        Raises:
            DataError: A model wants depths and there are none.
            DeviceError: The device's memory is not enough; it names a batch that fits.
        """
        probs, _ = self.predict_with_doubt(images, z_feet, advance=advance)
        return probs

    def stream_masks(
        self, images: NDArray[np.uint8] | ImageStack, z_feet: NDArray[np.float32] | None = None
    ) -> Iterator[NDArray[np.bool_]]:
        """Yield the masks of a batch after the other; nothing of earlier ones is kept.

        Args:
            images: As in `predict_probs`; the last may still be on their way.
            z_feet: As in `predict_probs`.

        Yields:
            (B, H, W) masks of the next images, `batch_size` of them, fewer at the end.

        Raises:
            DataError: A model wants depths and there are none.
            DeviceError: The device's memory is not enough; it names a batch that fits.
        """
        for mean, _ in self._batches(images, z_feet):
            yield self.make_masks(mean)

    def predict_with_doubt(
        self,
        images: NDArray[np.uint8],
        z_feet: NDArray[np.float32] | None = None,
        *,
        advance: Callable[[int], None] | None = None,
    ) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
        """Return probabilities, and how far networks and mirrored tiles disagree about each tile.

        Args:
            images: As in `predict_probs`.
            z_feet: As in `predict_probs`.
            advance: As in `predict_probs`.

        Returns:
            (N, H, W) float32 in 0..1 and (N,) as of `metrics.calibration.tile_disagreement`; 0
            throughout where one network sees each tile once.

        Raises:
            DataError: A model wants depths and there are none.
            DeviceError: The device's memory is not enough; it names a batch that fits.
        """
        probs = np.empty(images.shape, np.float32)
        apart = np.zeros(len(images))
        start = 0
        for mean, views in self._batches(images, z_feet):
            done = slice(start, start := start + len(mean))
            probs[done] = mean
            if len(views) > 1:
                apart[done] = tile_disagreement(views)
            if advance is not None:
                advance(len(mean))
        return probs, apart

    def _batches(
        self, images: NDArray[np.uint8] | ImageStack, z_feet: NDArray[np.float32] | None
    ) -> Iterator[tuple[Floats, Floats]]:
        """Yield the probabilities (B, H, W) of the next images, and the views they average."""
        if self.needs_depth and z_feet is None:
            raise DataError(
                "this model uses the depth of each tile, but the data has none",
                expected="depths.csv (id,z) beside the images",
                mend="Add the depths, or use a model trained without model.depth_channel.",
            )
        if len(images):
            self._prepare_engines(images, z_feet)
        for start in range(0, len(images), self.batch_size):
            stop = start + self.batch_size
            batch = images[start:stop]  # waits for those that are still on their way
            depths = None if z_feet is None else z_feet[start:stop]
            started = time.perf_counter()
            views = self._fitting_views(batch, depths)
            found = scale_probs(self._mean(views), self.rule.temperature)
            self.model_seconds += time.perf_counter() - started
            yield found, views

    def _prepare_engines(
        self, images: NDArray[np.uint8] | ImageStack, z_feet: NDArray[np.float32] | None
    ) -> None:
        _, height, width = images.shape

        def some() -> tuple[Floats, Floats | None]:
            count = min(images_to_try(height, width), len(images))
            chosen = np.linspace(0, len(images) - 1, count).astype(np.intp)
            return self._views(images[chosen], None if z_feet is None else z_feet[chosen])

        tiles = max(len(images), self.expected) * (2 if self.flip else 1)
        self.engines.prepare((height, width), tiles, some)

    def _fitting_views(self, images: NDArray[np.uint8], z_feet: Floats | None) -> Floats:
        """Return `_batch_views`, or say which batch would fit where the device's memory is full."""
        try:
            return self._batch_views(images, z_feet)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            traceback.clear_frames(error.__traceback__)  # they hold what fills the device
            fits = largest_batch(
                lambda count: self._batch_views(
                    np.zeros_like(images[:count]), None if z_feet is None else z_feet[:count]
                ),
                len(images),
            )
            height, width = images.shape[1:]
            raise DeviceError(
                f"out of memory on the device with {len(images)} images of {height} x {width} "
                "pixels a pass",
                where=device_type(self.nets[0]),
                mend=f"Give --batch-size {fits}, which fits."
                if fits
                else "Not even one fits: give --no-flip, --device cpu, fewer models, or to "
                "'diapir map' a smaller --window.",
            ) from error

    def _views(
        self, images: NDArray[np.uint8], z_feet: Floats | None
    ) -> tuple[Floats, Floats | None]:
        """Return (B, 1, H, W) grey values and depths; mirrored tiles follow."""
        x = images[:, None].astype(np.float32)
        x /= 255
        if not self.flip:
            return x, z_feet
        # mirrored tiles go through in the same batch
        depths = None if z_feet is None else np.concatenate([z_feet, z_feet])
        return np.concatenate([x, x[..., ::-1]]), depths

    def _batch_views(self, images: NDArray[np.uint8], z_feet: Floats | None) -> Floats:
        """Return (V, B, H, W) probabilities: of each network, straight and then mirrored."""
        x, depths = self._views(images, z_feet)
        views = []
        for number in range(len(self.nets)):
            probs = sigmoid(self.engines(number, x, depths)[:, 0])
            if self.flip:
                straight, mirrored = np.split(probs, 2)
                views += [straight, mirrored[..., ::-1]]
            else:
                views.append(probs)
        return np.stack(views)

    def _mean(self, views: Floats) -> Floats:
        times = len(views) // len(self.nets)
        shares = np.repeat(np.asarray(self.shares, np.float32) / times, times)
        mean: Floats = views[0] * shares[0]
        for view, share in zip(views[1:], shares[1:], strict=True):
            mean += view * share
        return np.minimum(mean, np.float32(1), out=mean)  # shares add up to 1 but for rounding


@dataclass(frozen=True)
class PredictOptions:
    """How models are applied; the defaults do what the models' recipes say.

    Args:
        flip: Mirror at test time; None: as the first model's recipe says.
        threshold: Probability above which a pixel is salt; None: the mean of the models' own.
        batch_size: Tiles a forward pass.
        device: 'auto', 'cpu' or 'cuda'.
        precision: 'auto', 'float32' or 'bf16', as in the recipe.
        engine: 'auto', or one of `BACKENDS`.
    """

    flip: bool | None = None
    threshold: float | None = None
    batch_size: int = 32
    device: str = "auto"
    precision: str = "auto"
    engine: str = "auto"

    def __post_init__(self) -> None:
        check_threshold(self.threshold)


AS_TRAINED = PredictOptions()
"""The options that follow the models' recipes."""


def load_predictor(
    paths: Sequence[Path], options: PredictOptions = AS_TRAINED
) -> tuple[Predictor, list[ModelCard]]:
    """Return a predictor over one or several model files, and their cards.

    Args:
        paths: Model files or ensembles; their probabilities are averaged. None at all: the
            packaged model.
        options: How they are applied.

    Raises:
        ModelFileError: A file is no usable model, or there is none.
        OptionError: The device is not there.
    """
    device = choose_device(options.device)
    loaded = [read_networks(path) for path in models_or_packaged(paths)]
    cards = [found.card for found in loaded]
    nets = [_checked(net, device) for found in loaded for net in found.nets]
    own_flip, own_threshold = cards[0].recipe.predict.flip, np.mean([c.threshold for c in cards])
    predictor = Predictor(
        nets,
        threshold=float(own_threshold) if options.threshold is None else options.threshold,
        flip=own_flip if options.flip is None else options.flip,
        batch_size=options.batch_size,
        rule=mean_rule([card.rule for card in cards]),
        weights=[weight for found in loaded for weight in found.relative_weights],
        engine=options.engine,
        precision=options.precision,
    )
    return predictor, cards


def _checked(net: StoredNet, device: str) -> AnyNet:
    """Return a network for its device, after building it unless an earlier run left its graph."""
    if device != "cpu":
        return net.net().to(device)
    if not has_graph(net):
        net.net()  # what is wrong with it is told before any work
    return net


def predict_with_bar(
    predictor: Predictor, tiles: Tiles, progress: bool, what: str = "predicting"
) -> NDArray[np.float32]:
    """Return the probabilities (N, H, W) float32 of tiles, with a progress bar.

    Args:
        predictor: What predicts.
        tiles: What is predicted; their masks are not looked at.
        progress: Show the bar.
        what: Written before it.

    Raises:
        DataError: A model wants depths and there are none.
    """
    with counting(len(tiles), what, shown=progress) as advance:
        return predictor.predict_probs(tiles.images, tiles.z_feet, advance=advance)


def choose_device(device: str) -> str:
    """Return 'cpu' or 'cuda' for 'auto', or what was asked for.

    Raises:
        OptionError: There is no such device here.
    """
    asked = device == "cuda" or (device != "cpu" and may_have_card())
    known = ("auto", "cpu", "cuda") if asked and _has_card() else ("auto", "cpu")
    if device not in known:
        raise OptionError(
            f"there is no device {device!r} here", "device", expected=", ".join(known)
        )
    return known[-1] if device == "auto" else device


def _has_card() -> bool:
    import torch

    return torch.cuda.is_available()
