"""Bodies of salt in tiles against an independent labelling."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from diapir.inference.bodies import drop_small_bodies, find_bodies


def draw(seed: int, shape: tuple[int, int, int], share: float) -> np.ndarray:
    return np.random.default_rng(seed).random(shape) < share


@given(
    seed=st.integers(0, 10_000),
    shape=st.tuples(st.integers(1, 4), st.integers(1, 12), st.integers(1, 12)),
    share=st.floats(0, 1),
)
def test_bodies_are_those_of_scipy(seed: int, shape: tuple[int, int, int], share: float) -> None:
    masks = draw(seed, shape, share)
    found = find_bodies(masks)
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
    assert (drop_small_bodies(masks, smallest) == np.array(wanted)).all()


def test_a_winding_body_is_one() -> None:
    masks = np.zeros((2, 21, 21), bool)
    masks[0, ::2] = True
    masks[0, 1::4, -1] = masks[0, 3::4, 0] = True
    found = find_bodies(masks)
    assert found.size.tolist() == [int(masks.sum())]
    assert drop_small_bodies(masks, found.size[0] + 1).sum() == 0


def test_bodies_do_not_reach_into_the_next_tile() -> None:
    masks = np.ones((3, 4, 4), bool)
    assert find_bodies(masks).size.tolist() == [16, 16, 16]


def test_nothing_has_no_bodies() -> None:
    assert len(find_bodies(np.zeros((2, 5, 5), bool)).size) == 0
    assert not drop_small_bodies(np.zeros((2, 5, 5), bool), 3).any()
    assert len(find_bodies(np.zeros((0, 5, 5), bool)).size) == 0
