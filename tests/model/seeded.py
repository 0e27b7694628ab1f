"""What the files of seeded bugs share: a bug is a change to a good model or to an operation, and must be seen in every
model of the record that it touches."""

import copy
from collections.abc import Callable
from functools import cache

import pytest
from torch import nn

from qwill.model import transformer
from qwill.model.config import ModelConfig
from qwill.model.transformer import Attention, GatedDeltaNet, Transformer

from .parity import CASES, differences, load

Bug = Callable[[Transformer, pytest.MonkeyPatch], None]
Where = Callable[[ModelConfig], bool]
fresh = cache(load)


def assert_caught(name: str, where: Where, bug: Bug, patch: pytest.MonkeyPatch, as_what: str = "") -> None:
    """`as_what`: how every difference must begin, for bugs that one kind of comparison alone can see."""
    touched = [case for case in CASES if where(fresh(case).config)]
    assert touched
    for case in touched:
        model = copy.deepcopy(fresh(case))
        with patch.context() as p:
            bug(model, p)
            first = next(differences(case, model), None)
        assert first is not None, f"{name} hides in {case}"
        assert first.startswith(as_what), f"{name} in {case}: {first}"


def attentions(model: Transformer) -> list[Attention]:
    return [m for m in model.modules() if isinstance(m, Attention)]


def delta_nets(model: Transformer) -> list[GatedDeltaNet]:
    return [m for m in model.modules() if isinstance(m, GatedDeltaNet)]


def each(kind: type[nn.Module], change: Callable[..., None]) -> Bug:
    """The same change to every module of a kind."""

    def bug(model: Transformer, patch: pytest.MonkeyPatch) -> None:
        for m in model.modules():
            if isinstance(m, kind):
                change(m)

    return bug


def sparse(change: Callable[[transformer.Experts], None]) -> Bug:
    return each(transformer.Experts, change)


def reconfigure(change: Callable[[ModelConfig], ModelConfig]) -> Bug:
    def bug(model: Transformer, patch: pytest.MonkeyPatch) -> None:
        model.config = change(model.config)

    return bug


# Where a bug is one.
def everywhere(c: ModelConfig) -> bool:
    return True


def normed(c: ModelConfig) -> bool:
    return c.qk_norm


def grouped(c: ModelConfig) -> bool:
    return c.num_attention_heads > c.num_key_value_heads > 1


def biased(c: ModelConfig) -> bool:
    return c.attention_bias


def bias_in(c: ModelConfig) -> bool:
    return c.attention_bias or c.qkv_bias


def untied(c: ModelConfig) -> bool:
    return not c.tie_word_embeddings


def routed(c: ModelConfig) -> bool:
    return c.num_experts > 0


def routed_twice(c: ModelConfig) -> bool:
    return sum(c.is_sparse(i) for i in range(c.num_hidden_layers)) > 1


def shared(c: ModelConfig) -> bool:
    return c.shared_expert_intermediate_size > 0


def square(c: ModelConfig) -> bool:
    return c.hidden_size == c.intermediate_size


def linear(c: ModelConfig) -> bool:
    return c.has_linear


def spread(c: ModelConfig) -> bool:
    """Several value heads share a key head."""
    return c.linear_num_value_heads > c.linear_num_key_heads


def dealt(c: ModelConfig) -> bool:
    """The files deal the rows of Gated DeltaNet's projections out to key heads."""
    return c.model_type == "qwen3_next"


def gated(c: ModelConfig) -> bool:
    return c.gated_attention


def centred(c: ModelConfig) -> bool:
    return c.zero_centred_norm


def partial(c: ModelConfig) -> bool:
    return c.partial_rotary_factor < 1


def scaled(c: ModelConfig) -> bool:
    return c.rope_scaling is not None


def yarn(c: ModelConfig) -> bool:
    return c.rope_scaling is not None and c.rope_scaling.kind == "yarn"


def llama3(c: ModelConfig) -> bool:
    return c.rope_scaling is not None and c.rope_scaling.kind == "llama3"
