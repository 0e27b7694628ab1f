"""How large a model is, from its config.json alone: exact, and without making a single tensor.

Every count is a sum over `layout.iter_slots`, the list of released tensors that loading and saving go by.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, fields
from functools import cache
from math import prod
from pathlib import Path
from typing import Any

from qwill.base.errors import DataError, ModelError
from qwill.base.files import read_json
from qwill.model.config import ModelConfig
from qwill.model.layout import Slot, iter_slots

TABLES = ("embed_tokens.weight", "lm_head.weight")


@dataclass(frozen=True)
class ParameterCount:
    """Numbers of weights. `active` are those that one token passes through: all but the experts not chosen for it.

    `embedding` are the token embedding and, where it is not tied to it, the head; both are part of the other two.
    A multi-token-prediction head counts in none of them: transformers does not load it.
    """

    total: int
    active: int
    embedding: int


@dataclass(frozen=True)
class LayerSize:
    """Weights of one layer by what becomes of them when the model is cut up.

    `mixer`: matrices of attention or Gated DeltaNet. `dense`: matrices of the feed-forward or the shared expert.
    `router`: the router and the shared expert's gate. `experts`: all experts. `vectors`: norms, biases, convolution.
    """

    mixer: int = 0
    dense: int = 0
    router: int = 0
    experts: int = 0
    vectors: int = 0

    @property
    def whole(self) -> int:
        return self.mixer + self.dense + self.router + self.experts + self.vectors

    def __add__(self, other: LayerSize) -> LayerSize:
        return LayerSize(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))


def count_parameters(config_json_path: str | Path) -> ParameterCount:
    """Exact parameter counts of the model that a `config.json` (or the folder that holds it) describes.

    Raises ModelError for a file that can't be read and for a model that is not supported.
    """
    return count(read_config(config_json_path))


def read_config(config_json_path: str | Path) -> ModelConfig:
    """The configuration in a `config.json`, or in the folder that holds it; raises ModelError."""
    path = Path(config_json_path)
    if path.is_dir():
        path = path / "config.json"
    if not path.is_file():
        raise ModelError(f"{path}: there is no such file; expected the config.json of a model.")
    try:
        raw = read_json(path)
    except DataError as error:
        raise ModelError(str(error)) from None
    if not isinstance(raw, dict):
        raise ModelError(f"{path}: expected a JSON object.")
    return ModelConfig.from_hf(raw, str(path))


def count(config: ModelConfig) -> ParameterCount:
    """`count_parameters` of a configuration already read."""
    total = idle = embedding = 0
    for slot in _slots(config):
        total += prod(slot.shape)
        if slot.parameter in TABLES:
            embedding += prod(slot.shape)
        elif _is_expert(slot):
            idle += prod(slot.shape) // config.num_experts * (config.num_experts - config.num_experts_per_tok)
    return ParameterCount(total, total - idle, embedding)


@cache
def layer_sizes(config: ModelConfig) -> tuple[LayerSize, ...]:
    """The size of each layer, from the first to the last; embedding, head and last norm are in none of them."""
    sizes = [LayerSize() for _ in range(config.num_hidden_layers)]
    for slot in _slots(config):
        if slot.parameter.startswith("layers."):
            layer = int(slot.parameter.split(".")[1])
            sizes[layer] += LayerSize(**{_kind(slot): prod(slot.shape)})
    return tuple(sizes)


def _kind(slot: Slot) -> str:
    if _is_expert(slot):
        return "experts"
    if len(slot.shape) != 2:
        return "vectors"
    if slot.parameter.endswith((".mlp.gate.weight", ".shared_expert_gate.weight")):
        return "router"
    return "dense" if ".mlp." in slot.parameter else "mixer"


def _is_expert(slot: Slot) -> bool:
    return slot.parameter.endswith((".mlp.gate_up", ".mlp.down"))


class _Every(Collection[str]):
    """Holds every name, so that `iter_slots` gives a layer's experts as one tensor: a trillion weights in no time."""

    def __contains__(self, name: Any) -> bool:
        return True

    def __iter__(self) -> Iterator[str]:
        return iter(())

    def __len__(self) -> int:
        return 0


def _slots(config: ModelConfig) -> Iterator[Slot]:
    return (slot for name, slot in iter_slots(config, _Every()) if not name.startswith("mtp."))
