"""Images arrive in order, the first of use before the last are read, and errors keep the order."""

import threading
from pathlib import Path

import numpy as np
import pytest

from diapir.errors import DataError
from diapir.io import stack as stack_module
from diapir.io.images import encode_png, read_grey
from diapir.io.sources import FolderSource
from diapir.io.stack import ImageStack
from diapir.io.tiles import arriving_tiles, read_tiles

COUNT = 7


@pytest.fixture(autouse=True)
def _small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stack_module, "_FILES_PER_TASK", 2)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for place in range(COUNT):
        (tmp_path / f"{place}.png").write_bytes(encode_png(np.full((3, 4), place, np.uint8)))
    return tmp_path


def stack_of(folder: Path, read: object = read_grey) -> ImageStack:
    names = [f"{place}.png" for place in range(COUNT)]
    return ImageStack(FolderSource(folder), names, read)  # type: ignore[arg-type]


def test_it_is_indexed_like_an_array(folder: Path) -> None:
    with stack_of(folder) as stack:
        assert (len(stack), stack.shape) == (COUNT, (COUNT, 3, 4))
        assert stack[2:4][:, 0, 0].tolist() == [2, 3]
        assert stack[np.array([6, 0])][:, 0, 0].tolist() == [6, 0]
        assert stack[COUNT:].shape == (0, 3, 4)
        assert stack[:][:, 2, 3].tolist() == list(range(COUNT))
        assert sum(stack.counts()) == COUNT


def test_the_first_are_there_while_the_last_are_read(folder: Path) -> None:
    going_on = threading.Event()

    def read(data: bytes, where: str) -> np.ndarray:
        if where.endswith("6.png"):
            assert going_on.wait(30)
        return read_grey(data, where)

    with stack_of(folder, read) as stack:
        assert stack[:6][:, 0, 0].tolist() == [0, 1, 2, 3, 4, 5]
        assert not going_on.is_set()
        going_on.set()
        assert stack[6:][0, 0, 0] == 6


def test_a_bad_file_is_told_when_it_is_asked_for(folder: Path) -> None:
    (folder / "3.png").write_bytes(b"bad")
    (folder / "5.png").write_bytes(b"bad")
    with stack_of(folder) as stack:
        assert stack[:2].shape == (2, 3, 4)
        with pytest.raises(DataError) as caught:
            stack[:]
    assert caught.value.where == str(folder / "3.png")


def test_a_damaged_file_is_told_before_a_missing_one_of_the_same_part(folder: Path) -> None:
    (folder / "2.png").write_bytes(b"bad")
    (folder / "3.png").unlink()
    with stack_of(folder) as stack:
        assert stack[:2].shape == (2, 3, 4)
        with pytest.raises(DataError) as caught:
            stack[:]
    assert caught.value.where == str(folder / "2.png")


def test_large_images_are_not_held_in_numbers(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stack_module, "_PIXELS_PER_TASK", 3 * 4)
    with stack_of(folder) as stack:
        assert list(stack.counts()) == [1] * COUNT


def test_arriving_tiles_are_those_that_are_read_at_once(folder: Path) -> None:
    (folder / "depths.csv").write_text(
        "id,z\n" + "".join(f"{place},{100 * place}\n" for place in range(COUNT))
    )
    wanted = read_tiles(folder, "test")
    with arriving_tiles(folder) as tiles:
        assert len(tiles) == COUNT
        found = tiles.all()
    assert found.fingerprint() == wanted.fingerprint()
    assert (found.ids, found.source) == (wanted.ids, wanted.source)
    assert found.z_feet is not None
    assert np.array_equal(found.z_feet, wanted.z_feet)
