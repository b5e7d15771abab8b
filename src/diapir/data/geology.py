"""Random earths: layers, folds, faults, unconformities and salt, defined at every point.

A `Geology` is a formula, not an array: `earth_model` evaluates it on any `Grid`, be it a tile, a
long section, a bent line or a volume, and neighbouring grids agree where they meet. Positions are
in metres along inline, along crossline and down; depth is positive downwards.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Field = NDArray[np.float32]

SALT_LOG_IMPEDANCE = float(np.log(9.7))
"""Logarithm of 4,500 m/s times 2.16 g/cm3, in units of 10^6 kg/(m2 s)."""

REGION_M = (10_000.0, 5_000.0)
"""Length on each horizontal axis and depth that a drawn geology fills, in metres."""

YOUNG_BEDS_M = 9_000.0
"""Shift with which the beds above an unconformity read another part of the log, in metres."""


@dataclass(frozen=True)
class Grid:
    """Points at which a geology is evaluated, as arrays that broadcast to the grid's shape.

    Args:
        inline_m: Distance along the inline axis, metres.
        crossline_m: Distance along the crossline axis, metres.
        depth_m: Depth, metres, positive down.
        spacing_m: Distance between neighbours on each axis of the grid, metres.
    """

    inline_m: Field
    crossline_m: Field
    depth_m: Field
    spacing_m: tuple[float, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape that the three coordinates broadcast to."""
        return np.broadcast_shapes(self.inline_m.shape, self.crossline_m.shape, self.depth_m.shape)

    @property
    def sample_axis(self) -> int:
        """Axis along which depth grows: 0 for a section (sample, trace), 2 for a volume."""
        return int(np.argmax(self.depth_m.shape))

    @property
    def sample_interval_m(self) -> float:
        """Distance between samples in depth, metres."""
        return self.spacing_m[self.sample_axis]


def section_grid(
    shape: tuple[int, int],
    spacing_m: tuple[float, float],
    *,
    inline_m: float = 0.0,
    crossline_m: float = 0.0,
    depth_m: float = 0.0,
) -> Grid:
    """Return the grid of a vertical section (sample, trace) along the inline axis.

    Args:
        shape: Numbers of samples and of traces.
        spacing_m: Distances between samples and between traces, metres.
        inline_m: Position of the first trace.
        crossline_m: Position of the whole section.
        depth_m: Depth of the first sample.
    """
    samples, traces = _axes(shape, spacing_m)
    return Grid(
        inline_m=(traces + np.float32(inline_m))[None, :],
        crossline_m=np.full((1, 1), crossline_m, np.float32),
        depth_m=(samples + np.float32(depth_m))[:, None],
        spacing_m=spacing_m,
    )


def volume_grid(
    shape: tuple[int, int, int],
    spacing_m: tuple[float, float, float],
    *,
    inline_m: float = 0.0,
    crossline_m: float = 0.0,
    depth_m: float = 0.0,
) -> Grid:
    """Return the grid of a volume (inline, crossline, sample); arguments as in `section_grid`."""
    axes = _axes(shape, spacing_m)
    return Grid(
        inline_m=(axes[0] + np.float32(inline_m))[:, None, None],
        crossline_m=(axes[1] + np.float32(crossline_m))[None, :, None],
        depth_m=(axes[2] + np.float32(depth_m))[None, None, :],
        spacing_m=spacing_m,
    )


def _axes(shape: Sequence[int], spacing_m: Sequence[float]) -> list[Field]:
    pairs = zip(shape, spacing_m, strict=True)
    return [np.arange(count, dtype=np.float32) * np.float32(step) for count, step in pairs]


@dataclass(frozen=True)
class Waves:
    """A smooth random field: a sum of plane waves, so it is known at every point in 3-D.

    Args:
        vectors: (K, 3) wave vectors on inline, crossline and depth, radians per metre.
        phases: (K,) radians.
        amplitudes: (K,) in the unit of the field.
    """

    vectors: Field
    phases: Field
    amplitudes: Field

    def __call__(self, grid: Grid) -> Field:
        """Return the field on the grid; without waves in depth its sample axis has length 1."""
        parts = (grid.inline_m, grid.crossline_m, grid.depth_m)
        # exp(i(a + b)) as a product of small factors: no cosine per grid point
        factors = [
            _turn(np.multiply.outer(self.vectors[:, axis], parts[axis]))
            for axis in range(3)
            if np.any(self.vectors[:, axis])
        ]
        total: Field = np.zeros((1,) * grid.depth_m.ndim, np.float32)
        waves = (self.amplitudes * np.exp(1j * self.phases)).astype(np.complex64)
        for k, start in enumerate(waves):
            product = start
            for factor in factors:
                product = product * factor[k]
            total = total + product.real
        return total


def _turn(phase: Field) -> NDArray[np.complex64]:
    """Return exp(i phase); real functions of 32 bits are several times faster than complex ones."""
    turned = np.empty(phase.shape, np.complex64)
    turned.real = np.cos(phase)
    turned.imag = np.sin(phase)
    return turned


def draw_waves(
    rng: np.random.Generator,
    rms: float,
    wavelengths_m: tuple[float, float],
    *,
    count: int = 8,
    depth_share: float = 0.0,
    roughness: float = 0.0,
) -> Waves:
    """Return random waves, the longer ones stronger, as relief in nature is.

    Args:
        rng: Source of randomness.
        rms: Root-mean-square of the field.
        wavelengths_m: Shortest and longest horizontal wavelength, metres.
        count: Number of waves.
        depth_share: Depth part of the wave vectors relative to the horizontal part; 0 makes the
            field a surface.
        roughness: 0 gives each wave an amplitude in proportion to its length, 1 the same to all.
    """
    shortest, longest = np.log(wavelengths_m)
    lengths = np.exp(rng.uniform(shortest, longest, count))
    azimuth = rng.uniform(0, 2 * np.pi, count)
    horizontal = 2 * np.pi / lengths
    vectors = np.stack(
        [
            horizontal * np.cos(azimuth),
            horizontal * np.sin(azimuth),
            horizontal * depth_share * rng.uniform(-1, 1, count),
        ],
        axis=1,
    )
    amplitudes = lengths ** (1 - roughness) * rng.uniform(0.5, 1.0, count)
    amplitudes *= rms / np.sqrt(np.sum(amplitudes**2) / 2)
    return Waves(
        vectors.astype(np.float32),
        rng.uniform(0, 2 * np.pi, count).astype(np.float32),
        amplitudes.astype(np.float32),
    )


class SaltBody(Protocol):
    """A body of salt: anything that knows how far a point lies outside it."""

    def distance(self, grid: Grid) -> Field:
        """Return the approximate signed distance in metres, negative inside the salt."""
        ...


@dataclass(frozen=True)
class Stock:
    """A diapir: a stem that widens to a bulb under a rugged crest, leaning to one side.

    Args:
        center_m: Inline and crossline position of the crest.
        crest_m: Depth of the crest.
        stem_m: Radius of the stem; 0 for a detached teardrop.
        bulb_m: Radius at the widest place.
        bulb_depth_m: Depth of the widest place below the crest.
        lean: Horizontal shift along inline per metre of depth.
        stretch: Length along crossline over length along inline; large for a salt wall.
        crest: Relief of the crest.
        flank: Relief of the flank.
    """

    center_m: tuple[float, float]
    crest_m: float
    stem_m: float
    bulb_m: float
    bulb_depth_m: float
    lean: float
    stretch: float
    crest: Waves
    flank: Waves

    def distance(self, grid: Grid) -> Field:
        """Return the approximate signed distance in metres, negative inside the salt."""
        below = grid.depth_m - np.float32(self.crest_m)
        across = grid.inline_m - self.center_m[0] - np.float32(self.lean) * below
        along = (grid.crossline_m - self.center_m[1]) / self.stretch
        radial = np.sqrt(across**2 + along**2)
        swell = np.exp(-(((below - self.bulb_depth_m) / (0.8 * self.bulb_depth_m)) ** 2))
        radius = self.stem_m + (self.bulb_m - self.stem_m) * swell
        outside_flank = radial - radius + self.flank(grid)
        above_crest = self.crest(grid) + radial**2 / (3 * self.bulb_m) - below
        return _smooth_maximum(outside_flank, above_crest, width=20.0)


@dataclass(frozen=True)
class Sheet:
    """Allochthonous salt: a tongue between a rugged top and a base with keels.

    Args:
        center_m: Inline and crossline position of the middle.
        top_m: Depth of the top in the middle.
        thickness_m: Thickness in the middle.
        half_width_m: Distance from the middle at which it thins out.
        dip: Rise of the whole sheet, metres per metre of inline.
        top: Relief of the top.
        base: Relief of the base.
    """

    center_m: tuple[float, float]
    top_m: float
    thickness_m: float
    half_width_m: float
    dip: float
    top: Waves
    base: Waves

    def distance(self, grid: Grid) -> Field:
        """Return the approximate signed distance in metres, negative inside the salt."""
        across = grid.inline_m - self.center_m[0]
        radial = np.hypot(across, grid.crossline_m - self.center_m[1]) / self.half_width_m
        datum = self.top_m - self.dip * across
        top = datum + self.top(grid)
        base = datum + self.thickness_m * (1.2 - radial**2) + self.base(grid)
        return _smooth_maximum(top - grid.depth_m, grid.depth_m - base, width=8.0)


@dataclass(frozen=True)
class Massif:
    """Thick salt without a base in reach: everything below a top of high relief.

    Args:
        top_m: Mean depth of the top.
        relief: Swells and minibasins of the top.
        rugosity: Its small steps and notches.
    """

    top_m: float
    relief: Waves
    rugosity: Waves

    def distance(self, grid: Grid) -> Field:
        """Return the approximate signed distance in metres, negative inside the salt."""
        notches = -np.abs(self.rugosity(grid))  # absolute values leave the cusps of real crests
        return self.top_m + self.relief(grid) + notches - grid.depth_m


@dataclass(frozen=True)
class Fault:
    """A planar normal fault whose hanging wall has slid down.

    Args:
        position_m: Inline and crossline position where it meets depth 0.
        azimuth: Direction in which the plane dips, radians from the inline axis.
        slope: Horizontal distance per metre of depth.
        throw_m: How far the hanging wall went down.
    """

    position_m: tuple[float, float]
    azimuth: float
    slope: float
    throw_m: float

    def drop(self, grid: Grid) -> Field:
        """Return the downward displacement in metres at each point."""
        ahead = (grid.inline_m - self.position_m[0]) * np.cos(self.azimuth)
        ahead = ahead + (grid.crossline_m - self.position_m[1]) * np.sin(self.azimuth)
        ahead = ahead - grid.depth_m * self.slope
        return np.asarray(self.throw_m * np.clip(0.5 + ahead / 8.0, 0, 1), np.float32)


@dataclass(frozen=True)
class Lens:
    """A thin body such as a gas sand or a channel fill that makes a bed bright for a while.

    Args:
        position_m: Inline and crossline position of its middle.
        bed_m: Stratigraphic depth of its middle.
        radius_m: Half its length.
        thickness_m: Its thickness.
        contrast: Change of the logarithm of impedance.
    """

    position_m: tuple[float, float]
    bed_m: float
    radius_m: float
    thickness_m: float
    contrast: float


@dataclass(frozen=True)
class BedLog:
    """Impedance of the sediments against the depth at which they were laid down, bed by bed.

    Args:
        edges_m: (K + 1,) depths of the edges of K beds, rising; negative where folds lift older
            beds.
        integral: (K + 1,) integral of the logarithm of impedance from the first edge, in metres.
    """

    edges_m: NDArray[np.float64]
    integral: NDArray[np.float64]

    def average(self, bed_m: Field, cell_m: float) -> Field:
        """Return the log averaged over cells of ``cell_m`` metres, so that thin beds do not alias.

        Args:
            bed_m: Depths of the middles of the cells, any shape.
            cell_m: Height of a cell.
        """
        middle = bed_m.astype(np.float64)
        upper = np.interp(middle - cell_m / 2, self.edges_m, self.integral)
        lower = np.interp(middle + cell_m / 2, self.edges_m, self.integral)
        return np.asarray((lower - upper) / cell_m, np.float32)


@dataclass(frozen=True)
class Geology:
    """A random earth in closed form; `earth_model` evaluates it.

    Args:
        beds: Impedance of the sediments against the depth at which they were laid down.
        tilt: Dip of the beds, metres per metre of inline and of crossline.
        folds: Folds of the beds; they grow with depth.
        wobble: Small-scale unevenness of the beds, in 3-D.
        faults: Faults of the sediments.
        lenses: Bright lenses of the sediments.
        salt: Bodies of salt; empty for an earth without any.
        drag_m: How far beds are pulled up at a salt flank.
        drag_reach_m: Distance from the flank over which the pull fades.
        unconformity: Depth of an erosion surface, with other beds above it; None for none.
        seabed: Depth of the sea floor; None where it is far above.
    """

    beds: BedLog
    tilt: tuple[float, float]
    folds: Waves
    wobble: Waves
    faults: Sequence[Fault]
    lenses: Sequence[Lens]
    salt: Sequence[SaltBody]
    drag_m: float
    drag_reach_m: float
    unconformity: tuple[float, Waves] | None
    seabed: tuple[float, Waves] | None


@dataclass(frozen=True)
class EarthModel:
    """A geology on a grid.

    Args:
        log_impedance: Natural logarithm of acoustic impedance (10^6 kg/(m2 s)), grid's shape.
        salt: Boolean, True inside salt, grid's shape.
        water: Boolean, True in the sea, grid's shape.
    """

    log_impedance: Field
    salt: NDArray[np.bool_]
    water: NDArray[np.bool_]


def salt_distance(geology: Geology, grid: Grid) -> Field:
    """Return the signed distance to the nearest salt in metres, negative inside; far without."""
    nearest = np.full(grid.shape, 1e6, np.float32)
    for body in geology.salt:
        nearest = np.minimum(nearest, body.distance(grid))
    return nearest


def earth_model(geology: Geology, grid: Grid) -> EarthModel:
    """Return impedance, salt and water of the geology on a section or volume of any size.

    Args:
        geology: The earth.
        grid: Where to evaluate it; two axes for a section, three for a volume.
    """
    distance = salt_distance(geology, grid)
    bed_m = _bed_depth(geology, grid, distance)
    beds = geology.beds.average(bed_m, grid.sample_interval_m)
    reach = float(grid.inline_m.min()), float(grid.inline_m.max())
    for lens in geology.lenses:
        if not reach[0] - 2 * lens.radius_m < lens.position_m[0] < reach[1] + 2 * lens.radius_m:
            continue  # too far to matter
        beds = beds + _lens_contrast(lens, grid, bed_m)
    compaction = np.log(4.2) + 0.5 * np.clip(grid.depth_m / 4000, 0, 1.2)
    cell_m = float(np.mean(grid.spacing_m))
    share = np.clip(0.5 - distance / cell_m, 0, 1)  # of salt in the cell: no staircase
    log_impedance = (1 - share) * (beds + compaction) + share * SALT_LOG_IMPEDANCE
    water = np.zeros(grid.shape, np.bool_)
    if geology.seabed is not None:
        mean_m, relief = geology.seabed
        water |= grid.depth_m < mean_m + relief(grid)
        log_impedance = np.where(water, np.log(1.5), log_impedance)
    salt = (distance < 0) & ~water
    return EarthModel(log_impedance.astype(np.float32), salt, water)


def _bed_depth(geology: Geology, grid: Grid, distance: Field) -> Field:
    """Return at which depth each point was laid down, before folding, faulting and salt."""
    restored = np.broadcast_to(grid.depth_m, grid.shape)
    for fault in geology.faults:
        restored = restored - fault.drop(grid)
    dip = geology.tilt[0] * grid.inline_m + geology.tilt[1] * grid.crossline_m
    growth = 0.4 + np.clip(grid.depth_m, 0, None) / 2500
    pull = geology.drag_m * np.exp(-np.clip(distance, 0, None) / geology.drag_reach_m)
    wobble = geology.wobble(grid)
    old = restored - dip - geology.folds(grid) * growth + pull + wobble
    if geology.unconformity is None:
        return np.asarray(old, np.float32)
    mean_m, relief = geology.unconformity
    surface = relief(grid)
    young = restored - 0.5 * surface + 0.4 * pull + 0.6 * wobble + YOUNG_BEDS_M
    eroded = grid.depth_m < mean_m + surface
    return np.asarray(np.where(eroded, young, old), np.float32)


def _lens_contrast(lens: Lens, grid: Grid, bed_m: Field) -> Field:
    across = (grid.inline_m - lens.position_m[0]) ** 2
    squared = (across + (grid.crossline_m - lens.position_m[1]) ** 2) / lens.radius_m**2
    within = np.clip(1.5 - np.abs(bed_m - lens.bed_m) / lens.thickness_m * 2, 0, 1)
    return np.asarray(lens.contrast * np.clip(1.2 - squared, 0, 1) * within, np.float32)


def _smooth_maximum(first: Field, second: Field, width: float) -> Field:
    """Return the larger of two distances with the edge between them rounded over ``width``."""
    difference = first - second
    rounded = (first + second + np.sqrt(difference**2 + np.float32(width) ** 2)) / 2
    return np.asarray(rounded, np.float32)
