"""Predicts masks: for the test tiles as a submission, or for any images as PNG files."""

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from diapir.errors import DataError, RunError
from diapir.export.submission import (
    check_ids,
    check_submission,
    sample_order,
    write_run_lengths,
)
from diapir.inference.blend import blend_sections, windows_of
from diapir.inference.predict import AS_TRAINED, PredictOptions, Predictor, load_predictor
from diapir.io.atomic import write_bytes_atomic
from diapir.io.digests import file_sha256
from diapir.io.images import check_png, encode_png, read_grey, write_mask_png
from diapir.io.layout import find_images
from diapir.io.lock import sole_writer
from diapir.io.rle import encode_rle_many
from diapir.io.sources import Source
from diapir.io.tiles import ArrivingTiles, arriving_tiles
from diapir.models.packaged import models_or_packaged
from diapir.progress import counting
from diapir.runs.folder import write_json
from diapir.runs.machine import command_line, describe_machine, keep_freed_memory
from diapir.runs.provenance import made_with


@dataclass(frozen=True)
class SubmitResult:
    """What a submission took.

    Args:
        tiles: Test tiles in it.
        with_salt: Tiles in which salt is predicted.
        problems: That `check_submission` found in the written file; always 0.
        seconds: From reading the models to the checked file.
        model_seconds: Of these, inside the networks.
        warning: That no salt is found, or that the competition's sample names other tiles.
    """

    tiles: int
    with_salt: int
    problems: int
    seconds: float
    model_seconds: float
    warning: str | None


@dataclass(frozen=True)
class PredictResult:
    """What `predict_images` predicted.

    Args:
        images: Number of images.
        with_salt: Those in which salt is predicted.
    """

    images: int
    with_salt: int


def submit(
    models: Sequence[Path],
    data: Path,
    out: Path,
    *,
    options: PredictOptions = AS_TRAINED,
    progress: bool = True,
) -> SubmitResult:
    """Predict all test tiles and write them as a submission, with what made it beside it.

    Args:
        models: Model files; their probabilities are averaged. None: the packaged model.
        data: Holds the test tiles; rows follow its `sample_submission.csv` where there is one.
        out: The CSV file; a `.json` of the same name says what made it.
        options: How the models are applied.
        progress: Show progress bars.

    Raises:
        DiapirError: A model or the data cannot be used, or the file cannot be written.
    """
    _check_out(out)
    with sole_writer(out):
        return _submit(models, data, out, options, progress)


def _check_out(out: Path) -> None:
    if out.suffix.lower() == ".json":
        raise RunError(
            "the JSON that says what made the submission would take its place",
            where=f"--out {out}",
            expected="the name of a CSV file",
            mend=f"Give {out.with_suffix('.csv')}.",
        )
    if out.is_dir():
        raise RunError(
            "a folder has the name of the submission",
            where=f"--out {out}",
            expected="the name of a CSV file",
            mend=f"Give {out / 'submission.csv'}.",
        )


def _submit(
    models: Sequence[Path], data: Path, out: Path, options: PredictOptions, progress: bool
) -> SubmitResult:
    started = time.perf_counter()
    with arriving_tiles(data) as arriving:
        check_ids(arriving.ids)
        order, mismatch = sample_order(arriving.tables, arriving.ids)
        predictor, cards = load_predictor(models, options)
        files = models_or_packaged(models)
        digests = [file_sha256(path) for path in files]
        texts = _run_lengths(predictor, arriving, progress)
        tiles = arriving.all()
    write_run_lengths(out, tiles.ids, texts, order=order)
    with_salt = sum(text != "" for text in texts)
    empty = f"no salt is found: the masks of all {len(tiles):,} tiles are empty"
    warnings = [text for text in (mismatch, None if with_salt else empty) if text]
    result = SubmitResult(
        tiles=len(tiles),
        with_salt=with_salt,
        problems=len(check_submission(out, tiles.ids, tiles.images.shape[1:])),
        seconds=round(time.perf_counter() - started, 3),
        model_seconds=round(predictor.model_seconds, 3),
        warning="; ".join(warnings) or None,
    )
    made_by = zip([path.name for path in files], cards, strict=True)
    write_json(
        out.with_suffix(".json"),
        {
            **asdict(result),
            "command": command_line(),
            "machine": describe_machine(),
            "threshold": predictor.threshold,
            "rule": asdict(predictor.rule),
            "flip": predictor.flip,
            "engines": predictor.engines.describe(),
            "sha256": file_sha256(out),
            **made_with(made_by, tiles.fingerprint(), digests),
        },
    )
    return result


def _run_lengths(predictor: Predictor, tiles: ArrivingTiles, progress: bool) -> list[str]:
    """Return the run-lengths of every tile, all that is kept of the masks.

    The next tiles are decoded and the last masks encoded while the networks are at work.
    """
    found: list[Future[list[str]]] = []
    with (
        counting(len(tiles), "predicting", shown=progress) as advance,
        ThreadPoolExecutor(1) as encoder,
    ):
        for masks in predictor.stream_masks(tiles.images, tiles.z_feet):
            found.append(encoder.submit(encode_rle_many, masks))
            advance(len(masks))
    return [text for part in found for text in part.result()]


def predict_images(
    models: Sequence[Path],
    source: Path,
    out: Path,
    *,
    masks: bool = True,
    probs: bool = False,
    options: PredictOptions = AS_TRAINED,
    progress: bool = True,
) -> PredictResult:
    """Predict images of any sizes and write a PNG for each.

    Args:
        models: Model files; their probabilities are averaged. None: the packaged model.
        source: A PNG file, a folder or a zip of them.
        out: Folder for `masks/ID.png` (0 and 255) and `probs/ID.png` (16 bits, 65535 is 1).
        masks: Write masks.
        probs: Write probabilities.
        options: How the models are applied.
        progress: Show progress bars.

    Raises:
        DiapirError: A model or an image cannot be used, or a file cannot be written.
    """
    keep_freed_memory()
    predictor, _ = load_predictor(models, options)
    if predictor.needs_depth:
        raise DataError(
            "this model needs the depth of each tile, which images alone do not have",
            where=source,
            mend="Use 'diapir submit' on a data set with depths.csv, or another model.",
        )
    with sole_writer(out):
        return _predict_files(predictor, source, out, masks, probs, options, progress)


def _predict_files(
    predictor: Predictor,
    source: Path,
    out: Path,
    masks: bool,
    probs: bool,
    options: PredictOptions,
    progress: bool,
) -> PredictResult:
    layout = find_images(source)
    count, with_salt = 0, 0
    sizes: set[tuple[int, ...]] = set()
    with layout.source, counting(len(layout.images), "predicting", shown=progress) as advance:
        for file in layout.images.values():  # else a damaged one in the middle would leave half
            check_png(layout.source.read(file), layout.source.describe(file))
        for names, images in _same_sized(layout.source, layout.images, options.batch_size):
            sizes.add(images.shape[1:])
            # what comes is taken to be of one size until there is a second
            left = len(layout.images) - count if len(sizes) == 1 else len(names)
            predictor.expected = left * windows_of(*images.shape[1:])
            found = blend_sections(images, predictor.predict_probs)
            salt = predictor.make_masks(found)
            for name, values, mask in zip(names, found, salt, strict=True):
                if masks:
                    write_mask_png(out / "masks" / f"{name}.png", mask)
                if probs:
                    levels = np.round(values * 65535).astype(np.uint16)
                    write_bytes_atomic(out / "probs" / f"{name}.png", encode_png(levels))
            count += len(names)
            with_salt += int(salt.any(axis=(1, 2)).sum())
            advance(len(names))
    return PredictResult(count, with_salt)


def _same_sized(
    source: Source, files: dict[str, str], limit: int
) -> Iterator[tuple[list[str], NDArray[np.uint8]]]:
    """Yield ids and images in runs of one size, at most `limit` long."""
    names: list[str] = []
    images: list[NDArray[np.uint8]] = []
    for id_, file in files.items():
        image = read_grey(source.read(file), source.describe(file))
        if images and (len(images) == limit or image.shape != images[0].shape):
            yield names, np.stack(images)
            names, images = [], []
        names.append(id_)
        images.append(image)
    if images:
        yield names, np.stack(images)
