"""What of a long prediction is done already, so that a killed one goes on where it was.

A journal is a folder of its own for each combination of model, input and settings. Each finished
block leaves a small file in it, written by whoever computed the block, after the block's data.
"""

import hashlib
import json
import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diapir.errors import RunError
from diapir.io.atomic import remove_folder, write_text_atomic

_PREFIX = ".unfinished-"


def settings_key(settings: dict[str, Any]) -> str:
    """Return 16 hexadecimal digits that change with any setting; values are plain JSON."""
    text = json.dumps(settings, sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Journal:
    """Finished blocks of one prediction.

    Args:
        folder: Holds the journal and whatever the blocks write.
    """

    folder: Path

    @classmethod
    def open(cls, out: Path, settings: dict[str, Any]) -> tuple["Journal", tuple[str, ...]]:
        """Return the journal in `out` for these settings, and what was found there, in words.

        What other settings have left unfinished is kept until `remove_others`, if a block is done.

        Raises:
            RunError: The folder cannot be written.
        """
        key = settings_key(settings)
        journal = cls(out / f"{_PREFIX}{key}")
        try:
            for other in journal._others():
                if not other.done():
                    remove_folder(other.folder)
            for left in out.glob(f".{_PREFIX}*.removed"):
                shutil.rmtree(left)
            journal._records.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunError(
                f"cannot write into the folder: {error.strerror or error}",
                where=out,
                mend="Choose a folder that can be written.",
            ) from error
        write_text_atomic(journal.folder / "settings.json", json.dumps(settings, indent=2) + "\n")
        return journal, journal._news()

    def _news(self) -> tuple[str, ...]:
        done = len(self.done())
        if done:
            return (f"going on: {done:,} blocks are done already",)
        others = sum(len(other.done()) for other in self._others())
        if not others:
            return ()
        return (
            f"starting afresh: {others:,} blocks that are done here belong to another model, input "
            "or other settings; they are kept until this map is done: give the same as then to go "
            "on with them",
        )

    def _others(self) -> list["Journal"]:
        """Return the journals of other settings."""
        found = sorted(self.folder.parent.glob(f"{_PREFIX}*"))
        return [Journal(folder) for folder in found if folder != self.folder]

    @property
    def _records(self) -> Path:
        return self.folder / "journal"

    def done(self) -> dict[str, dict[str, float]]:
        """Return the record of each finished block by its name."""
        # a name with a dot is a record that was being written when the process was killed
        paths = [path for path in self._records.glob("*.json") if path.name[0] != "."]
        records = {path.stem: _read(path) for path in sorted(paths)}
        return {block: record for block, record in records.items() if record is not None}

    def find(self, block: str) -> dict[str, float] | None:
        """Return the record of a block, None where it is not finished."""
        return _read(self._records / f"{block}.json")

    def record(self, block: str, measured: dict[str, float]) -> None:
        """Write down that a block is finished; its data must be written before.

        Args:
            block: Its name, which serves as a file name.
            measured: What it took.
        """
        write_text_atomic(self._records / f"{block}.json", json.dumps(measured) + "\n", sync=False)

    def forget(self) -> None:
        """Remove every record: what they tell of is not there."""
        for path in self._records.glob("*.json"):
            path.unlink(missing_ok=True)

    def remove_others(self) -> None:
        """Remove what other settings have left unfinished."""
        for other in self._others():
            other.remove()

    def remove(self) -> None:
        """Remove the journal and everything beside it in its folder."""
        with suppress(OSError):
            remove_folder(self.folder)


def _read(path: Path) -> dict[str, float] | None:
    """Return a record; None where there is none, or where a power cut took its bytes."""
    try:
        record = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return record if isinstance(record, dict) else None
