"""What the training of one split gives: its model, scores and report, in its run folder."""

import math
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diapir.data.splits import Split
from diapir.errors import RunError, signal_exit_code
from diapir.inference.evaluate import Evaluation
from diapir.inference.postprocess import Choice
from diapir.io.atomic import write_text_atomic
from diapir.models.modelcard import ModelCard
from diapir.models.modelfile import load_model, save_model
from diapir.runs.folder import RunFolder, read_json, write_json
from diapir.runs.inputs import RunInputs
from diapir.runs.machine import command_line, describe_machine
from diapir.runs.next_steps import after_interruption, after_training
from diapir.runs.report import save_data_figures, write_run_report
from diapir.runs.score import SECONDS_WHEN_ASKED_TO_END, Scored, score_network, unscored_card
from diapir.training.fit import FitResult


@dataclass(frozen=True)
class RunScores:
    """What a training reaches, or several together.

    Args:
        threshold: Chosen on tiles that did not train, or the recipe's.
        val: Evaluation on validation; None where there is none.
        holdout: Evaluation on the hold-out; None where there is none.
        seconds: Training time.
    """

    threshold: float
    val: Evaluation | None
    holdout: Evaluation | None
    seconds: float

    @property
    def warnings(self) -> list[str]:
        """What the scores should not be read without."""
        parts = (("validation", self.val), ("hold-out", self.holdout))
        found = ((name, None if part is None else part.warning) for name, part in parts)
        return [f"on {name}, {warning}" for name, warning in found if warning is not None]


@dataclass(frozen=True)
class RunResult(RunScores):
    """What one split's training gave.

    Args:
        folder: Holds every file.
        val_probs: (N, H, W) float32 probabilities of the validation tiles, not calibrated; the
            mean over the network and its snapshots.
        interrupted: Signal that ended the training early, if one did.
    """

    folder: RunFolder
    val_probs: NDArray[np.float32]
    interrupted: int | None


@dataclass(frozen=True)
class Trained:
    """What all trainings of a run gave.

    Args:
        folder: Of the run, which holds the folders of its trainings where there are several.
        trainings: One a split of each network, in the order of training.
        together: Scores of all folds as one, or of the networks joined into one model; None where
            nothing is joined, and where a signal ended a training.
    """

    folder: RunFolder
    trainings: list[RunResult]
    together: RunScores | None = None

    @property
    def interrupted(self) -> int | None:
        """Signal that ended the trainings early, if one did; `folder` is what is to be resumed."""
        ended = (result.interrupted for result in self.trainings)
        return next((number for number in ended if number is not None), None)

    def by_folder(self) -> list[tuple[RunFolder, RunScores]]:
        """Return the scores of each training and then of all together, with their folders.

        A training that a signal ended comes with the folder that is to be resumed.
        """
        found: list[tuple[RunFolder, RunScores]] = [
            (self.folder if result.interrupted is not None else result.folder, result)
            for result in self.trainings
        ]
        return found if self.together is None else [*found, (self.folder, self.together)]


def ended_early(
    number: int,
    folder: RunFolder,
    *,
    work: str = "the training",
    left: str = "the best model so far is saved",
) -> RunError:
    """Return the error of work that cannot go on, as a signal has ended the training before it.

    Args:
        number: Of the signal; the command line ends with it.
        folder: Of the training.
        work: That it ended.
        left: What is there of it.
    """
    error = RunError(
        f"{signal.Signals(number).name} ended {work}; {left}",
        where=folder.path,
        mend=f"Go on with the command in {folder.next_steps}.",
    )
    error.exit_code = signal_exit_code(number)
    return error


def write_outcome(
    inputs: RunInputs,
    split: Split,
    folder: RunFolder,
    fitted: FitResult,
    earlier: Sequence[ModelCard] = (),
) -> RunResult:
    """Score a network that was just trained, and write all that its run folder is to hold.

    The model is saved first, so that Ctrl-C while it is scored loses nothing but the scores.

    Args:
        inputs: Of the run.
        split: Which of its tiles trained, validate and report.
        folder: Of the split.
        fitted: What the training gave.
        earlier: Cards of the models that it began with or learnt from.

    Raises:
        DiapirError: Something cannot be written, or Ctrl-C ended the scoring.
    """
    if not folder.is_finished():  # else its model is there, with scores
        card = unscored_card(inputs.tiles, split, inputs.recipe)
        save_model(folder.model, fitted.net, _completed(card, folder, earlier))
        write_text_atomic(folder.next_steps, after_interruption(folder, inputs.data))
    with _ctrl_c_is_told(folder):
        networks = _score_networks(inputs, split, folder, fitted, earlier)
        scored = networks[-1]
        save_data_figures(inputs.tiles, folder.figures)
        write_run_report(
            folder, inputs.tiles, scored, history=fitted.history, best_epoch=fitted.best_epoch
        )
        ending = fitted.interrupted is not None
        write_text_atomic(
            folder.next_steps,
            after_training(folder, inputs.data, split, len(fitted.snapshots), interrupted=ending),
        )
        # last, as it tells that the training is finished
        write_json(folder.metrics, _metrics_table(split, folder, fitted, scored))
        return _result(folder, networks, fitted.seconds, fitted.interrupted)


def _score_networks(
    inputs: RunInputs,
    split: Split,
    folder: RunFolder,
    fitted: FitResult,
    earlier: Sequence[ModelCard],
) -> list[Scored]:
    """Score the snapshots, then the network itself, and save each of them with its scores."""
    files = [folder.snapshot(1 + k) for k in range(len(fitted.snapshots))] + [folder.model]
    device = inputs.hardware.scoring_device
    ending = fitted.interrupted is not None
    most = SECONDS_WHEN_ASKED_TO_END / len(files) if ending else math.inf
    networks = []
    for file, net in zip(files, (*fitted.snapshots, fitted.net), strict=True):
        scored = score_network(inputs.tiles, split, inputs.recipe, net.to(device), most)
        scored = replace(scored, card=_completed(scored.card, folder, earlier))
        save_model(file, net, scored.card)
        networks.append(scored)
    return networks


def _result(
    folder: RunFolder, networks: Sequence[Scored], seconds: float, interrupted: int | None
) -> RunResult:
    """Return the result of the last network, with the predictions of its snapshots in the mean."""
    last = networks[-1]
    # scoring one of them may have taken too long, but not another
    probs = [one.val_probs for one in networks if len(one.val_probs) == len(last.val_probs)]
    return RunResult(
        folder=folder,
        threshold=last.threshold,
        val=last.val,
        holdout=last.holdout,
        val_probs=np.mean(probs, axis=0, dtype=np.float32),
        seconds=seconds,
        interrupted=interrupted,
    )


@contextmanager
def _ctrl_c_is_told(folder: RunFolder) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt as error:
        left = "the model is saved, but not its scores"
        raise ended_early(signal.SIGINT, folder, work="the scoring", left=left) from error


def _completed(card: ModelCard, folder: RunFolder, earlier: Sequence[ModelCard]) -> ModelCard:
    """Return a card with the commits of its run, and the tiles that earlier models have seen."""
    own = {*card.train_ids, *card.val_ids}
    seen = dict.fromkeys(id_ for one in earlier for id_ in (*one.train_ids, *one.val_ids))
    handed_on = tuple(id_ for id_ in seen if id_ not in own)
    return replace(card, git=folder.commits(), train_ids=(*card.train_ids, *handed_on))


def score_again(inputs: RunInputs, split: Split, folder: RunFolder) -> RunResult:
    """Return the result of a training that has come to its end; what it wrote stays as it is.

    Args:
        inputs: Of the run.
        split: Which of its tiles trained, validate and report.
        folder: Of the split, finished.

    Raises:
        ModelFileError: Its model is damaged.
    """
    device = inputs.hardware.scoring_device
    networks = []
    for net, card in map(load_model, (*folder.snapshots(), folder.model)):
        chosen = Choice(card.threshold, card.rule, float("nan"))
        networks.append(
            score_network(inputs.tiles, split, inputs.recipe, net.to(device), math.inf, chosen)
        )
    return _result(folder, networks, read_json(folder.metrics)["training_seconds"], None)


def _metrics_table(
    split: Split, folder: RunFolder, fitted: FitResult, scored: Scored
) -> dict[str, Any]:
    val, holdout, card = scored.val, scored.holdout, scored.card
    return {
        "recipe": card.recipe.name,
        "recipe_sha256": card.recipe.sha256(),
        "threshold": scored.threshold,
        "rule": asdict(card.rule),
        "calibration": scored.calibration,
        "epochs": len(fitted.history),
        "best_epoch": fitted.best_epoch,
        "training_seconds": round(fitted.seconds, 1),
        "interrupted": fitted.interrupted,
        "failure": None if fitted.failure is None else fitted.failure.what,
        "tiles": {part: len(getattr(split, part)) for part in ("train", "val", "holdout")},
        "command": folder.first_command() or command_line(),
        "machine": describe_machine(),
        "data_fingerprint": card.data_fingerprint,
        "versions": card.versions,
        "git": card.git,
        "val": None if val is None else val.to_dict(),
        "holdout": None if holdout is None else holdout.to_dict(),
    }
