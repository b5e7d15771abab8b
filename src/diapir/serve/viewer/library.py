"""What a viewer was started with: data, salt, truth, models and the folder of labels."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from diapir.errors import DataError
from diapir.inference.sections import SectionSettings
from diapir.inference.volume import STORE
from diapir.io.layout import has_part
from diapir.io.stores import is_store
from diapir.serve.models import unique_names
from diapir.serve.viewer.labels import LabelFolder
from diapir.serve.viewer.models import ModelShelf
from diapir.serve.viewer.sources import SurveyPaths, SurveySource, open_survey
from diapir.serve.viewer.tiles import TileSource, open_tiles

Source = SurveySource | TileSource


@dataclass(frozen=True, eq=False)
class Library:
    """All that the pages of a viewer share.

    Args:
        sources: What can be looked at, by name.
        models: That can be asked.
        labels: Folder of the corrections; those of several sources lie in folders of their names.
    """

    sources: Mapping[str, Source]
    models: ModelShelf
    labels: Path
    _folders: dict[str, LabelFolder] = field(default_factory=dict, init=False)

    def label_folder(self, source: Source) -> LabelFolder:
        """Return where the corrections of a source are kept."""
        alone = len(self.sources) == 1
        path = self.labels if alone else self.labels / source.name
        return self._folders.setdefault(source.name, LabelFolder(path))

    def close(self) -> None:
        """Stop reading ahead."""
        for source in self.sources.values():
            source.close()


def open_library(
    paths: Sequence[Path],
    *,
    models: Sequence[Path] = (),
    salt: Path | None = None,
    truth: Path | None = None,
    labels: Path = Path("labels"),
    settings: SectionSettings = SectionSettings(),  # noqa: B008  # frozen
    options: Mapping[str, Any] | None = None,
    device: str = "auto",
    engine: str = "auto",
    precision: str = "auto",
) -> Library:
    """Open everything that a viewer shows.

    Args:
        paths: Folders of tiles, PNG images, SEG-Y files, Zarr stores, or folders of `diapir map`.
        models: Model files.
        salt: Folder of `diapir map`, for the only survey among the paths.
        truth: Survey of 0 and 1, likewise.
        labels: Folder for corrections.
        settings: How surveys are brought to the networks.
        options: For SEG-Y, see `open_volume`.
        device: 'auto', 'cpu' or 'cuda'.
        engine: What computes, see `PredictOptions`.
        precision: Likewise.

    Raises:
        DiapirError: Something cannot be read, or salt and truth are given for several surveys.
    """
    if not paths:
        raise DataError("there is nothing to view", mend="Give a file or a folder.")
    if (salt or truth) and len(paths) > 1:
        raise DataError(
            f"{len(paths)} paths, and one --salt or --truth",
            expected="one survey, where its salt or its truth is given",
            mend="View the surveys one by one, or give the folders of their maps as paths.",
        )
    shelf = ModelShelf(models, settings, device, engine=engine, precision=precision)
    sources = [_open(path, salt, truth, options) for path in paths]
    for source, name in zip(sources, unique_names(s.name for s in sources), strict=True):
        source.name = name
    return Library({source.name: source for source in sources}, shelf, labels)


def _open(
    path: Path, salt: Path | None, truth: Path | None, options: Mapping[str, Any] | None
) -> Source:
    if not path.exists():
        raise DataError("there is no such file or folder", where=path, mend="Check the path.")
    if _is_map(path):
        source, recorded = _source_of_map(path)
        options = options if recorded is None else recorded
        return open_survey(SurveyPaths(source, path, truth), options)
    if _is_tiles(path):
        return open_tiles(path)
    return open_survey(SurveyPaths(path, salt, truth), options)


def _is_map(path: Path) -> bool:
    return path.is_dir() and (path / STORE).is_dir() and (path / "map.json").is_file()


def _is_tiles(path: Path) -> bool:
    if path.is_file():
        return path.suffix.lower() == ".zip"
    return not is_store(path) and (has_part(path, "train") or has_part(path, "test"))


def _source_of_map(path: Path) -> tuple[Path, dict[str, Any] | None]:
    """Return what a map was made of, and how that was read, where the map says so."""
    table = path / "map.json"
    try:
        told = json.loads(table.read_text(encoding="utf-8"))
        opened = told.get("input")
        source = Path(told["source"] if opened is None else opened["path"])
        options = None if opened is None else dict(opened["options"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError("it does not say which survey it is a map of", where=table) from error
    if not source.exists():
        raise DataError(
            f"the survey that was mapped is not at {source}",
            where=table,
            mend="Give the survey as PATH, and this folder with --salt.",
        )
    return source, options
