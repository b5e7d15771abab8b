"""Surfaces of salt bodies as triangles in world coordinates, and files that hold them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from diapir import __version__
from diapir.export.frame import Frame
from diapir.export.salt_bodies import BodyMap, Box
from diapir.io.atomic import atomic_write

_WELD = 10_000  # vertices closer than a 1/_WELD sample are one: single precision leaves about that
_PORTION = 10_000  # rows


@dataclass(frozen=True, eq=False)
class Mesh:
    """A closed surface.

    Args:
        name: Such as 'salt_1'.
        vertices: (V, 3) float64 easting, northing, and time or depth, which grows downwards.
        triangles: (T, 3) int32 indices of vertices.
    """

    name: str
    vertices: NDArray[np.float64]
    triangles: NDArray[np.int32]

    @property
    def volume(self) -> float:
        """What the surface encloses, in cubic units of its coordinates (divergence theorem)."""
        middle, found = self.vertices.mean(axis=0), 0.0
        for rows in _portions(len(self.triangles)):
            corners = self.vertices[self.triangles[rows]] - middle
            a, b, c = corners[:, 0], corners[:, 1], corners[:, 2]
            found += float(np.einsum("ij,ij->i", a, np.cross(b, c)).sum()) / 6
        return found


def _portions(count: int) -> Iterator[slice]:
    """Yield the rows of a table a portion at a time, so that what is made of them stays small."""
    for start in range(0, count, _PORTION):
        yield slice(start, start + _PORTION)


class _Surface:
    """The surface of one body, which grows slab by slab; vertices that slabs share are one.

    It takes 24 bytes a vertex and 12 a triangle; the rest is of the size of a slab.
    """

    def __init__(self) -> None:
        self._vertices: list[NDArray[np.float64]] = []
        self._triangles: list[NDArray[np.int32]] = []
        self._count = 0
        self._border, self._border_numbers = np.empty((0, 3)), np.empty(0, np.int32)

    def grow(
        self,
        vertices: NDArray[np.float64],
        triangles: NDArray[np.intp],
        last_line: int,
        frame: Frame,
    ) -> None:
        """Take in the part of the next slab.

        Args:
            vertices: (V, 3) fractional indices of the survey.
            triangles: (T, 3) indices of these.
            last_line: Index of the line that this slab shares with the next one.
            frame: Of the survey.
        """
        shared = len(self._border)
        every = np.concatenate([self._border, vertices])
        keys = np.round(every * _WELD).astype(np.int64)
        _, first, place = np.unique(keys, axis=0, return_index=True, return_inverse=True)
        fresh = first >= shared
        numbers = np.empty(len(first), np.int32)
        numbers[~fresh] = self._border_numbers[first[~fresh]]
        numbers[fresh] = self._count + np.arange(np.count_nonzero(fresh), dtype=np.int32)
        welded = numbers[place.ravel()[triangles + shared]]
        proper = (welded != np.roll(welded, 1, axis=1)).all(axis=1)
        self._vertices.append(frame.to_world(every[first[fresh]]))
        self._triangles.append(welded[proper])
        self._count += len(self._vertices[-1])
        at_border = keys[first, 0] == round(last_line * _WELD)
        self._border, self._border_numbers = every[first[at_border]], numbers[at_border]

    def closed(self, name: str) -> Mesh | None:
        """Return the mesh, facing outwards; None where there is no surface."""
        if not self._count:
            return None
        vertices = np.concatenate(self._vertices)
        self._vertices.clear()
        mesh = Mesh(name, vertices, np.concatenate(self._triangles))
        if mesh.volume < 0:
            return Mesh(name, mesh.vertices, mesh.triangles[:, ::-1])
        return mesh


def body_meshes(bodies: BodyMap, frame: Frame) -> list[Mesh]:
    """Return the surface of each body where its probability crosses the threshold.

    Bodies that leave the survey are closed at its border, half a sample outside at most. The
    triangles face outwards in a right-handed system of the coordinates as they are written.

    Source:
        Lewiner et al. 2003, "Efficient implementation of marching cubes' cases", as
        `skimage.measure.marching_cubes` has it.
    """
    surfaces = [_Surface() for _ in bodies.bodies]
    margin = np.zeros((1, *bodies.probs.shape[1:]), np.float32)
    last_probs, last_numbers = margin, margin.astype(np.int32)
    for start, slab_probs, slab_numbers in bodies.slabs():
        # the last line of the slab before is taken along, so that no layer of cubes is left out
        probs = np.concatenate([last_probs, slab_probs])
        numbers = np.concatenate([last_numbers, slab_numbers])
        last_probs, last_numbers = slab_probs[-1:].copy(), slab_numbers[-1:].copy()
        last_line = start + len(slab_probs) - 1
        del slab_probs, slab_numbers  # never two slabs at a time
        if last_line == bodies.probs.shape[0] - 1:
            probs, numbers = (np.concatenate([a, np.zeros_like(a[:1])]) for a in (probs, numbers))
        for surface, body, box in zip(surfaces, bodies.bodies, bodies.boxes, strict=True):
            piece = _march(probs, numbers, body.number, box, start - 1, bodies.threshold)
            if piece is not None:
                surface.grow(*piece, last_line, frame)
        del probs, numbers
    meshes = []
    for body in reversed(bodies.bodies):  # from the last on: what is joined is let go
        mesh = surfaces.pop().closed(f"salt_{body.number}")
        meshes += [] if mesh is None else [mesh]
    return meshes[::-1]


def _march(
    probs: NDArray[np.float32],
    numbers: NDArray[np.int32],
    number: int,
    box: Box,
    start: int,
    threshold: float,
) -> tuple[NDArray[np.float64], NDArray[np.intp]] | None:
    """Return the surface of a body within some lines, vertices as indices of the survey."""
    from skimage.measure import marching_cubes

    # the box is that of the whole body: so vertices on a line that two slabs share are equal
    low = max(box.inline[0] - 1 - start, 0)
    high = min(box.inline[1] + 1 - start, len(probs))
    if high - low < 2:
        return None
    cut = (slice(low, high), *(slice(max(a - 1, 0), b + 1) for a, b in box[1:]))
    own = numbers[cut] == number
    # other bodies count as no salt; samples below the threshold stay, the surface lies in them
    field = np.where(own | (probs[cut] <= threshold), probs[cut], np.float32(0))
    edges = [(0, 0)]
    for (first, behind), count in zip(box[1:], probs.shape[1:], strict=True):
        edges.append((int(first == 0), int(behind == count)))
    field = np.pad(field, edges)
    if not own.any() or not field.min() < threshold:
        return None
    vertices, triangles, _, _ = marching_cubes(field, threshold, allow_degenerate=False)
    corner = [low + start, *(a - 1 for a, _ in box[1:])]
    return vertices.astype(np.float64) + corner, triangles.astype(np.intp)


def write_tsurf(path: Path, meshes: Sequence[Mesh], frame: Frame) -> None:
    """Write GOCAD TSurf objects, one a body, depth growing downwards (ZPOSITIVE Depth).

    Source:
        GOCAD ASCII file format, "TSurf", "Coordinate system" (paulbourke.net/dataformats/gocad).

    Raises:
        RunError: The file cannot be written.
    """
    plane = frame.plane_unit
    with atomic_write(path) as temporary, temporary.open("w", encoding="ascii") as file:
        for mesh in meshes:
            file.write(
                f"GOCAD TSurf 1\nHEADER {{\nname:{mesh.name}\n}}\n"
                "GOCAD_ORIGINAL_COORDINATE_SYSTEM\nNAME Default\n"
                f'AXIS_NAME "X" "Y" "Z"\nAXIS_UNIT "{plane}" "{plane}" "{frame.unit}"\n'
                "ZPOSITIVE Depth\nEND_ORIGINAL_COORDINATE_SYSTEM\nTFACE\n"
            )
            numbers = np.arange(1, len(mesh.vertices) + 1)
            for rows in _portions(len(numbers)):
                numbered = np.column_stack([numbers[rows], mesh.vertices[rows]])
                np.savetxt(file, numbered, fmt="VRTX %d %.3f %.3f %.4f")
            for rows in _portions(len(mesh.triangles)):
                np.savetxt(file, mesh.triangles[rows] + 1, fmt="TRGL %d %d %d")
            file.write("END\n")


def write_obj(path: Path, meshes: Sequence[Mesh]) -> None:
    """Write Wavefront OBJ, an object a body.

    Raises:
        RunError: The file cannot be written.
    """
    shift = 1
    with atomic_write(path) as temporary, temporary.open("w", encoding="ascii") as file:
        file.write(f"# written by Diapir {__version__}: x, y, and depth or time downwards\n")
        for mesh in meshes:
            file.write(f"o {mesh.name}\n")
            np.savetxt(file, mesh.vertices, fmt="v %.3f %.3f %.4f")
            for rows in _portions(len(mesh.triangles)):
                np.savetxt(file, mesh.triangles[rows] + shift, fmt="f %d %d %d")
            shift += len(mesh.vertices)


def write_vtk(path: Path, meshes: Sequence[Mesh]) -> None:
    """Write one VTK file with the number of the body on every triangle.

    Raises:
        RunError: The file cannot be written.
    """
    import meshio

    shifts = np.cumsum([0, *(len(mesh.vertices) for mesh in meshes)])
    triangles = [m.triangles + np.int32(shift) for m, shift in zip(meshes, shifts, strict=False)]
    numbers = [np.full(len(m.triangles), k, np.int32) for k, m in enumerate(meshes, 1)]
    whole = meshio.Mesh(
        np.concatenate([mesh.vertices for mesh in meshes]),
        [("triangle", np.concatenate(triangles))],
        cell_data={"body": [np.concatenate(numbers)]},
    )
    with atomic_write(path) as temporary:
        meshio.write(temporary, whole, file_format="vtk")
