"""Synthetic post-stack surveys with salt, and their truth: the embedded example of a volume.

The earth is one of those that the tiles are cut from (`scenarios`, `geology`), imaged in three
dimensions by the same blur, noise and gain (`imaging`). What real surveys do to their readers can
be had as well: gaps, dead and repeated traces, falling or stepped numbers, any azimuth, any sample
format and byte order, a recording delay, and unusual header bytes.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from diapir.data.geology import (
    REGION_M,
    EarthModel,
    Field,
    Geology,
    Grid,
    earth_model,
    salt_distance,
    volume_grid,
)
from diapir.data.imaging import ImagingConditions, draw_conditions, seismic_image
from diapir.data.scenarios import draw_geology
from diapir.errors import DataError
from diapir.io.segy import SegyOptions
from diapir.io.segy_format import ByteOrder, sample_format
from diapir.io.segy_write import write_segy
from diapir.io.volume import Geometry, Unit, amplitude_statistics, make_volume

if TYPE_CHECKING:
    import xarray as xr

_METRES_PER_MS = 1.25  # half of 2,500 m/s: time is depth at one velocity
_FEET = 0.3048
_SMALLEST, _MOST_SAMPLES = 8, 1 << 28
_COVERAGE = 0.22
_EARTHS, _WINDOWS = 6, 40
_SHALLOWEST_M = 500.0
_STEEPEST = 0.12  # metres per metre
_ORIGIN = (430_000.0, 6_780_000.0)
_LOUDEST = {1: 100, 2: 20_000, 4: 20_000}  # 99.9th percentile in integers of so many bytes
_FLOAT_LOUDEST = 10_000.0


@dataclass(frozen=True)
class SurveyPlan:
    """What a synthetic survey shall be like.

    Args:
        shape: Inlines, crosslines and samples.
        seed: Equal seeds give equal earths.
        spacing_m: Distance between inlines and between crosslines, metres.
        interval: Sample interval in `unit`.
        start: Time or depth of the first sample in `unit`.
        unit: ms, m or ft.
        first: First inline and crossline number.
        step: Steps of the numbers; negative ones fall through the file.
        azimuth: Direction in which inline numbers grow, degrees clockwise from north.
        gaps: Share of traces that are missing: a hole, a ragged edge and single ones.
        dead: Share of traces that are there but zero.
        duplicates: Number of traces that occur twice.
        by_crossline: Write crossline after crossline instead of inlines.
        salt: Whether there is any.
    """

    shape: tuple[int, int, int] = (96, 112, 160)
    seed: int = 0
    spacing_m: tuple[float, float] = (25.0, 25.0)
    interval: float = 4.0
    start: float = 0.0
    unit: Literal["ms", "m", "ft"] = "ms"
    first: tuple[int, int] = (1001, 2001)
    step: tuple[int, int] = (1, 1)
    azimuth: float = 0.0
    gaps: float = 0.0
    dead: float = 0.0
    duplicates: int = 0
    by_crossline: bool = False
    salt: bool = True

    def __post_init__(self) -> None:
        if min(self.shape) < _SMALLEST or int(np.prod(self.shape)) > _MOST_SAMPLES:
            raise DataError(
                f"a survey of {' x '.join(map(str, self.shape))}",
                expected=f"at least {_SMALLEST} on each axis, {_MOST_SAMPLES:,} samples at most",
            )
        if 0 in self.step:
            raise DataError("line numbers in steps of 0", expected="a step other than 0")
        if not (0 <= self.gaps <= 0.9 and 0 <= self.dead <= 0.9 and self.duplicates >= 0):
            raise DataError(
                f"gaps {self.gaps}, dead {self.dead}, duplicates {self.duplicates}",
                expected="shares from 0 to 0.9, and a number of 0 or more",
            )
        if not all(0 < distance < np.inf for distance in (self.interval, *self.spacing_m)):
            raise DataError("a distance that is not positive", expected="more than 0")
        if not np.isfinite([self.start, self.azimuth]).all():
            raise DataError(
                f"start {self.start}, azimuth {self.azimuth}", expected="finite numbers"
            )
        ends = (
            first + step * n * (count - 1)
            for first, step, count in zip(self.first, self.step, self.shape[:2], strict=True)
            for n in (0, 1)
        )
        if not all(-(2**31) <= number < 2**31 for number in ends):
            raise DataError(
                f"line numbers from {self.first} in steps of {self.step}",
                expected="numbers that 4 bytes can hold, below 2,147,483,648",
            )

    @property
    def sample_m(self) -> float:
        """Distance between samples in metres."""
        return self.interval * {"ms": _METRES_PER_MS, "m": 1.0, "ft": _FEET}[self.unit]


@dataclass(frozen=True)
class SyntheticSurvey:
    """A survey and its truth.

    Args:
        plan: What was asked for.
        amplitude: (inline, crossline, sample) float32 over the axes of the geometry, 0 in gaps.
        salt: The same of booleans, everywhere.
        geometry: Where the samples lie, numbers rising.
        dead: (inline, crossline) boolean, True for traces of zeros.
    """

    plan: SurveyPlan
    amplitude: Field
    salt: NDArray[np.bool_]
    geometry: Geometry
    dead: NDArray[np.bool_]

    def volume(self) -> "xr.Dataset":
        """Return the survey as `open_volume` does."""
        return make_volume(
            self.amplitude,
            self.geometry,
            source=f"synthetic survey, seed {self.plan.seed}",
            fingerprint=repr(self.plan),
            statistics=amplitude_statistics(self.amplitude[self.geometry.trace_mask & ~self.dead]),
        )


def generate_survey(
    plan: SurveyPlan, *, advance: Callable[[int], None] | None = None
) -> SyntheticSurvey:
    """Return a synthetic survey; takes about 60 bytes of memory a sample.

    Args:
        plan: What it shall be like.
        advance: Called with the number of inlines just done, for a progress bar.
    """
    rng = np.random.default_rng([plan.seed, 3])
    geology, corner = _draw_place(plan, rng)
    look = _clean(draw_conditions(rng))
    margin = tuple(
        min(24, round(2 * look.wavelength_m / step)) for step in (*plan.spacing_m, plan.sample_m)
    )
    grid = volume_grid(
        tuple(size + 2 * edge for size, edge in zip(plan.shape, margin, strict=True)),  # type: ignore[arg-type]
        (*plan.spacing_m, plan.sample_m),
        inline_m=corner[0] - margin[0] * plan.spacing_m[0],
        crossline_m=corner[1] - margin[1] * plan.spacing_m[1],
        depth_m=corner[2] - margin[2] * plan.sample_m,
    )
    model = _model_in_slabs(geology, grid, margin[0], plan.shape[0], advance)
    inner = tuple(slice(edge, edge + size) for edge, size in zip(margin, plan.shape, strict=True))
    image = seismic_image(model, grid, look, rng)[inner]
    mask, dead = _draw_holes(plan, rng)
    image[~mask | dead] = 0
    return _numbered(plan, image, model.salt[inner].copy(), mask, dead)


def write_survey(
    survey: SyntheticSurvey,
    path: Path,
    truth: Path | None = None,
    *,
    code: int = 5,
    byte_order: ByteOrder = "big",
    options: SegyOptions | None = None,
    advance: Callable[[int], None] | None = None,
) -> None:
    """Write a survey as SEG-Y, and its truth as another file with the same traces, 0 and 1.

    Args:
        survey: What to write.
        path: SEG-Y file.
        truth: SEG-Y file of 1-byte integers; None for none.
        code: Sample format of the survey; integers are scaled to their range.
        byte_order: Of both files.
        options: At which bytes headers go.
        advance: Called with the number of traces just written, for a progress bar.
    """
    cells = _file_order(survey)
    entry = sample_format(code)
    loudest = _LOUDEST.get(entry.width, 20_000) if entry.is_integer else _FLOAT_LOUDEST
    level = float(np.percentile(np.abs(survey.amplitude), 99.9)) or 1.0
    shift = 0.0
    if entry.is_integer and entry.kind[0] == "u":
        loudest, shift = loudest / 2, float(min(np.iinfo(entry.kind).max // 2 + 1, 32_768))
    lines = [
        "SYNTHETIC POST-STACK SURVEY WITH SALT, MADE BY DIAPIR",
        f"SEED {survey.plan.seed}, {survey.plan.interval:g} {survey.plan.unit.upper()} INTERVAL",
        f"INLINE BYTE {(options or SegyOptions()).inline_byte}, CROSSLINE BYTE "
        f"{(options or SegyOptions()).crossline_byte}",
    ]

    def loud(part: NDArray[np.int32]) -> Field:
        traces: Field = survey.amplitude[tuple(part.T)] * np.float32(loudest / level)
        traces += np.float32(shift)
        traces[survey.dead[tuple(part.T)]] = 0
        return traces

    write_segy(
        path,
        loud,
        survey.geometry,
        cells=cells,
        code=code,
        byte_order=byte_order,
        options=options,
        text=lines,
        advance=advance,
    )
    if truth is not None:
        write_segy(
            truth,
            lambda part: survey.salt[tuple(part.T)],
            survey.geometry,
            cells=cells,
            code=8,
            byte_order=byte_order,
            options=options,
            text=["TRUTH OF A SYNTHETIC SURVEY: 1 IS SALT", *lines[1:]],
        )


def _draw_place(
    plan: SurveyPlan, rng: np.random.Generator
) -> tuple[Geology, tuple[float, float, float]]:
    """Return an earth and a corner (inline, crossline, depth) with a fair share of salt."""
    extent = (
        plan.shape[0] * plan.spacing_m[0],
        plan.shape[1] * plan.spacing_m[1],
        plan.shape[2] * plan.sample_m,
    )
    found: list[tuple[float, Geology, tuple[float, float, float]]] = []
    for _ in range(_EARTHS):
        geology = _gentle(draw_geology(rng, salt=plan.salt))
        half = REGION_M[0] / 2
        inline = rng.uniform(-half, max(half - extent[0], -half), _WINDOWS)
        crossline = rng.normal(-extent[1] / 2, 400, _WINDOWS)
        deepest = max(REGION_M[1] - extent[2], _SHALLOWEST_M)
        depth = rng.uniform(_SHALLOWEST_M, deepest, _WINDOWS)
        places = zip(inline.tolist(), crossline.tolist(), depth.tolist(), strict=True)
        found += [(_miss(geology, place, extent), geology, place) for place in places]
    _, geology, corner = min(found, key=lambda one: one[0])
    return geology, corner


def _gentle(geology: Geology) -> Geology:
    """Return an earth without a sea, whose beds dip by a few degrees away from the salt."""
    tilt = tuple(float(np.clip(slope, -_STEEPEST, _STEEPEST)) for slope in geology.tilt)
    return replace(geology, seabed=None, tilt=(tilt[0], tilt[1]))


def _miss(
    geology: Geology, corner: tuple[float, float, float], extent: tuple[float, float, float]
) -> float:
    """Return how far a window is from a fair share of salt with its top well inside."""
    if not geology.salt:
        return 0.0
    grid = volume_grid(
        (8, 8, 10),
        (extent[0] / 8, extent[1] / 8, extent[2] / 10),
        inline_m=corner[0] + extent[0] / 16,
        crossline_m=corner[1] + extent[1] / 16,
        depth_m=corner[2] + extent[2] / 20,
    )
    salt = salt_distance(geology, grid) < 0
    roofless = float(salt[:, :, :2].mean())  # the top shall have some samples above it
    baseless = float(salt[:, :, -1].mean())
    return abs(float(salt.mean()) - _COVERAGE) + 0.6 * roofless + 0.2 * baseless


def _clean(look: ImagingConditions) -> ImagingConditions:
    """Return a way of seeing without the worst noise: a survey that people agreed to stack."""
    return replace(
        look,
        noise=min(look.noise, 0.2),
        salt_noise=min(look.salt_noise, 0.2),
        random_noise=min(look.random_noise, 0.02),
        gain=max(look.gain, 0.4),
    )


def _model_in_slabs(
    geology: Geology, grid: Grid, margin: int, inlines: int, advance: Callable[[int], None] | None
) -> EarthModel:
    """Return the model, made a few inlines at a time so that its intermediates stay small."""
    parts = []
    total = grid.shape[0]
    step = max(1, round(2e6 / (grid.shape[1] * grid.shape[2])))
    for start in range(0, total, step):
        slab = replace(grid, inline_m=grid.inline_m[start : start + step])
        parts.append(earth_model(geology, slab))
        if advance is not None:
            low, high = (min(max(n - margin, 0), inlines) for n in (start, start + step))
            advance(high - low)
    return EarthModel(
        np.concatenate([part.log_impedance for part in parts]),
        np.concatenate([part.salt for part in parts]),
        np.concatenate([part.water for part in parts]),
    )


def _draw_holes(
    plan: SurveyPlan, rng: np.random.Generator
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return which cells have a trace, and which of those traces are dead."""
    inlines, crosslines = plan.shape[:2]
    mask = np.ones((inlines, crosslines), np.bool_)
    if plan.gaps:
        half = np.sqrt(plan.gaps / 2) / 2  # a hole of half of what is missing, such as a platform
        center = rng.uniform(half, 1 - half, 2)
        rows = slice(*(round((center[0] + side * half) * inlines) for side in (-1, 1)))
        columns = slice(*(round((center[1] + side * half) * crosslines) for side in (-1, 1)))
        mask[rows, columns] = False
        edge = rng.uniform(0, plan.gaps, inlines) * crosslines / 2
        mask &= np.arange(crosslines)[None, :] >= np.round(edge)[:, None]
        mask &= rng.random(mask.shape) >= plan.gaps / 4
        mask[0, -1] = mask[-1, -1] = mask[-1, 0] = mask[0, 0] = True  # the corners span the grid
    dead = mask & (rng.random(mask.shape) < plan.dead)
    return mask, dead


def _numbered(
    plan: SurveyPlan,
    amplitude: Field,
    salt: NDArray[np.bool_],
    mask: NDArray[np.bool_],
    dead: NDArray[np.bool_],
) -> SyntheticSurvey:
    """Return the survey with its axes turned so that numbers rise."""
    turn = np.radians(plan.azimuth)
    along, across = (np.arange(n) * d for n, d in zip(plan.shape[:2], plan.spacing_m, strict=True))
    along = along * np.sign(plan.step[0])  # the azimuth is that of rising numbers
    x = _ORIGIN[0] + np.sin(turn) * along[:, None] + np.cos(turn) * across[None, :]
    y = _ORIGIN[1] + np.cos(turn) * along[:, None] - np.sin(turn) * across[None, :]
    back = tuple(slice(None, None, -1 if step < 0 else 1) for step in plan.step)
    axes = {}
    for place, name in enumerate(("inline", "crossline")):
        numbers = plan.first[place] + plan.step[place] * np.arange(plan.shape[place])
        axes[name] = np.ascontiguousarray(numbers[back[place]]).astype(np.int32)
    unit: Unit = plan.unit
    geometry = Geometry(
        axes=axes,
        sample=plan.start + plan.interval * np.arange(plan.shape[2], dtype=np.float64),
        unit=unit,
        trace_mask=np.ascontiguousarray(mask[back]),
        cdp_x=np.where(mask, x, np.nan)[back].copy(),
        cdp_y=np.where(mask, y, np.nan)[back].copy(),
    )
    return SyntheticSurvey(
        plan,
        np.ascontiguousarray(amplitude[back]),
        np.ascontiguousarray(salt[back]),
        geometry,
        np.ascontiguousarray(dead[back]),
    )


def _file_order(survey: SyntheticSurvey) -> NDArray[np.int32]:
    """Return the cells of the traces as they are written."""
    plan, mask = survey.plan, survey.geometry.trace_mask
    rows, columns = (
        np.arange(size)[:: -1 if step < 0 else 1]
        for size, step in zip(mask.shape, plan.step, strict=True)
    )
    if plan.by_crossline:
        second, first = np.meshgrid(columns, rows, indexing="ij")
    else:
        first, second = np.meshgrid(rows, columns, indexing="ij")
    cells = np.stack([first.ravel(), second.ravel()], axis=1)
    cells = cells[mask[tuple(cells.T)]].astype(np.int32)
    if plan.duplicates:
        rng = np.random.default_rng([plan.seed, 4])
        twice = np.sort(rng.integers(0, len(cells), plan.duplicates))
        cells = np.insert(cells, twice + 1, cells[twice], axis=0)
    return cells
