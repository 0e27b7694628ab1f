"""What a real llama.cpp says of GGUF files that Qwill writes, and files that llama.cpp writes for Qwill to read.

requirements: llama-cpp-python==0.3.36 gguf==0.19.0 torch==2.13.0 numpy==2.4.6 safetensors==0.8.0 tokenizers==0.23.3
              pyyaml rich
run: python tests/oracles/make_llama_cpp_oracle.py   (writes llama_cpp.json and llama_cpp_q4_k_m.gguf)

For each tiny model of tests/model/gguf_models.py:
- the hash of the F32 file that Qwill writes, llama.cpp's greedy tokens for it after several prompts (float32 KV cache,
  no flash attention), some of its logits, and its ids of awkward texts. A greedy choice that is nearly a tie would
  compare rounding: the tokens end before the first that does not lead by 2e-4 of the largest logit.
- the hash of every tensor when llama.cpp's own quantiser makes F16, BF16, Q8_0 and Q4_0 of that file. Its head in a
  Q4_0 file is asked to be Q8_0 (its default is Q6_K, which Qwill reads but does not write).
Of the widest one llama.cpp makes a Q4_K_M file (Q4_K and Q6_K), which is kept, and makes F32 of that again, whose
tensors' hashes are kept.
Blocks: awkward weights, quantised by gguf.quants (hashes).
"""

import ctypes
import hashlib
import json
import re
import sys
import tempfile
import unicodedata
from importlib.metadata import version
from pathlib import Path

import llama_cpp
import numpy as np
import torch
from gguf import GGMLQuantizationType, GGUFReader, quants

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent.parent / "src"), str(HERE.parent.parent)]
from tests.model.gguf_models import AWKWARD, CASES, PROMPTS, tiny  # noqa: E402
from tests.model.gguf_weights import awkward_weights  # noqa: E402
from text_strings import random_strings  # noqa: E402

from qwill.model.gguf import save_gguf  # noqa: E402

FTYPES = {"F32": 0, "F16": 1, "BF16": 32, "Q8_0": 7, "Q4_0": 2, "Q4_K_M": 15}
GREEDY, EVERY, MARGIN = 32, 37, 2e-4
Q8_0 = 8


def opened(path: Path) -> llama_cpp.Llama:
    return llama_cpp.Llama(
        str(path), n_ctx=128, n_batch=128, n_ubatch=128, logits_all=True, type_k=0, type_v=0, flash_attn=False,
        n_threads=1, n_threads_batch=1, verbose=False,
    )  # fmt: skip


def last_logits(model: llama_cpp.Llama) -> np.ndarray:
    return np.array(model.scores[model.n_tokens - 1])


def greedy(model: llama_cpp.Llama, prompt: str) -> dict:
    ids = model.tokenize(prompt.encode(), add_bos=False, special=True)
    model.reset()
    model.eval(ids)
    tokens: list[int] = []
    first = last_logits(model)
    for _ in range(GREEDY):
        logits = last_logits(model)
        second, best = np.sort(logits)[-2:]
        if best - second < MARGIN * np.abs(logits).max():
            break
        tokens.append(int(logits.argmax()))
        model.eval(tokens[-1:])
    assert len(tokens) >= 2, (prompt, tokens)
    assert first.std() >= 1, (prompt, first.std())
    return {
        "prompt": prompt, "ids": ids, "greedy": tokens, "largest": float(np.abs(first).max()),
        "logits": {str(i): float(first[i]) for i in range(0, len(first), EVERY)},
    }  # fmt: skip


def quantized(source: Path, target: Path, kind: str) -> None:
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype, params.nthread, params.allow_requantize = FTYPES[kind], 1, True
    if kind == "Q4_0":
        params.output_tensor_type = Q8_0
    assert llama_cpp.llama_model_quantize(str(source).encode(), str(target).encode(), ctypes.byref(params)) == 0


def tensor_hashes(path: Path) -> dict[str, str]:
    """Tensor → type and beginning of its bytes' hash, as the gguf package reads them."""
    return {
        t.name: f"{t.tensor_type.name} {hashlib.sha256(np.ascontiguousarray(t.data).tobytes()).hexdigest()[:16]}"
        for t in GGUFReader(path).tensors
    }


def main() -> None:
    torch.set_num_threads(1)
    out: dict = {"versions": {n: version(n) for n in ("llama-cpp-python", "gguf", "torch")}, "cases": {}}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for case in CASES:
            path = folder / f"{case}.gguf"
            model, tokenizer = tiny(case)
            save_gguf(model, tokenizer, path, "F32", case)
            theirs = opened(path)
            # llama.cpp puts no text into NFC.
            drawn = random_strings(7, 300)
            kept = [i for i, s in enumerate(drawn) if unicodedata.is_normalized("NFC", s)]
            record = {
                "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
                "prompts": [greedy(theirs, prompt) for prompt in PROMPTS],
                "awkward": [theirs.tokenize(s.encode(), add_bos=False) if s else [] for s in AWKWARD],
                "drawn": kept,
                "drawn_ids": hashlib.sha256(
                    json.dumps([theirs.tokenize(drawn[i].encode(), add_bos=False) for i in kept if drawn[i]]).encode()
                ).hexdigest(),
                "quantized": {},
            }
            for kind in ("F16", "BF16", "Q8_0", "Q4_0"):
                quantized(path, folder / "other.gguf", kind)
                record["quantized"][kind] = tensor_hashes(folder / "other.gguf")
                if case != "qwen3_moe_8":  # of the others one hash over all tensors will do
                    lines = sorted(f"{n} {said}" for n, said in record["quantized"][kind].items())
                    record["quantized"][kind] = hashlib.sha256("\n".join(lines).encode()).hexdigest()
            out["cases"][case] = record
            assert sum(len(p["greedy"]) for p in record["prompts"]) >= 100, case
            print(case, [len(p["greedy"]) for p in record["prompts"]], flush=True)
        stored = HERE / "llama_cpp_q4_k_m.gguf"
        quantized(folder / "wide.gguf", stored, "Q4_K_M")
        quantized(stored, folder / "back.gguf", "F32")
        theirs = opened(folder / "back.gguf")
        prompts = [greedy(theirs, prompt) for prompt in PROMPTS]
        out["q4_k_m"] = {"as_f32": tensor_hashes(folder / "back.gguf"), "prompts": prompts}
    weights = awkward_weights()
    out["blocks"] = {
        kind: hashlib.sha256(quants.quantize(weights, GGMLQuantizationType[kind]).tobytes()).hexdigest()
        for kind in ("F16", "BF16", "Q8_0", "Q4_0")
    }
    text = json.dumps(out, ensure_ascii=False, indent=1)
    # Lists of numbers on one line.
    text = re.sub(r"\[[\s\d,]+\]", lambda found: " ".join(found[0].split()), text)
    (HERE / "llama_cpp.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
