"""Scores model files on labelled tiles, keeping apart what their training has seen."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from diapir.errors import DataError
from diapir.inference.evaluate import Evaluation, evaluate
from diapir.inference.predict import AS_TRAINED, PredictOptions, Predictor, load_predictor
from diapir.io.tiles import Tiles, read_tiles
from diapir.models.modelfile import ModelCard, library_versions, source_commit
from diapir.progress import counting
from diapir.report.html import Card, ReportContent, write_report
from diapir.runs.folder import plain, write_json
from diapir.runs.report import evaluation_sections, provenance


def evaluate_models(
    models: Sequence[Path],
    data: Path,
    *,
    part: str = "auto",
    out: Path | None = None,
    options: PredictOptions = AS_TRAINED,
    progress: bool = True,
) -> tuple[Evaluation, str | None]:
    """Return the evaluation of models on labelled tiles, and a warning where it flatters them.

    Args:
        models: Model files; their probabilities are averaged.
        data: Labelled tiles.
        part: 'auto' leaves out every tile that trained a model or picked its threshold, 'all' takes
            every tile.
        out: Folder for `evaluation.json`, figures and `report.html`.
        options: How the models are applied.
        progress: Show progress bars.

    Raises:
        DiapirError: A model or the data cannot be used, or no tile is left to score.
    """
    predictor, cards = load_predictor(models, options)
    tiles, warning = _unseen(read_tiles(data, "train", progress=progress), cards, part)
    probs = predict_with_bar(predictor, tiles, progress)
    found = evaluate(probs, tiles, predictor.threshold)
    if out is not None:
        made = {
            "data_fingerprint": tiles.fingerprint(),
            "versions": library_versions(),
            "git": source_commit(),
            "models": [
                {"file": path.name, **dict(provenance(card))}
                for path, card in zip(models, cards, strict=True)
            ],
        }
        table = {"warning": warning, **found.to_dict(), "provenance": made}
        write_json(out / "evaluation.json", plain(table))
        sections = evaluation_sections(found, tiles, probs, out / "figures", part="these tiles")
        score = found.metrics["score"]
        content = ReportContent(
            title="Evaluation",
            subtitle=warning or f"{len(tiles):,} tiles of {data.name} that no model has seen",
            cards=[Card("score", f"{score.value:.3f}", f"{score.low:.3f} to {score.high:.3f}")],
            sections=sections,
            provenance=[
                (f"{path.name}: {name}", value)
                for path, card in zip(models, cards, strict=True)
                for name, value in provenance(card)
            ],
        )
        write_report(out / "report.html", content)
    return found, warning


def predict_with_bar(predictor: Predictor, tiles: Tiles, progress: bool) -> NDArray[np.float32]:
    """Return the probabilities of tiles, with a progress bar."""
    with counting(len(tiles), "predicting", shown=progress) as advance:
        return predictor.predict_probs(tiles.images, tiles.z_feet, advance=advance)


def _unseen(tiles: Tiles, cards: Sequence[ModelCard], part: str) -> tuple[Tiles, str | None]:
    if part not in ("auto", "all"):
        raise DataError(f"no part named {part!r}", where="--part", expected="auto or all")
    seen = {id_ for card in cards for id_ in (*card.train_ids, *card.val_ids)}
    known = sum(id_ in seen for id_ in tiles.ids)
    if part == "auto":
        fresh = [i for i, id_ in enumerate(tiles.ids) if id_ not in seen]
        if not fresh:
            raise DataError(
                f"the models' training has seen all {len(tiles):,} tiles",
                where=tiles.source,
                mend="Give other labelled tiles, or --part all for a score that flatters.",
            )
        return tiles.subset(fresh), None
    warning = (
        f"{known:,} of {len(tiles):,} tiles trained these models or picked their thresholds: the "
        "score flatters them"
    )
    return tiles, warning if known else None
