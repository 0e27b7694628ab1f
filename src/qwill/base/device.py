"""What this machine is, and which numeric libraries and precision it computes with."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

NUMERIC = ("torch", "numpy", "tokenizers", "safetensors", "pyarrow")
CURATION = ("ftfy", "py3langid", "jieba", "rjieba", "opencc", "phonenumbers", "trafilatura", "xxhash")


def numeric_libraries(own: Sequence[str] = ()) -> dict[str, str]:
    """Installed versions of the libraries whose version can change a number; `own` are those of one stage alone."""
    found = {"python": ".".join(platform.python_version_tuple()[:2])}
    for name in (*NUMERIC, *own):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def set_threads(count: int) -> None:
    import torch

    torch.set_num_threads(count)


def processor_flags() -> frozenset[str]:
    """Instruction sets of the processor as Linux names them; empty elsewhere."""
    return frozenset(_processor_line("flags").split())


def _processor_line(name: str) -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(name)), "")


def training_dtype(wish: str = "auto") -> str:
    """The precision to multiply matrices in: as wished, or the fastest here by what the processor has (not by timing).

    bfloat16 needs matrix units for it (AMX); on AVX-512 alone it reaches half of float32's speed.
    """
    if wish != "auto":
        return wish
    return "bfloat16" if "amx_bf16" in processor_flags() else "float32"


def machine() -> dict[str, object]:
    """What the report and `qwill doctor` say of this machine."""
    model = _processor_line("model name") or platform.processor() or platform.machine()
    try:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (OSError, ValueError):
        memory = 0
    notable = [f for f in ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16") if f in processor_flags()]
    return {
        "processor": model,
        "cores": os.cpu_count() or 1,
        "memory_gib": round(memory / 2**30, 1),
        "flags": notable,
        "system": platform.system(),
    }


def cpu_steal() -> tuple[int, int]:
    """(stolen, total) ticks since boot from /proc/stat; differences of two readings give the share stolen between."""
    try:
        fields = [int(x) for x in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    except OSError:
        return 0, 1
    return fields[7], sum(fields)
