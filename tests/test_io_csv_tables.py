import csv

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diapir.errors import DataError
from diapir.io.csv_tables import CsvRow, read_depths, read_rle_csv, read_rows


@pytest.fixture
def table(tmp_path):
    def write(content, name="train.csv"):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


def test_rle_rows_keep_their_order_and_empty_masks(table):
    path = table("id,rle_mask\nb,1 2\na,\n")
    assert list(read_rle_csv(path).items()) == [("b", "1 2"), ("a", "")]


def test_rows_know_their_line(table):
    path = table("id,rle_mask\na,1 2\n\na,\n")
    assert read_rows(path) == [CsvRow(2, "a", "1 2"), CsvRow(4, "a", "")]


@pytest.mark.parametrize(
    "content",
    [
        b"id,z\na,306\nb,5.5\n",
        b"\xef\xbb\xbfid,z\na,306\nb,5.5\n",
        b"id,z\r\na,306\r\nb,5.5\r\n",
        b"id,z\na,306\nb,5.5",
        b'"id","z"\n"a","306"\n"b","5.5"\n',
        b"id,z\n\na,306\nb,5.5\n\n",
        b"id, z\na, 306\nb,5.5\n",
    ],
)
def test_depths_in_every_usual_spelling(table, content):
    assert read_depths(table(content)) == {"a": 306.0, "b": 5.5}


def test_a_long_field_is_read_and_the_limit_put_back(table):
    text = "1 2 " * 100_000
    csv.field_size_limit(99_999)
    assert read_rle_csv(table(f"id,rle_mask\na,{text}\n")) == {"a": text}
    assert csv.field_size_limit(131_072) == 99_999


def test_another_header_on_request(table):
    assert read_rle_csv(table("name,runs\na,1 1\n"), header=("name", "runs")) == {"a": "1 1"}


@pytest.mark.parametrize(
    ("content", "complaint", "row"),
    [
        ("", "the file has no header", "row 1"),
        ("a,1 2\n", "the header is 'a,1 2'", "row 1"),
        ("id;rle_mask\na;1 2\n", "the header is 'id;rle_mask'", "row 1"),
        ("id,rle_mask,extra\n", "the header is 'id,rle_mask,extra'", "row 1"),
        ("id,rle_mask\na,1 2\nb\n", "1 column instead of 2", "row 3"),
        ("id,rle_mask\na,1,2\n", "3 columns instead of 2", "row 2"),
        ("id,rle_mask\n\n,1 2\n", "the id is ''", "row 3"),
        ("id,rle_mask\n a,1 2\n", "the id is ' a'", "row 2"),
        ("id,rle_mask\na,\nb,\na,1 1\n", "duplicate id 'a'", "rows 2 and 4"),
        ('id,rle_mask\na,"1 2\n', "not valid CSV", "row 2"),
        (b"PK\x03\x04\xff\xfe", "byte 4 is 0xff", "train.csv"),
        ("id,rle_mask\na,1 2\n".encode("utf-16"), "not a text file", "train.csv"),
    ],
)
def test_a_malformed_table_is_refused_with_its_row(table, content, complaint, row):
    path = table(content)
    with pytest.raises(DataError) as caught:
        read_rle_csv(path)
    assert complaint in caught.value.what
    assert caught.value.where.startswith(str(path))
    assert caught.value.where.endswith(row)
    assert caught.value.mend


@pytest.mark.parametrize("z", ["", "deep", "nan", "inf", "1,5"])
def test_a_depth_that_is_no_number_is_refused_with_its_row(table, z):
    path = table(f'id,z\na,1\nb,"{z}"\n', "depths.csv")
    with pytest.raises(DataError, match="the depth of 'b'") as caught:
        read_depths(path)
    assert caught.value.where == f"{path} row 3"


def test_a_depth_given_twice_is_refused(table):
    with pytest.raises(DataError, match="duplicate id 'a'"):
        read_depths(table("id,z\na,1\na,1\n"))


def test_a_missing_table_is_told(tmp_path):
    with pytest.raises(DataError, match="cannot read the table: No such file"):
        read_depths(tmp_path / "depths.csv")


def test_a_folder_is_no_table(tmp_path):
    with pytest.raises(DataError, match="cannot read the table"):
        read_rle_csv(tmp_path)


@given(st.binary(max_size=60))
def test_any_bytes_are_read_or_refused(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "any.csv"
    path.write_bytes(b"id,rle_mask\n" + content)
    try:
        rows = read_rle_csv(path)
    except DataError:
        return
    assert all(id_ == id_.strip() != "" for id_ in rows)
