"""A network in eight-bit integers, with steps set by what its layers answer on some tiles.

Twice as many products an instruction as in bf16, for a rounding that is checked on these tiles.
"""

import hashlib
import logging
import subprocess
import sys
import tempfile
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diapir.errors import RunError
from diapir.inference import quantise_process
from diapir.inference.choice import cache_folder, exact_logits, keeps_to
from diapir.inference.engine import (
    INT8,
    Engine,
    EngineChoice,
    engine_of_graph,
    installed_backends,
)
from diapir.inference.graphs import DEPTHS, IMAGES, logits_graph
from diapir.inference.quantise_process import DONE, FEEDS, GRAPH
from diapir.io.atomic import write_bytes_atomic
from diapir.models.unet import SaltNet

_log = logging.getLogger(__name__)


def int8_engine(net: SaltNet, batch: int, images: Tensor, z_feet: Tensor | None) -> Engine | None:
    """Return OpenVINO in int8; None where it cannot be had or does not keep to the answers.

    Every second tile sets the steps, the others tell whether it keeps to the answers. A graph that
    did is remembered with its tiles: the same work done again is neither slower nor different.

    Args:
        net: In evaluation mode.
        batch: Tiles a forward pass.
        images: (N, 1, H, W) float32 in 0..1, some of the tiles to be predicted; two hundred do.
        z_feet: (N,) their depths, where the network has a depth channel.
    """
    if not can_quantise() or len(images) < 2:
        return None
    choice = EngineChoice("openvino", INT8, batch)
    graph = logits_graph(net, int(images.shape[-2]), int(images.shape[-1]))
    kept, key = KeptGraphs(cache_folder() / INT8), graph_key(graph, images, z_feet)
    known = kept.read(key)
    engine = None if known is None else _engine(known, choice)
    if engine is not None:
        return engine
    try:
        made = int8_graph(graph, images[::2], None if z_feet is None else z_feet[::2])
    except Exception as error:  # whatever another library raises: then there is none
        _log.debug("%s: %s", choice, error)
        return None
    engine = _engine(made, choice)
    if engine is None:
        return None
    others, depths = images[1::2], None if z_feet is None else z_feet[1::2]
    with torch.inference_mode():
        found = engine(others, depths)
    if not keeps_to(found, exact_logits(net, others, depths), exact=False):
        return None
    kept.write(key, made)
    return engine


def can_quantise() -> bool:
    """Return whether the processor has instructions for this, and the libraries are installed."""
    installed = {"openvino", "onnxruntime"} <= set(installed_backends("cpu"))
    return installed and find_spec("onnx") is not None and torch.cpu._is_vnni_supported()


def _engine(graph: bytes, choice: EngineChoice) -> Engine | None:
    try:
        return engine_of_graph(graph, choice)
    except Exception as error:  # a damaged file, or one of another release
        _log.debug("%s: %s", choice, error)
        return None


def int8_graph(graph: bytes, images: Tensor, z_feet: Tensor | None) -> bytes:
    """Return an ONNX graph of `graphs.logits_graph` with weights and activations in eight bits.

    Weights are rounded channel by channel, activations between the least and the greatest value
    that they take on the given tiles, as pairs of QuantizeLinear and DequantizeLinear. OpenVINO
    takes a convolution between two such pairs as one of integers. What else there is stays as it
    is: joining and resizing integers takes OpenVINO 2026.4 longer than doing so in bf16.

    Args:
        graph: In float32.
        images: (N, 1, H, W) float32 in 0..1, tiles like those to come.
        z_feet: (N,) their depths, where the graph has an input for them.

    Source:
        Jacob et al. 2018, arXiv 1712.05877.
    """
    arrays: dict[str, Any] = {IMAGES: images.numpy()}
    if z_feet is not None:
        arrays[DEPTHS] = z_feet.numpy()
    with tempfile.TemporaryDirectory(prefix="diapir-int8-") as name:
        folder = Path(name)
        (folder / GRAPH).write_bytes(graph)
        np.savez(folder / FEEDS, **arrays)
        command = [sys.executable, "-m", quantise_process.__name__, name]
        subprocess.run(command, check=True, capture_output=True)  # noqa: S603
        return (folder / DONE).read_bytes()


def graph_key(graph: bytes, images: Tensor, z_feet: Tensor | None) -> str:
    """Return a short name for what `int8_graph` makes of these, by this release of its library."""
    digest = hashlib.sha256(version("onnxruntime").encode())
    digest.update(graph)
    for values in (images,) if z_feet is None else (images, z_feet):
        digest.update(values.contiguous().numpy().tobytes())
    return digest.hexdigest()[:24]


class KeptGraphs:
    """Graphs of earlier runs, the newest few, each in a file; what cannot be kept is lost.

    Args:
        folder: Of these files alone.
        most: How many are kept.
    """

    def __init__(self, folder: Path, most: int = 8) -> None:
        self.folder, self.most = folder, most

    def read(self, key: str) -> bytes | None:
        """Return the graph of a key, if there is one."""
        try:
            return self._file(key).read_bytes()
        except OSError:
            return None

    def write(self, key: str, graph: bytes) -> None:
        """Keep a graph in place of the oldest; a folder that cannot be written is no error."""
        try:
            write_bytes_atomic(self._file(key), graph)
            files = sorted(self.folder.glob("*.onnx"), key=lambda file: file.stat().st_mtime)
            for file in files[: -self.most]:
                file.unlink()
        except (RunError, OSError) as error:
            _log.debug("graphs are not kept: %s", error)

    def _file(self, key: str) -> Path:
        return self.folder / f"{key}.onnx"
