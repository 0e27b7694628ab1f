"""Who has which block of the cache: references, prefixes that sequences share, and what is forgotten first.

Pure bookkeeping: no tensor is touched here. A full block can be remembered under what it holds: its tokens and the
block before it. Like a hash chained from block to block this names the whole prefix (vLLM's prefix caching, arXiv
2309.06180), but the name is compared, not only its hash: a remembered block has a serial number that is never used
again, and the key of the next one is (that number, its tokens). The first block's key begins with a namespace, so that
sequences of different adapters never share.

A block that nobody uses keeps what it remembers until it is needed, the one longest unused first. Recurrent states are
shared in the same way: a remembered block may carry the slot of a snapshot, the state after its last token.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

Parent = int | str  # the serial number of the block before, or a namespace


@dataclass(slots=True)
class _Memory:
    """What a block is remembered for."""

    key: tuple[Parent, tuple[int, ...]]
    serial: int
    namespace: str


class BlockPool:
    """`blocks` of `block_size` tokens; `snapshots` slots for recurrent states, numbered from `first_slot` on."""

    def __init__(self, blocks: int, block_size: int, snapshots: int = 0, first_slot: int = 0) -> None:
        self.blocks, self.block_size, self.has_states = blocks, block_size, snapshots > 0
        self.references = [0] * blocks
        self._free: OrderedDict[int, None] = OrderedDict.fromkeys(range(blocks))  # longest unused first
        self._memory: dict[int, _Memory] = {}
        self._known: dict[tuple[Parent, tuple[int, ...]], int] = {}
        self._by_serial: dict[Parent, int] = {}
        self._snapshots: OrderedDict[int, int] = OrderedDict()  # block → slot, longest unused first
        self._slots = list(range(first_slot, first_slot + snapshots))
        self._serial = 0

    @property
    def free(self) -> int:
        """Blocks that `take` can give."""
        return len(self._free)

    def grow(self, blocks: int) -> None:
        """There are `blocks` of them now, more than before."""
        fresh = range(self.blocks, blocks)
        self.references += [0] * len(fresh)
        self._free = OrderedDict.fromkeys([*fresh, *self._free])
        self.blocks = blocks

    @property
    def remembered(self) -> int:
        """Blocks that can be found by what they hold."""
        return len(self._memory)

    def needed(self, tokens: int) -> int:
        """Blocks for so many tokens."""
        return -(-tokens // self.block_size)

    def match(self, namespace: str, tokens: Sequence[int], most: int) -> list[int]:
        """Remembered blocks, at most `most`, that hold the beginning of `tokens`; where there are recurrent states,
        only as far as there is a snapshot. No reference is taken: `share` them before anything else is done."""
        size, found, reach = self.block_size, [], 0
        parent: Parent = namespace
        for start in range(0, most * size, size):
            block = self._known.get((parent, tuple(tokens[start : start + size])))
            if block is None:
                break
            found.append(block)
            parent = self._memory[block].serial
            if not self.has_states or block in self._snapshots:
                reach = len(found)
        return found[:reach]

    def take(self, count: int) -> list[int]:
        """`count` blocks with one reference each; what they remembered is forgotten. There must be so many."""
        taken = []
        for _ in range(count):
            block, _ = self._free.popitem(last=False)
            self._forget(block)
            self.references[block] = 1
            taken.append(block)
        return taken

    def share(self, blocks: Iterable[int]) -> None:
        """One more reference to each."""
        for block in blocks:
            if not self.references[block]:
                del self._free[block]
            self.references[block] += 1

    def release(self, blocks: Sequence[int]) -> None:
        """One reference less to each. The end of a sequence is forgotten before its beginning."""
        for block in reversed(blocks):
            self.references[block] -= 1
            if self.references[block]:
                continue
            self._free[block] = None
            if block not in self._memory:
                self._free.move_to_end(block, last=False)

    def remember(self, block: int, parent: Parent, tokens: Sequence[int], namespace: str) -> Parent:
        """Make a full block findable; returns what the next one's parent is. If another block holds the same already,
        that one stays the one to be found."""
        key = (parent, tuple(tokens))
        known = self._known.get(key)
        if known is not None:
            return self._memory[known].serial
        self._forget(block)
        self._serial += 1
        self._memory[block], self._known[key] = _Memory(key, self._serial, namespace), block
        self._by_serial[self._serial] = block
        return self._serial

    def snapshot(self, parent: Parent) -> int | None:
        """A slot for the state after the block with this serial number, from now on attached to it. None if that block
        is forgotten or has one. The snapshot longest unused gives way."""
        block = self._by_serial.get(parent)
        if block is None or block in self._snapshots:
            return None
        if not self._slots:
            self._slots.append(self._snapshots.popitem(last=False)[1])
        slot = self._snapshots[block] = self._slots.pop()
        return slot

    def state_of(self, block: int) -> int:
        """The slot of the snapshot that a block from `match` ends with."""
        self._snapshots.move_to_end(block)
        return self._snapshots[block]

    def drop_snapshot(self, parent: Parent) -> None:
        """Free the snapshot of the block with this serial number, if there is one."""
        block = self._by_serial.get(parent)
        if block is not None and block in self._snapshots:
            self._slots.append(self._snapshots.pop(block))

    def forget(self, namespace: str | None = None, blocks: Iterable[int] | None = None) -> None:
        """Forget what these blocks hold, or all blocks of a namespace, or all; who uses them goes on."""
        chosen = self._memory if blocks is None else blocks
        for block in [b for b in chosen if namespace is None or self._memory[b].namespace == namespace]:
            self._forget(block)

    def _forget(self, block: int) -> None:
        memory = self._memory.pop(block, None)
        if memory is None:
            return
        del self._known[memory.key], self._by_serial[memory.serial]
        if block in self._snapshots:
            self._slots.append(self._snapshots.pop(block))
