"""What goes into a network and comes out: arrays, and their names in a graph; without torch."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

IMAGES, DEPTHS, LOGITS = "images", "z_feet", "logits"
"""Names of the inputs and of the output of a graph."""

Floats = NDArray[np.float32]
Run = Callable[[Floats, Floats | None], Floats]
"""From images and depths to logits, all of a batch."""
