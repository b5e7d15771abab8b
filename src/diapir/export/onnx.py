"""A model for other programs: pixels in, probabilities out, with all that lies between inside.

Scaling, normalisation, padding, resizing, every network of an ensemble, the mirrored tile, sigmoid
and temperature are part of the graph. The threshold and where the model comes from stand in its
metadata. The file is compared with the model before it gets its name.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from diapir.config import Recipe
from diapir.errors import RunError
from diapir.inference.engine import compile_openvino, quiet_openvino
from diapir.inference.graphs import plain_copy, traced_graph
from diapir.inference.predict import Predictor
from diapir.inference.signature import DEPTHS, IMAGES
from diapir.io.atomic import write_bytes_atomic
from diapir.io.digests import file_sha256
from diapir.io.json_text import json_text
from diapir.io.lock import sole_writer
from diapir.models.ensemble import read_members
from diapir.models.modelcard import ModelCard, read_card
from diapir.models.packaged import models_or_packaged
from diapir.models.stored import built

FORMATS = {"onnx": ".onnx", "openvino": ".xml"}
"""Formats of an export and the suffixes of their files."""
PROBS = "probs"
"""Name of the output."""
AGREEMENT = 1e-4
"""Largest difference of probabilities between the exported file and the model."""
_Run = Callable[[dict[str, NDArray[Any]]], NDArray[np.float32]]
_CHECKED_SHAPES = ((3, 101, 101), (1, 128, 160), (2, 77, 240), (1, 20, 45), (1, 9, 9))
"""Of the images that the check predicts, one set for each: another number, another size.

The last are smaller than a stride, and too small to be mirrored up to one.
"""


@dataclass(frozen=True)
class Origin:
    """Where a network comes from.

    Args:
        recipe: That trained it.
        card: Of its file, which may hold more networks.
        digest: SHA-256 of its file.
    """

    recipe: Recipe
    card: ModelCard
    digest: str


def origins_of(paths: Sequence[Path]) -> list[Origin]:
    """Return where each network of model files comes from, in the order of `load_predictor`.

    Args:
        paths: As of `load_predictor`.

    Raises:
        ModelFileError: A file is no usable model.
    """
    found: list[Origin] = []
    for path in models_or_packaged(paths):
        card, digest = read_card(path), file_sha256(path)
        recipes = [member.recipe for member in read_members(path)] or [card.recipe]
        found += [Origin(recipe, card, digest) for recipe in recipes]
    return found


class SaltProbs(nn.Module):
    """From pixels to probabilities, as `Predictor.predict_probs` gives them.

    Args:
        predictor: Its networks, their weights, flip and temperature.
    """

    def __init__(self, predictor: Predictor) -> None:
        super().__init__()
        copies = [plain_copy(built(net)) for net in predictor.nets]
        for net in copies:
            net.pads_any_size = True
        self.nets = nn.ModuleList(copies)
        self.shares = predictor.shares
        self.flip, self.temperature = predictor.flip, predictor.rule.temperature

    def forward(self, images: Tensor, z_feet: Tensor | None = None) -> Tensor:
        """Return (N, 1, H, W) float32 probabilities of (N, 1, H, W) uint8 grey values."""
        count = images.shape[0]
        x = images.float() / 255
        total = torch.zeros_like(x)
        if self.flip:  # in the same batch: a second pass would double the graph
            x = torch.cat([x, _mirrored(x)])
            z_feet = None if z_feet is None else torch.cat([z_feet, z_feet])
        for net, share in zip(self.nets, self.shares, strict=True):
            probs = torch.sigmoid(net(x, z_feet))
            if self.flip:
                probs = (probs[:count] + _mirrored(probs[count:])) / 2
            total = total + share * probs
        if self.temperature != 1:
            total = torch.sigmoid(torch.logit(total, 1e-6) / self.temperature)
        return total


def _mirrored(x: Tensor) -> Tensor:
    """Return x.flip(3) by indices: OpenVINO 2026.4 pads a slice of negative step wrongly."""
    width = x.shape[3]
    return x.index_select(3, width - 1 - torch.arange(width))


def export_model(
    predictor: Predictor, origins: Sequence[Origin], out: Path, *, format_: str = "onnx"
) -> float:
    """Write a model for other programs, checked, and return by how much it differs.

    Args:
        predictor: The model, on the CPU.
        origins: Of its networks, for the metadata.
        out: File with the suffix of the format; OpenVINO puts the weights beside it, in a `.bin`.
        format_: One of `FORMATS`.

    Returns:
        The largest difference of probabilities from the model itself.

    Raises:
        RunError: The suffix is another, the file does not agree with the model, it cannot be
            written, or another process is writing it.
    """
    if out.suffix != FORMATS[format_]:
        raise RunError(
            f"a file of format {format_!r} cannot be called {out.name!r}",
            where="--out",
            expected=f"a name that ends in {FORMATS[format_]}",
        )
    write = _write_onnx if format_ == "onnx" else _write_openvino
    with sole_writer(out):
        probs = SaltProbs(predictor).eval()
        graph = traced_graph(probs, predictor.needs_depth, PROBS, dtype=torch.uint8)
        return write(graph, metadata(predictor, origins), predictor, out)


def metadata(predictor: Predictor, origins: Sequence[Origin]) -> dict[str, str]:
    """Return what an exported file says of itself; `diapir` holds as JSON where it comes from.

    Args:
        predictor: The model.
        origins: Of its networks. Metrics and notes are told where all are of one file: those of
            one among several files would not be those of their mean.
    """
    about: dict[str, Any] = {"flip": predictor.flip, "rule": asdict(predictor.rule)}
    if len({origin.digest for origin in origins}) == 1:
        about |= {"metrics": origins[0].card.metrics, "notes": origins[0].card.notes}
    about["networks"] = [
        {
            "recipe": origin.recipe.model_dump(mode="json"),
            "recipe_sha256": origin.recipe.sha256(),
            "weight": share,
            "file_sha256": origin.digest,
            "data_fingerprint": origin.card.data_fingerprint,
            "versions": origin.card.versions,
            "git": origin.card.git,
            "created": origin.card.created,
        }
        for origin, share in zip(origins, predictor.shares, strict=True)
    ]
    return {
        "threshold": repr(float(predictor.threshold)),
        "min_body": str(predictor.rule.min_body),
        "empty_below": repr(float(predictor.rule.empty_below)),
        "min_peak": repr(float(predictor.rule.min_peak)),
        "images": "uint8 grey values 0..255, (N, 1, H, W)",
        "probs": "float32 probability of salt 0..1, (N, 1, H, W); salt is above the threshold",
        "diapir": json_text(about),
    }


def _write_onnx(graph: bytes, about: dict[str, str], predictor: Predictor, out: Path) -> float:
    import onnx
    import onnxruntime

    model = onnx.load_model_from_string(graph)
    onnx.helper.set_model_props(model, about)
    data = model.SerializeToString()
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    apart = _checked(lambda feeds: session.run([PROBS], feeds)[0], predictor, out)
    write_bytes_atomic(out, data)
    return apart


def _write_openvino(graph: bytes, about: dict[str, str], predictor: Predictor, out: Path) -> float:
    openvino = quiet_openvino()
    model = openvino.Core().read_model(graph)
    for name, value in about.items():
        model.set_rt_info(value, ["diapir", name])
    with TemporaryDirectory() as folder:
        written = Path(folder) / "model.xml"
        openvino.save_model(model, written, compress_to_fp16=False)
        exact = {"INFERENCE_PRECISION_HINT": "f32"}
        compiled = compile_openvino(written, exact)
        apart = _checked(lambda feeds: compiled(feeds)[PROBS], predictor, out)
        # the weights first: who sees the new graph finds them
        write_bytes_atomic(out.with_suffix(".bin"), written.with_suffix(".bin").read_bytes())
        write_bytes_atomic(out, written.read_bytes())
    return apart


def _checked(run: _Run, predictor: Predictor, out: Path) -> float:
    """Return the largest difference between an exported graph and the model.

    Raises:
        RunError: It is too large.
    """
    draw = np.random.default_rng(0)
    exact = replace(predictor, engine="eager", precision="float32")
    apart = 0.0
    for shape in _CHECKED_SHAPES:
        images = draw.integers(0, 256, shape, np.uint8)
        z_feet = draw.uniform(0, 900, len(images)).astype(np.float32)
        feeds: dict[str, NDArray[Any]] = {IMAGES: images[:, None]}
        if predictor.needs_depth:
            feeds[DEPTHS] = z_feet
        wanted = exact.predict_probs(images, z_feet)
        apart = max(apart, float(np.abs(run(feeds)[:, 0] - wanted).max()))
    if not apart <= AGREEMENT:
        raise RunError(
            f"the exported model differs from the model by {apart:.2g} in probability",
            where=out,
            expected=f"at most {AGREEMENT:g}",
            mend="Nothing was written. Try the other format, and report the recipe as a bug.",
        )
    return apart
