"""The parameters of a network as the optimizer is to treat them."""

from collections.abc import Iterator

from torch import nn


def parts_with_factors(
    net: nn.Module, encoder_factor: float
) -> Iterator[tuple[list[nn.Parameter], float]]:
    """Yield the parameters of encoder and rest that learn, each with its factor on the rate.

    Args:
        net: With its encoder as `encoder`.
        encoder_factor: Of the encoder, which may know something already; that of the rest is 1.
    """
    for is_encoder, factor in ((True, encoder_factor), (False, 1.0)):
        chosen = [
            parameter
            for name, parameter in net.named_parameters()
            if parameter.requires_grad and name.startswith("encoder.") == is_encoder
        ]
        if chosen:
            yield chosen, factor
