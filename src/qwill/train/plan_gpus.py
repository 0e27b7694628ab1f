"""What the makers publish of their accelerators. Rates are dense (without structured sparsity), decimal units."""

from __future__ import annotations

import difflib
from dataclasses import dataclass

from qwill.base.errors import ConfigError


@dataclass(frozen=True)
class Gpu:
    """`tflops`: bfloat16 matrix products with float32 sums. `memory`: GB. `bandwidth`: TB/s of that memory.
    `link`: GB/s one way to each other GPU of the node. `network`: GB/s one way a GPU between nodes.
    `fp8`: whether its matrix units multiply fp8."""

    name: str
    tflops: float
    memory: float
    bandwidth: float
    link: float
    network: float
    fp8: bool
    source: str
    node: int = 8


GPUS = {
    gpu.name: gpu
    for gpu in (
        Gpu("h100", 989.4, 80, 3.35, 450, 50, True,
            "NVIDIA H100 SXM5 datasheet; DGX H100: 400 Gb/s ConnectX-7 a GPU"),
        Gpu("h800", 989.4, 80, 3.35, 200, 50, True,
            "as H100, NVLink 400 GB/s both ways, 400 Gb/s InfiniBand a GPU (arXiv 2505.09343 §4.1)"),
        Gpu("h200", 989.4, 141, 4.8, 450, 50, True,
            "NVIDIA H200 SXM datasheet; 400 Gb/s ConnectX-7 a GPU"),
        Gpu("b200", 2250, 180, 8.0, 900, 50, True,
            "NVIDIA DGX B200 datasheet (1,440 GB, 64 TB/s, 72 PFLOPS sparse fp8 for 8); 400 Gb/s a GPU"),
        Gpu("a100", 312, 80, 2.039, 300, 25, False,
            "NVIDIA A100 80GB SXM datasheet; DGX A100: 200 Gb/s a GPU"),
        Gpu("a100-40gb", 312, 40, 1.555, 300, 25, False,
            "NVIDIA A100 40GB SXM datasheet; DGX A100: 200 Gb/s a GPU"),
        Gpu("l40s", 362, 48, 0.864, 32, 12.5, True,
            "NVIDIA L40S datasheet; PCIe 4.0 x16; 100 Gb/s a GPU assumed"),
        Gpu("4090", 165.2, 24, 1.008, 32, 3.1, True,
            "NVIDIA Ada architecture whitepaper (float32 sums); PCIe 4.0 x16; one 200 Gb/s card a node assumed"),
    )
}  # fmt: skip


def find_gpu(name: str) -> Gpu:
    """The table's entry; raises ConfigError with the names there are."""
    wanted = name.lower().removeprefix("rtx").strip(" -")
    if wanted in GPUS:
        return GPUS[wanted]
    near = difflib.get_close_matches(wanted, GPUS, 1)
    hint = f"; did you mean {near[0]}?" if near else "."
    raise ConfigError(f"--gpu {name}: not in the table; expected one of {', '.join(GPUS)}{hint}")
