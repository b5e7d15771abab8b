"""The score on the real competition masks, where they are at hand (see CONTRIBUTING.md)."""

import os
from pathlib import Path

import numpy as np
import pytest

from diapir.io.tiles import read_tiles
from diapir.metrics.score import competition_score

pytestmark = [
    pytest.mark.realdata,
    pytest.mark.skipif("DIAPIR_TGS" not in os.environ, reason="DIAPIR_TGS is not set"),
]


def test_an_all_empty_submission_scores_the_empty_share_of_the_real_masks():
    masks = read_tiles(Path(os.environ["DIAPIR_TGS"]), "train").masks
    coverage = masks.mean(axis=(1, 2))
    # What the public kernels' metric gives: the coverage counts as IoU, an empty tile as 1.
    limits = np.arange(0.5, 1.0, 0.05)
    wrong = np.where(coverage == 0, 1, (coverage[:, None] > limits).mean(axis=1)).mean()
    assert wrong == pytest.approx(0.5228, abs=0.01)
    assert competition_score(np.zeros_like(masks), masks) == pytest.approx(0.3905, abs=0.01)
    assert competition_score(np.zeros_like(masks), masks) == (coverage == 0).mean()
