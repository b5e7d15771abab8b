"""A finished network on the tiles of its split: threshold and rule, scores, and its card."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from diapir.config import PredictConfig, Recipe
from diapir.data.splits import Split
from diapir.inference.evaluate import Evaluation, evaluate
from diapir.inference.postprocess import Choice, choose
from diapir.inference.predict import Predictor
from diapir.io.tiles import Tiles
from diapir.metrics.calibration import scale_probs
from diapir.models.maskrule import MaskRule
from diapir.models.modelcard import ModelCard
from diapir.models.pixels import pixel_statistics
from diapir.models.unet import SaltNet

SECONDS_WHEN_ASKED_TO_END = 15.0
"""Scoring may take, once a signal has asked the training to end."""


@dataclass(frozen=True)
class Scored:
    """A network on the tiles of its split.

    Args:
        threshold: Chosen on validation, or the recipe's.
        val: Evaluation on validation; None where the split has none.
        holdout: Evaluation on the hold-out; None where the split has none.
        val_probs: (N, H, W) float32 probabilities of the validation tiles, not calibrated.
        shown_probs: (N, H, W) calibrated, of the hold-out, or of validation without one.
        card: For the model file.
        calibration: What became of the temperature, as a sentence.
    """

    threshold: float
    val: Evaluation | None
    holdout: Evaluation | None
    val_probs: NDArray[np.float32]
    shown_probs: NDArray[np.float32]
    card: ModelCard
    calibration: str = ""


def score_network(
    tiles: Tiles,
    split: Split,
    recipe: Recipe,
    net: SaltNet,
    most_seconds: float,
    chosen: Choice | None = None,
) -> Scored:
    """Return the threshold that validation picks, and what the network reaches with it.

    Args:
        tiles: All labelled tiles.
        split: Which validate and which are held out.
        recipe: That trained it.
        net: On the device that scores.
        most_seconds: Where scoring would take longer, it is left out.
        chosen: What validation picked before, to be kept.
    """
    predictor = Predictor([net], flip=recipe.predict.flip)
    val, holdout = _scorable(tiles, split, predictor, most_seconds)
    val_tiles, holdout_tiles = tiles.subset(val), tiles.subset(holdout)
    val_probs = predictor.predict_probs(val_tiles.images, val_tiles.z_feet)
    holdout_probs = predictor.predict_probs(holdout_tiles.images, holdout_tiles.z_feet)
    choice = chosen or choose_masks(val_probs, val_tiles, recipe.predict)
    threshold, rule = choice.threshold, choice.rule
    calibrated = [scale_probs(probs, rule.temperature) for probs in (val_probs, holdout_probs)]
    on_val, on_holdout = (
        evaluate(probs, part, threshold, rule=rule) if len(part) else None
        for probs, part in zip(calibrated, (val_tiles, holdout_tiles), strict=True)
    )
    card = _card(tiles, split, recipe, threshold, rule, on_val, on_holdout)
    shown_probs = calibrated[0 if on_holdout is None else 1]
    return Scored(threshold, on_val, on_holdout, val_probs, shown_probs, card, choice.calibration)


def unscored_card(tiles: Tiles, split: Split, recipe: Recipe) -> ModelCard:
    """Return the card of a network before it is scored, with the recipe's threshold or 0.5.

    Args:
        tiles: All labelled tiles.
        split: Which train, validate and are held out.
        recipe: That trained it.
    """
    nothing = tiles.subset([])
    choice = choose_masks(np.zeros(nothing.images.shape, np.float32), nothing, recipe.predict)
    return _card(tiles, split, recipe, choice.threshold, choice.rule, None, None)


def _scorable(
    tiles: Tiles, split: Split, predictor: Predictor, most_seconds: float
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return validation and hold-out, or none of both where scoring them would take too long.

    Who asks a training to end waits for a model, not for scores: a resumed run gives them.
    """
    both = np.concatenate([split.val, split.holdout])
    if most_seconds < math.inf and len(both):
        some = tiles.subset(both[:8])
        predictor.predict_probs(some.images, some.z_feet)
        if predictor.model_seconds * len(both) / len(some) > most_seconds:
            return split.val[:0], split.holdout[:0]
    return split.val, split.holdout


def choose_masks(probs: NDArray[np.float32], tiles: Tiles, fixed: PredictConfig) -> Choice:
    """Return threshold and rule that are best on tiles that did not train; 0.5 without any.

    Args:
        probs: (N, H, W) probabilities of the tiles, not calibrated.
        tiles: Validation or out-of-fold tiles.
        fixed: What the recipe says is kept. With a threshold, no clean-up is looked for.
    """
    if len(tiles):
        return choose(probs, tiles.truth, threshold=fixed.threshold, min_peak=fixed.min_peak)
    threshold = 0.5 if fixed.threshold is None else fixed.threshold
    return Choice(threshold, MaskRule(min_peak=fixed.min_peak or 0.0), float("nan"))


def _card(
    tiles: Tiles,
    split: Split,
    recipe: Recipe,
    threshold: float,
    rule: MaskRule,
    val: Evaluation | None,
    holdout: Evaluation | None,
) -> ModelCard:
    metrics = {
        f"{part}_{name}": estimate.value
        for part, found in (("val", val), ("holdout", holdout))
        if found is not None
        for name, estimate in found.metrics.items()
        if estimate.value == estimate.value  # no NaN in JSON
    }
    used = {*split.train.tolist(), *split.val.tolist(), *split.holdout.tolist()}
    return ModelCard(
        recipe=recipe,
        threshold=threshold,
        metrics=metrics,
        data_fingerprint=tiles.fingerprint(),
        train_ids=tuple(tiles.ids[i] for i in split.train),
        val_ids=tuple(tiles.ids[i] for i in split.val),
        dropped_ids=tuple(id_ for i, id_ in enumerate(tiles.ids) if i not in used),
        pixels=pixel_statistics(tiles.images[split.train]),
        rule=rule,
    ).stamped()
