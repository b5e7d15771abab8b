"""Where the samples of a survey lie in the world: numbers, coordinates, time or depth."""

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Self

import numpy as np
from numpy.typing import NDArray

from diapir.io.volume import segy_facts

if TYPE_CHECKING:
    import xarray as xr

_METRES = {"m": 1.0, "ft": 0.3048}
_TRIPLES, _LOOKED_AT = 200, 4096  # of traces, drawn where some have wrong numbers
_FITS = 4  # each with the traces that lie close to the one before


@dataclass(frozen=True, eq=False)
class Frame:
    """The axes of a post-stack survey, with the way from grid indices to the world.

    Args:
        inline: (I,) line numbers, rising or falling.
        crossline: (J,) numbers across, rising or falling.
        sample: (S,) time in ms or depth in m or ft of the samples, evenly spaced; the first one is
            the delay of the recording and seldom 0.
        unit: Of `sample`: 'ms', 'm' or 'ft'.
        x: (I, J) easting of each trace, NaN where it is unknown; None: the survey has none.
        y: (I, J) northing, like `x`.
        live: (I, J) bool, where there is a trace.
        measurement: Of `x` and `y`, 'm' or 'ft'; empty: nothing says it.
    """

    inline: NDArray[np.float64]
    crossline: NDArray[np.float64]
    sample: NDArray[np.float64]
    unit: str
    x: NDArray[np.float64] | None
    y: NDArray[np.float64] | None
    live: NDArray[np.bool_]
    measurement: str = ""

    @classmethod
    def from_volume(cls, volume: "xr.Dataset") -> Self:
        """Return the frame of a dataset with dimensions (inline, crossline, sample).

        What belongs to traces may lack the dimension of a single inline.
        """
        shape = volume.sizes["inline"], volume.sizes["crossline"]

        def of_traces(name: str) -> NDArray[np.float64] | None:
            if name not in volume.variables:
                return None
            return np.asarray(volume[name], np.float64).reshape(shape)

        live = of_traces("trace_mask")
        stated = volume["cdp_x"].attrs.get("units") if "cdp_x" in volume.variables else None
        return cls(
            inline=np.asarray(volume["inline"], np.float64),
            crossline=np.asarray(volume["crossline"], np.float64),
            sample=np.asarray(volume["sample"], np.float64),
            unit=str(volume["sample"].attrs.get("units", "ms")),
            x=of_traces("cdp_x"),
            y=of_traces("cdp_y"),
            live=np.ones(shape, bool) if live is None else live > 0,
            measurement=str(stated or segy_facts(volume).get("measurement", "")),
        )

    @property
    def shape(self) -> tuple[int, int, int]:
        """Lines, traces a line, samples a trace."""
        return len(self.inline), len(self.crossline), len(self.sample)

    @property
    def is_flat(self) -> bool:
        """Whether this is a single line, which has neither areas nor surfaces."""
        return min(self.shape[:2]) < 2

    @property
    def plane_unit(self) -> str:
        """Unit of easting and northing, 'm' or 'ft': as headers say it, else as depths have it."""
        return self.measurement or ("ft" if self.unit == "ft" else "m")

    @property
    def sample_step(self) -> float:
        """Distance of samples in `unit`."""
        count = len(self.sample)
        return float(self.sample[-1] - self.sample[0]) / (count - 1) if count > 1 else 1.0

    @cached_property
    def affine(self) -> NDArray[np.float64]:
        """(2, 3): easting and northing are this times (1, inline, crossline).

        The least-squares fit over the live traces, since headers are rounded to a unit, but for
        those that are far `astray`. Where the survey has no coordinates, or all are equal, easting
        is the crossline and northing the inline number.
        """
        if not self.located:
            return np.array([[0.0, 0.0, 1.0], [0.0, 1.0, 0.0]])
        return self._fit[0]

    @cached_property
    def located(self) -> bool:
        """Whether the coordinates of the headers span a plane, so that areas have a meaning."""
        if self.x is None or self.y is None or not self._known.any():
            return False
        found, rank = self._fit
        lines, traces = len(self.inline) > 1, len(self.crossline) > 1
        steps = np.hypot(*found[:, 1:])[[lines, traces]]
        # less than a millionth of a unit, or of a right angle, is rounding
        upright = not (lines and traces) or abs(_det(found)) > 1e-6 * float(steps.prod())
        return rank == 1 + lines + traces and bool((steps > 1e-6).all()) and upright

    @cached_property
    def _known(self) -> NDArray[np.bool_]:
        assert self.x is not None and self.y is not None  # noqa: S101, PT018  # callers have asked
        # traces that only fill up the grid have no coordinates, which headers can only say by 0
        stated = np.isfinite(self.x) & np.isfinite(self.y) & ((self.x != 0) | (self.y != 0))
        known: NDArray[np.bool_] = self.live & stated
        return known

    @cached_property
    def astray(self) -> int:
        """Traces whose coordinates lie further than a bin from where their numbers put them."""
        if self.is_flat or not self.located:
            return 0
        numbers, world = self._stated()
        return int(np.count_nonzero(~_is_close(self.affine, numbers, world, self._steps)))

    @property
    def _steps(self) -> NDArray[np.float64]:
        return np.array([_step(self.inline), _step(self.crossline)])

    def _stated(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return line numbers and coordinates of the traces that have them, (N, 2) each."""
        assert self.x is not None and self.y is not None  # noqa: S101, PT018
        i, j = np.nonzero(self._known)
        numbers = np.stack([self.inline[i], self.crossline[j]], axis=1)
        return numbers, np.stack([self.x[i, j], self.y[i, j]], axis=1)

    @cached_property
    def _fit(self) -> tuple[NDArray[np.float64], int]:
        """The affine map, and how many of its three columns the traces determine.

        A single trace with a wrong number may turn the fit of all traces. So where one lies further
        than a bin from it, those are fitted that lie close to the map on which most agree; where
        fewer than half do, all are. A single line may have bends, and is fitted as it is.
        """
        numbers, world = self._stated()
        found, rank = _least_squares(numbers, world)
        if self.is_flat or _is_close(found, numbers, world, self._steps).all():
            return found, rank
        agreed = _agreed(numbers, world)
        for _ in range(_FITS):
            close = _is_close(agreed, numbers, world, self._steps)
            if np.count_nonzero(close) < len(close) / 2:
                return found, rank
            agreed, own_rank = _least_squares(numbers[close], world[close])
        return agreed, own_rank

    def trace_xy(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return easting and northing of every place of the grid, (I, J) each.

        A trace keeps the coordinates of its header; a gap gets those of the fitted grid.
        """
        numbers = np.stack(
            [
                np.ones(self.shape[:2]),
                *np.meshgrid(self.inline, self.crossline, indexing="ij"),
            ]
        )
        x, y = np.tensordot(self.affine, numbers, axes=1)
        if self.located and self.x is not None and self.y is not None:
            x, y = np.where(self._known, self.x, x), np.where(self._known, self.y, y)
        return x, y

    def to_world(self, places: NDArray[np.floating]) -> NDArray[np.float64]:
        """Return easting, northing and time or depth, (N, 3), of fractional indices (N, 3).

        Indices may lie outside the survey; the grid goes on evenly there.
        """
        at: NDArray[np.float64] = np.asarray(places, np.float64)
        inline = _along(self.inline, at[:, 0])
        crossline = _along(self.crossline, at[:, 1])
        numbers = np.stack([np.ones(len(at)), inline, crossline])
        return np.column_stack([(self.affine @ numbers).T, _along(self.sample, at[:, 2])])

    def to_indices(
        self, x: NDArray[np.floating], y: NDArray[np.floating]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return fractional line and trace indices of places in the world, of their shape."""
        offset = np.stack([x - self.affine[0, 0], y - self.affine[1, 0]])
        inline, crossline = np.tensordot(np.linalg.inv(self.affine[:, 1:]), offset, axes=1)
        return _place(self.inline, inline), _place(self.crossline, crossline)

    def is_near(self, i: NDArray[np.floating], j: NDArray[np.floating]) -> NDArray[np.bool_]:
        """Return where fractional indices lie at most a step from the nearest line and trace.

        Where line numbers have a hole, places deep in it are not near.
        """
        return _is_near(self.inline, i) & _is_near(self.crossline, j)

    @property
    def steps(self) -> NDArray[np.float64]:
        """(2, 2): easting and northing from a line to the next, and from a trace to the next."""
        return np.asarray(self.affine[:, 1:] * self._steps).T

    @property
    def bin_area(self) -> float | None:
        """Area of the rectangle that a trace stands for, in square units of the coordinates."""
        if not self.located or self.is_flat:
            return None
        return abs(float(np.linalg.det(self.steps)))

    def sample_volume_m3(self, velocity_m_s: float | None = None) -> float | None:
        """Return the cubic metres of one sample, None where the geometry does not give them.

        Args:
            velocity_m_s: Mean velocity, which turns two-way time into depth.
        """
        if self.bin_area is None:
            return None
        area = self.bin_area * _METRES[self.plane_unit] ** 2
        if self.unit == "ms":
            return None if velocity_m_s is None else area * self.sample_step * velocity_m_s / 2000
        return area * self.sample_step * _METRES.get(self.unit, 1.0)


def _least_squares(
    numbers: NDArray[np.float64], world: NDArray[np.float64]
) -> tuple[NDArray[np.float64], int]:
    """Return the affine map (2, 3) from numbers (N, 2) to places (N, 2), and its rank."""
    middle = numbers.mean(axis=0)
    design = np.column_stack([np.ones(len(numbers)), numbers - middle])
    found, _, rank, _ = np.linalg.lstsq(design, world, rcond=None)
    found[0] -= middle @ found[1:]
    return found.T, int(rank)


def _residuals(
    affine: NDArray[np.float64], numbers: NDArray[np.float64], world: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return how far the traces lie from where the map puts them, (N,)."""
    x, y = (world - affine[:, 0] - numbers @ affine[:, 1:].T).T
    return np.asarray(np.hypot(x, y))


def _is_close(
    affine: NDArray[np.float64],
    numbers: NDArray[np.float64],
    world: NDArray[np.float64],
    steps: NDArray[np.float64],
) -> NDArray[np.bool_]:
    """Return which traces lie no further from the map than the longer side of a bin."""
    bin_side = float(np.hypot(*(affine[:, 1:] * steps)).max())
    close: NDArray[np.bool_] = _residuals(affine, numbers, world) <= bin_side + 1e-6
    return close


def _agreed(numbers: NDArray[np.float64], world: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the map through three traces, of many drawn ones, whose median residual is least.

    Source:
        Rousseeuw 1984, "Least median of squares regression": near half of the traces may be wrong.
    """
    rng = np.random.default_rng(0)
    seen = rng.choice(len(numbers), min(len(numbers), _LOOKED_AT), replace=False)
    maps = [
        _least_squares(numbers[chosen], world[chosen])[0]
        for chosen in rng.choice(seen, (_TRIPLES, 3))
    ]
    return min(maps, key=lambda found: np.median(_residuals(found, numbers[seen], world[seen])))


def _det(affine: NDArray[np.float64]) -> float:
    return float(np.linalg.det(affine[:, 1:]))


def _step(axis: NDArray[np.float64]) -> float:
    """Return the distance of neighbours, which holes in the axis do not change."""
    return float(np.median(np.diff(axis))) if len(axis) > 1 else 1.0


def _is_near(axis: NDArray[np.float64], place: NDArray[np.floating]) -> NDArray[np.bool_]:
    nearest = axis[np.clip(np.rint(place), 0, len(axis) - 1).astype(np.intp)]
    near: NDArray[np.bool_] = np.abs(_along(axis, place) - nearest) <= abs(_step(axis)) * (1 + 1e-6)
    return near


def _place(axis: NDArray[np.float64], values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the fractional indices of values of an axis, the inverse of `_along`."""
    step = _step(axis)
    upward = np.sign(step)
    inside = np.interp(upward * values, upward * axis, np.arange(len(axis)))
    beyond = values - np.clip(values, axis.min(), axis.max())
    return np.asarray(inside + beyond / step, np.float64)


def _along(axis: NDArray[np.float64], place: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return the values of an axis at fractional indices, evenly continued beyond its ends."""
    step = _step(axis)
    inside = np.interp(place, np.arange(len(axis)), axis)
    beyond = place - np.clip(place, 0, len(axis) - 1)
    return np.asarray(inside + beyond * step, np.float64)
