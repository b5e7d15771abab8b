"""How speed is measured here: baseline and candidate in turns, in one process, with equal threads.

A machine that does other work as well, or a processor that changes its clock, moves both alike.
So only ratios of neighbouring rounds are compared with targets; seconds are shown beside them.
"""

import gc
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from statistics import median, quantiles
from typing import Any

ROUNDS = 7
"""Rounds that a ratio needs at least before it is compared with a target."""


@dataclass(frozen=True)
class Comparison:
    """Seconds of a baseline and a candidate, round by round, of the same amount of work.

    Args:
        baseline: Seconds of each round.
        candidate: Seconds of each round.
        threads: That both were allowed.
        cores: Processor seconds a second of each, the median; more than the threads tells of a
            library that counts its own. None: not taken.
    """

    baseline: tuple[float, ...]
    candidate: tuple[float, ...]
    threads: int
    cores: tuple[float, float] | None = None

    @property
    def ratios(self) -> list[float]:
        """How many times as long the baseline took in each round."""
        return [b / c for b, c in zip(self.baseline, self.candidate, strict=True)]

    @property
    def ratio(self) -> float:
        """The median of the rounds' ratios."""
        return median(self.ratios)

    @property
    def quartiles(self) -> tuple[float, float]:
        """The first and the third quartile of the ratios."""
        return spread(self.ratios)


def compare(
    baseline: Callable[[], object],
    candidate: Callable[[], object],
    *,
    rounds: int = ROUNDS,
    warm_up: int = 1,
) -> Comparison:
    """Return the seconds of both, taken in turns; who begins changes from round to round.

    Args:
        baseline: The work as it is usually done.
        candidate: The same work.
        rounds: How often each is measured.
        warm_up: How often each is run before.

    Raises:
        RuntimeError: One of them changed the number of threads, so that the rounds differ.
    """
    works = {"baseline": baseline, "candidate": candidate}
    return compare_each(works, rounds=rounds, warm_up=warm_up)["candidate"]


def compare_each(
    works: Mapping[str, Callable[[], object]], *, rounds: int = ROUNDS, warm_up: int = 1
) -> dict[str, Comparison]:
    """Return the comparison of each work but the first with the first, all taken in turns.

    Args:
        works: The baseline, then the candidates; each does the same.
        rounds: How often each is measured.
        warm_up: How often each is run before.

    Raises:
        RuntimeError: One of them changed the number of threads, so that the rounds differ.
    """
    import torch

    threads = torch.get_num_threads()
    for _ in range(warm_up):
        for work in works.values():
            work()
    seconds: dict[str, list[float]] = {name: [] for name in works}
    cores: dict[str, list[float]] = {name: [] for name in works}
    for number in range(rounds):
        for name in works if number % 2 == 0 else reversed(list(works)):
            took, busy = seconds_and_cores(works[name])
            seconds[name].append(took)
            cores[name].append(busy)
    if torch.get_num_threads() != threads:
        raise RuntimeError(f"threads changed from {threads} to {torch.get_num_threads()}")
    first, *others = works
    return {
        name: Comparison(
            tuple(seconds[first]),
            tuple(seconds[name]),
            threads,
            (median(cores[first]), median(cores[name])),
        )
        for name in others
    }


def measure(work: Callable[[], object], *, rounds: int = ROUNDS, warm_up: int = 1) -> list[float]:
    """Return the seconds of each round, for what has no baseline."""
    for _ in range(warm_up):
        work()
    return [seconds_of(work) for _ in range(rounds)]


def seconds_of(work: Callable[[], object]) -> float:
    """Return the seconds that a piece of work takes, without the garbage of what came before."""
    return seconds_and_cores(work)[0]


def seconds_and_cores(work: Callable[[], object]) -> tuple[float, float]:
    """Return the seconds of a piece of work as `seconds_of`, and how many cores it kept busy."""
    gc.collect()
    wait_for_card()
    processor, started = time.process_time(), time.perf_counter()
    work()
    wait_for_card()
    seconds, busy = time.perf_counter() - started, time.process_time() - processor
    return seconds, busy / seconds


def spread(values: Sequence[float]) -> tuple[float, float]:
    """Return the first and the third quartile.

    >>> spread([1.0, 2.0, 3.0, 4.0, 5.0])
    (2.0, 4.0)
    """
    if len(values) < 2:
        return values[0], values[0]
    first, _, third = quantiles(values, n=4, method="inclusive")
    return first, third


def wait_for_card() -> None:
    """Wait until a card has done what it was asked to; without one, go on at once."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()


@dataclass(frozen=True)
class Row:
    """One figure, and what is wanted of it.

    Args:
        target: Number of the target that it belongs to.
        what: In words.
        value: The median.
        unit: "x" for a ratio; "s", "%", "MiB", "".
        limit: What is wanted; None where nothing is.
        at_least: The limit is a lower one.
        quartiles: Of the value over the rounds.
        rounds: How many there were.
        baseline: Median seconds of the baseline, where there is one.
        candidate: Median seconds of what is compared with it.
        cores: That both kept busy.
        note: What a reader should know beside it.
    """

    target: str
    what: str
    value: float
    unit: str = ""
    limit: float | None = None
    at_least: bool = False
    quartiles: tuple[float, float] | None = None
    rounds: int = 1
    baseline: float | None = None
    candidate: float | None = None
    cores: tuple[float, float] | None = None
    note: str = ""

    @property
    def holds(self) -> bool | None:
        """Whether the limit is kept; None where there is none."""
        if self.limit is None:
            return None
        return self.value >= self.limit if self.at_least else self.value <= self.limit

    def to_json(self) -> dict[str, Any]:
        """Return the row as plain values."""
        return {**asdict(self), "holds": self.holds}


def ratio_row(
    target: str,
    what: str,
    found: Comparison,
    limit: float | None,
    *,
    at_least: bool = True,
    note: str = "",
) -> Row:
    """Return the row of a comparison: how many times as long the baseline takes."""
    return Row(
        target,
        what,
        found.ratio,
        "x",
        limit,
        at_least,
        found.quartiles,
        len(found.ratios),
        median(found.baseline),
        median(found.candidate),
        found.cores,
        note,
    )


def seconds_row(
    target: str, what: str, seconds: Sequence[float], limit: float | None, note: str = ""
) -> Row:
    """Return the row of something that has no baseline but a limit in seconds."""
    return Row(
        target, what, median(seconds), "s", limit, False, spread(seconds), len(seconds), note=note
    )


@dataclass(frozen=True)
class Table:
    """Figures that explain the rows and are compared with nothing.

    Args:
        title: What they are.
        head: Names of the columns.
        cells: Rows of texts and numbers.
        note: What a reader should know.
    """

    title: str
    head: Sequence[str]
    cells: Sequence[Sequence[Any]]
    note: str = ""


@dataclass
class Measured:
    """What one measurement found.

    Args:
        rows: Figures with their limits.
        tables: Figures that explain them.
        figures: Pictures below docs/, with their captions.
    """

    rows: list[Row] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    figures: dict[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return everything as plain values."""
        return {
            "rows": [row.to_json() for row in self.rows],
            "tables": [asdict(table) for table in self.tables],
            "figures": self.figures,
        }


@dataclass(frozen=True)
class Effort:
    """How much is measured.

    Args:
        name: As on the command line.
        rounds: Of each comparison.
        masks: Encoded and scored.
        tiles: Through a network in each round of a comparison.
        training: Rounds of a training; half a second of noise is much of the short ones.
        steps: Of training in each round.
        batch: Tiles a step.
        encoders: Of the networks that are compared.
        counts: Of tiles, for growth.
        sides: Of tiles in pixels, for growth.
        models: In an ensemble, for growth.
        matrix: Side of the matrices of the peak.
        engine: That predicts; 'auto' chooses by measuring.
    """

    name: str
    rounds: int = ROUNDS
    masks: int = 18_000
    tiles: int = 64
    training: int = 2 * ROUNDS + 1
    steps: int = 2
    batch: int = 16
    encoders: tuple[str, ...] = ("resnet34", "vgg19", "tf_efficientnet_lite0")
    counts: tuple[int, ...] = (1_000, 3_000, 7_000, 22_000)
    sides: tuple[int, ...] = (101, 128, 192, 256, 384, 512)
    models: tuple[int, ...] = (1, 2, 4, 8)
    matrix: int = 4096
    engine: str = "auto"

    @property
    def gates(self) -> bool:
        """Whether there is enough to compare seconds and ratios with their limits."""
        return self.name == "full"


FULL = Effort("full")
QUICK = Effort(
    "quick", 3, 2_000, 16, 3, 1, 8, ("resnet34",), (250, 500, 1_000), (101, 128, 192), (1, 2), 1024
)
TINY = Effort(
    "tiny", 1, 40, 2, 1, 1, 2, ("resnet18",), (8, 16), (32, 64), (1, 2), 64, engine="eager"
)
EFFORTS = {effort.name: effort for effort in (FULL, QUICK, TINY)}
