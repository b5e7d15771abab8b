"""The readers on the real competition data, where it is at hand (see CONTRIBUTING.md)."""

import os
import time
from pathlib import Path

import numpy as np
import pytest

from diapir.io.csv_tables import read_rle_csv
from diapir.io.rle import decode_rle, encode_rle_many
from diapir.io.tiles import read_tiles

pytestmark = [
    pytest.mark.realdata,
    pytest.mark.skipif("DIAPIR_TGS" not in os.environ, reason="DIAPIR_TGS is not set"),
]


@pytest.fixture(scope="module")
def folder():
    return Path(os.environ["DIAPIR_TGS"])


@pytest.fixture(scope="module")
def train(folder):
    return read_tiles(folder, "train")


def test_run_lengths_and_mask_files_agree_both_ways(folder, train):
    texts = read_rle_csv(folder / "train.csv")
    assert encode_rle_many(train.masks) == [texts[id_] for id_ in train.ids]
    for id_, mask in zip(train.ids, train.masks, strict=True):
        np.testing.assert_array_equal(decode_rle(texts[id_], mask.shape, id_), mask)


def test_labelled_tiles_are_as_described(train):
    assert train.images.shape[1:] == (101, 101)
    assert train.z_feet.min() > 0
    assert set(np.unique(train.masks)) == {0, 1}
    assert (train.coverage == 0).mean() == pytest.approx(0.39, abs=0.01)
    assert (train.coverage < 1).all()  # all-salt tiles are labelled empty
    assert (train.coverage[train.blank] == 0).all()
    assert 0 < train.blank.sum() <= 80


def test_unlabelled_tiles_match_the_sample_submission_in_good_time(folder):
    for _ in range(3):  # other tests may keep the cores busy
        began, worked = time.monotonic(), time.process_time()
        test = read_tiles(folder, "test")
        # on the clock, or in processor time: so long at most would one idle core take
        seconds = min(time.monotonic() - began, time.process_time() - worked)
        limit = max(5, 20 * len(test) / 22_000)  # the bar is 20 s for 22,000 tiles
        if seconds < limit:
            break
    assert seconds < limit
    assert test.masks is None
    assert set(test.ids) == set(read_rle_csv(folder / "sample_submission.csv"))
    assert 0 < test.blank.sum() <= 430
