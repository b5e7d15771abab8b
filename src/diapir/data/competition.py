"""Writes tiles in the layout of the competition's own download."""

import csv
import os
import secrets
import shutil
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from diapir.errors import DataError, RunError
from diapir.io.csv_tables import DEPTHS_HEADER, RLE_HEADER
from diapir.io.images import encode_mask_png, encode_png
from diapir.io.rle import encode_rle_many
from diapir.io.tiles import Tiles


def write_competition(folder: Path, train: Tiles, test: Tiles, *, zipped: bool = False) -> None:
    """Write labelled and unlabelled tiles as a competition download, whole or not at all.

    The folder gets ``train/images``, ``train/masks`` (16-bit) and ``test/images``, or
    ``train.zip`` and ``test.zip``; ``train.csv`` with the masks as run-lengths; ``depths.csv``
    where both parts have depths; and ``sample_submission.csv``.

    Args:
        folder: A folder that does not exist yet or is empty.
        train: Labelled tiles.
        test: Tiles whose masks, if they have any, are left out.
        zipped: Write the two zip files in place of the folders.

    Raises:
        DataError: The training tiles have no masks, or a tile occurs in both parts.
        RunError: The folder is in use or cannot be written.
    """
    _check_parts(train, test)
    _check_free(folder)
    target = Path(os.path.realpath(folder))
    temporary = target.with_name(f".{target.name[:80]}-{secrets.token_hex(6)}")
    try:
        temporary.mkdir(parents=True)
        write_files = _write_zip if zipped else _write_folder
        write_files(temporary / "train", _train_files(train))
        write_files(temporary / "test", _image_files(test))
        _write_tables(temporary, train, test)
        temporary.replace(target)
    except OSError as error:
        raise RunError(
            f"cannot write the data set: {error.strerror or error}",
            where=folder,
            mend="Choose another place.",
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _check_parts(train: Tiles, test: Tiles) -> None:
    if train.masks is None:
        raise DataError(
            "the training tiles have no masks", where=train.source, mend="Give labelled tiles."
        )
    shared = sorted(set(train.ids) & set(test.ids))
    if shared:
        raise DataError(
            f"{len(shared)} of the test tiles are training tiles too, first {shared[0]}",
            where=test.source,
            expected="ids that occur once",
            mend="Generate the two parts from different seeds.",
        )


def _check_free(folder: Path) -> None:
    try:
        used = folder.exists() and (not folder.is_dir() or any(folder.iterdir()))
    except OSError as error:
        raise RunError(f"cannot read the folder: {error.strerror}", where=folder) from error
    if used:
        raise RunError(
            "there is something at this place already",
            where=folder,
            expected="a new or an empty folder",
            mend="Choose another name or remove what is there.",
        )


def _image_files(tiles: Tiles) -> Iterator[tuple[str, bytes]]:
    for id_, image in zip(tiles.ids, tiles.images, strict=True):
        yield f"images/{id_}.png", encode_png(image)


def _train_files(tiles: Tiles) -> Iterator[tuple[str, bytes]]:
    yield from _image_files(tiles)
    if tiles.masks is not None:
        for id_, mask in zip(tiles.ids, tiles.masks, strict=True):
            yield f"masks/{id_}.png", encode_mask_png(mask, bits=16)


def _write_folder(place: Path, files: Iterator[tuple[str, bytes]]) -> None:
    for name, data in files:
        path = place / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def _write_zip(place: Path, files: Iterator[tuple[str, bytes]]) -> None:
    # stored, because PNG is compressed already; without dates, so that equal data give equal files
    with zipfile.ZipFile(place.with_suffix(".zip"), "w", zipfile.ZIP_STORED) as archive:
        for name, data in files:
            archive.writestr(zipfile.ZipInfo(name), data)


def _write_tables(place: Path, train: Tiles, test: Tiles) -> None:
    if train.masks is not None:
        rows = zip(train.ids, encode_rle_many(train.masks), strict=True)
        _write_csv(place / "train.csv", RLE_HEADER, list(rows))
    if train.z_feet is not None and test.z_feet is not None:
        parts = ((train.ids, train.z_feet), (test.ids, test.z_feet))
        depths = [(i, f"{z:g}") for ids, feet in parts for i, z in zip(ids, feet, strict=True)]
        _write_csv(place / "depths.csv", DEPTHS_HEADER, depths)
    sample = [(id_, "1 1") for id_ in test.ids]
    _write_csv(place / "sample_submission.csv", RLE_HEADER, sample)


def _write_csv(path: Path, header: tuple[str, str], rows: Sequence[tuple[str, str]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)
