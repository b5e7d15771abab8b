"""A place in what can be looked at: one section of one source."""

from dataclasses import dataclass

from diapir.serve.viewer.library import Source
from diapir.serve.viewer.sources import Axis, Direction


@dataclass(frozen=True)
class Place:
    """One section.

    Args:
        source: Of which.
        direction: Along what it runs.
        index: Which of them, counted from 0.
    """

    source: Source
    direction: Direction
    index: int

    @property
    def key(self) -> str | None:
        """Name of the file of its labels; None where it cannot be corrected."""
        return self.source.key(self.direction, self.index)

    @property
    def title(self) -> str:
        """Its name, such as 'Inline 1014'."""
        return self.source.title(self.direction, self.index)

    @property
    def number(self) -> float:
        """As the survey counts, or its time or depth."""
        return float(self.source.numbers(self.direction)[self.index])

    @property
    def axes(self) -> tuple[Axis, Axis]:
        """Across and down."""
        return self.source.axes(self.direction)

    @property
    def memory_key(self) -> tuple[str, Direction, int]:
        """By which its predictions are remembered."""
        return self.source.name, self.direction, self.index

    def steps_from(self, before: "Place | None") -> int:
        """Return how far one has stepped to come here; 0 where it was no walk."""
        if before is None or (self.source, self.direction) != (before.source, before.direction):
            return 0
        return self.index - before.index
