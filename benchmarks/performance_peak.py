"""What the machine can do at best, and how much a network asks of it."""

from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from performance_setting import Setting
from protocol import Measured, Row, Table, measure
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from diapir.inference.engine import EngineChoice, engine_of_graph, installed_backends
from diapir.inference.graphs import traced_graph
from diapir.inference.signature import LOGITS
from diapir.models.processor import has_fast_bf16

_SIDE, _CHANNELS, _LAYERS = 64, 128, 8
"""Of the images of a convolution, in pixels; its channels; how many an engine takes in a row."""
DTYPES = {"float32": torch.float32, "bf16": torch.bfloat16}


def dtypes(device: str) -> list[str]:
    """Return the names of those worth measuring: processors without instructions take minutes."""
    return [name for name in DTYPES if name != "bf16" or device != "cpu" or has_fast_bf16()]


@dataclass(frozen=True)
class Peak:
    """Operations a second at best, in GFLOP/s, by dtype.

    Args:
        matrix: Of a large matrix product.
        convolution: Of a 3x3 convolution of 128 channels, by torch.
        engine: Of such convolutions by OpenVINO; empty where it cannot work.
    """

    matrix: dict[str, float]
    convolution: dict[str, float]
    engine: dict[str, float]

    def of(self, dtype: str) -> float:
        """Return the best of all."""
        every = (self.matrix, self.convolution, self.engine)
        return max(found[dtype] for found in every if dtype in found)


@cache
def find_peak(side: int, rounds: int, device: str) -> Peak:
    """Return the peak of this machine, from the fastest of some rounds.

    Args:
        side: Of the square matrices; the convolution takes about as many operations.
        rounds: Of each.
        device: 'cpu' or 'cuda'.
    """
    matrix, convolution, engine = {}, {}, {}
    batch = max(1, side**3 // _multiplications(1))
    for name in dtypes(device):
        dtype = DTYPES[name]
        factor = torch.randn(side, side, device=device, dtype=dtype)
        images = torch.randn(batch, _CHANNELS, _SIDE, _SIDE, device=device, dtype=dtype)
        images = images.to(memory_format=torch.channels_last)
        conv = _convolution().to(device, dtype)
        conv = conv.to(memory_format=torch.channels_last)
        with torch.inference_mode():
            seconds = min(measure(lambda factor=factor: factor @ factor, rounds=rounds))
            matrix[name] = 2 * side**3 / seconds / 1e9
            seconds = min(measure(lambda conv=conv, x=images: conv(x), rounds=rounds))
            convolution[name] = 2 * _multiplications(batch) / seconds / 1e9
        if "openvino" in installed_backends(device):
            engine[name] = _engine_rate(name, max(1, batch // _LAYERS), rounds)
    return Peak(matrix, convolution, engine)


def _engine_rate(dtype: str, batch: int, rounds: int) -> float:
    """Return the GFLOP/s of OpenVINO in convolutions that follow each other.

    A single one would be timed with the copies of what goes in and comes out.
    """
    graph = traced_graph(_Convolutions().eval(), False, LOGITS, (_SIDE, _SIDE))
    run = engine_of_graph(graph, EngineChoice("openvino", dtype, batch))
    images = np.random.default_rng(0).random((batch, 1, _SIDE, _SIDE), np.float32)
    seconds = min(measure(lambda: run(images), rounds=rounds))
    return 2 * _LAYERS * _multiplications(batch) / seconds / 1e9


class _Convolutions(nn.Module):
    """From grey images to grey images by convolutions of many channels."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(*[_convolution() for _ in range(_LAYERS)])

    def forward(self, images: Tensor) -> Tensor:
        many = images.expand(-1, _CHANNELS, -1, -1)
        found: Tensor = self.layers(many).mean(dim=1, keepdim=True)
        return found


def _convolution() -> nn.Conv2d:
    return nn.Conv2d(_CHANNELS, _CHANNELS, 3, padding=1, bias=False)


def _multiplications(batch: int) -> int:
    """Return those of a direct convolution of a batch."""
    return batch * _SIDE**2 * _CHANNELS**2 * 9


def peak_of(setting: Setting) -> Peak:
    """Return the peak with the effort and on the device of a measurement."""
    return find_peak(setting.effort.matrix, setting.effort.rounds, setting.device)


def measure_peak(setting: Setting) -> Measured:
    """Take the peak of a matrix product and of convolutions in both dtypes."""
    peak = peak_of(setting)
    cells = [
        [dtype, peak.matrix[dtype], peak.convolution[dtype], peak.engine.get(dtype, ""),
         torch.get_num_threads()]
        for dtype in peak.matrix
    ]  # fmt: skip
    head = ["dtype", "matrix product, GFLOP/s", "3x3 convolution, GFLOP/s",
            "the same by OpenVINO, GFLOP/s", "threads"]  # fmt: skip
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
