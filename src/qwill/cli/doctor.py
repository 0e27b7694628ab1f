"""`qwill doctor`: what this machine can do, what is missing, and how to get it."""

from __future__ import annotations

import json
import os
import shutil
import sys
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Literal

from qwill.base.device import machine
from qwill.base.packages import cache_folder
from qwill.base.progress import human

# What the demo needs: its measured peak is below this, and its runs and downloads together are smaller than this.
MEMORY_GIB, DISK_GIB = 4.0, 3.0


@dataclass(frozen=True)
class Finding:
    """`state`: ok, better (works, and something would make it work better) or missing (the demo will not work)."""

    what: str
    state: Literal["ok", "better", "missing"]
    found: str
    advice: str = ""


def doctor(as_json: bool) -> int:
    """Print the findings; 2 when something is missing that the demo needs."""
    findings = look()
    if as_json:
        print(json.dumps({"findings": [asdict(finding) for finding in findings]}, indent=2, ensure_ascii=False))
    else:
        signs = {"ok": "ok", "better": "note", "missing": "MISSING"}
        for finding in findings:
            print(f"{signs[finding.state]:<9}{finding.what:<12}{finding.found}")
            if finding.advice:
                print(f"{'':<21}{finding.advice}")
    return 2 if any(finding.state == "missing" for finding in findings) else 0


def look() -> list[Finding]:
    """Everything that decides whether the demo works here, and how fast."""
    return [_python(), *_libraries(), *_machine(), _compiler(), _sandbox(), _disk("runs", Path.cwd()), _cache()]


def _python() -> Finding:
    return Finding("Python", "ok", f"{sys.version.split()[0]} ({sys.executable})")


def _libraries() -> list[Finding]:
    """Versions of what Qwill depends on, without importing any of it."""
    pinned = dict(line.split("==") for line in requires("qwill") or [] if "==" in line and ";" not in line)
    findings = []
    for name, wanted in sorted(pinned.items()):
        try:
            # A local label (2.13.0+cpu) says how it was built, not which version it is.
            found = version(name)
        except PackageNotFoundError:
            findings.append(Finding(name, "missing", "not installed", "make venv"))
            continue
        if found.split("+")[0] == wanted:
            findings.append(Finding(name, "ok", found))
        else:
            advice = f"results are pinned to {wanted}; other versions may give other numbers: make venv"
            findings.append(Finding(name, "better", found, advice))
    return findings


def _machine() -> list[Finding]:
    here = machine()
    cores, memory = here["cores"], here["memory_gib"]
    assert isinstance(memory, float) and isinstance(here["flags"], list)
    flags = ", ".join(here["flags"]) or "no vector units of note"
    findings = [Finding("processor", "ok", f"{here['processor']}, {cores} cores ({flags})")]
    if memory < MEMORY_GIB:
        advice = f"the demo needs about {MEMORY_GIB:g} GiB; close other programs or use recipes/smoke.yaml"
        findings.append(Finding("memory", "missing", f"{memory} GiB", advice))
    else:
        findings.append(Finding("memory", "ok", f"{memory} GiB"))
    return findings


def _compiler() -> Finding:
    for name in (os.environ.get("CC", ""), "cc", "gcc", "clang"):
        if name and (found := shutil.which(name)):
            return Finding("C compiler", "ok", found)
    advice = "everything works without, only slower: apt install gcc, or what your system calls it"
    return Finding("C compiler", "better", "none", advice)


def _sandbox() -> Finding:
    """What contains the programs that a model wrote, found out by trying (about a second)."""
    from qwill.evaluate.containment import containment

    found = containment()
    first, *walls = found.sentences
    state: Literal["ok", "better"] = "ok" if found.complete else "better"
    return Finding("sandbox", state, first, "; ".join(wall.rstrip(".") for wall in walls))


def _disk(what: str, folder: Path) -> Finding:
    there = next(place for place in (folder, *folder.parents) if place.exists())
    free = shutil.disk_usage(there).free
    found = f"{folder}: {human(free)}B free"
    if free < DISK_GIB * 2**30:
        return Finding(what, "missing", found, f"the demo needs about {DISK_GIB:g} GiB")
    return Finding(what, "ok", found)


def _cache() -> Finding:
    folder = cache_folder()
    finding = _disk("cache", folder)
    packages = sorted(p.name for p in (folder / "packages").glob("[!.]*")) if folder.is_dir() else []
    if finding.state == "ok" and not packages:
        advice = "nothing fetched yet: qwill data fetch recipes/demo.yaml (the demo does it too)"
        return Finding("cache", "better", finding.found, advice)
    return Finding("cache", finding.state, f"{finding.found}, {len(packages)} packages", finding.advice)
