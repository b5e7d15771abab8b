"""Which engine: what was measured here before, or what is measured now.

Measuring takes some seconds, so it is for work that takes longer; what it finds is remembered in
the user's cache, under what the answer depends on: network, tile size, threads, machine, versions.
"""

import hashlib
import json
import logging
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from diapir.errors import RunError
from diapir.inference.engine import (
    Engine,
    EngineChoice,
    build_engine,
    installed_backends,
    pass_size,
)
from diapir.inference.graph_store import cache_folder
from diapir.inference.signature import Floats
from diapir.io.atomic import write_bytes_atomic
from diapir.models.processor import has_fast_bf16, instructions, threads
from diapir.models.stored import AnyNet, built

WORTH_MEASURING = 2000
"""Tiles of 101 x 101, mirrored ones counted, from which measuring pays."""
WORTH_BUILDING = 300
"""The same, from which building an engine pays that was measured before."""
MOST_FLIPPED = 0.002
"""Share of pixels that a faster engine may call otherwise than float32 does."""
EXACT = 1e-4
"""Largest difference of logits of an exact engine, for logits up to 1, and in proportion above."""
BATCHES = (1, 2, 4, 8, 16, 32)
"""Sizes of batch that are tried, those near `pass_size`."""
_ROUNDS = 3, 12
"""Turns that engines take at least and at most."""
_LONG_ENOUGH = 2.0
"""Seconds after which no turn begins that is not one of the least."""
_CLEARLY = 1.05
"""How many times as fast as at the usual batch an engine has to be for another."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class MeasuredEngine:
    """What measuring has found.

    Args:
        engine: The fastest that keeps to the network's answers: the very one that was measured, as
            building another takes seconds.
        fastest: The fastest of all; another network may keep to its answers with it.
        seconds: A tile, of all that were measured.
    """

    engine: Engine
    fastest: EngineChoice
    seconds: dict[str, float]


def images_to_try(height: int, width: int) -> int:
    """Return on how many images of a size engines are tried: 32 tiles, as many pixels of larger.

    Engines are timed on half of them; their answers are compared on all.

    >>> images_to_try(101, 101), images_to_try(404, 404)
    (32, 2)
    """
    return 2 * pass_size(height, width)


def choose_engine(
    net: AnyNet, images: Floats, z_feet: Floats | None, precision: str
) -> MeasuredEngine:
    """Return the fastest engine that keeps to the network's answers, and what was measured.

    For CPUs; on a GPU there is nothing to choose between.

    Each candidate takes turns with the best one so far, so that a machine that slows down does so
    for both; the slower one goes, as every engine holds memory.

    Args:
        net: In evaluation mode.
        images: (N, 1, H, W) some of the tiles that are to be predicted: as many as
            `images_to_try` says, as tiles differ in how many pixels an engine flips.
        z_feet: (N,) their depths where the network has a depth channel.
        precision: 'float32' admits exact engines only.
    """
    shape = images.shape[-2], images.shape[-1]
    usual = pass_size(*shape)
    wanted = exact_logits(net, images, z_feet)
    some = max(1, images_to_try(*shape) // 2)
    timed = images[:some], None if z_feet is None else z_feet[:some]
    seconds: dict[EngineChoice, float] = {}
    # torch itself: at this precision it is the network's own answer
    best = build_engine(net, EngineChoice("eager", precision, usual), *shape)
    for choice in candidates(precision):
        try:
            engine = build_engine(net, replace(choice, batch=usual), *shape)
            found = engine(images, z_feet)
        except Exception as error:  # whatever another program raises: then it is not the one
            _log.debug("engine %s: %s", choice, error)
            continue
        faster = _faster(best, engine, *timed, seconds)
        if keeps_to(found, wanted, exact=precision == "float32"):
            best = faster
        del engine, faster  # the slower one holds memory, and the next is built now
    engines = {best.choice: best} | {
        choice: Engine(choice, best.run)
        for choice in (replace(best.choice, batch=batch) for batch in BATCHES)
        if usual // 4 <= choice.batch <= min(2 * usual, len(timed[0]))
    }
    by_batch = _seconds_a_tile(engines, *timed)
    # what is measured on a few tiles differs by some percent each time
    chosen = min(by_batch, key=lambda c: by_batch[c] * (1 if c == best.choice else _CLEARLY))
    fastest = min(seconds, key=seconds.__getitem__, default=chosen)
    return MeasuredEngine(
        engines[chosen],
        chosen if fastest == best.choice else fastest,
        {str(choice): value for choice, value in (seconds | by_batch).items()},
    )


def agrees(
    engine: Engine, net: AnyNet, images: Floats, z_feet: Floats | None, precision: str
) -> bool:
    """Whether an engine that another network has chosen keeps to this one's answers, too.

    Args:
        engine: Of this network.
        net: In evaluation mode.
        images: (N, 1, H, W) some of its tiles.
        z_feet: (N,) their depths where the network has a depth channel.
        precision: That was asked for, see `choose_engine`.
    """
    exact = precision == "float32"
    return keeps_to(engine(images, z_feet), exact_logits(net, images, z_feet), exact=exact)


def candidates(precision: str) -> list[EngineChoice]:
    """Return what is worth trying on a CPU beside torch itself.

    torch.compile is left out: it takes a minute to compile and has never been the fastest
    beside OpenVINO; who has nothing else asks for it by name.
    """
    low = precision in ("auto", "bf16") and has_fast_bf16()
    high = precision in ("auto", "float32")
    found: list[EngineChoice] = []
    for backend in installed_backends("cpu"):
        if backend == "openvino" and low:
            found.append(EngineChoice(backend, "bf16"))
        if backend in ("openvino", "onnxruntime") and high:
            found.append(EngineChoice(backend, "float32"))
    return found


def _faster(
    best: Engine,
    rival: Engine,
    images: Floats,
    z_feet: Floats | None,
    seconds: dict[EngineChoice, float],
) -> Engine:
    """Return the faster of two engines, and add the seconds a tile of both."""
    pair = {engine.choice: engine for engine in (best, rival)}
    found = _seconds_a_tile(pair, images, z_feet)
    seconds |= found
    return rival if found[rival.choice] < found[best.choice] else best


def exact_logits(net: AnyNet, images: Floats, z_feet: Floats | None) -> Floats:
    """Return the logits of torch in float32, which is what every engine is held to."""
    shape = images.shape[-2], images.shape[-1]
    usual = pass_size(*shape)
    network = built(net)
    own = network.autocast_dtype
    exact = build_engine(network, EngineChoice("eager", "float32", usual), *shape)
    try:
        return exact(images, z_feet)
    finally:  # an engine in use may run this very network
        network.autocast_dtype = own


def keeps_to(found: Floats, wanted: Floats, *, exact: bool) -> bool:
    """Whether logits agree with those of float32 as well as an engine of this kind has to."""
    if exact:
        scale = max(1.0, float(np.abs(wanted).max()))
        return float(np.abs(found - wanted).max()) <= EXACT * scale
    return float(((found > 0) != (wanted > 0)).mean()) <= MOST_FLIPPED


def _seconds_a_tile(
    engines: dict[EngineChoice, Engine], images: Floats, z_feet: Floats | None
) -> dict[EngineChoice, float]:
    """Return the seconds of each engine's best round; whatever else runs here only adds to it."""
    best = dict.fromkeys(engines, math.inf)
    began = time.perf_counter()
    for done in range(_ROUNDS[1]):
        if done >= _ROUNDS[0] and time.perf_counter() - began > _LONG_ENOUGH:
            break
        for choice, engine in engines.items():
            started = time.perf_counter()
            engine(images, z_feet)
            seconds = (time.perf_counter() - started) / len(images)
            best[choice] = min(best[choice], seconds)
    return best


class EngineMemory:
    """Choices of earlier runs, in one JSON file of the user's cache; what cannot be read is lost.

    Args:
        path: The file; None: `engines.json` in the folder that `DIAPIR_CACHE` names, or in the
            user's cache.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.path = path or cache_folder() / "engines.json"

    def recall(self, key: str) -> EngineChoice | None:
        """Return what was remembered under a key."""
        try:
            return EngineChoice(**self._read()[key]["choice"])
        except (KeyError, TypeError):
            return None

    def remember(self, key: str, choice: EngineChoice, seconds: dict[str, float]) -> None:
        """Keep a choice and what was measured; a cache that cannot be written is no error."""
        entries = self._read() | {key: {"choice": choice.as_dict(), "seconds a tile": seconds}}
        try:
            write_bytes_atomic(self.path, json.dumps(entries, indent=2).encode())
        except RunError as error:
            _log.debug("engines are not remembered: %s", error)

    def _read(self) -> dict[str, Any]:
        try:
            entries = json.loads(self.path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return entries if isinstance(entries, dict) else {}


def memory_key(net: AnyNet, shape: Sequence[int], precision: str, weights: str = "") -> str:
    """Return what a choice depends on, as a short name: another machine or version, another key.

    Choices are for CPUs: on a GPU there is nothing to choose between.

    Args:
        net: Its architecture counts.
        shape: Of the tiles.
        precision: That was asked for.
        weights: Name of the network's weights; without, the key is that of all networks alike, and
            of what was the fastest whatever it did to the answers of one.
    """
    facts = {
        "weights": weights,
        "network": net.config.model_dump(mode="json"),
        "shape": list(shape),
        "precision": precision,
        "threads": threads(),
        "device": instructions(),
        "backends": installed_backends("cpu"),
        "versions": [_version(name) for name in ("diapir", "torch", "openvino", "onnxruntime")],
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:24]


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "none"
