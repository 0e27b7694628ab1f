"""One process at a time in a folder."""

from __future__ import annotations

import fcntl
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from qwill.base.errors import ArtifactError

LOCK = ".lock"
_held = set[str]()  # by this process, which a record lock does not keep out
_guard = threading.Lock()


@contextmanager
def folder_lock(folder: Path, of: Path | None = None) -> Iterator[None]:
    """Hold `folder`, which is made where it is missing, until the block ends or the process dies.

    The block may remove the folder, its lock file last. `of`: the folder that it is held for, if another, for the
    message. Raises ArtifactError naming the process that holds it.
    """
    name = os.path.realpath(folder)
    with _guard:
        if name in _held:
            raise _in_use(of or folder, str(os.getpid()))
        _held.add(name)
    try:
        handle = _locked(folder, of or folder)
        try:
            os.ftruncate(handle, 0)
            os.pwrite(handle, f"{os.getpid()}\n".encode(), 0)
            yield
        finally:
            os.close(handle)
    finally:
        with _guard:
            _held.discard(name)


def _locked(folder: Path, shown: Path) -> int:
    """The lock file, open and locked."""
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            handle = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
        except FileNotFoundError:
            continue  # its last holder has just removed the folder
        try:
            # A record lock and not flock(2): forked workers that outlive a killed parent would still hold the latter.
            fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _same(handle, folder / LOCK):
                return handle
        except (BlockingIOError, PermissionError):
            holder = os.pread(handle, 32, 0).decode("ascii", "replace").strip()
            os.close(handle)
            raise _in_use(shown, holder or "unknown") from None
        except OSError as error:
            os.close(handle)
            raise ArtifactError(f"{folder} can't be locked ({error.strerror}); use a disk with file locks.") from None
        os.close(handle)


def _same(handle: int, path: Path) -> bool:
    """Whether the open file is still the one of that name, and not one that its last holder has removed."""
    try:
        return os.path.samestat(os.fstat(handle), os.stat(path))
    except FileNotFoundError:
        return False


def _in_use(folder: Path, holder: str) -> ArtifactError:
    why = f"is in use by another qwill (process {holder})"
    return ArtifactError(f"{folder} {why}; wait until it ends, or stop it first.")
