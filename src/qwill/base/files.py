"""Files that are written whole or not at all: temporary name in the same folder, fsync, rename."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from qwill.base.errors import ArtifactError, DataError

CHUNK = 1 << 20


def sync_folder(folder: Path) -> None:
    """Make renames inside `folder` durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def new_file(path: Path, inside: Path | None = None, prefix: str | None = None) -> Iterator[BinaryIO]:
    """A temporary file to write to; it takes the name `path` on success and vanishes on an error. It lies beside
    `path`, or `inside` a folder on the same disk; a killed process leaves it there, its name beginning with `prefix`
    (`.NAME.`)."""
    place, prefix = inside or path.parent, prefix or f".{path.name}."
    descriptor, temporary = tempfile.mkstemp(dir=place, prefix=prefix, suffix=".tmp")
    try:
        with os.fdopen(descriptor, "wb") as f:
            yield f
            f.flush()
            os.fsync(f.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(temporary)
        raise
    sync_folder(path.parent)


def write_bytes(path: Path, data: bytes) -> None:
    with new_file(path) as f:
        f.write(data)


def write_text(path: Path, text: str) -> None:
    write_bytes(path, text.encode())


def canonical_json(value: Any) -> bytes:
    """The one spelling of a JSON value that ids are hashed from."""
    return json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, ensure_ascii=False, indent=2, sort_keys=True) + "\n")


def _text(path: Path) -> str:
    try:
        data = path.read_bytes()
        return data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DataError(f"{path}: line {line} is not UTF-8; convert the file to UTF-8.") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}).") from None


def _parsed(text: str, path: Path, line: int | None = None) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(f"{path}: line {line or error.lineno} is not valid JSON ({error.msg}); mend it.") from None
    except (ValueError, RecursionError):
        # A number of thousands of digits, brackets thousands deep: JSON, but nothing that Python reads.
        where = f"line {line}" if line else "the file"
        raise DataError(f"{path}: {where} holds JSON with a number too long or nested too deep to be read.") from None


def read_json(path: Path) -> Any:
    """Raises DataError naming the file (and line) when it is missing, not UTF-8 or not JSON."""
    return _parsed(_text(path), path)


def read_jsonl(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line number from 1, object) of each line that is not empty; DataError names file and line."""
    for number, line in enumerate(_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        value = _parsed(line, path, number)
        if not isinstance(value, dict):
            raise DataError(f"{path}: line {number} holds {type(value).__name__}; expected a JSON object.")
        yield number, value


def write_jsonl(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    write_text(path, "".join(json.dumps(r, ensure_ascii=False, sort_keys=True) + "\n" for r in rows))


def sha256_file(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as f:
        while chunk := f.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def sync_tree(folder: Path) -> None:
    for root, _, names in os.walk(folder):
        for name in names:
            with open(Path(root) / name, "rb") as f:
                os.fsync(f.fileno())
        sync_folder(Path(root))


def replace_folder(temporary: Path, final: Path) -> None:
    """Put a finished folder in its place; an older one goes only after the new one is there, whenever we are killed."""
    sync_tree(temporary)
    old = _old_name(final)
    if not os.path.lexists(final):
        os.rename(temporary, final)
    elif exchange(temporary, final):
        old = temporary
    else:
        _remove(old)
        os.rename(final, old)
        os.rename(temporary, final)
    sync_folder(final.parent)
    _remove(old)


def exchange(one: Path, other: Path) -> bool:
    """Swap two names in one step, so that neither is ever missing; False where the system or file system can't."""
    import ctypes

    rename = getattr(ctypes.CDLL(None), "renameat2", None)
    here, swap = -100, 2  # AT_FDCWD, RENAME_EXCHANGE of Linux
    return rename is not None and rename(here, os.fsencode(one), here, os.fsencode(other), swap) == 0


def _old_name(final: Path) -> Path:
    return final.with_name(f".old-{final.name}")


def _remove(path: Path) -> None:
    if path.is_symlink():
        path.unlink()
    elif path.exists():
        shutil.rmtree(path)


@contextmanager
def new_folder(final: Path, inside: Path | None = None) -> Iterator[Path]:
    """A temporary folder to fill; it takes its name `final` on success and vanishes on an error. It is a sibling of
    `final`, or `inside` a folder on the same disk; a killed process leaves it there, `.NAME.…`.

    Raises ArtifactError when `final` is a file: only folders are replaced.
    """
    if final.exists() and not final.is_dir():
        raise ArtifactError(f"{final} is a file; give the name of a folder, or remove it first.")
    final.parent.mkdir(parents=True, exist_ok=True)
    if not final.exists() and _old_name(final).exists():
        # Where names can't be swapped, a kill between the two renames of `replace_folder` leaves the old one here.
        os.rename(_old_name(final), final)
    temporary = Path(tempfile.mkdtemp(dir=inside or final.parent, prefix=f".{final.name}."))
    os.chmod(temporary, 0o755)
    try:
        yield temporary
        replace_folder(temporary, final)
    finally:
        _remove(temporary)
