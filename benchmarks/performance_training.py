"""Training: the product's own loop between steps of the baseline and of a loop without Lightning.

The three loops run in one process, in turns: whenever the product has taken a few steps, a callback
lets the others take as many, and measures all of them.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from statistics import median
from typing import Any

import lightning
import numpy as np
import torch
from baseline import PlainLoop, PlainTiles, flip_and_brighten, plain_unet
from performance_models import plain_recipe
from performance_peak import gflop_of, peak_of
from performance_setting import Setting
from protocol import (
    Comparison,
    Measured,
    Row,
    Table,
    ratio_row,
    seconds_of,
    spread,
    wait_for_card,
)

from diapir.config import Recipe
from diapir.data.augment import augment_batch
from diapir.data.datamodule import EpochSampler, TileDataset
from diapir.data.splits import Split
from diapir.io.tiles import Tiles
from diapir.models.unet import SaltNet
from diapir.runs.machine import keep_freed_memory
from diapir.training.fit import fit
from diapir.training.hardware import Hardware
from diapir.training.task import SaltTask, total_loss

_MOST_OVERHEAD, _MOST_DATA = 3.0, 10.0
"""Per cent that Lightning may add to a step, and that data and augmentation may take of it."""


class Turns(lightning.Callback):
    """Lets other loops take steps between those of the product, and measures all of them.

    The blocks before the first that counts warm everything up.

    Args:
        others: By name; a call is a step.
        steps: In each block.
        warm_up: Blocks that do not count.
    """

    def __init__(
        self, others: Mapping[str, Callable[[], object]], steps: int, warm_up: int = 1
    ) -> None:
        self.others, self.steps, self.warm_up = others, steps, warm_up
        self.seconds: dict[str, list[float]] = {name: [] for name in ("product", *others)}
        self.data_shares: list[float] = []
        self._step = 0
        self._waited = 0.0

    def on_train_start(self, *args: Any) -> None:
        """Begin the first block."""
        self._began = self._ended = time.perf_counter()

    def on_train_batch_start(self, *args: Any) -> None:
        """Add up what fetching and augmenting took since the last step."""
        wait_for_card()
        self._waited += time.perf_counter() - self._ended

    def on_train_batch_end(self, *args: Any) -> None:
        """Close a block of the product, and let the others take theirs."""
        wait_for_card()
        self._ended = time.perf_counter()
        self._step += 1
        if self._step % self.steps:
            return
        took = {"product": self._ended - self._began}
        for name, step in self.others.items():
            took[name] = seconds_of(lambda step=step: [step() for _ in range(self.steps)])
        if self._step > self.warm_up * self.steps:
            self.data_shares.append(self._waited / took["product"])
            for name, seconds in took.items():
                self.seconds[name].append(seconds)
        self._waited = 0.0
        self._began = self._ended = time.perf_counter()

    def compared(self, baseline: str, candidate: str) -> Comparison:
        """Return two loops side by side."""
        pair = (tuple(self.seconds[name]) for name in (baseline, candidate))
        return Comparison(*pair, threads=torch.get_num_threads())


class BareLoop:
    """The product's step without Lightning: its parts one after the other, and nothing else.

    No metrics, no check of the loss, no journal, no checkpoints.

    Args:
        tiles: What it learns.
        recipe: How.
        device: Where.
    """

    def __init__(self, tiles: Tiles, recipe: Recipe, device: str) -> None:
        self.recipe, self.device = recipe, torch.device(device)
        self.steps = 0
        task = SaltTask(SaltNet(recipe.model).to(self.device), recipe, lambda: 0.5)
        self.net, self.averaged = task.net, task.averaged
        self.net.set_precision(recipe.train.precision, self.device.type)
        (self.optimizer,), (schedule,) = task.configure_optimizers()
        self.scheduler = schedule["scheduler"]
        self.data = TileDataset(tiles, np.arange(len(tiles)), self.device)
        self.stage = recipe.loss.stage_at(0)
        self._places = self._batches()

    def __call__(self) -> None:
        """Take the next batch and step."""
        images, masks = self.next_batch()
        outputs = self.net.forward_all(images)
        loss = total_loss(outputs, masks, self.stage, self.recipe.loss)
        self.optimizer.zero_grad()
        loss.backward()
        if self.recipe.optim.clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(self.net.parameters(), self.recipe.optim.clip_norm)
        self.optimizer.step()
        self.scheduler.step()
        if self.averaged is not None:
            self.averaged.update_parameters(self.net)

    def next_batch(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the next images and masks, augmented."""
        batch = self.data.__getitems__(next(self._places))
        self.steps += 1
        generator = torch.Generator(device=self.device).manual_seed(self.steps)
        images, masks = batch.images.float() / 255, batch.masks.float()
        return augment_batch(images, masks, self.recipe.augment, generator)

    def _batches(self) -> Iterator[list[int]]:
        size = self.recipe.train.batch_size
        sampler = EpochSampler(len(self.data), len(self.data), self.recipe.train.seed)
        while True:
            order = list(sampler)
            yield from (order[at : at + size] for at in range(0, len(order) - size + 1, size))
            sampler.set_epoch(sampler.epoch + 1)


def measure_training(setting: Setting) -> Measured:
    """Compare the product's training with the baseline's and with its own parts alone."""
    keep_freed_memory()  # `diapir train` does so; here it serves all three loops
    found = Measured()
    shares: list[list[object]] = []
    for encoder in setting.effort.encoders:
        _compare_encoder(setting, encoder, found, shares)
    head = ["encoder", "loop", "GFLOP a tile", "tiles a second", "GFLOP/s", "share of the peak"]
    note = (
        "GFLOP of the network forwards by torch.utils.flop_counter, times three: gradients of "
        "features and of weights take as much each."
    )
    found.tables.append(Table("Share of the machine's peak in training", head, shares, note))
    return found


def _compare_encoder(
    setting: Setting, encoder: str, found: Measured, shares: list[list[object]]
) -> None:
    effort, device = setting.effort, setting.device
    recipe = plain_recipe(encoder, effort.batch)
    steps = effort.steps * (effort.training + 1)
    tiles = setting.labelled(steps * effort.batch)
    recipe = recipe.model_copy(
        update={"train": recipe.train.model_copy(update={"tiles_per_epoch": steps * effort.batch})}
    )
    bare = BareLoop(tiles, recipe, device)
    plain = PlainLoop(
        plain_unet(encoder).to(device),
        PlainTiles(tiles.images, tiles.truth, change=flip_and_brighten),
        batch_size=effort.batch,
        device=device,
    )
    turns = Turns({"baseline": plain, "bare": bare}, effort.steps)
    everything = np.arange(len(tiles), dtype=np.intp)
    split = Split(everything, everything[:0], everything[:0], None, 0, "none")
    run = setting.work / encoder
    run.mkdir()
    hardware = Hardware("gpu" if device == "cuda" else "cpu", progress=False)
    fit(tiles, split, recipe, run, hardware=hardware, callbacks=[turns])
    found.rows += _rows(setting, encoder, turns)
    found.tables.append(_profile(encoder, bare))
    shares += _shares(setting, encoder, turns)


def _rows(setting: Setting, encoder: str, turns: Turns) -> list[Row]:
    effort = setting.effort
    target, limit = ("4", 2.0) if setting.device == "cuda" else ("3", 1.8)
    note = (
        f"{encoder}: {effort.steps} steps of {effort.batch} tiles a round, 101 x 101 padded to "
        "128; in bf16 where the processor has instructions for it."
    )
    lost = [100 * (ratio - 1) for ratio in turns.compared("product", "bare").ratios]
    data = [100 * share for share in turns.data_shares]
    return [
        ratio_row(
            target,
            f"training step against the baseline, {encoder}",
            turns.compared("baseline", "product"),
            setting.gate(limit),
            note=note,
        ),
        _percent("3", f"added to the bare loop by Lightning, metrics and journal, {encoder}",
                 lost, setting.gate(_MOST_OVERHEAD)),
        _percent("4", f"data and augmentation in a step, {encoder}", data,
                 setting.gate(_MOST_DATA)),
    ]  # fmt: skip


def _percent(target: str, what: str, values: list[float], limit: float | None) -> Row:
    return Row(target, what, median(values), "%", limit, False, spread(values), len(values))


def plain_net(encoder: str) -> SaltNet:
    """Return an untrained network of the measured recipe."""
    return SaltNet(plain_recipe(encoder).model)


def _shares(setting: Setting, encoder: str, turns: Turns) -> list[list[object]]:
    net = plain_net(encoder)
    net.set_precision("auto", setting.device)
    peak = peak_of(setting)
    low = net.autocast_dtype is not None
    own = gflop_of(net, torch.zeros(2, 1, 101, 101), backward=True)
    library = gflop_of(plain_unet(encoder), torch.zeros(2, 3, 128, 128), backward=True)
    lines: list[list[object]] = []
    for loop, gflop, dtype in (
        ("baseline", library, "float32"),
        ("product", own, "bf16" if low else "float32"),
    ):
        rate = setting.effort.steps * setting.effort.batch / median(turns.seconds[loop])
        share = f"{gflop * rate / peak.of(dtype):.0%} of {dtype}"
        lines.append([encoder, loop, gflop, rate, gflop * rate, share])
    return lines


def _profile(encoder: str, bare: BareLoop) -> Table:
    """Return what a step of the product is made of, by the time inside each operation."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    on_card = bare.device.type == "cuda"
    activities += [torch.profiler.ProfilerActivity.CUDA] if on_card else []
    with torch.profiler.profile(activities=activities) as profile:
        bare()
        wait_for_card()
    times = {
        event.key: event.self_device_time_total if on_card else event.self_cpu_time_total
        for event in profile.key_averages()
    }
    whole = sum(times.values())
    largest = sorted(times.items(), key=lambda pair: -pair[1])[:8]
    cells: list[list[object]] = [[key, f"{spent / whole:.1%}"] for key, spent in largest]
    cells.append(["all others", f"{1 - sum(spent for _, spent in largest) / whole:.1%}"])
    return Table(f"What a training step is made of, {encoder}", ["operation", "share"], cells)
