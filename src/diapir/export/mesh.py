"""Surfaces of salt bodies as triangles in world coordinates, and files that hold them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from diapir import __version__
from diapir.export.body import BodyMap, Box
from diapir.export.frame import Frame
from diapir.io.atomic import atomic_write


@dataclass(frozen=True, eq=False)
class Mesh:
    """A closed surface.

    Args:
        name: Such as 'salt_1'.
        vertices: (V, 3) float64 easting, northing, and time or depth, which grows downwards.
        triangles: (T, 3) int64 indices of vertices.
    """

    name: str
    vertices: NDArray[np.float64]
    triangles: NDArray[np.int64]

    @property
    def volume(self) -> float:
        """What the surface encloses, in cubic units of its coordinates (divergence theorem)."""
        corners = (self.vertices - self.vertices.mean(axis=0))[self.triangles]
        a, b, c = corners[:, 0], corners[:, 1], corners[:, 2]
        return float(np.einsum("ij,ij->i", a, np.cross(b, c)).sum() / 6)


def body_meshes(bodies: BodyMap, frame: Frame) -> list[Mesh]:
    """Return the surface of each body where its probability crosses the threshold.

    Bodies that leave the survey are closed at its border, half a sample outside at most. The
    triangles face outwards in a right-handed system of the coordinates as they are written.

    Source:
        Lewiner et al. 2003, "Efficient implementation of marching cubes' cases", as
        `skimage.measure.marching_cubes` has it.
    """
    parts: list[list[tuple[NDArray[np.float64], NDArray[np.int64]]]] = [[] for _ in bodies.bodies]
    margin = np.zeros((1, *bodies.probs.shape[1:]), np.float32)
    last_probs, last_numbers = margin, margin.astype(np.int32)
    for start, slab_probs, slab_numbers in bodies.slabs():
        # the last line of the slab before is taken along, so that no layer of cubes is left out
        probs = np.concatenate([last_probs, slab_probs])
        numbers = np.concatenate([last_numbers, slab_numbers])
        last_probs, last_numbers = slab_probs[-1:], slab_numbers[-1:]
        if start + len(slab_probs) == bodies.probs.shape[0]:
            probs, numbers = (np.concatenate([a, np.zeros_like(a[:1])]) for a in (probs, numbers))
        for k, (body, box) in enumerate(zip(bodies.bodies, bodies.boxes, strict=True)):
            piece = _surface(probs, numbers, body.number, box, start - 1, bodies.threshold)
            if piece is not None:
                parts[k].append(piece)
    return [
        _joined(f"salt_{body.number}", pieces, frame)
        for body, pieces in zip(bodies.bodies, parts, strict=True)
        if pieces
    ]


def _surface(
    probs: NDArray[np.float32],
    numbers: NDArray[np.int32],
    number: int,
    box: Box,
    start: int,
    threshold: float,
) -> tuple[NDArray[np.float64], NDArray[np.int64]] | None:
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
    return vertices.astype(np.float64) + corner, triangles.astype(np.int64)


def _joined(
    name: str, pieces: Sequence[tuple[NDArray[np.float64], NDArray[np.int64]]], frame: Frame
) -> Mesh:
    """Return one mesh of pieces, with the vertices that they share made one."""
    shifts = np.cumsum([0, *(len(vertices) for vertices, _ in pieces)])
    every = np.concatenate([vertices for vertices, _ in pieces])
    triangles = np.concatenate([t + shift for (_, t), shift in zip(pieces, shifts, strict=False)])
    # a ten-thousandth of a sample: single precision leaves about that much
    _, first, place = np.unique(
        np.round(every * 1e4).astype(np.int64), axis=0, return_index=True, return_inverse=True
    )
    triangles = place.ravel()[triangles]
    proper = (triangles != np.roll(triangles, 1, axis=1)).all(axis=1)
    mesh = Mesh(name, frame.to_world(every[first]), triangles[proper])
    if mesh.volume < 0:
        mesh = Mesh(name, mesh.vertices, mesh.triangles[:, ::-1])
    return mesh


def write_tsurf(path: Path, meshes: Sequence[Mesh], frame: Frame) -> None:
    """Write GOCAD TSurf objects, one a body, depth growing downwards (ZPOSITIVE Depth).

    Source:
        GOCAD ASCII file format, "TSurf", "Coordinate system" (paulbourke.net/dataformats/gocad).

    Raises:
        RunError: The file cannot be written.
    """
    plane = "ft" if frame.unit == "ft" else "m"
    with atomic_write(path) as temporary, temporary.open("w", encoding="ascii") as file:
        for mesh in meshes:
            file.write(
                f"GOCAD TSurf 1\nHEADER {{\nname:{mesh.name}\n}}\n"
                "GOCAD_ORIGINAL_COORDINATE_SYSTEM\nNAME Default\n"
                f'AXIS_NAME "X" "Y" "Z"\nAXIS_UNIT "{plane}" "{plane}" "{frame.unit}"\n'
                "ZPOSITIVE Depth\nEND_ORIGINAL_COORDINATE_SYSTEM\nTFACE\n"
            )
            numbered = np.column_stack([np.arange(1, len(mesh.vertices) + 1), mesh.vertices])
            np.savetxt(file, numbered, fmt="VRTX %d %.3f %.3f %.4f")
            np.savetxt(file, mesh.triangles + 1, fmt="TRGL %d %d %d")
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
            np.savetxt(file, mesh.triangles + shift, fmt="f %d %d %d")
            shift += len(mesh.vertices)


def write_vtk(path: Path, meshes: Sequence[Mesh]) -> None:
    """Write one VTK file with the number of the body on every triangle.

    Raises:
        RunError: The file cannot be written.
    """
    import meshio

    shifts = np.cumsum([0, *(len(mesh.vertices) for mesh in meshes)])
    triangles = [m.triangles + shift for m, shift in zip(meshes, shifts, strict=False)]
    numbers = [np.full(len(m.triangles), k, np.int32) for k, m in enumerate(meshes, 1)]
    whole = meshio.Mesh(
        np.concatenate([mesh.vertices for mesh in meshes]),
        [("triangle", np.concatenate(triangles))],
        cell_data={"body": [np.concatenate(numbers)]},
    )
    with atomic_write(path) as temporary:
        meshio.write(temporary, whole, file_format="vtk")
