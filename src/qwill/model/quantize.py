"""Quantised model folders in the `compressed-tensors` format: 8 bits, one scale a row, or 4 bits, one scale a group.

Quantised are the matrices of attention and feed-forward (each expert's too); embedding, head, norms and router stay as
they are. `pack-quantized` is what compressed-tensors means by weight-only integers. `int-quantized` has a byte for each
weight; transformers 5.23.0 does not unpack it for experts, so experts are `pack-quantized` there, too. `load_model`
reads the folder back as float weights, which are the numbers that it stands for, or keeps the codes (`quantized=True`).
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from qwill.base.errors import ModelError
from qwill.base.files import read_json, write_json
from qwill.model.files import fit, read_config, write_tensors
from qwill.model.packed import Codes, pack
from qwill.model.stored import StoredTensors

COPIED = ("generation_config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
KEPT = ["lm_head", "re:.*mlp\\.gate$"]
EXPERT = "re:.*mlp\\.experts\\..*_proj$"


@dataclass(frozen=True)
class Scheme:
    """How weights are quantised. `group_size` columns of a row share a scale; None: all of them do."""

    bits: Literal[8, 4] = 8
    group_size: int | None = None
    format: Literal["pack-quantized", "int-quantized"] = "pack-quantized"

    def __post_init__(self) -> None:
        if self.bits == 4 and self.format == "int-quantized":
            raise ModelError("int-quantized has a byte for each weight; take bits 8, or format pack-quantized.")
        if self.group_size is not None and self.group_size < 1:
            raise ModelError(f"group_size is {self.group_size}; expected 1 or more columns.")

    def to_hf(self, sparse: bool = False, kept: tuple[str, ...] = ()) -> dict[str, Any]:
        """`quantization_config` of config.json; `kept` are names of linear layers that stay floats."""
        strategy = {"strategy": "channel"} if self.group_size is None else {
            "strategy": "group", "group_size": self.group_size
        }  # fmt: skip
        weights = {"num_bits": self.bits, "type": "int", "symmetric": True, "dynamic": False, **strategy}
        group: dict[str, Any] = {"targets": ["Linear"], "weights": weights}
        group |= {"input_activations": None, "output_activations": None}
        groups, form = {"group_0": group}, str(self.format)
        if self.format == "int-quantized":
            # Said of the group, too: compressed-tensors else takes weight-only integers to be packed.
            groups = {"group_0": {**group, "format": self.format}}
            if sparse:
                form = "mixed-precision"
                groups["group_1"] = {**group, "format": "pack-quantized", "targets": [EXPERT]}
        return {
            "quant_method": "compressed-tensors",
            "format": form,
            "quantization_status": "compressed",
            "ignore": KEPT + [f"re:.*{re.escape(name)}$" for name in kept],
            "kv_cache_scheme": None,
            "config_groups": groups,
        }


INT8 = Scheme()


@dataclass(frozen=True)
class QuantizedSize:
    """Bytes of all tensors before and after, and how many matrices were quantised."""

    before: int
    after: int
    matrices: int


def quantize(weight_OI: Tensor, scheme: Scheme = INT8, scale_dtype: torch.dtype | None = None) -> Codes:
    """The nearest codes, symmetric: weight ≈ values · scale, at most half a scale away; a group of zeros has scale 1.

    The scale is of the weight's type unless told otherwise: transformers computes with experts in the type of their
    scales. Raises ModelError when the columns are no multiple of the group size.
    """
    rows, columns = weight_OI.shape
    size, top = scheme.group_size or columns, 127 if scheme.bits == 8 else 7
    if columns % size:
        raise ModelError(f"rows of {columns} weights do not divide into groups of {size}; choose another group_size.")
    wide = weight_OI.float().view(rows, -1, size)
    largest = wide.abs().amax(2)
    scale = (largest / top).to(scale_dtype or weight_OI.dtype)
    # A scale that rounding made too small would cut the largest weights off.
    short = scale.float() * (top + 0.5) < largest
    scale = torch.where(short, torch.nextafter(scale, torch.full_like(scale, torch.inf)), scale)
    scale = torch.where(scale == 0, torch.ones_like(scale), scale)
    values = torch.round(wide / scale.float()[..., None]).clamp_(-top, top).to(torch.int8).view(rows, columns)
    return Codes.of(values, scale, scheme.bits)


def is_quantized(name: str) -> bool:
    """Whether the tensor of this name is one of the matrices that are quantised."""
    return name.endswith("_proj.weight")


def quantize_folder(
    source: Path,
    target: Path,
    metadata: Mapping[str, str] | None = None,
    shard_bytes: float = 5e9,
    scheme: Scheme = INT8,
) -> QuantizedSize:
    """Write the quantised form of a Hugging Face folder into the (existing or new) folder `target`.

    One matrix at a time is in memory besides the shard that is written. `metadata` goes into each file's
    `__metadata__`. Raises ModelError when the source is quantised already, and for a matrix whose rows do not divide
    into the scheme's groups.
    """
    source, target = Path(source), Path(target)
    config = read_config(source)
    if config.quantization_config is not None:
        raise ModelError(f"{source}: is quantised already; give the float model.")
    target.mkdir(parents=True, exist_ok=True)
    before = matrices = 0
    kept: set[str] = set()
    with StoredTensors(source) as stored:
        config, slots = fit(stored, config)

        def tensors() -> Iterator[tuple[str, Tensor]]:
            nonlocal before, matrices, kept
            for stored_name, slot in slots.items():
                for name, tensor in _unstacked(stored_name, stored.read(stored_name, slot.shape)):
                    before += tensor.nbytes
                    if not is_quantized(name):
                        kept |= {name} if tensor.ndim == 2 else set()
                        yield name, tensor
                        continue
                    matrices += 1
                    try:
                        codes = quantize(tensor, scheme)
                    except ModelError as error:
                        raise ModelError(f"{source}: {name}: {error}") from None
                    if scheme.format == "int-quantized" and ".mlp.experts." not in name:
                        yield name, codes.values
                    else:
                        yield f"{name}_packed", pack(codes.integers(), scheme.bits)
                        yield f"{name}_shape", torch.tensor(tensor.shape)
                    yield f"{name}_scale", codes.scale

        after = write_tensors(target, tensors(), metadata, shard_bytes)
    # Other linear layers than the usual must be named, or transformers looks for their codes.
    linear = {name.removesuffix(".weight").rpartition(".")[2] for name in kept} - {"embed_tokens", "lm_head", "gate"}
    described = read_json(source / "config.json") | {
        "tie_word_embeddings": config.tie_word_embeddings,
        "quantization_config": scheme.to_hf(config.num_experts > 0, tuple(sorted(linear))),
    }
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
