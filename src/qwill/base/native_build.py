"""Compile one C file of a room into a shared library, once a machine; without a compiler, say so by returning None."""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path

FLAGS = ["-O3", "-march=native", "-fPIC", "-fno-math-errno", "-fno-trapping-math", "-fno-signed-zeros"]


def _openmp_runtime() -> list[str]:
    """Linker arguments for the OpenMP runtime that torch has loaded, or will: two runtimes would fight over the cores.

    Torch is found and not imported, which a worker that only reads text need not wait for."""
    found_torch = find_spec("torch")
    if found_torch is None or found_torch.origin is None:
        return []
    torch = Path(found_torch.origin).parent
    roots = [torch / "lib", torch.parent / "torch.libs"]
    found = [p for root in roots if root.is_dir() for p in sorted(root.glob("libgomp*.so*"))]
    return [str(found[0])] if found else []


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return "".join(line for line in lines[:40] if line.startswith(("model name", "flags")))
    except OSError:
        return platform.processor() + platform.machine()


def compile_library(source: str, package: str, *headers: tuple[str, str], threads: bool = True) -> ctypes.CDLL | None:
    """The library of `source` (a file inside `package`), from the cache or compiled now; None without a compiler.

    `headers`: (file, package) of those that it includes. `threads`: it uses OpenMP, which loads torch for its runtime.
    """
    # CC may carry arguments: `ccache gcc`, `gcc -m64`.
    chosen = shlex.split(os.environ.get("CC", ""))
    if not chosen:
        chosen = [name for name in ("cc", "gcc", "clang") if shutil.which(name)][:1]
    if not chosen or not shutil.which(chosen[0]):
        return None
    wanted = [(source, package), *headers]
    code = {name: files(where).joinpath(name).read_bytes() for name, where in wanted}
    runtime = _openmp_runtime() if threads else []
    flags = [*FLAGS, "-fopenmp"] if threads else FLAGS
    command = " ".join([*chosen, *flags, *runtime])
    key = hashlib.sha256(b"\0".join([*code.values(), command.encode(), _processor().encode()]))
    root = Path(os.environ.get("QWILL_CACHE") or Path.home() / ".cache" / "qwill") / "native"
    target = root / f"{Path(source).stem}-{key.hexdigest()[:16]}.so"
    if not target.exists():
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=root) as folder:
            c_file, built = Path(folder) / source, Path(folder) / target.name
            for name, text in code.items():
                (Path(folder) / name).write_bytes(text)
            # Undefined OpenMP symbols resolve to the runtime named by path, so -fopenmp must not add its own.
            compiling = [*chosen, *flags, "-c", str(c_file), "-o", f"{built}.o"]
            openmp = (runtime or ["-fopenmp"]) if threads else []
            linking = [*chosen, "-shared", f"{built}.o", "-o", str(built), *openmp, "-lm"]
            if not (_succeeds(compiling) and _succeeds(linking) and built.exists()):
                return None
            os.replace(built, target)
    try:
        return ctypes.CDLL(str(target))
    except OSError:
        # Cut off when the machine went down, or of no use here; next time it is compiled again.
        target.unlink(missing_ok=True)
        return None


def _succeeds(command: list[str]) -> bool:
    try:
        return subprocess.run(command, capture_output=True).returncode == 0
    except OSError:
        return False  # something that is called like a compiler but is no program
