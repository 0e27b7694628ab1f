"""Configurations that come with the package, by name: `qwen3-0.6b`, …; enough to plan with, without any weights.

Where they are from: the released config.json files, as kept in ai-dynamo/aiconfigurator (Qwen3, 3.5, Next, 2.5, Llama),
the shapes of THUDM/slime's training scripts where those have none (Qwen3-4B and 14B, Qwen2.5-0.5B and 3B; the other
fields as in their siblings), and several quotations that agree (Qwen1.5-MoE). Fields that decide nothing here are left
out. Two are not released files:
- `qwen3-1t-plan`: a plan of one trillion parameters in the shape of Qwen3-MoE.
- `deepseek-v3-like`: DeepSeek-V3 in a shape that is known here, for the check of times: its layers, widths, experts and
  shared expert, with attention of 96 query and 6 key/value heads of 128, which has as many weights a layer as its
  latent attention (187 M) and 0.6 of its attention FLOPs. It is not the architecture.
"""

from __future__ import annotations

import difflib
from pathlib import Path

from qwill.base.errors import ModelError
from qwill.model.config import ModelConfig
from qwill.model.size import read_config

FOLDER = Path(__file__).parent / "configs"


def shipped_names() -> list[str]:
    return sorted(path.stem for path in FOLDER.glob("*.json"))


def find_config(given: str | Path) -> tuple[str, ModelConfig]:
    """(name, configuration) of a shipped name, a config.json or a model folder; raises ModelError for anything else."""
    path = Path(given)
    if path.exists():
        return (path.name if path.is_dir() else path.parent.name or path.name), read_config(path)
    name = str(given).lower().removeprefix("qwen/")
    if name in shipped_names():
        return name, read_config(FOLDER / f"{name}.json")
    near = difflib.get_close_matches(name, shipped_names(), 3, 0.5) or shipped_names()
    raise ModelError(
        f"{given}: no such file or folder, and no configuration of that name is shipped; "
        f"expected a config.json, a model folder or a name such as {', '.join(near[:3])}."
    )
