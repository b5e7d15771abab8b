"""Fine-tunes a model on a few interpreted lines of a survey, and scores it on others."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from diapir.errors import OptionError
from diapir.inference.look import Look
from diapir.inference.predict import Predictor, choose_device
from diapir.inference.sections import (
    SectionSettings,
    Tiling,
    choose_look,
    predict_section,
    refuse_depth,
)
from diapir.io.atomic import remove_leftovers
from diapir.io.labels import UNLABELLED, LabelledLine, read_labels
from diapir.io.opening import is_picture, open_volume
from diapir.io.volume import reading_warnings
from diapir.metrics.score import Counts, dice, iou, pixel_accuracy
from diapir.models.modelcard import ModelCard
from diapir.models.modelfile import load_model, save_model
from diapir.models.packaged import packaged_model
from diapir.models.unet import SaltNet
from diapir.progress import counting
from diapir.runs.finetune_report import FinetuneResult, write_finetune_report
from diapir.runs.folder import RunFolder
from diapir.runs.line_split import split_lines
from diapir.training.finetune import LabelledSection, Tuning, finetune_net

if TYPE_CHECKING:
    import xarray as xr

_THRESHOLDS = np.linspace(0.1, 0.9, 33)


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
    refuse_depth(net.config.depth_channel, model)
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
            held=tuple(line.name for line in split.held),
            trained=tuple(line.name for line in split.train),
            threshold=threshold,
            warnings=(*reading_warnings(survey), *_seen_before(card, survey, split.held)),
        )
        new_card = _card(card, result, survey, tuning)
        save_model(result.model, net.cpu(), new_card)
        shown = (held, old, new)
        write_finetune_report(result, new_card, survey, split, shown, loss, card.threshold)
    return result


def _check_scale(tiling: Tiling) -> None:
    if (tiling.sample_scale, tiling.trace_scale) != (1.0, 1.0):
        raise OptionError(
            "fine-tuning works at the survey's own sampling",
            "sample_scale",
            "trace_scale",
            expected="1",
            mend="Leave them out: the network learns the survey's scale from the labels.",
        )


def _seen_before(
    card: ModelCard, survey: "xr.Dataset", held: Sequence[LabelledLine]
) -> tuple[str, ...]:
    """Return the warning that lines held out now trained the model that was fine-tuned, if so."""
    if str(survey.attrs.get("fingerprint", "of no file")) not in card.notes:
        return ()
    shared = {line.shared_with(name) for line in held for name in card.train_ids}
    seen = sorted(name for name in shared if name is not None)
    if not seen:
        return ()
    return (
        f"{', '.join(seen)} trained the model that this one began with and are held out now: their "
        "scores before and after are too good; begin with a model that has not seen them",
    )


def _line_amplitudes(line: LabelledLine, survey: "xr.Dataset") -> NDArray[np.float32]:
    where = {"inline": (line.index,), "crossline": (slice(None), line.index), "line": ()}[
        line.direction
    ]
    return np.asarray(survey["amplitude"][where], np.float32)


def _amplitudes(lines: Sequence[LabelledLine], survey: "xr.Dataset") -> list[NDArray[np.float32]]:
    return [_line_amplitudes(line, survey) for line in lines]


def _section_of(line: LabelledLine, survey: "xr.Dataset", look: Look) -> LabelledSection:
    image = look.grey(_line_amplitudes(line, survey)).T
    return LabelledSection(line.name, image, line.labels.T)


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


def _card(
    card: ModelCard, result: FinetuneResult, survey: "xr.Dataset", tuning: Tuning
) -> ModelCard:
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
