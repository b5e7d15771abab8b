"""What turns a network's probabilities into masks besides the threshold."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class MaskRule:
    """Calibration and clean-up, chosen on tiles that the network was not trained on.

    Args:
        temperature: Logits are divided by it before they count as probabilities; 1 changes nothing.
        min_body: Bodies of salt with fewer pixels are dropped; 0 keeps all.
        empty_below: A tile whose probabilities sum up to less, in pixels, has no salt; 0 is off.
        min_peak: Bodies without a probability above it are dropped, as in the hysteresis
            thresholding of Canny 1986, A computational approach to edge detection, IEEE PAMI 8;
            0 keeps all.
    """

    temperature: float = 1.0
    min_body: int = 0
    empty_below: float = 0.0
    min_peak: float = 0.0

    def __post_init__(self) -> None:
        values = (self.temperature, self.min_body, self.empty_below, self.min_peak)
        possible = all(map(math.isfinite, values)) and min(values) >= 0
        if not possible or self.temperature == 0 or self.min_peak >= 1:
            raise ValueError(f"a rule for masks cannot be {self}")

    @classmethod
    def from_json(cls, table: dict[str, Any]) -> "MaskRule":
        """Return the rule of a table as `dataclasses.asdict` makes it.

        Raises:
            KeyError: Something is missing.
            ValueError: It says what cannot be.
        """
        try:
            return cls(
                float(table["temperature"]),
                int(table["min_body"]),
                float(table["empty_below"]),
                float(table.get("min_peak", 0.0)),  # files of before it was there
            )
        except OverflowError as error:  # no ValueError, for Python
            raise ValueError(f"a rule for masks cannot have this number: {error}") from error

    @property
    def cleans(self) -> bool:
        """Whether it changes masks beyond the threshold."""
        return self.min_body > 1 or self.empty_below > 0 or self.min_peak > 0


AS_THRESHOLDED = MaskRule()
"""Probabilities as the network gives them, and masks by the threshold alone."""


def mean_rule(rules: Sequence[MaskRule]) -> MaskRule:
    """Return the rule of one model, or for several the mean, as with their thresholds."""
    count = len(rules)
    return MaskRule(
        sum(rule.temperature for rule in rules) / count,
        int(sum(rule.min_body for rule in rules) / count),
        sum(rule.empty_below for rule in rules) / count,
        sum(rule.min_peak for rule in rules) / count,
    )
