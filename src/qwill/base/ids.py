"""UUIDv7: ids that sort by the time they were made (RFC 9562, section 5.7); Python has them from 3.14 on."""

from __future__ import annotations

import os
import secrets
import threading
import time

_lock = threading.Lock()
_last = 0


def uuid7(now_ms: int | None = None) -> str:
    """A new id, greater as text than every earlier one of this process, also when the clock goes back.

    48 bits of Unix milliseconds, then 74 random ones; within a millisecond the last value is increased by a random step
    (RFC 9562, section 6.2, method 2), so that an id says nothing about the next one.
    """
    global _last
    moment = time.time_ns() // 1_000_000 if now_ms is None else now_ms
    value = moment << 74 | secrets.randbits(74)
    with _lock:
        if value <= _last:
            value = _last + 1 + secrets.randbits(32)
        _last = value
    high, low = value >> 62, value & (1 << 62) - 1
    number = (high >> 12) << 80 | 7 << 76 | (high & 0xFFF) << 64 | 2 << 62 | low
    digits = f"{number:032x}"
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


def uuid7_ms(identity: str) -> int:
    """Unix milliseconds at which an id was made."""
    return int(identity.replace("-", "")[:12], 16)


def _after_fork() -> None:
    # Two children that go on from one last value, in one millisecond, would be a 32-bit step from the same id.
    global _lock, _last
    _lock, _last = threading.Lock(), 0


os.register_at_fork(after_in_child=_after_fork)
