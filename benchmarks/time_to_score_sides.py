"""The two sides of `time_to_score.py`: a training each, scored now and then outside its account."""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
from baseline import PlainTiles, bce_and_dice, forever, plain_unet, predict_plainly
from numpy.typing import NDArray
from segmentation_models_pytorch.losses import LovaszLoss
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision.transforms import InterpolationMode
from torchvision.transforms.functional import affine, center_crop, pad

from diapir.config import load_recipe
from diapir.data.splits import Split
from diapir.io.tiles import Tiles, read_tiles
from diapir.metrics.score import competition_score
from diapir.models.unet import SaltNet
from diapir.runs.machine import keep_freed_memory
from diapir.training.callbacks import Pace
from diapir.training.fit import fit
from diapir.training.hardware import Hardware
from diapir.training.task import SaltTask

_BATCH = 32
_PLAIN_LR = 1e-3
Images = NDArray[np.uint8]
Probs = NDArray[np.float32]


@dataclass
class Observer:
    """Scores a training now and then, and leaves the time for it out of the account.

    Args:
        score: Of the network as it is.
        every: Seconds of training between two scores.
    """

    score: Callable[[], float]
    every: float
    points: list[tuple[float, float]] = field(default_factory=list)
    spent: float = 0.0

    def look(self, seconds: float, *, last: bool = False) -> float:
        """Score if it is time to; return the seconds that it took.

        Args:
            seconds: Of training so far, without scoring.
            last: Score in any case.
        """
        before = self.points[-1][0] if self.points else 0.0
        if seconds == before or (seconds - before < self.every and not last):
            return 0.0
        started = time.perf_counter()
        self.points.append((seconds, self.score()))
        print(f"  {seconds / 60:6.2f} min  {self.points[-1][1]:.4f}", flush=True)
        took = time.perf_counter() - started
        self.spent += took
        return took


def read_parts(data: Path, holdout: Path) -> tuple[Tiles, NDArray[np.intp], Tiles]:
    """Return all tiles, the positions of those that train, and the tiles that are scored."""
    tiles = read_tiles(data, "train", progress=False)
    held = set(json.loads(holdout.read_text(encoding="utf-8"))["holdout"])
    is_held = np.array([id_ in held for id_ in tiles.ids])
    if is_held.sum() != len(held) or not held:
        raise SystemExit(f"{holdout}: {len(held)} ids, of which {is_held.sum()} are in {data}")
    return tiles, np.flatnonzero(~is_held), tiles.subset(is_held)


def score_mirrored(probs: Callable[[Images], Probs], tiles: Tiles) -> float:
    """Return the competition's score of tiles at threshold 0.5, averaged with mirrored ones."""
    mirrored = probs(tiles.images[:, :, ::-1].copy())[:, :, ::-1]
    return competition_score((probs(tiles.images) + mirrored) / 2 > 0.5, tiles.truth)


@dataclass(frozen=True)
class Trial:
    """One training of one side.

    Args:
        data: Labelled tiles.
        holdout: JSON with the ids that are scored.
        encoder: Weights of tf_efficientnet_lite0, a safetensors file; None: random ones.
        budget: Epochs of the baseline, after which its cycle ends; minutes of the product.
        seed: Of weights and batches.
        every: Seconds of training between two scores.
        work: Folder for what the product keeps.
    """

    data: Path
    holdout: Path
    encoder: Path | None
    budget: float
    seed: int
    every: float
    work: Path


def train_plain(trial: Trial) -> Observer:
    """Return the scores of the baseline: the library's U-Net in the loop that its users write.

    Cross-entropy and Dice for the first half, then 0.7 Lovasz beside 0.3 of them; AdamW, one cycle.
    """
    tiles, train, shown = read_parts(trial.data, trial.holdout)
    learnt = PlainTiles(tiles.images[train], tiles.truth[train], change=_changed)
    loader = DataLoader(learnt, batch_size=_BATCH, shuffle=True, drop_last=True)
    steps = max(1, round(trial.budget * len(loader)))
    torch.manual_seed(trial.seed)

    started = time.perf_counter()
    net = plain_unet("tf_efficientnet_lite0", trial.encoder).train()
    optimizer = torch.optim.AdamW(net.parameters(), lr=_PLAIN_LR, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, _PLAIN_LR, total_steps=steps)
    plain_loss, lovasz = bce_and_dice(), LovaszLoss("binary", per_image=True)

    def score() -> float:
        net.eval()
        found = score_mirrored(lambda images: predict_plainly(net, images), shown)
        net.train()
        return found

    observer = Observer(score, trial.every)
    for step, (images, masks) in enumerate(islice(forever(loader), steps), start=1):
        logits = net(images)
        loss = plain_loss(logits, masks)
        if step > steps / 2:
            loss = 0.7 * lovasz(logits, masks) + 0.3 * loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        observer.look(time.perf_counter() - started - observer.spent, last=step == steps)
    return observer


def _changed(image: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Return image and mask mirrored, zoomed, shifted and brightened at random."""
    if torch.rand(()) < 0.5:
        image, mask = image.flip(2), mask.flip(2)
    zoom, right, down, bright = (2 * torch.rand(4) - 1).tolist()
    side = image.shape[-1]
    moved: dict[str, Any] = {
        "angle": 0.0,
        "translate": [round(0.1 * right * side), round(0.1 * down * side)],
        "scale": 1 + 0.15 * zoom,
        "shear": [0.0],
    }
    edge = side // 4  # more than shift and zoom lay bare
    image, mask = pad(image, edge, padding_mode="reflect"), pad(mask, edge, padding_mode="reflect")
    image = affine(image, **moved, interpolation=InterpolationMode.BILINEAR)
    image, mask = center_crop(image, side), center_crop(affine(mask, **moved), side)
    return (image + 0.1 * bright).clamp(0, 1), mask


def train_cpu(trial: Trial, settings: Sequence[str] = ()) -> Observer:
    """Return the scores of the network of recipe `small`, on all cores.

    It is trained by `diapir.training.fit.fit`.

    Args:
        trial: Its budget is `train.max_minutes`.
        settings: Further keys of the recipe, for tests.
    """
    tiles, train, shown = read_parts(trial.data, trial.holdout)
    weights = trial.encoder or "none"
    own = [
        f"train.max_minutes={trial.budget}",
        f"train.seed={trial.seed}",
        f"model.weights={weights}",
    ]
    recipe = load_recipe("small", [*own, *settings])
    observer = Observer(lambda: float("nan"), trial.every)
    nothing = np.array([], dtype=np.intp)
    keep_freed_memory()  # as `diapir train` does
    fit(
        tiles,
        Split(train, nothing, nothing, None, trial.seed, "none"),
        recipe,
        trial.work,
        hardware=Hardware("cpu", progress=False),
        callbacks=[_Watch(observer, shown)],
    )
    return observer


class _Watch(lightning.Callback):
    """Scores between steps, and takes what that lasts out of the product's own clock."""

    def __init__(self, observer: Observer, shown: Tiles) -> None:
        self.observer, self.shown = observer, shown

    def on_train_start(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        """Keep no time for validating, of which the training does none itself."""
        pace = next(c for c in trainer.callbacks if isinstance(c, Pace))  # type: ignore[attr-defined]
        pace.validation_seconds = 0.0
        self.clock = pace.clock
        self.observer.score = lambda: score_mirrored(partial(_probs, pl_module), self.shown)

    def on_train_batch_end(self, trainer: lightning.Trainer, *args: Any) -> None:
        """Score if it is time to, and after the last step."""
        last = trainer.should_stop or self.clock.step >= self.clock.total_steps
        self.clock.started += self.observer.look(self.clock.seconds, last=last)


@torch.inference_mode()
def _probs(task: SaltTask, images: Images) -> Probs:
    """Return probabilities by the weights that the training would keep now."""
    net: SaltNet = task.best_net
    was_training = net.training
    net.eval()
    batches = torch.tensor(images)[:, None].split(_BATCH)
    found = [torch.sigmoid(net(batch.float() / 255))[:, 0].numpy() for batch in batches]
    net.train(was_training)
    return np.concatenate(found)
