"""The command line: one file a verb; every verb imports what it needs when it runs."""

from diapir.cli.app import app, main

__all__ = ["app", "main"]
