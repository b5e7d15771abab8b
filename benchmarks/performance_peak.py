"""What the machine can do at best, and how much a network asks of it."""

from dataclasses import dataclass
from functools import cache

import torch
from performance_setting import Setting
from protocol import Measured, Row, Table, measure
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from diapir.models.processor import has_fast_bf16

DTYPES = {"float32": torch.float32, "bf16": torch.bfloat16}


def dtypes(device: str) -> list[str]:
    """Return the names of those worth measuring: processors without instructions take minutes."""
    return [name for name in DTYPES if name != "bf16" or device != "cpu" or has_fast_bf16()]


@dataclass(frozen=True)
class Peak:
    """Operations a second at best, in GFLOP/s, by dtype.

    Args:
        matrix: Of a large matrix product.
        convolution: Of a 3x3 convolution of 128 channels.
    """

    matrix: dict[str, float]
    convolution: dict[str, float]

    def of(self, dtype: str) -> float:
        """Return the better of both."""
        return max(self.matrix[dtype], self.convolution[dtype])


@cache
def find_peak(side: int, rounds: int, device: str) -> Peak:
    """Return the peak of this machine, from the fastest of some rounds.

    Args:
        side: Of the square matrices; the convolution takes about as many operations.
        rounds: Of each.
        device: 'cpu' or 'cuda'.
    """
    matrix, convolution = {}, {}
    batch = max(1, side**3 // (64 * 64 * 128 * 128 * 9))
    for name in dtypes(device):
        dtype = DTYPES[name]
        factor = torch.randn(side, side, device=device, dtype=dtype)
        images = torch.randn(batch, 128, 64, 64, device=device, dtype=dtype)
        images = images.to(memory_format=torch.channels_last)
        conv = nn.Conv2d(128, 128, 3, padding=1, bias=False).to(device, dtype)
        conv = conv.to(memory_format=torch.channels_last)
        with torch.inference_mode():
            seconds = min(measure(lambda factor=factor: factor @ factor, rounds=rounds))
            matrix[name] = 2 * side**3 / seconds / 1e9
            work = 2 * batch * 64 * 64 * 128 * 128 * 9
            seconds = min(measure(lambda conv=conv, x=images: conv(x), rounds=rounds))
            convolution[name] = work / seconds / 1e9
    return Peak(matrix, convolution)


def peak_of(setting: Setting) -> Peak:
    """Return the peak with the effort and on the device of a measurement."""
    return find_peak(setting.effort.matrix, setting.effort.rounds, setting.device)


def measure_peak(setting: Setting) -> Measured:
    """Take the peak of a matrix product and of a convolution in both dtypes."""
    peak = peak_of(setting)
    cells = [
        [dtype, peak.matrix[dtype], peak.convolution[dtype], torch.get_num_threads()]
        for dtype in peak.matrix
    ]
    head = ["dtype", "matrix product, GFLOP/s", "3x3 convolution, GFLOP/s", "threads"]
    title = f"Peak: {setting.effort.matrix} x {setting.effort.matrix} matrices; 128 channels"
    return Measured(
        [Row("peak", f"peak in {d}", peak.of(d), "GFLOP/s") for d in peak.matrix],
        [Table(title, head, cells, "The fastest round counts.")],
    )


def gflop_of(net: nn.Module, inputs: Tensor, *, backward: bool = False) -> float:
    """Return the GFLOP that a network takes for one of these inputs.

    Args:
        net: In any mode, which is kept.
        inputs: (B, C, H, W); what is counted is divided by B.
        backward: Count the way back, too: as much again for the gradients of the features, and
            as much for those of the weights. The counter of torch 2.15 takes the gradients of
            depthwise convolutions for those of full ones.
    """
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        net(inputs)
    return (3 if backward else 1) * counter.get_total_flops() / len(inputs) / 1e9
