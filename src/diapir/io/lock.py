"""One writer at a time: a lock beside an output, held until it is written."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from diapir.errors import RunError
from diapir.io.atomic import cannot_write


@contextmanager
def sole_writer(out: Path) -> Iterator[None]:
    """Keep other processes of Diapir from writing the same file or folder meanwhile.

    The lock is a hidden file beside `out`. It goes with the process, however that ends; what is
    left of a killed one hinders nobody.

    Args:
        out: The file or folder that is going to be written.

    Raises:
        RunError: Another process is writing it, or its folder cannot be written.
    """
    target = Path(os.path.realpath(out))
    path = target.with_name(f".{target.name[:80]}.lock")
    descriptor = _take(path, out)
    try:
        yield
    finally:
        path.unlink(
            missing_ok=True
        )  # before it is let go, so that nobody takes a file without name
        os.close(descriptor)


def lock(descriptor: int) -> bool:
    """Lock an open file, and return whether no other process holds it."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        pass  # some file systems of networks know no locks: then it is done without
    return True


def _take(path: Path, out: Path) -> int:
    while True:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            raise cannot_write(out, error, "there") from error
        if not lock(descriptor):
            os.close(descriptor)
            raise RunError(
                "another process is writing there",
                where=out,
                mend="Wait for it to end, or choose another place.",
            )
        if _is_named(descriptor, path):
            return descriptor
        os.close(descriptor)  # the one before has just removed the file: take a new one


def _is_named(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False
