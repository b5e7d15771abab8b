"""The metrics as torchmetrics classes, summed exactly over batches and processes.

All states are sums of integers. Results so do not depend on how tiles are shared among processes
or in which order they come, to the last bit, and no float64 is needed, which some accelerators
lack. The sums are replaced, not changed in place: torch forbids that for a state that was reset in
inference mode and is updated outside. State names differ between the classes:
`torchmetrics.MetricCollection` merges metrics whose states have equal names and happen to be equal
after the first batch, and then reports one metric under the other's name.
"""

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from diapir.metrics.score import Counts, dice, iou, pixel_accuracy, tile_hits

_FIXED_POINT = 2**24
"""Ratios in 0..1 are summed in units of this one's inverse, the spacing of float32 below 1."""


def torch_counts(prediction: Tensor, truth: Tensor, threshold: float = 0.5) -> Counts:
    """Return the pixel counts of each tile of a batch.

    Args:
        prediction: (B, 1, H, W) or (B, H, W); probabilities if float (salt where above the
            threshold), else a mask of bool or integers (salt where not 0).
        truth: The same shape; salt where not 0.
        threshold: On probabilities.

    Returns:
        Counts of (B,) int64 on the device of the batch.

    Raises:
        ValueError: The shapes differ or do not have a batch of tiles.
    """
    if prediction.shape != truth.shape or prediction.ndim < 3:
        raise ValueError(
            f"prediction {tuple(prediction.shape)} and truth {tuple(truth.shape)} must have one "
            "shape (B, 1, height, width) or (B, height, width)"
        )
    limit = threshold if prediction.is_floating_point() else 0
    said, salt = (prediction > limit).flatten(1), (truth != 0).flatten(1)
    return Counts(
        intersection=(said & salt).sum(dim=1),
        predicted=said.sum(dim=1),
        actual=salt.sum(dim=1),
        pixels=torch.full((len(said),), said.shape[1], dtype=torch.int64, device=said.device),
    )


class SaltMetrics(Metric):
    """All metrics of `diapir.metrics.score.summarize` from one pass over each batch.

    Args:
        threshold: On probabilities.
        kwargs: For `torchmetrics.Metric`.

    >>> metrics = SaltMetrics()
    >>> metrics.update(torch.tensor([[[0.9, 0.2]]]), torch.tensor([[[1, 0]]]))
    >>> metrics.compute()["score"].item()
    1.0
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False

    all_sums: Tensor

    def __init__(self, threshold: float = 0.5, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.threshold = threshold
        _add_sums(self, "all_sums", 8)

    def update(self, prediction: Tensor, truth: Tensor) -> None:
        """Add a batch; see `torch_counts`."""
        counts = torch_counts(prediction, truth, self.threshold)
        tiles = torch.ones_like(counts.actual)
        ratios = (_fixed(iou(counts)), _fixed(dice(counts)), _fixed(pixel_accuracy(counts)))
        rows = (tiles, tile_hits(counts), *ratios, *_presence(counts))
        self.all_sums = self.all_sums + torch.stack(rows).sum(dim=1)

    def compute(self) -> dict[str, Tensor]:
        """Return the metrics under the keys of `summarize`; NaN before the first tile."""
        tiles, hits, iou_sum, dice_sum, accuracy_sum, said, salty, right = self.all_sums.unbind()
        unit = tiles * _FIXED_POINT
        return {
            "score": hits / (10 * tiles),
            "iou": iou_sum / unit,
            "dice": dice_sum / unit,
            "accuracy": accuracy_sum / unit,
            "presence_precision": _share(right, said),
            "presence_recall": _share(right, salty),
        }


class CompetitionScore(Metric):
    """The competition's score, `diapir.metrics.score.competition_score`.

    Args:
        threshold: On probabilities.
        kwargs: For `torchmetrics.Metric`.
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    plot_lower_bound, plot_upper_bound = 0.0, 1.0

    score_sums: Tensor

    def __init__(self, threshold: float = 0.5, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.threshold = threshold
        _add_sums(self, "score_sums", 2)

    def update(self, prediction: Tensor, truth: Tensor) -> None:
        """Add a batch; see `torch_counts`."""
        hits = tile_hits(torch_counts(prediction, truth, self.threshold))
        self.score_sums = self.score_sums + torch.stack([hits, torch.ones_like(hits)]).sum(dim=1)

    def compute(self) -> Tensor:
        """Return the mean score of the tiles, float32; NaN before the first tile."""
        hits, tiles = self.score_sums.unbind()
        return hits / (10 * tiles)


class SaltIoU(Metric):
    """Mean intersection over union of the tiles; 1 where neither side has salt.

    Args:
        threshold: On probabilities.
        kwargs: For `torchmetrics.Metric`.
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    plot_lower_bound, plot_upper_bound = 0.0, 1.0

    iou_sums: Tensor

    def __init__(self, threshold: float = 0.5, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.threshold = threshold
        _add_sums(self, "iou_sums", 2)

    def update(self, prediction: Tensor, truth: Tensor) -> None:
        """Add a batch; see `torch_counts`."""
        self.iou_sums = self.iou_sums + _sum_fixed(
            iou(torch_counts(prediction, truth, self.threshold))
        )

    def compute(self) -> Tensor:
        """Return the mean over tiles, float32; NaN before the first tile."""
        return _mean_fixed(self.iou_sums)


class SaltDice(Metric):
    """Mean Dice coefficient of the tiles; 1 where neither side has salt.

    Args:
        threshold: On probabilities.
        kwargs: For `torchmetrics.Metric`.
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    plot_lower_bound, plot_upper_bound = 0.0, 1.0

    dice_sums: Tensor

    def __init__(self, threshold: float = 0.5, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.threshold = threshold
        _add_sums(self, "dice_sums", 2)

    def update(self, prediction: Tensor, truth: Tensor) -> None:
        """Add a batch; see `torch_counts`."""
        self.dice_sums = self.dice_sums + _sum_fixed(
            dice(torch_counts(prediction, truth, self.threshold))
        )

    def compute(self) -> Tensor:
        """Return the mean over tiles, float32; NaN before the first tile."""
        return _mean_fixed(self.dice_sums)


class PixelAccuracy(Metric):
    """Mean share of right pixels of the tiles.

    Args:
        threshold: On probabilities.
        kwargs: For `torchmetrics.Metric`.
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    plot_lower_bound, plot_upper_bound = 0.0, 1.0

    accuracy_sums: Tensor

    def __init__(self, threshold: float = 0.5, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.threshold = threshold
        _add_sums(self, "accuracy_sums", 2)

    def update(self, prediction: Tensor, truth: Tensor) -> None:
        """Add a batch; see `torch_counts`."""
        counts = torch_counts(prediction, truth, self.threshold)
        self.accuracy_sums = self.accuracy_sums + _sum_fixed(pixel_accuracy(counts))

    def compute(self) -> Tensor:
        """Return the mean over tiles, float32; NaN before the first tile."""
        return _mean_fixed(self.accuracy_sums)


class SaltPresence(Metric):
    """Precision and recall of "this tile has salt", as a dict.

    Args:
        threshold: On probabilities.
        kwargs: For `torchmetrics.Metric`.
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False

    presence_sums: Tensor

    def __init__(self, threshold: float = 0.5, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.threshold = threshold
        _add_sums(self, "presence_sums", 3)

    def update(self, prediction: Tensor, truth: Tensor) -> None:
        """Add a batch; see `torch_counts`."""
        counts = torch_counts(prediction, truth, self.threshold)
        self.presence_sums = self.presence_sums + torch.stack(_presence(counts)).sum(dim=1)

    def compute(self) -> dict[str, Tensor]:
        """Return ``presence_precision`` and ``presence_recall``; 1 where nothing can be wrong."""
        said, salty, right = self.presence_sums.unbind()
        return {
            "presence_precision": _share(right, said),
            "presence_recall": _share(right, salty),
        }


def _add_sums(metric: Metric, name: str, length: int) -> None:
    metric.add_state(name, torch.zeros(length, dtype=torch.int64), dist_reduce_fx="sum")


def _fixed(ratios: Tensor) -> Tensor:
    return (ratios * _FIXED_POINT).round().long()


def _sum_fixed(ratios: Tensor) -> Tensor:
    return torch.stack([_fixed(ratios), torch.ones_like(ratios, dtype=torch.int64)]).sum(dim=1)


def _mean_fixed(sums: Tensor) -> Tensor:
    total, tiles = sums.unbind()
    return total / (tiles * _FIXED_POINT)


def _presence(counts: Counts) -> tuple[Tensor, Tensor, Tensor]:
    said, salty = counts.predicted > 0, counts.actual > 0
    return said.long(), salty.long(), (said & salty).long()


def _share(part: Tensor, whole: Tensor) -> Tensor:
    return torch.where(whole > 0, part / whole.clamp(min=1), 1.0)
