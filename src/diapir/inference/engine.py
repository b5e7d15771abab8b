"""Engines: a network made ready by the program that is to compute it.

The network is the same in all of them. `eager` is torch as the training uses it; `compile` is
torch.compile with frozen weights (both in `inference.torch_engine`); `openvino` and `onnxruntime`
run the ONNX graph of `inference.graphs`. What is not installed is not offered.

Arrays go in and come out, so that an engine of a graph from an earlier run needs no torch.
"""

import ctypes
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np

from diapir.config import TILE_SIZE
from diapir.errors import OptionError
from diapir.inference.graph_store import graph_of
from diapir.inference.signature import DEPTHS, IMAGES, Floats, Run
from diapir.models.processor import threads
from diapir.models.stored import AnyNet, built

BACKENDS = ("eager", "compile", "openvino", "onnxruntime")
"""What can compute a network."""
PRECISIONS = ("auto", "float32", "bf16")
"""Of the convolutions: 'float32' is exact, 'bf16' is fast, 'auto' whichever is faster here."""

WHOLE = 1 << 20
"""Tiles a pass of an engine that takes what it gets at once."""


@dataclass(frozen=True)
class EngineChoice:
    """Which program computes, and how.

    Args:
        backend: One of `BACKENDS`.
        precision: One of `PRECISIONS`.
        batch: Tiles a forward pass, mirrored ones counted.
    """

    backend: str = "eager"
    precision: str = "auto"
    batch: int = 16

    def __str__(self) -> str:
        return f"{self.backend}, {self.precision}, {self.batch} tiles a pass"

    def as_dict(self) -> dict[str, str | int]:
        """Return it as plain values, for JSON."""
        return asdict(self)


def pass_size(height: int, width: int) -> int:
    """Return how many tiles of a size a CPU takes at once, so that they stay in its cache.

    Sixteen of 101 x 101 pixels, as many pixels of larger ones, never more.

    >>> pass_size(101, 101), pass_size(256, 256), pass_size(512, 512)
    (16, 2, 1)
    """
    most = EngineChoice.batch
    return min(most, max(1, most * TILE_SIZE**2 // (height * width)))


class Engine:
    """A network that is ready for tiles of one size.

    Args:
        choice: What it was made by.
        run: Computes a batch.
        whole_batches: Whether `run` takes batches of one size only: of `choice.batch`, or, where
            that is `WHOLE`, of the largest so far.
    """

    def __init__(self, choice: EngineChoice, run: Run, *, whole_batches: bool = False) -> None:
        self.choice = choice
        self.run, self._whole = run, whole_batches
        self._full = choice.batch if choice.batch < WHOLE else 0

    def __call__(self, images: Floats, z_feet: Floats | None = None) -> Floats:
        """Return (N, 1, H, W) float32 logits.

        Args:
            images: (N, 1, H, W) float32 grey values in 0..1.
            z_feet: (N,) depths, where the network has a depth channel.
        """
        found = []
        for start in range(0, len(images), self.choice.batch):
            stop = start + self.choice.batch
            part = images[start:stop]
            depths = None if z_feet is None else z_feet[start:stop]
            count = len(part)
            self._full = max(self._full, count)
            if self._whole and count < self._full:
                part = _filled(part, self._full)
                depths = None if depths is None else _filled(depths, self._full)
            found.append(self.run(part, depths)[:count])
        return found[0] if len(found) == 1 else np.concatenate(found)


def _filled(values: Floats, count: int) -> Floats:
    return np.concatenate([values, np.repeat(values[-1:], count - len(values), axis=0)])


def installed_backends(device: str = "cpu") -> list[str]:
    """Return the backends that can work here; on a GPU those of torch alone."""
    present = {
        "eager": True,
        # it writes C++, which it has somebody else compile
        "compile": device != "cpu" or shutil.which("g++") is not None,
        "openvino": device == "cpu" and _has("openvino"),
        "onnxruntime": device == "cpu" and _has("onnxruntime"),
    }
    return [name for name in BACKENDS if present[name]]


def _has(module: str) -> bool:
    return find_spec(module) is not None


def check_backend(name: str, device: str = "cpu") -> None:
    """Refuse a backend that does not exist or cannot work here.

    Raises:
        OptionError: There is no such backend, or it is not installed.
    """
    if name not in BACKENDS:
        raise OptionError(
            f"there is no engine {name!r}",
            "engine",
            expected=", ".join(("auto", *BACKENDS)),
        )
    if name not in installed_backends(device):
        mends = {
            "compile": "Install a C++ compiler (g++), or omit --engine.",
            "openvino": "In the folder of Diapir's source: pip install -c constraints.txt "
            "'.[export]'. On a GPU omit --engine.",
        }
        raise OptionError(
            f"the engine {name!r} cannot work here",
            "engine",
            expected=", ".join(("auto", *installed_backends(device))),
            mend=mends.get(name, mends["openvino"]),
        )


def build_engine(net: AnyNet, choice: EngineChoice, height: int, width: int) -> Engine:
    """Return a network made ready for tiles of one size.

    Args:
        net: In evaluation mode. `eager` uses this very one and sets its precision.
        choice: Backend, precision and batch.
        height: Of the tiles, in pixels.
        width: Of the tiles, in pixels.
    """
    if choice.backend in ("eager", "compile"):
        from diapir.inference import torch_engine

        build = {"eager": torch_engine.eager, "compile": torch_engine.compiled}[choice.backend]
        run = build(built(net), choice.precision)
        return Engine(choice, run, whole_batches=choice.backend == "compile")
    return engine_of_graph(graph_of(net, height, width), choice)


def engine_of_graph(graph: bytes, choice: EngineChoice) -> Engine:
    """Return an ONNX graph of `logits_graph`, run by OpenVINO or ONNX Runtime."""
    builders = {"openvino": _openvino, "onnxruntime": _onnxruntime}
    return Engine(choice, builders[choice.backend](graph, choice.precision))


def _openvino(graph: bytes, precision: str) -> Run:
    compiled = compile_openvino(graph, openvino_settings(precision))

    def run(images: Floats, z_feet: Floats | None) -> Floats:
        # a request of its own: threads of a service share the engine
        found = compiled.create_infer_request().infer(_feeds(images, z_feet))
        logits: Floats = found[0].copy()
        return logits

    return run


def openvino_settings(precision: str) -> dict[str, Any]:
    """Return the settings by which OpenVINO computes 'float32' or 'bf16'."""
    return {
        "INFERENCE_PRECISION_HINT": "f32" if precision == "float32" else "bf16",
        "INFERENCE_NUM_THREADS": threads(),
        "PERFORMANCE_HINT": "LATENCY",
    }


def compile_openvino(model: Any, settings: dict[str, Any]) -> Any:
    """Return a model compiled for the CPU.

    Args:
        model: A file, or the bytes of an ONNX graph.
        settings: Of OpenVINO.
    """
    core = quiet_openvino().Core()
    with _own_signal_stack():
        return core.compile_model(core.read_model(model), "CPU", settings)


@contextmanager
def _own_signal_stack() -> Iterator[None]:
    """Keep the stack on which this thread handles signals.

    OpenVINO 2026.4 puts one of its own in its place, and takes it away again with whichever
    compiled model happens to go: the next signal, Ctrl-C among them, then ends in a crash.
    """
    if sys.platform != "linux":
        yield
        return
    own, system = _SignalStack(), ctypes.CDLL(None)
    known = system.sigaltstack(None, ctypes.byref(own)) == 0
    try:
        yield
    finally:
        if known:
            system.sigaltstack(ctypes.byref(own), None)


class _SignalStack(ctypes.Structure):
    """`stack_t` of sigaltstack(2) on Linux."""

    _fields_ = (("sp", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t))


def quiet_openvino() -> Any:
    """Return the module, imported without its telemetry.

    On import it would report the use to its makers and leave a number in the home folder; where
    `openvino_telemetry` is missing, it goes without.
    """
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    import openvino

    return openvino


def _onnxruntime(graph: bytes, precision: str) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])

    def run(images: Floats, z_feet: Floats | None) -> Floats:
        logits: Floats = session.run(None, _feeds(images, z_feet))[0]
        return logits

    return run


def _feeds(images: Floats, z_feet: Floats | None) -> dict[str, Floats]:
    feeds = {IMAGES: np.ascontiguousarray(images)}
    return feeds if z_feet is None else feeds | {DEPTHS: z_feet}
