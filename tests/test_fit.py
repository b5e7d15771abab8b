"""Training as a whole: it learns, stops, resumes, and shows itself well."""

import csv
import os
import pty
import signal
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.utilities.exceptions import SIGTERMException

from diapir.config import Recipe
from diapir.data.datamodule import TileDataModule
from diapir.data.splits import make_splits
from diapir.errors import RunError, TrainingError
from diapir.io.tiles import Tiles
from diapir.training.callbacks import EpochHistory, StopOnSignal
from diapir.training.checkpoints import LAST_CHECKPOINT
from diapir.training.fit import FitResult, fit
from diapir.training.hardware import Hardware
from diapir.training.task import SaltTask

Make = Callable[..., Recipe]


def train(tiles: Tiles, recipe: Recipe, run: Path, **options: Any) -> FitResult:
    (run / "checkpoints").mkdir(parents=True, exist_ok=True)
    split = make_splits(tiles, recipe.split)[0]
    devices, progress = options.pop("devices", "auto"), options.pop("progress", False)
    hardware = Hardware(accelerator="cpu", devices=devices, progress=progress)
    return fit(tiles, split, recipe, run, hardware=hardware, **options)


def same_weights(a: FitResult, b: FitResult) -> bool:
    first, second = a.net.state_dict(), b.net.state_dict()
    return all(torch.equal(first[name], second[name]) for name in first)


def timeless(result: FitResult) -> list[dict[str, str]]:
    return [{k: repr(v) for k, v in row.items() if k != "seconds"} for row in result.history]


def test_learns_bright_salt(easy_tiles: Tiles, tiny_recipe: Make, tmp_path: Path) -> None:
    found = train(easy_tiles, tiny_recipe(train__epochs=8, optim__lr=0.03), tmp_path)
    scores = [row["val_score"] for row in found.history]
    assert max(scores) > 0.85
    assert scores[0] < max(scores)
    assert found.history[found.best_epoch - 1]["val_score"] == max(scores)
    assert found.history[-1]["train_loss"] < 0.5 * found.history[0]["train_loss"]
    assert not found.net.training
    assert found.interrupted is None


def test_history_is_a_table_on_disk(easy_tiles: Tiles, tiny_recipe: Make, tmp_path: Path) -> None:
    found = train(easy_tiles, tiny_recipe(train__epochs=3, train__validate_every=2), tmp_path)
    with (tmp_path / "history.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["epoch"]) for row in rows] == [1, 2, 3]
    assert [row["val_score"] == "" for row in rows] == [True, False, False]  # the last one counts
    assert float(rows[1]["val_score"]) == found.history[1]["val_score"]
    assert all(float(row["lr"]) == 0.01 for row in rows)
    assert list((tmp_path / "logs").glob("events.out.tfevents.*"))


def test_same_seed_same_weights(easy_tiles: Tiles, tiny_recipe: Make, tmp_path: Path) -> None:
    recipe = tiny_recipe(model__dropout=0.2, augment__noise=0.1)
    runs = [train(easy_tiles, recipe, tmp_path / name) for name in "ab"]
    assert same_weights(*runs)
    assert timeless(runs[0]) == timeless(runs[1])
    other = tiny_recipe(model__dropout=0.2, augment__noise=0.1, train__seed=1)
    assert not same_weights(runs[0], train(easy_tiles, other, tmp_path / "c"))


# --- which weights are kept


def scripted(monkeypatch: pytest.MonkeyPatch, scores: list[float]) -> None:
    """Replace the validation score of each epoch."""
    measure = SaltTask.pop_metrics

    def pop(self: SaltTask, stage: Any) -> dict[str, float]:
        row = measure(self, stage)
        if "val_score" in row:
            row["val_score"] = scores[self.current_epoch]
        return row

    monkeypatch.setattr(SaltTask, "pop_metrics", pop)


def test_select_best_and_last(
    easy_tiles: Tiles, tiny_recipe: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripted(monkeypatch, [0.1, 0.5, 0.3])
    best = train(easy_tiles, tiny_recipe(train__epochs=3), tmp_path / "best")
    last = train(easy_tiles, tiny_recipe(train__epochs=3, train__select="last"), tmp_path / "last")
    two = train(easy_tiles, tiny_recipe(train__epochs=2, train__select="last"), tmp_path / "two")
    assert (best.best_epoch, last.best_epoch, two.best_epoch) == (2, 3, 2)
    assert same_weights(best, two)
    assert not same_weights(best, last)


def test_averaged_weights_are_the_ones_kept(
    easy_tiles: Tiles, tiny_recipe: Make, tmp_path: Path
) -> None:
    plain = train(easy_tiles, tiny_recipe(train__select="last"), tmp_path / "plain")
    slow = train(easy_tiles, tiny_recipe(train__select="last", optim__ema=0.999), tmp_path / "slow")
    assert not same_weights(plain, slow)
    assert [r["train_loss"] for r in plain.history] == [r["train_loss"] for r in slow.history]
    assert plain.history[-1]["val_loss"] != slow.history[-1]["val_loss"]


def test_without_validation_the_last_weights_are_kept(
    easy_tiles: Tiles, tiny_recipe: Make, tmp_path: Path
) -> None:
    none = train(easy_tiles, tiny_recipe(split__val=0.0), tmp_path / "none")
    assert none.best_epoch == 2
    assert not any(name.startswith("val_") for row in none.history for name in row)
    rare = train(easy_tiles, tiny_recipe(train__validate_every=9), tmp_path / "rare")
    assert rare.best_epoch == 2


def test_tiles_are_small_first(easy_tiles: Tiles, tiny_recipe: Make, tmp_path: Path) -> None:
    def recipe(epochs: int) -> Recipe:
        return tiny_recipe(
            model__resize_to=101,
            train__epochs=epochs,
            train__small_first={"until_progress": 0.4, "resize_to": 50},
            train__select="last",
        )

    plain = train(easy_tiles, tiny_recipe(train__epochs=1, model__resize_to=50), tmp_path / "a")
    short = train(easy_tiles, recipe(1), tmp_path / "b")
    assert same_weights(plain, short)  # all of it was small
    assert plain.history[0]["val_loss"] == short.history[0]["val_loss"]
    assert short.net.resize_to == 101  # but it predicts as its file will
    whole = train(easy_tiles, recipe(2), tmp_path / "c")
    assert whole.history[0]["train_loss"] == short.history[0]["train_loss"]
    assert whole.net.resize_to == 101


# --- when it ends


def test_early_stopping_waits_for_its_patience(
    easy_tiles: Tiles, tiny_recipe: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripted(monkeypatch, [0.1, 0.5, 0.5, 0.4, 0.3, 0.9])
    recipe = tiny_recipe(train__epochs=6, train__early_stopping=2)
    found = train(easy_tiles, recipe, tmp_path / "best")
    assert len(found.history) == 4
    assert found.best_epoch == 2
    recipe = tiny_recipe(train__epochs=6, train__early_stopping=2, train__select="last")
    found = train(easy_tiles, recipe, tmp_path / "last")
    assert len(found.history) == 4
    assert found.best_epoch == 4


def test_early_stopping_counts_from_the_first_score(
    easy_tiles: Tiles, tiny_recipe: Make, tmp_path: Path
) -> None:
    recipe = tiny_recipe(train__epochs=4, train__validate_every=4, train__early_stopping=1)
    found = train(easy_tiles, recipe, tmp_path)
    assert len(found.history) == 4
    assert "val_score" in found.history[-1]


def test_plateau_lowers_the_rate(
    easy_tiles: Tiles, tiny_recipe: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "diapir.training.task.SaltMetrics.compute", lambda self: {"score": torch.tensor(0.5)}
    )
    recipe = tiny_recipe(train__epochs=4, optim__schedule="plateau", optim__plateau_patience=0)
    found = train(easy_tiles, recipe, tmp_path)
    assert [row["lr"] for row in found.history] == pytest.approx([0.01, 0.005, 0.0025, 0.00125])


def test_time_limit_ends_training_and_schedule(
    easy_tiles: Tiles, tiny_recipe: Make, tmp_path: Path
) -> None:
    limit = 0.03
    recipe = tiny_recipe(train__epochs=100_000, train__max_minutes=limit, optim__schedule="cosine")
    found = train(easy_tiles, recipe, tmp_path)
    assert found.seconds < 60 * limit + 15  # a busy machine is slow to stop
    assert len(found.history) < 100_000
    assert "val_score" in found.history[-1]
    assert found.history[-1]["lr"] < 0.005
    assert found.net is not None


def test_time_that_is_kept_for_a_validation_is_used(
    easy_tiles: Tiles, tiny_recipe: Make, tmp_path: Path
) -> None:
    recipe = tiny_recipe(
        train__epochs=100_000, train__max_minutes=0.02, train__validate_every=90_000
    )
    assert "val_score" in train(easy_tiles, recipe, tmp_path).history[-1]


def test_no_time_is_kept_for_a_validation_that_does_not_come(
    easy_tiles: Tiles, tiny_recipe: Make, tmp_path: Path
) -> None:
    recipe = tiny_recipe(
        train__epochs=100_000, train__max_minutes=0.05, train__select="last", split__val=0.0
    )
    found = train(easy_tiles, recipe, tmp_path)
    assert "val_score" not in found.history[-1]
    assert found.history[-1]["progress"] > 0.98  # a twentieth was kept


def test_time_that_is_over_at_once_still_gives_a_model(
    easy_tiles: Tiles, tiny_recipe: Make, tmp_path: Path
) -> None:
    found = train(easy_tiles, tiny_recipe(train__max_minutes=1e-9), tmp_path)
    assert len(found.history) == 1
    assert "val_score" in found.history[0]


def test_loss_that_is_no_number_ends_with_an_error(
    easy_tiles: Tiles, tiny_recipe: Make, tmp_path: Path
) -> None:
    with pytest.raises(TrainingError, match=r"the loss is nan(.|\n)*tiles tile0"):
        train(easy_tiles, tiny_recipe(optim__lr=1e30), tmp_path)


@pytest.mark.parametrize("devices", [0, "many", "1,2"])
def test_impossible_devices_are_an_error(
    easy_tiles: Tiles, tiny_recipe: Make, tmp_path: Path, devices: int | str
) -> None:
    with pytest.raises(RunError, match=r"cannot train on this hardware(.|\n)*--devices"):
        train(easy_tiles, tiny_recipe(), tmp_path, devices=devices)


# --- interruption


@pytest.fixture
def interrupt_at(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Send SIGINT to this process when the batch of some step is handed over."""

    def arrange(step: int) -> None:
        original = TileDataModule.on_after_batch_transfer

        def transfer(self: TileDataModule, batch: Any, dataloader_idx: int) -> Any:
            assert self.trainer is not None
            if self.trainer.training and self.trainer.global_step == step:
                os.kill(os.getpid(), signal.SIGINT)
            return original(self, batch, dataloader_idx)

        monkeypatch.setattr(TileDataModule, "on_after_batch_transfer", transfer)

    return arrange


@pytest.mark.parametrize(
    "changes",
    [
        {"optim__schedule": "plateau", "optim__plateau_patience": 0, "optim__ema": 0.9},
        {"optim__schedule": "one-cycle", "optim__clip_norm": 0.5, "train__tiles_per_epoch": 30},
    ],
    ids=["plateau+ema", "one-cycle+clip"],
)
def test_resume_goes_on_exactly(
    easy_tiles: Tiles,
    tiny_recipe: Make,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    interrupt_at: Callable[[int], None],
    changes: dict[str, Any],
) -> None:
    recipe = tiny_recipe(
        train__epochs=4,
        train__select="last",
        model__dropout=0.2,
        augment__noise=0.1,
        augment__zoom=0.1,
        **changes,
    )
    whole = train(easy_tiles, recipe, tmp_path / "whole")
    steps = 6 if recipe.train.tiles_per_epoch is None else 3
    interrupt_at(2 * steps + 1)
    part = train(easy_tiles, recipe, tmp_path / "parts")
    assert part.interrupted == signal.SIGINT
    assert len(part.history) == 2
    assert not same_weights(part, whole)
    monkeypatch.undo()
    rest = train(easy_tiles, recipe, tmp_path / "parts", resume=True)
    assert rest.interrupted is None
    assert same_weights(rest, whole)
    assert timeless(rest) == timeless(whole)
    # the journal keeps the time; what the interrupted process took to end is not in it
    assert rest.history[-1]["seconds"] > part.history[-1]["seconds"]


def test_resume_does_not_depend_on_the_name_of_a_class(
    easy_tiles: Tiles, tiny_recipe: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The history was kept by a class `Journal` once, and may be by another one day."""

    class Renamed(EpochHistory):
        pass

    first = train(easy_tiles, tiny_recipe(train__epochs=1), tmp_path)
    saved = torch.load(tmp_path / LAST_CHECKPOINT, weights_only=True)["callbacks"]
    assert saved["Journal"]["rows"] == first.history
    # no other of ours has a state; the key of Lightning's own holds its settings
    assert {key for key in saved if not key.startswith("ModelCheckpoint")} == {"Journal"}
    monkeypatch.setattr("diapir.training.fit.EpochHistory", Renamed)
    rest = train(easy_tiles, tiny_recipe(train__epochs=2), tmp_path, resume=True)
    assert rest.history[:1] == first.history
    assert [row["epoch"] for row in rest.history] == [1, 2]


def test_resume_with_other_steps_is_refused(
    easy_tiles: Tiles, tiny_recipe: Make, tmp_path: Path
) -> None:
    """As another number of processes has them: rates and stages would come at another time."""
    train(easy_tiles, tiny_recipe(train__epochs=1), tmp_path)
    other = tiny_recipe(train__epochs=2, train__batch_size=16)
    with pytest.raises(RunError, match=r"had 6 steps, and would have 3 now(.|\n)*--devices"):
        train(easy_tiles, other, tmp_path, resume=True)


def test_a_step_of_one_small_tile_is_told(
    easy_tiles: Tiles, tiny_recipe: Make, tmp_path: Path
) -> None:
    recipe = tiny_recipe(
        model__scratch_channels=[4] * 6, model__decoder_channels=[4], train__batch_size=1
    )
    with pytest.raises(TrainingError, match=r"a single pixel(.|\n)*train\.batch_size 2"):
        train(easy_tiles, recipe, tmp_path)


def test_resume_of_a_finished_training_changes_nothing(
    easy_tiles: Tiles, tiny_recipe: Make, tmp_path: Path
) -> None:
    whole = train(easy_tiles, tiny_recipe(), tmp_path)
    again = train(easy_tiles, tiny_recipe(), tmp_path, resume=True)
    assert same_weights(whole, again)
    assert timeless(whole) == timeless(again)


@pytest.mark.parametrize(
    "ends_by", [{"train__early_stopping": 1}, {"train__max_minutes": 0.03}], ids=["score", "time"]
)
def test_resume_of_a_training_that_stopped_early_does_not_go_on(
    easy_tiles: Tiles,
    tiny_recipe: Make,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    ends_by: dict[str, Any],
) -> None:
    scripted(monkeypatch, [0.5] * 10_000)
    recipe = tiny_recipe(train__epochs=10_000, **ends_by)
    whole = train(easy_tiles, recipe, tmp_path)
    assert len(whole.history) < 10_000
    again = train(easy_tiles, recipe, tmp_path, resume=True)
    assert timeless(whole) == timeless(again)


def test_interrupted_before_an_epoch_leaves_no_model(
    easy_tiles: Tiles, tiny_recipe: Make, tmp_path: Path, interrupt_at: Callable[[int], None]
) -> None:
    before = signal.getsignal(signal.SIGINT)
    interrupt_at(1)
    with pytest.raises(RunError, match="ended before its first epoch"):
        train(easy_tiles, tiny_recipe(), tmp_path)
    assert signal.getsignal(signal.SIGINT) is before


def test_interrupted_twice_before_it_began_ends_in_one_error(
    easy_tiles: Tiles, tiny_recipe: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def press_ctrl_c_twice(*_: Any) -> None:
        for _ in range(2):
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr("diapir.training.fit.SaltNet", press_ctrl_c_twice)
    with pytest.raises(RunError, match="ended before it began") as caught:
        train(easy_tiles, tiny_recipe(), tmp_path)
    assert caught.value.exit_code == 130


ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@pytest.mark.parametrize("number", ENDING)
def test_signals_are_given_back(number: signal.Signals) -> None:
    before = [signal.getsignal(n) for n in ENDING]
    with StopOnSignal() as stop:
        os.kill(os.getpid(), number)
        assert stop.received == number
    assert [signal.getsignal(n) for n in ENDING] == before


def test_nohup_is_respected() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopOnSignal():
            assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_closed_terminal_ends_what_can_still_speak() -> None:
    child, terminal = pty.fork()
    if not child:  # writing to a closed terminal fails, unless it was left
        code = 1
        try:
            with StopOnSignal() as stop:
                os.write(1, b"ready")
                for _ in range(600):
                    if stop.received is not None:
                        break
                    time.sleep(0.05)
                os.write(1, b"still here")
                code = 0 if stop.received == signal.SIGHUP else 2
        finally:
            os._exit(code)
    assert os.read(terminal, 5) == b"ready"
    os.close(terminal)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0


@pytest.mark.parametrize("content", [None, b"", b"damaged"])
def test_resume_without_a_good_checkpoint(
    easy_tiles: Tiles, tiny_recipe: Make, tmp_path: Path, content: bytes | None
) -> None:
    (tmp_path / "checkpoints").mkdir()
    if content is not None:
        (tmp_path / LAST_CHECKPOINT).write_bytes(content)
    with pytest.raises(RunError, match=r"no checkpoint|is damaged") as caught:
        train(easy_tiles, tiny_recipe(), tmp_path, resume=True)
    assert str(tmp_path) in str(caught.value)
    assert "train anew" in str(caught.value)


# --- what the user sees


def test_quiet_training_says_nothing(
    easy_tiles: Tiles, tiny_recipe: Make, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    recipe = tiny_recipe(optim__ema=0.9, optim__schedule="plateau", model__freeze=1, split__val=0.0)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        train(easy_tiles, recipe, tmp_path / "a")
        (tmp_path / "a").rename(tmp_path / "moved")
        train(easy_tiles, recipe, tmp_path / "moved", resume=True)
        train(easy_tiles, tiny_recipe(optim__schedule="one-cycle"), tmp_path / "b")
    assert [str(warning.message) for warning in seen] == []
    assert capfd.readouterr() == ("", "")


@pytest.fixture
def plain_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Eighty columns, in which nothing moves."""
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "dumb")


@pytest.mark.usefixtures("plain_terminal")
def test_progress_is_one_bar_and_a_line_an_epoch(
    easy_tiles: Tiles,
    tiny_recipe: Make,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    train(easy_tiles, tiny_recipe(train__epochs=3), tmp_path, progress=True)
    out, err = capfd.readouterr()
    assert out == ""
    legend, *lines = [line for line in err.splitlines() if line.strip()]
    assert "threshold 0.5" in legend
    assert max(map(len, (legend, *lines))) <= 80
    assert [line[:9] for line in lines[:3]] == ["epoch   1", "epoch   2", "epoch   3"]
    for word in ("train loss", "val loss", "score", " s"):
        assert all(word in line for line in lines[:3])
    assert len(lines) == 4
    for word in ("100 %", "3 of 3 epochs", "left"):
        assert word in lines[3]
    # the last state knows the last epoch
    scores = [float(line.split("score ")[2].split()[0]) for line in lines[:3]]
    assert f"best {max(scores):.3f} (epoch {1 + scores.index(max(scores))})" in lines[3]


@pytest.mark.usefixtures("plain_terminal")
def test_the_bar_of_a_training_that_ends_early_says_how_far_it_came(
    easy_tiles: Tiles,
    tiny_recipe: Make,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    recipe = tiny_recipe(train__epochs=60, train__early_stopping=1, optim__lr=1e-12)
    found = train(easy_tiles, recipe, tmp_path, progress=True)
    last = capfd.readouterr().err.splitlines()[-1]
    assert len(found.history) < 60
    assert f"{len(found.history)} of 60 epochs  best " in last
    assert f"(epoch {found.best_epoch})" in last


# --- snapshots of a rate that restarts


def cycled(make: Make, cycles: int, **changes: Any) -> Recipe:
    return make(
        train__epochs=4,
        train__select="last",
        optim__schedule="cosine",
        snapshots__cycles=cycles,
        **changes,
    )


@pytest.mark.parametrize("ema", [None, 0.5])
def test_each_cycle_of_the_rate_leaves_a_snapshot(
    easy_tiles: Tiles, tiny_recipe: Make, tmp_path: Path, ema: float | None
) -> None:
    found = train(easy_tiles, cycled(tiny_recipe, 2, optim__ema=ema), tmp_path / "two")
    rates = [row["lr"] for row in found.history]  # after the last step of each epoch
    assert rates[0] == pytest.approx(rates[2])
    assert rates[1] == 0.01  # begins again
    assert rates[3] == pytest.approx(0.001)
    (snapshot,) = found.snapshots
    assert not snapshot.training
    # the first cycle is a training of half the length
    half = cycled(tiny_recipe, 1, optim__ema=ema)
    half = half.model_copy(update={"train": half.train.model_copy(update={"epochs": 2})})
    alone = train(easy_tiles, half, tmp_path / "half")
    assert alone.snapshots == []
    expected = alone.net.state_dict()
    for name, value in snapshot.state_dict().items():
        assert torch.equal(value, expected[name]), name


def test_a_resumed_training_keeps_earlier_snapshots(
    easy_tiles: Tiles,
    tiny_recipe: Make,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    interrupt_at: Callable[[int], None],
) -> None:
    recipe = cycled(tiny_recipe, 4)
    whole = train(easy_tiles, recipe, tmp_path / "whole")
    assert len(whole.snapshots) == 3
    interrupt_at(2 * 6 + 1)
    assert train(easy_tiles, recipe, tmp_path / "cut").interrupted == signal.SIGINT
    monkeypatch.undo()
    resumed = train(easy_tiles, recipe, tmp_path / "cut", resume=True)
    for a, b in zip(whole.snapshots, resumed.snapshots, strict=True):
        pairs = zip(a.state_dict().values(), b.state_dict().values(), strict=True)
        assert all(torch.equal(first, second) for first, second in pairs)


def test_lightnings_own_answer_to_sigterm_is_an_interruption(
    easy_tiles: Tiles, tiny_recipe: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between two epochs it looks before the callbacks do."""
    end_epoch = SaltTask.on_train_epoch_start

    def terminate(self: SaltTask) -> None:
        if self.current_epoch == 1:
            raise SIGTERMException
        end_epoch(self)

    monkeypatch.setattr(SaltTask, "on_train_epoch_start", terminate)
    found = train(easy_tiles, tiny_recipe(train__epochs=3), tmp_path)
    assert found.interrupted == signal.SIGTERM
    assert len(found.history) == 1
