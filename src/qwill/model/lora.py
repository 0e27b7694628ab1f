"""LoRA: a projection's output gets scale·B(A·x) on top, and only A and B are trained (arXiv 2106.09685 §4.1).

Adapters are objects of their own: `attach` puts one on a model and `detach` takes it off again, and neither touches a
weight; `merge` adds it to the weights for good. They name projections as the released files do (q_proj, …) and add to
those rows of the fused projections in memory. Expert projections have an A and a B for every expert. The files are
PEFT's (lora_files.py).

Shape suffixes: N tokens, r rank, I inputs and O outputs of a released projection, C outputs of a fused one, E experts.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import reduce

import torch
from torch import Tensor, nn

from qwill.base.errors import ConfigError, ModelError
from qwill.model import ops
from qwill.model.layout import Slot, iter_slots
from qwill.model.lora_config import LoraConfig, named
from qwill.model.project import Quantized
from qwill.model.transformer import Experts, Linear, Transformer

EXPERT = re.compile(r"(.*\.mlp\.experts)\.(\d+)\.(\w+)")


class LowRank(nn.Module):
    """scale·B(A·x) for one released projection, a_rI and b_Or; or for every expert's, a_ErI and b_EOr.

    `rows` says where each of the O outputs stands among those of the fused projection.
    """

    rows_O: Tensor

    def __init__(self, a: Tensor, b: Tensor, scale: float, rows_O: Tensor) -> None:
        super().__init__()
        self.a, self.b, self.scale = nn.Parameter(a), nn.Parameter(b), scale
        self.register_buffer("rows_O", rows_O, persistent=False)
        first = int(rows_O[0])
        self.span = slice(first, first + len(rows_O))
        self.together = torch.equal(rows_O.cpu(), torch.arange(self.span.start, self.span.stop))

    def forward(self, x_NI: Tensor, starts: Tensor | None) -> Tensor:
        x_NI = x_NI.to(self.a.dtype)
        # scale·B and not scale·A·x: native generation has it there (engine/native_adapters.py), and rounds alike.
        b = self.scale * self.b
        if starts is None:
            return ops.linear(ops.linear(x_NI, self.a), b)
        return ops.grouped_linear(ops.grouped_linear(x_NI, starts, self.a), starts, b)

    def add_to(self, weight: Tensor) -> None:
        """weight += scale·B·A, in place, summed in A's type."""
        delta = self.scale * (self.b @ self.a)
        rows = weight.index_select(-2, self.rows_O).to(delta.dtype) + delta
        weight.index_copy_(-2, self.rows_O, rows.to(weight.dtype))


class Updates(nn.ModuleDict):
    """What an adapter adds to one fused projection: a `LowRank` for each released projection in it."""

    def forward(
        self, x_NI: Tensor, out_NC: Tensor, starts: Tensor | None = None, token_M: Tensor | None = None
    ) -> Tensor:
        """`out_NC` with the updates added; `token_M` is for those who ask which token a row is of (lora_mixed.py)."""
        parts = [part for part in self.values() if isinstance(part, LowRank)]
        pieces: list[Tensor] = []
        at = 0
        for part in sorted(parts, key=lambda part: int(part.span.start)):
            added_NO = part(x_NI, starts).to(out_NC.dtype)
            if not part.together:
                out_NC = out_NC.index_add(1, part.rows_O, added_NO)
                continue
            if part.span.start > at:
                pieces.append(out_NC.new_zeros(len(out_NC), part.span.start - at))
            pieces.append(added_NO)
            at = part.span.stop
        if not pieces:
            return out_NC
        if at < out_NC.shape[1]:
            pieces.append(out_NC.new_zeros(len(out_NC), out_NC.shape[1] - at))
        # Beside each other and added at once: adding to slices costs a copy of everything for each of them, backwards.
        return out_NC + torch.cat(pieces, dim=1)


@dataclass
class Adapter:
    """`parts` by released module name, experts without their number: model.layers.0.mlp.experts.down_proj."""

    config: LoraConfig
    parts: dict[str, LowRank]

    def is_stacked(self, module: str) -> bool:
        """Whether the file has all experts of this projection in one tensor."""
        return named(module, self.config.parameters)


@dataclass(frozen=True)
class Target:
    """A released projection [outputs, inputs] of a model: the rows of `owner`'s weight `attribute`; `experts` of them
    (0: it is no expert's)."""

    owner: str
    attribute: str
    outputs: int
    inputs: int
    experts: int
    rows_O: Tensor


def projections(model: Transformer) -> dict[str, Target]:
    """Every projection that can have an adapter; experts have `gate_up_proj` besides `gate_proj` and `up_proj`."""
    containers = [f"model.layers.{i}.mlp.experts" for i in range(model.config.num_hidden_layers)]
    stacked = [*iter_slots(model.config, {f"{c}.gate_up_proj" for c in containers})]
    out: dict[str, Target] = {}
    for name, slot in [*iter_slots(model.config), *((n, s) for n, s in stacked if len(s.shape) == 3)]:
        module, expert = name.removesuffix(".weight"), EXPERT.fullmatch(name.removesuffix(".weight"))
        if expert and expert[2] != "0":
            continue  # the first expert says where all of them are
        owner, _, attribute = slot.parameter.rpartition(".")
        if not isinstance(model.get_submodule(owner), Linear | Experts) or owner.startswith(("lm_head", "mtp")):
            continue
        weight = weight_of(model, owner, attribute)
        if len(weight.shape) < 2:
            continue
        count = weight.shape[0] if len(weight.shape) == 3 else 0
        outputs, inputs = slot.shape[-2:]
        key = f"{expert[1]}.{expert[3]}" if expert else module
        out[key] = Target(owner, attribute, outputs, inputs, count, _rows(slot, weight.shape))
    return out


def weight_of(model: Transformer, owner: str, attribute: str) -> Tensor | Quantized:
    weight: Tensor | Quantized = reduce(getattr, [*owner.split("."), attribute], model)  # type: ignore[assignment]
    return weight


def _rows(slot: Slot, shape: torch.Size) -> Tensor:
    """Where each row of the file's tensor stands in the parameter (in one expert of it)."""
    numbers = torch.arange(shape[-2])[:, None].expand(*shape[:-1], 1)
    rows = replace(slot, shape=(*slot.shape[:-1], 1)).read(numbers)
    return rows.reshape(-1, slot.shape[-2])[0].clone()


def new_adapter(model: Transformer, config: LoraConfig, generator: torch.Generator | None = None) -> Adapter:
    """An adapter that changes nothing yet: A uniform in ±1/√inputs as PEFT draws it, B zero.

    Experts are stacked, as transformers 5 has them, gate and up with one A; the adapter's own configuration names them
    so that PEFT finds them. Raises ConfigError for a target that the model has not.
    """
    known = projections(model)
    for end in (*config.targets, *config.parameters):
        if not any(named(module, (end,)) or named(f"{module}.weight", (end,)) for module in known):
            ends = ", ".join(sorted({module.rpartition(".")[2] for module in known}))
            raise ConfigError(f"no projection of this {model.config.model_type} is called {end!r}; it has {ends}.")

    def asked(module: str) -> bool:
        container, _, last = module.rpartition(".")
        if known[module].experts and last in ("gate_proj", "up_proj"):
            return False  # in gate_up_proj
        names = [f"{container}.{n}" for n in ("gate_proj", "up_proj")] if last == "gate_up_proj" else [module]
        both = (module, f"{module}.weight")
        return any(named(n, config.targets) for n in names) or any(named(n, config.parameters) for n in both)

    chosen = [module for module in known if asked(module)]
    if model.config.num_experts:
        # PEFT 0.21 takes any gate_proj, up_proj, down_proj or gate of `target_modules` to be of experts; what is not,
        # it finds as a parameter.
        places = [".".join(m.split(".")[-2:]) + ("" if known[m].experts else ".weight") for m in chosen if _is_mlp(m)]
        config = replace(
            config, targets=tuple(t for t in config.targets if not _is_mlp(t)), parameters=tuple(dict.fromkeys(places))
        )
    parts: dict[str, LowRank] = {}
    for module in chosen:
        target, spelled = known[module], config.spelled(module)
        stack, rank = (target.experts,) if target.experts else (), config.rank_of(spelled)
        a = torch.empty(*stack, rank, target.inputs).uniform_(-1, 1, generator=generator) * target.inputs**-0.5
        b = torch.zeros(*stack, target.outputs, rank)
        parts[module] = LowRank(a, b, config.scale_of(spelled), target.rows_O)
    return Adapter(config, parts)


def _is_mlp(module: str) -> bool:
    return module.rpartition(".")[2] in ("gate_proj", "up_proj", "gate_up_proj", "down_proj", "gate")


def targets_of(model: Transformer, adapter: Adapter) -> dict[str, Target]:
    """The adapter's projections in the model. Raises ModelError for the adapter of another model."""
    known = projections(model)
    for name, part in adapter.parts.items():
        if name not in known:
            raise ModelError(f"the adapter is for another model: this {model.config.model_type} model has no {name}.")
        target = known[name]
        stack = (target.experts,) if target.experts else ()
        for what, tensor, shape in (("A", part.a, (-1, target.inputs)), ("B", part.b, (target.outputs, -1))):
            expected = tuple(part.a.shape[-2] if n == -1 else n for n in (*stack, *shape))
            if tensor.shape != expected:
                raise ModelError(
                    f"the adapter is for another model: {what} of {name} has shape {list(tensor.shape)}; this "
                    f"{model.config.model_type} model needs {list(expected)}."
                )
    return {name: known[name] for name in adapter.parts}


def attach(model: Transformer, adapter: Adapter) -> None:
    """Put the adapter on the model: its A and B become parameters of the model, and the only ones with gradients.

    They take the type of the model's floats, float32 at least. Raises ModelError when there is an adapter on it
    already, and for one of another model.
    """
    targets, embedding = targets_of(model, adapter), model.embed_tokens.weight
    if any(getattr(module, "updates", None) is not None for module in model.modules()):
        raise ModelError("the model has an adapter on it already; detach that first.")
    model.requires_grad_(False)
    dtype = torch.float64 if embedding.dtype == torch.float64 else torch.float32
    for name, part in adapter.parts.items():
        owner = model.get_submodule(targets[name].owner)
        updates = owner.updates
        if updates is None:
            updates = owner.updates = Updates() if isinstance(owner, Linear) else nn.ModuleDict()
        assert isinstance(updates, nn.ModuleDict)
        if isinstance(owner, Experts):
            if targets[name].attribute not in updates:
                updates[targets[name].attribute] = Updates()
            updates = updates[targets[name].attribute]
            assert isinstance(updates, Updates)
        updates[name.rpartition(".")[2]] = part.to(embedding.device, dtype)
    model.adapter = adapter


def detach(model: Transformer) -> None:
    """Take the adapter off; every parameter has a gradient again."""
    for module in model.modules():
        if isinstance(module, Linear | Experts):
            module.updates = None
    model.adapter = None
    model.requires_grad_(True)


@torch.no_grad()
def merge(model: Transformer, adapter: Adapter) -> None:
    """Add the adapter to the weights for good, taking off the one that is on the model.

    Raises ModelError for an adapter of another model, and for weights held as codes: their sum with B·A is no code.
    """
    detach(model)
    weights = {name: weight_of(model, t.owner, t.attribute) for name, t in targets_of(model, adapter).items()}
    for name, weight in weights.items():
        if isinstance(weight, Quantized):
            raise ModelError(f"{name} is held as integers and cannot take an adapter in; load the model as floats.")
    for name, part in adapter.parts.items():
        weight = weights[name]
        assert isinstance(weight, Tensor)
        part.add_to(weight)
