"""Which interpreted lines of a survey train a model, and which are held out to score it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from diapir.errors import DataError, OptionError
from diapir.io.labels import UNLABELLED, LabelledLine


@dataclass(frozen=True)
class LineSplit:
    """Which labelled lines train, and which are held out to score.

    Args:
        train: What is left of the labels for training, near and across the held-out block removed.
        held: The held-out lines.
        block: First and last index of the inlines (or crosslines, or traces of a 2-D line) of the
            held-out block.
    """

    train: tuple[LabelledLine, ...]
    held: tuple[LabelledLine, ...]
    block: tuple[int, int]


def split_lines(lines: Sequence[LabelledLine], holdout: float, gap: int) -> LineSplit:
    """Return lines to train on and a block of lines held out.

    The block is the last lines of the direction with the most labels, as one piece; training lines
    keep a gap from it, and lines that cross it lose their labels there. Neighbouring lines look
    alike: scattered ones would score what was learnt by heart.

    Of a 2-D line the block is its last labelled traces, likewise with a gap.

    Args:
        lines: Labelled lines.
        holdout: Share of the lines of that direction in the block.
        gap: Lines on either side of the block that are used for nothing.

    Raises:
        DataError: There are too few lines to hold any out.
        OptionError: The share is none.
    """
    if not 0 <= holdout < 1:  # NaN, too
        raise OptionError(f"a share of {holdout:g} held out", "holdout", expected="0 to below 1")
    if lines[0].direction == "line":
        return _split_traces(lines[0], holdout, gap)
    counts = {d: sum(line.direction == d for line in lines) for d in ("inline", "crossline")}
    direction = max(counts, key=lambda d: counts[d])
    along = sorted((ln for ln in lines if ln.direction == direction), key=lambda ln: ln.index)
    size = max(1, round(holdout * len(along)))
    held = along[-size:]
    block = (held[0].index, held[-1].index)
    low, high = block[0] - gap, block[1] + gap
    train = [line for line in along[:-size] if line.index < low]
    for line in lines:
        if line.direction != direction:
            labels = line.labels.copy()
            labels[max(low, 0) : high + 1] = UNLABELLED
            if (labels != UNLABELLED).any():
                train.append(replace(line, labels=labels))
    if not train:
        raise DataError(
            f"{len(lines)} labelled lines leave none to train on beside those held out",
            expected=f"at least two lines further apart than {gap}",
            mend="Label another line further away, or give a smaller --gap.",
        )
    return LineSplit(tuple(train), tuple(held), block)


def _split_traces(line: LabelledLine, holdout: float, gap: int) -> LineSplit:
    """Return a 2-D line twice: with the labels that train, and with those that are held out."""
    labelled = line.labelled_traces
    size = max(1, round(holdout * len(labelled)))
    block = (int(labelled[-size]), int(labelled[-1]))
    if labelled[0] >= block[0] - gap:
        raise DataError(
            f"{len(labelled)} labelled traces leave none to train on beside those held out",
            expected=f"more than {size + gap} traces",
            mend="Label more of the line, or give a smaller --gap or --holdout.",
        )
    train, held = line.labels.copy(), line.labels.copy()
    train[block[0] - gap :] = UNLABELLED
    held[: block[0]] = UNLABELLED
    return LineSplit((replace(line, labels=train),), (replace(line, labels=held),), block)
