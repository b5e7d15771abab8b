"""From a probability volume to what an interpreter takes away: horizons, bodies, meshes, SEG-Y."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from diapir.export.frame import Frame
from diapir.export.horizon import (
    MOST_NODES,
    WRITERS,
    GridPlan,
    Horizon,
    salt_interval,
    write_horizons,
)
from diapir.export.mesh import Mesh, body_meshes, write_obj, write_tsurf, write_vtk
from diapir.export.salt_bodies import BodyMap, find_salt_bodies, write_bodies_csv

if TYPE_CHECKING:
    import xarray as xr


@dataclass(frozen=True, eq=False)
class Products:
    """What was made of a probability volume.

    Args:
        frame: Of the survey; a 2-D line counts as the only line of one.
        bodies: The salt bodies that were kept.
        top: Top salt.
        base: Base salt.
        meshes: Surfaces of the bodies; none for a single line.
        files: All files that were written.
        news: What is odd about the survey's lines and coordinates, in words.
    """

    frame: Frame
    bodies: BodyMap
    top: Horizon
    base: Horizon
    meshes: tuple[Mesh, ...]
    files: tuple[Path, ...]
    news: tuple[str, ...] = ()


def frame_of(survey: "xr.Dataset") -> Frame:
    """Return the frame of a volume, or of a 2-D line as a survey of one line."""
    if "inline" in survey["amplitude"].dims:
        return Frame.from_volume(survey)
    line = survey.expand_dims(inline=[0]).rename(trace="crossline")
    return Frame.from_volume(line)


class AsVolume:
    """A 2-D line's array (T, S) with a first axis of one line, for whoever works on volumes."""

    def __init__(self, array: Any) -> None:
        self._array = array
        self.shape = (1, *array.shape)

    def __getitem__(self, lines: slice) -> NDArray[Any]:
        """Return the line, if it is among those asked for."""
        return np.asarray(self._array[...])[None][lines]


def write_products(
    probs: Any,
    survey: "xr.Dataset",
    threshold: float,
    out: Path,
    *,
    min_samples: int | None = None,
    max_bodies: int = 20,
    velocity_m_s: float | None = None,
) -> Products:
    """Write horizons, bodies and meshes of a probability volume into a folder.

    Args:
        probs: (I, J, S) or (T, S) array that gives NumPy arrays when sliced.
        survey: Its dataset, for the coordinates.
        threshold: A sample is salt where its probability is greater.
        out: Takes `horizons/`, `bodies.csv`, `bodies.ts`, `bodies.obj` and `bodies.vtk`.
        min_samples: Smaller bodies are dropped; None: a hundred-thousandth of the survey, 100 at
            least.
        max_bodies: At most so many are kept, the largest; horizons are those of the kept ones.
        velocity_m_s: Mean velocity for volumes in cubic metres where the survey is in time.

    Raises:
        RunError: A file cannot be written.
    """
    frame = frame_of(survey)
    cube = AsVolume(probs) if len(probs.shape) == 2 else probs
    if min_samples is None:
        min_samples = min(max(100, int(np.prod(cube.shape)) // 100_000), 1_000_000)
    bodies = find_salt_bodies(
        cube,
        threshold,
        frame,
        min_samples=min_samples,
        max_bodies=max_bodies,
        velocity_m_s=velocity_m_s,
    )
    top, base = find_horizons(bodies, frame)
    formats = _horizon_formats(len(probs.shape) == 2, frame)
    files = [
        path
        for horizon in (top, base)
        for path in write_horizons(out / "horizons", horizon, formats)
    ]
    write_bodies_csv(out / "bodies.csv", bodies.bodies, frame.unit)
    files.append(out / "bodies.csv")
    meshes = [] if frame.is_flat else body_meshes(bodies, frame)
    if meshes:
        files += _write_meshes(out, meshes, frame)
    else:
        for path in _mesh_paths(out):  # of an earlier map with other settings
            path.unlink(missing_ok=True)
    return Products(frame, bodies, top, base, tuple(meshes), tuple(files), _odd(frame))


def _horizon_formats(is_line: bool, frame: Frame) -> list[str]:
    """Return the formats that can hold a horizon: a grid has two directions, and so on."""
    without = {"dat", "zmap"} if is_line else set()
    if frame.is_flat or _is_vast(frame):
        without.add("zmap")
    return [suffix for suffix in WRITERS if suffix not in without]


def _is_vast(frame: Frame) -> bool:
    return not frame.is_flat and GridPlan.of(frame).nodes > MOST_NODES


def _odd(frame: Frame) -> tuple[str, ...]:
    """Return what is odd about a survey's lines and coordinates, in words."""
    odd = []
    if frame.astray:
        odd.append(
            f"{frame.astray:,} of {int(frame.live.sum()):,} traces lie further than a bin from "
            "where their line numbers put them: areas, volumes and surfaces follow the numbers; "
            "check the bytes of numbers and coordinates with 'diapir doctor'"
        )
    if _is_vast(frame):
        odd.append(_without_grid(frame))
    return tuple(odd)


def _without_grid(frame: Frame) -> str:
    numbers = " and ".join(
        f"{name}s {axis.min():.12g} to {axis.max():.12g}"
        for name, axis in (("inline", frame.inline), ("crossline", frame.crossline))
    )
    return (
        f"no ZMAP+ grid is written: it would have {GridPlan.of(frame).nodes:,} nodes, more than "
        f"{MOST_NODES:,}, over {numbers}, as with a stray line number, which 'diapir doctor' "
        "shows, or a long and narrow survey that lies askew"
    )


def find_horizons(bodies: BodyMap, frame: Frame) -> tuple[Horizon, Horizon]:
    """Return top and base of the kept bodies in every trace."""
    top, base = np.full((2, *frame.shape[:2]), np.nan)
    for start, probs, numbers in bodies.slabs():
        lines = slice(start, start + len(probs))
        top[lines], base[lines] = salt_interval(probs, numbers > 0, bodies.threshold, frame.sample)
        del probs, numbers  # before the next slab is there
    return Horizon("top_salt", top, frame), Horizon("base_salt", base, frame)


def _mesh_paths(out: Path) -> list[Path]:
    return [out / f"bodies.{suffix}" for suffix in ("ts", "obj", "vtk")]


def _write_meshes(out: Path, meshes: list[Mesh], frame: Frame) -> list[Path]:
    paths = _mesh_paths(out)
    write_tsurf(paths[0], meshes, frame)
    write_obj(paths[1], meshes)
    write_vtk(paths[2], meshes)
    return paths
