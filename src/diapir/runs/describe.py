"""Counts what is in a data set, and draws it."""

from pathlib import Path

from diapir.data.census import Census, census
from diapir.io.layout import present_parts
from diapir.io.lock import sole_writer
from diapir.io.tiles import read_tiles
from diapir.runs.folder import write_json
from diapir.runs.report import save_data_figures

PART_NAMES = {"train": "labelled", "test": "test"}
"""What people call the parts of a data set."""


def describe_data(
    data: Path, out: Path | None = None, *, progress: bool = True
) -> dict[str, Census]:
    """Return the counts of each part of a data set, 'labelled' and 'test' where it is there.

    Args:
        data: See `read_tiles`.
        out: Folder that takes `describe.json`, and figures of labelled tiles; None: nothing is
            written.
        progress: Show a bar.

    Raises:
        DataError: The data cannot be read.
        RunError: A file cannot be written.
    """
    tiles = {part: read_tiles(data, part, progress=progress) for part in present_parts(data)}
    found = {PART_NAMES[part]: census(of_part) for part, of_part in tiles.items()}
    if out is not None:
        with sole_writer(out):
            if "train" in tiles:
                save_data_figures(tiles["train"], out)
            write_json(out / "describe.json", {part: found[part].to_dict() for part in found})
    return found
