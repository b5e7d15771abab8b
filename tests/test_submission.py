import re
import sys

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from diapir.errors import RunError, SubmissionError
from diapir.export.submission import (
    KINDS,
    check_submission,
    write_run_lengths,
    write_submission,
)
from diapir.io.csv_tables import read_rle_csv
from diapir.io.rle import decode_rle

IDS = ["aa", "bb", "cc"]
SHAPE = (4, 5)
GOOD = "id,rle_mask\naa,1 3 5 2\nbb,\ncc,20 1\n"


def check(tmp_path, content, **options):
    file = tmp_path / "submission.csv"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return check_submission(file, IDS, SHAPE, **options)


def kinds(problems):
    return [(problem.kind, problem.row) for problem in problems]


@given(masks=arrays(np.bool_, st.tuples(st.integers(1, 6), st.just(4), st.just(5))))
@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_what_is_written_is_valid_and_reads_back(tmp_path, masks):
    ids = [f"tile{k}" for k in range(len(masks))]
    file = tmp_path / "out" / "s.csv"
    write_submission(file, ids, masks)
    assert check_submission(file, ids, SHAPE) == []
    rows = read_rle_csv(file)
    assert list(rows) == ids
    for name, mask in zip(ids, masks, strict=True):
        assert (decode_rle(rows[name], SHAPE, where=name) == mask).all()


def test_the_order_of_the_sample_is_kept_and_the_bytes_are_plain(tmp_path):
    file = tmp_path / "s.csv"
    masks = np.zeros((3, *SHAPE), np.uint8)
    masks[0, :3, 0] = 1
    write_submission(file, IDS, masks, order=["cc", "aa", "bb"])
    assert file.read_bytes() == b"id,rle_mask\ncc,\naa,1 3\nbb,\n"


@pytest.mark.parametrize(
    ("ids", "masks", "order", "words"),
    [
        (["a"], np.zeros((2, 4, 5), bool), None, "shape"),
        (["a"], np.zeros((4, 5), bool), None, "shape"),
        (["a"], np.zeros((1, 4, 5), np.float32), None, "float32"),
        (["a", "a"], np.zeros((2, 4, 5), bool), None, "duplicate id 'a'"),
        (["a,b"], np.zeros((1, 4, 5), bool), None, "'a,b'"),
        (['a"'], np.zeros((1, 4, 5), bool), None, "CSV"),
        (["a\n"], np.zeros((1, 4, 5), bool), None, "CSV"),
        ([""], np.zeros((1, 4, 5), bool), None, "CSV"),
        (["a", "b"], np.zeros((2, 4, 5), bool), ["a", "c"], "such as 'c'"),
        (["a", "b"], np.zeros((2, 4, 5), bool), ["a"], "order has 1"),
        (["a", "b"], np.zeros((2, 4, 5), bool), ["a", "a"], "same ids"),
        (["a", "b"], np.zeros((2, 4, 5), bool), ["a", "b", "a"], "order has 3"),
    ],
)
def test_what_cannot_be_valid_is_not_written(tmp_path, ids, masks, order, words):
    file = tmp_path / "s.csv"
    file.write_text("before")
    with pytest.raises(SubmissionError, match=re.escape(words)):
        write_submission(file, ids, masks, order=order)
    assert file.read_text() == "before"
    assert list(tmp_path.iterdir()) == [file]


def test_each_tile_has_one_text(tmp_path):
    with pytest.raises(SubmissionError, match="1 run-lengths for 2 ids"):
        write_run_lengths(tmp_path / "s.csv", ["a", "b"], ["1 2"])
    assert not list(tmp_path.iterdir())


def test_an_impossible_place_is_a_run_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError):
        write_submission(tmp_path / "file" / "s.csv", ["a"], np.zeros((1, 2, 2), bool))


@pytest.mark.parametrize(
    "content",
    [
        GOOD,
        GOOD.replace("\n", "\r\n"),
        GOOD.replace("\n", "\r"),
        GOOD.rstrip("\n"),
        GOOD + "\n\n \n",
        "id,rle_mask\ncc,20 1\nbb,\naa,1 3 5 2\n",
    ],
)
def test_valid_files_have_no_problem(tmp_path, content):
    assert check(tmp_path, content) == []


FAULTS = {
    "empty": (b"", [("empty", None)]),
    "only blank lines": ("\n \r\n", [("empty", None)]),
    "byte-order mark": (b"\xef\xbb\xbf" + GOOD.encode(), [("byte-order mark", 1)]),
    "mark alone": (b"\xef\xbb\xbf", [("byte-order mark", 1), ("empty", None)]),
    "zip or workbook": (b"PK\x03\x04rest", [("not text", None)]),
    "gzip": (b"\x1f\x8b\x08", [("not text", None)]),
    "UTF-16": (GOOD.encode("utf-16"), [("not text", None)]),
    "zero byte": (b"id,rle_mask\naa,1 3\nbb\x00,", [("not text", 3)]),
    "Latin-1": (b"id,rle_mask\r\naa,\r\nb\xe9,\r\n", [("not text", 3)]),
    "other header": (GOOD.replace("rle_mask", "mask"), [("header", 1)]),
    "capitals": (GOOD.replace("id,", "ID,"), [("header", 1)]),
    "blank in header": (GOOD.replace("id,", "id, "), [("header", 1)]),
    "no header": (GOOD.removeprefix("id,rle_mask\n"), [("header", 1)]),
    "no header, bad row": ("aa,1 3\nbb,x\ncc,\n", [("header", 1), ("run-lengths", 2)]),
    "swapped": ("rle_mask,id\n1 3,aa\n,bb\n,cc\n", [("header", 1)]),
    "quoted header": (GOOD.replace("id,rle_mask", '"id","rle_mask"'), [("quotes", 1)]),
    "semicolons": (GOOD.replace(",", ";"), [("separator", 1)]),
    "tabs": (GOOD.replace(",", "\t"), [("separator", 1)]),
    "index column": (",id,rle_mask\n0,aa,\n1,bb,\n2,cc,1 1\n", [("columns", 1)]),
    "no comma": (GOOD.replace("bb,", "bb"), [("columns", 3)]),
    "commas in the mask": (GOOD.replace("20 1", "20,1"), [("columns", 4), ("run-lengths", 4)]),
    "extra column": (GOOD.replace("bb,", "bb,,x"), [("columns", 3)]),
    "quoted mask": (GOOD.replace("20 1", '"20 1"'), [("quotes", 4)]),
    "blank row": (GOOD.replace("bb", "\nbb"), [("blank row", 3)]),
    "unknown": (GOOD + "dd,\n", [("unknown id", 5)]),
    "suffix": (GOOD.replace("bb", "bb.png"), [("unknown id", 3)]),
    "blank after the id": (GOOD.replace("bb", "bb "), [("unknown id", 3)]),
    "duplicate": (GOOD + "aa,\n", [("duplicate id", 5)]),
    "duplicate and short": (GOOD + "aa\n", [("columns", 5), ("duplicate id", 5)]),
    "missing": (GOOD.replace("bb,\n", ""), [("missing id", None)]),
    "odd": (GOOD.replace("20 1", "20 1 3"), [("run-lengths", 4)]),
    "overlap": (GOOD.replace("1 3 5 2", "1 5 5 2"), [("run-lengths", 2)]),
    "out of range": (GOOD.replace("20 1", "20 2"), [("run-lengths", 4)]),
    "from zero": (GOOD.replace("1 3", "0 3"), [("run-lengths", 2)]),
    "not sorted": (GOOD.replace("1 3 5 2", "5 2 1 3"), [("run-lengths", 2)]),
    "zero length": (GOOD.replace("20 1", "20 0"), [("run-lengths", 4)]),
    "floats": (GOOD.replace("20 1", "20.0 1.0"), [("run-lengths", 4)]),
    "negative": (GOOD.replace("20 1", "20 -1"), [("run-lengths", 4)]),
    "words": (GOOD.replace("20 1", "salt here"), [("run-lengths", 4)]),
    "brackets": (GOOD.replace("20 1", "[20 1]"), [("run-lengths", 4)]),
    "nan for empty": (GOOD.replace("bb,", "bb,nan"), [("run-lengths", 3)]),
    "a blank for empty": (GOOD.replace("bb,", "bb, "), [("run-lengths", 3)]),
    "tab and a wide blank for empty": (GOOD.replace("bb,", "bb,\t\u00a0"), [("run-lengths", 3)]),
    "quotes for empty": (GOOD.replace("bb,", 'bb,""'), [("quotes", 3)]),
    "blank in quotes": (GOOD.replace("bb,", 'bb," "'), [("quotes", 3), ("run-lengths", 3)]),
}


@pytest.mark.parametrize(("content", "expected"), FAULTS.values(), ids=FAULTS.keys())
def test_each_fault_is_named_with_its_row_and_mend(tmp_path, content, expected):
    problems = check(tmp_path, content)
    assert kinds(problems) == expected
    for problem in problems:
        assert problem.kind in KINDS
        assert problem.message.endswith(".")
        assert problem.mend.endswith(".")
        assert problem.message in str(problem)
        assert problem.mend in str(problem)


def test_every_kind_is_among_the_faults_above():
    assert {kind for _, expected in FAULTS.values() for kind, _ in expected} == set(KINDS)


@pytest.mark.parametrize(
    ("text", "words", "mend"),
    [
        ("20 1 3", "odd", "pairs"),
        ("1 5 5 2", "overlap", "not overlapping"),
        ("20 2", "out of range", "pairs"),
        ("0 3", "out of range", "from 1"),
        ("5 2 1 3", "not sorted", "rising"),
        ("20 0", "length 0", "pairs"),
        ("20.0 1.0", "whole number", "decimal point"),
        ("(20 1)", "whole number", "brackets"),
        ("NaN", "NaN", "empty"),
        (" nan ", "nan", "empty"),
        ("<NA>", "<NA>", "empty"),
        ("''", "''", "empty"),
        ("  ", "'  ', which is not empty", "nothing at all"),
    ],
)
def test_each_malformed_mask_says_how(tmp_path, text, words, mend):
    (problem,) = check(tmp_path, GOOD.replace("20 1", text))
    assert words in problem.message
    assert "'cc'" in problem.message
    assert mend in problem.mend


@pytest.mark.parametrize(
    ("text", "mend"), [('""', "nothing at all"), ('"20 1"', "Write them without")]
)
def test_quotes_say_how_an_empty_mask_is_written(tmp_path, text, mend):
    (problem,) = check(tmp_path, GOOD.replace("20 1", text))
    assert problem.kind == "quotes"
    assert problem.row == 4
    assert text in problem.message
    assert mend in problem.mend


def test_near_ids_are_recognised_and_not_called_missing(tmp_path):
    content = GOOD.replace("aa", "images/aa.png").replace("cc", " cc")
    problems = check(tmp_path, content)
    assert kinds(problems) == [("unknown id", 2), ("unknown id", 4)]
    assert "'aa'" in problems[0].mend


def test_faults_do_not_hide_each_other(tmp_path):
    content = ";id;rle_mask\n0;aa;1 3 2 1\n1;aa;\n2;zz;nan\n"
    assert set(kinds(check(tmp_path, b"\xef\xbb\xbf" + content.encode()))) == {
        ("byte-order mark", 1),
        ("separator", 1),
        ("columns", 1),
        ("run-lengths", 2),
        ("duplicate id", 3),
        ("unknown id", 4),
        ("run-lengths", 4),
        ("missing id", None),
    }


def test_long_lists_are_cut_with_a_count_of_the_rest(tmp_path):
    rows = "".join(f"x{k},1\n" for k in range(30))
    problems = check(tmp_path, GOOD + rows, limit=3)
    unknown = [problem for problem in problems if problem.kind == "unknown id"]
    assert [problem.row for problem in unknown] == [5, 6, 7, None]
    assert unknown[-1].count == 27
    assert "27 more" in unknown[-1].message
    assert sum(problem.count for problem in problems if problem.kind == "run-lengths") == 30
    assert check(tmp_path, GOOD + rows, limit=30)[-1].count == 1


def test_the_count_of_the_rest_names_no_single_tile(tmp_path):
    named, rest = check(tmp_path, "id,rle_mask\naa,\n", limit=1)
    assert "bb" in named.mend
    assert "1 more" in str(rest)
    assert "bb" not in str(rest)


def test_a_problem_becomes_plain_values(tmp_path):
    (problem,) = check(tmp_path, GOOD + "dd,\n")
    assert problem.to_dict() == {
        "kind": "unknown id",
        "message": "The id 'dd' is not among the test tiles.",
        "mend": "Remove the row or correct the id.",
        "row": 5,
        "count": 1,
    }
    assert str(problem).startswith("row 5: ")


def test_no_file_or_a_folder_is_an_error_and_no_fault(tmp_path):
    for path in (tmp_path / "none.csv", tmp_path):
        with pytest.raises(SubmissionError, match="cannot read") as caught:
            check_submission(path, IDS, SHAPE)
        assert caught.value.where == str(path)


@given(data=st.one_of(st.binary(max_size=200), st.text('id,rle_mask\n\r"; 0123aabb', max_size=80)))
@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_any_bytes_give_an_answer(tmp_path, data):
    problems = check(tmp_path, data)
    assert problems  # nothing random holds all three ids with valid masks
    assert {problem.kind for problem in problems} <= set(KINDS)


def test_lines_break_only_at_line_ends(tmp_path):
    # str.splitlines would part this row in two and shift every row number after it.
    problems = check(tmp_path, GOOD.replace("bb,", "b\x0cb,") + "dd,\n")
    assert kinds(problems) == [("unknown id", 3), ("unknown id", 5), ("missing id", None)]


def test_huge_numbers_and_long_rows_are_no_trouble(tmp_path):
    content = GOOD.replace("20 1", "9" * 5000 + " 1").replace("bb", "b" * 5000)
    problems = check(tmp_path, content)
    assert all(len(problem.message) < 200 for problem in problems)
    assert len("9" * 5000) > sys.int_info.default_max_str_digits
