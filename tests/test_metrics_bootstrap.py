"""The bootstrap interval against theory, and its reproducibility."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diapir.metrics import bootstrap
from diapir.metrics.bootstrap import bootstrap_interval


def test_width_is_that_of_the_normal_interval_of_the_mean():
    values = np.random.default_rng(1).normal(5, 2, 4000)
    low, high = bootstrap_interval(values, samples=4000)
    half = 1.96 * values.std() / np.sqrt(len(values))
    assert low == pytest.approx(values.mean() - half, abs=0.1 * half)
    assert high == pytest.approx(values.mean() + half, abs=0.1 * half)


def test_the_true_mean_lies_inside_about_as_often_as_said():
    rng = np.random.default_rng(2)
    inside = 0
    for trial in range(300):
        low, high = bootstrap_interval(
            rng.integers(0, 11, 80) / 10, level=0.9, samples=400, seed=trial
        )
        inside += low <= 0.5 <= high
    assert 0.84 < inside / 300 < 0.95


def test_a_wider_level_holds_the_narrower():
    values = np.random.default_rng(0).random(200)
    (low, high), (lower, higher) = (bootstrap_interval(values, level=x) for x in (0.5, 0.99))
    assert lower < low < values.mean() < high < higher


def test_the_seed_decides_and_the_order_does_not():
    values = np.random.default_rng(0).random(100)
    assert bootstrap_interval(values, seed=4) == bootstrap_interval(values[::-1], seed=4)
    assert bootstrap_interval(values, seed=4) != bootstrap_interval(values, seed=5)


def test_many_values_are_drawn_in_parts(monkeypatch):
    values = np.random.default_rng(0).random(50)
    whole = bootstrap_interval(values)
    monkeypatch.setattr(bootstrap, "_DRAWS_AT_ONCE", 1234)
    assert bootstrap_interval(values) == pytest.approx(whole, abs=1e-12)


@settings(max_examples=50)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=30))
def test_the_interval_stays_within_the_values(values):
    low, high = bootstrap_interval(values, samples=50)
    assert min(values) <= low <= high <= max(values) + 1e-12


@given(st.floats(-1e6, 1e6), st.integers(1, 20))
def test_equal_values_have_their_own_mean(value, tiles):
    assert bootstrap_interval([value] * tiles, samples=20) == (value, value)


@pytest.mark.parametrize(
    ("values", "options", "message"),
    [
        ([], {}, "finite values"),
        ([[0.1]], {}, "finite values"),
        ([0.1, np.nan], {}, "finite values"),
        ([0.1, np.inf], {}, "finite values"),
        ([0.1], {"level": 1.0}, "level"),
        ([0.1], {"level": 0.0}, "level"),
        ([0.1], {"samples": 0}, "samples"),
    ],
)
def test_bad_input_is_refused(values, options, message):
    with pytest.raises(ValueError, match=message):
        bootstrap_interval(values, **options)
