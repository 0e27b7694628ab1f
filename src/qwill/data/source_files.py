"""The files that a path names: one file, a folder, a glob, or an fsspec URL of any of these; in order of name."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Any, BinaryIO

from qwill.base.errors import ConfigError, DataError

SUFFIXES = {
    ".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "json", ".txt": "text", ".text": "text", ".md": "markdown",
    ".markdown": "markdown", ".html": "html", ".htm": "html", ".xhtml": "html", ".warc": "warc", ".parquet": "parquet",
}  # fmt: skip
COMPRESSED = (".gz", ".zst")
_MAGIC = frozenset("*?[")


@dataclass(frozen=True)
class SourceFile:
    """One file. name: as record names have it, nothing for a path that is one file. trouble: why it can't be read."""

    name: str
    path: str
    system: Any = None  # an fsspec file system, or nothing for the local disk
    trouble: str | None = None

    def open(self) -> BinaryIO:
        """Raises OSError (or what the file system raises in its place)."""
        return open(self.path, "rb") if self.system is None else self.system.open(self.path, "rb")


def format_of(path: str) -> str | None:
    """The format that a file's name says, or None."""
    name = path.rpartition("/")[2].lower()
    for suffix in COMPRESSED:
        name = name.removesuffix(suffix)
    return SUFFIXES.get(os.path.splitext(name)[1])


def find_files(path: str, who: str) -> tuple[bool, Iterator[SourceFile]]:
    """(whether `path` can name several, its files). `who` begins the message of what is raised.

    Raises DataError when there is nothing of that name or one file can't be opened; of many files, those that can't be
    read are among them with their `trouble`. A folder is listed
    as it is walked, so a million files take the memory of
    the fullest folder's names; a URL is listed whole."""
    if "://" in path:
        return _remote(path, who)
    if not os.path.lexists(path) and _MAGIC & set(path):
        return True, _matched(path, who)
    if os.path.isdir(path):
        return True, _walk(path, "")
    if (trouble := _trouble(path)) is not None:
        raise DataError(f"{who}: {path} {trouble}; check the path.")
    return False, iter([SourceFile("", path)])


def _trouble(path: str) -> str | None:
    try:
        mode = os.stat(path).st_mode
        if not stat.S_ISREG(mode):
            return "cannot be read (it is no file but a pipe, socket or device)"
        with open(path, "rb"):
            return None
    except OSError as error:
        broken = os.path.islink(path) and not os.path.exists(path)
        return f"cannot be read ({'a link to nothing' if broken else error.strerror})"


def _walk(folder: str, prefix: str) -> Iterator[SourceFile]:
    """Files below a folder; names that begin with a dot, and links to folders (they may go round), are passed by.

    A folder sorts as `name/`, so that all names come in the order of text."""
    try:
        with os.scandir(folder) as entries:
            found = [(entry.name, entry.is_dir(follow_symlinks=False), os.path.isdir(entry.path)) for entry in entries]
    except OSError as error:
        yield SourceFile(printable(prefix.rstrip("/")) or ".", folder, trouble=f"cannot be listed ({error.strerror})")
        return
    for name, is_folder, leads_to_folder in sorted(
        found, key=lambda entry: printable(entry[0]) + ("/" if entry[1] else "")
    ):
        path = os.path.join(folder, name)
        if name.startswith(".") or (leads_to_folder and not is_folder):
            continue
        if is_folder:
            yield from _walk(path, f"{prefix}{name}/")
        else:
            yield SourceFile(printable(prefix + name), path, trouble=_trouble(path))


def _matched(pattern: str, who: str) -> Iterator[SourceFile]:
    """What a glob matches (`**` for any folders), named from its last folder without a wildcard."""
    parts = pattern.split("/")
    fixed = next(i for i, part in enumerate(parts) if _MAGIC & set(part))
    root, matches = "/".join(parts[:fixed]), re.compile(_translated("/".join(parts[fixed:])), re.DOTALL).fullmatch
    base = root or ("/" if pattern.startswith("/") else ".")
    files = (file for file in _walk(base, "") if matches(os.path.relpath(file.path, base)))
    first = next(files, None)
    if first is None:
        raise DataError(f"{who}: no file matches {pattern}; check the pattern.")
    return chain([first], files)


def _translated(pattern: str) -> str:
    """A regular expression for a glob; `*` and `?` stay inside a folder."""
    found = ""
    for token in re.findall(r"\*\*/|\*+|\?|\[!?\]?[^\]]*\]|.", pattern, re.DOTALL):
        if token == "**/":
            found += "(?:[^/]+/)*"
        elif token[0] == "*":
            found += ".*" if token == "**" else "[^/]*"
        elif token == "?":
            found += "[^/]"
        elif token[0] == "[" and len(token) > 2:
            negated, inner = token[1] == "!", token[1:-1].removeprefix("!").replace("\\", "\\\\")
            found += f"[{'^/' if negated else ''}{inner}]"
        else:
            found += re.escape(token)
    return found


def _remote(url: str, who: str) -> tuple[bool, Iterator[SourceFile]]:
    try:
        from fsspec.core import url_to_fs
    except ImportError:
        raise ConfigError(f"{who}: {url} needs fsspec; install it with pip install 'qwill[curate]'.") from None
    try:
        system, path = url_to_fs(url)
        if _MAGIC & set(path):
            found = [name for name in system.glob(path) if not system.isdir(name)]
            many, root = True, path.split("*")[0].rpartition("/")[0]
        elif system.isdir(path):
            found, many, root = system.find(path), True, path
        elif system.exists(path):
            found, many, root = [path], False, path
        else:
            found, many, root = [], False, path
    except Exception as error:  # what a file system raises is its own affair: keys, timeouts, HTTP
        raise DataError(f"{who}: {url} cannot be had ({error or type(error).__name__}); check the URL.") from error
    if not found:
        raise DataError(f"{who}: {url} names no file; check the URL.")
    root = root.rstrip("/")
    files = [SourceFile(printable(name.removeprefix(root).lstrip("/")) if many else "", name, system) for name in found]
    return many, iter(sorted(files, key=lambda file: file.name))


def printable(name: str) -> str:
    """A file name as ids have it: `#` and `%` (they mean something in ids), control characters and bytes that are no
    UTF-8 escaped as `%XX`."""
    if name.isascii() and name.isprintable() and "#" not in name and "%" not in name:
        return name
    data = name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() and c not in "#%" else "".join(f"%{b:02X}" for b in c.encode()) for c in data)


_HUB = re.compile(r"hf://datasets/([^/@]+/[^/@]+)(?:@([^/]+))?(/.*)?")


def pinned(url: str, who: str) -> tuple[str, str]:
    """(URL, commit) of a Hub data set `hf://datasets/OWNER/NAME@REVISION/PATH`, whose revision (`main` where none is
    given) the Hub resolves to a commit; a commit is taken as it is.

    Raises ConfigError for another form, DataError when the Hub does not answer or has no such data set."""
    match = _HUB.fullmatch(url)
    if match is None:
        raise ConfigError(f"{who}: {url} is no data set of the Hub; expected hf://datasets/OWNER/NAME@REVISION/PATH.")
    name, revision, rest = match.groups()
    if revision is None or not re.fullmatch("[0-9a-f]{40}", revision):
        try:
            import huggingface_hub

            revision = huggingface_hub.HfApi().repo_info(name, repo_type="dataset", revision=revision).sha
        except ImportError:
            raise ConfigError(f"{who}: {url} needs huggingface_hub; install it.") from None
        except Exception as error:  # its own errors, requests', the operating system's
            reason = " ".join(str(error).split()) or type(error).__name__
            raise DataError(f"{who}: {url} cannot be had ({reason}); check the name and the network.") from error
    return f"hf://datasets/{name}@{revision}{rest or ''}", str(revision)
