"""Models of every kind for the tests of rollouts that training replays, with the vocabulary of tiny_rl's tokenizer."""

from __future__ import annotations

import dataclasses

import torch
from tests.align.tiny_rl import TOKENIZER
from tests.engine.tiny import redrawn, tiny_model
from torch import Tensor

from qwill.align.rollouts import Rollout
from qwill.model.batch import Batch
from qwill.model.transformer import Transformer

VOCAB = TOKENIZER.padded_vocab_size
BASE = {kind: tiny_model(kind, VOCAB, 100).config for kind in ("dense", "moe")}
BASE["moe"] = dataclasses.replace(BASE["moe"], moe_intermediate_size=32)  # rows that int8 divides into groups
CONFIGS = BASE | {
    "many": dataclasses.replace(
        BASE["moe"], num_experts=300, num_experts_per_tok=3, norm_topk_prob=False
    ),
    "hybrid": dataclasses.replace(
        BASE["moe"], model_type="qwen3_next", shared_expert_intermediate_size=32, num_hidden_layers=3,
        layer_types=("linear_attention", "full_attention", "linear_attention"), partial_rotary_factor=0.25,
        linear_num_key_heads=2, linear_num_value_heads=4, linear_key_head_dim=8, linear_value_head_dim=16,
        linear_conv_kernel_dim=4,
    ),
}  # fmt: skip


def model(kind: str, seed: int = 0) -> Transformer:
    return redrawn(CONFIGS[kind], seed)


def moved(made: Transformer, size: float, seed: int = 1) -> Transformer:
    """The same model after steps in some direction."""
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in made.parameters():
            p.add_(torch.randn(p.shape, generator=g).to(p.dtype) * size * p.std())
    return made


def logits_of(made: Transformer, r: Rollout) -> Tensor:
    """[tokens, V], with gradient, of the whole sequence at once; through the rollout's experts, where it has some."""
    batch = Batch.pack([r.ids[:-1]])
    if r.routing is not None:
        batch.experts_NLk = torch.from_numpy(r.routing)
    return made.head(made(batch).hidden_ND)[r.start - 1 :]


def masked_logprobs(made: Transformer, r: Rollout, temperature: float) -> Tensor:
    """log softmax of the reply's tokens over their supports, written out: every other logit is −inf; float64."""
    logits = logits_of(made, r).double() / temperature
    if r.support is not None:
        inside = torch.zeros(logits.shape, dtype=torch.bool)
        for i in range(r.tokens):
            for first, end in r.support[i : i + 1].ranges_R2.tolist():
                inside[i, first:end] = True
        logits = logits.masked_fill(~inside, float("-inf"))
    return logits.log_softmax(1)[range(r.tokens), r.ids[r.start :]]
