"""What needs no network: the Lovasz loss, run-lengths, the score, and how soon `--help` answers."""

import subprocess
import sys

import numpy as np
import torch
from numpy.typing import NDArray
from performance_setting import Setting
from protocol import Measured, Row, compare, measure, ratio_row, seconds_row
from segmentation_models_pytorch.losses import LovaszLoss

from diapir.data.synthetic import generate_tiles
from diapir.io.rle import encode_rle_many
from diapir.metrics.score import competition_score
from diapir.training.losses import lovasz_hinge

_CLOSE = 1e-5


def measure_lovasz(setting: Setting) -> Measured:
    """Compare the Lovasz hinge of a batch with the loop over its tiles that libraries have."""
    count = 64
    masks = draw_masks(count)
    torch.manual_seed(0)
    truth = torch.from_numpy(masks.astype(np.float32))[:, None].to(setting.device)
    # logits as of a network half trained: right more often than wrong
    noise = torch.randn(truth.shape, device=setting.device)
    logits = (noise + 2 * truth - 1).requires_grad_()
    loop = LovaszLoss("binary", per_image=True)

    def by_tile() -> tuple[torch.Tensor, torch.Tensor]:
        loss = loop(logits, truth)
        return loss.detach(), torch.autograd.grad(loss, logits)[0]

    def at_once() -> tuple[torch.Tensor, torch.Tensor]:
        loss = lovasz_hinge(logits, truth)
        return loss.detach(), torch.autograd.grad(loss, logits)[0]

    found = compare(by_tile, at_once, rounds=setting.effort.rounds)
    values, gradients = (
        (a - b).abs().max().item() for a, b in zip(by_tile(), at_once(), strict=True)
    )
    return Measured(
        [
            ratio_row(
                "5",
                f"Lovasz hinge of {count} tiles with its gradients, against the loop over tiles of "
                "segmentation_models_pytorch",
                found,
                setting.gate(2.5),
            ),
            Row("5", "largest difference of its value", values, "", _CLOSE),
            Row("5", "largest difference of a gradient", gradients, "", _CLOSE),
        ]
    )


def measure_rle(setting: Setting) -> Measured:
    """Compare the run-lengths of many masks with the loop over their salt pixels."""
    masks = draw_masks(setting.effort.masks)

    def by_pixel() -> list[str]:
        return [_encode_by_pixel(mask) for mask in masks]

    def at_once() -> list[str]:
        return encode_rle_many(masks)

    found = compare(by_pixel, at_once, rounds=setting.effort.rounds, warm_up=0)
    differ = sum(a != b for a, b in zip(by_pixel(), at_once(), strict=True))
    return Measured(
        [
            ratio_row(
                "6",
                f"run-lengths of {len(masks):,} masks against the loop over salt pixels",
                found,
                setting.gate(5.0),
            ),
            seconds_row("6", f"{len(masks):,} masks encoded", found.candidate, setting.gate(1.0)),
            Row("6", "masks whose text differs in any byte", differ, "", 0),
        ]
    )


def measure_score(setting: Setting) -> Measured:
    """Take the time of the competition's score of many tiles."""
    truth = draw_masks(setting.effort.masks)
    predicted = np.roll(truth, 2, axis=1)
    seconds = measure(lambda: competition_score(predicted, truth), rounds=setting.effort.rounds)
    what = f"score of {len(truth):,} tiles, from masks"
    return Measured([seconds_row("7", what, seconds, setting.gate(1.0))])


def measure_help(setting: Setting) -> Measured:
    """Take the time until `diapir --help` has answered, in a process of its own."""
    command = [sys.executable, "-m", "diapir", "--help"]
    seconds = measure(
        lambda: subprocess.run(command, check=True, capture_output=True),  # noqa: S603
        rounds=setting.effort.rounds,
    )
    probe = (
        "import runpy, sys; sys.argv = ['diapir', '--help']\n"
        "try: runpy.run_module('diapir', run_name='__main__')\n"
        "except SystemExit: pass\n"
        "print('\\nloaded:', int('torch' in sys.modules))"
    )
    done = subprocess.run(  # noqa: S603
        [sys.executable, "-c", probe], check=True, capture_output=True, text=True
    )
    loaded = int(done.stdout.splitlines()[-1].removeprefix("loaded: "))
    return Measured(
        [
            seconds_row("9", "`diapir --help`", seconds, setting.gate(0.5)),
            Row("9", "imports of torch for it", loaded, "", 0),
        ]
    )


def draw_masks(count: int) -> NDArray[np.uint8]:
    """Return (count, 101, 101) masks of drawn tiles; from 200 on they repeat."""
    drawn = generate_tiles(min(count, 200), seed=0).truth
    return np.ascontiguousarray(drawn[np.arange(count) % len(drawn)])


def _encode_by_pixel(mask: NDArray[np.uint8]) -> str:
    """Return the run-lengths as the competition's public kernels write them.

    Source: the `rle_encoding` that went round the forums of Kaggle's segmentation competitions.
    """
    runs: list[int] = []
    previous = -2
    for pixel in np.flatnonzero(mask.T.flatten()):
        if pixel > previous + 1:
            runs.extend((pixel + 1, 0))
        runs[-1] += 1
        previous = pixel
    return " ".join(str(number) for number in runs)
