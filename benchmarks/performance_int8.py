"""Eight-bit integers: how fast, and how true, beside the bf16 or float32 that Diapir uses.

They are no engine of Diapir's: this is what says why.
"""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from performance_inference import tiles_to_compare
from performance_setting import Setting
from protocol import Measured, Row, Table, compare, ratio_row

from diapir.inference.engine import (
    Engine,
    EngineChoice,
    engine_of_graph,
    installed_backends,
)
from diapir.inference.engine_choice import exact_logits
from diapir.inference.graphs import logits_graph
from diapir.inference.signature import IMAGES, Floats
from diapir.models.modelfile import load_model
from diapir.models.packaged import packaged_model
from diapir.models.processor import fastest_precision

_STEPS, _TIMED, _BATCH = 128, 64, 16


def measure_int8(setting: Setting) -> Measured:
    """Compare OpenVINO in int8 with its fastest precision here, for trained networks."""
    if not {"openvino", "onnxruntime"} <= set(installed_backends(setting.device)):
        return Measured([])
    models = {"the packaged model": packaged_model(), **setting.trained}
    rows: list[Row] = []
    lines = [_line(setting, name, path, rows) for name, path in models.items()]
    flips = [f"pixels that flip in {name}, %" for name in (fastest_precision(), "int8")]
    head = ["network", f"int8 against {fastest_precision()}", "quartiles", *flips, "tiles"]
    note = (
        "Convolutions and what follows them at once, quantised by ONNX Runtime: weights channel by "
        f"channel, activations between the extremes that they reach on {_STEPS} of the tiles. "
        "Pixels flip against eager float32, on tiles that did not train the network, most of which "
        "did not set the steps either; without mirroring."
    )
    return Measured(
        rows, [Table(f"OpenVINO in int8 beside {fastest_precision()}", head, lines, note)]
    )


def _line(setting: Setting, name: str, path: Path, rows: list[Row]) -> list[object]:
    net, _ = load_model(path)
    found = tiles_to_compare(setting, path)[0].images
    images = found[:, None].astype(np.float32) / np.float32(255)
    graph = logits_graph(net, found.shape[1], found.shape[2])
    low = engine_of_graph(graph, EngineChoice("openvino", fastest_precision(), _BATCH))
    quantised = int8_graph(graph, images[:: max(1, len(images) // _STEPS)][:_STEPS])
    integer = engine_of_graph(quantised, EngineChoice("openvino", fastest_precision(), _BATCH))
    timed = images[:_TIMED]
    compared = compare(lambda: low(timed), lambda: integer(timed), rounds=setting.effort.rounds)
    rows.append(
        ratio_row("int8", f"OpenVINO in int8 against {fastest_precision()}, {name}", compared, None)
    )
    truth = exact_logits(net, images, None) > 0
    first, third = compared.quartiles
    return [
        name,
        f"{compared.ratio:.2f}x",
        f"{first:.2f} to {third:.2f}",
        _flipped(low, images, truth),
        _flipped(integer, images, truth),
        len(images),
    ]


def _flipped(engine: Engine, images: Floats, truth: NDArray[np.bool_]) -> float:
    return 100 * float(((engine(images) > 0) != truth).mean())


def int8_graph(graph: bytes, images: Floats) -> bytes:
    """Return an ONNX graph with the weights and activations of its convolutions in eight bits.

    Source:
        Jacob et al. 2018, arXiv 1712.05877.
    """
    from onnxruntime import quantization as quant

    class Tiles(quant.CalibrationDataReader):
        batches: Iterator[Floats] = iter(np.split(images, range(_BATCH, len(images), _BATCH)))

        def get_next(self) -> dict[str, Any] | None:
            batch = next(self.batches, None)
            return None if batch is None else {IMAGES: np.ascontiguousarray(batch)}

    with tempfile.TemporaryDirectory() as name:
        traced, folded, done = (Path(name) / f"{step}.onnx" for step in ("a", "b", "c"))
        traced.write_bytes(graph)
        # the quantiser looks for biases among the initialisers, where the tracer left constants
        quant.quant_pre_process(traced, folded, skip_symbolic_shape=True)
        quant.quantize_static(
            folded,
            done,
            Tiles(),
            op_types_to_quantize=["Conv", "Relu", "Clip"],  # all it knows is slower
            quant_format=quant.QuantFormat.QDQ,
            per_channel=True,
            weight_type=quant.QuantType.QInt8,
            activation_type=quant.QuantType.QUInt8,
        )
        return done.read_bytes()
