"""Top and base of the salt, and the files in which interpretation packages take them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from diapir import __version__
from diapir.export.frame import Frame
from diapir.io.atomic import atomic_write

UNDEFINED = 1e30
"""Stands for "no value" in ZMAP+ grids; OpendTect's default as well."""

MOST_NODES = 50_000_000
"""Of a ZMAP+ grid; with more the line numbers or coordinates are hardly those of one survey."""

_NODES_AT_A_TIME = 1_000_000


@dataclass(frozen=True, eq=False)
class Horizon:
    """One surface over a survey.

    Args:
        name: Such as 'top_salt'.
        z: (I, J) float64 time or depth in the unit of the frame, NaN where there is no salt.
        frame: The survey.
    """

    name: str
    z: NDArray[np.float64]
    frame: Frame

    def table(self) -> dict[str, NDArray[np.float64]]:
        """Return the columns inline, crossline, x, y, z of all places that have a value."""
        i, j = np.nonzero(np.isfinite(self.z))
        x, y = self.frame.trace_xy()
        return {
            "inline": self.frame.inline[i],
            "crossline": self.frame.crossline[j],
            "x": x[i, j],
            "y": y[i, j],
            "z": self.z[i, j],
        }


def salt_interval(
    probs: NDArray[np.floating],
    inside: NDArray[np.bool_],
    threshold: float,
    sample: NDArray[np.floating],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return top and base of the salt in each trace, between samples where the probability says so.

    The top lies where the probability, linear between samples, crosses the threshold on the way
    into the first sample inside; the base likewise behind the last one. Salt that touches the first
    or last sample of the trace ends there.

    Args:
        probs: (..., S) probability of salt.
        inside: (..., S) bool, samples of the bodies that count; each exceeds the threshold and
            those next to them in the trace do not.
        threshold: On the probability.
        sample: (S,) time or depth of the samples.

    Returns:
        Two arrays (...) of float64 in the unit of `sample`, NaN where a trace holds no salt.

    >>> probs = np.array([[0.0, 0.2, 0.8, 0.9, 0.1]])
    >>> salt_interval(probs, probs > 0.5, 0.5, np.arange(100.0, 120.0, 4.0))
    (array([106.]), array([114.]))
    """
    count = probs.shape[-1]
    first = inside.argmax(axis=-1)
    last = count - 1 - inside[..., ::-1].argmax(axis=-1)
    top = _crossing(probs, first, first - 1, threshold)
    base = _crossing(probs, last, last + 1, threshold)
    places, salty = np.arange(count), inside.any(axis=-1)
    return (
        np.where(salty, np.interp(top, places, sample), np.nan),
        np.where(salty, np.interp(base, places, sample), np.nan),
    )


def _crossing(
    probs: NDArray[np.floating],
    within: NDArray[np.intp],
    without: NDArray[np.intp],
    threshold: float,
) -> NDArray[np.float64]:
    """Return the fractional sample between `within` and `without` where the threshold is met."""
    inner = np.take_along_axis(probs, within[..., None], axis=-1)[..., 0].astype(np.float64)
    there = np.clip(without, 0, probs.shape[-1] - 1)
    outer = np.take_along_axis(probs, there[..., None], axis=-1)[..., 0].astype(np.float64)
    rise = np.where(inner > outer, inner - outer, 1.0)  # equal only where `without` is no sample
    share = np.clip((inner - threshold) / rise, 0.0, 1.0)
    place: NDArray[np.float64] = within + np.where(there == without, share, 0.0) * (
        without - within
    )
    return place


def write_horizons(
    folder: Path, horizon: Horizon, formats: Sequence[str] | None = None
) -> list[Path]:
    """Write a horizon in every format, each file whole or not at all; return the files.

    Args:
        folder: Takes `NAME.xyz`, `NAME.dat` (OpendTect), `NAME.zmap`, `NAME.csv` and
            `NAME.parquet`.
        horizon: The surface.
        formats: Some of `WRITERS`, none of the others is left there; None: all. A 2-D line has no
            grid, and no lines for OpendTect.

    Raises:
        RunError: A file cannot be written.
    """
    paths = []
    for suffix, write in WRITERS.items():
        path = folder / f"{horizon.name}.{suffix}"
        if formats is None or suffix in formats:
            write(path, horizon)
            paths.append(path)
        else:
            path.unlink(missing_ok=True)  # of an earlier map
    return paths


def write_xyz(path: Path, horizon: Horizon) -> None:
    """Write a line a trace: inline, crossline, X, Y, Z, after a line of names."""
    unit = horizon.frame.unit
    with atomic_write(path) as temporary:
        _save_rows(
            temporary,
            f"# inline crossline x y z_{unit}\n",
            list(horizon.table().values()),
            "%.12g %.12g %.2f %.2f %.4f",
        )


def write_opendtect(path: Path, horizon: Horizon) -> None:
    """Write OpendTect's 3-D horizon ASCII: inline, crossline, Z, parted by tabs, with a header.

    Source:
        OpendTect user documentation 6.6, "Export ASCII 3D horizons", Output Type Inl/Crl with a
        multi-line header. Its import takes seconds, milliseconds, microseconds, metres or feet.
    """
    table, unit = horizon.table(), horizon.frame.unit
    header = (
        f"# Horizon: {horizon.name}\n"
        "# 1: Inline\n# 2: Crossline\n"
        f"# 3: Z ({unit})\n"
        "#-------------------------------------\n"
    )
    columns = [table[name] for name in ("inline", "crossline", "z")]
    with atomic_write(path) as temporary:
        _save_rows(temporary, header, columns, "%d\t%d\t%.4f")


def write_csv(path: Path, horizon: Horizon) -> None:
    """Write a table with columns inline, crossline, x, y and z, the last with its unit."""
    header = f"inline,crossline,x,y,z_{horizon.frame.unit}\n"
    with atomic_write(path) as temporary:
        columns = list(horizon.table().values())
        _save_rows(temporary, header, columns, "%.12g,%.12g,%.2f,%.2f,%.4f")


def write_parquet(path: Path, horizon: Horizon) -> None:
    """Write the same table as Parquet, unrounded."""
    import pyarrow
    import pyarrow.parquet

    table = horizon.table()
    table[f"z_{horizon.frame.unit}"] = table.pop("z")
    with atomic_write(path) as temporary:
        pyarrow.parquet.write_table(pyarrow.table(table), temporary)


def write_zmap(path: Path, horizon: Horizon, *, per_line: int = 5, width: int = 15) -> None:
    """Write a ZMAP+ grid, north up, values by columns from the northwest corner.

    The traces of a survey along the axes are the nodes of the grid; a rotated one is interpolated
    onto nodes as far apart as its closest traces.

    Source:
        Landmark's ZMAP+ ASCII grid as GDAL reads it (drivers/raster/zmap) with its setting
        ZMAP_PIXEL_IS_POINT=TRUE: the header between two lines with '@' holds nodes a line; field
        width, null value, decimals, first column; rows, columns, and the range of X and Y of the
        outer nodes.
    """
    x, y, z = zmap_nodes(horizon)
    header = (
        f"! {horizon.name}, z in {horizon.frame.unit}, written by Diapir {__version__}\n"
        f"@{horizon.name} HEADER, GRID, {per_line}\n"
        f"{width}, {UNDEFINED:.0E}, , 4, 1\n"
        f"{len(y)}, {len(x)}, {x[0]:.4f}, {x[-1]:.4f}, {y[-1]:.4f}, {y[0]:.4f}\n"
        "0.0, 0.0, 0.0\n@\n"
    )
    with atomic_write(path) as temporary, temporary.open("w", encoding="ascii") as file:
        file.write(header)
        for column in z.T:
            fields = [
                f"{value:{width}.4f}" if np.isfinite(value) else f"{'0.1E+31':>{width}}"
                for value in column
            ]
            for start in range(0, len(fields), per_line):
                file.write("".join(fields[start : start + per_line]) + "\n")


class GridPlan(NamedTuple):
    """A north-up grid over a survey: its southwest corner, steps, and nodes each way."""

    west: float
    south: float
    step_x: float
    step_y: float
    columns: int
    rows: int

    @classmethod
    def of(cls, frame: Frame) -> "GridPlan":
        """Return the grid that covers a survey; nothing of its size is made yet."""
        lines, traces = frame.shape[:2]
        corners = frame.to_world(
            np.array([[i, j, 0.0] for i in (0, lines - 1) for j in (0, traces - 1)])
        )[:, :2]
        step_x, step_y = _node_steps(frame)
        (west, south), (east, north) = corners.min(axis=0), corners.max(axis=0)
        # the margin forgives rounded headers: a node must not be lost for a thousandth of a step
        return cls(
            float(west),
            float(south),
            step_x,
            step_y,
            columns=int(np.ceil((east - west) / step_x - 1e-3)) + 1,
            rows=int(np.ceil((north - south) / step_y - 1e-3)) + 1,
        )

    @property
    def nodes(self) -> int:
        """How many nodes it has."""
        return self.columns * self.rows


def zmap_nodes(
    horizon: Horizon,
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Return easting (C,) rising, northing (R,) falling and values (R, C) of a north-up grid.

    Nodes further than a step from both lines beside them, or both traces, have no value (NaN).
    """
    frame = horizon.frame
    plan = GridPlan.of(frame)
    x = plan.west + plan.step_x * np.arange(plan.columns, dtype=np.float64)
    y = (plan.south + plan.step_y * np.arange(plan.rows, dtype=np.float64))[::-1]
    z = np.empty((plan.rows, plan.columns))
    count = max(1, _NODES_AT_A_TIME // plan.rows)
    for start in range(0, plan.columns, count):
        part = slice(start, start + count)
        i, j = frame.to_indices(*np.meshgrid(x[part], y))
        z[:, part] = np.where(frame.is_near(i, j), _bilinear(horizon.z, i, j), np.nan)
    return x, y, z


def _node_steps(frame: Frame) -> tuple[float, float]:
    steps = np.abs(frame.steps)
    # along the axes: each row has one entry that is not next to nothing
    if (steps.min(axis=1) < 1e-3 * steps.max(axis=1)).all():
        return float(steps[:, 0].max()), float(steps[:, 1].max())
    shortest = float(np.hypot(steps[:, 0], steps[:, 1]).min())
    return shortest, shortest


def _bilinear(
    values: NDArray[np.float64], i: NDArray[np.float64], j: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return values at fractional places; NaN where less than half the weight has a value."""
    low_i, low_j = np.floor(i + 1e-6).astype(np.intp), np.floor(j + 1e-6).astype(np.intp)
    total, weights = np.zeros(i.shape), np.zeros(i.shape)
    for di in (0, 1):
        for dj in (0, 1):
            at_i, at_j = low_i + di, low_j + dj
            there = (at_i >= 0) & (at_i < values.shape[0]) & (at_j >= 0) & (at_j < values.shape[1])
            weight = np.clip(1 - np.abs(i - at_i), 0, 1) * np.clip(1 - np.abs(j - at_j), 0, 1)
            value = np.full(i.shape, np.nan)
            value[there] = values[at_i[there], at_j[there]]
            known = np.isfinite(value)
            total[known] += (weight * value)[known]
            weights[known] += weight[known]
    return np.where(weights >= 0.5 - 1e-6, total / np.maximum(weights, 1e-9), np.nan)


def _save_rows(path: Path, header: str, columns: list[NDArray[np.float64]], template: str) -> None:
    with path.open("w", encoding="ascii", newline="\n") as file:
        file.write(header)
        np.savetxt(file, np.column_stack(columns), fmt=template)


WRITERS: dict[str, Callable[[Path, Horizon], None]] = {
    "xyz": write_xyz,
    "dat": write_opendtect,
    "zmap": write_zmap,
    "csv": write_csv,
    "parquet": write_parquet,
}
"""The writer of each format by the suffix of its files."""
