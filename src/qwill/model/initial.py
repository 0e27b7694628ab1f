"""Every initial value of a model, in one function."""

from __future__ import annotations

import torch

from qwill.model.transformer import Transformer

SUMMED = ("o_proj.weight", "out_proj.weight", "mlp.down", "down_proj.weight")  # added to the residual stream


@torch.no_grad()
def init_weights(model: Transformer, generator: torch.Generator) -> None:
    """Every initial value of the model.

    | tensor | distribution |
    |---|---|
    | norms | 1 (0 where zero-centred) |
    | embedding (and head when tied) | N(0, initializer_range) |
    | untied head | N(0, initializer_range) |
    | q, k, v, gate, up, router | N(0, 1/D) |
    | attention output, down | N(0, 1/(fan_in · 2·layers)): the residual stream keeps its size (GPT-2 §2.3) |
    | DeltaNet: A, dt_bias, convolution | ln U(0.01, 16), 1 (as transformers has them), N(0, 1/W) |
    | biases | 0 |
    """
    depth_scale = (2 * model.config.num_hidden_layers) ** -0.5
    for name, p in model.named_parameters():
        if ".pre_fc_norm_" in name or name.endswith("norm.weight"):
            p.fill_(0.0 if model.config.zero_centred_norm and not name.endswith("linear_attn.norm.weight") else 1.0)
        elif name.endswith("A_log"):
            p.uniform_(0.01, 16, generator=generator).log_()
        elif name.endswith("dt_bias"):
            p.fill_(1.0)
        elif name.endswith("bias"):
            p.zero_()
        elif name in ("embed_tokens.weight", "lm_head.weight"):
            p.normal_(0.0, model.config.initializer_range, generator=generator)
        else:
            std = p.shape[-1] ** -0.5
            shrink = depth_scale if name.endswith(SUMMED) else 1.0
            p.normal_(0.0, std * shrink, generator=generator)
