"""int8 weights, one scale for each output channel, in the `compressed-tensors` format (`pack-quantized`, 8 bits).

Quantised are the matrices of attention and feed-forward (each expert's too); embedding, head, norms and router stay as
they are. `pack-quantized` and not `int-quantized`, because it is what compressed-tensors means by weight-only int8 and
the only integer form that transformers 5.23.0 unpacks for experts. `load_model` reads the folder back as float weights,
which are the numbers that it stands for.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from qwill.base.errors import ModelError
from qwill.base.files import read_json, write_json
from qwill.model.files import fit, read_config, write_tensors
from qwill.model.packed import pack_bytes
from qwill.model.stored import StoredTensors

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
    """(int8 values, scale [O, 1]) with weight ≈ values · scale, symmetric; a row of zeros has scale 1.

    The scale is of the weight's type: transformers computes with experts in the type of their scales.
    """
    wide = weight_OI.float()
    largest = wide.abs().amax(1, keepdim=True)
    scale = (largest / 127.0).to(weight_OI.dtype)
    # A scale that rounding made too small would cut the largest weights off.
    short = scale.float() * 127.5 < largest
    scale = torch.where(short, torch.nextafter(scale, torch.full_like(scale, torch.inf)), scale)
    scale = torch.where(scale == 0, torch.ones_like(scale), scale)
    return torch.round(wide / scale.float()).clamp_(-127, 127).to(torch.int8), scale


def is_quantized(name: str) -> bool:
    """Whether the tensor of this name is one of the matrices that int8 applies to."""
    return name.endswith("_proj.weight")


def quantize_folder(
    source: Path, target: Path, metadata: Mapping[str, str] | None = None, shard_bytes: float = 5e9
) -> QuantizedSize:
    """Write the int8 form of a Hugging Face folder into the (existing or new) folder `target`.

    One matrix at a time is in memory besides the shard that is written. `metadata` goes into each file's
    `__metadata__`. Raises ModelError when the source is quantised already.
    """
    source, target = Path(source), Path(target)
    config = read_config(source)
    if config.quantization_config is not None:
        raise ModelError(f"{source}: is quantised already; give the float model.")
    target.mkdir(parents=True, exist_ok=True)
    before = matrices = 0
    with StoredTensors(source) as stored:
        config, slots = fit(stored, config)

        def tensors() -> Iterator[tuple[str, Tensor]]:
            nonlocal before, matrices
            for stored_name, slot in slots.items():
                for name, tensor in _unstacked(stored_name, stored.read(stored_name, slot.shape)):
                    before += tensor.nbytes
                    if not is_quantized(name):
                        yield name, tensor
                        continue
                    values, scale = quantize_rows(tensor)
                    matrices += 1
                    yield f"{name}_packed", pack_bytes(values)
                    yield f"{name}_scale", scale
                    yield f"{name}_shape", torch.tensor(tensor.shape)

        after = write_tensors(target, tensors(), metadata, shard_bytes)
    tied = {"tie_word_embeddings": config.tie_word_embeddings}
    described = read_json(source / "config.json") | tied | {"quantization_config": QUANTIZATION}
    write_json(target / "config.json", described)
    for name in COPIED:
        if (source / name).is_file():
            shutil.copyfile(source / name, target / name)
    return QuantizedSize(before, after, matrices)


def _unstacked(name: str, tensor: Tensor) -> Iterator[tuple[str, Tensor]]:
    """Stacked experts one by one, under their released names; any other tensor as it is."""
    stem, _, last = name.rpartition(".")
    if not stem.endswith(".mlp.experts"):
        yield name, tensor
        return
    for e, expert in enumerate(tensor):
        if last == "down_proj":
            yield f"{stem}.{e}.down_proj.weight", expert
        else:
            gate, up = expert.chunk(2)
            yield f"{stem}.{e}.gate_proj.weight", gate
            yield f"{stem}.{e}.up_proj.weight", up
