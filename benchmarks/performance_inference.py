"""Predicting: how fast against the baseline, how exact, and how near to the machine's limit."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from baseline import plain_unet, predict_plainly
from numpy.typing import NDArray
from performance_models import SURE, Ready, cpu_recipe, options, plain_recipe, random_model, ready
from performance_operations import operations_table
from performance_peak import dtypes, gflop_of, peak_of
from performance_setting import Setting
from protocol import Measured, Row, Table, compare_each, ratio_row

from diapir.config import ModelConfig
from diapir.inference.engine import EngineChoice
from diapir.io.tiles import Tiles, read_tiles
from diapir.metrics.score import competition_score
from diapir.models.modelcard import read_card
from diapir.models.modelfile import load_model
from diapir.models.packaged import packaged_model

PATHS = {"fast": ("auto", "1", 3.5), "exact": ("float32", "2", 2.0)}
"""Each path with its precision, its target and how many times as fast it should be."""
ALIKE = "as the baseline has it"
"""A network that pads as the baseline does, and has as many channels."""
_UNTRAINED = f", untrained, with a head bias of {SURE:g} so that no engine flips its pixels"
_LOWEST, _HIGHEST = 1e-5, 0.99
_PASS = EngineChoice.batch
"""Tiles whose operations are timed."""


@dataclass(frozen=True)
class _Candidate:
    """A network that is compared with the baseline of its encoder.

    Args:
        name: In the tables.
        path: Its model file.
        trained: Whether it knows anything.
        gated: Whether the targets are set for it.
    """

    name: str
    path: Path
    trained: bool
    gated: bool = True

    @property
    def config(self) -> ModelConfig:
        return read_card(self.path).recipe.model


def measure_inference(setting: Setting) -> Measured:
    """Compare both paths with the baseline: in two networks of each encoder, and packaged.

    One is that of recipe `cpu`, the other does as the baseline does.
    """
    found = Measured()
    shares: list[list[object]] = []
    for encoder in setting.effort.encoders:
        path = setting.trained.get(encoder) or random_model(setting.work, cpu_recipe(encoder))
        alike = random_model(setting.work, plain_recipe(encoder))
        candidates = [
            _Candidate(encoder, path, trained=encoder in setting.trained),
            _Candidate(f"{encoder}, {ALIKE}", alike, trained=False, gated=False),
        ]
        _compare_models(setting, candidates, found, shares)
    packaged = _Candidate("the packaged model", packaged_model(), trained=True)
    _compare_models(setting, [packaged], found, shares)
    head = ["network", "path", "engine", "GFLOP a tile", "tiles a second", "GFLOP/s",
            "share of the peak", "first batches, s", "first batches again, s"]  # fmt: skip
    note = (
        "GFLOP of the network in operation, by torch.utils.flop_counter; the peak is that of "
        "bf16 where the path takes it, else that of float32. The first batches include loading the "
        "model, choosing the engine by measurement and compiling; again, the choice and the graph "
        "are remembered. They are in no ratio."
    )
    found.tables.insert(0, Table("Share of the machine's peak in predicting", head, shares, note))
    return found


def _compare_models(
    setting: Setting,
    candidates: Sequence[_Candidate],
    found: Measured,
    shares: list[list[object]],
) -> None:
    """Let networks of one encoder take turns with its baseline, on both paths."""
    effort, device = setting.effort, setting.device
    images = setting.labelled(effort.tiles).images
    encoder = candidates[0].config.encoder
    plain = plain_unet(encoder).to(device).eval()

    def baseline() -> NDArray[np.float32]:
        return predict_plainly(plain, images, device=device)

    works = {"baseline": baseline}
    first: dict[str, Ready] = {}
    again: dict[str, Ready] = {}
    for candidate in candidates:
        for kind, (precision, _, _) in PATHS.items():
            chosen = options(precision, effort.engine, flip=False, device=device)
            name = f"{kind} {candidate.name}"
            first[name] = ready(candidate.path, images, chosen)
            again[name] = ready(candidate.path, images, chosen)
            works[name] = lambda name=name: again[name].predictor.predict_probs(images)
    compared = compare_each(works, rounds=effort.rounds)
    seconds = next(iter(compared.values())).baseline
    gflop = gflop_of(plain, torch.zeros(1, 3, 128, 128, device=device))
    shares.append(_share(setting, encoder, "baseline", "eager", gflop, seconds, ["", ""]))
    for candidate in candidates:
        gflop = gflop_of(load_model(candidate.path)[0], torch.zeros(1, 1, 101, 101))
        for kind, (_, target, limit) in PATHS.items():
            name = f"{kind} {candidate.name}"
            what = f"{kind} path against the baseline, {candidate.name}"
            gate = setting.gate(limit) if candidate.gated else None
            found.rows.append(
                ratio_row(target, what, compared[name], gate, note=_told(candidate, len(images)))
            )
            starts = [first[name].seconds, again[name].seconds]
            shares.append(
                _share(setting, candidate.name, kind, first[name].engine, gflop,
                       compared[name].candidate, starts)
            )  # fmt: skip
        fast = first[f"fast {candidate.name}"].engine
        if candidate.gated and fast.startswith("openvino"):
            precision = "bf16" if "bf16" in fast else "float32"
            batch = images[:_PASS]
            found.tables.append(operations_table(candidate.path, batch, precision, candidate.name))


def _told(candidate: _Candidate, tiles: int) -> str:
    """Return the note of a comparison with the baseline."""
    return (
        f"{candidate.name}{'' if candidate.trained else _UNTRAINED}: one pass without mirroring "
        f"over {tiles} tiles of 101 x 101; the baseline pads them to 128, Diapir "
        f"{_own_way(candidate.config)}."
    )


def _own_way(config: ModelConfig) -> str:
    return "takes them as they are" if config.pad_mode == "none" else "pads them to 128"


def _share(
    setting: Setting,
    name: str,
    kind: str,
    engine: str,
    gflop: float,
    seconds: Sequence[float],
    starts: Sequence[object],
) -> list[object]:
    """Return a line of the table of shares."""
    low = kind == "fast" and "float32" not in engine and "bf16" in dtypes(setting.device)
    dtype = "bf16" if low else "float32"
    rate = len(setting.labelled(setting.effort.tiles)) / float(np.median(seconds))
    share = f"{gflop * rate / peak_of(setting).of(dtype):.0%} of {dtype}"
    return [name, kind, engine, gflop, rate, gflop * rate, share, *starts]


def measure_accuracy(setting: Setting) -> Measured:
    """Compare what both paths say on real tiles with trained networks in eager float32."""
    rows = [*_accuracy(setting, "the packaged model", packaged_model())]
    for name, path in setting.trained.items():
        rows += _accuracy(setting, name, path)
    return Measured(rows)


def _accuracy(setting: Setting, name: str, path: Path) -> list[Row]:
    title = name[0].upper() + name[1:]
    fresh, labelled = tiles_to_compare(setting, path)
    real = setting.data is not None
    device = setting.device
    reference, fast = (
        ready(path, fresh.images[:64], options(precision, engine, device=device))
        for precision, engine in (("float32", "eager"), ("auto", setting.effort.engine))
    )

    def masks_of(tiles: Tiles) -> list[NDArray[np.bool_]]:
        predictors = [one.predictor for one in (reference, fast)]
        return [p.make_masks(p.predict_probs(tiles.images, tiles.z_feet)) for p in predictors]

    right, quick = masks_of(fresh)
    flipped = 100 * float((right != quick).mean())
    if labelled is not fresh:
        right, quick = masks_of(labelled)
    scores = [competition_score(masks, labelled.truth) for masks in (right, quick)]
    note = (
        f"{title}, mirrored as its recipe says: it scores {scores[0]:.4f} in eager float32 and "
        f"{scores[1]:.4f} on the fast path ({fast.engine}). "
        + _counted_on(fresh, labelled, "real" if real else "drawn")
    )
    error, counted, engine = _logit_error(setting, path, fresh)
    return [
        Row("1", f"pixels that flip on the fast path, {name}", flipped, "%", 0.2 if real else None,
            note=note),
        Row("1", f"change of the score on the fast path, {name}", abs(scores[1] - scores[0]), "",
            0.002 if real else None),
        Row("2", f"largest error of a logit on the exact path, {name}", error, "", 1e-4,
            note=f"{title}: over the {counted:.1%} of pixels with a probability of "
            f"{_LOWEST:g} to {_HIGHEST:g}, from which a logit can be told to 1e-5; {engine}."),
    ]  # fmt: skip


def _counted_on(fresh: Tiles, labelled: Tiles, kind: str) -> str:
    """Say which tiles flips and scores are of."""
    if labelled is fresh:
        return f"Flips and scores are of {len(fresh):,} {kind} tiles that did not train it."
    return (
        f"Flips are counted on {len(fresh):,} {kind} test tiles; the scores are of "
        f"{len(labelled):,} labelled tiles that trained it, so only their difference counts."
    )


def _logit_error(setting: Setting, path: Path, tiles: Tiles) -> tuple[float, float, str]:
    """Return the largest difference from eager float32, the share looked at, and the engine.

    The eager one is the processor's: a card may have its own idea of float32.
    """
    few = tiles.subset(np.arange(min(len(tiles), 256)))
    logits = []
    for engine, device in (("eager", "cpu"), (setting.effort.engine, setting.device)):
        chosen = options("float32", engine, flip=False, device=device)
        one = ready(path, few.images, chosen)
        probs = one.predictor.predict_probs(few.images, few.z_feet)
        wide = probs.astype(np.float64)
        logits.append(np.log(wide) - np.log1p(-wide))
        if len(logits) == 1:
            sure = (wide > _LOWEST) & (wide < _HIGHEST)
    return float(np.abs(logits[0] - logits[1])[sure].max()), float(sure.mean()), one.engine


def tiles_to_compare(setting: Setting, path: Path) -> tuple[Tiles, Tiles]:
    """Return tiles that neither trained the model nor picked anything of it, and labelled ones.

    They are the same where labelled tiles are left that it has not seen; otherwise the first are
    test tiles, and the second a fifth of those that trained it.
    """
    count = 10**6 if setting.effort.gates else setting.effort.tiles
    if setting.data is None:
        drawn = setting.labelled(min(count, 200))
        return drawn, drawn
    tiles, card = setting.labelled(10**6), read_card(path)
    seen = {*card.train_ids, *card.val_ids}
    left = [place for place, id_ in enumerate(tiles.ids) if id_ not in seen]
    if left:
        fresh = tiles.subset(left[:count])
        return fresh, fresh
    fifth = tiles.subset(np.arange(0, len(tiles), 5)[:count])
    return read_tiles(setting.data, "test").subset(np.arange(len(fifth))), fifth
