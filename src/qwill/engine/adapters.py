"""The adapters that an engine has: which requests use them, and when one that is unloaded may go.

An adapter is known by its name until it is unloaded; requests that have it then are finished with it. What is loaded
under the same name later is another one: it has a generation of its own, and what is cached is found by that.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from qwill.base.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from qwill.engine.blocks import BlockPool
    from qwill.engine.executor import Executor
    from qwill.model.lora import Adapter
    from qwill.model.transformer import Transformer


@dataclass(eq=False, slots=True)
class Loaded:
    """`number`: where the executor has it. `namespace`: what is cached with it is found under this name only. `users`:
    requests that aren't done."""

    name: str
    number: int
    namespace: str
    users: int = 0


class Adapters:
    """At most `most` at a time, those that are unloaded but in use among them."""

    def __init__(self, model: Transformer, executor: Executor, pool: BlockPool, most: int) -> None:
        self._model, self._executor, self._pool = model, executor, pool
        self._known: dict[str, Loaded] = {}
        self._numbers = list(range(most))[::-1]
        self._most, self._generation = most, 0

    @property
    def names(self) -> list[str]:
        return list(self._known)

    def load(self, name: str, folder: str | Path) -> None:
        """Raises `DataError` for a name that is taken and when there are too many, ModelError or CheckpointError for a
        folder that holds no adapter of this model."""
        from qwill.model.lora_files import load_adapter

        self.put(name, lambda: load_adapter(self._model, folder))

    def put(self, name: str, make: Callable[[], Adapter]) -> None:
        """As `load`, of an adapter that `make` gives once there is a place for it."""
        if not name:
            raise DataError("an adapter's name is empty: give it one")
        if name in self._known:
            raise DataError(f"there is an adapter {name!r} already: unload it first, or choose another name")
        if not self._numbers:
            raise DataError(f"{self._most} adapters are loaded, as many as the engine holds: unload one first")
        self._executor.put_adapter(self._numbers[-1], make())
        self._generation += 1
        self._known[name] = Loaded(name, self._numbers.pop(), f"{self._generation} {name}")

    def unload(self, name: str) -> None:
        """No new request can have it; it goes when those that have it are done. Raises `DataError` for an unknown
        name."""
        loaded = self.find(name)
        del self._known[name]
        self._remove_unused(loaded)

    def find(self, name: str) -> Loaded:
        """Raises `DataError`, naming those that there are."""
        if name not in self._known:
            there = f"there are {', '.join(sorted(self._known))}" if self._known else "none is loaded"
            raise DataError(f"there is no adapter {name!r}: {there}")
        return self._known[name]

    def leave(self, loaded: Loaded) -> None:
        """A request that had it is done."""
        loaded.users -= 1
        self._remove_unused(loaded)

    def _remove_unused(self, loaded: Loaded) -> None:
        if loaded.users or self._known.get(loaded.name) is loaded:
            return
        self._pool.forget(loaded.namespace)
        self._executor.remove_adapter(loaded.number)
        self._numbers.append(loaded.number)
