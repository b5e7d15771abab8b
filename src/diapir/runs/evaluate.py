"""Scores models on labelled tiles that their training has not seen, or a run by its folds."""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diapir.errors import DataError, OptionError
from diapir.inference.evaluate import Evaluation, evaluate
from diapir.inference.postprocess import Choice, choose
from diapir.inference.predict import AS_TRAINED, PredictOptions, load_predictor
from diapir.inference.trust import Trust, judge_trust
from diapir.io.lock import sole_writer
from diapir.io.tiles import Tiles, read_tiles
from diapir.metrics.calibration import scale_probs
from diapir.models.maskrule import MaskRule
from diapir.models.modelcard import ModelCard, read_card
from diapir.models.packaged import models_or_packaged
from diapir.progress import counting
from diapir.report.figures_trust import kept_curves, reliability_diagram
from diapir.report.html import Card, ReportContent, Section, Table, keep_picture, write_report
from diapir.runs.folder import write_json
from diapir.runs.out_of_fold import OutOfFold, has_out_of_fold, read_out_of_fold, run_models
from diapir.runs.provenance import made_with, provenance
from diapir.runs.report import evaluation_sections, score_cards


@dataclass(frozen=True, eq=False)
class Judgement:
    """What `evaluate_models` finds out.

    Args:
        found: Every metric.
        trust: Calibration, and what doubt about tiles is worth.
        rule: Calibration and clean-up that were used.
        tiles: That were scored.
        probs: (N, H, W) calibrated probabilities of the tiles.
        subtitle: What the tiles are, in words.
        cards: Of the models, by file name.
        warning: Why the scores flatter, or which tiles they leave out by their ids alone.
        choice: How threshold and rule were chosen, where that happened here.
    """

    found: Evaluation
    trust: Trust
    rule: MaskRule
    tiles: Tiles
    probs: NDArray[np.float32]
    subtitle: str
    cards: dict[str, ModelCard]
    warning: str | None = None
    choice: Choice | None = None

    @property
    def warnings(self) -> list[str]:
        """What the scores should not be read without."""
        return [text for text in (self.warning, self.found.warning) if text is not None]

    def to_dict(self) -> dict[str, Any]:
        """Return everything but pixels as plain values that `json.dumps` takes."""
        chosen = {} if self.choice is None else {"choice": asdict(self.choice)}
        return {
            "tiles_are": self.subtitle,
            **self.found.to_dict(),
            "warning": "; ".join(self.warnings) or None,
            "rule": asdict(self.rule),
            **chosen,
            "trust": self.trust.to_dict(),
        }


def evaluate_models(
    models: Sequence[Path],
    data: Path,
    *,
    part: str = "auto",
    out: Path | None = None,
    options: PredictOptions = AS_TRAINED,
    progress: bool = True,
) -> Judgement:
    """Return all scores of models, or of the folds of a run, on labelled tiles.

    Args:
        models: Model files or folders of runs; their probabilities are averaged. None: the packaged
            model. One folder of a run with folds alone is scored by its out-of-fold predictions,
            each tile by the network that never saw it.
        data: Labelled tiles.
        part: 'auto' leaves out every tile that trained a model or picked its threshold, and those
            that were unfit to train it; 'all' takes every tile.
        out: Folder for `evaluation.json`, figures and `report.html`.
        options: How the models are applied.
        progress: Show progress bars.

    Raises:
        DiapirError: A model, a run or the data cannot be used, no tile is left to score, or
            another process writes into `out`.
    """
    with nullcontext() if out is None else sole_writer(out):
        if len(models) == 1 and has_out_of_fold(models[0]):
            _check_folds_suffice(models[0], part, options)
            judged = _judge_folds(models[0], data, progress)
        else:
            judged = _judge_models(models, data, part, options, progress)
        if out is not None:
            _write(judged, out)
    return judged


def _judge_models(
    models: Sequence[Path], data: Path, part: str, options: PredictOptions, progress: bool
) -> Judgement:
    files = [
        file
        for path in models_or_packaged(models)
        for file in (run_models(path) if path.is_dir() else [path])
    ]
    predictor, cards = load_predictor(files, options)
    tiles, warning = _unseen(read_tiles(data, "train", progress=progress), cards, part)
    with counting(len(tiles), "predicting", shown=progress) as advance:
        probs, apart = predictor.predict_with_doubt(tiles.images, tiles.z_feet, advance=advance)
    found = evaluate(probs, tiles, predictor.threshold, rule=predictor.rule)
    temperature = predictor.rule.temperature
    return Judgement(
        found=found,
        trust=judge_trust(probs, tiles.truth, found.tile_scores, temperature, apart),
        rule=predictor.rule,
        tiles=tiles,
        probs=probs,
        subtitle=f"{len(tiles):,} tiles of {data.name} that no model has seen"
        if warning is None or part == "auto"
        else warning,
        cards={f"{k} {file.name}": c for k, (file, c) in enumerate(zip(files, cards, strict=True))}
        if len(files) > 1
        else {files[0].name: cards[0]},
        warning=warning,
    )


def _check_folds_suffice(run: Path, part: str, options: PredictOptions) -> None:
    """Refuse what only networks could answer; engine and device do not matter without any."""
    asked = {
        "--part": part != "auto",
        "--threshold": options.threshold is not None,
        "--flip, --no-flip": options.flip is not None,
    }
    if any(asked.values()):
        raise DataError(
            "a run with folds is scored by its out-of-fold predictions as they are stored",
            where=", ".join(name for name, given in asked.items() if given),
            expected=f"none of these options with {run}",
            mend="Leave them out, or give the models of the run in place of its folder.",
        )


def _judge_folds(run: Path, data: Path, progress: bool) -> Judgement:
    stored = read_out_of_fold(run)
    tiles = read_tiles(data, "train", progress=progress)
    if stored.fingerprint != tiles.fingerprint():
        raise DataError(
            "the data differs from that of the run",
            where=tiles.source,
            expected=f"the data that {run} was trained on",
            mend="Give the same data, or one of the models of the run.",
        )
    cards = {str(path.relative_to(run)): read_card(path) for path in run_models(run)}
    return judge_out_of_fold(stored, tiles.select(stored.ids), cards)


def judge_out_of_fold(stored: OutOfFold, tiles: Tiles, cards: dict[str, ModelCard]) -> Judgement:
    """Return all scores of a run with folds, with the threshold and rule that suit its tiles best.

    Args:
        stored: What the folds predict.
        tiles: The same tiles in the same order, with masks.
        cards: Of the folds' models, by file name.
    """
    chosen = choose(stored.probs, tiles.truth)
    probs = scale_probs(stored.probs, chosen.rule.temperature)
    found = evaluate(probs, tiles, chosen.threshold, rule=chosen.rule)
    return Judgement(
        found=found,
        trust=judge_trust(probs, tiles.truth, found.tile_scores, chosen.rule.temperature),
        rule=chosen.rule,
        tiles=tiles,
        probs=probs,
        subtitle=f"{len(tiles):,} tiles, each predicted by the fold that never saw it; threshold, "
        "temperature and clean-up were chosen on the same tiles, which flatters slightly",
        cards=cards,
        choice=chosen,
    )


def _write(judged: Judgement, out: Path) -> None:
    made = made_with(judged.cards.items(), judged.tiles.fingerprint())
    write_json(out / "evaluation.json", {**judged.to_dict(), "provenance": made})
    write_page(judged, out)


def write_page(
    judged: Judgement, out: Path, title: str = "Evaluation", more: Sequence[Section] = ()
) -> None:
    """Write `report.html` and the figures of a judgement.

    Args:
        judged: What was found.
        out: A folder.
        title: Of the page.
        more: Sections at its end.
    """
    found, figures = judged.found, out / "figures"
    made, told = made_with(judged.cards.items(), judged.tiles.fingerprint()), judged.to_dict()
    sections = evaluation_sections(
        found, judged.tiles, judged.probs, figures, part="these tiles", rule=judged.rule
    )
    trust = judged.trust
    content = ReportContent(
        title=title,
        subtitle=judged.subtitle,
        cards=[
            *score_cards("score", found),
            Card(
                "calibration error", f"{trust.after.error:.4f}", f"{trust.before.error:.4f} before"
            ),
        ],
        sections=[*sections, _trust_section(trust, judged, figures), *more],
        provenance=[
            (f"{file}: {name}", value)
            for file, card in judged.cards.items()
            for name, value in provenance(card)
        ],
        origin={
            "warning": told["warning"],
            "tiles_are": told["tiles_are"],
            "metrics": {name: estimate.value for name, estimate in found.metrics.items()},
            "threshold": found.threshold,
            **made,
        },
    )
    write_report(out / "report.html", content)


def _trust_section(trust: Trust, judged: Judgement, figures: Path) -> Section:
    after = None if trust.temperature == 1 else trust.after
    reliability = keep_picture(
        reliability_diagram(trust.before, after),
        figures / "reliability.png",
        "How often pixels of a predicted probability are salt.",
    )
    kept = keep_picture(
        kept_curves(trust.kept, trust.ideal),
        figures / "kept.png",
        "Score of the tiles that are kept when the most doubtful are left to people.",
    )
    rows: list[tuple[str, float]] = [
        ("temperature", trust.temperature),
        ("expected calibration error without it", trust.before.error),
        ("expected calibration error with it", trust.after.error),
    ]
    doubtful = {
        name: ", ".join(judged.tiles.ids[k] for k in np.argsort(-values, kind="stable")[:10])
        for name, values in trust.doubt.items()
    }
    return Section(
        "How far it can be trusted",
        text=[
            *([judged.choice.calibration] if judged.choice is not None else []),
            *(f"Most doubtful by {name}: {ids}." for name, ids in doubtful.items()),
        ],
        tables=[Table("Calibration", ("", "value"), rows)],
        pictures=[reliability, kept],
    )


def _unseen(tiles: Tiles, cards: Sequence[ModelCard], part: str) -> tuple[Tiles, str | None]:
    if part not in ("auto", "all"):
        raise OptionError(f"no part named {part!r}", "part", expected="auto or all")
    seen = {id_ for card in cards for id_ in (*card.train_ids, *card.val_ids)}
    known = sum(id_ in seen for id_ in tiles.ids)
    other = known > 0 and _is_other_data(tiles, cards)
    if part == "auto":
        dropped = {id_ for card in cards for id_ in card.dropped_ids}
        fresh = [i for i, id_ in enumerate(tiles.ids) if id_ not in seen | dropped]
        if not fresh:
            raise DataError(
                f"the models' training has seen all {len(tiles):,} tiles",
                where=tiles.source,
                mend="Give other labelled tiles, or --part all for a score that flatters."
                if not other
                else "Tiles are known by their ids, and this is other data than the models': where "
                "it is other tiles under the same ids, give --part all, which takes all of them.",
            )
        told = (
            f"{known:,} tiles are left out as seen, by their ids; this is other data than the "
            "models': where it is other tiles under the same ids, give --part all"
        )
        return tiles.subset(fresh), told if other else None
    warning = (
        f"{known:,} of {len(tiles):,} tiles trained these models or picked their thresholds: the "
        "score flatters them"
    )
    if other:
        warning += ", unless these are other tiles under the same ids: the data is not the models'"
    return tiles, warning if known else None


def _is_other_data(tiles: Tiles, cards: Sequence[ModelCard]) -> bool:
    """Return whether a model's ids occur among the tiles, but its data was not these."""
    ids, fingerprint = set(tiles.ids), tiles.fingerprint()
    return any(
        card.data_fingerprint not in ("", fingerprint)
        and not ids.isdisjoint((*card.train_ids, *card.val_ids))
        for card in cards
    )
