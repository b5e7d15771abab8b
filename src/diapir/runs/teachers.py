"""Earlier models as teachers: masks for unlabelled tiles, probabilities to learn from, a start."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from diapir.config import Recipe
from diapir.data.splits import Split
from diapir.errors import DataError, ModelFileError
from diapir.inference.predict import (
    PredictOptions,
    Predictor,
    load_predictor,
    predict_with_bar,
)
from diapir.io.tiles import Tiles, read_tiles
from diapir.models.modelcard import ModelCard, read_card
from diapir.models.modelfile import load_model
from diapir.models.unet import SaltNet


@dataclass(frozen=True)
class Lessons:
    """What a split trains on once its teachers have spoken.

    Args:
        tiles: The labelled tiles, then those with pseudo-labels.
        split: Positions in `tiles`; pseudo-labelled ones only train.
        taught: (N, H, W) uint8 probabilities of all tiles times 255; None without distillation.
        start: The weights that the training begins with; None: those of a new network.
        cards: Of all these earlier models.
    """

    tiles: Tiles
    split: Split
    taught: NDArray[np.uint8] | None
    start: dict[str, Tensor] | None = None
    cards: tuple[ModelCard, ...] = ()


def ask_teachers(
    tiles: Tiles,
    split: Split,
    recipe: Recipe,
    data: Path,
    *,
    device: str = "auto",
    progress: bool = False,
) -> Lessons:
    """Return the tiles and targets of a training with the recipe's teachers, if it has any.

    Args:
        tiles: The labelled tiles.
        split: Which of them train, validate and report.
        recipe: `pseudo_labels` and `distill` name the teachers.
        data: Holds the unlabelled tiles, see `read_tiles`.
        device: Where the teachers are asked, 'auto', 'cpu' or 'cuda'.
        progress: Show a bar.

    Raises:
        DataError: A teacher has seen tiles that this split validates on or holds out, or there are
            no unlabelled tiles.
        ModelFileError: A teacher is no usable model, or the one to begin with is another network.
    """
    start, cards = None, list[ModelCard]()
    if recipe.train.start_from is not None:
        start, card = _weights_of(recipe.train.start_from, tiles, split, recipe)
        cards.append(card)
    labelled, pseudo, probs = tiles, recipe.pseudo_labels.models, None
    if pseudo:
        teacher, found = _load(pseudo, tiles, split, "pseudo_labels.models", device)
        cards += found
        added, probs = _pseudo_labelled(teacher, recipe, data, progress)
        places = np.arange(len(tiles), len(tiles) + len(added))
        tiles = tiles.joined(added)
        split = replace(split, train=np.concatenate([split.train, places]))
    taught = None
    if recipe.distill.models:
        teacher, found = _load(recipe.distill.models, labelled, split, "distill.models", device)
        cards += found
        known = probs if recipe.distill.models == pseudo else None  # the same teachers said so
        asked = tiles if known is None else labelled
        told = predict_with_bar(teacher, asked, progress, "predicting for distillation")
        told = told if known is None else np.concatenate([told, known])
        taught = np.rint(255 * told).astype(np.uint8)
    return Lessons(tiles, split, taught, start, tuple(cards))


def _pseudo_labelled(
    teacher: Predictor, recipe: Recipe, data: Path, progress: bool
) -> tuple[Tiles, NDArray[np.float32]]:
    """Return the unlabelled tiles of which a teacher is sure, with its masks and probabilities."""
    unlabelled = read_tiles(data, "test", progress=progress)
    if recipe.split.drop_blank:  # a teacher is most certain of them
        unlabelled = unlabelled.subset(np.flatnonzero(~unlabelled.blank))
    probs = predict_with_bar(teacher, unlabelled, progress, "predicting pseudo-labels")
    masks = teacher.make_masks(probs)
    salty = np.asarray(masks.any(axis=(1, 2)))
    chosen = most_certain(probs, salty, recipe.pseudo_labels.share)
    added = replace(unlabelled.subset(chosen), masks=masks[chosen].astype(np.uint8))
    return added, probs[chosen]


def check_teachers(tiles: Tiles, splits: Sequence[Split], recipe: Recipe) -> None:
    """Raise what `ask_teachers` would of its model files, by their cards alone.

    Args:
        tiles: The labelled tiles.
        splits: All that are going to be trained.
        recipe: Names the files.

    Raises:
        DataError: One has seen tiles that a split validates on or holds out.
        ModelFileError: One is missing or no model.
    """
    start = recipe.train.start_from
    named = {
        "train.start_from": () if start is None else (start,),
        "pseudo_labels.models": recipe.pseudo_labels.models,
        "distill.models": recipe.distill.models,
    }
    for where, models in named.items():
        for model, split in product(models, splits):
            path = _of_fold(model, split)
            _check_unseen(path, read_card(path), tiles, split, where)


def most_certain(
    probs: NDArray[np.float32], salty: NDArray[np.bool_], share: float
) -> NDArray[np.intp]:
    """Return the positions of a share of the tiles, those predicted with the most certainty.

    The share is taken of the tiles with predicted salt and of those without, each: an empty tile is
    nearly always the more certain one, and a share of all would be a share of the empty ones.

    Args:
        probs: (N, H, W) float32, 0..1.
        salty: (N,) which tiles are predicted to have salt.
        share: Of each kind to keep, 0..1.

    Returns:
        Sorted positions.
    """
    certainty = np.abs(2 * probs - 1).mean(axis=(1, 2))
    kept = []
    for kind in (salty, ~salty):
        places = np.flatnonzero(kind)
        best_first = places[np.argsort(-certainty[places], kind="stable")]
        kept.append(best_first[: round(share * len(places))])
    return np.sort(np.concatenate(kept))


def _load(
    models: tuple[str, ...], tiles: Tiles, split: Split, where: str, device: str
) -> tuple[Predictor, Sequence[ModelCard]]:
    paths = [_of_fold(model, split) for model in models]
    predictor, cards = load_predictor(paths, PredictOptions(device=device))
    for path, card in zip(paths, cards, strict=True):
        _check_unseen(path, card, tiles, split, where)
    return predictor, cards


def _weights_of(
    model: str, tiles: Tiles, split: Split, recipe: Recipe
) -> tuple[dict[str, Tensor], ModelCard]:
    path = _of_fold(model, split)
    net, card = load_model(path)
    _check_unseen(path, card, tiles, split, "train.start_from")
    fresh = SaltNet(recipe.model.model_copy(update={"weights": "none", "freeze": "none"}))
    shapes, wanted = (
        {name: tuple(tensor.shape) for name, tensor in each.state_dict().items()}
        for each in (net, fresh)
    )
    if shapes != wanted:
        name = next(iter(sorted(shapes.items() ^ wanted.items())))[0]
        raise ModelFileError(
            f"this is another network than the recipe's: {name} differs",
            where=f"train.start_from: {path}",
            expected=f"a model with the recipe's [model], encoder {recipe.model.encoder}",
            mend="Train with the recipe of that model, or begin with another one.",
        )
    return net.state_dict(), card


def _of_fold(model: str, split: Split) -> Path:
    return Path(model.replace("{fold}", "" if split.fold is None else str(split.fold)))


def _check_unseen(path: Path, card: ModelCard, tiles: Tiles, split: Split, where: str) -> None:
    val, holdout = ({tiles.ids[i] for i in part} for part in (split.val, split.holdout))
    trained = set(card.train_ids)
    seen = (val & trained) | (holdout & (trained | set(card.val_ids)))
    if seen:
        raise DataError(
            f"a teacher has seen {len(seen)} of the {len(val | holdout)} tiles that this "
            "training validates on or holds out, so that their score would be too good",
            where=f"{where}: {path}",
            expected="models trained on the same split, or on other data",
            mend="Give models of the same split.seed, shares and fold ({fold} in the path "
            "stands for its number), or set split.holdout = 0 and split.val = 0.",
        )
