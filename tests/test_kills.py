"""Killed, told to stop, short of space or crowded: nothing is lost, nothing mixed."""

import errno
import fcntl
import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from diapir.errors import RunError
from diapir.io.atomic import write_bytes_atomic
from diapir.io.lock import sole_writer
from diapir.runs.folder import RunFolder

ROOT = Path(__file__).parents[1]


def test_killed_trainings_end_as_if_nothing_had_been(tmp_path: Path) -> None:
    out = tmp_path / "kills.json"
    command = [sys.executable, "kills.py", "--kills", "3", "--out", str(out)]
    done = subprocess.run(command, cwd=ROOT / "benchmarks", capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(out.read_text(encoding="utf-8"))
    assert found["survived"] == found["kills"] == 3
    assert found["while_writing_a_checkpoint"] >= 1
    stops = {stop["signal"]: stop for stop in found["stops"]}
    assert {name: stop["exit_code"] for name, stop in stops.items()} == {
        "SIGTERM": 143,
        "SIGINT": 130,
    }
    assert all(stop["has_model"] and not stop["broken"] for stop in stops.values())
    assert all(stop["processor_seconds"] < 30 for stop in stops.values())


LIMITED = """
import sys
from pathlib import Path
from diapir.io.atomic import write_bytes_atomic
from diapir.errors import RunError
from diapir.io.atomic import write_bytes_atomic
try:
    write_bytes_atomic(Path(sys.argv[1]), bytes(int(sys.argv[2])))
except RunError as error:
    print(error)
    sys.exit(2)
"""


def write(path: Path, size: int, **how: object) -> subprocess.CompletedProcess[str]:
    """Write a file in a process of its own."""
    command = [sys.executable, "-c", LIMITED, str(path), str(size)]
    return subprocess.run(command, capture_output=True, text=True, **how)  # type: ignore[call-overload]


def test_a_file_over_the_limit_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "model.bin"
    assert write(path, 1000).returncode == 0

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))

    done = write(path, 3000, preexec_fn=limit)
    assert done.returncode == 2
    assert "cannot write the file" in done.stdout
    assert done.stderr == ""
    assert path.stat().st_size == 1000
    assert [p.name for p in tmp_path.iterdir()] == ["model.bin"]


def test_a_full_disk_leaves_the_old_file(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)]
    try:
        mounted = subprocess.run(mount, capture_output=True).returncode == 0
    except OSError:
        mounted = False
    if not mounted:
        pytest.skip("a disk of 64 kB cannot be mounted here; the test above limits the file")
    try:
        assert write(disk / "a.bin", 30_000).returncode == 0
        done = write(disk / "a.bin", 60_000)
        assert done.returncode == 2
        assert "Free some space" in done.stdout
        assert (disk / "a.bin").stat().st_size == 30_000
        assert len(list(disk.iterdir())) == 1
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)  # noqa: S607
        done = write(disk / "a.bin", 10)
        assert done.returncode == 2
        assert "read-only" in done.stdout
        assert (disk / "a.bin").stat().st_size == 30_000
    finally:
        subprocess.run(["umount", str(disk)], check=True)  # noqa: S607


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become somebody else")
def test_a_folder_without_permission_is_told(tmp_path: Path) -> None:
    for folder in (tmp_path, *tmp_path.parents[:2]):
        folder.chmod(0o755)  # so that the other user gets here
    place = tmp_path / "closed"
    place.mkdir(mode=0o755)
    child = os.fork()
    if not child:  # as nobody, for whom permissions count; root is asked for none
        code = 1
        try:
            os.setuid(65534)
            write_bytes_atomic(place / "a.bin", b"x")
        except RunError as error:
            code = 2 if "Ask for write permission" in str(error) else 3
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 2
    assert not list(place.iterdir())


HOLDER = """
import sys, time
from pathlib import Path
from diapir.io.lock import sole_writer
with sole_writer(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize("name", ["submission.csv", "masks"])
def test_two_writers_are_told_apart(tmp_path: Path, name: str) -> None:
    out = tmp_path / name
    command = [sys.executable, "-c", HOLDER, str(out)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(RunError, match=f"another process is writing there(.|\n)*{name}"):
            sole_writer(out).__enter__()
        with sole_writer(tmp_path / "other"):
            pass
        holder.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 20
    while True:
        try:
            with sole_writer(out):
                break
        except RunError:
            assert time.monotonic() < deadline
            time.sleep(0.05)
    assert not list(tmp_path.iterdir()), "no lock is left"


def test_where_nothing_can_be_locked_it_is_done_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with sole_writer(tmp_path / "out"), RunFolder(tmp_path).locked():
        pass


def test_a_lock_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(RunError, match="cannot write there"):
        sole_writer(tmp_path / "file" / "out").__enter__()
