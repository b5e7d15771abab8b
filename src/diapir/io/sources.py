"""One way to list and read files, be they in a folder or in a zip that stays packed."""

import lzma
import os
import struct
import threading
import zipfile
import zlib
from abc import ABC, abstractmethod
from pathlib import Path
from types import TracebackType
from typing import Self

from diapir.errors import DataError

MAX_FILE_BYTES = 1 << 27
"""Larger files are refused: no image of `images.MAX_PIXELS` pixels needs more."""

_UNPACKED_IN_STEPS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
"""Methods that zipfile unpacks piece by piece; with others a small entry may fill the memory."""

_MAC_FOLDER = "__MACOSX"
"""Holds what macOS adds to the files of a zip."""

# What zipfile lets through on damaged input. RuntimeError: encrypted; NotImplementedError, a kind
# of it: unknown compression; struct.error: an entry cut off inside its header.
_ZIP_ERRORS = (
    OSError, EOFError, KeyError, ValueError, RuntimeError, OverflowError, struct.error,
    zipfile.BadZipFile, zlib.error, lzma.LZMAError,
)  # fmt: skip


class Source(ABC):
    """Files of a folder or a zip by names with forward slashes; use it as a context manager.

    Args:
        path: The folder or the zip.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @abstractmethod
    def names(self, folder: str) -> list[str]:
        """Return the names of the visible files right inside `folder`, sorted.

        Args:
            folder: Such as ``"train/images"``; ``""`` is the top. One that is not there is empty.

        Returns:
            Full names, such as ``"train/images/a.png"``. A zip may hold a name twice.

        Raises:
            DataError: The folder cannot be listed.
        """

    @abstractmethod
    def folders(self) -> list[str]:
        """Return the names of the visible folders at the top, sorted.

        Raises:
            DataError: They cannot be listed.
        """

    @abstractmethod
    def read(self, name: str, most: int | None = None) -> bytes:
        """Return the bytes of a file; any number of threads may read at once.

        Args:
            name: As `names` returns it.
            most: Bytes from which on files are refused; None: `MAX_FILE_BYTES`.

        Raises:
            DataError: The file is not there, is too large, or cannot be read.
        """

    def describe(self, name: str) -> str:
        """Return where `name` is, for error messages."""
        return str(self.path / name)

    def close(self) -> None:
        """Let go of the files."""
        return

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _check_size(self, name: str, size: int, most: int | None) -> None:
        most = MAX_FILE_BYTES if most is None else most
        if size > most:
            raise DataError(
                f"the file has {size:,} bytes",
                where=self.describe(name),
                expected=f"at most {most:,} bytes",
                mend="Cut the image into tiles.",
            )


class FolderSource(Source):
    """The files of a folder.

    Args:
        path: The folder.
    """

    def names(self, folder: str) -> list[str]:
        """Return the names of the visible files right inside `folder`, sorted."""
        prefix = f"{folder}/" if folder else ""
        try:
            with os.scandir(self.path / folder) as entries:
                return sorted(prefix + e.name for e in entries if e.name[0] != "." and e.is_file())
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            raise self._unreadable(folder, error) from error

    def folders(self) -> list[str]:
        """Return the names of the visible folders at the top, sorted."""
        try:
            with os.scandir(self.path) as entries:
                return sorted(e.name for e in entries if _visible(e.name) and e.is_dir())
        except OSError as error:
            raise self._unreadable("", error) from error

    def read(self, name: str, most: int | None = None) -> bytes:
        """Return the bytes of a file."""
        try:
            with (self.path / name).open("rb", buffering=0) as file:
                self._check_size(name, os.fstat(file.fileno()).st_size, most)
                return file.read()
        except OSError as error:
            raise self._unreadable(name, error) from error

    def _unreadable(self, name: str, error: OSError) -> DataError:
        return DataError(
            f"cannot read: {error.strerror or error}",
            where=self.describe(name),
            mend="Check the path and the permission to read it.",
        )


class ZipSource(Source):
    """The files of a zip, read in place.

    Args:
        path: The zip.

    Raises:
        DataError: The zip cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        try:
            self._zip = zipfile.ZipFile(path)
        except _ZIP_ERRORS as error:
            raise DataError(
                f"cannot open the zip: {error}",
                where=path,
                expected="a complete .zip file",
                mend="Copy or download it again.",
            ) from error
        # zipfile counts its open entries without a lock of its own.
        self._lock = threading.Lock()
        self._folders: dict[str, list[str]] = {}
        for name in self._zip.namelist():
            folder, _, base = name.rpartition("/")
            if base and base[0] != "." and not name.startswith(f"{_MAC_FOLDER}/"):
                self._folders.setdefault(folder, []).append(name)

    def names(self, folder: str) -> list[str]:
        """Return the names of the visible files right inside `folder`, sorted."""
        return sorted(self._folders.get(folder, []))

    def folders(self) -> list[str]:
        """Return the names of the visible folders at the top, sorted."""
        return sorted(
            {top for top in (f.partition("/")[0] for f in self._folders) if _visible(top)}
        )

    def read(self, name: str, most: int | None = None) -> bytes:
        """Return the bytes of a file."""
        try:
            entry = self._zip.getinfo(name)
            self._check_size(name, entry.file_size, most)
            if entry.compress_type not in _UNPACKED_IN_STEPS:
                raise DataError(
                    "the zip is packed with an unusual method",
                    where=self.describe(name),
                    expected="entries that are stored or deflated",
                    mend="Pack it again with an ordinary zip program, or unpack it.",
                )
            with self._lock, self._zip.open(entry) as file:
                # what is packed may be longer than the entry says: never unpack all at once
                return file.read(entry.file_size + 1)
        except _ZIP_ERRORS as error:
            raise DataError(
                f"cannot read from the zip: {error}",
                where=self.describe(name),
                mend="Copy or download the zip again; it must not be encrypted.",
            ) from error

    def close(self) -> None:
        """Close the zip."""
        self._zip.close()


def _visible(folder: str) -> bool:
    return folder != _MAC_FOLDER and folder[:1] not in ("", ".")


def open_source(path: Path) -> Source:
    """Return the files of a folder, or of a zip where `path` is a file.

    Raises:
        DataError: Nothing is there, or the file is no zip.
    """
    if path.is_dir():
        return FolderSource(path)
    if path.is_file():
        suffix = path.suffix.lower()
        if suffix != ".zip" and not zipfile.is_zipfile(path):
            survey = suffix in (".sgy", ".segy")
            raise DataError(
                "a SEG-Y file is a survey, no set of images" if survey else "not a set of images",
                where=path,
                expected="a folder or a zip of PNG images, or for 'diapir predict' one PNG file",
                mend="Give it to 'diapir map'." if survey else "Give the images as PNG files.",
            )
        return ZipSource(path)
    raise DataError("no such folder or zip", where=path, mend="Check the path of the data.")
