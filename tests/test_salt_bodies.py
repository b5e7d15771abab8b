import csv
import re
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diapir.export.frame import Frame
from diapir.export.mesh import body_meshes, write_obj, write_tsurf, write_vtk
from diapir.export.salt_bodies import find_salt_bodies, write_bodies_csv


def ball(shape, centre, radius, softness=2.0):
    """Probabilities that fall from 1 to 0 across the surface of a ball, 0.5 on it."""
    axes = np.meshgrid(*(np.arange(n) for n in shape), indexing="ij")
    distance = np.sqrt(sum((a - c) ** 2 for a, c in zip(axes, centre, strict=True)))
    return np.clip(0.5 + (radius - distance) / softness, 0, 1).astype(np.float32)


def index_frame(shape):
    """World coordinates that are the indices: x the trace, y the line."""
    i, j = np.meshgrid(np.arange(shape[0]), np.arange(shape[1]), indexing="ij")
    axes = (np.arange(float(n)) for n in shape)
    return Frame(*axes, "m", j * 1.0, i * 1.0, np.ones(shape[:2], bool))


def read_tsurf(path):
    """A reader of our own: objects by name, vertices by their own numbers."""
    found = {}
    for part in path.read_text().split("GOCAD TSurf 1\n")[1:]:
        assert part.rstrip().endswith("END")
        vertices = {int(n): tuple(map(float, xyz.split())) for n, xyz in
                    re.findall(r"^VRTX (\d+) (.*)$", part, re.M)}  # fmt: skip
        faces = [tuple(map(int, abc.split())) for abc in re.findall(r"^TRGL (.*)$", part, re.M)]
        name = re.search(r"^name:(.*)$", part, re.M)[1]
        assert re.search(r"^ZPOSITIVE Depth$", part, re.M)
        found[name] = np.array([[vertices[n] for n in face] for face in faces])
    return found


def enclosed(corners):
    """Volume inside triangles (T, 3, 3), positive where they face outwards."""
    corners = corners - corners.mean(axis=(0, 1))
    return np.linalg.det(corners).sum() / 6


def edges_of(mesh):
    """How often each directed edge occurs."""
    found = {}
    for a, b in [(0, 1), (1, 2), (2, 0)]:
        for edge in mesh.triangles[:, [a, b]].tolist():
            found[tuple(edge)] = found.get(tuple(edge), 0) + 1
    return found


@pytest.fixture
def two_balls():
    shape = (39, 35, 45)
    return np.maximum(ball(shape, (12.3, 13.6, 14.2), 10.6), ball(shape, (28.4, 24.3, 33.7), 8.2))


@given(seed=st.integers(0, 2**32 - 1), lines=st.integers(1, 9))
@settings(max_examples=40, deadline=None)
def test_slabs_do_not_matter(seed, lines):
    from scipy import ndimage

    rng = np.random.default_rng(seed)
    probs = rng.random((9, 6, 7)).astype(np.float32)
    frame = index_frame(probs.shape)
    found = find_salt_bodies(probs, 0.85, frame, slab_lines=lines)
    whole = find_salt_bodies(probs, 0.85, frame, slab_lines=9)
    numbers = np.concatenate([slab.numbers for slab in found.slabs()])
    assert np.array_equal(numbers > 0, probs > 0.85)
    _, count = ndimage.label(probs > 0.85, np.ones((3, 3, 3)))
    assert len(found.bodies) == count
    sizes = np.bincount(numbers.ravel())[1:]
    assert [body.samples for body in found.bodies] == sizes.tolist()
    assert sorted(sizes, reverse=True) == sizes.tolist()
    assert [b.samples for b in found.bodies] == [b.samples for b in whole.bodies]
    for body, box in zip(found.bodies, found.boxes, strict=True):
        places = np.argwhere(numbers == body.number)
        assert np.array_equal(places.min(axis=0), [first for first, _ in box])
        assert np.array_equal(places.max(axis=0) + 1, [behind for _, behind in box])
        mean = probs[numbers == body.number].mean()
        assert np.isclose(body.mean_prob, mean)


def test_a_body_is_described_in_the_survey_s_numbers(make_frame):
    frame = make_frame((5, 7, 9))
    probs = np.zeros(frame.shape, np.float32)
    probs[1:4, 2:6, 3:5] = 0.8
    (body,) = find_salt_bodies(probs, 0.5, frame).bodies
    assert (body.inline, body.crossline, body.z) == ((101, 103), (304, 310), (212, 216))
    assert body.samples == 24
    assert np.isclose(body.volume_m3, 24 * 25 * 12.5 * 4)
    assert np.isclose(body.mean_prob, 0.8)


def test_small_bodies_and_more_than_wanted_are_dropped(two_balls):
    frame = index_frame(two_balls.shape)
    two_balls[0, 0, 0] = 1
    assert len(find_salt_bodies(two_balls, 0.5, frame).bodies) == 3
    assert len(find_salt_bodies(two_balls, 0.5, frame, min_samples=2).bodies) == 2
    kept = find_salt_bodies(two_balls, 0.5, frame, max_bodies=1)
    assert (len(kept.bodies), kept.dropped) == (1, 2)
    assert {n for slab in kept.slabs() for n in np.unique(slab.numbers)} == {0, 1}


def test_no_salt_no_bodies():
    probs = np.zeros((4, 5, 6), np.float32)
    found = find_salt_bodies(probs, 0.5, index_frame(probs.shape))
    assert found.bodies == ()
    assert body_meshes(found, index_frame(probs.shape)) == []


def test_the_table_of_bodies(tmp_path, two_balls, make_frame):
    bodies = find_salt_bodies(two_balls, 0.5, make_frame(two_balls.shape, unit="ms")).bodies
    write_bodies_csv(tmp_path / "bodies.csv", bodies, "ms")
    rows = list(csv.DictReader((tmp_path / "bodies.csv").open()))
    assert [int(row["samples"]) for row in rows] == [body.samples for body in bodies]
    assert rows[0]["volume_m3"] == ""  # time alone gives no volume
    assert float(rows[1]["last_z_ms"]) == bodies[1].z[1]


@pytest.mark.parametrize("lines", [3, 7, 39])
@pytest.mark.parametrize("binary", [False, True])
def test_a_mesh_encloses_what_the_samples_fill(two_balls, lines, binary):
    probs = (two_balls > 0.5).astype(np.float32) if binary else two_balls
    frame = index_frame(probs.shape)
    found = find_salt_bodies(probs, 0.5, frame, slab_lines=lines)
    meshes = body_meshes(found, frame)
    assert [mesh.name for mesh in meshes] == ["salt_1", "salt_2"]
    for mesh, body in zip(meshes, found.bodies, strict=True):
        assert abs(mesh.volume / body.samples - 1) < 0.02
        edges = edges_of(mesh)
        # closed and of one sense: each edge is gone along once in either direction
        assert all(edges.get((b, a)) == n for (a, b), n in edges.items())


def test_a_mesh_of_a_body_at_the_border_is_closed():
    probs = ball((16, 16, 16), (0, 16, 8), 9)
    frame = index_frame(probs.shape)
    found = find_salt_bodies(probs, 0.5, frame, slab_lines=5)
    (mesh,) = body_meshes(found, frame)
    edges = edges_of(mesh)
    assert all(edges.get((b, a)) == n for (a, b), n in edges.items())
    assert mesh.vertices.min() >= -0.5
    assert mesh.vertices.max() <= 15.5 + 1e-9


def test_slabs_do_not_change_a_mesh():
    probs = np.random.default_rng(1).random((23, 9, 11)).astype(np.float32)
    frame = index_frame(probs.shape)
    found = [
        body_meshes(find_salt_bodies(probs, 0.6, frame, slab_lines=n), frame) for n in (23, 7, 1)
    ]
    for meshes in zip(*found, strict=True):
        whole, *cut = meshes
        for mesh in cut:
            assert np.allclose(mesh.vertices, whole.vertices, atol=1e-3)
            assert len(mesh.triangles) == len(whole.triangles)
            assert mesh.volume == pytest.approx(whole.volume, rel=1e-6)


def test_memory_of_a_mesh_is_that_of_a_slab_and_of_its_own_numbers():
    probs = np.random.default_rng(0).random((320, 12, 12)).astype(np.float32)
    frame = index_frame(probs.shape)
    bodies = find_salt_bodies(probs, 0.4, frame, slab_lines=8, max_bodies=1)
    body_meshes(bodies, frame)  # loads what is loaded once
    tracemalloc.start()
    (mesh,) = body_meshes(bodies, frame)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    own = mesh.vertices.nbytes + mesh.triangles.nbytes
    assert own > 3e6
    assert peak < 4 * own  # in slabs and in one piece, and a slab


def test_a_mesh_lies_in_the_world(make_frame):
    frame = make_frame((30, 30, 30), angle=33)
    probs = ball(frame.shape, (14.3, 15.4, 14.2), 11.3)
    found = find_salt_bodies(probs, 0.5, frame)
    (mesh,) = body_meshes(found, frame)
    assert np.isclose(mesh.volume, found.bodies[0].volume_m3, rtol=0.02)
    assert np.allclose(mesh.vertices.mean(axis=0), frame.to_world([[14.3, 15.4, 14.2]]), atol=1)
    middle = frame.to_world(np.array([[14.3, 15.4, 14.2 - 11.3]]))[0]
    assert (
        np.abs(mesh.vertices - middle).max(axis=1).min() < 12
    )  # the crest: no vertex is further than half a bin


def test_tsurf_reads_back(tmp_path, two_balls, make_frame):
    frame = make_frame(two_balls.shape, angle=200)
    found = find_salt_bodies(two_balls, 0.5, frame)
    meshes = body_meshes(found, frame)
    write_tsurf(tmp_path / "bodies.ts", meshes, frame)
    read = read_tsurf(tmp_path / "bodies.ts")
    assert list(read) == ["salt_1", "salt_2"]
    for mesh, body in zip(meshes, found.bodies, strict=True):
        corners = read[mesh.name]
        assert np.allclose(corners, mesh.vertices[mesh.triangles], atol=1e-3)
        assert abs(enclosed(corners) / body.volume_m3 - 1) < 0.02


def test_obj_and_vtk_read_back(tmp_path, two_balls):
    import meshio

    frame = index_frame(two_balls.shape)
    meshes = body_meshes(find_salt_bodies(two_balls, 0.5, frame), frame)
    write_obj(tmp_path / "bodies.obj", meshes)
    write_vtk(tmp_path / "bodies.vtk", meshes)
    vtk = meshio.read(tmp_path / "bodies.vtk")
    number = vtk.cell_data["body"][0]
    vertices, faces, names = [], [], []
    for line in (tmp_path / "bodies.obj").read_text().splitlines():
        kind, *rest = line.split()
        if kind == "v":
            vertices.append(list(map(float, rest)))
        elif kind == "f":
            faces.append([*map(int, rest), len(names)])
        elif kind == "o":
            names.append(rest[0])
    faces = np.array(faces)
    assert names == ["salt_1", "salt_2"]
    for k, mesh in enumerate(meshes, 1):
        corners = mesh.vertices[mesh.triangles]
        assert np.allclose(vtk.points[vtk.cells[0].data[number == k]], corners)
        own = faces[faces[:, 3] == k][:, :3] - 1
        assert np.allclose(np.array(vertices)[own], corners, atol=1e-3)
