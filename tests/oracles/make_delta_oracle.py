"""What transformers' PyTorch code for Gated DeltaNet says: the rule in chunks, the convolution and the gated norm.

requirements: torch==2.13.0 transformers==5.23.0 safetensors numpy
run: python tests/oracles/make_delta_oracle.py   (writes tests/oracles/delta.safetensors.bin)

Inputs, outputs and the gradients of a projection of all outputs. Two sequences of one chunk and a rest, from random
first states; lengths of q and k from 1e-3 to 3, so that the epsilon shows; decays from next to none to nearly all.
"""

from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers.models.qwen3_next import modeling_qwen3_next as theirs

SEQUENCES, TOKENS, KEY_HEADS, HEADS, K, V, WIDTH, CHANNELS = 2, 70, 2, 4, 8, 6, 4, 5


def main() -> None:
    g = torch.Generator().manual_seed(4)
    record: dict[str, torch.Tensor] = {}

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=g)

    def evaluate(name: str, inputs: dict[str, torch.Tensor], function) -> None:
        leaves = {k: x.clone().requires_grad_() for k, x in inputs.items()}
        outputs = function(**leaves)
        total = 0.0
        for key, out in outputs.items():
            projection = torch.arange(out.numel()).cos().view(out.shape)
            total = total + (out * projection).sum()
            record[f"{name}.{key}"] = out.detach()
        total.backward()
        record.update({f"{name}.{k}": x for k, x in inputs.items()})
        record.update({f"{name}.d_{k}": x.grad for k, x in leaves.items()})

    def lengths() -> torch.Tensor:
        return 10 ** (torch.rand(SEQUENCES, TOKENS, KEY_HEADS, 1, generator=g) * 3.5 - 3)

    decay = torch.exp(draw(SEQUENCES, TOKENS, HEADS) * 2 - 2)
    evaluate(
        "rule",
        {
            "q": draw(SEQUENCES, TOKENS, KEY_HEADS, K) * lengths(),
            "k": draw(SEQUENCES, TOKENS, KEY_HEADS, K) * lengths(),
            "v": draw(SEQUENCES, TOKENS, HEADS, V),
            "log_decay": -decay,
            "beta": torch.rand(SEQUENCES, TOKENS, HEADS, generator=g),
            "state": draw(SEQUENCES, HEADS, K, V),
        },
        lambda q, k, v, log_decay, beta, state: dict(
            zip(
                ("out", "last"),
                theirs.torch_chunk_gated_delta_rule(
                    q, k, v, g=log_decay, beta=beta, initial_state=state, output_final_state=True,
                    use_qk_l2norm_in_kernel=True,
                ),
                strict=True,
            )
        ),
    )  # fmt: skip
    evaluate(
        "conv",
        {"x": draw(SEQUENCES, TOKENS, CHANNELS) * 2, "weight": draw(CHANNELS, WIDTH)},
        lambda x, weight: {"out": theirs.causal_conv1d_fn(x.mT, weight, activation="silu").mT},
    )
    norm = theirs.Qwen3NextRMSNormGated(V, eps=1e-2)

    def gated_norm(o, z, weight):
        return {"out": torch.func.functional_call(norm, {"weight": weight}, (o, z))}

    evaluate("norm", {"o": draw(TOKENS, V), "z": draw(TOKENS, V) * 2, "weight": 1 + draw(V) / 4}, gated_norm)
    assert float(record["rule.out"].std()) > 0.05 and float(record["rule.last"].std()) > 0.05
    record = {k: x.contiguous() for k, x in record.items()}
    save_file(record, Path(__file__).parent / "delta.safetensors.bin")


if __name__ == "__main__":
    main()
