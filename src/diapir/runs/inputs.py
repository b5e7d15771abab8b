"""What the trainings of a run are handed, all of them alike."""

from dataclasses import dataclass
from pathlib import Path

from diapir.config import Recipe
from diapir.io.tiles import Tiles
from diapir.training.hardware import Hardware


@dataclass(frozen=True, eq=False)
class RunInputs:
    """What a run starts from; each of its splits is trained with the same.

    Args:
        tiles: The labelled tiles.
        recipe: To train by.
        data: The data set on disk: for its unlabelled tiles, and in commands that come next.
        hardware: Where to train.
    """

    tiles: Tiles
    recipe: Recipe
    data: Path
    hardware: Hardware
