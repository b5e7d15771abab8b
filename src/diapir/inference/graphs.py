"""A network as an ONNX graph, which OpenVINO and ONNX Runtime run and other programs read.

Graphs are traced by torch's older exporter: it takes a second and leaves height and width open,
where `torch.export` takes minutes over the sizes of padded convolutions (seen with torch 2.15).
"""

import copy
import io
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from diapir.inference.signature import DEPTHS, IMAGES, LOGITS
from diapir.models.unet import SaltNet

OPSET = 17
"""Version of the ONNX operators; every ONNX Runtime since 1.12 knows it."""
_TRACED_SIDES = (101, 109)
"""In pixels, for a graph of any size: odd, so that padding, cropping and resizing are in it."""


def logits_graph(net: SaltNet, height: int, width: int) -> bytes:
    """Return the network from grey values to logits as a serialised ONNX model.

    Padding, resizing and normalisation are inside, as in `SaltNet.forward`.

    Args:
        net: Its settings of precision do not matter: the graph is float32.
        height: Of the tiles, in pixels; fixed in the graph, as their width is.
        width: Of the tiles, in pixels.

    Returns:
        A model with input `images` (N, 1, height, width) float32 in 0..1 for any N, where the
        network looks at depth `z_feet` (N,) float32, and output `logits` (N, 1, height, width).
    """
    return traced_graph(plain_copy(net), net.config.depth_channel, LOGITS, (height, width))


def plain_copy(net: SaltNet) -> SaltNet:
    """Return a copy on the CPU that evaluates in float32."""
    plain = copy.deepcopy(net).eval().cpu()
    plain.set_precision("float32", "cpu")
    return plain


def traced_graph(
    module: nn.Module,
    needs_depth: bool,
    output: str,
    shape: tuple[int, int] | None = None,
    dtype: torch.dtype = torch.float32,
) -> bytes:
    """Return a module from images to one map as a serialised ONNX model.

    Args:
        module: In evaluation mode, on the CPU; takes images, and depths where it needs them.
        needs_depth: Whether it does.
        output: Name of what comes out.
        shape: Height and width in pixels; None leaves both open.
        dtype: Of the images.
    """
    height, width = shape or _TRACED_SIDES
    feeds: dict[str, Tensor] = {IMAGES: torch.zeros(2, 1, height, width, dtype=dtype)}
    if needs_depth:
        feeds[DEPTHS] = torch.zeros(2)
    map_axes = {0: "N"} if shape else {0: "N", 2: "H", 3: "W"}
    open_axes: Mapping[str, dict[int, str]] = {IMAGES: map_axes, DEPTHS: {0: "N"}, output: map_axes}
    buffer = io.BytesIO()
    with _quiet(), torch.no_grad():
        torch.onnx.export(
            module,
            tuple(feeds.values()),
            buffer,  # type: ignore[arg-type]  # the older exporter writes to it
            dynamo=False,
            opset_version=OPSET,
            input_names=list(feeds),
            output_names=[output],
            dynamic_axes={name: open_axes[name] for name in (*feeds, output)},
        )
    return buffer.getvalue()


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's advice to developers of torch away from the user."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
