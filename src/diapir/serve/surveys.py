"""The surveys in the folders that a service may read, by names that it makes itself."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, Field

from diapir.errors import DataError
from diapir.serve.models import unique_names

_KINDS: dict[str, Literal["segy", "array", "picture"]] = {
    ".sgy": "segy", ".segy": "segy", ".npy": "array", ".png": "picture",
}  # fmt: skip
_STORES = ("zarr.json", ".zgroup", ".zmetadata")
_MOST_ENTRIES, _DEEPEST = 50_000, 8


class SurveyInfo(BaseModel):
    """A survey or section that may be mapped."""

    name: str = Field(description="To be given to POST /jobs as it is.")
    kind: Literal["segy", "store", "array", "picture"]


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

    def find(self) -> dict[str, tuple[Path, SurveyInfo]]:
        """Return path and description of each survey by its name."""
        found: dict[str, tuple[Path, SurveyInfo]] = {}
        left = _MOST_ENTRIES
        for label, root in self._roots.items():
            for path, kind in _walk(root, _DEEPEST):
                left -= 1
                name = f"{label}/{path.relative_to(root).as_posix()}"
                if left < 0:
                    return found
                if kind is not None and name.isprintable():
                    found[name] = path, SurveyInfo(name=name, kind=kind)
        return dict(sorted(found.items()))


def _walk(
    folder: Path, depth: int
) -> Iterator[tuple[Path, Literal["segy", "store", "array", "picture"] | None]]:
    """Yield every visible file and folder, and what survey it is, if any."""
    try:
        with os.scandir(folder) as listed:
            entries = sorted(listed, key=lambda entry: entry.name)
    except OSError:  # one that may not be listed, or has just been removed
        return
    for entry in entries:
        if entry.name.startswith(".") or entry.is_symlink():
            continue
        path = Path(entry.path)
        if not entry.is_dir(follow_symlinks=False):
            yield path, _KINDS.get(path.suffix.lower())
        elif any((path / name).is_file() for name in _STORES):
            yield path, "store"
        elif depth > 0:
            yield path, None
            yield from _walk(path, depth - 1)
