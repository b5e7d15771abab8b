"""Graphs of earlier runs, in the user's cache: with one at hand no network has to be built."""

import hashlib
import logging
import os
from contextlib import suppress
from functools import cache
from importlib.metadata import version
from pathlib import Path

from diapir import models
from diapir.errors import RunError
from diapir.io.atomic import write_bytes_atomic
from diapir.models.stored import AnyNet, StoredNet, built

_MOST_BYTES = 1 << 30
"""Of all graphs together; the oldest go first."""
_DIGEST = 32
"""Bytes of a SHA-256, which a file begins with."""

_log = logging.getLogger(__name__)


def cache_folder() -> Path:
    """Return where Diapir keeps what it can find out again."""
    own = os.environ.get("DIAPIR_CACHE")
    if own:
        return Path(own)
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "diapir"
    except RuntimeError:  # a user without a home: nothing can be kept
        return Path(os.devnull)


def graph_of(net: AnyNet, height: int, width: int) -> bytes:
    """Return `graphs.logits_graph` of a network, from the cache where it is there.

    Graphs of networks from a file are kept for the next run; a cache that cannot be read or written
    is no error.
    """
    if not isinstance(net, StoredNet):
        return _made(net, height, width)
    path = _folder() / f"{_key(net)}-{height}x{width}.graph"
    known = _read(path)
    if known is not None:
        return known
    graph = _made(net, height, width)
    if len(graph) < _MOST_BYTES:
        _keep(path, graph)
    return graph


def _made(net: AnyNet, height: int, width: int) -> bytes:
    from diapir.inference.graphs import logits_graph  # torch comes with it

    return logits_graph(built(net), height, width)


def has_graph(net: StoredNet) -> bool:
    """Whether a graph of these weights is kept, for any size of tile: so they were usable."""
    try:
        return any(_folder().glob(f"{_key(net)}-*.graph"))
    except OSError:  # a cache that cannot be read is no error
        return False


def _folder() -> Path:
    return cache_folder() / "graphs"


def _key(net: StoredNet) -> str:
    """Return what a graph depends on beside the size of tiles, as a short name."""
    facts = (net.name, _sources(), version("torch"), version("timm"))
    return hashlib.sha256("\n".join(facts).encode()).hexdigest()[:24]


@cache
def _sources() -> str:
    """Return the digest of the code that makes graphs: another code, another graph."""
    files = [Path(__file__).with_name("graphs.py"), *sorted(Path(models.__path__[0]).glob("*.py"))]
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


def _read(path: Path) -> bytes | None:
    """Return a graph, None where the file is not there or is not what was written."""
    try:
        stored = path.read_bytes()
    except OSError:
        return None
    with suppress(OSError):  # a cache that others fill and this user only reads
        os.utime(path)  # the last one to go
    graph = stored[_DIGEST:]
    return graph if hashlib.sha256(graph).digest() == stored[:_DIGEST] else None


def _keep(path: Path, graph: bytes) -> None:
    try:
        _make_room(path.parent, len(graph))
        write_bytes_atomic(path, hashlib.sha256(graph).digest() + graph)
    except (RunError, OSError) as error:
        _log.debug("the graph is not kept: %s", error)


def _make_room(folder: Path, needed: int) -> None:
    oldest_last = sorted(
        ((file.stat().st_mtime, file.stat().st_size, file) for file in folder.glob("*.graph")),
        reverse=True,
    )
    total = needed
    for _, size, file in oldest_last:
        total += size
        if total > _MOST_BYTES:
            file.unlink(missing_ok=True)
