"""Hugging Face model folders: config.json and safetensors with the released tensor names, read and written.

In memory q, k, v are one matrix and gate, up are one; experts are stacked. On disk every released matrix is its own.
Reading maps the files and copies each tensor once, straight into its place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from qwill.base.errors import CheckpointError, DataError, ModelError
from qwill.base.files import read_json, write_json
from qwill.base.tensorfile import read_header
from qwill.model.config import ModelConfig
from qwill.model.packed import unpack_bytes
from qwill.model.transformer import Transformer


class SavesItself(Protocol):
    def save(self, folder: Path) -> None: ...


@dataclass(frozen=True)
class Slot:
    """Where one tensor of the files lives in memory: a view of a parameter, made by `part`."""

    parameter: str
    part: Callable[[Tensor], Tensor]


def _whole(x: Tensor) -> Tensor:
    return x


def released_names(config: ModelConfig) -> dict[str, Slot]:
    """File tensor name → its slot, for every tensor that the released files of this configuration hold."""
    q, kv = config.num_attention_heads * config.head_dim, config.num_key_value_heads * config.head_dim
    out = {"model.embed_tokens.weight": Slot("embed_tokens.weight", _whole)}

    def rows(first: int, last: int) -> Callable[[Tensor], Tensor]:
        return lambda x: x[first:last]

    def of_expert(e: int, first: int, last: int) -> Callable[[Tensor], Tensor]:
        return lambda x: x[e, first:last]

    for i in range(config.num_hidden_layers):
        here, there = f"layers.{i}", f"model.layers.{i}"
        for norm in ("input_layernorm", "post_attention_layernorm"):
            out[f"{there}.{norm}.weight"] = Slot(f"{here}.{norm}.weight", _whole)
        attention = f"{here}.self_attn"
        for kind in ("weight", "bias") if config.attention_bias else ("weight",):
            for name, first, last in (("q", 0, q), ("k", q, q + kv), ("v", q + kv, q + 2 * kv)):
                slot = Slot(f"{attention}.qkv_proj.{kind}", rows(first, last))
                out[f"{there}.self_attn.{name}_proj.{kind}"] = slot
            out[f"{there}.self_attn.o_proj.{kind}"] = Slot(f"{attention}.o_proj.{kind}", _whole)
        if config.qk_norm:
            for name in ("q_norm", "k_norm"):
                out[f"{there}.self_attn.{name}.weight"] = Slot(f"{attention}.{name}.weight", _whole)
        if config.is_sparse(i):
            f, d = config.moe_intermediate_size, config.hidden_size
            out[f"{there}.mlp.gate.weight"] = Slot(f"{here}.mlp.gate.weight", _whole)
            for e in range(config.num_experts):
                for name, parameter, first, last in (
                    ("gate", "gate_up", 0, f), ("up", "gate_up", f, 2 * f), ("down", "down", 0, d),
                ):  # fmt: skip
                    slot = Slot(f"{here}.mlp.{parameter}", of_expert(e, first, last))
                    out[f"{there}.mlp.experts.{e}.{name}_proj.weight"] = slot
        else:
            f = config.intermediate_size
            for name, parameter, first, last in (
                ("gate", "gate_up_proj", 0, f), ("up", "gate_up_proj", f, 2 * f),
                ("down", "down_proj", 0, config.hidden_size),
            ):  # fmt: skip
                out[f"{there}.mlp.{name}_proj.weight"] = Slot(f"{here}.mlp.{parameter}.weight", rows(first, last))
    out["model.norm.weight"] = Slot("norm.weight", _whole)
    if not config.tie_word_embeddings:
        out["lm_head.weight"] = Slot("lm_head.weight", _whole)
    return out


def save_model(
    model: Transformer,
    folder: Path,
    tokenizer: SavesItself | None = None,
    metadata: dict[str, str] | None = None,
    shard_bytes: float = 5e9,
) -> None:
    """Write config.json, generation_config.json, model*.safetensors (and the tokenizer's files) into `folder`.

    Tensors are written as the model holds them; shards hold at most `shard_bytes`. `metadata` goes into each file's
    `__metadata__`.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    parameters = dict(model.named_parameters())
    shards: list[dict[str, Tensor]] = [{}]
    size = 0
    for name, slot in released_names(model.config).items():
        tensor = slot.part(parameters[slot.parameter].detach()).contiguous()
        if shards[-1] and size + tensor.nbytes > shard_bytes:
            shards.append({})
            size = 0
        shards[-1][name] = tensor.cpu()
        size += tensor.nbytes
    header = {"format": "pt", **(metadata or {})}
    if len(shards) == 1:
        save_file(shards[0], folder / "model.safetensors", header)
    else:
        where: dict[str, str] = {}
        for i, shard in enumerate(shards, start=1):
            file = f"model-{i:05d}-of-{len(shards):05d}.safetensors"
            save_file(shard, folder / file, header)
            where |= dict.fromkeys(shard, file)
        total = sum(t.nbytes for s in shards for t in s.values())
        write_json(folder / "model.safetensors.index.json", {"metadata": {"total_size": total}, "weight_map": where})
    dtype = str(next(model.parameters()).dtype).removeprefix("torch.")
    write_json(folder / "config.json", model.config.to_hf() | {"torch_dtype": dtype})
    write_json(folder / "generation_config.json", generation_config(model.config))
    if tokenizer is not None:
        tokenizer.save(folder)


def generation_config(config: ModelConfig) -> dict[str, Any]:
    """Sampling as released with Qwen3 for its non-thinking mode (T 0.7, top-p 0.8, top-k 20)."""
    eos = config.eos_token_id
    return {
        "do_sample": True, "temperature": 0.7, "top_p": 0.8, "top_k": 20,
        "eos_token_id": list(eos) if isinstance(eos, tuple) else eos, "pad_token_id": config.pad_token_id,
    }  # fmt: skip


def read_config(folder: Path) -> ModelConfig:
    path = Path(folder) / "config.json"
    if not path.is_file():
        raise ModelError(f"{folder}: holds no config.json; expected a Hugging Face model folder.")
    try:
        raw = read_json(path)
    except DataError as error:
        raise ModelError(str(error)) from None
    if not isinstance(raw, dict):
        raise ModelError(f"{path}: expected a JSON object.")
    return ModelConfig.from_hf(raw, str(path))


def weight_files(folder: Path) -> dict[str, Path]:
    """Tensor name → the file that holds it, headers checked."""
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        paths = sorted({folder / name for name in read_json(index)["weight_map"].values()})
        for path in paths:
            if not path.is_file():
                raise CheckpointError(f"{path}: is missing, but {index.name} names it; copy the whole folder again.")
    else:
        paths = sorted(folder.glob("*.safetensors"))
    if not paths:
        raise CheckpointError(f"{folder}: holds no *.safetensors; expected model.safetensors or its shards.")
    return {name: path for path in paths for name in read_header(path)}


def load_model(folder: str | Path, dtype: str | torch.dtype = "float32", device: str = "cpu") -> Transformer:
    """A Hugging Face folder (also one that Qwill did not write, and compressed-tensors int8) as a Transformer.

    Raises ModelError for a configuration that is not supported, CheckpointError naming the tensor for weights that do
    not fit it.
    """
    folder = Path(folder)
    config = read_config(folder)
    wanted = getattr(torch, dtype) if isinstance(dtype, str) else dtype
    with torch.device("meta"):
        model = Transformer(config.with_(quantization_config=None))
    model = model.to(wanted).to_empty(device=device)
    parameters = dict(model.named_parameters())
    files = weight_files(folder)
    slots = released_names(config)
    left = set(files)
    with torch.no_grad():
        for name, value, read in _tensors(files, set(slots) | _fused_names(config)):
            for part_name, part in _unfused(name, value, config):
                if part_name not in slots:
                    raise CheckpointError(f"{folder}: tensor {part_name} is there twice.")
                slot = slots.pop(part_name)
                target = slot.part(parameters[slot.parameter])
                if target.shape != part.shape:
                    raise CheckpointError(
                        f"{files[read[0]]}: tensor {part_name} has shape {list(part.shape)}, but config.json means "
                        f"{list(target.shape)}."
                    )
                target.copy_(part)
            left -= set(read)
    if "lm_head.weight" in left and config.tie_word_embeddings:
        left.discard("lm_head.weight")  # some tied checkpoints repeat the embedding
    if slots:
        raise CheckpointError(f"{folder}: tensor {next(iter(slots))} is missing ({len(slots)} in all).")
    if left:
        raise CheckpointError(f"{folder}: tensor {min(left)} is not part of a {config.model_type} model.")
    return model.eval()


def _tensors(files: dict[str, Path], known: set[str]) -> Iterator[tuple[str, Tensor, list[str]]]:
    """(name, float tensor, names read) of every known tensor, one file after the other.

    int8 weights (compressed-tensors, packed or plain) come as the floats that they stand for.
    """

    def get(name: str, weight: str) -> Tensor:
        if name not in files:
            raise CheckpointError(f"{files[weight]}: tensor {weight} is quantised, but {name} is missing.")
        with safe_open(files[name], framework="pt") as g:
            return g.get_tensor(name)

    for path in sorted(set(files.values())):
        with safe_open(path, framework="pt") as f:
            for stored in [n for n, p in files.items() if p == path]:
                name = stored.removesuffix("_packed")
                if name not in known:
                    continue
                tensor, read = f.get_tensor(stored), [stored]
                if stored != name:
                    shape = tuple(get(f"{name}_shape", stored).tolist())
                    if len(shape) != 2 or tensor.shape != (shape[0], -(-shape[1] // 4)) or tensor.dtype != torch.int32:
                        raise CheckpointError(f"{path}: tensor {stored} does not hold 8-bit weights of shape {shape}.")
                    tensor = unpack_bytes(tensor, shape)
                    read.append(f"{name}_shape")
                if tensor.dtype == torch.int8:
                    tensor = tensor.float() * get(f"{name}_scale", stored).float()
                    read.append(f"{name}_scale")
                yield name, tensor, read


def _fused_names(config: ModelConfig) -> set[str]:
    """The other layout of experts, one stacked tensor a layer (transformers 5 in memory)."""
    sparse = [i for i in range(config.num_hidden_layers) if config.is_sparse(i)]
    return {f"model.layers.{i}.mlp.experts.{n}" for i in sparse for n in ("gate_up_proj", "down_proj")}


def _unfused(name: str, value: Tensor, config: ModelConfig) -> Iterator[tuple[str, Tensor]]:
    stem, _, last = name.rpartition(".")
    if not stem.endswith(".mlp.experts"):
        yield name, value
        return
    if value.ndim != 3 or value.shape[0] != config.num_experts:
        raise CheckpointError(f"tensor {name} has shape {list(value.shape)}; expected {config.num_experts} experts.")
    for e in range(config.num_experts):
        if last == "gate_up_proj":
            gate, up = value[e].chunk(2)
            yield f"{stem}.{e}.gate_proj.weight", gate
            yield f"{stem}.{e}.up_proj.weight", up
        else:
            yield f"{stem}.{e}.down_proj.weight", value[e]
