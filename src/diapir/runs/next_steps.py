"""The commands that come next, as `next.txt` in a run folder tells them."""

import shlex
from collections.abc import Sequence
from pathlib import Path

from diapir.config import SplitConfig
from diapir.data.splits import Split
from diapir.runs.asked import asked_hardware
from diapir.runs.folder import RunFolder


def after_training(
    folder: RunFolder, data: Path, split: Split, snapshots: int, *, interrupted: bool
) -> str:
    """Return the commands after one training; those that score only where unseen tiles are left.

    Args:
        folder: Of the run.
        data: Of the training.
        split: Tells which tiles are left.
        snapshots: Number of models beside the last one.
        interrupted: A signal ended the training.
    """
    model, data_text = _quoted(folder.model), _quoted(data)
    lines = []
    if interrupted:
        lines += [
            "# go on where it was interrupted, and get the scores that it had no time for",
            _resume(folder, data),
        ]
    if snapshots and len(split.holdout):
        lines += [
            f"# the {snapshots + 1} snapshots of this training together",
            f"diapir evaluate {_quoted(folder.path)} --data {data_text}",
        ]
    if len(split.holdout):
        lines += [
            "# all scores of the hold-out, with intervals",
            f"diapir evaluate {model} --data {data_text}",
        ]
    if not len(split.val) and not len(split.holdout):
        lines += _packing(model)
    lines += [
        *_submission(model, data_text),
        "# masks of any images",
        f"diapir predict {model} IMAGES OUT",
    ]
    return "\n".join(lines) + "\n"


def after_folds(folder: RunFolder, data: Path, split: SplitConfig) -> str:
    """Return the commands after a training with folds.

    Args:
        folder: Of all folds.
        data: Of the training.
        split: Tells whether any tile is left to score their networks together.
    """
    run, model, data_text = _quoted(folder.path), _quoted(folder.model), _quoted(data)
    lines = [
        "# all scores of the tiles, each by the fold that never saw it, with intervals",
        f"diapir evaluate {run} --data {data_text}",
        "# the networks of all folds as one model, with the threshold and clean-up of these tiles",
        f"diapir ensemble {run} --out {model}",
    ]
    if split.holdout > 0:
        lines += [
            "# its scores on the hold-out, which no fold has seen",
            f"diapir evaluate {model} --data {data_text}",
        ]
    return "\n".join([*lines, *_submission(model, data_text)]) + "\n"


def after_rounds(folder: RunFolder, data: Path, places: Sequence[Path], split: SplitConfig) -> str:
    """Return the commands after several trainings that were joined.

    Args:
        folder: Of all.
        data: Of the trainings.
        places: Run folders whose networks were joined.
        split: Tells whether any tile is left to score them.
    """
    model, data_text = _quoted(folder.model), _quoted(data)
    lines = []
    if split.holdout > 0 or split.folds > 1:
        lines += [
            "# scores of each training that was joined",
            *(f"diapir evaluate {_quoted(place)} --data {data_text}" for place in places),
        ]
    elif split.val == 0:
        lines += _packing(model)
    return "\n".join([*lines, *_submission(model, data_text)]) + "\n"


def after_interruption(folder: RunFolder, data: Path) -> str:
    """Return the command that goes on with several trainings, or scores one that has ended."""
    return f"# go on where it was interrupted\n{_resume(folder, data)}\n"


def _resume(folder: RunFolder, data: Path) -> str:
    """Return the command that goes on with a run, on what it began on."""
    words = ["diapir", "train", "--resume", str(folder.path), "--data", str(data)]
    # one of several networks had a process of its own, whatever the command of all says
    is_member = any((above / folder.recipe.name).is_file() for above in folder.path.parents[:2])
    began = None if is_member else folder.first_command() or folder.fold(0).first_command()
    for option, number in asked_hardware(began or "").items():
        words += [option, number]  # another number would change the schedule
    return shlex.join(words)


def _packing(model: str) -> list[str]:
    return [
        "# every labelled tile trained this model, so nothing is left to score it; what its",
        "# recipe reaches is told by a training with --folds 5. Pack it at half the size:",
        f"diapir ensemble {model} --half --out salt.safetensors",
    ]


def _submission(model: str, data: str) -> list[str]:
    return [
        "# masks of the test tiles as a submission",
        f"diapir submit {model} --data {data} --out submission.csv",
        f"diapir check-submission submission.csv --data {data}",
    ]


def _quoted(path: Path) -> str:
    return shlex.quote(str(path))
