"""What a map depends on, and what it leaves."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from diapir.errors import OptionError
from diapir.inference.look import Amplitudes, Look
from diapir.inference.postprocess import check_threshold
from diapir.inference.sections import SectionSettings
from diapir.inference.volume import Prediction
from diapir.report.figures_survey import Display
from diapir.runs.products import Products


@dataclass(frozen=True)
class MapSettings:
    """What a map depends on besides survey and models.

    Args:
        sections: How they are brought to the networks.
        threshold: On the probability; None: the mean of the models' own.
        directions: 'both', 'inline' or 'crossline'.
        lines: Lines a block; None: by memory.
        min_samples: Smaller bodies are dropped; None: see `write_products`.
        max_bodies: Bodies kept at most.
        velocity_m_s: For volumes in cubic metres of surveys in time.
        display: Colours of the amplitudes in the report.
        engine: That computes the networks, as of `EnginePool`; 'auto' would let the bytes depend on
            a measurement.
    """

    sections: SectionSettings = SectionSettings()  # noqa: RUF009  # frozen
    threshold: float | None = None
    directions: Literal["both", "inline", "crossline"] = "both"
    lines: int | None = None
    min_samples: int | None = None
    max_bodies: int = 20
    velocity_m_s: float | None = None
    display: Display = "gray"
    engine: str = "eager"

    def __post_init__(self) -> None:
        check_threshold(self.threshold)
        if self.velocity_m_s is not None and not 0 < self.velocity_m_s < math.inf:
            raise OptionError(
                f"a velocity of {self.velocity_m_s:g} m/s", "velocity", expected="a positive one"
            )


@dataclass(frozen=True, eq=False)
class MapResult:
    """What `map_survey` leaves.

    Args:
        out: The folder.
        store: Zarr store of probability, mask and disagreement.
        threshold: That made the mask.
        amplitudes: Of the survey; None where they were taken as they are.
        look: The map from amplitudes to grey values.
        prediction: What it took; None where an earlier call had finished it.
        products: Horizons, bodies, meshes.
        settings: What was asked for.
        files: Everything that was written, in the order of making.
        news: What the user should know, in words.
    """

    out: Path
    store: Path
    threshold: float
    amplitudes: Amplitudes | None
    look: Look
    prediction: Prediction | None
    products: Products
    settings: MapSettings
    files: tuple[Path, ...]
    news: tuple[str, ...] = ()
