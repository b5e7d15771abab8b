"""SEG-Y into a Zarr store that opens at once: bounded memory, and resumable after any end."""

import json
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from diapir.errors import DataError, RunError
from diapir.io.atomic import remove_folder, write_text_atomic
from diapir.io.lock import sole_writer
from diapir.io.segy import SegyOptions
from diapir.io.segy_layout import open_file
from diapir.io.segy_volume import SegySurvey, read_survey
from diapir.io.stores import JOURNAL, is_store, open_store
from diapir.io.volume import CHUNK, make_volume
from diapir.progress import counting

if TYPE_CHECKING:
    import xarray as xr

Block = tuple[slice, ...]

_VERSION = 1


@dataclass(frozen=True)
class Ingested:
    """What an ingest did.

    Args:
        volume: The store, opened.
        survey: The file.
        blocks: Blocks in all.
        written: Blocks that this call wrote; fewer than all after an interruption.
    """

    volume: "xr.Dataset"
    survey: SegySurvey
    blocks: int
    written: int


def ingest(
    source: Path,
    store: Path,
    options: SegyOptions | None = None,
    *,
    overwrite: bool = False,
    workers: int = 2,
    chunk: int = CHUNK,
    progress: bool = False,
) -> Ingested:
    """Write a SEG-Y file as a Zarr store that `open_volume` opens.

    A block is a column of chunks, with all samples of its traces; each worker holds one. Finished
    blocks are noted in the store, so that a second call after an interruption goes on from there.

    Args:
        source: SEG-Y file.
        store: Folder to write, usually ``.zarr``; of a link, what it leads to.
        options: How to read the file.
        overwrite: Replace a finished store, whatever it comes from.
        workers: Threads that read and write.
        chunk: Edge of a chunk on each axis.
        progress: Show bars.

    Raises:
        DataError: The file cannot be read, is pre-stack, or makes no grid.
        RunError: The store cannot be written, holds something else, or another process writes it.
    """
    if store.is_symlink():  # it stays one: a store on another disk is written where it leads
        store = Path(os.path.realpath(store))
    with sole_writer(store):
        return _ingest(source, store, options or SegyOptions(), overwrite, workers, chunk, progress)


def _ingest(
    source: Path,
    store: Path,
    options: SegyOptions,
    overwrite: bool,
    workers: int,
    chunk: int,
    progress: bool,
) -> Ingested:
    from dask.base import compute
    from dask.delayed import delayed

    traces = open_file(source, options).traces
    with counting(traces, "reading headers", shown=progress) as advance:
        survey = read_survey(source, options, advance)
    head = json.dumps(
        {"version": _VERSION, "fingerprint": survey.fingerprint, "chunk": chunk}, sort_keys=True
    )
    blocks = list(_blocks(survey.amplitudes.shape[:-1], chunk))
    if not overwrite and _is_finished(store, survey):
        return Ingested(open_store(store), survey, len(blocks), 0)
    _prepare(store, survey, chunk, head, overwrite)
    done = _read_journal(store)
    # afresh: the next number must not be appended to what is left of one that was cut off
    write_text_atomic(store / JOURNAL, "".join(f"{line}\n" for line in (head, *sorted(done))))
    left = [(number, block) for number, block in enumerate(blocks) if number not in done]
    try:
        with counting(len(left), "copying blocks", shown=progress) as advance:
            write = _BlockWriter(store, survey, chunk, advance)
            tasks = [delayed(write)(number, block) for number, block in left]
            compute(*tasks, scheduler="threads", num_workers=workers)
        (store / JOURNAL).unlink()
    except OSError as error:
        raise _cannot_write(store, error) from error
    return Ingested(open_store(store), survey, len(blocks), len(left))


class _BlockWriter:
    """Copies blocks from the file to the store, and notes each when it is whole."""

    def __init__(
        self, store: Path, survey: SegySurvey, chunk: int, advance: Callable[[int], None]
    ) -> None:
        import zarr

        self._amplitude: Any = zarr.open_group(str(store), mode="r+")["amplitude"]
        self._survey = survey
        self._chunk = chunk
        self._journal = store / JOURNAL
        self._advance = advance
        self._lock = threading.Lock()

    def __call__(self, number: int, block: Block) -> None:
        """Write one block."""
        samples = self._survey.file.samples
        box = self._survey.amplitudes[(*block, slice(0, samples))]
        for start in range(0, samples, self._chunk):
            part = slice(start, min(start + self._chunk, samples))
            self._amplitude[(*block, part)] = np.ascontiguousarray(box[..., part])
        with self._lock:
            with self._journal.open("a", encoding="ascii") as file:
                file.write(f"{number}\n")
            self._advance(1)


def _blocks(shape: tuple[int, ...], chunk: int) -> Iterator[Block]:
    axes = [
        [slice(start, min(start + chunk, size)) for start in range(0, size, chunk)]
        for size in shape
    ]
    yield from product(*axes)


def _is_finished(store: Path, survey: SegySurvey) -> bool:
    if not store.is_dir() or (store / JOURNAL).exists():
        return False
    try:
        return bool(open_store(store).attrs.get("fingerprint") == survey.fingerprint)
    except DataError:
        return False


def _prepare(store: Path, survey: SegySurvey, chunk: int, head: str, overwrite: bool) -> None:
    """Make an empty store with all coordinates, unless one for the same work stands there."""
    journal = store / JOURNAL
    if journal.exists() and journal.read_text(encoding="ascii").split("\n", 1)[0] == head:
        return
    making = store.with_name(f".{store.name}.making")
    try:
        if store.exists():
            if not overwrite:
                raise RunError(
                    "there is something else already",
                    where=store,
                    mend="Choose another name, or pass --overwrite.",
                )
            _check_is_store(store)
        remove_folder(store)
        shutil.rmtree(making, ignore_errors=True)
        store.parent.mkdir(parents=True, exist_ok=True)
        _write_empty(making, survey, chunk)
        (making / JOURNAL).write_text(f"{head}\n", encoding="ascii")
        # the store appears with everything but its samples, or not at all
        making.rename(store)
    except OSError as error:
        raise _cannot_write(store, error) from error


def _write_empty(path: Path, survey: SegySurvey, chunk: int) -> None:
    import dask.array as da

    shape = survey.amplitudes.shape
    chunks = tuple(min(chunk, size) for size in shape)
    volume = make_volume(
        da.zeros(shape, dtype=np.float32, chunks=chunks),
        survey.grid.geometry,
        source=str(survey.file.path),
        fingerprint=survey.fingerprint,
        statistics=survey.statistics,
        segy=survey.facts(),
    )
    # 0 is what stands where no trace is, and need not be stored; no value means "missing"
    encoding = {"amplitude": {"chunks": chunks, "fill_value": 0.0, "_FillValue": None}}
    volume.to_zarr(
        path, mode="w", compute=False, zarr_format=3, consolidated=False, encoding=encoding
    )


def _read_journal(store: Path) -> set[int]:
    lines = (store / JOURNAL).read_text(encoding="ascii").split("\n")[1:]
    # the last line may have been cut off while it was written: only lines with an end count
    return {int(line) for line in lines[:-1] if line.isdigit()}


def _check_is_store(store: Path) -> None:
    """Leave other folders and files where they are, whatever was asked for."""
    if not is_store(store):
        raise RunError(
            "it is no Zarr store, and will not be overwritten",
            where=store,
            mend="Choose another name.",
        )


def _cannot_write(store: Path, error: OSError) -> RunError:
    return RunError(
        f"cannot write the store: {error.strerror or error}",
        where=store,
        mend="Free some space or choose another place; the same command goes on afterwards.",
    )
