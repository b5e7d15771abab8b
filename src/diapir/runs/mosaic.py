"""Finds the sections that a data set's tiles were cut from, and writes them out."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diapir.data.mosaic import Mosaic, Mosaics, cut_agreement, find_mosaics, seam_agreement
from diapir.errors import DataError, OptionError
from diapir.io.atomic import write_bytes_atomic, write_text_atomic
from diapir.io.csv_tables import GROUPS_HEADER
from diapir.io.images import encode_png
from diapir.io.layout import has_part
from diapir.io.lock import sole_writer
from diapir.io.tiles import Tiles, read_tiles
from diapir.report.figures import save_figure
from diapir.report.figures_mosaic import mosaic_sheet
from diapir.report.markdown import markdown_table
from diapir.runs.folder import write_json
from diapir.runs.machine import command_line, describe_machine

_SHOWN = 12
_NO_TILE = 255
_TINT = (230, 159, 0)  # the house's colour for outlines of salt


@dataclass(frozen=True, eq=False)
class MosaicResult:
    """What `write_mosaics` found and wrote.

    Args:
        tiles: All tiles, labelled ones first.
        labelled: (N,) which have a mask.
        found: The mosaics.
        evidence: Numbers that tell how far the mosaics can be trusted.
        files: Written, in the order of making.
        warning: Why the test part was left out, if it was.
    """

    tiles: Tiles
    labelled: NDArray[np.bool_]
    found: Mosaics
    evidence: dict[str, Any]
    files: tuple[Path, ...]
    warning: str | None


def write_mosaics(
    data: Path, out: Path, *, false_share: float = 0.02, progress: bool = True
) -> MosaicResult:
    """Find which tiles are neighbours and write sections, groups and evidence.

    Leaves in `out`: `groups.csv` (id,group; for `split.groups`), `mosaics.csv`
    (id,mosaic,row,column), `sections/NUMBER.png` with the salt of labelled tiles tinted,
    `mosaics.png` with some of the largest, and the evidence as `mosaic.json` and `mosaic.md`.

    Args:
        data: A data set; its test tiles are taken along where there are any.
        out: A folder.
        false_share: Of the pairs that may be false, 0..1.
        progress: Show progress bars.

    Raises:
        DiapirError: The data cannot be read, or a file cannot be written.
    """
    if not 0 < false_share < 1:
        raise OptionError(
            f"a false share of {false_share:g}", "false_share", expected="above 0, below 1"
        )
    with sole_writer(out):
        return _write_mosaics(data, out, false_share, progress)


def _write_mosaics(data: Path, out: Path, false_share: float, progress: bool) -> MosaicResult:
    tiles, labelled, warning = read_all(data, progress=progress)
    started = time.process_time()
    found = find_mosaics(tiles.images, false_share=false_share)
    seconds = time.process_time() - started
    evidence = {**gather_evidence(found, tiles, labelled), "processor_seconds": round(seconds, 1)}
    files = [out / "groups.csv", out / "mosaics.csv"]
    write_text_atomic(files[0], _groups_csv(found, tiles.ids))
    write_text_atomic(files[1], _mosaics_csv(found, tiles.ids))
    for number, mosaic in enumerate(found.mosaics):
        files.append(out / "sections" / f"{number:03d}.png")
        write_bytes_atomic(files[-1], encode_png(paint(mosaic, tiles, labelled)))
    if found.mosaics:
        files.append(out / "mosaics.png")
        some = _shown(found, tiles)
        pictures = [paint(found.mosaics[k], tiles, labelled) for k in some]
        names = [f"{k}: {len(found.mosaics[k])} tiles" for k in some]
        save_figure(mosaic_sheet(pictures, names), files[-1])
    for path in {*(out / "sections").glob("*.png"), out / "mosaics.png"} - set(files):
        path.unlink(missing_ok=True)  # of other mosaics, that were here before
    files.append(out / "mosaic.json")
    about = {"command": command_line(), "machine": describe_machine(), "data": str(data.name)}
    write_json(files[-1], {**evidence, **about})
    files.append(out / "mosaic.md")
    write_text_atomic(files[-1], _markdown(evidence, about["command"]))
    return MosaicResult(tiles, labelled, found, evidence, tuple(files), warning)


def _shown(found: Mosaics, tiles: Tiles) -> list[int]:
    """Return the numbers of the largest mosaics and of the largest with known salt."""
    salty = [k for k, m in enumerate(found.mosaics) if tiles.truth[m.tiles].any()]
    largest = [k for k in range(len(found.mosaics)) if k not in salty[: _SHOWN // 2]]
    return sorted(salty[: _SHOWN // 2] + largest[: _SHOWN - len(salty[: _SHOWN // 2])])


def read_all(data: Path, *, progress: bool = False) -> tuple[Tiles, NDArray[np.bool_], str | None]:
    """Return labelled and test tiles as one, and which are labelled; the others' masks are 0.

    Returns:
        The tiles, (N,) bool, and why there is a test part but not among them, if that is so.

    Raises:
        DataError: The data cannot be read.
    """
    train = read_tiles(data, "train", progress=progress)
    everything = np.ones(len(train), np.bool_)
    if not has_part(data, "test"):
        return train, everything, None
    test = read_tiles(data, "test", progress=progress)
    try:
        joined = train.joined(replace(test, masks=np.zeros_like(test.images)))
    except DataError as error:
        return train, everything, f"test tiles are left out: {error.what}"
    return joined, np.arange(len(joined)) < len(train), None


def gather_evidence(found: Mosaics, tiles: Tiles, labelled: NDArray[np.bool_]) -> dict[str, Any]:
    """Return how many mosaics there are, and everything that speaks for or against them."""
    kinds = [labelled[mosaic.tiles] for mosaic in found.mosaics]
    return {
        "tiles": found.tiles,
        "mosaics": len(found.mosaics),
        "tiles_in_mosaics": found.joined,
        "largest": len(found.mosaics[0]) if found.mosaics else 0,
        "mosaics_with_labelled_and_test_tiles": sum(bool(k.any() and not k.all()) for k in kinds),
        "labelled_tiles_with_a_labelled_neighbour": _labelled_side_by_side(found, labelled),
        "pairs_dropped_as_contradictions": found.dropped,
        "squares_closed": found.loops,
        "squares_open": found.open_loops,
        "directions": {s.direction: _seam_evidence(s, tiles, labelled) for s in found.seams},
    }


def _labelled_side_by_side(found: Mosaics, labelled: NDArray[np.bool_]) -> int:
    pairs = np.concatenate([np.stack([s.first, s.second], axis=1) for s in found.seams])
    return len(np.unique(pairs[labelled[pairs].all(axis=1)]))


def _seam_evidence(seams: Any, tiles: Tiles, labelled: NDArray[np.bool_]) -> dict[str, Any]:
    pairs, salty, agreement = seam_agreement(seams, tiles.truth, labelled)
    evidence = {
        "pairs": len(seams),
        "least_margin": seams.limit,
        "mirrored_pairs_above_it": seams.strangers,
        "estimated_false_share": seams.strangers / len(seams) if len(seams) else 0.0,
        "labelled_pairs": pairs,
        "labelled_pairs_with_salt_at_the_seam": salty,
        "mask_iou_across_seams": agreement,
        "mask_iou_across_cuts_inside_tiles": cut_agreement(tiles.truth[labelled], seams),
    }
    if tiles.z_feet is not None and len(seams):
        same = tiles.z_feet[seams.first] == tiles.z_feet[seams.second]
        _, counts = np.unique(tiles.z_feet, return_counts=True)
        evidence["pairs_with_equal_depths"] = float(same.mean())
        evidence["equal_depths_by_chance"] = float(((counts / len(tiles)) ** 2).sum())
    return evidence


def paint(mosaic: Mosaic, tiles: Tiles, labelled: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Return a section as (H, W, 3) uint8: known salt tinted, white where there is no tile."""
    grey = np.asarray(mosaic.join(tiles.images, _NO_TILE), np.float32)
    masks = tiles.truth * labelled[:, None, None].astype(np.uint8)
    salt = np.asarray(mosaic.join(masks), np.float32)[..., None] * 0.45
    picture = grey[..., None] * (1 - salt) + np.array(_TINT, np.float32) * salt
    painted: NDArray[np.uint8] = np.rint(picture).astype(np.uint8)
    return painted


def evidence_rows(
    evidence: dict[str, Any],
) -> tuple[list[tuple[str, object]], tuple[str, ...], list[tuple[object, ...]]]:
    """Return the evidence as rows: of all mosaics; then columns and rows of pairs by direction."""
    rows = [(_words(k), v) for k, v in evidence.items() if not isinstance(v, dict)]
    sides = evidence["directions"]
    names = dict.fromkeys(name for side in sides.values() for name in side)
    pairs: list[tuple[object, ...]] = [
        (_words(name), *(side.get(name, "") for side in sides.values())) for name in names
    ]
    return rows, ("pairs", *sides), pairs


def _words(name: str) -> str:
    return name.replace("_", " ").replace("iou", "IoU")


def _markdown(evidence: dict[str, Any], command: str) -> str:
    rows, columns, pairs = evidence_rows(evidence)
    counts = markdown_table(("what", "count"), [list(map(_cell, row)) for row in rows])
    sides = markdown_table(columns, [list(map(_cell, row)) for row in pairs])
    return "\n".join(["```", command, "```", "", *counts, "", *sides]) + "\n"


def _cell(value: object) -> str:
    if isinstance(value, float):
        return "-" if value != value else f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _groups_csv(found: Mosaics, ids: Sequence[str]) -> str:
    rows = [f"{id_},{group}" for id_, group in zip(ids, found.groups().tolist(), strict=True)
            if group >= 0]  # fmt: skip
    return "\n".join([",".join(GROUPS_HEADER), *rows]) + "\n"


def _mosaics_csv(found: Mosaics, ids: Sequence[str]) -> str:
    rows = [
        f"{ids[tile]},{number},{row},{column}"
        for number, mosaic in enumerate(found.mosaics)
        for tile, row, column in zip(
            mosaic.tiles.tolist(), mosaic.row.tolist(), mosaic.column.tolist(), strict=True
        )
    ]
    return "\n".join(["id,mosaic,row,column", *rows]) + "\n"
