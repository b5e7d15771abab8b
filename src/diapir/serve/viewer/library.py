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
from diapir.serve.viewer.blocks import KeptBlocks
from diapir.serve.viewer.labels import LabelFolder, read_record
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
        if not self._folders:
            self._find_folders()
        return self._folders[source.name]

    def close(self) -> None:
        """Stop reading ahead."""
        for source in self.sources.values():
            source.close()

    def _find_folders(self) -> None:
        if len(self.sources) == 1:
            for name, source in self.sources.items():
                self._folders[name] = LabelFolder(self.labels, source.most_samples)
            return
        known = {name: _identity(source) for name, source in self.sources.items()}
        for name, path in _label_paths(self.labels, known).items():
            most = self.sources[name].most_samples
            self._folders[name] = LabelFolder(path, most, known[name])


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
    kept = KeptBlocks()
    sources = [_open(path, salt, truth, options, kept) for path in paths]
    for source, name in zip(sources, unique_names(s.name for s in sources), strict=True):
        source.name = name
    return Library({source.name: source for source in sources}, shelf, labels)


def _open(
    path: Path,
    salt: Path | None,
    truth: Path | None,
    options: Mapping[str, Any] | None,
    kept: KeptBlocks,
) -> Source:
    if not path.exists():
        raise DataError("there is no such file or folder", where=path, mend="Check the path.")
    if _is_map(path):
        if salt is not None:
            raise DataError(
                "--salt beside the folder of a map, which has its own",
                where=path,
                mend="Leave out --salt, or give the survey itself as PATH.",
            )
        source, recorded = _source_of_map(path)
        options = options if recorded is None else recorded
        return open_survey(SurveyPaths(source, path, truth), options, kept)
    if _is_tiles(path):
        if salt is not None or truth is not None:
            raise DataError(
                "tiles take neither --salt nor --truth",
                where=path,
                expected="a survey, a line or a picture",
                mend="Leave them out: masks beside the images are the truth of tiles.",
            )
        return open_tiles(path)
    return open_survey(SurveyPaths(path, salt, truth), options, kept)


def _label_paths(labels: Path, known: Mapping[str, Mapping[str, str]]) -> dict[str, Path]:
    """Return the folder of the labels of each of several sources.

    Names of sources go by the order in which they were given, so the record in a folder decides.
    Whose labels no record names gets a folder under its name that is no other's.

    Args:
        labels: Folder of them all.
        known: Names of the sources, with their `_identity`.
    """
    records = _records(labels)
    found: dict[str, Path] = {}
    for what in ("fingerprint", "source"):  # a file may have been moved, or written anew
        taken = set(found.values())
        for name in [name for name in known if name not in found]:
            own = [f for f, r in records.items() if r.get(what) == known[name][what]]
            own = [f for f in own if f not in taken]
            if own:
                found[name] = next((f for f in own if f.name == name), own[0])
    for name in [name for name in known if name not in found]:
        folder, number = labels / name, 1
        while folder in records or folder in found.values():
            number += 1
            folder = labels / f"{name}-{number}"
        found[name] = folder
    return found


def _identity(source: Source) -> dict[str, str]:
    """Return by what the labels of a source know it again."""
    if isinstance(source, TileSource):
        path, fingerprint = source.path, source.tiles.fingerprint()
    else:
        path, fingerprint = source.paths.source, str(source.volume.attrs.get("fingerprint", ""))
    return {"source": str(path.resolve()), "fingerprint": fingerprint}


def _records(labels: Path) -> dict[Path, dict[str, Any]]:
    """Return the folders of labels that say whose they are, by name."""
    if not labels.is_dir():
        return {}
    read = {folder: read_record(folder) for folder in sorted(labels.iterdir()) if folder.is_dir()}
    return {folder: record for folder, record in read.items() if record is not None}


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
