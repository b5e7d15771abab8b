"""The command line: one file a verb; every verb imports what it needs when it runs."""

import gc

# what imports make stays: looking for garbage in it is a sixth of the time of `diapir --help`
gc.disable()
from diapir.cli.app import app, main  # noqa: E402

gc.enable()

__all__ = ["app", "main"]
