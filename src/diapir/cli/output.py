"""Standard output whose reader may leave before all is said, as `head` does."""

import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TextIO, cast

from diapir.errors import signal_exit_code

_BROKEN_PIPE = 13  # signal.SIGPIPE, which Windows does not have


class _ReadOutput:
    """Standard output that ends the program, as the signal would, where nobody reads it any more.

    Python itself ignores the signal, on which files that are being written and sockets of others
    rely; Typer and Rich take any pipe that breaks for this one, and end with exit code 1.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: Any) -> int:
        written: int = self._while_read(self._stream.write, text)
        return written

    def writelines(self, lines: Iterable[str]) -> None:
        self._while_read(self._stream.writelines, lines)

    def flush(self) -> None:
        self._while_read(self._stream.flush)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def _while_read(self, act: Callable[..., Any], *values: Any) -> Any:
        try:
            return act(*values)
        except BrokenPipeError:
            # what is still held would be written at the very end, and fail again
            os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())
            sys.exit(signal_exit_code(_BROKEN_PIPE))


@contextmanager
def ending_with_its_reader() -> Iterator[None]:
    """End the program quietly inside the block where standard output is a pipe that was closed."""
    plain = sys.stdout
    if plain is None:  # closed before the program began
        yield
        return
    sys.stdout = cast(TextIO, _ReadOutput(plain))
    try:
        yield
    finally:
        sys.stdout = plain
