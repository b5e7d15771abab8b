"""Reading what nobody should have to read: what became of it, how long it took, what it held.

Shared by `fuzz.py` and `hostile.py`. A trial passes when the reader returns or raises a
`DiapirError`, within five seconds and 512 MiB above the idle process. Seconds in which a busy
machine gave the process no processor do not count. Trials run in child
processes, so that a crash or a hang inside a library is counted and not suffered.
"""

import ctypes
import json
import multiprocessing
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from diapir.errors import DiapirError

SECONDS, MEBIBYTES = 5.0, 512.0
"""What a trial may take."""

LIBC = ctypes.CDLL(None)

READ, REFUSED = "read", "refused"
FAILURES = ("other error", "too slow", "too much memory", "crash")


@dataclass(frozen=True)
class Outcome:
    """What became of one input.

    Args:
        name: Of the input.
        kind: `READ`, `REFUSED` or one of `FAILURES`.
        detail: The error, in one line.
        seconds: That the reader took.
        mebibytes: Peak of the resident memory above that of the idle process.
    """

    name: str
    kind: str
    detail: str = ""
    seconds: float = 0.0
    mebibytes: float = 0.0

    @property
    def failed(self) -> bool:
        """Whether this is a defect of a reader."""
        return self.kind in FAILURES


@dataclass
class Tally:
    """Outcomes of many trials, counted.

    Args:
        kinds: How many of each kind.
        failures: Those that failed, 50 at most.
        seconds: The longest.
        mebibytes: The most.
    """

    kinds: Counter[str] = field(default_factory=Counter)
    failures: list[Outcome] = field(default_factory=list)
    seconds: float = 0.0
    mebibytes: float = 0.0

    def add(self, outcome: Outcome) -> None:
        """Count an outcome."""
        self.kinds[outcome.kind] += 1
        self.seconds = max(self.seconds, outcome.seconds)
        self.mebibytes = max(self.mebibytes, outcome.mebibytes)
        if outcome.failed and len(self.failures) < 50:
            self.failures.append(outcome)

    @property
    def tried(self) -> int:
        """How many there were."""
        return sum(self.kinds.values())

    @property
    def failed(self) -> int:
        """How many failed."""
        return sum(self.kinds[kind] for kind in FAILURES)

    def to_json(self) -> dict[str, Any]:
        """Return the counts as plain values."""
        return {
            "tried": self.tried,
            "read": self.kinds[READ],
            "refused": self.kinds[REFUSED],
            "failed": self.failed,
            "kinds": dict(self.kinds),
            "longest_seconds": round(self.seconds, 2),
            "most_mebibytes": round(self.mebibytes),
            "failures": [asdict(outcome) for outcome in self.failures],
        }

    @classmethod
    def from_json(cls, counts: dict[str, Any]) -> "Tally":
        """Return the tally that `to_json` gave, to count on."""
        return cls(
            kinds=Counter(counts["kinds"]),
            failures=[Outcome(**outcome) for outcome in counts["failures"]],
            seconds=counts["longest_seconds"],
            mebibytes=counts["most_mebibytes"],
        )


class TooSlow(Exception):  # noqa: N818  # not an error of what is tried
    """The time is over."""


def attempt(name: str, read: Callable[[], object]) -> Outcome:
    """Return what became of one input; to be called in the main thread of a child process."""
    idle = _peak_memory()
    clock = _Clock()
    kind, detail = READ, ""
    try:
        with _alarm(SECONDS, clock):
            read()
    except DiapirError as error:
        kind, detail = REFUSED, error.what
        str(error)
    except TooSlow:
        kind, detail = "too slow", f"more than {SECONDS:g} s"
    except Exception as error:  # that is what is looked for
        kind, detail = "other error", f"{type(error).__name__}: {error} at {_place(error)}"
    seconds, held = clock.seconds(), max(0.0, _peak_memory(after=True) - idle)
    if held > MEBIBYTES and kind in (READ, REFUSED):
        kind, detail = "too much memory", f"{held:.0f} MiB"
    return Outcome(name, kind, " ".join(detail.split())[:300], seconds, held)


def run_trials(
    count: int,
    start: Callable[[Path, int], Iterator[Outcome]],
    *,
    first: int = 0,
    patience: float = 6 * SECONDS,
) -> Iterator[Outcome]:
    """Yield the outcomes of inputs `first` to `count` - 1 one after the other, in child processes.

    Args:
        count: Of inputs.
        start: Given a folder of its own and a number, yields the outcomes from that number on.
        first: Number of the first input.
        patience: Seconds without an outcome after which a child counts as stuck in a library.
    """
    done = born = first
    context = multiprocessing.get_context("fork")
    while done < count:
        inlet, outlet = context.Pipe(duplex=False)
        with tempfile.TemporaryDirectory(prefix="diapir-trial-") as folder:
            child = context.Process(target=_work, args=(outlet, start, Path(folder), done))
            child.start()
            born = done
            outlet.close()
            try:
                # the first answer comes after the sound files are made, on a busy machine late
                while done < count and _answers(
                    inlet, child.pid, patience if done > born else 10 * patience
                ):
                    yield Outcome(**json.loads(inlet.recv()))
                    done += 1
                if done < count:
                    yield Outcome(str(done), "too slow", f"no answer within {patience:g} s")
                    done += 1
            except EOFError:
                child.join()
                if done == born:
                    raise RuntimeError("the trial itself cannot be set up") from None
                yield Outcome(str(done), "crash", f"exit code {child.exitcode}")
                done += 1
            finally:
                child.kill()
                child.join()


def _answers(inlet: Any, child: int | None, patience: float) -> bool:
    """Return whether a child says something, or ends, before the patience is over."""
    clock = _Clock(child or "self")
    while not inlet.poll(min(patience, 1.0)):
        if clock.seconds() > patience:
            return False
    return True


def _work(
    outlet: Any, start: Callable[[Path, int], Iterator[Outcome]], folder: Path, number: int
) -> None:
    for outcome in start(folder, number):
        outlet.send(json.dumps(asdict(outcome)))
    time.sleep(60)  # the parent ends this process; an end of its own would look like a crash


class _Clock:
    """Counts seconds, without those in which a busy machine gave a process no processor.

    Args:
        process: Its number; 'self' is this one.

    Source: Linux, Documentation/scheduler/sched-stats.rst, /proc/<pid>/schedstat: the second number
    is the time spent waiting on a run queue, in nanoseconds.
    """

    def __init__(self, process: int | str = "self") -> None:
        self._path = Path(f"/proc/{process}/schedstat")
        self._started, self._waited = time.perf_counter(), self._waiting()

    def seconds(self) -> float:
        """Return the seconds since it was made."""
        waited = self._waiting() - self._waited
        return max(0.0, time.perf_counter() - self._started - waited)

    def _waiting(self) -> float:
        try:
            text = self._path.read_text(encoding="ascii")
        except OSError:  # a kernel without these numbers: all seconds count
            return 0.0
        return int(text.split()[1]) / 1e9


@contextmanager
def _alarm(seconds: float, clock: _Clock) -> Iterator[None]:
    def ring(number: int, frame: Any) -> None:
        left = seconds - clock.seconds()
        if left <= 0:
            raise TooSlow
        signal.setitimer(signal.ITIMER_REAL, max(left, 0.01))

    previous = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)


def _peak_memory(*, after: bool = False) -> float:
    """Return MiB of resident memory; the peak since the last call where `after` is set.

    What the process has freed and not given back is given back first: a reader that fills it again
    holds it, and the peak would not move.

    Source: malloc_trim(3) of the GNU C library.
    """
    if not after:
        if hasattr(LIBC, "malloc_trim"):
            LIBC.malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # forget the peak
    wanted = "VmHWM:" if after else "VmRSS:"
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(wanted):
            return int(line.split()[1]) / 1024
    return 0.0


def _place(error: Exception) -> str:
    trace = error.__traceback__
    place = ""
    while trace is not None:
        file = trace.tb_frame.f_code.co_filename
        if "diapir" in file:
            place = f"{Path(file).name}:{trace.tb_lineno}"
        trace = trace.tb_next
    return place
