"""What several test modules need: a tiny recipe, and tiles that are easy to learn."""

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import settings

from diapir.config import Recipe, parse_recipe
from diapir.io.tiles import Tiles

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command line does
if "PYTEST_XDIST_WORKER" in os.environ:  # a process for each core already
    os.environ.setdefault("OMP_NUM_THREADS", "1")

# a busy machine is slow, which says nothing about the code
settings.register_profile("diapir", deadline=None)
settings.load_profile("diapir")

LONGEST = ("runs", "rounds", "performance", "viewer_browser", "kills", "map", "fuzz", "serve_jobs")
"""Modules that take minutes, the longest first."""

TINY: dict[str, dict[str, Any]] = {
    "split": {"stratify": "none", "holdout": 0.2, "val": 0.25},
    "model": {
        "encoder": "scratch",
        "scratch_channels": [4, 8],
        "decoder_channels": [8],
    },
    "augment": {"brightness": 0.05, "zoom": 0.0},
    "loss": {"stages": [{"bce": 1.0, "dice": 1.0}]},
    "optim": {"lr": 0.01, "min_lr": 0.001, "schedule": "constant"},
    "train": {"epochs": 2, "batch_size": 8, "precision": "float32"},
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the longest modules, so that no process is left alone with one of them."""
    ranks = {f"test_{name}.py": rank for rank, name in enumerate(LONGEST)}
    items.sort(key=lambda item: ranks.get(item.path.name, len(ranks)))


@pytest.fixture(scope="session")
def tiny_recipe() -> Callable[..., Recipe]:
    """A recipe for a tiny net; keywords such as ``train__epochs=3`` change it."""

    def make(**changes: Any) -> Recipe:
        table: dict[str, Any] = {section: dict(values) for section, values in TINY.items()}
        for key, value in changes.items():
            section, _, name = key.partition("__")
            table.setdefault(section, {})[name] = value
        return parse_recipe({"name": "tiny", **table}, where="test")

    return make


@pytest.fixture(scope="session", autouse=True)
def no_waiting_for_disks() -> Iterator[None]:
    """Let nothing wait until files are on the disk: no test pulls the plug."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


@pytest.fixture(autouse=True)
def the_server_is_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `caplog` hear warnings of the server, whatever an earlier test made of its log."""
    monkeypatch.setattr(logging.getLogger("uvicorn"), "propagate", True)
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)


FINE = ("figures", "figures_trust", "html", "viewer_browser")
"""Modules whose figures are looked at."""


@pytest.fixture(scope="module", autouse=True)
def rough_figures(request: pytest.FixtureRequest) -> Iterator[None]:
    """Let figures be small and unarranged where nobody looks at them.

    Arranging them and drawing their pixels takes most of the time of a short training.
    """
    if request.path.stem.removeprefix("test_") in FINE:
        yield
        return
    from diapir.report import figures

    fine = figures.figure_png

    def rough(figure: Any, *, dpi: int = 0) -> bytes:
        figure.set_layout_engine("none")
        return fine(figure, dpi=20)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(figures, "figure_png", rough)
        yield


@contextmanager
def _without_figures() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name in ("outcome.write_run_report", "outcome.save_data_figures", "folds.write_page"):
            patch.setattr(f"diapir.runs.{name}", lambda *_, **__: None)
        yield


@pytest.fixture(scope="session")
def without_figures() -> Callable[[], AbstractContextManager[None]]:
    """Inside ``with without_figures():`` trainings and folds leave no report and no figures.

    These take longer than all the rest of a tiny training.
    """
    return _without_figures


@pytest.fixture
def no_figures() -> Iterator[None]:
    """Let the trainings of a test leave no report and no figures."""
    with _without_figures():
        yield


@pytest.fixture(scope="session")
def model(tiny_recipe: Callable[..., Recipe], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model file of a tiny net that has learnt nothing, `salt.safetensors`."""
    from diapir.models.modelcard import ModelCard
    from diapir.models.modelfile import save_model
    from diapir.models.unet import SaltNet

    recipe = tiny_recipe()
    path = tmp_path_factory.mktemp("model") / "salt.safetensors"
    save_model(path, SaltNet(recipe.model), ModelCard(recipe, 0.5))
    return path


def draw_easy_tiles(count: int, size: int = 32, seed: int = 0) -> Tiles:
    """Tiles whose salt is bright and whose rest is dark; every fourth has none."""
    rng = np.random.default_rng(seed)
    masks = np.zeros((count, size, size), np.uint8)
    for place in range(count):
        if place % 4:
            top, left = rng.integers(0, size // 2, 2)
            height, width = rng.integers(size // 4, size // 2, 2)
            masks[place, top : top + height, left : left + width] = 1
    noise = rng.integers(0, 60, masks.shape)
    images = (40 + 120 * masks + noise).astype(np.uint8)
    ids = tuple(f"tile{place:04d}" for place in range(count))
    z_feet = rng.integers(50, 960, count).astype(np.float32)
    return Tiles(ids, images, masks, z_feet, "easy tiles")


@pytest.fixture(scope="session")
def easy_tiles() -> Tiles:
    """Eighty tiles of 32 x 32."""
    return draw_easy_tiles(80)


def draw_frame(shape=(5, 7, 9), *, angle=0.0, unit="m", bins=(25.0, 12.5), step=4.0, gaps=()):
    """A survey whose lines start at 100 and traces at 300, rotated by an angle in degrees."""
    inline, crossline = np.arange(100.0, 100 + shape[0]), 300.0 + 2 * np.arange(shape[1])
    i, j = np.meshgrid(np.arange(shape[0]), np.arange(shape[1]), indexing="ij")
    turn = np.deg2rad(angle)
    x = 500_000 + j * bins[1] * np.cos(turn) - i * bins[0] * np.sin(turn)
    y = 6_000_000 + j * bins[1] * np.sin(turn) + i * bins[0] * np.cos(turn)
    live = np.ones(shape[:2], bool)
    for gap in gaps:
        live[gap], x[gap], y[gap] = False, np.nan, np.nan
    sample = 200.0 + step * np.arange(shape[2])
    from diapir.export.frame import Frame

    return Frame(inline, crossline, sample, unit, x, y, live)


@pytest.fixture
def make_frame():
    """Makes axes and coordinates of a small survey; keywords change its angle, unit and gaps."""
    return draw_frame


@pytest.fixture
def make_segy(tmp_path: Path) -> Callable[..., tuple[Path, np.ndarray]]:
    """Write a SEG-Y file of (6, 7, 30) random samples; returns it and what was written."""

    def make(
        name: str = "cube.sgy", *, shape: tuple[int, ...] = (6, 7, 30), seed: int = 0, **how: Any
    ) -> tuple[Path, np.ndarray]:
        from diapir.io.segy_format import FORMATS
        from diapir.io.segy_write import write_segy
        from diapir.io.volume import Geometry

        rng = np.random.default_rng(seed)
        # smooth along the trace, as seismic is; whole numbers survive every format
        noise = np.cumsum(rng.normal(size=(*shape[:-1], shape[-1] + 8)), axis=-1)
        smooth = noise[..., 8:] - noise[..., :-8]
        entry = FORMATS[how.get("code", 5)]
        unsigned = entry.is_integer and entry.kind[0] == "u"
        values = np.rint(smooth * 8) + (100 if unsigned else 0)
        values = np.clip(values, 1 if unsigned else -127, 127).astype(np.float32)
        names = ("trace",) if len(shape) == 2 else ("inline", "crossline")
        first = how.pop("first", (100, 300))
        step = how.pop("step", (1, 1))
        axes = {
            n: np.asarray(first[k] + step[k] * np.arange(shape[k]), np.int32)
            for k, n in enumerate(names)
        }
        mask = how.pop("mask", np.ones(shape[:-1], np.bool_))
        place = np.meshgrid(*(np.arange(n) for n in shape[:-1]), indexing="ij")
        located = how.pop("located", True)
        geometry = Geometry(
            axes=axes,
            sample=how.pop("start", 0.0) + how.pop("interval", 4.0) * np.arange(shape[-1]),
            unit="ms",
            trace_mask=mask,
            cdp_x=430_000.0 + 25 * place[0] if located else None,
            cdp_y=6_780_000.0 + 12.5 * place[-1] if located else None,
        )
        path = tmp_path / name
        write_segy(path, lambda part: values[tuple(part.T)], geometry, **how)
        return path, values * mask[..., None]

    return make
