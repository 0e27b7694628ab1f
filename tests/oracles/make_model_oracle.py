"""What transformers says of tiny Qwen models in which nothing is trivial: logits, losses, gradients, router choices.

Besides: whether it loads the folders that Qwill's own `save_model` makes of them, and computes the same from those.

requirements: torch==2.13.0 transformers==5.23.0 safetensors numpy
run: python tests/oracles/make_model_oracle.py   (writes tests/oracles/model/<case>/)

Every parameter is redrawn: norm weights 1 ± 0.5, biases not zero, matrices large enough that logits have a standard
deviation of at least 1 and attention is far from uniform; seeds are tried until router margins exceed 1e-3. All of that
is asserted here and recorded.
"""

import json
import math
import sys
import tempfile
from pathlib import Path

import torch
import transformers
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM

HERE = Path(__file__).parent / "model"
sys.path.insert(0, str(HERE.parent.parent.parent / "src"))
from qwill.base.artifact import content_id  # noqa: E402
from qwill.model.files import load_model, save_model  # noqa: E402

BASE = {
    "vocab_size": 61, "hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2,
    "head_dim": 10, "intermediate_size": 36, "max_position_embeddings": 128, "rms_norm_eps": 1e-2, "rope_theta": 300.0,
    "tie_word_embeddings": False, "attention_bias": False, "bos_token_id": None, "eos_token_id": None,
}  # fmt: skip
MOE = {
    "num_experts": 5, "num_experts_per_tok": 2, "moe_intermediate_size": 14, "norm_topk_prob": True,
    "decoder_sparse_step": 1, "mlp_only_layers": [], "output_router_logits": True,
}  # fmt: skip
CASES = {
    "dense": ("qwen3", {}),
    "dense_tied_bias": ("qwen3", {"tie_word_embeddings": True, "attention_bias": True}),
    "moe": ("qwen3_moe", MOE),
    "moe_tied_bias_raw_weights": (
        "qwen3_moe", MOE | {"tie_word_embeddings": True, "attention_bias": True, "norm_topk_prob": False},
    ),
    "moe_mixed": (
        "qwen3_moe",
        MOE | {"num_hidden_layers": 4, "decoder_sparse_step": 2, "mlp_only_layers": [3], "num_experts_per_tok": 3},
    ),
    "llama": ("llama", {"tie_word_embeddings": True}),
    # Every matrix of a layer is square and every head has its own keys, so that shapes give no mistake away.
    "llama_square": ("llama", {"num_key_value_heads": 4, "head_dim": 6, "intermediate_size": 24}),
}  # fmt: skip
TOKENS, ROWS = 17, 3
OTHER_LENGTHS = (1, 2, 40)


def redraw(model, seed):
    """Every parameter anew; the scale of matrices keeps the residual stream and attention scores lively."""
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "norm" in name:
                p.copy_(1 + (torch.rand(p.shape, generator=g) - 0.5))
            elif name.endswith("bias"):
                p.copy_(torch.randn(p.shape, generator=g) * 0.3)
            elif "embed" in name or "lm_head" in name:
                p.copy_(torch.randn(p.shape, generator=g) * 0.7)
            else:
                p.copy_(torch.randn(p.shape, generator=g) * 1.3 / math.sqrt(p.shape[-1]))


def router_margin(router_logits, k):
    margins = []
    for layer in router_logits:
        p = torch.softmax(layer.float(), -1).sort(-1, descending=True).values
        margins.append((p[:, k - 1] - p[:, k]).min())
    return float(min(margins))


def random_tokens(rows, length, seed):
    return torch.randint(0, BASE["vocab_size"], (rows, length), generator=torch.Generator().manual_seed(seed))


def make(name, kind, changes):
    config = AutoConfig.for_model(kind, **(BASE | changes))
    extra = {"output_router_logits": True} if kind == "qwen3_moe" else {}
    for seed in range(1, 400):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(
            config, attn_implementation="eager", experts_implementation="eager"
        ).float().eval()
        redraw(model, seed)
        tokens = random_tokens(ROWS, TOKENS, seed)
        others = [random_tokens(1, length, 1000 + seed) for length in OTHER_LENGTHS]
        out = model(tokens, output_attentions=True, **extra)
        with torch.no_grad():
            other_outs = [model(other, **extra) for other in others]
        margin = 1.0
        if extra:
            margin = min(router_margin(o.router_logits, config.num_experts_per_tok) for o in (out, *other_outs))
        if margin > 1e-3:
            break
    else:
        raise SystemExit(f"{name}: no seed gives router margins above 1e-3")
    sharpest = max(float(a.detach()[..., -1, :].max()) for a in out.attentions)
    assert float(out.logits.std()) >= 1 and sharpest > 5 / TOKENS, (name, float(out.logits.std()), sharpest)
    generator = torch.Generator().manual_seed(0)
    weight = torch.rand(ROWS, TOKENS - 1, generator=generator)
    losses = torch.nn.functional.cross_entropy(
        out.logits[:, :-1].reshape(-1, BASE["vocab_size"]).float(), tokens[:, 1:].reshape(-1), reduction="none"
    )
    total = (losses * weight.reshape(-1)).sum()
    record = {"loss": total.item(), "logit_std": float(out.logits.std()), "sharpest_attention": sharpest, "seed": seed}
    if extra:
        from transformers.models.qwen3_moe.modeling_qwen3_moe import load_balancing_loss_func

        pooled = load_balancing_loss_func(out.router_logits, config.num_experts, config.num_experts_per_tok)
        record |= {"pooled_balancing_loss": float(pooled), "router_margin": margin}
        total = total + 0.7 * pooled
        k = config.num_experts_per_tok
        chosen = torch.stack([r.topk(k, -1).indices.sort(-1).values for r in out.router_logits])
    total.backward()
    folder = HERE / name
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    # save_pretrained writes the released layout, one tensor an expert; gradients are brought into the same one.
    gradients = {}
    for key, p in model.named_parameters():
        assert p.grad is not None, key
        if key.endswith("mlp.experts.gate_up_proj"):
            stem = key.removesuffix(".gate_up_proj")
            for e, g in enumerate(p.grad):
                gradients[f"{stem}.{e}.gate_proj.weight"], gradients[f"{stem}.{e}.up_proj.weight"] = g.chunk(2)
        elif key.endswith("mlp.experts.down_proj"):
            for e, g in enumerate(p.grad):
                gradients[f"{key.removesuffix('.down_proj')}.{e}.down_proj.weight"] = g
        else:
            gradients[key] = p.grad
    said = {"tokens": tokens, "weight": weight, "logits": out.logits.detach()}
    for other, answer in zip(others, other_outs, strict=True):
        said |= {f"tokens_{other.shape[1]}": other, f"logits_{other.shape[1]}": answer.logits}
    if extra:
        said["chosen"] = chosen
    said |= {f"gradient.{k}": v for k, v in gradients.items()}
    save_file({k: v.contiguous() for k, v in said.items()}, folder / "said.safetensors.bin")
    record["reads_our_folder"] = reads_our_folder(folder, tokens, out.logits.detach())
    record |= {"transformers": transformers.__version__, "torch": torch.__version__}
    (folder / "record.json").write_text(json.dumps(record, indent=2, sort_keys=True) + "\n")
    print(name, record)


def reads_our_folder(folder, tokens, logits):
    """transformers on the folder that Qwill saves of this model: whole and in shards. Returns the folder's identity."""
    identities = set()
    for shard_bytes in (5e9, 2e4):
        with tempfile.TemporaryDirectory() as ours:
            save_model(load_model(folder), ours, shard_bytes=shard_bytes)
            assert len(list(Path(ours).glob("*.safetensors"))) > 1 or shard_bytes > 1e9
            model, info = AutoModelForCausalLM.from_pretrained(
                ours, output_loading_info=True, attn_implementation="eager", experts_implementation="eager"
            )
            assert not any(info.values()), (folder, info)
            assert model.dtype == torch.float32
            with torch.no_grad():
                assert torch.equal(model(tokens).logits, logits), folder
            identities.add(content_id(Path(ours))[0])
    (identity,) = identities
    return identity


if __name__ == "__main__":
    torch.set_num_threads(1)
    for case, (kind, changes) in CASES.items():
        make(case, kind, changes)
