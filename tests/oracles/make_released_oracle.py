"""Folders as released ones are: half precision, shards with an index, fused experts, a vision model around the text
model, and a multi-token-prediction head, which transformers leaves out and is built here from its modules.

requirements: torch==2.13.0 transformers==5.23.0 safetensors numpy
run: python tests/oracles/make_released_oracle.py [case ...]   (writes tests/oracles/released/<case>/; --ours as there)

The weights of each case are drawn as in make_model_oracle.py and rounded to the file's dtype; everything is computed in
float32 from the rounded weights. transformers loads each folder and says the same, which is asserted here.

The head (DeepSeek-V3, arXiv 2412.19437, §2.2; for Qwen: vLLM's qwen3_next_mtp.py and qwen3_5_mtp.py): with h_t the
hidden state after the last norm,

    x_t = W_fc·[norm_e(E[token_{t+1}]), norm_h(h_t)]       (position t)
    logits of token_{t+2} = W_head·norm(layer(x)_t)        (a full-attention layer of the model's own kind)
"""

import copy
import json
import re
import shutil
import sys
from pathlib import Path

import torch
import transformers
from make_model_oracle import (
    EAGER,
    agrees,
    ask_again,
    older_spelling,
    reads_our_folder,
    redraw,
    released_layout,
    router_margins,
    write_record,
)
from model_cases import VOCABULARY, settings
from safetensors.torch import save_file
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.models.qwen3_5 import modeling_qwen3_5 as dense_3_5
from transformers.models.qwen3_5_moe import modeling_qwen3_5_moe as moe_3_5
from transformers.models.qwen3_next import modeling_qwen3_next as next_

HERE = Path(__file__).parent / "released"
TOKENS, ROWS = 31, 2
# case: the tiny model it is made of, dtype, shards, modules of the head
CASES = {
    "qwen2_bf16": ("qwen2_tied", torch.bfloat16, 2, None),
    "moe_fp16": ("moe", torch.float16, 3, None),
    "next_mtp_bf16": ("next", torch.bfloat16, 3, (next_.Qwen3NextDecoderLayer, next_.Qwen3NextRMSNorm)),
    "qwen3_5_mtp_bf16": ("qwen3_5_tied", torch.bfloat16, 1, (dense_3_5.Qwen3_5DecoderLayer, dense_3_5.Qwen3_5RMSNorm)),
    "qwen3_5_moe_mtp_fp16": (
        "qwen3_5_moe", torch.float16, 2, (moe_3_5.Qwen3_5MoeDecoderLayer, moe_3_5.Qwen3_5MoeRMSNorm),
    ),
}  # fmt: skip


class Head(nn.Module):
    """The multi-token-prediction head under its released names (`mtp.` goes before them)."""

    def __init__(self, config, layer, norm):
        super().__init__()
        one = copy.deepcopy(config)
        one.layer_types, one.num_hidden_layers = ["full_attention"], 1
        one._attn_implementation, one._experts_implementation = "eager", "eager"
        self.fc = nn.Linear(2 * config.hidden_size, config.hidden_size, bias=False)
        self.layers = nn.ModuleList([layer(one, 0)])
        self.norm, self.pre_fc_norm_hidden, self.pre_fc_norm_embedding = (
            norm(config.hidden_size, eps=config.rms_norm_eps) for _ in range(3)
        )

    def forward(self, model, tokens):
        """Hidden states of the head for positions 0..T−2, and the logits of the token two ahead."""
        h = model.model(tokens[:, :-1]).last_hidden_state
        e = model.model.embed_tokens(tokens[:, 1:])
        x = self.fc(torch.cat([self.pre_fc_norm_embedding(e), self.pre_fc_norm_hidden(h)], -1))
        t = x.shape[1]
        position = torch.arange(t)[None]
        mask = torch.full((t, t), torch.finfo(torch.float32).min).triu(1)[None, None]
        rope = model.model.rotary_emb(x, position)
        x = self.layers[0](x, position_embeddings=rope, attention_mask=mask, position_ids=position)
        x = self.norm(x[0] if isinstance(x, tuple) else x)
        return x, model.lm_head(x)


def make(name):
    base, dtype, shards, modules = CASES[name]
    kind, given, _ = settings(base)
    config = AutoConfig.for_model(kind, **given)
    for seed in range(1, 400):
        model = AutoModelForCausalLM.from_config(config, **EAGER).float().eval()
        head = Head(config, *modules).float().eval() if modules else nn.Module()
        tokens = torch.randint(0, VOCABULARY, (ROWS, TOKENS), generator=torch.Generator().manual_seed(seed))
        for i, part in enumerate((model, head)):
            redraw(part, 1000 * i + seed)
            for p in part.parameters():
                p.data = p.data.to(dtype).float()
        routed: list[torch.Tensor] = []
        hooks = [
            m.register_forward_hook(lambda m, i, out, routed=routed: routed.append(out[0].detach()))
            for part in (model, head)
            for m in part.modules()
            if type(m).__name__.endswith("TopKRouter")
        ]
        said = {"tokens": tokens, "logits": model(tokens).logits.detach()}
        if modules:
            hidden, logits = head(model, tokens)
            said |= {"mtp_hidden": hidden.detach(), "mtp_logits": logits.detach()}
        for h in hooks:
            h.remove()
        margin = min((float(router_margins([r], config.num_experts_per_tok).min()) for r in routed), default=1.0)
        if margin > 1e-3 and all(float(x.std()) >= 1 for k, x in said.items() if k.endswith("logits")):
            break
    else:
        raise SystemExit(f"{name}: no seed will do")
    record = {"seed": seed, "router_margin": margin, "dtype": str(dtype), "base": base}
    if modules:
        record |= head_gradients(model, head, tokens, said)
    folder = HERE / name
    shutil.rmtree(folder, ignore_errors=True)
    model.save_pretrained(folder)
    (folder / "model.safetensors").unlink()
    (folder / "generation_config.json").unlink(missing_ok=True)
    tensors = file_tensors(name, model, head, dtype)
    write_shards(folder, tensors, shards)
    released_config(folder / "config.json", name, str(dtype).removeprefix("torch."))
    agrees(folder, said)
    save_file({k: v.contiguous() for k, v in said.items()}, folder / "said.safetensors.bin")
    record["reads_our_folder"] = reads_our_folder(folder, said)
    record |= {"transformers": transformers.__version__, "torch": torch.__version__}
    write_record(folder, record)
    print(name, record, {k: v.dtype for k, v in tensors.items() if "A_log" in k or "fused" in k})


def head_gradients(model, head, tokens, said):
    """Of the mean loss of the token two ahead: of the head, and of what it shares with the model."""
    losses = nn.functional.cross_entropy(
        head(model, tokens)[1][:, :-1].reshape(-1, VOCABULARY), tokens[:, 2:].reshape(-1)
    )
    losses.backward()
    gradients = {f"mtp.{k}": p.grad for k, p in head.named_parameters()}
    gradients |= {
        k: p.grad for k, p in model.named_parameters() if p.grad is not None and ("layers" not in k or "norm" in k)
    }
    assert gradients["model.embed_tokens.weight"] is not None
    said |= {f"gradient.{k}": v for k, v in released_layout(gradients).items()}
    return {"mtp_loss": losses.item()}


def file_tensors(name, model, head, dtype):
    """All tensors of the folder, named and laid out as in the released files of this model."""
    tensors = dict(model.named_parameters()) | {f"mtp.{k}": v for k, v in head.named_parameters()}
    if "qwen3_5" in name:  # experts stay fused; the text model is inside a vision model
        tensors = {re.sub(r"^model\.", "model.language_model.", k): v for k, v in tensors.items()}
        tensors["model.visual.patch_embed.proj.bias"] = torch.arange(5.0)
    else:
        tensors = released_layout(tensors)
    wide = {k for k in tensors if "qwen3_5" in name and k.endswith(("A_log", "linear_attn.norm.weight"))}
    return {k: v.detach().to(torch.float32 if k in wide else dtype).contiguous() for k, v in tensors.items()}


def write_shards(folder, tensors, shards):
    if shards == 1:
        return save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    names, place = sorted(tensors), {}
    for i in range(shards):
        file = f"model-{i + 1:05d}-of-{shards:05d}.safetensors"
        mine = names[i::shards]
        save_file({k: tensors[k] for k in mine}, folder / file, metadata={"format": "pt"})
        place |= dict.fromkeys(mine, file)
    size = sum(t.numel() * t.element_size() for t in tensors.values())
    index = {"metadata": {"total_size": size}, "weight_map": dict(sorted(place.items()))}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")


def released_config(path, name, dtype):
    config = json.loads(path.read_text())
    if "qwen3_5" in name:
        text = config | {
            "dtype": dtype, "mtp_num_hidden_layers": 1, "mtp_use_dedicated_embeddings": False, "attn_output_gate": True,
            "mamba_ssm_dtype": "float32",
        }  # fmt: skip
        text.pop("architectures")
        outer = config["model_type"].removesuffix("_text")
        config = {
            "architectures": [{"qwen3_5": "Qwen3_5", "qwen3_5_moe": "Qwen3_5Moe"}[outer] + "ForConditionalGeneration"],
            "model_type": outer, "text_config": text, "tie_word_embeddings": config["tie_word_embeddings"],
            "vision_config": {"model_type": outer + "_vision", "depth": 1, "hidden_size": 8, "num_heads": 2,
                              "intermediate_size": 8, "out_hidden_size": config["hidden_size"]},
            "image_token_id": 58, "video_token_id": 59, "vision_start_token_id": 57, "vision_end_token_id": 60,
        }  # fmt: skip
    else:
        config["dtype"] = dtype
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    if settings(CASES[name][0])[2] and "qwen3_5" not in name:
        older_spelling(path)


if __name__ == "__main__":
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    for case_name in [a for a in sys.argv[1:] if not a.startswith("-")] or CASES:
        if "--ours" in sys.argv:
            ask_again(HERE / case_name)
        else:
            make(case_name)
