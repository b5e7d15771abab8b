"""Proofs on what a map writes: bytes, horizons, meshes, files; a part of volume.py."""

import argparse
import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[1]
_LEAST_BODY = 1000  # samples; the surface of a smaller one is mostly corners
_SEEDS = (1, 2, 3)


def map_plainly(source: Path, out: Path) -> Any:
    """Map grey values with the identity in place of a network."""
    from diapir.inference.schedule import Workers
    from diapir.inference.sections import IdentityModel, SectionSettings, Tiling
    from diapir.runs.map import map_survey
    from diapir.runs.map_result import MapSettings

    sections = SectionSettings(normalise=False, tiling=Tiling(64, 16))
    settings = MapSettings(sections, threshold=0.5, min_samples=100)
    return map_survey(
        source, out, [], settings,
        workers=Workers(1), progress=False, load_model=IdentityModel,
    )  # fmt: skip


def prove_bytes(folder: Path, given: argparse.Namespace) -> list[tuple[str, str, str, bool]]:
    """Compare probability and mask SEG-Y with the input byte for byte."""
    from diapir.data.survey import SurveyPlan, generate_survey, write_survey
    from diapir.io.segy_format import FORMATS

    made = generate_survey(SurveyPlan((12, 36, 40), seed=3, start=100.0, gaps=0.1, dead=0.05))
    sources = []
    for code in FORMATS:
        for order in ("big", "little"):
            sources.append(folder / f"format-{code}-{order}.sgy")
            write_survey(made, sources[-1], code=code, byte_order=order)
    own = len(sources)
    if given.segy is not None:
        sources += sorted(given.segy.glob("*.sgy"))
    odd, others, files = 0, 0, 0
    for number, source in enumerate(sources):
        headers = changed_headers(source, folder / f"{source.stem}-{number}")
        if headers is None:
            continue
        files += 1
        others += number >= own
        odd += headers
    return [
        ("bytes outside the samples that differ from the input, in probability and mask",
         f"{odd} in {files} surveys: {len(FORMATS)} formats in two byte orders"
         + (f", and {others} files that others wrote" if others else ""), "0",
         odd == 0 and files >= own),
    ]  # fmt: skip


def changed_headers(source: Path, out: Path) -> int | None:
    """Return how many bytes outside the samples are others; None: it is no post-stack file."""
    from diapir.errors import DataError
    from diapir.export.segy_mask import write_salt_segy
    from diapir.io.opening import open_volume
    from diapir.io.segy_layout import open_file

    try:
        survey = open_volume(source)
    except DataError:
        return None
    shape = survey["amplitude"].shape
    probs = np.random.default_rng(0).random(shape, np.float32)
    arrays = {"probability": probs, "mask": (probs > 0.5).astype(np.uint8)}
    write_salt_segy(survey.attrs["segy"], survey.attrs["fingerprint"], arrays, out)
    file = open_file(source)
    whole = np.frombuffer(source.read_bytes(), np.uint8)
    count = 0
    for name in ("probability", "mask"):
        copy = np.frombuffer((out / f"{name}.sgy").read_bytes(), np.uint8)
        assert copy.shape == whole.shape
        at = np.flatnonzero(copy != whole) - file.data_start
        inside = (at >= 0) & (at % file.trace_bytes >= file.header_bytes)
        count += int((~inside).sum())
        count += int((at >= file.traces * file.trace_bytes).sum())
    return count


def prove_identity(folder: Path, _: argparse.Namespace) -> list[tuple[str, str, str, bool]]:
    """Map noise with the identity, and compare."""
    import zarr

    grey = np.random.default_rng(0).integers(0, 256, (40, 70, 90)).astype(np.uint8)
    np.save(folder / "noise.npy", grey)
    result = map_plainly(folder / "noise.npy", folder / "identity")
    store: Any = zarr.open_group(result.store, mode="r")
    error = float(np.abs(store["probability"][...] - grey / 255).max())
    apart = float(np.abs(store["disagreement"][...]).max())
    return [
        ("the identity in place of a network, largest error", f"{error:.1e}", "at most 1e-6",
         error <= 1e-6),
        ("disagreement of inlines and crosslines with the identity", f"{apart:.1e}",
         "at most 1e-6", apart <= 1e-6),
    ]  # fmt: skip


def perfect_maps() -> Iterator[tuple[Any, Any, Any, Any]]:
    """Yield synthetic surveys with frame, bodies and horizons of their own truth."""
    from diapir.data.survey import SurveyPlan, generate_survey
    from diapir.export.frame import Frame
    from diapir.export.salt_bodies import find_salt_bodies
    from diapir.runs.products import find_horizons

    for seed in _SEEDS:
        made = generate_survey(SurveyPlan((72, 80, 100), seed=seed, azimuth=25.0, start=200.0))
        frame = Frame.from_volume(made.volume())
        bodies = find_salt_bodies(made.salt.astype(np.float32), 0.5, frame, velocity_m_s=2500.0)
        yield made, frame, bodies, find_horizons(bodies, frame)


def prove_top(_folder: Path, _: argparse.Namespace) -> list[tuple[str, str, str, bool]]:
    """Compare the horizons of a perfect mask with the truth."""
    worst = {"top": 0.0, "base": 0.0}
    traces = 0
    for made, frame, _bodies, (top, base) in perfect_maps():
        salty = made.salt.any(axis=-1)
        first = frame.sample[made.salt.argmax(axis=-1)]
        last = frame.sample[::-1][made.salt[..., ::-1].argmax(axis=-1)]
        for name, horizon, truth in (("top", top, first), ("base", base, last)):
            assert np.array_equal(np.isfinite(horizon.z), salty)
            away = np.abs(horizon.z - truth)[salty] / frame.sample_step
            worst[name] = max(worst[name], float(away.max()))
        traces += int(salty.sum())
    return [
        (f"{name} salt of a perfect mask, largest distance from the truth",
         f"{value:.2f} samples, on {traces:,} traces of {len(_SEEDS)} surveys",
         "at most 1 sample", value <= 1)
        for name, value in worst.items()
    ]  # fmt: skip


def prove_mesh(_folder: Path, _: argparse.Namespace) -> list[tuple[str, str, str, bool]]:
    """Compare the volume of meshes with the number of samples of their bodies."""
    from diapir.export.frame import Frame
    from diapir.export.mesh import body_meshes
    from diapir.export.salt_bodies import find_salt_bodies

    found = [(frame, bodies) for _, frame, bodies, _ in perfect_maps()]
    axes = np.meshgrid(*(np.arange(48.0) for _ in range(3)), indexing="ij")
    i, j = axes[0][..., 0], axes[1][..., 0]
    frame = Frame(*(np.arange(48.0) for _ in range(3)), "m", 20.0 * j, 15.0 * i, i >= 0)
    distance = np.sqrt(sum((a - 23.3) ** 2 for a in axes))
    for softness in (1e-3, 3.0):
        probs = np.clip(0.5 + (15.2 - distance) / softness, 0, 1).astype(np.float32)
        found.append((frame, find_salt_bodies(probs, 0.5, frame)))
    worst, count = 0.0, 0
    for frame, bodies in found:
        voxel = frame.bin_area * frame.sample_step
        for mesh, body in zip(body_meshes(bodies, frame), bodies.bodies, strict=True):
            if body.samples >= _LEAST_BODY:
                count += 1
                worst = max(worst, abs(mesh.volume / (body.samples * voxel) - 1))
    return [
        ("volume of a mesh against the samples of its body, largest difference",
         f"{100 * worst:.2f} % of {count} bodies", "at most 2 %", worst <= 0.02),
    ]  # fmt: skip


def prove_readers(folder: Path, _: argparse.Namespace) -> list[tuple[str, str, str, bool]]:
    """Read ZMAP+ by GDAL, OpendTect and TSurf by the readers of the tests, and compare."""
    from diapir.export.horizon import write_horizons, zmap_nodes
    from diapir.export.mesh import body_meshes, write_tsurf

    horizons, bodies = load_tests("test_horizon"), load_tests("test_salt_bodies")
    apart = {"ZMAP+, read by GDAL": 0.0, "OpendTect": 0.0, "TSurf": 0.0}
    values = dict.fromkeys(apart, 0)
    for made, frame, found, (top, base) in perfect_maps():
        for horizon in (top, base):
            paths = {p.suffix: p for p in write_horizons(folder / str(made.plan.seed), horizon)}
            grid = horizons.read_with_gdal(paths[".zmap"])
            x, y, z = zmap_nodes(horizon)
            assert np.array_equal(np.isnan(grid.z), np.isnan(z))
            shift = max(np.abs(grid.x - x).max(), np.abs(grid.y - y).max(),
                        np.nanmax(np.abs(grid.z - z)))  # fmt: skip
            compare(apart, values, "ZMAP+, read by GDAL", shift, grid.z.size)
            table = horizons.read_opendtect(paths[".dat"])
            own = horizon.table()
            names = {"inline": "Inline", "crossline": "Crossline", "z": f"Z ({frame.unit})"}
            shift = max(np.abs(table[theirs] - own[name]).max() for name, theirs in names.items())
            compare(apart, values, "OpendTect", shift, len(own["z"]))
        meshes = body_meshes(found, frame)
        write_tsurf(folder / "bodies.ts", meshes, frame)
        read = bodies.read_tsurf(folder / "bodies.ts")
        for mesh in meshes:
            shift = np.abs(read[mesh.name] - mesh.vertices[mesh.triangles]).max()
            compare(apart, values, "TSurf", shift, len(mesh.triangles))
    return [
        (f"{name}, largest difference", f"{value:.1e} (m or ms), of {values[name]:,} "
         + ("triangles" if name == "TSurf" else "values"), "at most 1e-2, as written",
         value <= 1e-2)
        for name, value in apart.items()
    ]  # fmt: skip


def compare(apart: dict[str, float], values: dict[str, int], name: str, shift: Any, n: int) -> None:
    """Take down a difference."""
    apart[name] = max(apart[name], float(shift))
    values[name] += n


def load_tests(name: str) -> Any:
    """Return a module of the tests, for its readers."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "tests" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


PROOFS = {
    "bytes": prove_bytes,
    "identity": prove_identity,
    "top": prove_top,
    "mesh": prove_mesh,
    "readers": prove_readers,
}
