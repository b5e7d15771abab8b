import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from diapir.errors import DataError
from diapir.io.rle import decode_rle, encode_rle, encode_rle_many

masks_of_any_size = hnp.arrays(
    np.uint8, hnp.array_shapes(min_dims=2, max_dims=2, max_side=9), elements=st.integers(0, 1)
)
stacks = hnp.arrays(
    np.bool_, st.tuples(st.integers(0, 6), st.integers(1, 7), st.integers(1, 7)), fill=st.nothing()
)


def naive_encode(mask):
    """Walk down the columns pixel by pixel, as the competition's page describes it."""
    height, width = mask.shape
    runs = []
    number = 0
    inside = False
    for column in range(width):
        for row in range(height):
            number += 1
            if mask[row, column]:
                if inside:
                    runs[-1][1] += 1
                else:
                    runs.append([number, 1])
                inside = True
            else:
                inside = False
    return " ".join(f"{start} {length}" for start, length in runs)


def naive_decode(text, shape):
    height, _ = shape
    numbers = [int(word) for word in text.split()]
    mask = np.zeros(shape, dtype=np.uint8)
    for start, length in zip(numbers[::2], numbers[1::2], strict=True):
        for number in range(start - 1, start - 1 + length):
            mask[number % height, number // height] = 1
    return mask


@given(masks_of_any_size)
def test_encodes_as_the_naive_walk_does(mask):
    assert encode_rle(mask) == naive_encode(mask)


@given(masks_of_any_size)
def test_decodes_as_the_naive_walk_does(mask):
    text = naive_encode(mask)
    decoded = decode_rle(text, mask.shape, "here")
    np.testing.assert_array_equal(decoded, naive_decode(text, mask.shape))
    np.testing.assert_array_equal(decoded, mask)
    assert decoded.dtype == np.uint8
    assert decoded.flags.c_contiguous


@given(stacks)
def test_many_masks_are_encoded_as_one_by_one(masks):
    assert encode_rle_many(masks) == [naive_encode(mask) for mask in masks]


@given(st.data(), masks_of_any_size)
def test_touching_runs_decode_to_the_same_mask(data, mask):
    split = []
    numbers = [int(word) for word in naive_encode(mask).split()]
    for start, length in zip(numbers[::2], numbers[1::2], strict=True):
        cut = data.draw(st.integers(1, length))
        split += [(start, cut)] + ([(start + cut, length - cut)] if cut < length else [])
    text = " ".join(f"{start} {length}" for start, length in split)
    np.testing.assert_array_equal(decode_rle(text, mask.shape, "here"), mask)


@given(
    st.text(alphabet="0123456789 -+.x_\u0661", max_size=20), st.integers(1, 5), st.integers(1, 5)
)
def test_any_text_decodes_or_is_refused(text, height, width):
    try:
        mask = decode_rle(text, (height, width), "here")
    except DataError:
        return
    np.testing.assert_array_equal(mask, naive_decode(text, (height, width)))


@pytest.mark.parametrize("size", [7, 101, 5000])
def test_blocks_do_not_change_the_text(monkeypatch, size):
    masks = np.random.default_rng(0).random((9, 11, 13)) < 0.4
    monkeypatch.setattr("diapir.io.rle._PIXELS_AT_ONCE", size)
    assert encode_rle_many(masks) == [naive_encode(mask) for mask in masks]


def test_empty_and_full_masks():
    assert encode_rle(np.zeros((101, 101), bool)) == ""
    assert encode_rle(np.ones((101, 101), bool)) == "1 10201"
    assert not decode_rle("", (101, 101), "here").any()
    assert decode_rle("1 10201", (101, 101), "here").all()
    assert encode_rle_many(np.zeros((0, 101, 101), bool)) == []


def test_neighbouring_masks_do_not_run_into_each_other():
    masks = np.zeros((2, 3, 3), bool)
    masks[0, 2, 2] = masks[1, 0, 0] = True
    assert encode_rle_many(masks) == ["9 1", "1 1"]


def test_any_value_but_zero_is_salt():
    assert encode_rle(np.array([[0, 65535, 256]], dtype=np.uint16)) == "2 2"


def test_a_single_mask_is_not_many():
    with pytest.raises(ValueError, match=r"\(N, H, W\)"):
        encode_rle_many(np.zeros((3, 3)))


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("1 2 3", r"odd count of numbers \(3\)"),
        ("1 5 3 2", r"run 2 \(3 2\) overlaps"),
        ("8 3", r"run 1 \(8 3\) is out of range 1\.\.9"),
        ("0 1", r"run 1 \(0 1\) is out of range"),
        ("10 1", "out of range"),
        ("1 2 99999999999999999999 1", "99999999999999999999 is out of range"),
        ("1 999999999999999999", "out of range"),
        ("1 1 7 1 4 1", r"run 3 \(4 1\) is not sorted"),
        ("3 1 3 1", r"run 2 \(3 1\) overlaps"),
        ("1.0 2", "'1.0' is not a whole number"),
        ("a b", "'a' is not a whole number"),
        ("-1 2", "'-1' is not a whole number"),
        ("1_0 2", "'1_0' is not a whole number"),
        ("nan", "'nan' is not a whole number"),
        ("1,2", "'1,2' is not a whole number"),
        ("\u0661 \u0662", "is not a whole number"),
        ("4 0", r"run 1 \(4 0\) has length 0"),
        ("9" * 5000 + " 1", "99999999999999999999... is out of range"),
    ],
)
def test_malformed_text_is_refused(text, complaint):
    with pytest.raises(DataError, match=complaint) as caught:
        decode_rle(text, (3, 3), "train.csv row 7")
    assert caught.value.where == "train.csv row 7"
    assert caught.value.expected
    assert caught.value.mend


def test_the_full_test_set_is_encoded_in_a_second():
    # 18,000 tiles with the ragged edge of a real mask in each of 60 columns; the bar is 1 s, and
    # twice that leaves room for a busy machine.
    tops = np.random.default_rng(0).integers(20, 80, (1800, 1, 101))
    masks = np.tile(np.arange(101)[:, None] > tops, (10, 1, 1))
    masks[:, :, 60:] = False
    began = time.process_time()
    texts = encode_rle_many(masks)
    assert time.process_time() - began < 2
    assert len(texts) == 18_000
