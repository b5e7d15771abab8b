"""What `quantise` runs in a process of its own: the library takes 600 MiB and keeps them.

    python -m diapir.inference.quantise_process FOLDER

FOLDER holds `graph.onnx` and `feeds.npz`, the graph's inputs; `int8.onnx` is written beside them.
"""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

GRAPH, FEEDS, DONE = "graph.onnx", "feeds.npz", "int8.onnx"
_BATCH = 4


def main(folder: Path) -> None:
    """Write a graph with weights and activations in eight bits."""
    from onnxruntime import quantization as quant

    with np.load(folder / FEEDS) as arrays:
        batches = _batches(dict(arrays))

    class Tiles(quant.CalibrationDataReader):  # type: ignore[misc]
        def get_next(self) -> dict[str, Any] | None:
            return next(batches, None)

    folded = folder / "folded.onnx"
    # the quantiser looks for biases among the initialisers, where the tracer left constants
    quant.quant_pre_process(folder / GRAPH, folded, skip_symbolic_shape=True)
    quant.quantize_static(
        folded,
        folder / DONE,
        Tiles(),
        op_types_to_quantize=["Conv", "Relu", "Clip"],  # all it knows: slower, as measured
        quant_format=quant.QuantFormat.QDQ,
        per_channel=True,
        weight_type=quant.QuantType.QInt8,
        activation_type=quant.QuantType.QUInt8,
    )


def _batches(arrays: dict[str, Any]) -> Iterator[dict[str, Any]]:
    count = min(len(values) for values in arrays.values())
    for start in range(0, count, _BATCH):
        yield {name: values[start : start + _BATCH] for name, values in arrays.items()}


if __name__ == "__main__":
    main(Path(sys.argv[1]))
