"""Figures and the HTML page of a run or an evaluation."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from diapir.config import LossStage, Recipe
from diapir.data.census import count_by_coverage
from diapir.inference.evaluate import Evaluation, GroupScore
from diapir.inference.postprocess import make_masks
from diapir.io.tiles import Tiles
from diapir.models.maskrule import AS_THRESHOLDED, MaskRule
from diapir.report.figures import save_figure
from diapir.report.figures_data import coverage_against_depth, coverage_histogram
from diapir.report.figures_tiles import predictions, sample_grid
from diapir.report.figures_training import score_by_group, threshold_curve, training_curves
from diapir.report.html import (
    Card,
    Picture,
    ReportContent,
    Section,
    Table,
    keep_picture,
    write_report,
)
from diapir.runs.folder import RunFolder
from diapir.runs.provenance import provenance

if TYPE_CHECKING:  # it loads torch, which who only describes data does not need
    from diapir.runs.score import Scored

_SAMPLES, _COVERAGE, _DEPTH = "samples.png", "coverage.png", "coverage-depth.png"
DATA_FIGURES = {
    _SAMPLES: "Samples drawn at random: image with the salt outlined, and mask.",
    _COVERAGE: "How much salt the tiles hold.",
    _DEPTH: "Salt against depth.",
}
"""File names and captions of the figures of a data set."""

_METRIC_NAMES = {
    "score": "competition score",
    "iou": "IoU",
    "dice": "Dice",
    "accuracy": "pixel accuracy",
    "presence_precision": "precision of 'has salt'",
    "presence_recall": "recall of 'has salt'",
}

EVERY_MASK_EMPTY = "every mask were empty"
"""In words: what a score is to be judged by; without a model one has it."""

_UNSCORED = (
    "No tile was left to score this training: all of them trained it, or there was no time. What a "
    "recipe reaches is told by a training that leaves tiles out, or by one with folds."
)

_TRAINING = (
    "Training, epoch by epoch. These scores are at threshold 0.5, each tile predicted once; those "
    "in the tables are at the chosen threshold, with clean-up and mirrored tiles where the model "
    "has them."
)


def write_run_report(
    folder: RunFolder,
    tiles: Tiles,
    scored: "Scored",
    *,
    history: Sequence[dict[str, float]],
    best_epoch: int,
) -> None:
    """Write the figures and the page of a run.

    Args:
        folder: Takes `figures/` and `report.html`.
        tiles: All labelled tiles; those of the hold-out are shown, or of validation without one.
        scored: The network that the run keeps.
        history: A row an epoch.
        best_epoch: The epoch that is kept.
    """
    card, recipe = scored.card, scored.card.recipe
    val, shown = scored.val, scored.holdout or scored.val
    pictures = [
        Picture.from_file(folder.figures / name, caption)
        for name, caption in DATA_FIGURES.items()
        if (folder.figures / name).is_file()
    ]
    curves = training_curves(history, chosen_epoch=best_epoch, stages=_stages(recipe, history))
    training = keep_picture(curves, folder.figures / "training.png", _TRAINING)
    sections = [Section("Training", pictures=[training]), Section("Data", pictures=pictures)]
    cards = [
        Card("epochs", str(len(history))),
        Card("minutes", f"{history[-1]['seconds'] / 60:.1f}"),
    ]
    if shown is not None:
        part = "validation" if shown is val else "hold-out"
        cards = [*score_cards(f"score on {part}", shown), *cards]
        sections = [
            *evaluation_sections(
                shown,
                tiles.select(shown.ids),
                scored.shown_probs,
                folder.figures,
                val=val,
                part=part,
                rule=card.rule,
                threshold_is_chosen=recipe.predict.threshold is None,
            ),
            *sections,
        ]
    else:
        sections = [Section("No score", text=[_UNSCORED]), *sections]
    if scored.calibration:
        sections.append(Section("How far it can be trusted", text=[scored.calibration]))
    content = ReportContent(
        title=f"Run {folder.path.name}",
        subtitle=recipe.description,
        cards=cards,
        sections=sections,
        provenance=provenance(card),
        origin={"provenance": dict(provenance(card)), "metrics": card.metrics},
    )
    write_report(folder.report, content)


def evaluation_sections(
    found: Evaluation,
    tiles: Tiles,
    probs: NDArray[np.float32],
    figures: Path,
    *,
    val: Evaluation | None = None,
    part: str = "data",
    rule: MaskRule = AS_THRESHOLDED,
    threshold_is_chosen: bool = True,
) -> list[Section]:
    """Return the sections that tell how well a model does, and save their figures.

    Args:
        found: Of the tiles.
        tiles: Labelled tiles.
        probs: (N, H, W) probabilities.
        figures: Folder for the PNG files.
        val: Evaluation of the tiles that picked the threshold, for a second curve.
        part: What the tiles are, in words.
        rule: That cleans up the masks.
        threshold_is_chosen: On the tiles of `val`; else it was given before.
    """
    return [
        _scores_section(found, val, figures, part, threshold_is_chosen),
        _groups_section(found, figures),
        _tiles_section(found, tiles, probs, figures, rule),
    ]


def save_data_figures(tiles: Tiles, figures: Path, *, seed: int = 0) -> None:
    """Save the classic figures of a labelled data set, those of `DATA_FIGURES` that it allows.

    Args:
        tiles: Labelled tiles; depths are optional.
        figures: Folder for the PNG files.
        seed: Chooses the samples.
    """
    rng = np.random.default_rng(seed)
    some = tiles.subset(np.sort(rng.permutation(len(tiles))[:12]))
    save_figure(sample_grid(some.images, some.truth, some.ids, some.z_feet), figures / _SAMPLES)
    save_figure(coverage_histogram(count_by_coverage(tiles.truth)), figures / _COVERAGE)
    if tiles.z_feet is not None:
        save_figure(coverage_against_depth(tiles.z_feet, tiles.coverage), figures / _DEPTH)


def metric_rows(found: Evaluation) -> list[tuple[str, float, float, float]]:
    """Return the metrics as rows of name, value, and the ends of the interval.

    The score that no prediction at all would get stands beneath the score.
    """
    score, *others = ((_METRIC_NAMES[name], *each) for name, each in found.metrics.items())
    return [score, (f"score if {EVERY_MASK_EMPTY}", *found.every_mask_empty), *others]


def score_cards(label: str, found: Evaluation) -> list[Card]:
    """Return the score as a key figure, and a warning beside it where no salt is found."""
    score = found.metrics["score"]
    interval = f"{score.low:.3f} to {score.high:.3f}"
    empty = f"{found.every_mask_empty.value:.3f} if {EVERY_MASK_EMPTY}"
    cards = [Card(label, f"{score.value:.3f}", f"{interval}; {empty}")]
    if found.warning is not None:
        cards.append(Card("warning", "no salt found", "every predicted mask is empty"))
    return cards


def group_rows(groups: Sequence[GroupScore]) -> list[tuple[str, int, float, float, float, float]]:
    """Return groups of tiles as rows: label, tiles, score, its interval, IoU."""
    return [(g.label, g.tiles, *g.score, g.iou.value) for g in groups]


def _scores_section(
    found: Evaluation, val: Evaluation | None, figures: Path, part: str, threshold_is_chosen: bool
) -> Section:
    level = f"{100 * found.level:.0f} %"
    curves = {"validation": val.curve} if val is not None else {}
    curves[part] = found.curve
    how = "chosen" if threshold_is_chosen and val is not None else "given"
    figure = threshold_curve(found.thresholds, curves, found.threshold, how)
    caption = "Score against threshold. The threshold was chosen on validation alone."
    if val is None:
        caption = "Score against threshold; the marked one came with the model."
    elif not threshold_is_chosen:
        caption = "Score against threshold; the marked one is the recipe's."
    return Section(
        f"Scores on {part}",
        text=[
            *([f"Warning: {found.warning}."] if found.warning is not None else []),
            f"{len(found):,} tiles at threshold {found.threshold:.2f}; intervals of {level} from "
            "bootstrap samples of tiles.",
        ],
        tables=[Table("Metrics", ("metric", "value", "from", "to"), metric_rows(found))],
        pictures=[keep_picture(figure, figures / "threshold.png", caption)],
    )


def _groups_section(found: Evaluation, figures: Path) -> Section:
    columns = ("group", "tiles", "score", "from", "to", "IoU")
    tables, pictures = [], []
    for name, groups in (("coverage", found.by_coverage), ("depth", found.by_depth)):
        if not groups:
            continue
        tables.append(Table(f"By {name}", columns, group_rows(groups)))
        labels, sizes, scores, lows, highs, _ = zip(*group_rows(groups), strict=True)
        heading = f"Score by {name}"
        figure = score_by_group(labels, scores, lows, highs, sizes, heading=heading)
        pictures.append(
            keep_picture(figure, figures / f"score-{name}.png", f"{heading}, with intervals.")
        )
    return Section("Where it does well and where not", tables=tables, pictures=pictures)


def _tiles_section(
    found: Evaluation, tiles: Tiles, probs: NDArray[np.float32], figures: Path, rule: MaskRule
) -> Section:
    rng = np.random.default_rng(0)
    anyone = rng.permutation(len(tiles))[:6]
    pictures = []
    for name, index, caption in (
        ("random", anyone, "Tiles drawn at random."),
        ("worst", found.worst[:6], "The worst tiles."),
        ("best", found.best[:6], "The best tiles with salt."),
    ):
        if len(index):
            chosen = tiles.subset(index)
            assert chosen.masks is not None  # noqa: S101  # an evaluation has masks
            # what the clean-up takes away is shown as no salt
            masks = make_masks(probs[index], found.threshold, rule)
            shown = np.where(masks, probs[index], np.minimum(probs[index], found.threshold))
            figure = predictions(chosen.images, chosen.masks, shown, chosen.ids, found.threshold)
            pictures.append(keep_picture(figure, figures / f"tiles-{name}.png", caption))
    return Section("Input, truth, prediction", pictures=pictures)


def _stages(recipe: Recipe, history: Sequence[dict[str, float]]) -> dict[int, str]:
    """Return the epochs in which a stage of the loss began, with its name."""
    names: dict[int, str] = {}
    for row in history:
        epoch = int(row["epoch"])
        name = _stage_name(recipe.loss.stage_at(epoch - 1, row["progress"]))
        if name not in names.values():
            names[epoch] = name
    return names


def _stage_name(stage: LossStage) -> str:
    """Return the losses of a stage in words, such as '0.7 lovasz + 0.15 bce'."""
    weights = stage.model_dump(exclude={"from_epoch", "from_progress"})
    terms = [f"{weight:g} {name}" for name, weight in weights.items() if weight]
    return " + ".join(term.replace("_", " ") for term in terms)
