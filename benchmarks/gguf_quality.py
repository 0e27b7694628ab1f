"""What GGUF types cost in perplexity, and whether a real llama.cpp says what Qwill says: trained models.

    PYTHONPATH=src PYTHON_WITH_LLAMA_CPP benchmarks/gguf_quality.py MODEL... --texts HELDOUT.parquet

The Python needs llama-cpp-python beside Qwill's own dependencies. Each MODEL (folder, GGUF file or smollm2) is written
as F32, F16, BF16, Q8_0 and Q4_0. All is measured by llama.cpp, with a float32 KV cache and without flash attention.

- F32: greedy tokens after English and Chinese prompts against ours, largest difference of logits, ids of the texts.
- each type: perplexity of held-out documents (windows of --window tokens, no overlap, the first token not counted), by
  language. Claim: Q8_0 within 1 % of F32.
"""

from __future__ import annotations

import argparse
import math
import tempfile
import unicodedata
from pathlib import Path

import llama_cpp
import numpy as np
import pyarrow.parquet as pq
import torch
from compare import write_section

from qwill.base.resolve import resolve
from qwill.model.gguf import export_gguf, load_gguf, save_gguf, smollm2_file
from qwill.model.transformer import Transformer

KINDS = ("F32", "F16", "BF16", "Q8_0", "Q4_0")
PROMPTS = [
    "The quick brown fox", "1 + 2 = 3, 3 + 4 =", "从前有一座山", "今天天气很好，我们",
    "<|im_start|>user\nWhat is 7 times 8?<|im_end|>\n<|im_start|>assistant\n",
    "<|im_start|>user\n小明有五个苹果，吃了两个，还剩几个？<|im_end|>\n<|im_start|>assistant\n",
]  # fmt: skip


def opened(path: Path, window: int) -> llama_cpp.Llama:
    return llama_cpp.Llama(
        str(path), n_ctx=window, n_batch=window, n_ubatch=window, logits_all=True, type_k=0, type_v=0,
        flash_attn=False, verbose=False,
    )  # fmt: skip


def logits_after(theirs: llama_cpp.Llama, ids: list[int]) -> torch.Tensor:
    """llama.cpp's logits at every position, [T, V]."""
    theirs.reset()
    theirs.eval(ids)
    return torch.from_numpy(np.array(theirs.scores[: len(ids)]))


def agreement(theirs: llama_cpp.Llama, ours: Transformer, tokens: int) -> tuple[int, int, float]:
    """(greedy tokens that are the same, all of them, largest difference of logits by the largest logit)."""
    same = total = 0
    worst = 0.0
    for prompt in PROMPTS:
        ids = theirs.tokenize(prompt.encode(), add_bos=False, special=True)
        first = len(ids)
        theirs.reset()
        theirs.eval(ids)
        for _ in range(tokens):
            ids.append(int(theirs.scores[theirs.n_tokens - 1].argmax()))
            theirs.eval(ids[-1:])
        said_TV = logits_after(theirs, ids)
        with torch.inference_mode():
            mine_TV = ours.logits(torch.tensor([ids]))[0]
        same += sum(a == b for a, b in zip(mine_TV.argmax(-1).tolist()[first - 1 : -1], ids[first:], strict=True))
        total += tokens
        worst = max(worst, float((mine_TV - said_TV).abs().max() / said_TV.abs().max()))
    return same, total, worst


def perplexity(theirs: llama_cpp.Llama, windows: list[list[int]]) -> float:
    lost, count = 0.0, 0
    for ids in windows:
        logits_TV = logits_after(theirs, ids)
        lost += float(torch.nn.functional.cross_entropy(logits_TV[:-1], torch.tensor(ids[1:]), reduction="sum"))
        count += len(ids) - 1
    return math.exp(lost / count)


def measure(reference: str, texts: dict[str, list[str]], window: int, windows: int, tokens: int) -> list[str]:
    """Rows of the table for one model."""
    source = resolve(reference)
    shown_as = "/".join(Path(reference).parts[-2:])
    with tempfile.TemporaryDirectory() as folder:
        files = {kind: Path(folder) / f"{kind}.gguf" for kind in KINDS}
        if source.is_dir():
            for kind, path in files.items():
                export_gguf(source, path, kind)
        else:
            model, words = load_gguf(source if source.suffix == ".gguf" else smollm2_file(source))
            for kind, path in files.items():
                save_gguf(model, words, path, kind)
        ours, tokenizer = load_gguf(files["F32"])
        theirs = opened(files["F32"], window)
        same, total, worst = agreement(theirs, ours, tokens)
        every = [unicodedata.normalize("NFC", t) for several in texts.values() for t in several]
        other = sum(tokenizer.encode(t) != theirs.tokenize(t.encode(), add_bos=False) for t in every)
        print(
            f"{reference}: {same} of {total} greedy tokens the same, logits within {worst:.1e} of the largest, "
            f"{other} of {len(every)} texts with other ids", flush=True,
        )  # fmt: skip
        pieces: dict[str, list[list[int]]] = {}
        for language, several in texts.items():
            ids = [tokenizer.encode(t) for t in several]
            cut = [i[at : at + window] for i in ids for at in range(0, len(i), window)]
            pieces[language] = [c for c in cut if len(c) > 8][:windows]
        found: dict[str, dict[str, float]] = {}
        rows = []
        for kind, path in files.items():
            theirs = opened(path, window)
            found[kind] = {language: perplexity(theirs, cut) for language, cut in pieces.items()}
            shown = ", ".join(
                f"{language} {p:.2f} ({100 * (p / found['F32'][language] - 1):+.2f} %)"
                for language, p in found[kind].items()
            )
            rows.append(f"| {shown_as} | {kind} | {path.stat().st_size / 1e6:.1f} | {shown} |")
            print(rows[-1], flush=True)
        worst_of_q8 = max(abs(found["Q8_0"][lang] / found["F32"][lang] - 1) for lang in pieces)
        rows.append(
            f"| | | | greedy {same} of {total}, {other} of {len(every)} texts with other ids, Q8_0 within "
            f"{100 * worst_of_q8:.2f} %: {'met' if same == total and not other and worst_of_q8 <= 0.01 else 'MISSED'} |"
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+")
    parser.add_argument("--texts", type=Path, required=True, help="heldout.parquet of a corpus")
    parser.add_argument("--documents", type=int, default=60, help="of each language")
    parser.add_argument("--window", type=int, default=256)
    parser.add_argument("--windows", type=int, default=60, help="of each language at most")
    parser.add_argument("--tokens", type=int, default=64, help="greedy tokens after each prompt")
    parser.add_argument("--languages", default="en,zh")
    parser.add_argument("--dry", action="store_true", help="print, but leave RESULTS.md alone")
    arguments = parser.parse_args()
    rows = pq.read_table(arguments.texts).to_pylist()
    texts = {
        language: [r["text"] for r in rows if r["language"] == language][: arguments.documents]
        for language in arguments.languages.split(",")
    }
    table = ["| model | type | MB | perplexity (change from F32) |", "|---|---|---|---|"]
    for reference in arguments.models:
        table += measure(reference, texts, arguments.window, arguments.windows, arguments.tokens)
    body = f"llama-cpp-python {llama_cpp.__version__}, windows of {arguments.window} tokens.\n\n" + "\n".join(table)
    if not arguments.dry:
        write_section("GGUF in llama.cpp", body)


if __name__ == "__main__":
    main()
