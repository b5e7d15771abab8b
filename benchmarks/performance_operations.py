"""What predicting is made of: the time that OpenVINO spends in each kind of operation."""

from collections import Counter
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from protocol import Table

from diapir.inference.engine import compile_openvino, openvino_settings
from diapir.inference.graphs import logits_graph
from diapir.inference.signature import IMAGES
from diapir.models.modelfile import load_model

_PASSES, _SHOWN = 8, 8


def operations_table(path: Path, images: NDArray[np.uint8], precision: str, name: str) -> Table:
    """Return the shares of operations in the passes of a network, by OpenVINO's own clock.

    Args:
        path: Model file of a network without a depth channel.
        images: (N, H, W), one pass.
        precision: 'float32' or 'bf16'.
        name: Of the network.
    """
    net, _ = load_model(path)
    graph = logits_graph(net, *images.shape[1:])
    compiled = compile_openvino(graph, openvino_settings(precision) | {"PERF_COUNT": True})
    request = compiled.create_infer_request()
    feeds = {IMAGES: images[:, None].astype(np.float32) / np.float32(255)}
    request.infer(feeds)  # the first pass allocates
    seconds: Counter[tuple[str, str]] = Counter()
    for _ in range(_PASSES):
        request.infer(feeds)
        for part in request.get_profiling_info():
            seconds[part.node_type, part.exec_type] += part.real_time.total_seconds()
    whole = seconds.total()
    largest = seconds.most_common(_SHOWN)
    cells: list[list[object]] = [
        [kind, kernel, f"{spent / whole:.1%}"] for (kind, kernel), spent in largest
    ]
    rest = 1 - sum(spent for _, spent in largest) / whole
    cells.append(["all others", "", f"{rest:.1%}"])
    title = f"What predicting is made of, {name}, OpenVINO in {precision}"
    note = (
        f"{_PASSES} passes of {len(images)} tiles, {1e3 * whole / _PASSES:.1f} ms each inside the "
        "operations. OpenVINO joins what follows a convolution to it: activations, sums, "
        "normalisation. A kernel's name ends in the numbers that it computes with."
    )
    return Table(title, ["operation", "kernel", "share"], cells, note)
