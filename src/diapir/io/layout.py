"""Where the images, masks and tables of a data set lie: zips, unzipped folders, plain folders."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal, get_args

from diapir.errors import DataError
from diapir.io.csv_tables import read_rows
from diapir.io.sources import FolderSource, Source, open_source

Part = Literal["train", "test"]
_Wanted = Literal["train", "test", "any"]


@dataclass(frozen=True)
class Layout:
    """The files of one part of a data set.

    Args:
        source: What holds the images and masks; the owner of the layout closes it.
        images: File name of the image of each id, sorted by id.
        masks: File name of the mask of each id, sorted by id; None where there are no mask files
            or the part has no labels.
        tables: The folder in which ``train.csv`` and ``depths.csv`` are looked for.
    """

    source: Source
    images: dict[str, str]
    masks: dict[str, str] | None
    tables: Path

    @property
    def depths(self) -> Path:
        """The table of depths, which need not be there."""
        return self.tables / "depths.csv"


def find_layout(path: Path, part: Part) -> Layout:
    """Return where the files of `part` are.

    Args:
        path: The competition's folder with ``train.zip`` / ``test.zip`` or with these unzipped; a
            folder or zip with ``images/`` and, for training, ``masks/`` or ``train.csv``; for the
            test part also a folder or zip of images, or one image. All may lie in one folder more,
            as a zip of a folder has it. Unzipped folders go before zips.
        part: ``"train"`` or ``"test"``.

    Raises:
        DataError: Nothing that fits is there, it holds no images, or two files share an id.
    """
    return _find(path, part)


def find_images(path: Path) -> Layout:
    """Return where images to predict are: those of the test part, or else in ``images/``.

    Args:
        path: As in `find_layout`; images beside ``masks/`` will do.

    Raises:
        DataError: As in `find_layout`.
    """
    return _find(path, "any")


def _find(path: Path, part: _Wanted) -> Layout:
    try:
        source, folder, tables = _choose(path, part)
    except OSError as error:
        raise DataError(
            f"cannot read: {error.strerror or error}",
            where=path,
            mend="Check the path and the permission to read it.",
        ) from error
    try:
        return _list_files(source, folder, tables, part)
    except BaseException:
        source.close()
        raise


def has_part(path: Path, part: Part) -> bool:
    """Return whether there are files of this part.

    Raises:
        DataError: There are, but they cannot be listed or two share an id.
    """
    return _look_for(path, part) is not None


def _look_for(path: Path, part: Part) -> Layout | None:
    """Return the layout of a part that is there, its source closed; None where there is none."""
    try:
        found = find_layout(path, part)
    except _NothingFoundError:
        return None
    found.source.close()
    return found


def present_parts(path: Path) -> list[Part]:
    """Return the parts of a data set that are there, at least one.

    Images that could be either part are the training part with labels, else the test part.

    Args:
        path: As in `find_layout`.

    Raises:
        DataError: There is neither.
    """
    looked = {part: _look_for(path, part) for part in get_args(Part)}
    found: dict[Part, Layout] = {part: one for part, one in looked.items() if one is not None}
    if not found:
        find_layout(path, "train").source.close()  # which says what is missing
    if len(found) == 2 and _is_one(*found.values()):
        return ["train" if _has_labels(found["train"]) else "test"]
    return list(found)


def _has_labels(train: Layout) -> bool:
    table = train.tables / "train.csv"
    if train.masks or not table.exists():
        return bool(train.masks)
    return not train.images.keys().isdisjoint(row.id for row in read_rows(table))


def _is_one(first: Layout, second: Layout) -> bool:
    return (first.source.path, first.images) == (second.source.path, second.images)


class _NothingFoundError(DataError):
    """There are no images of the part."""


def index_files(source: Source, names: Sequence[str]) -> dict[str, str]:
    """Return the PNG files by id (the name without folder and suffix), sorted by id.

    Raises:
        DataError: Two files share an id, or a name is not in UTF-8.
    """
    by_id: dict[str, str] = {}
    for name in names:
        file = PurePosixPath(name)
        if file.suffix.lower() != ".png":
            continue
        if not file.name.isascii():
            _check_utf8(file.name, source)
        if file.stem in by_id:
            raise DataError(
                f"duplicate id {file.stem!r}",
                where=f"{source.describe(by_id[file.stem])} and {file.name}",
                expected="one image for each id",
                mend="Remove one of the files.",
            )
        by_id[file.stem] = name
    return dict(sorted(by_id.items()))


def _check_utf8(name: str, source: Source) -> None:
    try:
        name.encode()
    except UnicodeEncodeError as error:  # Python stands in surrogates for bytes that are no text
        raise DataError(
            f"the file name {name!a} is not in UTF-8",
            where=source.path,
            expected="names that tables and reports can hold",
            mend="Rename the file.",
        ) from error


def _choose(path: Path, part: _Wanted) -> tuple[Source, str, Path]:
    """Return the source, the folder inside it that holds the images, and the tables' folder."""
    if not path.exists():
        raise _NothingFoundError(
            "no such folder or file", where=path, mend="Check the path of the data."
        )
    if path.is_file():
        if part != "train" and path.suffix.lower() == ".png":
            return _OneFile(path), "", path.parent
        return _choose_inside(open_source(path), part, path.parent)
    unzipped, name = FolderSource(path), "train" if part == "train" else "test"
    for top in ("", *_wrapping(unzipped)):
        packed, folder = path / top / f"{name}.zip", _joined(top, name)
        if packed.is_file() and not (unzipped.names(f"{folder}/images") or unzipped.names(folder)):
            return _choose_inside(open_source(packed), part, path / top)
    return _choose_inside(unzipped, part, path)


def _choose_inside(source: Source, part: _Wanted, tables: Path) -> tuple[Source, str, Path]:
    try:
        folders: list[str] = []
        for top in ("", *_wrapping(source)):
            beside = tables / top if isinstance(source, FolderSource) else tables
            for folder in _candidates(source, part, top):
                if any(name.lower().endswith(".png") for name in source.names(folder)):
                    return source, folder, beside
                folders.append(folder)
        raise _nothing_found(source, folders, part)
    except BaseException:
        source.close()
        raise


def _wrapping(source: Source) -> list[str]:
    """Return the one folder around all, as a zip of a folder has it, if there is one."""
    folders = source.folders()
    around = len(folders) == 1 and folders[0] not in _OWN_FOLDERS
    return folders if around and _OWN_FILES.isdisjoint(source.names("")) else []


_OWN_FOLDERS = ("train", "test", "images", "masks")
_OWN_FILES = {"train.zip", "test.zip", "train.csv", "depths.csv", "sample_submission.csv"}
"""Beside these a folder is no more than another folder, such as one of figures."""


def _candidates(source: Source, part: _Wanted, top: str) -> list[str]:
    """Return the folders inside `top` that may hold the images, the best first."""
    if part == "train":
        found = ["train/images", "images"]
    else:
        usable = part == "any" or not _labelled(source, top)
        found = ["test/images", "test", *(["images"] if usable else []), ""]
    return [_joined(top, folder) for folder in found]


def _labelled(source: Source, top: str) -> bool:
    """Return whether images/ has labels: masks, or the table of a data set by itself."""
    files = source.names(top)
    elsewhere = _joined(top, "train.zip") in files or source.names(_joined(top, "train/images"))
    # the table of a zip lies beside it, and tells of the zip of the training part
    inside = isinstance(source, FolderSource) and _joined(top, "train.csv") in files
    table = inside and not elsewhere
    return table or bool(source.names(_joined(top, "masks")))


def _joined(top: str, name: str) -> str:
    return "/".join(part for part in (top, name) if part)


def _nothing_found(source: Source, folders: list[str], part: _Wanted) -> DataError:
    wanted = "" if part == "any" else f"{part} "
    others = [name for folder in folders for name in source.names(folder)]
    return _NothingFoundError(
        f"no {wanted}images" + (f"; found other files, such as {others[0]}" if others else ""),
        where=source.path,
        expected="a PNG file, or a folder or zip of them, or with them in images/"
        if part == "any"
        else f"{part}.zip, or PNG files in " + ", ".join(f"{f}/" for f in folders if f),
        mend="Check the path of the data; images must be PNG.",
    )


def _list_files(source: Source, folder: str, tables: Path, part: _Wanted) -> Layout:
    images = index_files(source, source.names(folder))
    masks = None
    if part == "train":
        masks = index_files(source, source.names(f"{folder.removesuffix('images')}masks"))
    return Layout(source, images, masks or None, tables)


class _OneFile(FolderSource):
    """A single image, seen as a folder that holds nothing else."""

    def __init__(self, path: Path) -> None:
        super().__init__(path.parent)
        self._name = path.name

    def names(self, folder: str) -> list[str]:
        return [] if folder else [self._name]
