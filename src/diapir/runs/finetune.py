"""Fine-tunes a model on a few interpreted lines of a survey, and shows what that gained."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diapir.errors import DataError
from diapir.inference.look import Look
from diapir.inference.predict import Predictor, choose_device
from diapir.inference.sections import SectionSettings, Tiling, choose_look, predict_section
from diapir.io.atomic import remove_leftovers
from diapir.io.labels import ACROSS, UNLABELLED, LabelledLine, read_labels
from diapir.io.opening import is_picture, open_volume
from diapir.io.volume import reading_warnings
from diapir.metrics.score import Counts, dice, iou, pixel_accuracy
from diapir.models.modelcard import ModelCard
from diapir.models.modelfile import load_model, save_model
from diapir.models.packaged import packaged_model
from diapir.models.unet import SaltNet
from diapir.progress import counting
from diapir.report.figures_survey import scores_before_after, section
from diapir.report.html import (
    Card,
    Picture,
    ReportContent,
    Section,
    Table,
    keep_picture,
    write_report,
)
from diapir.runs.folder import RunFolder, write_json
from diapir.runs.machine import command_line, describe_machine
from diapir.runs.provenance import made_with, provenance
from diapir.training.finetune import LabelledSection, Tuning, finetune_net

_Sections = list[NDArray[np.float32]]
_THRESHOLDS = np.linspace(0.1, 0.9, 33)
_DPI = 110


@dataclass(frozen=True)
class LineSplit:
    """Which labelled lines train, and which are held out to score.

    Args:
        train: What is left of the labels for training, near and across the held-out block removed.
        held: The held-out lines.
        block: First and last index of the inlines (or crosslines, or traces of a 2-D line) of the
            held-out block.
    """

    train: tuple[LabelledLine, ...]
    held: tuple[LabelledLine, ...]
    block: tuple[int, int]


@dataclass(frozen=True)
class FinetuneResult:
    """What a fine-tuning gave.

    Args:
        out: Folder of model, report and numbers.
        model: The new model file.
        before: IoU, Dice and pixel accuracy of the salt on the held-out lines.
        after: The same with the new model.
        held: Names of the held-out lines.
        trained: Names of the lines that trained.
        threshold: The new model's.
        warnings: What was decided in doubt when the survey was read.
    """

    out: Path
    model: Path
    before: dict[str, float]
    after: dict[str, float]
    held: tuple[str, ...]
    trained: tuple[str, ...]
    threshold: float
    warnings: tuple[str, ...] = ()


def finetune_model(
    model: Path | None,
    volume: Path,
    labels: Path,
    out: Path,
    tuning: Tuning = Tuning(),  # noqa: B008  # frozen
    settings: SectionSettings = SectionSettings(),  # noqa: B008  # frozen
    *,
    holdout: float = 0.2,
    gap: int = 5,
    unlabelled: float | None = None,
    options: Mapping[str, Any] | None = None,
    device: str = "auto",
    progress: bool = True,
) -> FinetuneResult:
    """Train a model further on labelled lines of a survey and score it on lines held out.

    Args:
        model: Model file to start from; None: the packaged model.
        volume: The survey.
        labels: See `read_labels`.
        out: Folder; takes `model.safetensors`, `finetune.json` and `report.html`.
        tuning: How long and how strongly.
        settings: How the survey is normalised and tiled; map it later with the same.
        holdout: Share of the labelled lines in the held-out block, at least one line; of a 2-D line
            share of its labelled traces.
        gap: Lines, or traces of a 2-D line, on either side of the block that are used for nothing.
        unlabelled: Value of samples without an interpretation.
        options: For SEG-Y, see `open_volume`.
        device: 'auto', 'cpu' or 'cuda'.
        progress: Show progress bars.

    Raises:
        DiapirError: A model, the survey or the labels cannot be used.
    """
    device = choose_device(device)
    survey = open_volume(volume, **dict(options or {}))
    model = packaged_model() if model is None else model
    net, card = load_model(model)
    _check_usable(net, model)
    lines = read_labels(labels, survey, unlabelled=unlabelled, options=options)
    split = split_lines(lines, holdout, gap)
    _, look = choose_look(survey, settings, [card], is_picture=is_picture(volume))
    net.to(device)
    train = [_section_of(line, survey, look) for line in split.train]
    _check_scale(settings.tiling)
    folder = RunFolder(out)
    folder.make_plain()
    with folder.locked():
        remove_leftovers(out)
        held = _amplitudes(split.held, survey)
        old = _predict(net, card, held, look, settings)
        before = _scores(old, split.held, card.threshold)
        with counting(tuning.steps, "fine-tuning", shown=progress) as advance:
            loss = finetune_net(net, train, card.recipe, tuning, advance=advance)
        own = _predict(net, card, _amplitudes(split.train, survey), look, settings)
        threshold = _choose_threshold(own, split.train)
        new = _predict(net, card, held, look, settings)
        after = _scores(new, split.held, threshold)
        result = FinetuneResult(
            out=out,
            model=out / "model.safetensors",
            before=before,
            after=after,
            held=tuple(map(_name, split.held)),
            trained=tuple(map(_name, split.train)),
            threshold=threshold,
            warnings=(*reading_warnings(survey), *_seen_before(card, survey, split.held)),
        )
        new_card = _card(card, result, survey, tuning)
        save_model(result.model, net.cpu(), new_card)
        _write(result, new_card, survey, split, (held, old, new), loss, card.threshold)
    return result


def split_lines(lines: Sequence[LabelledLine], holdout: float, gap: int) -> LineSplit:
    """Return lines to train on and a block of lines held out.

    The block is the last lines of the direction with the most labels, as one piece; training lines
    keep a gap from it, and lines that cross it lose their labels there. Neighbouring lines look
    alike: scattered ones would score what was learnt by heart.

    Of a 2-D line the block is its last labelled traces, likewise with a gap.

    Args:
        lines: Labelled lines.
        holdout: Share of the lines of that direction in the block.
        gap: Lines on either side of the block that are used for nothing.

    Raises:
        DataError: There are too few lines to hold any out.
    """
    if lines[0].direction == "line":
        return _split_traces(lines[0], holdout, gap)
    counts = {d: sum(line.direction == d for line in lines) for d in ("inline", "crossline")}
    direction = max(counts, key=lambda d: counts[d])
    along = sorted((ln for ln in lines if ln.direction == direction), key=lambda ln: ln.index)
    size = max(1, round(holdout * len(along)))
    held = along[-size:]
    block = (held[0].index, held[-1].index)
    low, high = block[0] - gap, block[1] + gap
    train = [line for line in along[:-size] if line.index < low]
    for line in lines:
        if line.direction != direction:
            labels = line.labels.copy()
            labels[max(low, 0) : high + 1] = UNLABELLED
            if (labels != UNLABELLED).any():
                train.append(replace(line, labels=labels))
    if not train:
        raise DataError(
            f"{len(lines)} labelled lines leave none to train on beside those held out",
            expected=f"at least two lines further apart than {gap}",
            mend="Label another line further away, or give a smaller --gap.",
        )
    return LineSplit(tuple(train), tuple(held), block)


def _split_traces(line: LabelledLine, holdout: float, gap: int) -> LineSplit:
    """Return a 2-D line twice: with the labels that train, and with those that are held out."""
    labelled = _labelled_traces(line)
    size = max(1, round(holdout * len(labelled)))
    block = (int(labelled[-size]), int(labelled[-1]))
    if labelled[0] >= block[0] - gap:
        raise DataError(
            f"{len(labelled)} labelled traces leave none to train on beside those held out",
            expected=f"more than {size + gap} traces",
            mend="Label more of the line, or give a smaller --gap or --holdout.",
        )
    train, held = line.labels.copy(), line.labels.copy()
    train[block[0] - gap :] = UNLABELLED
    held[: block[0]] = UNLABELLED
    return LineSplit((replace(line, labels=train),), (replace(line, labels=held),), block)


def _labelled_traces(line: LabelledLine) -> NDArray[np.intp]:
    return np.flatnonzero((line.labels != UNLABELLED).any(axis=1))


def _check_usable(net: SaltNet, model: Path) -> None:
    if net.config.depth_channel:
        raise DataError(
            "this model needs the depth of each tile, which sections do not have",
            where=model,
            mend="Use a model trained with model.depth_channel = false.",
        )


def _check_scale(tiling: Tiling) -> None:
    if (tiling.sample_scale, tiling.trace_scale) != (1.0, 1.0):
        raise DataError(
            "fine-tuning works at the survey's own sampling",
            where="--sample-scale, --trace-scale",
            expected="1",
            mend="Leave them out: the network learns the survey's scale from the labels.",
        )


def _name(line: LabelledLine) -> str:
    if line.direction == "line":
        traces = _labelled_traces(line)
        return f"traces {traces[0] + 1} to {traces[-1] + 1}"
    return f"{line.direction} {line.number}"


def _seen_before(card: ModelCard, survey: Any, held: Sequence[LabelledLine]) -> tuple[str, ...]:
    """Return the warning that lines held out now trained the model that was fine-tuned, if so."""
    if str(survey.attrs.get("fingerprint", "of no file")) not in card.notes:
        return ()
    seen = sorted({_name(line) for line in held} & set(card.train_ids))
    if not seen:
        return ()
    return (
        f"{', '.join(seen)} trained the model that this one began with and are held out now: their "
        "scores before and after are too good; begin with a model that has not seen them",
    )


def _line_amplitudes(line: LabelledLine, survey: Any) -> NDArray[np.float32]:
    where = {"inline": (line.index,), "crossline": (slice(None), line.index), "line": ()}[
        line.direction
    ]
    return np.asarray(survey["amplitude"][where], np.float32)


def _amplitudes(lines: Sequence[LabelledLine], survey: Any) -> list[NDArray[np.float32]]:
    return [_line_amplitudes(line, survey) for line in lines]


def _section_of(line: LabelledLine, survey: Any, look: Look) -> LabelledSection:
    image = look.grey(_line_amplitudes(line, survey)).T
    return LabelledSection(_name(line), image, line.labels.T)


def _predict(
    net: SaltNet,
    card: ModelCard,
    amplitudes: Sequence[NDArray[np.float32]],
    look: Look,
    settings: SectionSettings,
) -> list[NDArray[np.float32]]:
    """Return (T, S) probabilities of each line, as `diapir map` would predict it."""
    flip = card.recipe.predict.flip if settings.flip is None else settings.flip
    rule = card.rule  # its temperature; the clean-up of tiles is not for sections
    predictor = Predictor([net], flip=flip, batch_size=settings.tiling.batch, rule=rule)
    return [predict_section(line, predictor, look, settings.tiling) for line in amplitudes]


def _counts(
    probs: Sequence[NDArray[np.float32]], lines: Sequence[LabelledLine], threshold: float
) -> Counts:
    """Return the counts of all labelled samples together, as one tile."""
    found = np.concatenate(
        [p[line.labels != UNLABELLED] for p, line in zip(probs, lines, strict=True)]
    )
    truth = np.concatenate([ln.labels[ln.labels != UNLABELLED] for ln in lines]) == 1
    salt = found > float(threshold)
    sums = ((salt & truth).sum(), salt.sum(), truth.sum(), salt.size)
    return Counts(*(np.array([value]) for value in sums))


def _scores(
    probs: Sequence[NDArray[np.float32]], lines: Sequence[LabelledLine], threshold: float
) -> dict[str, float]:
    counts = _counts(probs, lines, threshold)
    measures = {"iou": iou, "dice": dice, "accuracy": pixel_accuracy}
    return {name: float(np.asarray(measure(counts))[0]) for name, measure in measures.items()}


def _choose_threshold(probs: Sequence[NDArray[np.float32]], lines: Sequence[LabelledLine]) -> float:
    """Return the threshold of the best IoU on the lines that trained; of equals the middle."""
    scores = np.array([_scores(probs, lines, t)["iou"] for t in _THRESHOLDS])
    best = np.flatnonzero(scores >= scores.max() - 1e-9)
    return float(_THRESHOLDS[best[len(best) // 2]])


def _card(card: ModelCard, result: FinetuneResult, survey: Any, tuning: Tuning) -> ModelCard:
    measured: dict[str, float] = {f"held_out_{name}": value for name, value in result.after.items()}
    measured |= {f"held_out_{name}_before": value for name, value in result.before.items()}
    return replace(
        card,
        threshold=result.threshold,
        metrics=measured,
        train_ids=(*card.train_ids, *result.trained),
        val_ids=(*card.val_ids, *result.held),
        notes=(
            f"fine-tuned for {tuning.steps} steps on {len(result.trained)} lines of "
            f"{Path(str(survey.attrs.get('source', ''))).name} "
            f"({survey.attrs.get('fingerprint', '')}); {card.notes}"
        ),
    ).stamped()


def _write(
    result: FinetuneResult,
    card: ModelCard,
    survey: Any,
    split: LineSplit,
    shown: tuple[_Sections, _Sections, _Sections],
    loss: float,
    old_threshold: float,
) -> None:
    """Write `finetune.json`, figures and report."""
    write_json(
        result.out / "finetune.json",
        {
            "before": result.before,
            "after": result.after,
            "threshold": result.threshold,
            "loss": loss,
            "trained": list(result.trained),
            "held_out": list(result.held),
            "warnings": list(result.warnings),
            "block": list(split.block),
            "command": command_line(),
            "machine": describe_machine(),
            **made_with([(result.model.name, card)], str(survey.attrs.get("fingerprint", ""))),
        },
    )
    names = {"iou": "IoU", "dice": "Dice", "accuracy": "pixel accuracy"}
    rows = [(text, result.before[k], result.after[k]) for k, text in names.items()]
    bars = scores_before_after(*(list(column) for column in zip(*rows, strict=True)))
    pictures = [
        keep_picture(bars, result.out / "figures" / "scores.png", "Held-out lines.", dpi=_DPI)
    ]
    for line, amplitudes, old, new in list(zip(split.held, *shown, strict=True))[:2]:
        pictures += _line_pictures(
            line, amplitudes, {"before": (old, old_threshold), "after": (new, result.threshold)},
            survey, result.out,
        )  # fmt: skip
    content = ReportContent(
        title="Fine-tuned on a survey",
        subtitle=str(survey.attrs.get("source", "")),
        cards=[Card("IoU on held-out lines", f"{result.after['iou']:.3f}",
                    f"{result.before['iou']:.3f} before")],
        sections=[
            Section(
                "What it gained",
                text=[
                    f"Trained on {', '.join(result.trained)}. Held out, with a gap around, and "
                    f"used for nothing else: {', '.join(result.held)}.",
                ],
                tables=[Table("Held-out lines", ("metric", "before", "after"), rows)],
                pictures=pictures,
            )
        ],
        provenance=provenance(card),
        origin={"provenance": dict(provenance(card)), "metrics": card.metrics},
    )  # fmt: skip
    write_report(result.out / "report.html", content)


def _line_pictures(
    line: LabelledLine,
    amplitudes: NDArray[np.float32],
    found: Mapping[str, tuple[NDArray[np.float32], float]],
    survey: Any,
    out: Path,
) -> list[Picture]:
    across = ACROSS[line.direction]
    pictures = []
    truth = np.where(line.labels == UNLABELLED, 0.0, line.labels).astype(np.float32)
    for when, (probs, threshold) in {**found, "interpretation": (truth, 0.5)}.items():
        figure = section(
            amplitudes,
            probs,
            threshold,
            np.asarray(survey[across], np.float64),
            np.asarray(survey["sample"], np.float64),
            name=f"{_name(line).capitalize()}, {when}",
            across=across,
            unit=str(survey["sample"].attrs.get("units", "1")),
            what="interpreted salt" if when == "interpretation" else "predicted salt",
        )
        path = out / "figures" / f"{line.direction}-{line.number}-{when}.png"
        caption = f"{_name(line).capitalize()}, {when}."
        pictures.append(keep_picture(figure, path, caption, dpi=_DPI))
    return pictures
