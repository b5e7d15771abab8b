"""The synthetic survey: its truth, its quirks, and the file that it becomes."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from diapir.cli import app
from diapir.data.survey import SurveyPlan, SyntheticSurvey, generate_survey, write_survey
from diapir.errors import DataError
from diapir.io.segy import SegyOptions
from diapir.io.segy_doctor import diagnose
from diapir.io.segy_volume import open_segy
from diapir.io.volume import geometry_of

SHAPE = (14, 16, 40)


def plan(**changes: Any) -> SurveyPlan:
    return SurveyPlan(**({"shape": SHAPE, "spacing_m": (50.0, 50.0), "interval": 8.0} | changes))


@pytest.fixture(scope="module")
def survey() -> SyntheticSurvey:
    return generate_survey(plan())


def test_there_is_salt_with_a_top_and_sediments_above(survey: SyntheticSurvey) -> None:
    assert survey.amplitude.shape == survey.salt.shape == SHAPE
    assert 0.05 < survey.salt.mean() < 0.6
    assert survey.salt[:, :, 0].mean() < 0.1
    assert np.isfinite(survey.amplitude).all()
    assert survey.amplitude.std() > 0


def test_the_top_of_salt_is_a_bright_rise_of_impedance(survey: SyntheticSurvey) -> None:
    has_top = survey.salt.any(axis=2) & ~survey.salt[:, :, :3].any(axis=2)
    has_top &= survey.salt.argmax(axis=2) < SHAPE[2] - 4
    rows, columns = np.nonzero(has_top)
    top = survey.salt[rows, columns].argmax(axis=1)
    near = [survey.amplitude[rows, columns, top + shift] for shift in (-1, 0, 1)]
    level = np.abs(survey.amplitude).mean()
    assert np.max(near, axis=0).mean() > 2 * level


def test_equal_seeds_give_equal_surveys(survey: SyntheticSurvey) -> None:
    again = generate_survey(plan())
    np.testing.assert_array_equal(again.amplitude, survey.amplitude)
    other = generate_survey(plan(seed=1))
    assert not np.array_equal(other.amplitude, survey.amplitude)


def test_the_earth_does_not_depend_on_how_it_is_written(survey: SyntheticSurvey) -> None:
    turned = generate_survey(plan(step=(-1, -2), gaps=0.2, dead=0.1, azimuth=33.0))
    np.testing.assert_array_equal(turned.salt[::-1, ::-1], survey.salt)
    live = turned.geometry.trace_mask & ~turned.dead
    np.testing.assert_array_equal(turned.amplitude[live], survey.amplitude[::-1, ::-1][live])
    assert not turned.amplitude[~live].any()
    assert 0.05 < 1 - turned.geometry.trace_mask.mean() < 0.5
    assert turned.dead.any()


@pytest.mark.parametrize("step", [(1, 1), (-1, 1)])
def test_the_azimuth_is_that_of_rising_inlines(step: tuple[int, int]) -> None:
    geometry = generate_survey(plan(step=step, azimuth=0.0)).geometry
    assert (np.diff(geometry.axes["inline"]) > 0).all()
    assert (np.diff(geometry.cdp_y, axis=0) > 0).all()  # northwards


def test_without_salt_there_is_none() -> None:
    assert not generate_survey(plan(salt=False)).salt.any()


@pytest.mark.parametrize(
    ("code", "order"),
    [
        (1, "big"),
        (3, "little"),
        (5, "big"),
        (8, "big"),
        (10, "big"),
        (11, "big"),
        (12, "little"),
        (16, "big"),
    ],
)
def test_the_file_opens_with_truth_and_quirks(tmp_path: Path, code: int, order: Any) -> None:
    made = generate_survey(
        plan(
            gaps=0.15, dead=0.1, duplicates=5, azimuth=30.0, step=(-1, 2), start=1000.5,
            by_crossline=True,
        )
    )  # fmt: skip
    path, truth = tmp_path / "survey.sgy", tmp_path / "truth.sgy"
    write_survey(made, path, truth, code=code, byte_order=order)
    found, true = open_segy(path), open_segy(truth)
    assert found.sizes == true.sizes
    np.testing.assert_array_equal(found["inline"], made.geometry.axes["inline"])
    np.testing.assert_array_equal(found["trace_mask"], made.geometry.trace_mask)
    np.testing.assert_allclose(found["cdp_x"], made.geometry.cdp_x, atol=0.005)
    assert found["sample"].to_numpy()[0] == 1000.5
    mask = made.geometry.trace_mask
    np.testing.assert_array_equal(true["amplitude"].to_numpy()[mask], made.salt[mask])
    live = mask & ~made.dead
    read = found["amplitude"].to_numpy()[live].ravel()
    likeness = np.corrcoef(read, made.amplitude[live].ravel())[0, 1]
    assert likeness > (0.99 if code in (8, 16) else 0.9999)
    diagnosis = diagnose(path)
    assert diagnosis.usable
    facts = dict(diagnosis.facts)
    assert facts["duplicate traces"] == "5"
    assert facts["sample format"].startswith(f"{code},")
    assert int(facts["dead traces"].split()[0]) >= made.dead.sum()


def test_a_volume_without_a_file_is_the_same(survey: SyntheticSurvey) -> None:
    volume = survey.volume()
    assert volume["amplitude"].dims == ("inline", "crossline", "sample")
    assert geometry_of(volume).sample_interval == 8
    assert volume.attrs["std"] > 0


@pytest.mark.parametrize(
    "wrong",
    [
        {"shape": (2, 90, 90)}, {"shape": (9000, 9000, 9000)}, {"step": (0, 1)}, {"gaps": 1.0},
        {"dead": -0.1}, {"duplicates": -1}, {"interval": 0.0}, {"spacing_m": (0.0, 1.0)},
        {"spacing_m": (np.nan, 25.0)}, {"azimuth": np.inf}, {"first": (3_000_000_000, 1)},
        {"first": (2_147_483_640, 1)},
    ],
)  # fmt: skip
def test_surveys_that_cannot_be_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(DataError):
        plan(**wrong)


def test_the_truth_takes_no_survey_s_place(tmp_path: Path) -> None:
    path = tmp_path / "s.sgy"
    words = ["synth", "survey", str(path), "--size", "12", "13", "30", "--truth", str(path), "-q"]
    result = CliRunner().invoke(app, words)
    assert isinstance(result.exception, DataError)
    assert not path.exists()


@pytest.mark.parametrize(
    "flag",
    ["--samples 30", "--coordinate-scale 2", "--text-headers 1", "--line", "--offset-byte 9"],
)
def test_flags_that_say_nothing_of_writing_are_refused(tmp_path: Path, flag: str) -> None:
    path = tmp_path / "s.sgy"
    result = CliRunner().invoke(app, ["synth", "survey", str(path), *flag.split(), "-q"])
    assert isinstance(result.exception, DataError)
    assert flag in str(result.exception)
    assert not path.exists()


def test_the_verb_writes_survey_and_truth(tmp_path: Path) -> None:
    path = tmp_path / "s.sgy"
    arguments = "--size 12 13 30 --interval 8 --unit m --start 500 --format 3 --first 7 9 -q"
    there = "--inline-byte 181 --crossline-byte 185 --x-byte 189 --y-byte 193"
    result = CliRunner().invoke(
        app, ["synth", "survey", str(path), *arguments.split(), *there.split()]
    )
    assert result.exit_code == 0, result.output
    assert "156 traces" in result.stdout
    options = {"inline_byte": 181, "crossline_byte": 185, "x_byte": 189, "y_byte": 193}
    found = open_segy(path, unit="m", **options)
    assert dict(found.sizes) == {"inline": 12, "crossline": 13, "sample": 30}
    assert found["inline"].to_numpy()[0] == 7
    assert found["sample"].to_numpy()[:2].tolist() == [500, 508]
    truth = open_segy(tmp_path / "s-truth.sgy", unit="m", **options)
    assert set(np.unique(truth["amplitude"])) == {0, 1}
    assert SegyOptions(unit="m").flags() == ["--unit m"]
