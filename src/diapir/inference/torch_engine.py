"""Engines of torch itself, on the processor or a card."""

import copy

import torch
from torch import Tensor

from diapir.inference.signature import Floats, Run
from diapir.models.stored import device_type
from diapir.models.unet import SaltNet


def eager(net: SaltNet, precision: str) -> Run:
    """Return what runs a network as it is; its precision is set.

    Args:
        net: In evaluation mode, on any device.
        precision: One of `engine.PRECISIONS`.
    """
    net.set_precision(precision, device_type(net))

    def run(images: Floats, z_feet: Floats | None) -> Floats:
        with torch.inference_mode():
            return _array(net(*_tensors(net, images, z_feet)))

    return run


def compiled(net: SaltNet, precision: str) -> Run:
    """Return what runs a copy of a network that torch.compile made, for batches of one size.

    Args:
        net: In evaluation mode, on any device.
        precision: One of `engine.PRECISIONS`.
    """
    own = copy.deepcopy(net)
    own.set_precision(precision, device_type(own))
    program = torch.compile(own)

    def run(images: Floats, z_feet: Floats | None) -> Floats:
        import torch._inductor.config as inductor

        with inductor.patch(freezing=True), torch.no_grad():  # weights become constants
            return _array(program(*_tensors(own, images, z_feet)))

    return run


def _tensors(net: SaltNet, *arrays: Floats | None) -> list[Tensor | None]:
    device = next(net.parameters()).device
    return [None if array is None else torch.tensor(array, device=device) for array in arrays]


def _array(logits: Tensor) -> Floats:
    found: Floats = logits.cpu().numpy()
    return found
