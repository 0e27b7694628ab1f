"""What transformers says of tiny models in which nothing is trivial: logits, gradients, router choices, decoding.

Besides: whether it loads the folders that Qwill's own `save_model` makes of them, and computes the same from those.

requirements: torch==2.13.0 transformers==5.23.0 safetensors numpy
run: python tests/oracles/make_model_oracle.py [case ...]   (writes tests/oracles/model/<case>/)
     with --ours: only asks again whether transformers reads what `save_model` writes now

Every parameter is redrawn: norm weights ±0.5 about 1 (about 0 where the model adds 1 itself), biases not zero, matrices
large enough that logits have a standard deviation of at least 1 and attention is far from uniform; Gated DeltaNet's
decays spread over (0, 1). Seeds are tried until router margins exceed 1e-3, greedy decoding has no near ties, and
transformers' own rounding (Gated DeltaNet in chunks of 16 instead of 64; one thing at a time instead of a batch) stays
well below the tolerances of the parity tests. All of that is asserted here and recorded.
"""

import functools
import json
import math
import re
import sys
import tempfile
from pathlib import Path

import torch
import transformers
from model_cases import CASES, CHUNKS, PADDED, VOCABULARY, settings, shape
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, DynamicCache
from transformers.models.qwen3_5 import modeling_qwen3_5
from transformers.models.qwen3_5_moe import modeling_qwen3_5_moe
from transformers.models.qwen3_moe.modeling_qwen3_moe import load_balancing_loss_func
from transformers.models.qwen3_next import modeling_qwen3_next

HERE = Path(__file__).parent / "model"
sys.path.insert(0, str(HERE.parent.parent.parent / "src"))
from qwill.base.artifact import content_id  # noqa: E402
from qwill.model.files import load_model, save_model  # noqa: E402

EAGER = {"attn_implementation": "eager", "experts_implementation": "eager"}
ROUNDING_LOGITS, ROUNDING_GRADIENT = 3e-6, 4e-6


def redraw(model, seed):
    """Every parameter anew; the scale of matrices keeps the residual stream and attention scores lively."""
    g = torch.Generator().manual_seed(seed)

    def uniform(p, low, high):
        return low + (high - low) * torch.rand(p.shape, generator=g)

    adds_one = re.compile(r"Qwen3(Next|_5|_5Moe)RMSNorm").fullmatch
    centred = {f"{name}.weight" for name, m in model.named_modules() if adds_one(type(m).__name__)}
    # Gated DeltaNet's gates multiply, and so do rounding errors: livelier weights would drown gradients in them.
    scale = 0.85 if any("A_log" in name for name, _ in model.named_parameters()) else 1.3
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "norm" in name:
                p.copy_(uniform(p, -0.5, 0.5) + (0 if name in centred else 1))
            elif name.endswith("A_log"):
                p.copy_(uniform(p, math.log(0.05), math.log(2.0)))
            elif name.endswith("dt_bias"):
                p.copy_(uniform(p, -2.0, 1.0))
            elif name.endswith("bias"):
                p.copy_(torch.randn(p.shape, generator=g) * 0.3)
            elif "embed" in name or "lm_head" in name:
                p.copy_(torch.randn(p.shape, generator=g) * 0.7)
            else:
                p.copy_(torch.randn(p.shape, generator=g) * scale / math.sqrt(p.shape[-1]))


def router_margins(router_logits, k):
    """Of each token: the least distance, over layers, between the last chosen and the first expert not chosen."""
    probabilities = torch.softmax(torch.stack(list(router_logits)).float(), -1)
    sorted_p = probabilities.sort(-1, descending=True).values
    return (sorted_p[..., k - 1] - sorted_p[..., k]).amin(0)


def apart(a, b):
    return float((a - b).abs().max() / b.abs().max())


class Case:
    """One drawn model and all that is asked of it; `why_not` says what makes the draw unfit for a record."""

    def __init__(self, name, seed):
        self.name, self.seed = name, seed
        self.kind, given, self.old = settings(name)
        self.rows, self.length, self.others = shape(name)
        self.config = AutoConfig.for_model(self.kind, **given)
        self.model = AutoModelForCausalLM.from_config(self.config, **EAGER).float().eval()
        redraw(self.model, seed)
        self.sparse = "num_experts" in given
        self.linear = "linear_num_key_heads" in given
        self.extra = {"output_router_logits": True} if self.sparse else {}
        self.margin = 1.0
        self.tokens = self.draw(self.rows, self.length, seed)
        self.weight = torch.rand(self.rows, self.length - 1, generator=torch.Generator().manual_seed(0))
        self.said = {"tokens": self.tokens, "weight": self.weight}
        self.record = {"seed": seed}

    def draw(self, rows, length, seed):
        """Random tokens; one that would leave a router nearly undecided is drawn again (later ones don't see it)."""
        g = torch.Generator().manual_seed(seed)
        tokens = torch.randint(0, VOCABULARY, (rows, length), generator=g)
        while self.sparse:
            with torch.no_grad():
                out = self.model(tokens, **self.extra)
            margins = router_margins(out.router_logits, self.config.num_experts_per_tok).view(rows, length)
            bad = margins <= 1.5e-3
            if not bad.any():
                self.margin = min(self.margin, float(margins.min()))
                break
            for row in bad.any(1).nonzero():
                tokens[row, bad[row[0]].nonzero()[0]] = torch.randint(0, VOCABULARY, (1,), generator=g)
        return tokens

    def why_not(self):
        why = self.forward() or self.backward() or self.cached() or self.padding()
        if not why:
            self.other_lengths()
            if self.sparse:
                assert self.margin > 1e-3
                self.record["router_margin"] = self.margin
        return why

    def forward(self):
        decays, real = [], torch.nn.functional.softplus
        torch.nn.functional.softplus = lambda x: decays.append(real(x)) or decays[-1]
        with torch.no_grad():
            out = self.model(self.tokens, output_attentions=True, **self.extra)
        torch.nn.functional.softplus = real
        self.said["logits"] = out.logits
        sharpest = max(float(a[..., -1, :].max()) for a in out.attentions)
        std = float(out.logits.std())
        self.record |= {"logit_std": std, "sharpest_attention": sharpest}
        if std < 1 or sharpest < 5 / self.length:
            return f"logits {std}, attention {sharpest}"
        if self.sparse:
            k = self.config.num_experts_per_tok
            self.said["chosen"] = torch.stack([r.topk(k, -1).indices.sort(-1).values for r in out.router_logits])
        if self.linear:
            layers = [m for m in self.model.modules() if hasattr(m, "A_log")]
            pairs = zip(layers, decays, strict=True)
            decay = torch.stack([(-m.A_log.detach().exp() * s).exp().flatten() for m, s in pairs])
            self.record["decay_quantiles"] = decay.quantile(torch.tensor([0.05, 0.25, 0.5, 0.75, 0.95])).tolist()
            lively = ((decay > 0.02) & (decay < 0.995)).float().mean(1)
            if float(lively.min()) < 0.7 or float(decay.quantile(0.95)) < 0.9:
                return f"decays {self.record['decay_quantiles']}"
        return None

    def other_lengths(self):
        for n in self.others:
            other = self.draw(1, n, 1000 + self.seed)
            with torch.no_grad():
                self.said |= {f"tokens_{n}": other, f"logits_{n}": self.model(other).logits}

    def gradients(self):
        """Of the weighted loss + 0.7 of the pooled balancing loss, under transformers' own names."""
        out = self.model(self.tokens, **self.extra)
        losses = torch.nn.functional.cross_entropy(
            out.logits[:, :-1].reshape(-1, VOCABULARY).float(), self.tokens[:, 1:].reshape(-1), reduction="none"
        )
        total = (losses * self.weight.reshape(-1)).sum()
        self.record["loss"] = total.item()
        if self.sparse:
            pooled = load_balancing_loss_func(
                out.router_logits, self.config.num_experts, self.config.num_experts_per_tok
            )
            self.record["pooled_balancing_loss"] = pooled.item()
            total = total + 0.7 * pooled
        self.model.zero_grad()
        total.backward()
        return out.logits.detach(), {k: p.grad.clone() for k, p in self.model.named_parameters()}

    def backward(self):
        logits, gradients = self.gradients()
        self.said["logits"] = logits
        kept = self.record.copy()
        with smaller_chunks():
            other_logits, other = self.gradients()
        others, exact = [other], {k: p.detach().clone() for k, p in self.model.named_parameters()}
        for seed in range(4):  # parameters moved by less than their last bit: how well the gradient can be known at all
            g = torch.Generator().manual_seed(seed)
            for p in self.model.parameters():
                p.data *= 1 + (torch.rand(p.shape, generator=g) - 0.5) * 2**-22
            others.append(self.gradients()[1])
            for k, p in self.model.named_parameters():
                p.data.copy_(exact[k])
        self.record = kept
        rounding = max(float((g[k] - x).norm() / x.norm()) for g in others for k, x in gradients.items())
        self.record |= {"own_rounding_logits": apart(other_logits, logits), "own_rounding_gradient": rounding}
        if self.record["own_rounding_logits"] > ROUNDING_LOGITS or rounding > ROUNDING_GRADIENT:
            return f"rounding {self.record['own_rounding_logits']:.1e} {rounding:.1e}"
        self.said |= {f"gradient.{k}": v for k, v in released_layout(gradients).items()}
        return None

    def cached(self):
        """Greedy decoding with the cache, and a prompt read in unequal chunks."""
        prompt = self.tokens[:1, :9]
        with torch.no_grad():
            text = self.model.generate(
                prompt, max_new_tokens=40, do_sample=False, use_cache=True, attention_mask=torch.ones_like(prompt)
            )
            again = self.model(text).logits[0, 8:-1]
        assert text.shape == (1, 49) and torch.equal(again.argmax(-1), text[0, 9:]), self.name
        first, second = again.topk(2).values.unbind(-1)
        self.record["greedy_margin"] = float((first - second).min())
        if self.record["greedy_margin"] < 1e-2:
            return "greedy margin"
        self.said["greedy"] = text
        whole = self.draw(1, sum(CHUNKS), 2000 + self.seed)
        cache, parts = DynamicCache(config=self.config), []
        with torch.no_grad():
            for chunk in whole.split(CHUNKS, 1):
                parts.append(self.model(chunk, past_key_values=cache, use_cache=True).logits)
            full = self.model(whole)
        self.record["own_cached_minus_full"] = apart(torch.cat(parts, 1), full.logits)
        if self.record["own_cached_minus_full"] > ROUNDING_LOGITS:
            return "cached"
        self.said |= {"tokens_chunked": whole, "logits_chunked": parts[-1]}
        return None

    def padding(self):
        """A batch of unequal sequences, padded on the left and on the right with token 0."""
        sequences = [self.draw(1, n, 3000 + self.seed + i)[0] for i, n in enumerate(PADDED)]
        long = max(PADDED)
        for side in ("left", "right"):
            rows = [(long - n, 0) if side == "left" else (0, long - n) for n in PADDED]
            pad = torch.nn.functional.pad
            tokens = torch.stack([pad(s, by) for s, by in zip(sequences, rows, strict=True)])
            mask = torch.stack([pad(torch.ones_like(s), by) for s, by in zip(sequences, rows, strict=True)])
            with torch.no_grad():
                out = self.model(tokens, attention_mask=mask, position_ids=(mask.cumsum(-1) - 1).clamp_min(0)).logits
            self.said |= {f"tokens_{side}": tokens, f"mask_{side}": mask, f"logits_{side}": out[mask.bool()]}
            with torch.no_grad():
                alone = torch.cat([self.model(s[None]).logits[0] for s in sequences])
            difference = apart(out[mask.bool()], alone)
            self.record[f"own_{side}_padded_minus_alone"] = difference
            if difference > ROUNDING_LOGITS:
                return f"padding {side} {difference:.1e}"
        return None


class smaller_chunks:
    """Gated DeltaNet in chunks of 16 tokens: the same function, other rounding."""

    modules = (modeling_qwen3_next, modeling_qwen3_5, modeling_qwen3_5_moe)

    def __enter__(self):
        self.real = [m.torch_chunk_gated_delta_rule for m in self.modules]
        for m, f in zip(self.modules, self.real, strict=True):
            m.torch_chunk_gated_delta_rule = functools.partial(f, chunk_size=16)

    def __exit__(self, *_):
        for m, f in zip(self.modules, self.real, strict=True):
            m.torch_chunk_gated_delta_rule = f


def released_layout(tensors):
    """One tensor an expert, as the files that `save_pretrained` writes have it."""
    out = {}
    for key, t in tensors.items():
        if key.endswith("mlp.experts.gate_up_proj"):
            stem = key.removesuffix(".gate_up_proj")
            for e, x in enumerate(t):
                out[f"{stem}.{e}.gate_proj.weight"], out[f"{stem}.{e}.up_proj.weight"] = x.chunk(2)
        elif key.endswith("mlp.experts.down_proj"):
            out |= {f"{key.removesuffix('.down_proj')}.{e}.down_proj.weight": x for e, x in enumerate(t)}
        else:
            out[key] = t
    return out


def older_spelling(path):
    """Rewrite a config.json as the released files before transformers 5 spell it."""
    config = json.loads(path.read_text())
    rope = config.pop("rope_parameters")
    config["rope_theta"] = rope.pop("rope_theta")
    if "partial_rotary_factor" in rope:
        config["partial_rotary_factor"] = rope.pop("partial_rotary_factor")
    if "type" in rope:
        del rope["rope_type"]
    config["rope_scaling"] = None if rope == {"rope_type": "default"} else rope
    if "use_sliding_window" in config:  # released Qwen2.5: a window of the whole context, switched off
        config |= {"sliding_window": 20, "max_window_layers": 1}
    config["torch_dtype"] = config.pop("dtype")
    if "num_local_experts" in config:
        config["num_experts"] = config.pop("num_local_experts")
    if config["model_type"] in ("qwen3_next", "qwen3_5_text"):
        types = config.pop("layer_types")
        config["full_attention_interval"] = types.index("full_attention") + 1
    else:
        config.pop("layer_types", None)
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def make(name):
    for seed in range(1, 2000):
        case = Case(name, seed)
        why = case.why_not()
        if not why:
            break
        if seed % 20 == 0:
            print("  ", name, seed, why, flush=True)
    else:
        raise SystemExit(f"{name}: no seed will do")
    folder = HERE / name
    folder.mkdir(parents=True, exist_ok=True)
    case.model.save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    if case.old:
        older_spelling(folder / "config.json")
    said, record = case.said, case.record
    assert {k for k in said if k.startswith("gradient")} == {
        f"gradient.{k}" for k in load_file(folder / "model.safetensors")
    }, name
    agrees(folder, said)
    save_file({k: v.contiguous() for k, v in said.items()}, folder / "said.safetensors.bin")
    record["reads_our_folder"] = reads_our_folder(folder, said)
    record |= {"transformers": transformers.__version__, "torch": torch.__version__}
    write_record(folder, record)
    print(name, json.dumps(record), flush=True)


def write_record(folder, record):
    (folder / "record.json").write_text(json.dumps(record, indent=2, sort_keys=True) + "\n")


def ask_again(folder):
    record = json.loads((folder / "record.json").read_text())
    record["reads_our_folder"] = reads_our_folder(folder, load_file(folder / "said.safetensors.bin"))
    write_record(folder, record)
    print(folder.name, record["reads_our_folder"], flush=True)


def agrees(folder, said):
    """transformers loads the folder, finds every tensor and nothing else, and says the same."""
    model, info = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True, dtype=torch.float32, **EAGER)
    assert not any(info.values()), (folder, info)
    for p in model.parameters():  # a mapped file's alignment decides which instructions add up, and so the last bits
        p.data = p.data.clone()
    with torch.no_grad():
        assert torch.equal(model(said["tokens"]).logits, said["logits"]), folder


def reads_our_folder(folder, said):
    """transformers on the folder that Qwill saves of this model: whole and in shards. Returns the folder's identity."""
    identities = set()
    for shard_bytes in (5e9, 2e4):
        with tempfile.TemporaryDirectory() as ours:
            save_model(load_model(folder), ours, shard_bytes=shard_bytes)
            assert len(list(Path(ours).glob("*.safetensors"))) > 1 or shard_bytes > 1e9
            agrees(ours, said)
            assert json.loads((Path(ours) / "config.json").read_text())["torch_dtype"] == "float32"
            identities.add(content_id(Path(ours))[0])
    (identity,) = identities
    return identity


if __name__ == "__main__":
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    for case_name in [a for a in sys.argv[1:] if not a.startswith("-")] or CASES:
        if "--ours" in sys.argv:
            ask_again(HERE / case_name)
        else:
            make(case_name)
