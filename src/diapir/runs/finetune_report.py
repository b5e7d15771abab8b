"""What a fine-tuning gives, and the page that shows what it gained on lines held out."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from diapir.io.labels import ACROSS, UNLABELLED, LabelledLine
from diapir.models.modelcard import ModelCard
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
from diapir.runs.folder import write_json
from diapir.runs.line_split import LineSplit
from diapir.runs.machine import command_line, describe_machine
from diapir.runs.provenance import made_with, provenance

if TYPE_CHECKING:
    import xarray as xr

Sections = list[NDArray[np.float32]]
"""Values (T, S) of several lines: amplitudes or probabilities."""

_DPI = 110


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


def write_finetune_report(
    result: FinetuneResult,
    card: ModelCard,
    survey: "xr.Dataset",
    split: LineSplit,
    shown: tuple[Sections, Sections, Sections],
    loss: float,
    old_threshold: float,
) -> None:
    """Write `finetune.json`, figures and `report.html`.

    Args:
        result: What the fine-tuning gave; its folder takes the files.
        card: Of the new model.
        survey: The survey.
        split: Lines that trained and lines held out.
        shown: Of each held-out line its amplitudes, and (T, S) probabilities before and after.
        loss: The last of the training.
        old_threshold: Of the model it began with.
    """
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
    survey: "xr.Dataset",
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
            name=f"{line.name.capitalize()}, {when}",
            across=across,
            unit=str(survey["sample"].attrs.get("units", "1")),
            what="interpreted salt" if when == "interpretation" else "predicted salt",
        )
        path = out / "figures" / f"{line.direction}-{line.number}-{when}.png"
        caption = f"{line.name.capitalize()}, {when}."
        pictures.append(keep_picture(figure, path, caption, dpi=_DPI))
    return pictures
