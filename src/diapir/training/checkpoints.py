"""Checkpoints of a training: written whole or not at all, and seen through before they are used."""

import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from diapir.errors import RunError
from diapir.io.atomic import atomic_write

LAST_CHECKPOINT = "checkpoints/last.ckpt"
_COPY = "Copy the run folder again from where it was trained, or train anew."


class WholeCheckpoints(TorchCheckpointIO):
    """Writes checkpoints as every other file is written.

    Lightning's own way goes through the folder for temporary files: where that is another disk the
    last step is a copy, which a kill cuts in half, and nothing is forced to the disk.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None
    ) -> None:
        """Write a checkpoint.

        Raises:
            RunError: The disk is full or the place cannot be written.
        """
        with atomic_write(Path(path)) as temporary:
            try:
                torch.save(checkpoint, temporary)
            except RuntimeError as error:  # torch's own writer tells of a full disk in this way
                raise OSError(str(error).splitlines()[0]) from error


def checkpoint_to_resume(run: Path) -> str:
    """Return the path of a run's last checkpoint after checking every byte of it.

    Raises:
        RunError: There is none, or it is damaged.
    """
    checkpoint = run / LAST_CHECKPOINT
    if not checkpoint.is_file():
        raise RunError(
            "there is no checkpoint to go on from",
            where=run,
            expected=LAST_CHECKPOINT,
            mend="Give the folder of a run that ended at least one epoch, or train anew.",
        )
    try:
        with zipfile.ZipFile(checkpoint) as packed:  # torch itself checks no sums
            if packed.testzip() is not None:
                raise _damaged(checkpoint)
        torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True)
    except (
        OSError, EOFError, RuntimeError, ValueError, LookupError, pickle.UnpicklingError,
        zipfile.BadZipFile,
    ) as error:  # fmt: skip
        raise _damaged(checkpoint) from error
    return str(checkpoint)


def load_best(net: nn.Module, file: Path) -> None:
    """Give a network the weights that a training kept.

    Raises:
        RunError: The file is damaged, belongs to another network, or holds no numbers.
    """
    try:
        state = load_file(file)
        if not all(torch.isfinite(tensor).all() for tensor in state.values()):
            raise ValueError("weights that are no numbers")
        net.load_state_dict(state)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise RunError("the kept weights are damaged", where=file, mend=_COPY) from error


def _damaged(checkpoint: Path) -> RunError:
    return RunError("the checkpoint is damaged", where=checkpoint, mend=_COPY)
