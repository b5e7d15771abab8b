"""Bodies of salt in tiles against an independent labelling."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from diapir.inference.tile_bodies import label_tile_bodies, only_bodies, peaks_of_bodies


def draw(seed: int, shape: tuple[int, int, int], share: float) -> np.ndarray:
    return np.random.default_rng(seed).random(shape) < share


@given(
    seed=st.integers(0, 10_000),
    shape=st.tuples(st.integers(1, 4), st.integers(1, 12), st.integers(1, 12)),
    share=st.floats(0, 1),
)
def test_bodies_are_those_of_scipy(seed: int, shape: tuple[int, int, int], share: float) -> None:
    masks = draw(seed, shape, share)
    found = label_tile_bodies(masks)
    sizes = [np.bincount(ndimage.label(mask)[0].ravel())[1:] for mask in masks]
    for tile, wanted in enumerate(sizes):
        assert sorted(found.size[found.tile == tile]) == sorted(wanted)
    assert found.size.sum() == masks.sum()


@pytest.mark.parametrize("smallest", [0, 1, 2, 7, 30])
def test_small_bodies_are_dropped_and_others_kept_whole(smallest: int) -> None:
    masks = draw(1, (5, 40, 37), 0.45)
    wanted = []
    for mask in masks:
        labels = ndimage.label(mask)[0]
        sizes = np.bincount(labels.ravel())
        wanted.append(mask & (sizes[labels] >= smallest))
    found = label_tile_bodies(masks)
    assert (only_bodies(found, found.size >= smallest) == np.array(wanted)).all()


@given(seed=st.integers(0, 10_000), share=st.floats(0, 1))
def test_peaks_are_those_of_scipy(seed: int, share: float) -> None:
    probs = np.random.default_rng(seed).random((3, 9, 11)).astype(np.float32)
    masks = probs < share
    found = label_tile_bodies(masks)
    peaks = peaks_of_bodies(found, masks, probs)
    assert peaks.dtype == np.float32
    for tile, (mask, values) in enumerate(zip(masks, probs, strict=True)):
        labels, count = ndimage.label(mask)
        wanted = ndimage.maximum(values, labels, range(1, count + 1))
        assert sorted(peaks[found.tile == tile]) == sorted(np.atleast_1d(wanted)[:count])


def test_a_winding_body_is_one() -> None:
    masks = np.zeros((2, 21, 21), bool)
    masks[0, ::2] = True
    masks[0, 1::4, -1] = masks[0, 3::4, 0] = True
    found = label_tile_bodies(masks)
    assert found.size.tolist() == [int(masks.sum())]
    assert only_bodies(found, np.array([True])).sum() == masks.sum()
    assert only_bodies(found, np.array([False])).sum() == 0


def test_bodies_do_not_reach_into_the_next_tile() -> None:
    masks = np.ones((3, 4, 4), bool)
    assert label_tile_bodies(masks).size.tolist() == [16, 16, 16]


def test_nothing_has_no_bodies() -> None:
    none = np.zeros((2, 5, 5), bool)
    found = label_tile_bodies(none)
    assert len(found.size) == 0
    assert not only_bodies(found, found.size > 3).any()
    assert len(peaks_of_bodies(found, none, none.astype(np.float32))) == 0
    assert len(label_tile_bodies(np.zeros((0, 5, 5), bool)).size) == 0
