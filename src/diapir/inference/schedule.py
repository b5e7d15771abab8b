"""Runs the blocks of a prediction one by one, in local workers, or on a Dask cluster."""

import pkgutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

from diapir import __version__
from diapir.errors import RunError
from diapir.models.processor import usable_cores

if TYPE_CHECKING:
    from distributed import Client

Block = TypeVar("Block")
WORKERS_WITHIN_SECONDS = 60
"""So long a cluster may be without any worker before that is an error."""


@dataclass(frozen=True)
class Workers:
    """Who computes.

    Args:
        count: Workers on this machine; None: one for each GPU, or each core without any. One worker
            computes in this very process.
        processes: Workers are processes; otherwise threads of this one.
        scheduler: Address of a running Dask scheduler instead, such as 'tcp://10.0.0.1:8786'; its
            workers must see the same files under the same paths.
    """

    count: int | None = None
    processes: bool = True
    scheduler: str | None = None

    @property
    def local_count(self) -> int:
        """Workers on this machine."""
        return self.count or _processors()

    def at_most(self, blocks: int) -> "Workers":
        """Return these workers without those for whom there would be no block.

        Starting a process takes seconds; a survey of one block is sooner done without.
        """
        if self.scheduler is not None:
            return self
        return replace(self, count=max(1, min(self.local_count, blocks)))

    def __str__(self) -> str:
        if self.scheduler is not None:
            return f"Dask cluster at {self.scheduler}"
        kind = "processes" if self.processes else "threads"
        return f"{self.local_count} {kind}" if self.local_count > 1 else "one worker"


@contextmanager
def open_pool(workers: Workers) -> Iterator["Pool"]:
    """Yield a pool that computes blocks until the context ends.

    Raises:
        RunError: The scheduler cannot be reached, has no worker, or one without this Diapir.
    """
    if workers.scheduler is None and workers.local_count == 1:
        yield Pool(None)
        return
    with _connected(workers) as client:
        yield Pool(client)


class Pool:
    """Computes blocks in this process, or through a Dask client.

    Args:
        client: None: in this process.
    """

    def __init__(self, client: "Client | None") -> None:
        self._client = client

    def run(
        self,
        task: Callable[[Block], Any],
        blocks: Sequence[Block],
        done: Callable[[Any], None],
    ) -> None:
        """Compute every block; the order in which they end is anyone's.

        Args:
            task: Computes one block; picklable.
            blocks: Its arguments.
            done: Called in this thread with each result.

        Raises:
            RunError: Workers died again and again, or the scheduler was lost.
            DiapirError: Whatever the task raised.
        """
        if self._client is None:
            for block in blocks:
                done(task(block))
            return
        from distributed import as_completed
        from distributed.scheduler import KilledWorker

        # the task goes to each worker once; blocks are named, so that equal ones are not merged
        futures = self._client.map(task, blocks, pure=False, retries=0)
        try:
            # its own loop: this client is nobody's default
            ended = as_completed(futures, loop=self._client.loop, with_results=True)
            for future, result in ended:
                if future.cancelled():  # its result is the error, which as_completed does not raise
                    raise RunError(
                        "the connection to the Dask scheduler was lost",
                        mend="Run it again to go on, once the scheduler can be reached.",
                    )
                future.release()  # else Dask computes it again when the worker that has it dies
                done(result)
        except KilledWorker as error:
            raise RunError(
                f"workers died: {error}",
                mend="Give fewer --workers if memory ran out, then run it again to go on.",
            ) from error
        finally:
            self._client.cancel(futures)


@contextmanager
def _connected(workers: Workers) -> Iterator["Client"]:
    import dask
    from distributed import Client, LocalCluster

    quiet = {
        "distributed.worker.memory.target": False,  # nothing is kept that could be spilled
        "distributed.worker.memory.spill": False,
        "distributed.worker.memory.pause": False,
        "distributed.worker.memory.terminate": False,
        "distributed.scheduler.worker-saturation": 1.0,
        "distributed.worker.daemon": True,
    }
    with dask.config.set(quiet):
        if workers.scheduler is not None:
            try:
                client = Client(workers.scheduler, timeout="30s", set_as_default=False)
            except (OSError, ValueError) as error:
                raise RunError(
                    f"cannot reach the Dask scheduler: {error}",
                    where=f"--scheduler {workers.scheduler}",
                    mend="Check that it runs and that the address is that of 'dask scheduler'.",
                ) from error
            with client:
                _check_cluster(client, workers.scheduler)
                yield client
            return
        count = workers.local_count
        with (
            LocalCluster(
                n_workers=count if workers.processes else 1,
                threads_per_worker=1 if workers.processes else count,
                processes=workers.processes,
                dashboard_address=None,
                silence_logs=50,
                memory_limit=0,
            ) as cluster,
            Client(cluster, set_as_default=False) as client,
        ):
            yield client


def _check_cluster(client: "Client", address: str) -> None:
    """Raise `RunError` where a cluster would wait for ever: without workers, or without Diapir."""
    where = f"--scheduler {address}"
    try:
        client.wait_for_workers(1, timeout=WORKERS_WITHIN_SECONDS)
    except TimeoutError as error:
        raise RunError(
            f"no worker has joined the Dask cluster within {WORKERS_WITHIN_SECONDS} seconds",
            where=where,
            mend=f"Start some with 'dask worker {address}', then run it again.",
        ) from error
    # imports diapir over there, and is found anywhere, being of the standard library
    probe = (pkgutil.resolve_name, "diapir:__version__")
    found: dict[str, Any] = client.run(*probe, on_error="return")
    try:
        found["the scheduler"] = client.run_on_scheduler(*probe)
    except Exception as error:  # whatever the import over there raised
        found["the scheduler"] = error
    unfit = {who: version for who, version in found.items() if version != __version__}
    if unfit:
        who, version = next(iter(unfit.items()))
        failed = isinstance(version, Exception)
        raise RunError(
            f"{len(unfit)} of {len(found)} processes of the Dask cluster cannot run this Diapir, "
            f"first {who}: {f'{type(version).__name__}: ' if failed else 'it has '}{version}",
            where=where,
            expected=f"Diapir {__version__} at the scheduler and every worker",
            mend="Install there what is installed here, or start them in this environment.",
        )


def _processors() -> int:
    import torch

    cards = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if cards:
        return cards
    return usable_cores()
