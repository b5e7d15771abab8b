"""Draws random geologies: which beds, folds, faults and salt bodies an earth has."""

import numpy as np

from diapir.data.geology import (
    REGION_M,
    YOUNG_BEDS_M,
    BedLog,
    Fault,
    Geology,
    Lens,
    Massif,
    SaltBody,
    Sheet,
    Stock,
    draw_waves,
)

_LOG_START_M, _LOG_LENGTH_M = -8_000.0, 28_000.0


def draw_geology(rng: np.random.Generator, *, salt: bool = True) -> Geology:
    """Return a random earth that fills ``geology.REGION_M`` around inline and crossline 0.

    Args:
        rng: Source of randomness; equal states give equal earths.
        salt: Whether there is any salt.
    """
    dip = rng.choice([0.08, 0.4, 1.0], p=[0.4, 0.4, 0.2])
    fold = rng.uniform(5, 60) if dip < 0.1 else rng.uniform(40, 150)
    erosion = (rng.uniform(600, 3500), draw_waves(rng, rng.uniform(10, 90), (600, 4000)))
    sea = (rng.uniform(100, 400), draw_waves(rng, rng.uniform(3, 30), (800, 5000)))
    return Geology(
        beds=draw_beds(rng),
        tilt=(rng.normal(0, dip), rng.normal(0, dip)),
        folds=draw_waves(rng, fold, (350, 5000)),
        wobble=draw_waves(
            rng,
            np.exp(rng.normal(np.log(9), 0.6)),
            (50, 700),
            count=16,
            depth_share=1.5,
            roughness=0.5,
        ),
        faults=_draw_faults(rng),
        lenses=[_draw_lens(rng) for _ in range(rng.poisson(60))],
        salt=_draw_salt(rng) if salt else (),
        drag_m=float(rng.choice([0.0, rng.uniform(50, 900)], p=[0.15, 0.85])),
        drag_reach_m=rng.uniform(200, 700),
        unconformity=erosion if rng.random() < 0.35 else None,
        seabed=sea,
    )


def draw_beds(rng: np.random.Generator) -> BedLog:
    """Return the impedance log of a random pile of beds.

    Beds are grouped in packages of a few hundred metres, each with its own bed thickness and
    contrast, as sand-rich, shaly and transparent intervals alternate in nature.
    """
    packages = rng.uniform(80, 700, round(_LOG_LENGTH_M / 390))
    bed_m = 20 * np.exp(rng.normal(0, 0.35) + rng.normal(0, 0.35, packages.size))
    contrast = 0.045 * np.exp(rng.normal(0, 0.3) + rng.normal(0, 0.55, packages.size))
    beds = np.ceil(packages / bed_m).astype(np.intp)
    thickness = np.maximum(2.0, rng.gamma(2.0, np.repeat(bed_m, beds) / 2))
    values = rng.standard_t(6, thickness.size) * np.repeat(contrast, beds) / np.sqrt(2)
    edges_m = _LOG_START_M + np.concatenate([[0.0], np.cumsum(thickness)])
    return BedLog(edges_m, np.concatenate([[0.0], np.cumsum(values * thickness)]))


def _draw_faults(rng: np.random.Generator) -> tuple[Fault, ...]:
    trend = rng.uniform(0, np.pi)
    half = REGION_M[0] / 2
    count = int(rng.choice([0, 4, 10, 20], p=[0.35, 0.3, 0.2, 0.15]))
    return tuple(
        Fault(
            position_m=(rng.uniform(-half, half), rng.uniform(-half, half)),
            azimuth=trend + rng.normal(0, 0.15) + (np.pi if rng.random() < 0.4 else 0.0),
            slope=rng.uniform(0.2, 0.9),
            throw_m=float(np.exp(rng.normal(np.log(35), 0.7))),
        )
        for _ in range(count)
    )


def _draw_lens(rng: np.random.Generator) -> Lens:
    half = REGION_M[0] / 2
    young = YOUNG_BEDS_M if rng.random() < 0.2 else 0.0
    return Lens(
        position_m=(rng.uniform(-half, half), rng.normal(0, 300)),
        bed_m=rng.uniform(0, REGION_M[1]) + young,
        radius_m=float(np.exp(rng.normal(np.log(120), 0.6))),
        thickness_m=rng.uniform(10, 30),
        contrast=-abs(rng.normal(0.12, 0.1)) * (1 if rng.random() < 0.75 else -1),
    )


def _draw_salt(rng: np.random.Generator) -> tuple[SaltBody, ...]:
    kind = rng.choice(["stock", "sheet", "massif", "canopy"], p=[0.38, 0.38, 0.10, 0.14])
    if kind == "stock":
        return tuple(_draw_stock(rng) for _ in range(rng.integers(1, 4)))
    if kind == "sheet":
        return tuple(_draw_sheet(rng) for _ in range(rng.integers(1, 3)))
    if kind == "massif":
        return (_draw_massif(rng),)
    return (_draw_sheet(rng), _draw_stock(rng), _draw_massif(rng))


def _draw_stock(rng: np.random.Generator) -> Stock:
    bulb_m = rng.uniform(250, 1100)
    rugosity = rng.uniform(2, 22)
    return Stock(
        center_m=(rng.uniform(-3500, 3500), rng.normal(0, 200)),
        crest_m=rng.uniform(600, 3000),
        stem_m=bulb_m * rng.choice([0.0, rng.uniform(0.3, 0.9)], p=[0.15, 0.85]),
        bulb_m=bulb_m,
        bulb_depth_m=rng.uniform(250, 1200),
        lean=rng.normal(0, 0.15),
        stretch=float(np.exp(rng.uniform(0, 1.5))),
        crest=draw_waves(rng, rugosity, (60, 900), count=14, roughness=0.4),
        flank=draw_waves(rng, rugosity * 1.5, (200, 1800), count=10, depth_share=1.5),
    )


def _draw_sheet(rng: np.random.Generator) -> Sheet:
    thickness_m = rng.uniform(150, 1100)
    return Sheet(
        center_m=(rng.uniform(-3500, 3500), rng.normal(0, 200)),
        top_m=rng.uniform(700, 3000),
        thickness_m=thickness_m,
        half_width_m=rng.uniform(700, 3500),
        dip=rng.normal(0, 0.15),
        top=draw_waves(rng, rng.uniform(4, 60), (90, 2500), count=14),
        base=draw_waves(rng, thickness_m * rng.uniform(0.03, 0.3), (250, 3000), count=10),
    )


def _draw_massif(rng: np.random.Generator) -> Massif:
    return Massif(
        top_m=rng.uniform(1800, 3600),
        relief=draw_waves(rng, rng.uniform(60, 500), (900, 5000)),
        rugosity=draw_waves(rng, rng.uniform(4, 50), (90, 900), count=12),
    )
