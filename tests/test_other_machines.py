"""What differs between machines: processors with other instructions and other numbers of threads.

Another processor is stood in for by the same one with instructions taken away from PyTorch, oneDNN
and MKL, and with one thread more: sums are then taken in another order, as they would be there. The
tolerances are those that docs/reliability.md states.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

OF_PROBABILITIES = 1e-5
OF_TRAINED_PROBABILITIES, OF_WEIGHTS, OF_LOSSES = 1e-3, 1e-3, 1e-4
OLD_PROCESSOR = {
    "ATEN_CPU_CAPABILITY": "default",
    "ONEDNN_MAX_CPU_ISA": "SSE41",
    "MKL_ENABLE_INSTRUCTIONS": "SSE4_2",
    "OMP_NUM_THREADS": "2",
}

WORK = """
import json, sys, tempfile
from pathlib import Path
import torch
sys.path.insert(0, sys.argv[1])
from conftest import TINY, draw_easy_tiles
from diapir.config import parse_recipe
from diapir.data.splits import make_splits
from diapir.inference.predict import Predictor, PredictOptions, load_predictor
from diapir.training.fit import fit
from diapir.training.hardware import Hardware
train = {"epochs": 3, "batch_size": 8, "precision": "float32", "deterministic": True}
recipe = parse_recipe({"name": "tiny", **TINY, "train": train}, where="test")
tiles = draw_easy_tiles(40)
packaged, _ = load_predictor([], PredictOptions(precision="float32", engine="eager"))
with tempfile.TemporaryDirectory() as run:
    (Path(run) / "checkpoints").mkdir()
    split = make_splits(tiles, recipe.split)[0]
    found = fit(tiles, split, recipe, Path(run), hardware=Hardware("cpu", progress=False))
# bf16 would round both, which may tell one more step of 1/256 where they are all but equal
trained = Predictor([found.net.eval()], precision="float32")
print(json.dumps({
    "isa": torch.backends.cpu.get_cpu_capability(),
    "packaged": packaged.predict_probs(draw_easy_tiles(6, size=101).images).ravel().tolist(),
    "trained": trained.predict_probs(tiles.images[:8]).ravel().tolist(),
    "losses": [epoch["train_loss"] for epoch in found.history],
    "weights": torch.cat([v.double().flatten() for v in found.net.state_dict().values()]).tolist(),
}))
"""


def work(**changes: str) -> dict[str, Any]:
    """Predict and train in a process with this environment."""
    command = [sys.executable, "-c", WORK, str(Path(__file__).parent)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **changes}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_results_of_another_processor_are_close() -> None:
    here, there = work(), work(**OLD_PROCESSOR)
    if here["isa"] == there["isa"]:
        pytest.skip(f"this processor has no instructions to take away ({here['isa']})")

    def apart(what: str) -> float:
        return float(np.abs(np.subtract(here[what], there[what])).max())

    assert here["weights"] != there["weights"], "it computed in the same way"
    assert apart("packaged") <= OF_PROBABILITIES
    assert apart("trained") <= OF_TRAINED_PROBABILITIES
    assert apart("weights") <= OF_WEIGHTS
    assert apart("losses") <= OF_LOSSES
