"""How many parameters transformers' own classes have, on the meta device: shipped configurations and odd small ones.

requirements: torch==2.13.0 transformers==5.23.0
run: python tests/oracles/make_size_oracle.py   (writes tests/oracles/size.json)

`active` leaves out E − k of the E experts of every sparse layer; `embedding` is the token embedding and, where it isn't
tied, the head. The odd configurations stand in the record in full.
"""

import json
import random
from pathlib import Path

import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM

HERE = Path(__file__).parent
SHIPPED = HERE.parent.parent / "src" / "qwill" / "model" / "configs"
TYPES = ("llama", "qwen2", "qwen2_moe", "qwen3", "qwen3_moe", "qwen3_next", "qwen3_5_text", "qwen3_5_moe_text")
SPARSE = ("qwen2_moe", "qwen3_moe", "qwen3_next", "qwen3_5_moe_text")
LINEAR = ("qwen3_next", "qwen3_5_text", "qwen3_5_moe_text")


def counts(raw: dict) -> dict:
    config = AutoConfig.for_model(**raw)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    sizes = {name: p.numel() for name, p in model.named_parameters()}
    tables = sum(n for name, n in sizes.items() if name.endswith(("embed_tokens.weight", "lm_head.weight")))
    experts = sum(n for name, n in sizes.items() if ".experts." in name)
    total, chosen = sum(sizes.values()), 0
    if experts:
        number = raw["num_experts"]
        assert experts % number == 0
        chosen = experts // number * raw["num_experts_per_tok"]
    return {"total": total, "active": total - experts + chosen, "embedding": tables}


def odd(kind: str, seed: int) -> dict:
    """A small configuration in which no two sizes are equal by rule."""
    r = random.Random(f"{kind} {seed}")
    kv = r.choice((1, 2, 3))
    heads, layers = kv * r.choice((1, 2, 4)), r.choice((3, 5, 6))
    raw = {
        "model_type": kind, "vocab_size": r.randrange(50, 90), "hidden_size": 2 * heads * r.randrange(3, 7),
        "num_hidden_layers": layers, "num_attention_heads": heads, "num_key_value_heads": kv,
        "head_dim": 8 * r.randrange(1, 4), "intermediate_size": r.randrange(20, 60), "hidden_act": "silu",
        "max_position_embeddings": 64, "rms_norm_eps": 1e-6, "tie_word_embeddings": r.random() < 0.5,
    }  # fmt: skip
    if kind in ("llama", "qwen3", "qwen3_moe", "qwen3_next"):
        raw["attention_bias"] = r.random() < 0.5
    if kind in SPARSE:
        experts = r.randrange(3, 9)
        raw |= {"num_experts": experts, "num_experts_per_tok": r.randrange(1, experts),
                "moe_intermediate_size": r.randrange(5, 20), "norm_topk_prob": True}  # fmt: skip
        if kind != "qwen3_moe":
            raw["shared_expert_intermediate_size"] = r.randrange(5, 30)
        if kind != "qwen3_5_moe_text":
            raw |= {"decoder_sparse_step": r.choice((1, 2)), "mlp_only_layers": r.choice(([], [1], [0, 2]))}
    if kind in LINEAR:
        keys = r.choice((1, 2))
        raw |= {
            "linear_num_key_heads": keys, "linear_num_value_heads": keys * r.choice((1, 2, 3)),
            "linear_key_head_dim": 8 * r.randrange(1, 3), "linear_value_head_dim": 8 * r.randrange(1, 3),
            "linear_conv_kernel_dim": r.choice((2, 4)), "partial_rotary_factor": 0.5,
            "layer_types": [r.choice(("full_attention", "linear_attention")) for _ in range(layers)],
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5},
        }  # fmt: skip
    return raw


def main() -> None:
    record = {"versions": {"torch": torch.__version__, "transformers": transformers.__version__}}
    record["shipped"] = {p.stem: counts(json.loads(p.read_text())) for p in sorted(SHIPPED.glob("*.json"))}
    record["odd"] = [{"config": c, **counts(c)} for c in (odd(kind, seed) for kind in TYPES for seed in range(4))]
    text = json.dumps(record, indent=1)
    (HERE / "size.json").write_text(text + "\n")


if __name__ == "__main__":
    main()
