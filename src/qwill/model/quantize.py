"""int8 weights, one scale for each output channel, in the `compressed-tensors` format (`pack-quantized`, 8 bits).

Quantised are the matrices of attention and feed-forward (each expert's too); embedding, head, norms and router stay as
they are. `pack-quantized` and not `int-quantized`, because it is what compressed-tensors means by weight-only int8 and
the only integer form that transformers 5.23.0 unpacks for experts. `load_model` reads the folder back as float weights,
which are the numbers that it stands for.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from qwill.base.errors import ModelError
from qwill.base.files import read_json, write_json
from qwill.model.files import read_config, weight_files
from qwill.model.packed import pack_bytes

COPIED = ("generation_config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
QUANTIZATION = {
    "quant_method": "compressed-tensors",
    "format": "pack-quantized",
    "quantization_status": "compressed",
    "ignore": ["lm_head", "re:.*mlp\\.gate$"],
    "kv_cache_scheme": None,
    "config_groups": {
        "group_0": {
            "targets": ["Linear"],
            "weights": {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "channel", "dynamic": False},
            "input_activations": None,
            "output_activations": None,
        }
    },
}


@dataclass(frozen=True)
class QuantizedSize:
    """Bytes of all tensors before and after, and how many matrices were quantised."""

    before: int
    after: int
    matrices: int


def quantize_rows(weight_OI: Tensor) -> tuple[Tensor, Tensor]:
    """(int8 values, float32 scale [O, 1]) with weight ≈ values · scale, symmetric; a row of zeros has scale 1."""
    wide = weight_OI.float()
    scale = wide.abs().amax(1, keepdim=True) / 127.0
    scale = torch.where(scale == 0, torch.ones_like(scale), scale)
    return torch.round(wide / scale).clamp_(-127, 127).to(torch.int8), scale


def is_quantized(name: str) -> bool:
    """Whether the tensor of this name is one of the matrices that int8 applies to."""
    return name.endswith("_proj.weight")


def quantize_folder(source: Path, target: Path) -> QuantizedSize:
    """Write the int8 form of a Hugging Face folder into the (existing or new) folder `target`.

    Raises ModelError when the source is quantised already.
    """
    config = read_config(source)
    if config.quantization_config is not None:
        raise ModelError(f"{source}: is quantised already; give the float model.")
    target.mkdir(parents=True, exist_ok=True)
    out: dict[str, Tensor] = {}
    before = matrices = 0
    files = weight_files(source)
    for path in sorted(set(files.values())):
        with safe_open(path, framework="pt") as f:
            for name in [n for n, p in files.items() if p == path]:
                tensor = f.get_tensor(name)
                before += tensor.nbytes
                if is_quantized(name):
                    values, out[f"{name}_scale"] = quantize_rows(tensor)
                    out[f"{name}_packed"] = pack_bytes(values)
                    out[f"{name}_shape"] = torch.tensor(tensor.shape)
                    matrices += 1
                else:
                    out[name] = tensor
    save_file(out, target / "model.safetensors", {"format": "pt"})
    write_json(target / "config.json", read_json(source / "config.json") | {"quantization_config": QUANTIZATION})
    for name in COPIED:
        if (source / name).is_file():
            shutil.copyfile(source / name, target / name)
    return QuantizedSize(before, sum(t.nbytes for t in out.values()), matrices)
