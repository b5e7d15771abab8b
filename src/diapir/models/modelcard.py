"""What a model file says of its weights: the card in its header, read without the weights.

Whoever only reads the card, or has an engine of the network from an earlier run, needs no torch.
"""

import json
import math
import platform
import struct
import subprocess
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from diapir.config import Recipe, parse_recipe
from diapir.errors import DiapirError, ModelFileError
from diapir.models.maskrule import AS_THRESHOLDED, MaskRule
from diapir.models.pixels import PixelStatistics

FORMAT = 1
"""Version of the metadata of one network."""
LATEST_FORMAT = 2
"""A reader refuses files of a later one. Files of several networks, ensembles, have format 2."""
KEY = "diapir"
"""Of the metadata in the header."""

_LONGEST_HEADER = 1 << 24
"""Bytes; the card of half a million tiles. JSON takes many times its length once it is parsed."""
_LIBRARIES = ("diapir", "torch", "timm", "lightning", "numpy", "safetensors")


@dataclass(frozen=True)
class Normalisation:
    """What a network takes from its pixels and divides them by before anything else.

    Stored with the weights: where the recipe leaves it to the encoder, it is what timm says of it,
    which another version of timm may say otherwise.

    Args:
        mean: Of pixels in 0..1.
        std: Of pixels in 0..1.
    """

    mean: float
    std: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.mean) and math.isfinite(self.std) and self.std > 0):
            raise ValueError(f"a normalisation cannot be {self}")

    @classmethod
    def from_json(cls, table: dict[str, Any] | None) -> "Normalisation | None":
        """Return that of a table as `dataclasses.asdict` makes it; None for None.

        Raises:
            KeyError: Something is missing.
            ValueError: It says what cannot be.
        """
        if table is None:
            return None
        try:
            return cls(float(table["mean"]), float(table["std"]))
        except OverflowError as error:  # no ValueError, for Python
            raise ValueError(f"a normalisation cannot have this number: {error}") from error


@dataclass(frozen=True)
class ModelCard:
    """What a model file says of its weights.

    Args:
        recipe: Resolved recipe that trained them.
        threshold: Probability from which a pixel counts as salt, 0..1.
        metrics: What was measured, by name.
        data_fingerprint: SHA-256 over ids, pixels and masks of the labelled tiles.
        train_ids: Tiles that trained the weights.
        val_ids: Tiles that picked epoch and threshold.
        dropped_ids: Tiles that were left out of training as unfit for it, and so are no hold-out.
        versions: Of the libraries that trained.
        git: Commit of the source tree, where there is one.
        created: Time in UTC, ISO 8601.
        notes: Anything for the reader.
        pixels: What the training pixels look like; None: the file does not say it.
        rule: Calibration and clean-up of masks, beside the threshold.
        normalisation: Of the network in the file, which is asked when it is saved; None in files of
            several networks, each of which has its own, and of before it was stored.
    """

    recipe: Recipe
    threshold: float
    metrics: dict[str, float] = field(default_factory=dict)
    data_fingerprint: str = ""
    train_ids: tuple[str, ...] = ()
    val_ids: tuple[str, ...] = ()
    dropped_ids: tuple[str, ...] = ()
    versions: dict[str, str] = field(default_factory=dict)
    git: str | None = None
    created: str = ""
    notes: str = ""
    pixels: PixelStatistics | None = None
    rule: MaskRule = AS_THRESHOLDED
    normalisation: Normalisation | None = None

    def stamped(self) -> "ModelCard":
        """Return the card with versions and commit of this process, and the time of now."""
        versions = library_versions()
        now = datetime.now(UTC).isoformat(timespec="seconds")
        return replace(self, versions=versions, git=source_commit(), created=now)


def read_card(path: Path) -> ModelCard:
    """Return the card of a model file without its weights.

    Raises:
        ModelFileError: As in `load_model`.
    """
    return parse_card(path, read_table(path))


def parse_card(path: Path, table: dict[str, Any]) -> ModelCard:
    """Return the card that the metadata of a file, as `read_table` gives it, hold.

    Raises:
        ModelFileError: They hold none that can be used.
    """
    try:
        return _parse_card(path, table)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise broken(path, f"its metadata cannot be read ({type(error).__name__})") from error


def read_table(path: Path) -> dict[str, Any]:
    """Return the metadata of a file as it stands there, unchecked.

    Raises:
        ModelFileError: The file is missing, damaged or no Diapir model.
    """
    try:
        _check_header_length(path)
        with safe_open(path, "np") as file:
            metadata = file.metadata() or {}
    except (OSError, SafetensorError, ValueError) as error:
        raise unreadable(path, error) from error
    if KEY not in metadata:
        raise broken(path, "it is a safetensors file, but not a Diapir model")
    try:
        table = json.loads(metadata[KEY])
    except (ValueError, RecursionError) as error:
        raise broken(path, f"its metadata cannot be read ({type(error).__name__})") from error
    if not isinstance(table, dict):
        raise broken(path, "its metadata cannot be read (no table)")
    return table


def _check_header_length(path: Path) -> None:
    """Refuse a header that would take far more memory than any card needs.

    Source: safetensors format, first 8 bytes: length of the header, unsigned, little-endian.
    """
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8).ljust(8, b"\0"))
    if length > path.stat().st_size:
        raise broken(path, "it cannot be read as safetensors (it does not begin like one)")
    if length > _LONGEST_HEADER:
        raise broken(
            path,
            f"it cannot be read as safetensors (its header claims {length:,} bytes, at most "
            f"{_LONGEST_HEADER:,} are read)",
        )


def _parse_card(path: Path, table: dict[str, Any]) -> ModelCard:
    if table["format"] > LATEST_FORMAT:
        raise ModelFileError(
            f"the file has format {table['format']}, this Diapir reads up to {LATEST_FORMAT}",
            where=path,
            mend="Update Diapir.",
        )
    try:
        recipe = parse_recipe(table["recipe"], where=str(path))
    except DiapirError as error:
        raise unknown_recipe(path, "its recipe", error) from error
    threshold = float(table["threshold"])
    if not 0 < threshold < 1:
        raise broken(path, f"its threshold is {threshold}, not between 0 and 1")
    return ModelCard(
        recipe=recipe,
        threshold=threshold,
        metrics={str(k): float(v) for k, v in table["metrics"].items()},
        data_fingerprint=str(table["data_fingerprint"]),
        train_ids=tuple(map(str, table["train_ids"])),
        val_ids=tuple(map(str, table["val_ids"])),
        dropped_ids=tuple(map(str, table.get("dropped_ids", ()))),
        versions={str(k): str(v) for k, v in table["versions"].items()},
        git=None if table["git"] is None else str(table["git"]),
        created=str(table["created"]),
        notes=str(table["notes"]),
        pixels=None if table.get("pixels") is None else PixelStatistics.from_json(table["pixels"]),
        rule=MaskRule.from_json(table["rule"]) if "rule" in table else AS_THRESHOLDED,
        normalisation=Normalisation.from_json(table.get("normalisation")),
    )


def unreadable(path: Path, error: Exception) -> ModelFileError:
    """Return the error of a file that cannot be read, as its kind of trouble has it."""
    if not path.exists():
        return ModelFileError(
            "the model file does not exist",
            where=path,
            mend="Give the model.safetensors of a run folder, or train one with 'diapir train'.",
        )
    if path.is_dir():
        inside = path / "model.safetensors"
        mend = "Give the model file of a run folder."
        if inside.is_file():
            mend = f"Give {inside}."
        elif (path / "fold-0").is_dir():
            mend = f"Join its folds: diapir ensemble {path} --out {inside}"
        return ModelFileError(
            "this is a folder, not a model file",
            where=path,
            expected="a .safetensors file written by Diapir",
            mend=mend,
        )
    return broken(path, f"it cannot be read as safetensors ({error})")


def broken(path: Path, what: str) -> ModelFileError:
    """Return the error of a file that is no usable model."""
    return ModelFileError(
        f"not a usable model file: {what}",
        where=path,
        expected="a .safetensors file written by Diapir",
        mend="Copy the file again from where it was trained.",
    )


def unknown_recipe(path: Path, whose: str, error: DiapirError) -> ModelFileError:
    """Return the error of a file with a recipe that this Diapir does not know."""
    return ModelFileError(
        f"not a usable model file: {whose} is not valid: {error.what}",
        where=path,
        expected="a .safetensors file written by this Diapir, or by an earlier one",
        mend="Update Diapir, or copy the file again from where it was trained.",
    )


def library_versions() -> dict[str, str]:
    """Return the versions of Diapir, of the libraries that compute, and of Python."""
    versions = {name: version(name) for name in _LIBRARIES}
    return versions | {"python": platform.python_version()}


def source_commit() -> str | None:
    """Return the commit of the source tree that this package runs from, None where it has none.

    It is the one at which this process loaded the package: a commit that is made while a training
    runs had no part in it.
    """
    return _COMMIT


def _read_commit(source: Path) -> str | None:
    folder = source.parent
    # an environment may lie inside the repository of something else, which does not track this file
    commands = (["ls-files", "--error-unmatch", source.name], ["rev-parse", "HEAD"])
    found = ""
    for command in commands:
        git = ["git", "-C", str(folder), *command]
        try:
            done = subprocess.run(git, capture_output=True, text=True, timeout=5, check=True)  # noqa: S603
        except (OSError, subprocess.SubprocessError):
            return None
        found = done.stdout.strip()
    return found or None


_COMMIT = _read_commit(Path(__file__))
