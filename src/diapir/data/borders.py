"""Which tiles lie side by side in the ground, told from the pixels along their borders.

Nothing is learnt from labels. How a column of pixels goes on into the next is measured inside the
tiles, where it is known: a cut through a tile is a border between two neighbours that certainly
belong together. And how often strangers match by chance is measured on pairs that certainly do not:
the right border of one tile against the right border of another, mirrored.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Direction = Literal["right", "below"]
Matrix = NDArray[np.float32]

COLUMNS = 3
"""Columns of pixels on either side of a border that are compared."""
_CUTS = (0.2, 0.5, 0.8)
_NARROWEST = 15
"""Pixels across a tile below which a cut leaves too few columns to compare on one side."""
_MOST_CUTS = 30_000
_LEAST_CORRELATION = 0.9
_BUSY_STEP, _BUSY_SHARE = 2, 0.5
_ROWS_AT_ONCE = 256


@dataclass(frozen=True, eq=False)
class Seams:
    """Pairs of tiles that are neighbours in one direction, the surest first.

    Args:
        direction: Where the second tile lies, seen from the first.
        first: (P,) left or upper tiles.
        second: (P,) right or lower tiles.
        margin: (P,) how many times worse the second-best candidate fits, above 1.
        limit: Margin from which pairs are taken.
        strangers: How many mirrored pairs, which are chance, reach the limit.
    """

    direction: Direction
    first: NDArray[np.intp]
    second: NDArray[np.intp]
    margin: NDArray[np.float64]
    limit: float
    strangers: int

    def __len__(self) -> int:
        return len(self.first)


def find_seams(
    images: NDArray[np.uint8], direction: Direction, *, false_share: float = 0.02
) -> Seams:
    """Return the neighbours among N tiles in one direction.

    A pair counts where each tile is the other's best candidate, both borders have texture, and the
    second-best candidate of either fits worse by a margin. The margin is the least at which the
    number of chance matches, counted on mirrored borders, is a given share of all matches (the
    target-decoy estimate of proteomics).

    Args:
        images: (N, H, W) grey values.
        direction: 'right' for pairs side by side, 'below' for one above the other.
        false_share: Of the pairs that may be false, 0..1.

    Source:
        Elias and Gygi 2007, Target-decoy search strategy, Nature Methods 4: the estimate of the
        false share; Levitsky et al. 2017, J. Proteome Res. 16: one added to its count. Hotelling
        1936, Relations between two sets of variates: the comparison.
    """
    tiles = images if direction == "right" else images.transpose(0, 2, 1)
    if len(tiles) < 2 or tiles.shape[2] < _NARROWEST:
        none = np.zeros(0, np.intp)
        return Seams(direction, none, none, np.zeros(0), float("inf"), 0)
    compare = _Comparison.measure(tiles)
    leaving, entering = compare.leaving(tiles), compare.entering(tiles)
    mirrored = compare.entering(tiles[:, :, ::-1])
    out, into = _is_busy(tiles[:, :, -1]), _is_busy(tiles[:, :, 0])
    first, second, margin = _best_pairs(leaving, entering, out, into)
    *_, by_chance = _best_pairs(leaving, mirrored, out, out)
    return _taken(direction, first, second, margin, by_chance, false_share)


@dataclass(frozen=True, eq=False)
class _Comparison:
    """Canonical correlations of the columns before and behind a cut.

    In these coordinates u and v, of unit variance, only pairs u_k, v_k are correlated, by rho_k.
    The mismatch of two borders is the sum over k of (v - rho u)^2 / (1 - rho^2), how far v is from
    what u foretells, and the same the other way round. Components that foretell little are noise
    and left out.
    """

    mean_before: Matrix
    mean_behind: Matrix
    before: Matrix
    behind: Matrix
    square: Matrix
    cross: Matrix

    @classmethod
    def measure(cls, tiles: NDArray[np.uint8]) -> "_Comparison":
        """Measure on cuts through the tiles that are not blank; many tiles are thinned."""
        alive = tiles[(tiles != tiles[:, :1, :1]).any(axis=(1, 2))]
        alive = alive if len(alive) else tiles
        alive = alive[:: -(-len(alive) * len(_CUTS) // _MOST_CUTS)]
        places = [int(share * tiles.shape[2]) for share in _CUTS]
        before = np.concatenate([_columns(alive[:, :, :place], -1) for place in places])
        behind = np.concatenate([_columns(alive[:, :, place:], 0) for place in places])
        mean_before, mean_behind = before.mean(axis=0), behind.mean(axis=0)
        before, behind = before - mean_before, behind - mean_behind
        root_before, root_behind = (_inverse_root(c.T @ c / len(c)) for c in (before, behind))
        shared = (before.T @ behind / len(before)).astype(np.float64)
        left, rho, right = np.linalg.svd(root_before @ shared @ root_behind)
        keep = max(1, int((rho > _LEAST_CORRELATION).sum()))
        rho = np.minimum(rho[:keep], 0.9995)
        spread = 1 - rho**2
        return cls(
            mean_before,
            mean_behind,
            (root_before @ left[:, :keep]).astype(np.float32),
            (root_behind @ right[:keep].T).astype(np.float32),
            ((1 + rho**2) / spread).astype(np.float32),
            np.sqrt(2 * rho / spread).astype(np.float32),
        )

    def leaving(self, tiles: NDArray[np.uint8]) -> tuple[Matrix, Matrix]:
        """Return coordinates (N, K) of the right borders, and their part of the mismatch (N,)."""
        return self._weighed(_columns(tiles, -1) - self.mean_before, self.before)

    def entering(self, tiles: NDArray[np.uint8]) -> tuple[Matrix, Matrix]:
        """Return the same of the left borders."""
        return self._weighed(_columns(tiles, 0) - self.mean_behind, self.behind)

    def _weighed(self, columns: Matrix, basis: Matrix) -> tuple[Matrix, Matrix]:
        found = np.asarray(columns @ basis, np.float32)
        return found * self.cross, found**2 @ self.square


def _columns(tiles: NDArray[np.uint8], border: Literal[0, -1]) -> Matrix:
    """Return the outermost columns of tiles as (N, COLUMNS * H), the border first."""
    some = tiles[:, :, :COLUMNS] if border == 0 else tiles[:, :, : -COLUMNS - 1 : -1]
    return some.transpose(0, 2, 1).reshape(len(tiles), -1).astype(np.float32)


def _inverse_root(covariance: Matrix) -> NDArray[np.float64]:
    values, vectors = np.linalg.eigh(covariance.astype(np.float64))
    values = np.maximum(values, max(values.max(), 1e-9) * 1e-5)
    root: NDArray[np.float64] = (vectors / np.sqrt(values)) @ vectors.T
    return root


def _is_busy(border: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Return which borders (N, H) have texture: water and blank tiles match anything."""
    steps = np.abs(np.diff(border.astype(np.int16), axis=1)) > _BUSY_STEP
    busy: NDArray[np.bool_] = steps.mean(axis=1) > _BUSY_SHARE
    return busy


def _best_pairs(
    leaving: tuple[Matrix, Matrix],
    entering: tuple[Matrix, Matrix],
    out: NDArray[np.bool_],
    into: NDArray[np.bool_],
) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float64]]:
    """Return the pairs of tiles that are each other's best, and their margins."""
    rows, columns = _two_best(leaving, entering)
    first = np.arange(len(rows.place))
    mutual = (columns.place[rows.place] == first) & out & into[rows.place]
    first = first[mutual]
    second = rows.place[mutual]
    best = np.maximum(rows.best[mutual].astype(np.float64), 1e-3)
    margin = np.minimum(rows.next[mutual], columns.next[second]) / best
    return first, second, margin


@dataclass(eq=False)
class _TwoBest:
    """Least and second least mismatch of each tile, and with whom the least is."""

    place: NDArray[np.intp]
    best: Matrix
    next: Matrix


def _two_best(
    leaving: tuple[Matrix, Matrix], entering: tuple[Matrix, Matrix]
) -> tuple[_TwoBest, _TwoBest]:
    """Return the best of each row and of each column of all mismatches, block of rows by block."""
    (one, one_part), (other, other_part) = leaving, entering
    tiles = len(one)
    empty = (np.zeros(tiles, np.intp), np.full(tiles, np.inf, np.float32))
    rows = _TwoBest(empty[0].copy(), empty[1].copy(), empty[1].copy())
    columns = _TwoBest(empty[0].copy(), empty[1].copy(), empty[1].copy())
    everyone = np.arange(tiles)
    for start in range(0, tiles, _ROWS_AT_ONCE):
        here = np.arange(start, min(start + _ROWS_AT_ONCE, tiles))
        found = one[here] @ other.T
        found *= -2
        found += one_part[here, None]
        found += other_part[None]
        inside = here - start
        found[inside, here] = np.inf  # no tile is its own neighbour
        place, above = found.argmin(axis=1), found.argmin(axis=0)
        best, low = found[inside, place], found[above, everyone]
        found[inside, place] = np.inf
        rows.place[here], rows.best[here], rows.next[here] = place, best, found.min(axis=1)
        found[inside, place] = best
        found[above, everyone] = np.inf
        better = low < columns.best
        # the loser of the two best, or the second of this block
        runner_up = np.minimum(found.min(axis=0), np.where(better, columns.best, low))
        columns.next = np.minimum(columns.next, runner_up)
        columns.place = np.where(better, above + start, columns.place)
        columns.best = np.where(better, low, columns.best)
    return rows, columns


def _taken(
    direction: Direction,
    first: NDArray[np.intp],
    second: NDArray[np.intp],
    margin: NDArray[np.float64],
    by_chance: NDArray[np.float64],
    false_share: float,
) -> Seams:
    """Return the pairs above the least margin at which few enough are chance."""
    order = np.argsort(-margin, kind="stable")
    order = order[margin[order] > 1]
    falling = margin[order]
    strangers = np.searchsorted(np.sort(-by_chance), -falling, side="right")
    # one more than was counted: few pairs without a chance match do not prove that there is none
    allowed = np.flatnonzero(strangers + 1 <= false_share * np.arange(1, len(order) + 1))
    count = int(allowed[-1]) + 1 if len(allowed) else 0
    order = order[:count]
    return Seams(
        direction,
        first[order],
        second[order],
        margin[order],
        float(falling[count - 1]) if count else float("inf"),
        int(strangers[count - 1]) if count else 0,
    )
