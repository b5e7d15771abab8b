"""The run folder: what lies where, who may write into it, and what it says of itself."""

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diapir.config import Recipe, load_recipe
from diapir.data.splits import Split
from diapir.errors import RunError
from diapir.io.atomic import write_text_atomic
from diapir.io.json_text import json_text
from diapir.io.lock import lock
from diapir.io.tiles import Tiles

_DEPTHS = "depths_fingerprint"
_COPY = "Copy the run folder again from where it was trained."


@dataclass(frozen=True)
class RunFolder:
    """Paths inside a run folder.

    Args:
        path: The folder.
    """

    path: Path

    @property
    def recipe(self) -> Path:
        """The resolved recipe, readable by `diapir train`."""
        return self.path / "recipe.json"

    @property
    def split(self) -> Path:
        """Ids of training, validation and hold-out."""
        return self.path / "split.json"

    @property
    def starts(self) -> Path:
        """What each start of the training, the first and those that resumed it, ran with."""
        return self.path / "starts.json"

    @property
    def model(self) -> Path:
        """The model file."""
        return self.path / "model.safetensors"

    def snapshot(self, number: int) -> Path:
        """The model file that an earlier cycle of the rate left, counted from 1."""
        return self.path / f"snapshot-{number}.safetensors"

    def snapshots(self) -> list[Path]:
        """Return the model files that earlier cycles of the rate left, oldest first."""
        return numbered(self.path, "snapshot-", ".safetensors")

    @property
    def metrics(self) -> Path:
        """Scores on validation and hold-out."""
        return self.path / "metrics.json"

    @property
    def figures(self) -> Path:
        """Folder of PNG figures."""
        return self.path / "figures"

    @property
    def report(self) -> Path:
        """The page to look at first."""
        return self.path / "report.html"

    @property
    def next_steps(self) -> Path:
        """Commands that come next."""
        return self.path / "next.txt"

    def fold(self, number: int) -> "RunFolder":
        """Return the folder of one fold inside this one."""
        return RunFolder(self.path / f"fold-{number}")

    def shared_recipe(self) -> Path:
        """Return where the recipe lies: of a run with folds, in each of them."""
        return self.recipe if self.recipe.is_file() else self.fold(0).recipe

    def is_finished(self) -> bool:
        """Return whether the training has come to its end and left its model."""
        if not (self.metrics.is_file() and self.model.is_file()):
            return False
        return came_to_its_end(read_json(self.metrics))

    def all_finished(self, folds: int) -> bool:
        """Return whether the training, or that of each fold, has come to its end."""
        places = [self] if folds == 1 else [self.fold(number) for number in range(folds)]
        return all(place.is_finished() for place in places)

    def make(self) -> None:
        """Create the folder and its checkpoints folder.

        Raises:
            RunError: They cannot be created.
        """
        _make_folder(self.path / "checkpoints", "Choose a folder that can be written with --runs.")

    def make_plain(self) -> None:
        """Create the folder of a run that does not train.

        Raises:
            RunError: It cannot be created.
        """
        _make_folder(self.path, "Choose a folder that can be written.")

    def write_inputs(self, recipe: Recipe, split: Split, tiles: Tiles) -> None:
        """Store what the run starts from: resolved recipe, split and identity of the data."""
        write_json(self.recipe, recipe.model_dump(mode="json"))
        data = {
            "source": tiles.source,
            "tiles": len(tiles),
            "fingerprint": tiles.fingerprint(),
            _DEPTHS: tiles.depths_fingerprint(),
        }
        write_json(self.split, {"data": data, **split.to_json(tiles.ids)})

    def read_inputs(self, tiles: Tiles) -> tuple[Recipe, Split]:
        """Return the stored recipe and split of a run that is to go on with the same tiles.

        Raises:
            RunError: The folder is no run, or the data has changed since; depths count only where
                the network sees them.
        """
        if not self.recipe.is_file() or not self.split.is_file():
            raise RunError(
                "this is not a run folder",
                where=self.path,
                expected=f"{self.recipe.name} and {self.split.name} in it",
                mend="Give the folder that 'diapir train' made; with --folds, a fold-K in it.",
            )
        stored = read_json(self.split)
        data = stored.get("data")
        if not isinstance(data, dict) or data.get("fingerprint") != tiles.fingerprint():
            raise RunError(
                "the data differs from that of the run",
                where=tiles.source,
                expected=f"the data of {self.path}",
                mend="Give the same data, or start a new run.",
            )
        recipe = load_recipe(str(self.recipe))
        if recipe.model.depth_channel:
            self._check_depths(data, tiles)
        return recipe, Split.from_json(stored, tiles.ids)

    def _check_depths(self, data: dict[str, Any], tiles: Tiles) -> None:
        found = tiles.depths_fingerprint()
        # older runs did not note their depths
        if found is None or data.get(_DEPTHS, found) != found:
            raise RunError(
                "the network sees depths, and they differ from those of the run"
                if found
                else "the network sees depths, and the data has none any more",
                where=tiles.source,
                expected=f"the depths of {self.path}",
                mend="Bring back depths.csv as it was, or start a new run.",
            )

    def note_start(self, about: dict[str, Any]) -> None:
        """Add a start of the training to those before.

        Args:
            about: Commit as `git`, versions, command and whatever else it runs with.

        Raises:
            RunError: What is noted of earlier ones is damaged, or the file cannot be written.
        """
        write_json(self.starts, {"starts": [*self._read_starts(), about]})

    def commits(self) -> str | None:
        """Return the commits of the source that the training started and went on with.

        Raises:
            RunError: The file is damaged.
        """
        found = dict.fromkeys(start.get("git") for start in self._read_starts())
        if not any(found):
            return None
        return ", then ".join(str(git or "not from a source tree") for git in found)

    def first_command(self) -> str | None:
        """Return the command that began the training, not one that resumed it.

        Raises:
            RunError: The file is damaged.
        """
        commands = (start.get("command") for start in self._read_starts())
        return next((str(command) for command in commands if command), None)

    def _read_starts(self) -> list[dict[str, Any]]:
        if not self.starts.is_file():
            return []
        starts = read_json(self.starts).get("starts")
        if not isinstance(starts, list) or not all(isinstance(s, dict) for s in starts):
            raise RunError("this file of the run is damaged", where=self.starts, mend=_COPY)
        return starts

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes out of this folder while it is written.

        Raises:
            RunError: Another process is writing into it.
        """
        try:
            file = (self.path / ".lock").open("w")
        except OSError as error:
            raise RunError(
                f"cannot write into the run folder: {error.strerror}",
                where=self.path,
                mend="Ask for write permission, or copy the folder to a place of your own.",
            ) from error
        with file:
            if not lock(file.fileno()):
                raise RunError(
                    "another process is writing into this run folder",
                    where=self.path,
                    mend="Wait for it to end, or start a new run.",
                )
            yield


def numbered(folder: Path, before: str, behind: str = "") -> list[Path]:
    """Return the files and folders named by a number, in its order; copies of other names aside.

    Args:
        folder: That holds them.
        before: Of the name, what stands before the number.
        behind: And behind it.
    """
    found = {path.name[len(before) : len(path.name) - len(behind)]: path
             for path in folder.glob(f"{before}*{behind}")}  # fmt: skip
    return [found[number] for number in sorted(filter(str.isdecimal, found), key=int)]


def _make_folder(path: Path, mend: str) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(
            f"cannot create the run folder: {error.strerror}", where=path, mend=mend
        ) from error


def new_run_folder(runs: Path, name: str) -> RunFolder:
    """Return a new folder `runs/DATE-TIME-NAME`; two processes never get the same one.

    Raises:
        RunError: It cannot be created.
    """
    stamp = time.strftime("%Y%m%d-%H%M%S")
    try:
        runs.mkdir(parents=True, exist_ok=True)
        for number in range(1000):
            path = runs / (f"{stamp}-{name}" + (f"-{number}" if number else ""))
            try:
                path.mkdir()
            except FileExistsError:
                continue
            return RunFolder(path)
    except OSError as error:
        raise RunError(
            f"cannot create a run folder: {error.strerror}",
            where=runs,
            mend="Choose a folder that can be written with --runs.",
        ) from error
    raise RunError("a thousand runs started in one second", where=runs)


def came_to_its_end(metrics: dict[str, Any]) -> bool:
    """Return whether neither a signal nor a failure ended the training of these metrics early."""
    return metrics.get("interrupted") is None and metrics.get("failure") is None


def write_json(path: Path, table: dict[str, Any]) -> None:
    """Write a table as indented JSON, whole or not at all."""
    write_text_atomic(path, json_text(table) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """Return the table of a JSON file of a run.

    Raises:
        RunError: The file is missing or damaged.
    """
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise RunError(
            f"cannot read a file of the run: {error}",
            where=path,
            mend=_COPY,
        ) from error
    if not isinstance(table, dict):
        raise RunError("this file of the run holds no table", where=path)
    return table


def is_main_process() -> bool:
    """Return whether this process writes; the others of a distributed training only compute."""
    return all(os.environ.get(name, "0") == "0" for name in _RANKS)


# set by Lightning (the first two), torchrun and SLURM
_RANKS = ("LOCAL_RANK", "NODE_RANK", "RANK", "GROUP_RANK", "SLURM_PROCID")
