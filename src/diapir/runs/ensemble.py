"""Makes an ensemble of finished runs: one file to predict with, its threshold chosen on all."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from diapir.config import PredictConfig
from diapir.errors import DataError, OptionError, RunError
from diapir.inference.postprocess import Choice, choose
from diapir.inference.predict import Predictor, predict_with_bar
from diapir.io.lock import sole_writer
from diapir.io.tiles import Tiles, read_tiles
from diapir.models.ensemble import Member, Networks, read_members, read_networks, save_ensemble
from diapir.models.maskrule import MaskRule, mean_rule
from diapir.models.modelcard import ModelCard
from diapir.models.modelfile import save_model
from diapir.runs.folder import RunFolder, read_json
from diapir.runs.out_of_fold import has_out_of_fold, read_out_of_fold, run_models
from diapir.runs.score import choose_masks


@dataclass(frozen=True)
class EnsembleResult:
    """What `make_ensemble` wrote.

    Args:
        path: The file.
        networks: In it.
        megabytes: Of the file, of 1,000,000 bytes.
        threshold: Of the ensemble.
        chosen_on: The tiles that chose threshold and rule, in words.
        score: On these tiles, which flatters slightly; None where none chose.
        rule: Calibration and clean-up, as a table.
        calibration: What became of the temperature, as a sentence; empty where none was tried.
    """

    path: Path
    networks: int
    megabytes: float
    threshold: float
    chosen_on: str
    score: float | None
    rule: dict[str, float]
    calibration: str = ""


@dataclass(frozen=True, eq=False)
class _Source:
    """A run or a model file that was given, with what it holds."""

    path: Path
    files: list[Path]
    found: list[Networks]
    weight: float


def make_ensemble(
    runs: Sequence[Path],
    out: Path,
    *,
    data: Path | None = None,
    weights: Sequence[float] = (),
    half: bool = False,
    progress: bool = True,
) -> EnsembleResult:
    """Write the networks of runs into one file, with one threshold and one calibration.

    With `data`, threshold, temperature and clean-up are chosen on out-of-fold predictions where
    every run has them for the same tiles; otherwise on the tiles that no network trained on and
    that only picked thresholds before; these are few, and a threshold that all recipes fix is kept.
    Without `data`, a single run with folds keeps what it chose, and for others the means are taken.
    Hold-out tiles choose nothing.

    Args:
        runs: Folders of runs, with folds or without, or model files.
        out: The file to write. One network makes an ordinary model file.
        data: The labelled tiles that the runs were trained on.
        weights: One for each of `runs`; empty: every network counts alike.
        half: Store float16, at half the size.
        progress: Show progress bars.

    Raises:
        DiapirError: A run has no model, the weights do not fit, or the file cannot be written.
    """
    if out.suffix != ".safetensors":
        raise RunError(
            f"an ensemble is one file of weights, not {out.suffix or 'a name without an ending'}",
            where=out,
            expected="a name that ends in .safetensors",
            mend=f"Give --out {out.with_suffix('.safetensors')}.",
        )
    with sole_writer(out):
        sources = _open(runs, weights)
        members = [member for source in sources for member in _members(source)]
        cards = [found.card for source in sources for found in source.found]
        choice, score, chosen_on = _choose(sources, members, cards, data, progress)
        card = _card(members, cards, choice, score, chosen_on)
        if len(members) == 1:
            save_model(out, members[0].net, card, half=half)
        else:
            save_ensemble(out, members, card, half=half)
    return EnsembleResult(
        path=out,
        networks=len(members),
        megabytes=out.stat().st_size / 1e6,
        threshold=choice.threshold,
        chosen_on=chosen_on,
        score=score,
        rule=asdict(choice.rule),
        calibration=choice.calibration,
    )


def _open(runs: Sequence[Path], weights: Sequence[float]) -> list[_Source]:
    if weights and (len(weights) != len(runs) or not all(0 < w < math.inf for w in weights)):
        raise OptionError(
            f"{len(weights)} weights ({', '.join(f'{w:g}' for w in weights)}) for {len(runs)} runs",
            "weight",
            expected="a finite one above 0 for each run",
        )
    sources = []
    for number, path in enumerate(runs):
        files = run_models(path) if path.is_dir() else [path]
        found = [read_networks(file) for file in files]
        # a run's weight is shared by its networks; without weights every network counts alike
        count = sum(len(each.nets) for each in found)
        sources.append(_Source(path, files, found, weights[number] / count if weights else 1.0))
    return sources


def _members(source: _Source) -> list[Member]:
    members = []
    for file, found in zip(source.files, source.found, strict=True):
        listed = read_members(file)
        for number, (net, weight) in enumerate(
            zip(found.nets, found.relative_weights, strict=True)
        ):
            recipe = listed[number].recipe if listed else found.card.recipe
            inner = listed[number].name if listed else ""
            name = f"{file.parent.name}/{file.name}{f': {inner}' if inner else ''}"
            members.append(Member(net.net(), recipe, source.weight * weight, name))
    return members


def _choose(
    sources: Sequence[_Source],
    members: Sequence[Member],
    cards: Sequence[ModelCard],
    data: Path | None,
    progress: bool,
) -> tuple[Choice, float | None, str]:
    """Return threshold and rule, their score on the tiles that chose them, and what those are."""
    if data is None:
        return _without_data(sources, cards)
    tiles = read_tiles(data, "train", progress=progress)
    if all(source.path.is_dir() and has_out_of_fold(source.path) for source in sources):
        chosen, probs = _out_of_fold(sources, tiles)
        choice = choose(probs, chosen.truth)
        return choice, choice.score, f"{len(chosen):,} out-of-fold tiles"
    chosen = _validation(tiles, cards)
    probs = _predict(members, chosen, progress)
    predicts = [member.recipe.predict for member in members]
    fixed = PredictConfig(
        threshold=_common([one.threshold for one in predicts]),
        min_peak=_common([one.min_peak for one in predicts]),
    )
    choice = choose_masks(probs, chosen, fixed)
    score = None if math.isnan(choice.score) else choice.score
    tiles_said = f"{len(chosen):,} validation tiles"
    if fixed.threshold is not None:
        return choice, score, f"no tiles: the recipe's; calibrated on {tiles_said}"
    return choice, score, tiles_said


def _common(values: Sequence[float | None]) -> float | None:
    """Return what all have; None where they differ."""
    return values[0] if len(set(values)) == 1 else None


def _without_data(
    sources: Sequence[_Source], cards: Sequence[ModelCard]
) -> tuple[Choice, float | None, str]:
    first = sources[0].path
    if len(sources) == 1 and first.is_dir() and has_out_of_fold(first):
        stored = read_json(RunFolder(first).metrics)["val"].get("choice")
        if stored is not None:
            rule = MaskRule.from_json(stored["rule"])
            choice = Choice(float(stored["threshold"]), rule, float(stored["score"]))
            return choice, choice.score, "its out-of-fold tiles"
    threshold = float(np.mean([card.threshold for card in cards]))
    rule = mean_rule([card.rule for card in cards])
    return Choice(threshold, rule, float("nan")), None, "no tiles: the mean of the models' own"


def _out_of_fold(sources: Sequence[_Source], tiles: Tiles) -> tuple[Tiles, NDArray[np.floating]]:
    """Return the tiles that all runs predicted out of fold, and the weighted mean of these."""
    stored = [read_out_of_fold(source.path) for source in sources]
    for source, found in zip(sources, stored, strict=True):
        if found.fingerprint != tiles.fingerprint():
            raise DataError(
                "the data differs from that of a run",
                where=tiles.source,
                expected=f"the data that {source.path} was trained on",
            )
    common = set(stored[0].ids).intersection(*(found.ids for found in stored))
    if not common:
        raise DataError("the runs have no out-of-fold tile in common", where=sources[0].path)
    ids = [id_ for id_ in tiles.ids if id_ in common]
    chosen = tiles.select(ids)
    total = np.zeros(chosen.images.shape, np.float32)
    shares = np.array([s.weight * sum(len(f.nets) for f in s.found) for s in sources])
    for found, share in zip(stored, (shares / shares.sum()).tolist(), strict=True):
        place = {id_: k for k, id_ in enumerate(found.ids)}
        total += np.float32(share) * found.probs[[place[id_] for id_ in ids]]
    return chosen, np.clip(total, 0, 1)


def _validation(tiles: Tiles, cards: Sequence[ModelCard]) -> Tiles:
    trained = {id_ for card in cards for id_ in card.train_ids}
    picked = {id_ for card in cards for id_ in card.val_ids} - trained
    chosen = tiles.subset([k for k, id_ in enumerate(tiles.ids) if id_ in picked])
    if not len(chosen):
        raise DataError(
            "no validation tile is left that none of these models trained on",
            where=tiles.source,
            expected="runs that share their split, or runs with folds",
            mend="Leave out --data: the means of the models' own thresholds are taken then.",
        )
    return chosen


def _predict(members: Sequence[Member], tiles: Tiles, progress: bool) -> NDArray[np.float32]:
    predictor = Predictor(
        [member.net for member in members],
        flip=members[0].recipe.predict.flip,
        weights=[member.weight for member in members],
    )
    return predict_with_bar(predictor, tiles, progress)


def _card(
    members: Sequence[Member],
    cards: Sequence[ModelCard],
    choice: Choice,
    score: float | None,
    chosen_on: str,
) -> ModelCard:
    train = dict.fromkeys(id_ for card in cards for id_ in card.train_ids)
    val = dict.fromkeys(id_ for card in cards for id_ in card.val_ids if id_ not in train)
    dropped = dict.fromkeys(id_ for card in cards for id_ in card.dropped_ids)
    prints = {card.data_fingerprint for card in cards}
    metrics = {} if score is None else {"chosen_on_score": score}
    if len(members) == 1:
        metrics = dict(cards[0].metrics)
    return ModelCard(
        recipe=members[0].recipe,
        threshold=choice.threshold,
        metrics=metrics,
        data_fingerprint=prints.pop() if len(prints) == 1 else "",
        train_ids=tuple(train),
        val_ids=tuple(val),
        dropped_ids=tuple(id_ for id_ in dropped if id_ not in train | val),
        notes=f"{len(members)} networks; threshold and rule chosen on {chosen_on}",
        # of the first: members that share their data were trained on nearly the same pixels
        pixels=cards[0].pixels,
        rule=choice.rule,
    ).stamped()
