"""Windows over a section, and the join of their predictions."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from diapir.data.windows import cover, starts
from diapir.inference.blend import blend_section, taper


@given(size=st.integers(1, 600), window=st.integers(2, 200), data=st.data())
def test_windows_cover_every_pixel_and_overlap_enough(size, window, data):
    overlap = data.draw(st.integers(0, window - 1))
    firsts = starts(size, window, overlap)
    assert firsts[0] == 0
    assert firsts[-1] + min(window, size) == size
    for left, right in pairwise(firsts):
        assert 0 < right - left <= window - overlap


def test_windows_of_a_small_section_are_the_section():
    assert cover(50, 70, 101, 20) == [(0, 0, 50, 70)]


def test_a_long_section_keeps_its_short_side():
    windows = cover(50, 300, 101, 20)
    assert {(w.top, w.height, w.width) for w in windows} == {(0, 50, 101)}
    assert len(windows) == 4


@pytest.mark.parametrize("shape", [(60, 60), (200, 97), (131, 260)])
def test_identity_gives_the_section_itself(shape):
    section = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    found = blend_section(
        section, lambda some: some.astype(np.float32) / 255, window=64, overlap=16, batch=3
    )
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, section / 255, atol=1e-6)


def test_no_seam_where_windows_disagree():
    """Windows that differ by a constant are joined by a ramp, not by a step."""
    level = iter(np.linspace(0, 1, 100, dtype=np.float32))

    def constant(some):
        return np.stack([np.full(w.shape, next(level), np.float32) for w in some])

    found = blend_section(np.zeros((64, 300), np.uint8), constant, window=64, overlap=32)
    windows = len(cover(64, 300, 64, 32))
    step = 1 / 99  # between neighbouring windows
    assert np.abs(np.diff(found, axis=1)).max() < step / 4
    assert found.max() == pytest.approx((windows - 1) * step, abs=1e-5)


@given(size=st.integers(1, 300), overlap=st.integers(0, 150))
def test_weights_never_reach_zero(size, overlap):
    weights = taper(size, overlap)
    assert weights.shape == (size,)
    assert (weights > 0).all()
    assert (weights <= 1).all()
    np.testing.assert_allclose(weights, weights[::-1])


@given(arrays(np.uint8, (40, 90)))
def test_batches_do_not_change_the_result(section):
    def values(some):
        return some.astype(np.float32)

    one = blend_section(section, values, window=32, overlap=8, batch=1)
    many = blend_section(section, values, window=32, overlap=8, batch=50)
    np.testing.assert_array_equal(one, many)
