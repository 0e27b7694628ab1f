"""A model's projections held as integers, and back: attention's and feed-forward's matrices, each expert's too.

Embedding, head, norms, routers and the input projections of Gated DeltaNet stay floats, as in quantised folders.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from qwill.base.errors import ModelError
from qwill.model.byte_scales import with_byte_scales
from qwill.model.files import described, fit, float_dtype, give_memory, hold_codes, read_config, read_into
from qwill.model.fitted import fit_minima
from qwill.model.packed import Codes, Kind, empty_codes
from qwill.model.project import Quantized
from qwill.model.quantize import Scheme, quantize
from qwill.model.stored import StoredTensors
from qwill.model.transformer import Experts, Linear, Transformer

ATTENTION, FEED_FORWARD = ("qkv_proj", "o_proj", "out_proj"), ("gate_up_proj", "down_proj")
SIZE = 32  # columns of a group
BYTES = Scheme(8, SIZE)
AT_ONCE = 1 << 17  # weights that are rounded to bytes together: in memory that is warm


@torch.no_grad()
def hold(model: Transformer, bits: int) -> None:
    """Round every projection to 8 or 4 bits in groups of 32 columns; one that is held in no more bits already stays.

    Beside experts attention is little, and its errors cost as much as theirs: it keeps 8 bits then. Raises ModelError,
    naming the projection, where rows do not divide into groups.
    """
    for _, module, attribute, wanted in list(_to_round(model, bits)):
        weight = getattr(module, attribute)
        codes = _round_all(weight.dense(torch.float32) if isinstance(weight, Quantized) else weight, wanted)
        delattr(module, attribute)
        setattr(module, attribute, Quantized(codes))


@torch.no_grad()
def hold_again(held: Transformer, model: Transformer) -> None:
    """Take over the weights of `model` as they are now into `held`, a copy of it that was rounded by `hold` (or to
    another type of floats); nothing moves."""
    for name, module, attribute in _projections(held):
        weight, wide = getattr(module, attribute), getattr(model.get_submodule(name), attribute)
        if isinstance(weight, Quantized) and not isinstance(wide, Quantized):
            codes = _round_all(wide, weight.bits)
            for part in ("values", "scale", "zero", "minimum"):
                if getattr(weight, part) is not None:
                    getattr(weight, part).copy_(getattr(codes, part))
    mine = dict(held.named_parameters())
    for name, parameter in model.named_parameters():
        if name in mine:
            mine[name].copy_(parameter)
    held.head_codes = None


@torch.no_grad()
def load_held(folder: str | Path, bits: int, dtype: str | torch.dtype = "float32", device: str = "cpu") -> Transformer:
    """`hold` of what `files.load_model` reads (what is stored as integers as such), without ever having its floats.

    Each matrix of the files is rounded when it is read. Raises what the two raise, before any memory is taken.
    """
    kind, folder = float_dtype(dtype), Path(folder)
    config = read_config(folder)
    with StoredTensors(folder) as stored:
        quantized = config.quantization_config is not None
        config, slots = fit(stored, config)
        model = described(config)
        codes = hold_codes(model, stored, slots, device) if quantized else {}
        rounded: dict[str, Quantized] = {}
        for name, module, attribute, wanted in list(_to_round(model, bits)):
            shape, minima = getattr(module, attribute).shape, wanted == 4
            scale = torch.float32 if minima else torch.float16  # as `round_to` gives them
            empty = empty_codes(Kind(wanted, shape[-1] // SIZE, scale, minima, minima), shape, device)
            delattr(module, attribute)
            setattr(module, attribute, Quantized(empty))
            rounded[f"{name}.{attribute}"] = getattr(module, attribute)
        give_memory(model, kind, device)
        read_into(model, stored, {name: slot for name, slot in slots.items() if slot.parameter not in rounded}, codes)
        for name, slot in slots.items():
            if (weight := rounded.get(slot.parameter)) is not None:
                tensor = stored.read(name, slot.shape)
                if slot.parameter not in codes and kind.itemsize < 4:
                    tensor = tensor.to(kind)  # as it would be held; what is wider changes nothing
                weight.write(slot, _round_all(tensor.to(device), weight.bits))
    return model.eval()


def round_to(weight_OI: Tensor, bits: int) -> Codes:
    """8 bits with a scale, or 4 with a scale and a minimum, for each group of 32."""
    if bits == 4:
        return with_byte_scales(fit_minima(weight_OI), weight_OI)
    return round_bytes(weight_OI, torch.float16)


@torch.no_grad()
def round_bytes(weight_OI: Tensor, scale: torch.dtype) -> Codes:
    """`quantize`, some rows at a time: all at once the head of a large vocabulary takes gigabytes on the way."""
    rows, columns = weight_OI.shape
    kind = Kind(8, columns // SIZE, scale, zeros=False)
    codes = empty_codes(kind, (rows, columns), str(weight_OI.device))
    for start in range(0, rows, at_once := max(1, AT_ONCE // columns)):
        part = slice(start, start + at_once)
        found = quantize(weight_OI[part].float(), BYTES, scale)
        codes.values[part], codes.scale[part] = found.values, found.scale
    return codes


@torch.no_grad()
def multiply_out(model: Transformer) -> None:
    """Every weight that is held as integers becomes floats of the embedding's type."""
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, Quantized):
                delattr(module, name)
                setattr(module, name, nn.Parameter(child.dense(model.embed_tokens.weight.dtype)))


def _projections(model: Transformer) -> Iterator[tuple[str, nn.Module, str]]:
    for name, module in list(model.named_modules()):
        if isinstance(module, Experts):
            yield from ((name, module, "gate_up"), (name, module, "down"))
        elif isinstance(module, Linear) and name.endswith(ATTENTION + FEED_FORWARD):
            yield name, module, "weight"


def _to_round(model: Transformer, bits: int) -> Iterator[tuple[str, nn.Module, str, int]]:
    """The projections that `hold` has to round, and to how many bits."""
    for name, module, attribute in _projections(model):
        weight = getattr(module, attribute)
        wanted = 8 if model.config.num_experts and name.endswith(ATTENTION) else bits
        if isinstance(weight, Quantized) and weight.bits <= wanted:
            continue
        if weight.shape[-1] % SIZE:
            raise ModelError(
                f"{name}: rows of {weight.shape[-1]} weights do not divide into groups of {SIZE}; load them as floats."
            )
        yield name, module, attribute, wanted


def _round_all(weight: Tensor, bits: int) -> Codes:
    """`round_to` of a matrix, or of each of a stack."""
    if weight.dim() == 2:
        return round_to(weight, bits)
    return _stacked([round_to(matrix, bits) for matrix in weight])


def _stacked(matrices: list[Codes]) -> Codes:
    def all_of(part: str) -> Tensor | None:
        found = [getattr(codes, part) for codes in matrices]
        return None if found[0] is None else torch.stack(found)

    values, scale = all_of("values"), all_of("scale")
    assert values is not None and scale is not None
    return Codes(matrices[0].bits, matrices[0].columns, values, scale, all_of("zero"), all_of("minimum"))
