"""Predicts a survey along inlines and crosslines, block by block, into a Zarr store.

A block is a few whole lines. Those along inlines go into a scratch array; those along crosslines
take it up, average, and write the results. So no section is cut, no window is predicted twice, and
a worker holds the lines of one block at a time.
"""

import copy
import json
import multiprocessing
import os
import sys
import threading
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from diapir.errors import RunError
from diapir.inference.journal import Journal
from diapir.inference.look import Look
from diapir.inference.schedule import Workers, open_pool
from diapir.inference.sections import SectionModel, Tiling, predict_section
from diapir.io.atomic import disk_told

if TYPE_CHECKING:
    import xarray as xr

STORE = "salt.zarr"
"""Name of the store with `probability`, `mask` and `disagreement`."""

Direction = Literal["inline", "crossline", "line"]

_BLOCK_BYTES = 64 << 20
"""What the arrays of a block may take, whatever the size of the survey."""
_BYTES_A_SAMPLE = 10  # amplitudes, which become probabilities, a copy while they are read, the rest
_MOST_LINES = 16  # so that there are blocks to share out, and little is lost when one is killed
_NARROW = 32  # traces; the sections across are not predicted where they would be narrower
_CHUNK_LINES = 64


class Block(NamedTuple):
    """Some neighbouring lines of one direction; `line` is a whole 2-D line."""

    direction: Direction
    start: int
    stop: int

    @property
    def name(self) -> str:
        """Name of its record in the journal."""
        return f"{self.direction}-{self.start:06d}"


@dataclass(frozen=True)
class Plan:
    """The blocks of a survey; it depends on the survey's size alone, never on who computes.

    Args:
        shape: (inlines, crosslines, samples), or (traces, samples) of a 2-D line.
        directions: In the order in which they are predicted.
        lines: Lines a block.
    """

    shape: tuple[int, ...]
    directions: tuple[Direction, ...]
    lines: int

    @classmethod
    def of(
        cls, shape: tuple[int, ...], directions: str = "both", lines: int | None = None
    ) -> "Plan":
        """Return the plan of a survey.

        Args:
            shape: As above.
            directions: 'both', 'inline' or 'crossline'; a direction whose sections are narrow is
                left out of 'both'.
            lines: Lines a block; None: as many as fit into a fixed amount of memory, 16 at most.
        """
        if len(shape) == 2:
            return cls(shape, ("line",), shape[0])
        fitting = _BLOCK_BYTES // (_BYTES_A_SAMPLE * max(shape[:2]) * shape[2])
        lines = lines or int(np.clip(fitting, 1, _MOST_LINES))
        if directions != "both":
            return cls(shape, (_direction(directions),), lines)
        wide = [
            d for d, n in zip(("inline", "crossline"), shape[1::-1], strict=True) if n > _NARROW
        ]
        if not wide:
            wide = ["inline" if shape[1] >= shape[0] else "crossline"]
        return cls(shape, tuple(_direction(d) for d in wide), lines)

    def blocks(self, direction: Direction) -> list[Block]:
        """Return the blocks of one direction."""
        count = self.shape[1 if direction == "crossline" else 0]
        return [
            Block(direction, start, min(start + self.lines, count))
            for start in range(0, count, self.lines)
        ]


def _direction(name: str) -> Direction:
    return "crossline" if name == "crossline" else "inline"


@dataclass(frozen=True)
class Job:
    """All that a worker needs to compute a block; picklable.

    Args:
        key: Tells this job from others in what a worker keeps between blocks.
        open_source: Returns the survey as a dataset with `amplitude`.
        load_model: Returns the networks.
        look: From amplitudes to grey values.
        tiling: Resampling and windows.
        threshold: A sample is salt where its probability is greater.
        journal: Takes the records; the stores lie in its folder.
        last: Direction whose blocks write the results.
        scratch: Whether there is another direction to average with.
    """

    key: str
    open_source: Callable[[], "xr.Dataset"]
    load_model: Callable[[], SectionModel]
    look: Look
    tiling: Tiling
    threshold: float
    journal: Journal
    last: Direction
    scratch: bool

    def __call__(self, block: Block) -> dict[str, float]:
        """Predict and store a block; return its seconds, in all and inside the networks.

        A block that the journal holds is not done again: Dask asks for the results of a worker that
        died once more, also of those that it had finished.
        """
        import dask
        import zarr

        block = Block(*block)  # Dask hands over a plain tuple
        finished = self.journal.find(block.name)
        if finished is not None:
            return finished
        started = time.perf_counter()
        # few chunks in flight: each is decoded whole, and memory is to stay bounded
        with dask.config.set(scheduler="synchronous"), zarr.config.set({"async.concurrency": 2}):
            survey, model = _resources(self)
            probs = self._predict(survey, model, block)
            self._store(block, probs)
        measured = {
            "seconds": round(time.perf_counter() - started, 4),
            "model_seconds": round(model.model_seconds, 4),
        }
        self.journal.record(block.name, measured)
        return measured

    def _predict(
        self, survey: "xr.Dataset", model: SectionModel, block: Block
    ) -> NDArray[np.float32]:
        """Return the probabilities of a block, shaped as its part of the survey.

        Where no trace was recorded, or a dead one, there is no salt.
        """
        where = _lines(block)
        probs = np.asarray(survey["amplitude"][where])
        # the probabilities go where the amplitudes were, unless those belong to somebody else
        if not (probs.flags.owndata and probs.flags.writeable and probs.dtype == np.float32):
            probs = np.array(probs, np.float32)
        live = np.asarray(survey["trace_mask"][where[:2]] if "trace_mask" in survey else True)
        axis = 1 if block.direction == "crossline" else 0
        sections = probs[None] if block.direction == "line" else np.moveaxis(probs, axis, 0)
        for section in sections:
            _stop_if_orphaned()
            section[...] = predict_section(section, model, self.look, self.tiling)
        probs[~np.broadcast_to(live, probs.shape[:-1])] = 0
        return probs

    def _store(self, block: Block, probs: NDArray[np.float32]) -> None:
        import zarr

        folder, where = self.journal.folder, _lines(block)
        if block.direction != self.last:
            zarr.open_array(folder / "along.zarr", mode="r+")[where] = probs
            return
        group: Any = zarr.open_group(folder / STORE, mode="r+")
        along: Any = zarr.open_array(folder / "along.zarr", mode="r") if self.scratch else None
        # a row of chunks at a time: what is made on the way stays small beside the block
        axis = 0 if block.direction == "crossline" else 1
        rows = group["probability"].chunks[axis]
        for start in range(0, probs.shape[axis], rows):
            part = slice(start, start + rows)
            own = probs[(slice(None),) * axis + (part,)]
            at = (part, where[1]) if axis == 0 else (*where, part)
            if along is not None:
                other = np.asarray(along[at])
                group["disagreement"][at] = np.abs(own - other)
                own += other
                own *= np.float32(0.5)
            group["probability"][at] = own
            # float(): the comparison is to be one of float32, whatever the type of the threshold
            group["mask"][at] = (own > float(self.threshold)).astype(np.uint8)


def _lines(block: Block) -> tuple[slice, ...]:
    own = slice(block.start, block.stop)
    return (slice(None), own) if block.direction == "crossline" else (own,)


_kept: dict[str, tuple["xr.Dataset", SectionModel]] = {}
_keeping = threading.Lock()


def _resources(job: Job) -> tuple["xr.Dataset", SectionModel]:
    """Return survey and networks of a job, opened once a process; with a clock of one's own."""
    with _keeping:
        if job.key not in _kept:
            _kept.clear()
            _kept[job.key] = job.open_source(), job.load_model()
        survey, model = _kept[job.key]
    _one_thread()
    own: SectionModel = _with_own_clock(model)
    return survey, own


def _with_own_clock(model: Any) -> Any:
    """Return a model that shares the networks but counts its own seconds, from 0 on."""
    own = copy.copy(model)
    own.model_seconds = 0.0
    return own


def _stop_if_orphaned() -> None:
    """End a worker process whose owner was killed: the one that goes on does its blocks again."""
    owner = multiprocessing.parent_process()
    if owner is not None and not owner.is_alive():
        os._exit(1)


def _one_thread() -> None:
    """Let torch compute in one thread here; the setting belongs to the calling thread."""
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)


@dataclass(frozen=True)
class Prediction:
    """What `predict_volume` took.

    Args:
        store: The finished store.
        blocks: In all.
        resumed: Of these, found done.
        seconds: Wall time of this call.
        model_seconds: Inside the networks, over all workers and earlier calls.
        block_seconds: In the blocks, likewise.
    """

    store: Path
    blocks: int
    resumed: int
    seconds: float
    model_seconds: float
    block_seconds: float


def predict_volume(
    job: Job,
    plan: Plan,
    survey: "xr.Dataset",
    workers: Workers,
    *,
    attributes: dict[str, Any] | None = None,
    advance: Callable[[int], None] = lambda _: None,
) -> Prediction:
    """Predict all blocks that the journal does not hold yet; return where the results lie.

    The results are the same bytes for any number of workers, processes or threads, and however
    often the prediction was interrupted.

    Args:
        job: What each block needs.
        plan: The blocks.
        survey: Gives the coordinates of the results.
        workers: Who computes.
        attributes: Of the store.
        advance: Called with the number of blocks done.

    Raises:
        RunError: Workers died, the scheduler was lost, a direction has ended without all of its
            blocks, or the disk is full.
    """
    # Zarr writes by itself, and workers hand its errors on
    with disk_told(job.journal.folder.parent, "the map"):
        return _predict_volume(job, plan, survey, workers, attributes or {}, advance)


def _predict_volume(
    job: Job,
    plan: Plan,
    survey: "xr.Dataset",
    workers: Workers,
    attributes: dict[str, Any],
    advance: Callable[[int], None],
) -> Prediction:
    started = time.perf_counter()
    if not (job.journal.folder / "ready").exists():
        job.journal.forget()
        _create_stores(job, plan, survey, attributes)
    done = job.journal.done()
    resumed = len(done)
    advance(resumed)
    records = list(done.values())

    def note(record: dict[str, float]) -> None:
        records.append(record)
        advance(1)

    waiting = {d: [b for b in plan.blocks(d) if b.name not in done] for d in plan.directions}
    if any(waiting.values()):
        with open_pool(workers.at_most(max(map(len, waiting.values())))) as pool:
            for direction in plan.directions:
                pool.run(job, waiting[direction], note)
                _check_whole(job.journal, plan.blocks(direction))
    return Prediction(
        store=job.journal.folder / STORE,
        blocks=len(records),
        resumed=resumed,
        seconds=time.perf_counter() - started,
        model_seconds=sum(record["model_seconds"] for record in records),
        block_seconds=sum(record["seconds"] for record in records),
    )


def _check_whole(journal: Journal, blocks: list[Block]) -> None:
    """Refuse to go on without a block: the next direction would average with zeros.

    Raises:
        RunError: The journal does not hold all blocks.
    """
    done = journal.done()
    missing = [block.name for block in blocks if block.name not in done]
    if missing:
        raise RunError(
            f"{len(missing):,} of {len(blocks):,} blocks were not written, first {missing[0]}",
            where=journal.folder,
            expected="the records of all blocks in this folder, which every worker must see",
            mend="Run it again to go on.",
        )


def _create_stores(job: Job, plan: Plan, survey: "xr.Dataset", attributes: dict[str, Any]) -> None:
    """Write empty stores with the survey's coordinates."""
    import zarr

    path = job.journal.folder / STORE
    coords = survey.coords.to_dataset().reset_coords(drop=False)
    names = [str(name) for name in survey["amplitude"].dims]
    extra = [str(name) for name in coords.data_vars]
    coords = coords.set_coords(extra).load().drop_encoding()
    coords.attrs = {"title": "salt", **attributes}
    coords.to_zarr(path, mode="w", zarr_format=3, consolidated=False)
    group = zarr.open_group(path, mode="r+")
    what = {
        "probability": ("float32", "probability of salt, mean of both directions"),
        "mask": ("uint8", "1 where the probability exceeds the threshold"),
    }
    if job.scratch:
        what["disagreement"] = ("float32", "difference of the probabilities of both directions")
    for name, (dtype, description) in what.items():
        group.create_array(
            name,
            shape=plan.shape,
            chunks=_chunks(plan, job.last),
            dtype=dtype,
            fill_value=0,
            dimension_names=names,
            attributes={"long_name": description, "coordinates": " ".join(extra)},
        )
    if job.scratch:
        zarr.create_array(
            job.journal.folder / "along.zarr",
            shape=plan.shape,
            chunks=_chunks(plan, plan.directions[0]),
            dtype="float32",
            fill_value=0,
            overwrite=True,
        )
    with warnings.catch_warnings():
        # not in the format's standard yet; without it xarray warns of slowness on opening
        warnings.filterwarnings("ignore", "Consolidated metadata")
        zarr.consolidate_metadata(path)
    (job.journal.folder / "ready").touch()


def _chunks(plan: Plan, direction: Direction) -> tuple[int, ...]:
    """Return chunks that no two blocks of a direction share, so that each can be written alone."""
    if direction == "line":
        return tuple(min(1024, size) for size in plan.shape)
    lines = [min(_CHUNK_LINES, size) for size in plan.shape[:2]]
    axis = 1 if direction == "crossline" else 0
    lines[axis] = min(plan.lines, plan.shape[axis])
    return (*lines, min(1024, plan.shape[2]))


def store_attributes(key: str, settings: dict[str, Any]) -> dict[str, Any]:
    """Return what a store says of how it was made."""
    return {"diapir_key": key, "diapir_settings": json.dumps(settings, sort_keys=True)}
