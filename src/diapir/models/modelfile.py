"""The model file: one safetensors file of weights, with all that is known of them beside it.

Nothing in it is code: tensors, and one JSON text in the header. Loading never unpickles.
"""

import json
import platform
import struct
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor
from torch.nn.modules.module import register_module_parameter_registration_hook

from diapir.config import Recipe, parse_recipe
from diapir.errors import DiapirError, ModelFileError
from diapir.io.atomic import write_bytes_atomic
from diapir.models.maskrule import AS_THRESHOLDED, MaskRule
from diapir.models.pixels import PixelStatistics
from diapir.models.unet import SaltNet

FORMAT = 1
"""Version of the metadata of one network."""
LATEST_FORMAT = 2
"""A reader refuses files of a later one. Files of several networks, ensembles, have format 2."""

_KEY = "diapir"
_LONGEST_HEADER = 1 << 24
"""Bytes; the card of half a million tiles. JSON takes many times its length once it is parsed."""
_VGG_CLASSIFIER = 1 << 27
"""Parameters, at least those of the three layers that a feature pyramid drops."""
_LIBRARIES = ("diapir", "torch", "timm", "lightning", "numpy", "safetensors")


@dataclass(frozen=True)
class ModelCard:
    """What a model file says of its weights.

    Args:
        recipe: Resolved recipe that trained them.
        threshold: Probability from which a pixel counts as salt, 0..1.
        metrics: What was measured, by name.
        data_fingerprint: SHA-256 over ids, pixels and masks of the labelled tiles.
        train_ids: Tiles that trained the weights.
        val_ids: Tiles that picked epoch and threshold.
        versions: Of the libraries that trained.
        git: Commit of the source tree, where there is one.
        created: Time in UTC, ISO 8601.
        notes: Anything for the reader.
        pixels: What the training pixels look like; None: the file does not say it.
        rule: Calibration and clean-up of masks, beside the threshold.
    """

    recipe: Recipe
    threshold: float
    metrics: dict[str, float] = field(default_factory=dict)
    data_fingerprint: str = ""
    train_ids: tuple[str, ...] = ()
    val_ids: tuple[str, ...] = ()
    versions: dict[str, str] = field(default_factory=dict)
    git: str | None = None
    created: str = ""
    notes: str = ""
    pixels: PixelStatistics | None = None
    rule: MaskRule = AS_THRESHOLDED

    def stamped(self) -> "ModelCard":
        """Return the card with versions and commit of this process, and the time of now."""
        versions = library_versions()
        now = datetime.now(UTC).isoformat(timespec="seconds")
        return replace(self, versions=versions, git=source_commit(), created=now)


def save_model(path: Path, net: SaltNet, card: ModelCard, *, half: bool = False) -> None:
    """Write a network and its card, whole or not at all.

    Args:
        path: Should end in `.safetensors`.
        net: Any device.
        card: Goes into the header.
        half: Store floating tensors as float16, at half the size, except those it cannot hold.

    Raises:
        RunError: The file cannot be written.
    """
    write_bytes_atomic(path, serialise(net, card, half=half))


def serialise(net: SaltNet, card: ModelCard, *, half: bool = False) -> bytes:
    """Return the bytes of a model file; the same network and card give the same bytes."""
    return serialise_state(net.state_dict(), card, {"format": FORMAT}, half=half)


def serialise_state(
    tensors: dict[str, Tensor], card: ModelCard, extra: dict[str, Any], *, half: bool
) -> bytes:
    """Return the bytes of a file of these tensors, with more entries beside those of the card."""
    state = {name: _stored(tensor, half) for name, tensor in tensors.items()}
    table = {**asdict(card), "recipe": card.recipe.model_dump(mode="json"), **extra}
    return save(state, metadata={_KEY: json.dumps(table, sort_keys=True)})


def load_model(path: Path) -> tuple[SaltNet, ModelCard]:
    """Return the network of a model file, ready to predict on the CPU, and its card.

    Raises:
        ModelFileError: The file is missing, damaged, no Diapir model, from a newer version, or its
            weights do not fit its recipe or are not finite.
    """
    table = read_table(path)
    card = parse_card(path, table)
    if "members" in table:
        raise ModelFileError(
            f"this file is an ensemble of {len(table['members'])} networks",
            where=path,
            expected="the model file of one network",
            mend="Give the model.safetensors of one of the runs in it.",
        )
    return build_network(path, card.recipe), card


def build_network(path: Path, recipe: Recipe, *, prefix: str = "", members: int = 1) -> SaltNet:
    """Return a network of a file, in evaluation mode on the CPU.

    Args:
        path: The file.
        recipe: That trained the network.
        prefix: Before the names of its tensors.
        members: Networks in the file.

    Raises:
        ModelFileError: The recipe cannot be built, or the tensors do not fit it or are not finite.
    """
    plain = recipe.model.model_copy(update={"weights": "none", "freeze": "none"})
    try:
        with _no_larger_than_file(path, recipe.model.encoder):
            net = SaltNet(plain)
    except ModelFileError:
        raise
    except DiapirError as error:
        raise broken(path, f"its recipe cannot be built: {error.what}") from error
    net.load_state_dict(_read_state(path, net.state_dict(), prefix, members))
    return net.eval()


def read_card(path: Path) -> ModelCard:
    """Return the card of a model file without its weights.

    Raises:
        ModelFileError: As in `load_model`.
    """
    return parse_card(path, read_table(path))


def parse_card(path: Path, table: dict[str, Any]) -> ModelCard:
    """Return the card that the metadata of a file, as `read_table` gives it, hold.

    Raises:
        ModelFileError: They hold none that can be used.
    """
    try:
        return _parse_card(path, table)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise broken(path, f"its metadata cannot be read ({type(error).__name__})") from error


def read_table(path: Path) -> dict[str, Any]:
    """Return the metadata of a file as it stands there, unchecked.

    Raises:
        ModelFileError: The file is missing, damaged or no Diapir model.
    """
    try:
        _check_header_length(path)
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
    except (OSError, SafetensorError, ValueError) as error:
        raise _unreadable(path, error) from error
    if _KEY not in metadata:
        raise broken(path, "it is a safetensors file, but not a Diapir model")
    try:
        table = json.loads(metadata[_KEY])
    except (ValueError, RecursionError) as error:
        raise broken(path, f"its metadata cannot be read ({type(error).__name__})") from error
    if not isinstance(table, dict):
        raise broken(path, "its metadata cannot be read (no table)")
    return table


def _check_header_length(path: Path) -> None:
    """Refuse a header that would take far more memory than any card needs.

    Source: safetensors format, first 8 bytes: length of the header, unsigned, little-endian.
    """
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8).ljust(8, b"\0"))
    if length > path.stat().st_size:
        raise broken(path, "it cannot be read as safetensors (it does not begin like one)")
    if length > _LONGEST_HEADER:
        raise broken(
            path,
            f"it cannot be read as safetensors (its header claims {length:,} bytes, at most "
            f"{_LONGEST_HEADER:,} are read)",
        )


@contextmanager
def _no_larger_than_file(path: Path, encoder: str) -> Iterator[None]:
    """Stop building a network that needs far more than the file holds, before it fills memory."""
    # float16 at the least; a stem may be made twice, once with three channels. Before it takes the
    # features of a VGG, timm builds its classifier, too.
    dropped = _VGG_CLASSIFIER if encoder.startswith("vgg") else 1 << 20
    most = path.stat().st_size + dropped
    thread, built = threading.get_ident(), 0

    def count(module: Any, name: str, parameter: Tensor | None) -> None:
        nonlocal built
        if parameter is not None and threading.get_ident() == thread:
            built += parameter.numel()
            if built > most:
                raise broken(path, "its recipe describes a larger network than it holds")

    hook = register_module_parameter_registration_hook(count)
    try:
        yield
    finally:
        hook.remove()


def _parse_card(path: Path, table: dict[str, Any]) -> ModelCard:
    if table["format"] > LATEST_FORMAT:
        raise ModelFileError(
            f"the file has format {table['format']}, this Diapir reads up to {LATEST_FORMAT}",
            where=path,
            mend="Update Diapir.",
        )
    try:
        recipe = parse_recipe(table["recipe"], where=str(path))
    except DiapirError as error:
        raise broken(path, f"its recipe is not valid: {error.what}") from error
    threshold = float(table["threshold"])
    if not 0 < threshold < 1:
        raise broken(path, f"its threshold is {threshold}, not between 0 and 1")
    return ModelCard(
        recipe=recipe,
        threshold=threshold,
        metrics={str(k): float(v) for k, v in table["metrics"].items()},
        data_fingerprint=str(table["data_fingerprint"]),
        train_ids=tuple(map(str, table["train_ids"])),
        val_ids=tuple(map(str, table["val_ids"])),
        versions={str(k): str(v) for k, v in table["versions"].items()},
        git=None if table["git"] is None else str(table["git"]),
        created=str(table["created"]),
        notes=str(table["notes"]),
        pixels=None if table.get("pixels") is None else PixelStatistics.from_json(table["pixels"]),
        rule=MaskRule.from_json(table["rule"]) if "rule" in table else AS_THRESHOLDED,
    )


def _read_state(
    path: Path, own: dict[str, Tensor], prefix: str = "", members: int = 1
) -> dict[str, Tensor]:
    """Return the tensors of a network after checking names and shapes, before any is read."""
    try:
        with safe_open(path, "pt") as file:
            found = [name for name in file.keys() if name.startswith(prefix)]  # noqa: SIM118
            names = {name.removeprefix(prefix) for name in found}
            strays = {n for n in file.keys() if not _belongs(n, members)}  # noqa: SIM118
            if names != set(own) or strays:
                odd = sorted((names ^ set(own)) | strays)
                raise broken(path, f"{len(odd)} tensors are missing or unknown, first {odd[0]!r}")
            for name, tensor in own.items():
                shape = tuple(file.get_slice(prefix + name).get_shape())
                if shape != tuple(tensor.shape):
                    raise broken(path, f"{name} has shape {shape}, expected {tuple(tensor.shape)}")
            state = {name: file.get_tensor(prefix + name).to(own[name].dtype) for name in own}
    except (OSError, SafetensorError, ValueError) as error:
        raise _unreadable(path, error) from error
    bad = [name for name, tensor in state.items() if not torch.isfinite(tensor).all()]
    if bad:
        raise broken(path, f"{bad[0]} holds NaN or infinity")
    return state


def _belongs(name: str, members: int) -> bool:
    """Return whether a tensor's name is one of a member; in a file of one network all are."""
    number = name.partition(".")[0]
    return members == 1 or (number.isdigit() and int(number) < members)


def _stored(tensor: Tensor, half: bool) -> Tensor:
    tensor = tensor.detach().cpu().contiguous()
    if not half or not tensor.is_floating_point():
        return tensor
    halved = tensor.half()
    # a batch-norm variance may be beyond what float16 holds
    return halved if torch.isfinite(halved).all() else tensor


def _unreadable(path: Path, error: Exception) -> ModelFileError:
    if not path.exists():
        return ModelFileError(
            "the model file does not exist",
            where=path,
            mend="Give the model.safetensors of a run folder, or train one with 'diapir train'.",
        )
    if path.is_dir():
        inside = path / "model.safetensors"
        mend = "Give the model file of a run folder."
        if inside.is_file():
            mend = f"Give {inside}."
        elif (path / "fold-0").is_dir():
            mend = f"Join its folds: diapir ensemble {path} --out {inside}"
        return ModelFileError(
            "this is a folder, not a model file",
            where=path,
            expected="a .safetensors file written by Diapir",
            mend=mend,
        )
    return broken(path, f"it cannot be read as safetensors ({error})")


def broken(path: Path, what: str) -> ModelFileError:
    """Return the error of a file that is no usable model."""
    return ModelFileError(
        f"not a usable model file: {what}",
        where=path,
        expected="a .safetensors file written by Diapir",
        mend="Copy the file again from where it was trained.",
    )


def library_versions() -> dict[str, str]:
    """Return the versions of Diapir, of the libraries that compute, and of Python."""
    versions = {name: version(name) for name in _LIBRARIES}
    return versions | {"python": platform.python_version()}


def source_commit() -> str | None:
    """Return the commit of the source tree that this package runs from, None where it has none.

    It is the one at which this process loaded the package: a commit that is made while a training
    runs had no part in it.
    """
    return _COMMIT


def _read_commit(source: Path) -> str | None:
    folder = source.parent
    # an environment may lie inside the repository of something else, which does not track this file
    commands = (["ls-files", "--error-unmatch", source.name], ["rev-parse", "HEAD"])
    found = ""
    for command in commands:
        git = ["git", "-C", str(folder), *command]
        try:
            done = subprocess.run(git, capture_output=True, text=True, timeout=5, check=True)  # noqa: S603
        except (OSError, subprocess.SubprocessError):
            return None
        found = done.stdout.strip()
    return found or None


_COMMIT = _read_commit(Path(__file__))
