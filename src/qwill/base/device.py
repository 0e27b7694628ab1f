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
    """The precision to multiply matrices in: as wished, or float32, which the native kernels compute in.

    bfloat16 is worth a wish where matrix units make it quick and shapes stay the same: on a Xeon with AMX the demo's
    mixture of experts took 1.2 steps/s in it and 2.8 in float32, since oneDNN compiles a kernel for each new number of
    rows, and experts get another number in every step.
    """
    return "float32" if wish == "auto" else wish


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
