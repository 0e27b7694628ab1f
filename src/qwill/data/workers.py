"""One function over many items: in this process, in a pool of processes, or on Ray; the answers are the same.

The function is pure (an item's answer depends on that item alone), so how items are spread changes no byte. Workers are
started by a fork server, not forked from this process, whose threads (display, OpenMP) a fork would leave half alive;
they end with it even when it is killed.
"""

from __future__ import annotations

import os
import pickle
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from itertools import islice
from typing import Any, Literal, TypeVar

from qwill.base.errors import ConfigError, DataError

Item = TypeVar("Item")
Answer = TypeVar("Answer")
Engine = Literal["processes", "ray"]

_pool: tuple[int, ProcessPoolExecutor] | None = None  # workers, and the processes that wait for the next call
AHEAD = 2  # items handed out for each worker: the next one lies ready when it has done one


def available_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def spread(
    function: Callable[[Item], Answer], items: Iterable[Item], workers: int, engine: Engine = "processes"
) -> Iterator[Answer]:
    """`function` of every item, as each is done, in no order. `items` is drawn from only as fast as they are worked on.

    workers: processes, which stay for the next call until `dismiss`; 1 (and engine "processes") works here. Raises what
    `function` raises, and DataError when a worker dies."""
    if engine == "ray":
        yield from _on_ray(function, items, workers)
    elif workers <= 1:
        yield from map(function, items)
    else:
        yield from _in_processes(function, items, workers)


def _in_processes(function: Callable[[Item], Answer], items: Iterable[Item], workers: int) -> Iterator[Answer]:
    from multiprocessing import get_context

    global _pool
    if _pool is None or _pool[0] != workers:
        dismiss()
        context = get_context("forkserver")
        context.set_forkserver_preload(["qwill.data.worker_tables"])  # counts for the first pool of this process
        _pool = workers, ProcessPoolExecutor(workers, mp_context=context, initializer=_begin)
    pool = _pool[1]
    with _no_main():
        source = iter(items)
        running: set[Future[Answer]] = set()
        try:
            while True:
                while len(running) < AHEAD * workers:
                    try:
                        item = next(source)
                    except StopIteration:
                        break
                    running.add(pool.submit(function, item))
                if not running:
                    return
                done, running = wait(running, return_when=FIRST_COMPLETED)
                for one in done:
                    yield one.result()
        except BrokenProcessPool:
            dismiss()
            raise DataError(
                "a worker process was ended from outside, most often for want of memory; run the same command again "
                "to go on where it stopped, with fewer workers if this repeats."
            ) from None
        finally:
            for one in running:
                one.cancel()


def dismiss() -> None:
    """End the workers that `spread` keeps from one call to the next."""
    global _pool
    if _pool is not None:
        pool, _pool = _pool[1], None
        pool.shutdown(cancel_futures=True)


def _begin() -> None:
    """A worker leaves Ctrl-C to its parent, takes one thread, and ends when the parent is gone, whatever ended that."""
    from multiprocessing import connection, parent_process

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = "1"
    parent = parent_process()
    assert parent is not None

    def watch() -> None:
        connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@contextmanager
def _no_main() -> Iterator[None]:
    """Workers need nothing of the main module; without this a script without `if __name__` guard would run in each."""
    main = sys.modules["__main__"]
    hidden = {name: getattr(main, name) for name in ("__file__", "__spec__") if hasattr(main, name)}
    for name in hidden:
        setattr(main, name, None)
    if "__file__" in hidden:
        del main.__file__
    try:
        yield
    finally:
        for name, value in hidden.items():
            setattr(main, name, value)


def _on_ray(function: Callable[[Item], Answer], items: Iterable[Item], workers: int) -> Iterator[Answer]:
    """On Ray Data, where it is installed; joins a running cluster (RAY_ADDRESS) or starts one on this machine.

    Items go in waves of a few for each core: a data set is planned over what it is given, and all of the raw text at
    once would have to fit into the object store."""
    import logging

    try:
        import ray
        import ray.data
    except ImportError:
        raise ConfigError("corpus.engine: ray needs Ray; install it with pip install 'qwill[ray]'.") from None

    if not ray.is_initialized():
        local: dict[str, Any] = {} if os.environ.get("RAY_ADDRESS") else {"num_cpus": workers}
        ray.init(include_dashboard=False, log_to_driver=False, **local)
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    ray.data.DataContext.get_current().enable_progress_bars = False
    slots = max(workers, int(ray.cluster_resources().get("CPU", 1)))

    def one(row: dict[str, bytes]) -> dict[str, bytes]:
        return {"answer": pickle.dumps(function(pickle.loads(row["item"])))}

    source = iter(items)
    while wave := [{"item": pickle.dumps(item)} for item in islice(source, 4 * AHEAD * slots)]:
        for row in ray.data.from_items(wave, override_num_blocks=len(wave)).map(one).iter_rows():
            yield pickle.loads(row["answer"])
