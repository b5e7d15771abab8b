"""A graph in eight-bit integers: what its layers answer on some tiles sets the steps they count in.

Twice as many products an instruction as in bf16, for a rounding that `choice.choose_engine` checks.
"""

import tempfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diapir.inference.graphs import DEPTHS, IMAGES

_BATCH = 16


def can_quantise() -> bool:
    """Return whether the processor has instructions for this, and the libraries are installed."""
    installed = all(find_spec(name) is not None for name in ("onnx", "onnxruntime"))
    return installed and torch.cpu._is_vnni_supported()


def int8_graph(graph: bytes, images: Tensor, z_feet: Tensor | None) -> bytes:
    """Return an ONNX graph of `graphs.logits_graph` with weights and activations in eight bits.

    Weights are rounded channel by channel, activations between the least and the greatest value
    that they take on the given tiles, as pairs of QuantizeLinear and DequantizeLinear. OpenVINO
    takes a convolution between two such pairs as one of integers. ONNX Runtime 1.32 would run the
    same graph, but flips 8 % of the pixels with it.

    Args:
        graph: In float32.
        images: (N, 1, H, W) float32 in 0..1, tiles like those to come.
        z_feet: (N,) their depths, where the graph has an input for them.

    Source:
        Jacob et al. 2018, arXiv 1712.05877.
    """
    import onnx
    from onnxruntime import quantization as quant

    class Tiles(quant.CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._feeds = _feeds(images, z_feet)

        def get_next(self) -> dict[str, Any] | None:
            return next(self._feeds, None)

    model = onnx.load_from_string(graph)
    # without this mark a hint is logged: the tracer has folded and fused all that can be
    model.metadata_props.add(key="onnx.quant.pre_process", value="onnxruntime.quant")
    with tempfile.TemporaryDirectory(prefix="diapir-int8-") as folder:
        path = Path(folder) / "int8.onnx"
        quant.quantize_static(
            model,
            path,
            Tiles(),
            quant_format=quant.QuantFormat.QDQ,
            per_channel=True,
            weight_type=quant.QuantType.QInt8,
            activation_type=quant.QuantType.QUInt8,
        )
        return path.read_bytes()


def _feeds(images: Tensor, z_feet: Tensor | None) -> Iterator[dict[str, Any]]:
    for start in range(0, len(images), _BATCH):
        part = slice(start, start + _BATCH)
        feeds = {IMAGES: images[part].contiguous().numpy()}
        yield feeds if z_feet is None else feeds | {DEPTHS: z_feet[part].numpy()}
