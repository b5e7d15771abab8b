import errno
import os
import stat

import pytest

from diapir.errors import DataError, RunError
from diapir.io.atomic import atomic_write, write_bytes_atomic, write_text_atomic


def names_in(folder):
    return [path.name for path in folder.iterdir()]


def write_half(path, error):
    with atomic_write(path) as temporary:
        temporary.write_bytes(b"half of the new")
        raise error


def test_the_file_appears_only_when_the_block_ends(tmp_path):
    path = tmp_path / "figure.png"
    with atomic_write(path) as temporary:
        assert temporary.parent == tmp_path
        assert temporary.name.startswith(".")
        assert temporary.suffix == ".png"
        temporary.write_bytes(b"half")
        assert not path.exists()
        temporary.write_bytes(b"whole")
    assert path.read_bytes() == b"whole"
    assert names_in(tmp_path) == ["figure.png"]


@pytest.mark.parametrize("error", [ValueError("no"), KeyboardInterrupt(), DataError("bad")])
def test_an_error_leaves_the_old_file_and_no_other(tmp_path, error):
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"old")
    with pytest.raises(type(error)):
        write_half(path, error)
    assert path.read_bytes() == b"old"
    assert names_in(tmp_path) == ["model.safetensors"]


@pytest.mark.parametrize(
    ("code", "mend"),
    [
        (errno.ENOSPC, "Free some space"),
        (errno.EDQUOT, "quota"),
        (errno.EROFS, "read-only"),
        (errno.EACCES, "permission"),
        (errno.EIO, "Choose another place"),
    ],
)
@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_failing_disk_is_told(tmp_path, monkeypatch, code, mend, call):
    def fail(*_arguments):
        raise OSError(code, os.strerror(code))

    path = tmp_path / "submission.csv"
    path.write_text("old")
    monkeypatch.setattr(os, call, fail)
    with pytest.raises(RunError, match="cannot write the file") as caught:
        write_text_atomic(path, "new")
    monkeypatch.undo()
    assert caught.value.where == str(path)
    assert mend in caught.value.mend
    assert path.read_text() == "old"
    assert names_in(tmp_path) == ["submission.csv"]


def test_a_full_disk_inside_the_block_is_told(tmp_path):
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with pytest.raises(RunError, match="No space left"):
        write_half(tmp_path / "a.bin", full)
    assert names_in(tmp_path) == []


def test_a_name_that_is_not_in_utf8_is_written_as_it_is(tmp_path):
    write_text_atomic(tmp_path / "next.txt", os.fsdecode(b"diapir train --data dat\xe4\n"))
    assert (tmp_path / "next.txt").read_bytes() == b"diapir train --data dat\xe4\n"


def test_missing_folders_are_made(tmp_path):
    write_bytes_atomic(tmp_path / "run" / "figures" / "a.png", b"x")
    assert (tmp_path / "run" / "figures" / "a.png").read_bytes() == b"x"


def test_a_file_in_place_of_a_folder_is_told(tmp_path):
    (tmp_path / "run").write_text("a file")
    with pytest.raises(RunError, match="cannot write") as caught:
        write_text_atomic(tmp_path / "run" / "a.txt", "x")
    assert "file stands where a folder" in caught.value.mend


def test_a_folder_in_place_of_the_file_is_told(tmp_path):
    (tmp_path / "a.txt").mkdir()
    with pytest.raises(RunError, match="cannot write") as caught:
        write_text_atomic(tmp_path / "a.txt", "x")
    assert "folder has this name" in caught.value.mend
    assert names_in(tmp_path) == ["a.txt"]


def test_a_name_too_long_is_told(tmp_path):
    with pytest.raises(RunError, match="cannot write") as caught:
        write_text_atomic(tmp_path / ("a" * 300), "x")
    assert "shorter name" in caught.value.mend


def test_a_long_name_that_the_disk_takes_works(tmp_path):
    path = tmp_path / ("a" * 251 + ".csv")
    write_text_atomic(path, "x")
    assert path.read_text() == "x"


def test_a_block_that_writes_nothing_is_an_error(tmp_path):
    with pytest.raises(RunError), atomic_write(tmp_path / "a.txt"):
        pass
    with pytest.raises(RunError), atomic_write(tmp_path / "a.txt", sync=False):
        pass


def test_a_link_stays_a_link(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    target = tmp_path / "elsewhere" / "a.txt"
    target.write_text("old")
    (tmp_path / "a.txt").symlink_to(target)
    write_text_atomic(tmp_path / "a.txt", "new")
    assert (tmp_path / "a.txt").is_symlink()
    assert target.read_text() == "new"


def test_the_file_has_ordinary_permissions(tmp_path):
    plain = tmp_path / "plain"
    plain.write_text("")
    write_text_atomic(tmp_path / "atomic", "")
    modes = [stat.S_IMODE(p.stat().st_mode) for p in (plain, tmp_path / "atomic")]
    assert modes[0] == modes[1]


def test_text_is_utf8_with_plain_line_ends(tmp_path):
    write_text_atomic(tmp_path / "a.txt", "salt\nS\u00e4lz\n")
    assert (tmp_path / "a.txt").read_bytes() == b"salt\nS\xc3\xa4lz\n"


def test_sync_off_does_not_wait_for_the_disk(tmp_path, monkeypatch):
    def forbidden(_descriptor):
        raise AssertionError("fsync was called")

    monkeypatch.setattr(os, "fsync", forbidden)
    write_bytes_atomic(tmp_path / "mask.png", b"x", sync=False)
    assert (tmp_path / "mask.png").read_bytes() == b"x"


def test_a_file_system_without_fsync_of_folders_is_no_error(tmp_path, monkeypatch):
    def fsync_of_files_only(descriptor):
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

    monkeypatch.setattr(os, "fsync", fsync_of_files_only)
    write_text_atomic(tmp_path / "a.txt", "x")
    assert (tmp_path / "a.txt").read_text() == "x"
