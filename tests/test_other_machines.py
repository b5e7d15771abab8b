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

import numpy as np
import pytest

OF_PROBABILITIES, OF_WEIGHTS = 1e-5, 1e-3
OLD_PROCESSOR = {
    "ATEN_CPU_CAPABILITY": "default",
    "ONEDNN_MAX_CPU_ISA": "SSE41",
    "MKL_ENABLE_INSTRUCTIONS": "SSE4_2",
    "OMP_NUM_THREADS": "2",
}

TRAIN = """
import json, sys, tempfile
from pathlib import Path
import numpy as np, torch
sys.path.insert(0, sys.argv[1])
from conftest import TINY, draw_easy_tiles
from diapir.config import parse_recipe
from diapir.data.splits import make_splits
from diapir.inference.predict import Predictor
from diapir.models.unet import SaltNet
from diapir.training.fit import fit
train = {"epochs": 2, "batch_size": 8, "precision": "float32", "deterministic": True}
recipe = parse_recipe({"name": "tiny", **TINY, "train": train}, where="test")
tiles = draw_easy_tiles(40)
torch.manual_seed(0)
before = Predictor([SaltNet(recipe.model).eval()]).predict_probs(tiles.images[:4])
with tempfile.TemporaryDirectory() as run:
    (Path(run) / "checkpoints").mkdir()
    split = make_splits(tiles, recipe.split)[0]
    net = fit(tiles, split, recipe, Path(run), accelerator="cpu", progress=False).net
weights = torch.cat([v.double().flatten() for v in net.state_dict().values()])
print(json.dumps({
    "isa": torch.backends.cpu.get_cpu_capability(),
    "probs": before.tolist(),
    "weights": weights.tolist(),
}))
"""


def run(**changes: str) -> dict[str, object]:
    """Train and predict in a process with this environment."""
    command = [sys.executable, "-c", TRAIN, str(Path(__file__).parent)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **changes}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    return found


def apart(one: object, other: object) -> float:
    """Return the largest difference of two lists of numbers."""
    return float(np.abs(np.asarray(one, float) - np.asarray(other, float)).max())


def test_results_of_another_processor_are_close() -> None:
    here, there = run(), run(**OLD_PROCESSOR)
    if here["isa"] == there["isa"]:
        pytest.skip(f"this processor has no instructions to take away ({here['isa']})")
    difference = apart(here["probs"], there["probs"])
    trained = apart(here["weights"], there["weights"])
    sys.stdout.write(f"probabilities differ by {difference:.1e}, weights by {trained:.1e}\n")
    assert difference <= OF_PROBABILITIES
    assert trained <= OF_WEIGHTS
