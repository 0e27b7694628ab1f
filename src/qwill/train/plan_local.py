"""Memory of training on this machine: float32, one process, the native kernels, as `train/loop.py` runs a step.

A micro-batch's activations grow in the forward pass and are gone when its gradients are there, so the most is needed at
one of three moments, and the estimate is the largest of them:

    loss      weights + optimiser + every layer's activations + the loss's own: the gradient of the head, the head
              packed twice for the products, and the logits of 512 tokens
    layer i   weights + optimiser + activations of the layers up to i + gradients of the layers from i on + that
              layer's temporaries
    end       weights + optimiser + all gradients, and the embedding's once more where the head is tied to it

With several micro-batches all gradients are there from the second one on. Tensors of the size of a vector are left out.
glibc's allocator keeps holes between blocks below 32 MiB: `HOLES` of the rest is added to the buffers for them, a
middle value; with MALLOC_MMAP_THRESHOLD_=1048576 there are none (a run of 4.04 GB was 0.2 % above the sum of its
tensors, and 4.59 GB without; LOG.md).
"""

from __future__ import annotations

from qwill.model.config import ModelConfig
from qwill.model.size import count, layer_sizes
from qwill.train.plan_memory import Memory, kept_values

LOSS_CHUNK = 512
FLOAT = 4
HOLES = 0.06


def local_memory(config: ModelConfig, tokens: int, micro_batches: int = 1) -> Memory:
    """Bytes at the worst moment of a step of AdamW on `micro_batches` micro-batches of `tokens` tokens each."""
    c, sizes = config, layer_sizes(config)
    total, table, stream = count(c).total, c.vocab_size * c.hidden_size, tokens * c.hidden_size
    kept = [tokens * kept_values(c, i, "none") for i in range(c.num_hidden_layers)]
    # The last norm's two sides, and the gradient that the loss leaves.
    ends = 3 * stream
    before = total if micro_batches > 1 else 0
    moments = [(before, sum(kept) + ends, 3 * table + min(LOSS_CHUNK, tokens) * c.vocab_size)]
    made = table
    for i in reversed(range(c.num_hidden_layers)):
        made += sizes[i].whole
        moments.append((max(before, made), sum(kept[: i + 1]) + 2 * stream, _temporaries(c, i, tokens)))
    moments.append((total, stream, table if c.tie_word_embeddings else 0))
    gradients, activations, buffers = max(moments, key=sum)
    buffers += round(HOLES * (3 * total + gradients + activations + buffers))
    return Memory(FLOAT * total, FLOAT * gradients, 2 * FLOAT * total, FLOAT * activations, FLOAT * buffers)


def _temporaries(config: ModelConfig, layer: int, tokens: int) -> int:
    """Values that the backward pass of a layer's feed-forward holds at once: gradients of what it kept, and a matrix
    packed for its product."""
    c, size = config, layer_sizes(config)[layer]
    if size.experts:
        wide = c.num_experts_per_tok * (c.hidden_size + 3 * c.moe_intermediate_size)
        return tokens * (wide + c.hidden_size) + size.experts * 2 // 3
    return tokens * (3 * c.intermediate_size + c.hidden_size) + size.dense * 2 // 3
