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
    """

    temperature: float = 1.0
    min_body: int = 0
    empty_below: float = 0.0

    def __post_init__(self) -> None:
        sums = (self.temperature, self.min_body, self.empty_below)
        if not all(map(math.isfinite, sums)) or min(sums) < 0 or self.temperature == 0:
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
                float(table["temperature"]), int(table["min_body"]), float(table["empty_below"])
            )
        except OverflowError as error:  # no ValueError, for Python
            raise ValueError(f"a rule for masks cannot have this number: {error}") from error

    @property
    def cleans(self) -> bool:
        """Whether it changes masks beyond the threshold."""
        return self.min_body > 1 or self.empty_below > 0


AS_THRESHOLDED = MaskRule()
"""Probabilities as the network gives them, and masks by the threshold alone."""


def mean_rule(rules: Sequence[MaskRule]) -> MaskRule:
    """Return the rule of one model, or for several the mean, as with their thresholds."""
    count = len(rules)
    return MaskRule(
        sum(rule.temperature for rule in rules) / count,
        int(sum(rule.min_body for rule in rules) / count),
        sum(rule.empty_below for rule in rules) / count,
    )
