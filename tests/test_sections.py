from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diapir.errors import DataError, OptionError
from diapir.inference.look import AS_IS, Look, compare, measure
from diapir.inference.sections import IdentityModel, Tiling, predict_section
from diapir.io.volume import even_sample
from diapir.models.pixels import TGS_PIXELS


class Survey(dict):
    """As much of a dataset as `measure` and `compare` look at."""

    def __init__(self, amplitude):
        super().__init__(amplitude=amplitude)
        self.attrs = {"source": "test"}


@given(
    traces=st.integers(1, 90),
    samples=st.integers(1, 90),
    window=st.integers(32, 60),
    overlap=st.integers(0, 31),
)
@settings(max_examples=40, deadline=None)
def test_the_identity_gives_its_input_back(traces, samples, window, overlap):
    rng = np.random.default_rng(traces * 100 + samples)
    grey = rng.integers(0, 256, (traces, samples)).astype(np.float32)
    found = predict_section(grey, IdentityModel(), AS_IS, Tiling(window, overlap))
    assert found.shape == grey.shape
    assert found.dtype == np.float32
    assert np.abs(found - grey / 255).max() <= 1e-6


def test_a_dead_trace_holds_no_salt():
    section = np.ones((40, 50), np.float32)
    section[7], section[9] = 0, np.nan
    found = predict_section(section, Rimmed(), AS_IS, Tiling())
    assert np.flatnonzero((found == 0).all(axis=1)).tolist() == [7, 9]
    assert (np.delete(found, [7, 9], axis=0) > 0.3).all()


class Rimmed:
    """A network that is off by 0.3 near the border of its windows, as networks are."""

    model_seconds = 0.0

    def predict_probs(self, images):
        probs = np.full(images.shape, 0.4, np.float32)
        rim = np.ones(images.shape[1:], bool)
        rim[6:-6, 6:-6] = False
        probs[:, rim] += 0.3
        return probs


def test_no_seam_shows():
    section = np.ones((300, 260), np.float32)
    found = predict_section(section, Rimmed(), AS_IS, Tiling(window=128, overlap=64))
    inside = found[6:-6, 6:-6]  # the rim of the section itself has no neighbour to mend it
    steps = [np.abs(np.diff(inside, axis=axis)).max() for axis in (0, 1)]
    assert max(steps) < 0.03
    hard = predict_section(section, Rimmed(), AS_IS, Tiling(window=128, overlap=0))
    assert np.abs(np.diff(hard[6:-6, 6:-6], axis=0)).max() > 0.12  # without overlap


def test_resampling_keeps_the_shape_and_the_picture():
    t, s = np.meshgrid(np.arange(120), np.arange(90), indexing="ij")
    smooth = (127 + 100 * np.sin(t / 25) * np.cos(s / 19)).astype(np.float32)
    tiling = Tiling(window=96, overlap=32, sample_scale=1.7, trace_scale=0.6)
    found = predict_section(smooth, IdentityModel(), AS_IS, tiling)
    assert found.shape == smooth.shape
    assert np.abs(found - smooth / 255).max() < 0.03


@pytest.mark.parametrize("wrong", [{"overlap": 404}, {"sample_scale": 0}, {"trace_scale": 17}])
def test_tilings_that_make_no_sense_are_refused(wrong):
    with pytest.raises(OptionError):
        Tiling(**wrong)


def test_the_look_gives_mean_and_deviation_of_the_training_data():
    rng = np.random.default_rng(0)
    survey = Survey(rng.normal(50, 1000, (20, 80, 90)).astype(np.float32))
    found = measure(survey)
    assert np.allclose(
        [found.low, found.high], np.percentile(survey["amplitude"], [1, 99]), rtol=0.1
    )
    grey = found.look(replace(TGS_PIXELS, mean=0.5, std=0.15)).grey(survey["amplitude"]) / 255
    assert abs(grey.mean() - 0.5) < 0.01
    assert abs(grey.std() - 0.15) < 0.01


def test_reverse_polarity_mirrors_the_grey_values():
    rng = np.random.default_rng(0)
    survey = Survey(rng.normal(0, 3, (8, 40, 50)).astype(np.float32))
    found = measure(survey)
    straight, reverse = (
        found.look(replace(TGS_PIXELS, mean=0.5), polarity=p).grey(survey["amplitude"]).astype(int)
        for p in ("normal", "reverse")
    )
    assert np.abs(straight + reverse - 255).max() <= 1


def test_what_is_no_number_counts_as_nothing():
    look = Look(-1, 1, 50, 100)
    values = np.array([np.nan, np.inf, -np.inf, 0, 5, -5], np.float32)
    assert look.grey(values).tolist() == [100, 100, 100, 100, 150, 50]


def test_dead_traces_do_not_count():
    rng = np.random.default_rng(0)
    values = rng.normal(0, 1, (8, 40, 50)).astype(np.float32)
    half_dead = values.copy()
    half_dead[:, ::2] = 0
    whole, half = measure(Survey(values)), measure(Survey(half_dead))
    assert np.isclose(half.std, whole.std, rtol=0.05)
    assert np.isclose(half.dead, 0.5)


@pytest.mark.parametrize("clip", [(99, 1), (-1, 50), (0, 101)])
def test_percentiles_that_are_no_range_are_refused(clip):
    with pytest.raises(OptionError):
        measure(Survey(np.ones((2, 3, 4), np.float32)), clip)


def test_a_survey_of_zeros_is_refused():
    with pytest.raises(DataError):
        measure(Survey(np.zeros((2, 3, 4), np.float32)))


def test_a_stretched_survey_is_told_how_to_scale():
    rng = np.random.default_rng(1)
    rough = rng.normal(0, 1, (6, 200, 200)).astype(np.float32)
    kernel = np.hanning(41) / np.hanning(41).sum()
    smooth = np.apply_along_axis(np.convolve, 2, rough, kernel, "same")
    found = measure(Survey(smooth))
    likeness = compare(Survey(smooth), found.look())
    assert any("--sample-scale" in warning for warning in likeness.warnings)
    assert likeness.roughness[1] < likeness.roughness[0]


def test_what_is_advised_is_the_value_of_the_option():
    values = np.random.default_rng(1).normal(0, 1, (6, 200, 200)).astype(np.float32)
    look = measure(Survey(values)).look()
    told = [
        [word for text in compare(Survey(values), look, scales).warnings for word in text.split()]
        for scales in ((1.0, 1.0), (0.125, 1.0))
    ]
    wanted = [float(words[words.index("--trace-scale") + 1]) for words in told]
    assert wanted[0] == pytest.approx(wanted[1], rel=0.02)


def test_no_stretching_is_advised_where_nothing_changes():
    values = np.broadcast_to(np.arange(90.0)[:, None], (6, 90, 40)).astype(np.float32)
    likeness = compare(Survey(values), measure(Survey(values)).look())
    assert any("hardly change along samples" in warning for warning in likeness.warnings)
    assert not any("--sample-scale" in warning for warning in likeness.warnings)


def test_a_survey_is_compared_with_what_trained_the_model():
    values = np.random.default_rng(2).normal(0, 1, (6, 90, 90)).astype(np.float32)
    likeness = compare(Survey(values), measure(Survey(values)).look())
    own = replace(TGS_PIXELS, shares=tuple(likeness.shares), roughness=likeness.roughness)
    again = compare(Survey(values), measure(Survey(values)).look(), trained=own)
    assert likeness.distance > 0
    assert again.distance < 1e-9
    assert again.warnings == ()


def test_a_survey_of_two_values_is_out_of_domain():
    values = np.sign(np.random.default_rng(2).normal(0, 1, (6, 90, 90))).astype(np.float32)
    likeness = compare(Survey(values), measure(Survey(values)).look())
    assert any("histogram" in warning for warning in likeness.warnings)


def test_of_a_dead_survey_that_alone_is_told():
    likeness = compare(Survey(np.zeros((6, 90, 90), np.float32)), AS_IS)
    assert likeness.warnings == ("100 % of the samples are dead",)


def test_long_lines_are_sampled_all_over_the_survey():
    shape = (200, 2_000, 1_500)
    lines, step = even_sample(shape, values=1 << 20, lines=256)
    assert len(lines) == 16
    assert lines[0] > 0
    assert lines[-1] < 199
    assert np.ptp(np.diff(lines)) <= 1
    assert len(lines) * len(range(0, 2_000, step)) * 1_500 <= 1.1 * (1 << 20)
