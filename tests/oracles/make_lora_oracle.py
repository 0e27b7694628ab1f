"""What PEFT computes with LoRA adapters on tiny models, and whether it loads Qwill's.

requirements: torch==2.13.0 transformers==5.23.0 peft==0.21.2 safetensors numpy
run: python tests/oracles/make_lora_oracle.py   (after make_model_oracle.py; writes tests/oracles/lora/)

`<case>/` holds an adapter that PEFT wrote, and said.safetensors.bin: the logits with it and the gradients of every A
and B (under the names of the file) of Σ logits · probe. `ours.json` holds, for adapters that Qwill made from a seed and
wrote, the content id of the folder, and PEFT's last logits with it.
"""

import json
import sys
import tempfile
import warnings
from pathlib import Path

import peft
import torch
import transformers
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent.parent / "src"))
sys.path.insert(0, str(HERE))
from lora_cases import OURS, TOKENS, drawn, probe  # noqa: E402
from tiny_models import tiny, tiny_folder  # noqa: E402

from qwill.base.artifact import content_id  # noqa: E402
from qwill.model.files import load_model  # noqa: E402
from qwill.model.lora import attach  # noqa: E402
from qwill.model.lora_files import save_adapter  # noqa: E402

EXPERTS = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]
CASES = {
    "patterns": ("dense_tied_bias", {
        "r": 3, "lora_alpha": 6, "target_modules": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj",
        "down_proj"], "rank_pattern": {"v_proj": 2, "layers.1.mlp.down_proj": 5}, "alpha_pattern": {"q_proj": 7},
    }),
    "rslora": ("llama", {
        "r": 4, "lora_alpha": 3, "use_rslora": True, "target_modules": ["q_proj", "up_proj"],
        "layers_to_transform": [0, 2],
    }),
    "stacked": ("moe", {"r": 3, "lora_alpha": 5, "target_modules": ["q_proj", "o_proj"], "target_parameters": EXPERTS}),
    "stacked_down": ("moe", {"r": 2, "lora_alpha": 3, "target_modules": ["k_proj"], "target_parameters": EXPERTS[1:]}),
    "stacked_gate_up": ("moe", {"r": 2, "lora_alpha": 3, "target_modules": [], "target_parameters": EXPERTS[:1]}),
    # Asked for single experts, PEFT 0.21 stacks them with twice the rank and alpha for gate and up.
    "hybrid": ("hybrid", {
        "r": 3, "lora_alpha": 5, "target_modules": ["q_proj", "v_proj", "in_proj_qkvz", "in_proj_ba", "out_proj"],
        "target_parameters": EXPERTS,
    }),
    "converted": ("moe", {"r": 2, "lora_alpha": 3, "target_modules": ["v_proj", "gate_proj", "up_proj", "down_proj"]}),
}  # fmt: skip


def base(case):
    with tempfile.TemporaryDirectory() as made:
        recorded = HERE / "model" / case
        folder = recorded if recorded.is_dir() else tiny_folder(case, made)
        return AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, attn_implementation="eager", experts_implementation="eager"
        )


def peft_case(name, case, settings):
    folder = HERE / "lora" / name
    config = peft.LoraConfig(task_type="CAUSAL_LM", **settings)
    model = peft.get_peft_model(base(case), config)
    g = torch.Generator().manual_seed(11)
    for n, p in sorted(model.named_parameters()):  # PEFT keeps targets in sets
        if "lora_" in n:
            p.data.copy_(torch.randn(p.shape, generator=g) * (0.4 if "lora_A" in n else 0.2))
    logits = model(TOKENS).logits
    (logits * probe(logits)).sum().backward()
    said = {"logits": logits.detach()}
    for n, p in model.named_parameters():
        if "lora_" in n:
            said[f"gradient.{n.replace('.default', '')}"] = p.grad
    plain = base(case)(TOKENS).logits
    assert float((logits - plain).abs().max()) > 0.1
    model.save_pretrained(folder)
    (folder / "README.md").unlink(missing_ok=True)
    written = json.loads((folder / "adapter_config.json").read_text())
    for key in ("target_modules", "target_parameters"):  # sets: PEFT writes them in any order
        written[key] = sorted(written[key]) if isinstance(written[key], list) else written[key]
    written["base_model_name_or_path"] = case
    (folder / "adapter_config.json").write_text(json.dumps(written, indent=1, sort_keys=True) + "\n")
    save_file(said, folder / "said.safetensors.bin")
    return {"model": case}


def our_case(name):
    case = OURS[name][0]
    mine = load_model(HERE / "model" / case) if (HERE / "model" / case).is_dir() else tiny(case)
    adapter = drawn(name, mine)
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        # It warns of a tensor that it misses, and says nothing of one that it does not know: hence the comparison.
        warnings.filterwarnings("error", message=".*(missing|unexpected).*")
        save_adapter(adapter, folder, base=case)
        model = peft.PeftModel.from_pretrained(base(case), folder)
        identity = content_id(Path(folder))[0]
    logits = model(TOKENS).logits.detach()
    attach(mine, adapter)
    own = mine.logits(TOKENS).detach()
    assert float((logits - own).abs().max()) <= 1e-5 * float(logits.abs().max()), (name, (logits - own).abs().max())
    return {"model": case, "content_id": identity, "logits": logits[0, -1].tolist()}


if __name__ == "__main__":
    torch.set_num_threads(1)
    (HERE / "lora").mkdir(exist_ok=True)
    versions = {"peft": peft.__version__, "transformers": transformers.__version__}
    cases = {name: peft_case(name, *given) for name, given in CASES.items()}
    ours = {name: our_case(name) for name in OURS}
    (HERE / "lora" / "ours.json").write_text(
        json.dumps({"versions": versions, "cases": cases, "ours": ours}, indent=1) + "\n"
    )
