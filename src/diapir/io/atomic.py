"""Files that appear whole or not at all."""

import errno
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from diapir.errors import RunError

_MENDS = {
    errno.ENOSPC: "Free some space or choose another place.",
    errno.EDQUOT: "The quota is used up: free some space or choose another place.",
    errno.EFBIG: "The file would be larger than allowed here: choose another place.",
    errno.EROFS: "The file system is read-only: choose another place.",
    errno.EACCES: "Ask for write permission or choose another place.",
    errno.EPERM: "Ask for write permission or choose another place.",
    errno.EISDIR: "Give the path of a file; a folder has this name.",
    errno.ENOTDIR: "A file stands where a folder is needed: choose another place.",
    errno.EEXIST: "A file stands where a folder is needed: choose another place.",
    errno.ENAMETOOLONG: "Choose a shorter name.",
}


DISK_ERRORS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS})
"""Of a place that cannot take what is written; nothing else has these numbers."""
_TEMPORARY = re.compile(r"\..{0,80}-[0-9a-f]{12}(\.\w+)?")


@contextmanager
def atomic_write(path: Path, *, sync: bool = True) -> Iterator[Path]:
    """Yield a temporary path beside `path` that takes its place when the block ends well.

    The temporary name starts with a dot and keeps the suffix, so that writers which choose a
    format by suffix work on it. When the block raises, the temporary file is removed and whatever
    stood at `path` before stays untouched. Missing parent folders are made; a symbolic link stays
    a link and its target is replaced.

    Args:
        path: The file to write.
        sync: Also force the bytes to the disk, so that the file survives a power cut; off where
            thousands of small files are written that a second run would make again.

    Raises:
        RunError: The disk is full, the place is read-only, or the folder cannot be made. Any
            `OSError` raised inside the block counts as one about this file.
    """
    target = Path(os.path.realpath(path))
    temporary = target.with_name(f".{target.stem[:80]}-{os.urandom(6).hex()}{target.suffix}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        if sync:
            _sync(temporary)
        temporary.replace(target)
        if sync:
            _sync(target.parent)
    except OSError as error:
        raise cannot_write(path, error) from error
    finally:
        _discard(temporary)


def cannot_write(path: object, error: OSError, what: str = "the file") -> RunError:
    """Return the error of a place that cannot be written, with what to do about it."""
    return RunError(
        f"cannot write {what}: {error.strerror or error}",
        where=path,
        mend=_MENDS.get(error.errno or 0, "Choose another place."),
    )


@contextmanager
def disk_told(path: Path, what: str = "the file") -> Iterator[None]:
    """Turn a full or read-only disk inside the block into an error about `path`.

    For libraries that write by themselves; other errors, such as those of reading, stay what they
    are.

    Raises:
        RunError: The disk is full, or the place cannot be written.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in DISK_ERRORS:
            raise
        raise cannot_write(path, error, what) from error


def write_bytes_atomic(path: Path, data: bytes, *, sync: bool = True) -> None:
    """Write `data` to `path`, whole or not at all.

    Raises:
        RunError: The file cannot be written.
    """
    with atomic_write(path, sync=sync) as temporary:
        temporary.write_bytes(data)


def write_text_atomic(path: Path, text: str, *, sync: bool = True) -> None:
    r"""Write `text` to `path` as UTF-8 with ``\n`` line ends, whole or not at all.

    Names of files that are not in UTF-8 are written with the bytes that they have.

    Raises:
        RunError: The file cannot be written.
    """
    write_bytes_atomic(path, text.encode("utf-8", "surrogateescape"), sync=sync)


def remove_leftovers(folder: Path) -> None:
    """Remove what killed processes had not finished writing, in a folder and those inside it.

    Only for folders that nobody else writes into at the time.
    """
    for path in folder.rglob(".*"):
        if _TEMPORARY.fullmatch(path.name) and path.is_file():
            _discard(path)


def remove_folder(folder: Path) -> None:
    """Remove a folder and all in it; interrupted, nothing of it is taken for a whole one.

    It loses its name first. What an interrupted removal of the same folder has left goes, too, and
    a folder that is not there is no error.

    Raises:
        OSError: It cannot be removed.
    """
    nameless = folder.with_name(f".{folder.name}.removed")
    if nameless.exists():
        shutil.rmtree(nameless)
    if folder.exists():
        folder.rename(nameless)
        shutil.rmtree(nameless)


def _sync(path: Path) -> None:
    # Windows cannot open a folder; there the rename alone has to do.
    if os.name == "nt" and path.is_dir():
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some network file systems know no fsync of a folder; the file itself is already safe.
        if not (path.is_dir() and error.errno in (errno.EINVAL, errno.ENOTSUP)):
            raise
    finally:
        os.close(descriptor)


def _discard(temporary: Path) -> None:
    try:
        temporary.unlink(missing_ok=True)
    except OSError:
        # The first error is the one to tell; a folder that is gone or read-only hides no file.
        return
