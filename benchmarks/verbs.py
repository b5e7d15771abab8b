"""Small inputs for every verb that writes, and the commands that write; for `disks.py` and others.

Every command runs in a process forked from this one, which has loaded the libraries already.
"""

from collections.abc import Callable
from pathlib import Path

import kills
import numpy as np
import torch
from kills import broken_files, start, wait

import diapir.export.onnx
import diapir.runs.demo
import diapir.runs.evaluate
import diapir.runs.map
import diapir.runs.results  # noqa: F401  # loaded once, here
from diapir.config import load_recipe
from diapir.data.survey import SurveyPlan, generate_survey, write_survey
from diapir.io.images import write_mask_png
from diapir.models.modelcard import ModelCard
from diapir.models.modelfile import save_model
from diapir.models.unet import SaltNet

__all__ = ["NEED_A_RUN", "VERBS", "broken_files", "files_in", "make_inputs", "start", "wait"]

Command = Callable[[Path, Path], tuple[object, ...]]
"""From the folder of the inputs and that of the outputs to the arguments of `diapir`."""

_CPU = ("--device", "cpu", "--quiet")

VERBS: dict[str, Command] = {
    "train": lambda i, o: kills.train(i, o / "runs"),
    "train --resume": lambda i, o: kills.resume(i, next((i / "runs").iterdir())),
    "submit": lambda i, o: (
        "submit", i / "model.safetensors", "--data", i / "data", "--out", o / "s.csv", *_CPU
    ),
    "predict": lambda i, o: (
        "predict", i / "model.safetensors", i / "data" / "test" / "images", o / "predicted",
        "--probs", *_CPU,
    ),
    "evaluate": lambda i, o: (
        "evaluate", i / "model.safetensors", "--data", i / "data", "--out", o / "evaluated", *_CPU
    ),
    "ensemble": lambda i, o: (
        "ensemble", i / "model.safetensors", i / "other.safetensors", "--out",
        o / "ensemble.safetensors", "--quiet",
    ),
    "export": lambda i, o: ("export", i / "model.safetensors", "--out", o / "salt.onnx"),
    "map": lambda i, o: (
        "map", i / "survey.sgy", o / "map", "--model", i / "model.safetensors", "--workers", 1,
        *_CPU,
    ),
    "finetune": lambda i, o: (
        "finetune", i / "model.safetensors", "--volume", i / "survey.sgy", "--labels",
        i / "labels", "--out", o / "finetuned", "--steps", 1, "--batch-size", 1, "--side", 32,
        "--gap", 1, *_CPU,
    ),
    "ingest": lambda i, o: ("ingest", i / "survey.sgy", o / "survey.zarr", "--quiet"),
    "mosaic": lambda i, o: ("mosaic", i / "data", "--out", o / "mosaic", "--quiet"),
    "describe": lambda i, o: ("describe", i / "data", "--out", o / "described", "--quiet"),
    "results": lambda i, o: (
        "results", next((i / "runs").iterdir()), "--out", o / "results.md"
    ),
    "synth tiles": lambda i, o: ("synth", "tiles", o / "tiles", "--n", 12),
    "synth survey": lambda i, o: (
        "synth", "survey", o / "drawn.sgy", "--size", 8, 8, 30, "--quiet"
    ),
}  # fmt: skip
"""Those that write, with what they write."""
NEED_A_RUN = ("train --resume", "results")
"""Their inputs take a training."""


def make_inputs(folder: Path, *, trained: bool = True) -> None:
    """Write tiles, two models, a survey with interpreted lines, and a finished run if asked."""
    kills.write_inputs(folder, epochs=1)
    recipe = load_recipe(str(folder / "tiny.json"))
    for seed, name in enumerate(("model", "other")):
        torch.manual_seed(seed)
        card = ModelCard(recipe, 0.5).stamped()
        save_model(folder / f"{name}.safetensors", SaltNet(recipe.model), card)
    made = generate_survey(SurveyPlan(shape=(24, 26, 48), seed=0))
    write_survey(made, folder / "survey.sgy")
    for line in (2, 8, 20):
        number = int(made.geometry.axes["inline"][line])
        picture = made.salt[line].T.astype(np.uint8)
        write_mask_png(folder / "labels" / f"inline_{number}.png", picture)
    log = folder / "log"
    if trained and wait(start(log, *kills.train(folder, folder / "runs"))):
        raise RuntimeError(log.read_text(encoding="utf-8"))


def files_in(folder: Path) -> dict[str, bytes]:
    """Return every file under a folder that has its final name, with what it holds."""
    found = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in found
        if not any(part[0] == "." for part in path.relative_to(folder).parts)
    }
