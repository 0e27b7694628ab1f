"""Floating-point operations of one token, from the configuration alone; a multiplication with addition counts two.

    weights    2 for each weight that a token is multiplied with: chosen experts, head; not the embedding's look-up
    attention  4·H·K for each key seen (q·kᵀ and p·v); a causal sequence of T tokens sees (T + 1)/2 on average
    delta      chunked Gated DeltaNet, for each value head: 4·C·K + 2·C·V + 6·K·V, and the triangular solve C·(K + V)

Backward: twice the forward, as every product a·b has two gradients; the solve has one more solve and the gradient of
its matrix. (In a sequence's first chunk the state is zero and the last state is read by nothing: 8·K·V·C/T less, not
counted.) Norms, convolution, activations, RoPE, softmax, router choice and optimiser are left out, as they are by
`torch.utils.flop_counter` (which also leaves out triangular solves).

C is the chunk length; K, V the key and value size of a head.
"""

from __future__ import annotations

from dataclasses import dataclass

from qwill.model.config import ModelConfig
from qwill.model.size import layer_sizes

CHUNK = 64


@dataclass(frozen=True)
class Flops:
    """FLOPs of one token. `solve` is the triangular solves' part, which is counted apart from `delta`."""

    weights: float
    attention: float
    delta: float
    solve: float
    head: float

    @property
    def total(self) -> float:
        return self.weights + self.attention + self.delta + self.solve + self.head


def forward_flops(config: ModelConfig, context: int, *, causal: bool = True, head: bool = True) -> Flops:
    """FLOPs of one token's forward pass, the mean over a sequence of `context` tokens.

    `causal=False` counts the whole square of attention, as a kernel that only masks it computes.
    """
    layers = [layer_flops(config, i, context, causal) for i in range(config.num_hidden_layers)]
    return Flops(
        sum(f.weights for f in layers),
        sum(f.attention for f in layers),
        sum(f.delta for f in layers),
        sum(f.solve for f in layers),
        2.0 * config.vocab_size * config.hidden_size if head else 0.0,
    )


def layer_flops(config: ModelConfig, layer: int, context: int, causal: bool = True) -> Flops:
    """`forward_flops` of one layer; its `head` is 0."""
    c, size = config, layer_sizes(config)[layer]
    used = size.mixer + size.dense + size.router
    if size.experts:
        used += size.experts // c.num_experts * c.num_experts_per_tok
    if c.is_linear(layer):
        heads, k, v = c.linear_num_value_heads, c.linear_key_head_dim, c.linear_value_head_dim
        delta = float(heads * (4 * CHUNK * k + 2 * CHUNK * v + 6 * k * v))
        return Flops(2.0 * used, 0.0, delta, float(heads * CHUNK * (k + v)), 0.0)
    seen = (context + 1) / 2 if causal else context
    return Flops(2.0 * used, 4.0 * c.num_attention_heads * c.head_dim * seen, 0.0, 0.0, 0.0)


def backward_flops(forward: Flops, chunk: int = CHUNK) -> Flops:
    """FLOPs of one token's backward pass, nothing recomputed."""
    return Flops(
        2 * forward.weights,
        2 * forward.attention,
        # The gradient of the solve's matrix is a product of the same terms: 2·C·(K + V).
        2 * forward.delta + 2 * forward.solve,
        forward.solve,
        2 * forward.head,
    )


def training_flops(config: ModelConfig, context: int) -> float:
    """FLOPs of one token, forward and backward, in sequences of `context` tokens."""
    forward = forward_flops(config, context)
    return forward.total + backward_flops(forward).total


def kv_cache_bytes(config: ModelConfig, bytes_each: float = 2) -> tuple[int, int]:
    """(bytes a token, bytes a request whatever its length) that generation keeps: keys and values; DeltaNet's states.

    States are float32, the convolution's last inputs are as wide as keys.
    """
    token, request = 0.0, 0.0
    for layer in range(config.num_hidden_layers):
        if config.is_linear(layer):
            c = config
            heads, k, v = c.linear_num_value_heads, c.linear_key_head_dim, c.linear_value_head_dim
            channels = 2 * c.linear_num_key_heads * k + heads * v
            request += 4 * heads * k * v + bytes_each * channels * (c.linear_conv_kernel_dim - 1)
        else:
            token += 2 * bytes_each * config.num_key_value_heads * config.head_dim
    return round(token), round(request)
