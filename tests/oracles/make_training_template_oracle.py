"""Ids and assistant masks of TRL's training template for Qwen3, and of other templates; writes training_template.json.

requirements: trl==1.16.0 transformers==5.24.0 tokenizers==0.23.3 torch==2.13.0
run: python tests/oracles/make_training_template_oracle.py   (after make_tokenizer_oracle.py)

transformers' apply_chat_template(return_assistant_tokens_mask=True) renders, on the tokenizer in text_tokenizer/; for
Qwen3 with the template that TRL's get_training_chat_template gives for the released one.
"""

import json
from importlib.metadata import version
from pathlib import Path

import tokenizers
import training_cases as cases
from transformers import AutoTokenizer, PreTrainedTokenizerFast
from trl.chat_template_utils import get_training_chat_template

HERE = Path(__file__).parent


def rendered(tokenizer, messages, tools, template) -> dict:
    found = tokenizer.apply_chat_template(
        messages, tools=tools, chat_template=template, tokenize=True, return_dict=True,
        return_assistant_tokens_mask=True,
    )  # fmt: skip
    return {"ids": list(found["input_ids"]), "mask": list(found["assistant_masks"])}


def main() -> None:
    qwen = AutoTokenizer.from_pretrained(HERE / "text_tokenizer")
    training = get_training_chat_template(qwen)
    assert training is not None
    whole, hashes = [], []
    for seed in range(cases.HASHED):
        messages, tools = cases.conversation(seed)
        given = cases.digest(messages, tools)
        found = rendered(qwen, messages, tools, training)
        if seed < cases.WHOLE:
            whole.append(found | {"given": given})
        hashes.append([given, cases.digest(found["ids"], found["mask"])])
    document = cases.extended(json.loads((HERE / "text_tokenizer" / "tokenizer.json").read_text(encoding="utf-8")))
    other = PreTrainedTokenizerFast(
        tokenizer_object=tokenizers.Tokenizer.from_str(json.dumps(document)), bos_token="<s>", eos_token="<|im_end|>"
    )
    templates = {
        name: [
            rendered(other, cases.plain_chat(seed, name in ("smollm", "llama")), None, template) for seed in range(60)
        ]
        for name, template in cases.TEMPLATES.items()
    }
    versions = {name: version(name) for name in ("trl", "transformers", "tokenizers")}
    out = {"versions": versions, "whole": whole, "hashes": hashes, "templates": templates}
    (HERE / "training_template.json").write_text(json.dumps(out, separators=(",", ":")) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
