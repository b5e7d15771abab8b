"""A network in a model file that is built when somebody needs it.

Building takes about a second, and importing torch and timm for it longer; whoever has an engine of
the network from before needs none of them.
"""

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

from diapir.config import ModelConfig

if TYPE_CHECKING:
    from diapir.models.unet import SaltNet


class StoredNet:
    """One network of a model file, not yet built.

    Args:
        config: Of the network.
        name: Tells its weights from all others: digest of the file and place in it.
        build: Returns it in evaluation mode on the CPU; raises `ModelFileError` where its tensors
            do not fit.
    """

    def __init__(self, config: ModelConfig, name: str, build: "Callable[[], SaltNet]") -> None:
        self.config, self.name = config, name
        self._build = build
        self._net: SaltNet | None = None
        self._building = threading.Lock()

    def net(self) -> "SaltNet":
        """Return the network, built at the first call.

        Raises:
            ModelFileError: Its tensors are missing, do not fit or are not finite.
        """
        with self._building:
            if self._net is None:
                self._net = self._build()
            return self._net


AnyNet: TypeAlias = "SaltNet | StoredNet"
"""A network, at hand or in its file."""


def built(net: AnyNet) -> "SaltNet":
    """Return the network itself."""
    return net.net() if isinstance(net, StoredNet) else net


def device_type(net: AnyNet) -> str:
    """Return where it computes: 'cpu' or 'cuda'; what is not built is on the CPU."""
    return "cpu" if isinstance(net, StoredNet) else next(net.parameters()).device.type
