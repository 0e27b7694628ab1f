"""Hugging Face model folders: config.json and safetensors with the released tensor names, read and written."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Mapping
from itertools import chain
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from qwill.base.errors import CheckpointError, DataError, ModelError
from qwill.base.files import read_json, sync_folder, write_json
from qwill.model.config import HYBRID, ModelConfig
from qwill.model.layout import Slot, iter_slots, released_names
from qwill.model.packed import Kind, empty_codes
from qwill.model.project import Quantized
from qwill.model.stored import FLOATS, INDEX, StoredTensors
from qwill.model.transformer import Transformer

DTYPES = ("float32", "bfloat16", "float16", "float64")
EMBEDDING, HEAD, SCORE = "model.embed_tokens.weight", "lm_head.weight", "score.weight"
NESTED, VISION = "model.language_model.", "model.visual."


class SavesItself(Protocol):
    def save(self, folder: Path) -> None: ...


def save_model(
    model: Transformer,
    folder: str | Path,
    tokenizer: SavesItself | None = None,
    metadata: Mapping[str, str] | None = None,
    shard_bytes: float | None = None,
    generation_config: Mapping[str, Any] | None = None,
    score_D: Tensor | None = None,
    merged: bool = False,
) -> None:
    """Write config.json, generation_config.json, model*.safetensors (and the tokenizer's files) into `folder`.

    Tensors are written as the model holds them; with `merged` with the adapter that is on it added, and floats where it
    holds integers (merged.py). A file has at most `shard_bytes`: 5 GB, or 0.5 GB where integers become floats. A tied
    head is not stored. `metadata` goes into each file's
    `__metadata__`; `generation_config` is by default what Qwen3 was released with. With `score_D` the folder is a
    reward model: transformers' …ForSequenceClassification with one label.
    """
    from qwill.model.merged import merged_weights

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    names, weight = released_names(model.config), merged_weights(model, merged)
    quantized = any(isinstance(module, Quantized) for module in model.modules())
    tensors: Iterable[tuple[str, Tensor]]
    tensors = ((name, slot.read(weight(slot.parameter))) for name, slot in names.items())
    config = model.config.to_hf()
    if score_D is not None:
        tensors = chain(tensors, [(SCORE, score_D.detach()[None])])
        config["architectures"] = [config["architectures"][0].replace("ForCausalLM", "ForSequenceClassification")]
        config |= {"num_labels": 1, "id2label": {"0": "reward"}, "label2id": {"reward": 0}}
    write_tensors(folder, tensors, metadata, shard_bytes or (5e8 if quantized else 5e9))
    dtype = str(next(model.parameters()).dtype).removeprefix("torch.")
    write_json(folder / "config.json", config | {"torch_dtype": dtype})
    sampling = released_sampling(model.config) if generation_config is None else dict(generation_config)
    write_json(folder / "generation_config.json", sampling)
    if tokenizer is not None:
        tokenizer.save(folder)


def write_tensors(
    folder: Path, tensors: Iterable[tuple[str, Tensor]], metadata: Mapping[str, str] | None, shard_bytes: float
) -> int:
    """Write model.safetensors, or shards of at most `shard_bytes` (one tensor at least) and their index.

    Holds one shard at a time; files of an earlier save go once the new ones are there. Returns the tensors' bytes.
    """
    header = {"format": "pt", **(metadata or {})}
    shard: dict[str, Tensor] = {}
    parts: list[list[str]] = []
    size = total = 0

    def finish() -> None:
        path = folder / f".part-{len(parts):05d}"
        save_file(shard, path, header)
        path.chmod(0o644)
        with open(path, "rb") as f:
            os.fsync(f.fileno())
        parts.append(list(shard))
        shard.clear()

    try:
        for name, tensor in tensors:
            if shard and size + tensor.nbytes > shard_bytes:
                finish()
                size = 0
            shard[name] = tensor.cpu().contiguous()
            size += tensor.nbytes
            total += tensor.nbytes
        finish()
    except BaseException:
        for path in folder.glob(".part-*"):
            path.unlink()
        raise
    stale = {*folder.glob("model-*-of-*.safetensors"), folder / INDEX, folder / "model.safetensors"}
    files = [f"model-{i:05d}-of-{len(parts):05d}.safetensors" for i in range(1, len(parts) + 1)]
    if len(parts) == 1:
        files = ["model.safetensors"]
    for i, file in enumerate(files):
        (folder / f".part-{i:05d}").replace(folder / file)
        stale.discard(folder / file)
    if len(parts) > 1:
        where = {name: file for names, file in zip(parts, files, strict=True) for name in names}
        write_json(folder / INDEX, {"metadata": {"total_size": total}, "weight_map": where})
        stale.discard(folder / INDEX)
    for path in stale:
        path.unlink(missing_ok=True)
    sync_folder(folder)
    return total


def released_sampling(config: ModelConfig) -> dict[str, Any]:
    """generation_config.json as released with Qwen3 for its non-thinking mode (T 0.7, top-p 0.8, top-k 20)."""
    eos = config.eos_token_id
    return {
        "do_sample": True, "temperature": 0.7, "top_p": 0.8, "top_k": 20,
        "eos_token_id": list(eos) if isinstance(eos, tuple) else eos, "pad_token_id": config.pad_token_id,
    }  # fmt: skip


def read_config(folder: Path) -> ModelConfig:
    """The configuration in a model folder. Raises ModelError for one that is missing, broken or not supported."""
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


def load_model(
    folder: str | Path, dtype: str | torch.dtype = "float32", device: str = "cpu", quantized: bool = False
) -> Transformer:
    """A Hugging Face folder (also one that Qwill did not write) as a Transformer.

    Weights that are stored quantised (compressed-tensors) become floats; with `quantized` they stay the integers that
    they are, take that much memory and no gradient.

    Raises ModelError for a configuration that is not supported and for `quantized` where the folder is not, and
    CheckpointError naming the tensor for weights that do not fit it; all before any memory is taken.
    """
    wanted, folder = float_dtype(dtype), Path(folder)
    config = read_config(folder)
    with StoredTensors(folder) as stored:
        config, slots = fit(stored, config)
        model = described(config)
        codes = hold_codes(model, stored, slots, device) if quantized else {}
        give_memory(model, wanted, device)
        read_into(model, stored, slots, codes)
    return model.eval()


def load_score(folder: str | Path, width: int) -> Tensor:
    """score_D, what a reward model's head multiplies the last hidden state by; CheckpointError where there is none."""
    with StoredTensors(Path(folder)) as stored:
        if SCORE not in stored.names:
            raise CheckpointError(f"{folder} holds no {SCORE}: it is no reward model; train one with `qwill reward`.")
        stored.check(SCORE, (1, width))
        return stored.read(SCORE, (1, width))[0].float()


def read_into(
    model: Transformer, stored: StoredTensors, slots: Mapping[str, Slot], codes: Mapping[str, Quantized]
) -> None:
    """Fill the places of these slots: parameters, or the codes that stand there, which are stored as integers, too."""
    parameters = {name: p.detach() for name, p in model.named_parameters()}
    straight: list[tuple[str, Tensor]] = []
    for name, slot in slots.items():
        if (weight := codes.get(slot.parameter)) is not None:
            weight.write(slot, stored.codes(name, slot.shape))
        elif slot.groups:
            slot.write(parameters[slot.parameter], stored.read(name, slot.shape))
        else:
            straight.append((name, parameters[slot.parameter][slot.index]))
    stored.fill(straight)


class _Undrawn(TorchFunctionMode):
    """Modules are made without initial values: on the meta device these cost the import of torch's compiler."""

    def __torch_function__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if getattr(function, "__module__", None) == "torch.nn.init":
            return kwargs["tensor"] if "tensor" in kwargs else args[0]
        return function(*args, **kwargs)


def unfilled(config: ModelConfig, dtype: torch.dtype, device: str) -> Transformer:
    """A model whose parameters have memory but no values yet."""
    model = described(config)
    give_memory(model, dtype, device)
    return model


def described(config: ModelConfig) -> Transformer:
    """A model on the meta device."""
    with torch.device("meta"), _Undrawn():
        return Transformer(config)


def give_memory(model: Transformer, dtype: torch.dtype, device: str) -> None:
    """`Module.to_empty` would do, but imports torch's compiler too, seconds of it."""
    for module in model.modules():
        for name, p in list(module.named_parameters(recurse=False)):
            setattr(module, name, nn.Parameter(torch.empty(p.shape, dtype=dtype, device=device)))


def hold_codes(
    model: Transformer, stored: StoredTensors, slots: Mapping[str, Slot], device: str
) -> dict[str, Quantized]:
    """Put a `Quantized` in the place of each parameter of a model on the meta device that is stored as integers.

    Raises ModelError when there is none, and for a parameter that is stored in parts of different kinds.
    """
    kinds: dict[str, set[Kind | None]] = {}
    for name, slot in slots.items():
        kinds.setdefault(slot.parameter, set()).add(stored.kind(name, slot.shape))
    out: dict[str, Quantized] = {}
    for parameter, (kind, *others) in ((name, tuple(found)) for name, found in kinds.items()):
        if others:
            raise ModelError(
                f"{stored.folder}: the parts of {parameter} are quantised in different ways, so they can't be held "
                "together; load the model as floats (quantized=False)."
            )
        if kind is not None:
            owner, _, attribute = parameter.rpartition(".")
            shape, module = model.get_parameter(parameter).shape, model.get_submodule(owner)
            out[parameter] = Quantized(empty_codes(kind, shape, device))
            delattr(module, attribute)
            setattr(module, attribute, out[parameter])
    if not out:
        raise ModelError(f"{stored.folder}: holds no quantised weight; load it as floats, or quantise it first.")
    return out


def fit(stored: StoredTensors, config: ModelConfig) -> tuple[ModelConfig, dict[str, Slot]]:
    """(configuration of the model in memory, tensor name → its slot), all names, shapes and types checked.

    A head stored beside the embedding that it should be tied to is left out when it is equal and kept when it is not,
    as transformers has it.
    """
    stored.widths, stored.group_sizes = _quantization(config, stored.folder)
    alias = _released_names(stored)
    alias.pop(SCORE, None)  # of a reward model: `load_score` reads it
    names = alias.keys()
    left = {name for name in names if not name.endswith("rotary_emb.inv_freq")}  # a constant in old Llama files
    if config.tie_word_embeddings and HEAD in names:
        if EMBEDDING not in names:
            alias[EMBEDDING] = alias[HEAD]
            left.discard(HEAD)
        elif stored.same_bytes(alias[EMBEDDING], alias[HEAD]):
            left.remove(HEAD)
        else:
            config = config.with_(tie_word_embeddings=False)
    # Configurations do not say reliably whether the files hold a multi-token-prediction head.
    ahead = {name.split(".")[2] for name in names if name.startswith("mtp.layers.")}
    if ahead and config.model_type in HYBRID:
        config = config.with_(mtp_layers=len(ahead))
    slots: dict[str, Slot] = {}
    # One by one, so that an absurd number of layers ends at the first that is not there.
    for released, slot in iter_slots(config, names):
        name = alias.get(released, released)
        stored.check(name, slot.shape)
        slots[name] = slot
        left.discard(released)
    if left:
        raise CheckpointError(
            f"{stored.folder}: tensor {alias[min(left)]} is not part of the {config.model_type} model that config.json "
            "describes."
        )
    return config.with_(quantization_config=None), slots


def _released_names(stored: StoredTensors) -> dict[str, str]:
    """Name in the text model → name in the files: files that come with a vision tower put `language_model` between."""
    out: dict[str, str] = {}
    dropped = []
    for name in sorted(stored.names):
        if name.startswith(VISION):
            dropped.append(name)
        else:
            out[name.replace(NESTED, "model.", 1) if name.startswith(NESTED) else name] = name
    if dropped:
        warnings.warn(
            f"{stored.folder}: its {len(dropped)} tensors of a vision tower are left out; Qwill runs the text model.",
            stacklevel=3,
        )
    return out


def _quantization(config: ModelConfig, folder: Path) -> tuple[frozenset[int], frozenset[int]]:
    """(bits of quantised weights, columns to a scale where it is not one a row) that config.json allows."""
    said = config.quantization_config
    widths, sizes = set(), set()
    if said is None:
        return frozenset({8}), frozenset()
    wanted = "expected compressed-tensors, int-quantized or pack-quantized, integers of 8 or 4 bits"
    if said.get("quant_method") != "compressed-tensors":
        raise ModelError(f"{folder}: quantisation {said.get('quant_method')!r} is not supported; {wanted}.")
    groups = said.get("config_groups")
    for name, group in groups.items() if isinstance(groups, dict) else ():
        weights = group.get("weights") if isinstance(group, dict) else None
        if not isinstance(weights, dict):
            raise ModelError(f"{folder}: config_groups.{name} of quantization_config has no weights; {wanted}.")
        for key, sound in (("num_bits", (8, 4)), ("type", ("int",)), ("actorder", (None, "weight"))):
            if weights.get(key, sound[0]) not in sound:
                raise ModelError(f"{folder}: weights with {key} {weights[key]!r} are not supported; {wanted}.")
        widths.add(int(weights.get("num_bits", 8)))
        if weights.get("strategy") == "group":
            size = weights.get("group_size")
            if not isinstance(size, int) or size < 1:
                raise ModelError(f"{folder}: group_size {size!r} of quantised weights makes no sense; {wanted}.")
            sizes.add(size)
    return frozenset(widths) or frozenset({8}), frozenset(sizes)


def stored_dtype(folder: Path) -> str:
    """The type of a folder's embedding, which the rest of a model follows; float32 where it is another."""
    with StoredTensors(folder) as stored:
        named = _released_names(stored)
        name = named.get(EMBEDDING, named.get(HEAD, ""))
        found = stored.entries[name][1].dtype if name in stored.entries else ""
    return str(FLOATS.get(found, torch.float32)).removeprefix("torch.")


def float_dtype(dtype: str | torch.dtype) -> torch.dtype:
    name = str(dtype).removeprefix("torch.")
    if name not in DTYPES:
        raise ModelError(f"dtype {name!r} is not one to compute with; expected one of {', '.join(DTYPES)}.")
    found: torch.dtype = getattr(torch, name)
    return found
