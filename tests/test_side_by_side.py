"""Trainings at the same time: signals and failures. `test_rounds.py` trains some for real."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from diapir.errors import RunError
from diapir.runs import side_by_side
from diapir.runs.side_by_side import train_side_by_side

PROGRAM = """#!{python} -S
import os, pathlib, signal, sys, time
run = pathlib.Path(sys.argv[sys.argv.index("--resume") + 1])
def end(*_):
    (run / "ended").write_text("")
    sys.exit(143)
signal.signal(signal.SIGTERM, end)
(run / "history.csv").write_text("epoch,progress\\n1,0.5\\n")
(run / "threads").write_text(os.environ["OMP_NUM_THREADS"])
if run.name == "broken":
    sys.exit("error: no such disk")
if run.name == "long":
    time.sleep(60)
if run.name == "deaf":
    signal.signal(signal.SIGTERM, lambda *_: time.sleep(20))
    time.sleep(20)
"""


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stands for Python: a training that does nothing, fails, or takes long, by its name."""
    path = tmp_path / "python"
    path.write_text(PROGRAM.format(python=sys.executable))
    path.chmod(0o755)
    monkeypatch.setattr(side_by_side.sys, "executable", str(path))
    return path


def folders(where: Path, *names: str) -> list[Path]:
    for name in names:
        (where / name).mkdir()
    return [where / name for name in names]


def train(runs: list[Path]) -> int | None:
    return train_side_by_side(runs, Path("data"), splits=1, threads=3, progress=False)


def test_all_are_trained_with_their_share_of_threads(program: Path, tmp_path: Path) -> None:
    runs = folders(tmp_path, "a", "b")
    assert train(runs) is None
    assert [(run / "threads").read_text() for run in runs] == ["3", "3"]


def test_one_that_fails_ends_the_others_and_is_told_of(program: Path, tmp_path: Path) -> None:
    begun = time.monotonic()
    with pytest.raises(RunError, match=r"no such disk(.|\n)*broken(.|\n)*--resume"):
        train(folders(tmp_path, "long", "broken"))
    assert time.monotonic() - begun < 30
    assert (tmp_path / "long" / "ended").exists()


def test_a_signal_ends_all_of_them_cleanly(program: Path, tmp_path: Path) -> None:
    (run, other) = folders(tmp_path, "long", "a")

    def press_ctrl_c() -> None:
        while not (run / "threads").exists():
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=press_ctrl_c).start()
    assert train([run, other]) == signal.SIGINT
    assert (run / "ended").exists()


def test_asked_twice_to_end_they_are_not_waited_for(program: Path, tmp_path: Path) -> None:
    (run,) = folders(tmp_path, "deaf")

    def press_ctrl_c_twice() -> None:
        while not (run / "threads").exists():
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(1)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=press_ctrl_c_twice).start()
    begun = time.monotonic()
    assert train([run]) == signal.SIGINT
    assert time.monotonic() - begun < 15


def test_the_bar_follows_the_histories(
    program: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = folders(tmp_path, "a", "b")
    train_side_by_side(runs, Path("data"), splits=1, threads=1, progress=True)
    assert "50/100" in capsys.readouterr().err


def test_a_training_ends_with_the_process_that_began_it(tmp_path: Path) -> None:
    training = """
import signal, sys, time
from pathlib import Path
from diapir.runs.side_by_side import end_with_parent
def end(*_):
    Path("ended").write_text("")
    sys.exit(143)
signal.signal(signal.SIGTERM, end)
end_with_parent()
Path("begun").write_text("")
time.sleep(60)
"""
    parent = """
import os, subprocess, sys
own = {"DIAPIR_PARENT": str(os.getpid())}
subprocess.run([sys.executable, "-c", sys.argv[1]], env=os.environ | own, start_new_session=True)
"""
    begun = subprocess.Popen([sys.executable, "-c", parent, training], cwd=tmp_path)
    wait_for(tmp_path / "begun")
    begun.kill()
    begun.wait()
    wait_for(tmp_path / "ended")


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < deadline, f"no {path}"
        time.sleep(0.05)
