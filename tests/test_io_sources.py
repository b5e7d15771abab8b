import os
import warnings
import zipfile
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diapir.errors import DataError
from diapir.io import sources
from diapir.io.sources import open_source

FILES = {
    "images/b.png": b"bb",
    "images/a.png": b"a",
    "images/deep/c.png": b"c",
    "masks/a.png": b"mask",
    "top.png": b"top",
    ".hidden.png": b"no",
    "images/._a.png": b"no",
}


def zipped(files, compression=zipfile.ZIP_STORED):
    stream = BytesIO()
    with zipfile.ZipFile(stream, "w", compression) as packed:
        for name, content in files.items():
            packed.writestr(name, content)
    return stream.getvalue()


@pytest.fixture(params=["folder", "stored", "deflated"])
def place(request, tmp_path):
    if request.param == "folder":
        for name, content in FILES.items():
            path = tmp_path / "data" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        return tmp_path / "data"
    method = {"stored": 0, "deflated": zipfile.ZIP_DEFLATED}
    path = tmp_path / "data.zip"
    path.write_bytes(zipped(FILES, method[request.param]))
    return path


def test_folders_and_zips_read_alike(place):
    before = sorted(place.parent.rglob("*"))
    with open_source(place) as source:
        assert source.names("images") == ["images/a.png", "images/b.png"]
        assert source.names("images/deep") == ["images/deep/c.png"]
        assert source.names("") == ["top.png"]
        assert source.names("nothing") == []
        assert source.names("top.png") == []
        assert source.read("images/b.png") == b"bb"
        assert source.describe("images/b.png") == str(place / "images" / "b.png")
    assert sorted(place.parent.rglob("*")) == before, "something was unpacked"


def test_a_missing_file_is_told(place):
    with open_source(place) as source, pytest.raises(DataError, match="cannot read") as caught:
        source.read("images/z.png")
    assert caught.value.where == str(place / "images" / "z.png")


def test_a_huge_file_is_refused_unread(place, monkeypatch):
    monkeypatch.setattr(sources, "MAX_FILE_BYTES", 1)
    with open_source(place) as source, pytest.raises(DataError, match="the file has 2 bytes"):
        source.read("images/b.png")


def test_many_threads_read_at_once(tmp_path):
    files = {f"images/{i}.png": os.urandom(3000) for i in range(300)}
    (tmp_path / "data.zip").write_bytes(zipped(files, zipfile.ZIP_DEFLATED))
    with (
        open_source(tmp_path / "data.zip") as source,
        ThreadPoolExecutor(8) as threads,
    ):
        assert list(threads.map(source.read, files)) == list(files.values())


def test_apple_double_files_are_passed_over(tmp_path):
    (tmp_path / "a.zip").write_bytes(zipped({"__MACOSX/images/a.png": b"", "images/a.png": b""}))
    with open_source(tmp_path / "a.zip") as source:
        assert source.names("__MACOSX/images") == []
        assert source.names("images") == ["images/a.png"]


def test_a_name_twice_in_a_zip_shows_twice(tmp_path):
    with warnings.catch_warnings(), zipfile.ZipFile(tmp_path / "a.zip", "w") as packed:
        warnings.simplefilter("ignore")
        packed.writestr("images/a.png", b"1")
        packed.writestr("images/a.png", b"2")
    with open_source(tmp_path / "a.zip") as source:
        assert source.names("images") == ["images/a.png"] * 2


def test_nothing_there_is_told(tmp_path):
    with pytest.raises(DataError, match="no such folder or zip"):
        open_source(tmp_path / "nothing")


@pytest.mark.parametrize("content", [b"", b"not a zip", zipped(FILES)[:-30]])
def test_a_file_that_is_no_zip_is_told(tmp_path, content):
    (tmp_path / "train.zip").write_bytes(content)
    with pytest.raises(DataError, match="cannot open the zip") as caught:
        open_source(tmp_path / "train.zip")
    assert caught.value.where == str(tmp_path / "train.zip")


@pytest.mark.parametrize(
    ("name", "mend"), [("line.sgy", "diapir map"), ("a.SEGY", "diapir map"), ("a.csv", "PNG files")]
)
def test_a_file_of_another_kind_is_told_with_what_reads_it(tmp_path, name, mend):
    (tmp_path / name).write_bytes(b"id,rle_mask")
    with pytest.raises(DataError, match=f"of images\n(.|\n)*{mend}") as caught:
        open_source(tmp_path / name)
    assert caught.value.where == str(tmp_path / name)


def test_a_zip_needs_no_suffix(tmp_path):
    (tmp_path / "tiles").write_bytes(zipped(FILES))
    with open_source(tmp_path / "tiles") as source:
        assert source.names("images")


def test_damaged_bytes_in_a_zip_are_told(tmp_path):
    (tmp_path / "a.zip").write_bytes(zipped(FILES).replace(b"bb", b"bx", 1))
    with open_source(tmp_path / "a.zip") as source, pytest.raises(DataError, match="CRC"):
        source.read("images/b.png")


def test_an_encrypted_zip_is_told(tmp_path):
    content = bytearray(zipped({"a.png": b"a"}))
    content[6] |= 1  # the flag in the entry's own header
    content[content.index(b"PK\x01\x02") + 8] |= 1  # and in the central directory
    (tmp_path / "a.zip").write_bytes(content)
    with open_source(tmp_path / "a.zip") as source, pytest.raises(DataError, match="encrypted"):
        source.read("a.png")


def test_a_folder_that_cannot_be_listed_is_told(tmp_path, monkeypatch):
    def refuse(_path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "scandir", refuse)
    with open_source(tmp_path) as source, pytest.raises(DataError, match="Permission denied"):
        source.names("images")


@given(st.data())
def test_a_zip_with_any_bytes_changed_is_read_or_refused(tmp_path_factory, data):
    content = bytearray(zipped({"a.png": b"a" * 40, "b.png": b"b"}, zipfile.ZIP_DEFLATED))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path: Path = tmp_path_factory.getbasetemp() / "any.zip"
    path.write_bytes(content)
    try:
        with warnings.catch_warnings(), open_source(path) as source:
            warnings.simplefilter("ignore")
            for name in source.names(""):
                source.read(name)
    except DataError:
        return
