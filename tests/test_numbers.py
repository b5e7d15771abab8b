"""Numbers that are none are refused also where no command line is in between."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from diapir.config import load_recipe
from diapir.data.survey import SurveyPlan
from diapir.errors import DiapirError, RecipeError
from diapir.inference.look import measure
from diapir.inference.predict import PredictOptions
from diapir.inference.sections import Tiling
from diapir.io.labels import LabelledLine
from diapir.io.segy import SegyOptions
from diapir.runs.ensemble import make_ensemble
from diapir.runs.line_split import split_lines
from diapir.runs.map_result import MapSettings
from diapir.runs.mosaic import write_mosaics
from diapir.runs.rounds import member_recipe
from diapir.training.finetune import Tuning

LINE = LabelledLine("line", 0, 0, np.zeros((40, 8), np.uint8))
NOTHING: Any = None

TAKING: dict[str, Callable[[float], object]] = {
    "threshold of predictions": lambda n: PredictOptions(threshold=n),
    "threshold of maps": lambda n: MapSettings(threshold=n),
    "velocity": lambda n: MapSettings(velocity_m_s=n),
    "sample scale": lambda n: Tiling(sample_scale=n),
    "trace scale": lambda n: Tiling(trace_scale=n),
    "low end of the clip": lambda n: measure(NOTHING, (n, 99.0)),
    "high end of the clip": lambda n: measure(NOTHING, (1.0, n)),
    "learning rate": lambda n: Tuning(lr=n),
    "factor of the encoder": lambda n: Tuning(encoder_lr_factor=n),
    "share held out": lambda n: split_lines([LINE], n, 0),
    "share of false pairs": lambda n: write_mosaics(Path("no"), Path("no"), false_share=n),
    "weight": lambda n: make_ensemble([Path("no")], Path("no.safetensors"), weights=[n]),
    "start of SEG-Y": lambda n: SegyOptions(start=n),
    "interval of SEG-Y": lambda n: SegyOptions(interval=n),
    "coordinate scale": lambda n: SegyOptions(coordinate_scale=n),
    "start of a survey": lambda n: SurveyPlan(start=n),
    "interval of a survey": lambda n: SurveyPlan(interval=n),
    "spacing": lambda n: SurveyPlan(spacing_m=(25.0, n)),
    "azimuth": lambda n: SurveyPlan(azimuth=n),
    "gaps": lambda n: SurveyPlan(gaps=n),
    "dead traces": lambda n: SurveyPlan(dead=n),
    "minutes": lambda n: load_recipe("demo", [f"train.max_minutes={n}"]),
    "epochs": lambda n: load_recipe("demo", [f"train.epochs={n}"]),
    "mean": lambda n: load_recipe("demo", [f"model.mean={n}"]),
    "weight of a loss": lambda n: load_recipe("demo", [f"loss.stages=[{{bce={n}}}]"]),
}


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", TAKING)
def test_what_is_no_number_is_refused(
    name: str, number: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DiapirError, match=r"\b(nan|inf|finite|positive)\b"):
        TAKING[name](number)


@pytest.mark.parametrize("number", ["nan", "inf", "-inf"])
def test_a_recipe_in_a_file_is_refused(tmp_path: Path, number: str) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(f"[optim]\nlr = {number}\n", encoding="utf-8")
    with pytest.raises(RecipeError, match=r"optim\.lr: .*finite number") as error:
        load_recipe(str(path))
    assert error.value.where == str(path)
    path = tmp_path / "recipe.json"  # Python reads what JSON does not know
    text = {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}[number]
    path.write_text(f'{{"optim": {{"lr": {text}}}}}', encoding="utf-8")
    with pytest.raises(RecipeError, match=r"optim\.lr: .*finite number"):
        load_recipe(str(path))


def test_what_an_ensemble_changes_is_refused() -> None:
    change = "ensemble={encoders=['resnet18'],changes={resnet18={optim={lr=nan}}}}"
    recipe = load_recipe("demo", [change])
    with pytest.raises(RecipeError, match=r"optim\.lr: .*finite number"):
        member_recipe(recipe, "resnet18", (), None)
