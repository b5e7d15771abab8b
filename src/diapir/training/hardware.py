"""Where trainings run."""

from dataclasses import dataclass

import torch

from diapir.models.processor import usable_cores


@dataclass(frozen=True)
class Hardware:
    """Where to train, in Lightning's terms.

    Args:
        accelerator: 'auto', 'cpu' or 'gpu'.
        devices: Processes on a CPU, cards on a GPU machine, or 'auto'. Of several encoders on a
            CPU, how many are trained at once; 'auto': as many as there are cores.
        num_nodes: Machines that train together.
        progress: Show progress bars.
    """

    accelerator: str = "auto"
    devices: int | str = "auto"
    num_nodes: int = 1
    progress: bool = True

    @property
    def on_card(self) -> bool:
        """Whether an NVIDIA card trains."""
        return self.accelerator != "cpu" and torch.cuda.is_available()

    @property
    def on_cpu(self) -> bool:
        """Whether the processor trains."""
        found = torch.accelerator.is_available()
        return self.accelerator == "cpu" or (self.accelerator == "auto" and not found)

    @property
    def scoring_device(self) -> str:
        """Where a finished network is scored, as torch names it."""
        return "cuda" if self.on_card else "cpu"

    def networks_at_once(self, networks: int) -> int:
        """Return how many of several networks are trained at the same time."""
        if not self.on_cpu:
            return 1
        most = usable_cores() if self.devices == "auto" else int(self.devices)
        return max(1, min(most, networks))


ANY_HARDWARE = Hardware()
"""Whatever is found."""
