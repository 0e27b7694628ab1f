"""The processes that train together: who this one is, and how rank 0 tells the others what to do.

Messages go through the store of `torchrun` as JSON; torch's own object collectives would unpickle them.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from qwill.base.errors import QwillError
from qwill.train.watch import GRACE_SECONDS, SILENCE_SECONDS, Watch

if TYPE_CHECKING:
    from torch.distributed.distributed_c10d import Store

T = TypeVar("T")
BROKEN = ("Gloo", "gloo", "NCCL", "Connection", "Broken pipe")  # in messages of communication that failed
_current: Ranks | None = None


@dataclass
class Ranks:
    """`store` is for the main thread; `served` is the connection it was copied from, which on rank 0 may be what serves
    them all and so must live as long."""

    rank: int
    world: int
    store: Store
    served: Store
    watch: Watch
    messages: int = 0

    def tell(self, message: Any) -> None:
        """From rank 0 to all others, each of which `hear`s it."""
        self.store.set(f"message/{self.messages}", json.dumps(message))
        self.messages += 1

    def hear(self) -> Any:
        """The next message of rank 0, however long it takes. Raises what rank 0 ended by, where it has."""
        key = f"message/{self.messages}"
        while not self.store.check([key]):
            if self.store.check(["left/0"]):
                raise QwillError(self.store.get("left/0").decode())
            time.sleep(0.1)
        self.messages += 1
        return json.loads(self.store.get(key))

    def first(self, work: Callable[[], T]) -> T:
        """What `work` makes: rank 0 does it, and the others when it is done (they find what it left on disk)."""
        if self.rank == 0:
            made = work()
            self.tell("done")
            return made
        self.hear()
        return work()

    def together(self, work: Callable[[], T]) -> T:
        """`work()`, which all ranks do at the same time; ends this process where it fails or another rank dies.

        An error that all ranks meet is said once. Connections are not closed in order: that would wait for ranks that
        have ended already.
        """
        try:
            made = work()
        except QwillError as error:
            self._leave(str(error))
            if not self._said_already(str(error)):
                where = f"rank {self.rank} on {self.watch.host}: " if self.rank else ""
                print(f"qwill: {where}{error}", file=sys.stderr)
            self._wait_for_others()
            _end(2)
        except KeyboardInterrupt:
            self._leave("stopped from the keyboard")
            if self.rank == 0:
                print("\nqwill: stopped; run the same command again to go on.", file=sys.stderr)
            _end(130)
        except BaseException as error:
            if any(word in str(error) for word in BROKEN):
                # Most likely a rank has died: the watch says which, and ends this process.
                time.sleep(SILENCE_SECONDS + GRACE_SECONDS)
            self._leave(f"{type(error).__name__}, see its traceback")
            sys.excepthook(type(error), error, error.__traceback__)
            _end(1)
        self._leave("")
        self._wait_for_others()
        return made

    def _leave(self, error: str) -> None:
        """Tell the others that this process ends, and why where that is an error; then stop watching."""
        self.watch.stop()
        with suppress(RuntimeError):  # the store is gone, and rank 0 with it
            self.store.set(f"left/{self.rank}", error)

    def _said_already(self, error: str) -> bool:
        """Whether rank 0 ends by the same error, and so says it."""
        try:
            for _ in range(20 if self.rank else 0):
                if self.store.check(["left/0"]):
                    return self.store.get("left/0").decode() == error
                time.sleep(0.1)
        except RuntimeError:
            return True  # rank 0 has ended
        return False

    def _wait_for_others(self) -> None:
        """Rank 0 may be what serves the store: the others get a moment to leave before it ends."""
        left = [f"left/{rank}" for rank in range(self.world)]
        for _ in range(30 if self.rank == 0 else 0):
            if self.store.check(left):
                break
            time.sleep(0.1)


def _end(code: int) -> NoReturn:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def started_by_torchrun() -> bool:
    """Whether this process is one of several that `torchrun` (or what sets the same variables) has started."""
    there = all(name in os.environ for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"))
    return there and int(os.environ["WORLD_SIZE"]) > 1


def current() -> Ranks | None:
    """The ranks that this process has joined; None when it works alone."""
    return _current


def join() -> Ranks:
    """Meet the other processes, and begin to watch over them."""
    global _current
    import torch.distributed as dist
    from torch.distributed.distributed_c10d import PrefixStore
    from torch.distributed.rendezvous import rendezvous

    store, rank, world = next(iter(rendezvous("env://", timeout=timedelta(minutes=5))))
    # A rank may wait for long (rank 0 tokenises a corpus): dead ranks are the watch's to notice, not a timeout's.
    dist.init_process_group(
        "gloo", store=PrefixStore("groups", store.clone()), rank=rank, world_size=world, timeout=timedelta(days=1)
    )
    watch = Watch(PrefixStore("ranks", store.clone()), rank, world)
    watch.start()
    _current = Ranks(rank, world, PrefixStore("ranks", store.clone()), store, watch)
    return _current
