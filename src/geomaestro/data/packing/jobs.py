"""Independent work items of a fixed list, run one by one, in a pool of processes, or by Dask.

An item's result depends on the item alone, and items that were done before are left as they are by the work itself:
so a job can be stopped at any moment, repeated, and cut in shares (`--shard i/n`) for machines that know nothing of
each other.
"""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, Self, TypeVar, get_args

from geomaestro.errors import RunError, SpecError

T = TypeVar("T")
R = TypeVar("R")
Engine = Literal["processes", "serial", "dask"]


@dataclass(frozen=True, kw_only=True)
class Jobs:
    """How work items are run: with which engine, by how many workers, and which share of them.

    `shard` (i, n): of n shares, number i from 0. `scheduler` is the address of a running Dask scheduler; without, Dask
    starts its workers on this machine.
    """

    engine: Engine = "processes"
    workers: int = 1
    shard: tuple[int, int] = (0, 1)
    scheduler: str | None = None

    def __post_init__(self) -> None:
        if self.engine not in get_args(Engine):
            raise SpecError(f"engine {self.engine!r} is not one of {', '.join(get_args(Engine))}")
        if self.workers < 1:
            raise SpecError(f"{self.workers} workers: give 1 or more")
        number, count = self.shard
        if not 0 <= number < count:
            raise SpecError(f"shard {number}/{count}: give i/n with i from 0 to n - 1, such as 0/4")

    @classmethod
    def of(
        cls, engine: str = "processes", workers: int | None = None, shard: str = "0/1", scheduler: str | None = None
    ) -> Self:
        """Jobs from the words of a command; as many workers as there are processors unless said otherwise.

        Raises:
            SpecError: saying what is wrong with a word.
        """
        number, slash, count = shard.partition("/")
        if not (slash and number.isdecimal() and count.isdecimal()):
            raise SpecError(f"shard {shard!r} is not i/n, such as 0/4")
        part = (int(number), int(count))
        many = _processors() if workers is None else workers
        return cls(engine=engine, workers=many, shard=part, scheduler=scheduler)  # type: ignore[arg-type]

    def share(self, items: Sequence[T]) -> list[T]:
        """The items of this share, every n-th."""
        number, count = self.shard
        return list(items[number::count])


def _processors() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run(work: Callable[[T], R], items: Sequence[T], how: Jobs) -> Iterator[R]:
    """Results of `work` on each of `items`, in the order in which they are done; the first error ends it.

    `work`, items and results travel between processes: a function of a module, or a `partial` of one.
    """
    if how.engine == "dask":
        yield from _by_dask(work, items, how)
    elif how.engine == "serial" or how.workers == 1 or len(items) < 2:
        yield from map(work, items)
    else:
        yield from _by_processes(work, items, min(how.workers, len(items)))


def _by_processes(work: Callable[[T], R], items: Sequence[T], workers: int) -> Iterator[R]:
    # Spawned, not forked: a fork inherits the locks of pyarrow's and GDAL's threads in whatever state they are.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_follow_parent) as pool:
        futures = [pool.submit(work, item) for item in items]
        try:
            for future in as_completed(futures):
                yield future.result()
        except BrokenProcessPool:
            raise RunError(
                "a worker process was killed, perhaps for want of memory; what is finished is kept: "
                f"run the same command again with fewer than {workers} workers"
            ) from None
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _follow_parent() -> None:
    """End with the process that started this one, even if it was killed; leave Ctrl-C to it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None, "run in a pool"

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _by_dask(work: Callable[[T], R], items: Sequence[T], how: Jobs) -> Iterator[R]:
    with _dask_client(how) as client:
        from distributed import as_completed as dask_completed

        futures = client.map(work, list(items), pure=False)
        try:
            for future in dask_completed(futures, loop=client.loop):
                yield future.result()
        finally:
            client.cancel(futures)


@contextmanager
def _dask_client(how: Jobs) -> Iterator[Any]:
    try:
        from distributed import Client, LocalCluster
    except ImportError:
        raise SpecError("Dask is not installed; `pip install geomaestro[dask]`, or choose --engine processes") from None
    if how.scheduler is not None:
        try:
            client = Client(how.scheduler, set_as_default=False)
        except (OSError, ValueError) as error:
            raise SpecError(f"no Dask scheduler answers at {how.scheduler!r} ({error})") from None
        with client:
            yield client
        return
    with (
        LocalCluster(n_workers=how.workers, threads_per_worker=1, dashboard_address=None) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        yield client
