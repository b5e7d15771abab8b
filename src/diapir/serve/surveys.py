"""The surveys in the folders that a service may read, by names that it makes itself."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from diapir.errors import DataError
from diapir.inference.volume import STORE
from diapir.io.stores import is_store
from diapir.serve.models import unique_names

Kind = Literal["segy", "store", "array", "picture"]

_KINDS: dict[str, Kind] = {
    ".sgy": "segy", ".segy": "segy", ".npy": "array", ".png": "picture",
}  # fmt: skip
_RANKS: tuple[Kind, ...] = ("segy", "store", "array", "picture")
"""The order of the list: folders of surveys often hold many pictures beside a few surveys."""

_MOST_ENTRIES, _DEEPEST = 50_000, 8
_MOST_STORE_FILES = 10_000

_OWN_OUTPUTS = {
    "map.json": {STORE, "probability.sgy", "mask.sgy", "figures"},
    "recipe.json": {"figures"},
    "finetune.json": {"figures"},
    "evaluation.json": {"figures"},
    "describe.json": {"samples.png", "coverage.png", "coverage-depth.png"},
    "mosaic.json": {"mosaics.png"},
}
"""What Diapir writes beside a file of this name, and nobody wants mapped."""


class SurveyInfo(BaseModel):
    """A survey or section that may be mapped."""

    name: str = Field(description="To be given to POST /jobs as it is.")
    kind: Kind
    size: int | None = Field(
        None, description=f"Bytes on disk; null of a store of over {_MOST_STORE_FILES:,} files."
    )


class SurveyQuery(BaseModel):
    """Which part of the list of surveys is wanted."""

    model_config = ConfigDict(extra="forbid")

    kind: Kind | None = Field(None, description="Only those of this kind.")
    limit: int = Field(100, ge=1, le=1000, description="How many at most.")
    offset: int = Field(0, ge=0, le=1 << 31, description="How many to pass over first.")


class SurveyList(BaseModel):
    """Surveys that may be mapped: SEG-Y first, then stores, arrays and pictures, each by name."""

    surveys: list[SurveyInfo]
    total: int = Field(description="How many there are, of the kind that was asked for.")
    left_out: int = Field(description="How many of them are not in this answer; see `offset`.")
    complete: bool = Field(
        description=f"False: the folders hold over {_MOST_ENTRIES:,} files; not all were looked at."
    )


class SurveyFolders:
    """Finds surveys by walking over the allowed folders.

    A name in a request is looked up among those that were found; no path is ever made of it.
    Symbolic links are not followed, as they may lead out of the folders.

    Args:
        folders: The allowed folders.

    Raises:
        DataError: One is no folder.
    """

    def __init__(self, folders: Sequence[Path]) -> None:
        for folder in folders:
            if not folder.is_dir():
                raise DataError(
                    "there is no such folder", where=folder, mend="Give folders of surveys."
                )
        resolved = [folder.resolve() for folder in folders]
        labels = unique_names(folder.name or "root" for folder in resolved)
        self._roots = dict(zip(labels, resolved, strict=True))

    @property
    def folders(self) -> list[Path]:
        """The allowed folders."""
        return list(self._roots.values())

    def find(self) -> dict[str, tuple[Path, SurveyInfo]]:
        """Return path and description of each survey by its name, without the sizes."""
        return self._look()[0]

    def page(self, query: SurveyQuery) -> SurveyList:
        """Return a part of the list, with the sizes."""
        found, complete = self._look()
        wanted = [one for one in found.values() if query.kind in (None, one[1].kind)]
        wanted.sort(key=lambda one: _RANKS.index(one[1].kind))  # names are in order already
        part = wanted[query.offset : query.offset + query.limit]
        return SurveyList(
            surveys=[info.model_copy(update={"size": _size(path)}) for path, info in part],
            total=len(wanted),
            left_out=len(wanted) - len(part),
            complete=complete,
        )

    def _look(self) -> tuple[dict[str, tuple[Path, SurveyInfo]], bool]:
        """Return what `find` does, and whether the walk came to its end."""
        found: dict[str, tuple[Path, SurveyInfo]] = {}
        left = _MOST_ENTRIES
        for label, root in self._roots.items():
            for path, kind in _walk(root, _DEEPEST):
                left -= 1
                if left < 0:
                    return dict(sorted(found.items())), False
                name = f"{label}/{path.relative_to(root).as_posix()}"
                if kind is not None and name.isprintable():
                    found[name] = path, SurveyInfo(name=name, kind=kind)
        return dict(sorted(found.items())), True


def _walk(folder: Path, depth: int) -> Iterator[tuple[Path, Kind | None]]:
    """Yield every visible file and folder but our own outputs, and what survey it is, if any."""
    try:
        with os.scandir(folder) as listed:
            entries = sorted(listed, key=lambda entry: entry.name)
    except OSError:  # one that may not be listed, or has just been removed
        return
    names = {entry.name for entry in entries}
    own = {out for mark in names & _OWN_OUTPUTS.keys() for out in _OWN_OUTPUTS[mark]}
    for entry in entries:
        if entry.name.startswith(".") or entry.name in own or entry.is_symlink():
            continue
        path = Path(entry.path)
        if not entry.is_dir(follow_symlinks=False):
            yield path, _KINDS.get(path.suffix.lower())
        elif is_store(path):
            yield path, "store"
        elif depth > 0:
            yield path, None
            yield from _walk(path, depth - 1)


def _size(path: Path) -> int | None:
    """Return the bytes of a file, or of all files in a store; None where that is not known."""
    try:
        if not path.is_dir():
            return path.stat().st_size
        total, left = 0, _MOST_STORE_FILES
        for folder, _, names in os.walk(path):  # which follows no links
            left -= len(names)
            if left < 0:
                return None
            total += sum((Path(folder) / name).lstat().st_size for name in names)
    except OSError:  # it has just been removed
        return None
    return total
