"""Out-of-fold predictions of a run: every tile by the network that never saw it."""

import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from diapir.errors import RunError
from diapir.io.atomic import atomic_write
from diapir.runs.folder import RunFolder, numbered, read_json


@dataclass(frozen=True, eq=False)
class OutOfFold:
    """What the folds of a run predict for the tiles that they validated on.

    Args:
        ids: N tiles.
        probs: (N, H, W) float32, not calibrated.
        fingerprint: SHA-256 of the data of the run.
    """

    ids: tuple[str, ...]
    probs: NDArray[np.float32]
    fingerprint: str


def has_out_of_fold(run: Path) -> bool:
    """Return whether this is the folder of a run with folds that came to its end."""
    return (run / "out_of_fold.npz").is_file()


def write_out_of_fold_probs(run: Path, ids: tuple[str, ...], probs: NDArray[np.float32]) -> None:
    """Write `out_of_fold.npz`: ids, and probs as float16, not calibrated.

    Raises:
        RunError: It cannot be written.
    """
    with atomic_write(run / "out_of_fold.npz") as temporary, temporary.open("wb") as file:
        np.savez(file, ids=np.array(ids), probs=probs.astype(np.float16))


def read_out_of_fold(run: Path) -> OutOfFold:
    """Return the out-of-fold predictions of a run.

    Raises:
        RunError: The folder has none, or a file is damaged.
    """
    path = run / "out_of_fold.npz"
    if not path.is_file():
        raise RunError(
            "this run has no out-of-fold predictions",
            where=run,
            expected="the folder that 'diapir train --folds K' made, with all folds finished",
            mend="Go on with 'diapir train --resume', or give one of its folds.",
        )
    try:
        with np.load(path, allow_pickle=False) as stored:
            ids, probs = tuple(map(str, stored["ids"])), stored["probs"].astype(np.float32)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise _damaged(path, error) from error
    if probs.ndim != 3 or len(ids) != len(probs) or not (probs.min() >= 0 and probs.max() <= 1):
        raise _damaged(path, f"{len(ids)} ids, probabilities of shape {probs.shape}")
    split = read_json(RunFolder(run).fold(0).split)
    return OutOfFold(ids, probs, str(split.get("data", {}).get("fingerprint", "")))


def run_models(run: Path) -> list[Path]:
    """Return the model files of a run: of its folds, or the one that it has, with snapshots.

    Raises:
        RunError: There is none.
    """
    folds = [path for each in numbered(run, "fold-") if (path := RunFolder(each).model).is_file()]
    last = folds or [path for path in [RunFolder(run).model] if path.is_file()]
    models = [file for path in last for file in (*RunFolder(path.parent).snapshots(), path)]
    if not models:
        raise RunError(
            "there is no model in this folder",
            where=run,
            expected="model.safetensors, or fold-K/model.safetensors",
            mend="Give the folder that 'diapir train' made, once it has finished.",
        )
    return models


def _damaged(path: Path, why: object) -> RunError:
    return RunError(
        f"cannot read the out-of-fold predictions: {why}",
        where=path,
        mend="Copy the run folder again from where it was trained.",
    )
