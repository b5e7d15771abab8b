"""The model file: one safetensors file of weights, with all that is known of them beside it.

Nothing in it is code: tensors, and one JSON text in the header, the `ModelCard`. Loading never
unpickles.
"""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor
from torch.nn.modules.module import register_module_parameter_registration_hook

from diapir.config import Recipe
from diapir.errors import DiapirError, ModelFileError
from diapir.io.atomic import write_bytes_atomic
from diapir.models.modelcard import (
    FORMAT,
    KEY,
    ModelCard,
    Normalisation,
    broken,
    parse_card,
    read_table,
    unreadable,
)
from diapir.models.unet import SaltNet

_VGG_CLASSIFIER = 1 << 27
"""Parameters, at least those of the three layers that a feature pyramid drops."""


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
    card = replace(card, normalisation=normalisation_of(net))
    return serialise_state(net.state_dict(), card, {"format": FORMAT}, half=half)


def normalisation_of(net: SaltNet) -> Normalisation:
    """Return how a network normalises its pixels."""
    return Normalisation(net.mean, net.std)


def serialise_state(
    tensors: dict[str, Tensor], card: ModelCard, extra: dict[str, Any], *, half: bool
) -> bytes:
    """Return the bytes of a file of these tensors, with more entries beside those of the card."""
    state = {name: _stored(tensor, half) for name, tensor in tensors.items()}
    table = {**asdict(card), "recipe": card.recipe.model_dump(mode="json"), **extra}
    return save(state, metadata={KEY: json.dumps(table, sort_keys=True)})


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
    return build_network(path, card.recipe, card.normalisation), card


def build_network(
    path: Path,
    recipe: Recipe,
    normalisation: Normalisation | None,
    *,
    prefix: str = "",
    members: int = 1,
) -> SaltNet:
    """Return a network of a file, in evaluation mode on the CPU.

    Args:
        path: The file.
        recipe: That trained the network.
        normalisation: That it was trained with; None: what the recipe says here and now.
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
    if normalisation is not None:
        net.mean, net.std = normalisation.mean, normalisation.std
    net.load_state_dict(_read_state(path, net.state_dict(), prefix, members))
    return net.eval()


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
        raise unreadable(path, error) from error
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
