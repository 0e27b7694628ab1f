"""What integers cost: perplexity of held-out text with 8 and 4 bits, ours and llama.cpp's, against float32.

    python benchmarks/quantised_quality.py FOLDER... --texts HELDOUT.parquet --peer-python PYTHON_WITH_LLAMA_CPP

FOLDERs are float models that a recipe trained (their float32 weights are the truth), or smollm2, which is compared with
the floats that its own Q4_1 stands for. The text is one stream of documents, cut into windows of 512 tokens; each
window's first token isn't counted. Float32 is the model's definition; int8 and int4 are what `qwill serve --weights`
runs: native code with activations of 8 bits, the head in 8 bits, keys and values as named. llama.cpp reads an F32 GGUF
file of the same weights, quantises it itself and computes as it does by default.

Claims: int8 within 0.3 % of float32; int4 costs no more than Q4_K_M does.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import torch
from compare import verdict, write_section
from torch import Tensor

from qwill.base.resolve import resolve
from qwill.engine.executor import Step
from qwill.engine.native import NativeExecutor
from qwill.model.files import load_model
from qwill.model.gguf import export_gguf, load_gguf, smollm2_file
from qwill.model.held import hold
from qwill.model.project import Quantized
from qwill.model.transformer import Transformer
from qwill.text.tokenizer import Tokenizer

PEER = Path(__file__).parent / "peers" / "llama_cpp_quality.py"
SETTINGS = [(8, "float16"), (8, "int8"), (4, "float16"), (4, "int8")]


def windows_of(tokenizer: Tokenizer, texts: Path, tokens: int, window: int) -> list[list[int]]:
    end = tokenizer.specials["<|endoftext|>"]
    documents = pq.read_table(texts, columns=["text"])["text"].to_pylist()
    stream: list[int] = [end]
    for i in range(0, len(documents), 64):
        for ids in tokenizer.encode_batch(documents[i : i + 64]):
            stream += [*ids, end]
        if len(stream) >= tokens + window:
            break
    count = min(-(-tokens // (window - 1)), len(stream) // window)
    return [stream[i * window : (i + 1) * window] for i in range(count)]


def lost(logits_TV: Tensor, ids: list[int]) -> Tensor:
    """−log p of every token but the first, float64."""
    return torch.nn.functional.cross_entropy(logits_TV[:-1].double(), torch.tensor(ids[1:]), reduction="none")


@torch.inference_mode()
def by_definition(model: Transformer, windows: list[list[int]]) -> Tensor:
    return torch.cat([lost(model.logits(torch.tensor([ids]))[0].float(), ids) for ids in windows])


@torch.inference_mode()
def by_native(model: Transformer, windows: list[list[int]], kv: str) -> Tensor:
    longest = max(map(len, windows))
    blocks = -(-longest // 16)
    executor = NativeExecutor(model, blocks, kv_dtype=getattr(torch, kv))
    table, none, zero = torch.arange(blocks, dtype=torch.int32)[None], torch.tensor([-1]), torch.tensor([0])
    parts = []
    for ids in windows:
        n, places = len(ids), torch.arange(len(ids))
        borders = torch.tensor([0, n], dtype=torch.int32)
        parts.append(lost(executor.run(Step(torch.tensor(ids), places, borders, zero, table, none, places, none)), ids))
    return torch.cat(parts)


def bits_of(model: Transformer) -> float:
    """Bits a weight of what native code reads of what is held as integers."""
    held = [m for m in model.modules() if isinstance(m, Quantized)]
    sizes = []
    for m in held:
        # Zero points are the same number everywhere, which native code folds into the minima.
        buffers = {name: b for name, b in m.named_buffers() if name != "zero"}
        if "minimum" in buffers and buffers["minimum"].dtype == torch.float32:  # bytes there, and four floats a row
            sizes += [buffers.pop("scale").numel(), buffers.pop("minimum").numel(), 16 * m.shape[:-1].numel()]
        sizes += [b.nbytes for b in buffers.values()]
    return 8 * sum(sizes) / sum(m.shape.numel() for m in held)


def cost(now: float, before: float) -> float:
    """By how much perplexity rises from mean losses, in percent."""
    return 100 * math.expm1(now - before)


def row(name: str, losses: Tensor, truth: Tensor, note: str) -> str:
    change = losses - truth
    error = 100 * float(change.std()) / math.sqrt(len(change))
    mean = float(losses.mean())
    return f"| {name} | {math.exp(mean):.3f} | {cost(mean, float(truth.mean())):+.2f} % ± {error:.2f} | {note} |"


def peer_rows(python: str, folder: Path, windows: list[list[int]]) -> dict[str, dict[str, Any]]:
    with tempfile.TemporaryDirectory() as scratch:
        source, named = Path(scratch) / "F32.gguf", Path(scratch) / "windows.json"
        export_gguf(folder, source, "F32")
        named.write_text(json.dumps(windows))
        job = {"source": str(source), "folder": scratch, "kinds": ["F32", "Q8_0", "Q4_K_M"], "windows": str(named)}
        said = subprocess.run(
            [python, str(PEER), json.dumps(job)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
            check=True,
        )
    return {found["kind"]: found for found in map(json.loads, said.stdout.splitlines())}


def trained(name: str, folder: Path, texts: Path, tokens: int, window: int, python: str) -> str:
    windows = windows_of(Tokenizer.load(folder), texts, tokens, window)
    truth = by_definition(load_model(folder), windows)
    lines = [row("float32, the definition", truth, truth, "")]
    costs: dict[int, list[float]] = {8: [], 4: []}
    for bits in (8, 4):
        model = load_model(folder)
        hold(model, bits)
        for kv in [kv for b, kv in SETTINGS if b == bits]:
            losses = by_native(model, windows, kv)
            costs[bits].append(cost(float(losses.mean()), float(truth.mean())))
            note = f"projections {bits_of(model):.2f} bits a weight, keys and values {kv}"
            lines.append(row(f"int{bits}", losses, truth, note))
    peers = peer_rows(python, folder, windows)
    base = peers["F32"]["lost"] / len(truth)
    size = sum(p.numel() for p in load_model(folder).parameters())
    for kind in ("Q8_0", "Q4_K_M"):
        mean = peers[kind]["lost"] / len(truth)
        peers[kind]["cost"] = cost(mean, base)
        note = f"whole file {8 * peers[kind]['bytes'] / size:.2f} bits a weight"
        lines.append(f"| llama.cpp {kind} | {math.exp(mean):.3f} | {peers[kind]['cost']:+.2f} % | {note} |")
    claims = [
        verdict("int8 within 0.3 % of float32", max(map(abs, costs[8])) <= 0.3),
        verdict("int4 costs no more than Q4_K_M", max(costs[4]) <= peers["Q4_K_M"]["cost"]),
    ]
    head = (
        f"**{name}**, {len(truth)} tokens in {len(windows)} windows of {window}, against llama-cpp-python "
        f"{peers['F32']['version']} on the same weights (cost: against its own F32, "
        f"perplexity {math.exp(base):.3f}).\n\n| weights | perplexity | cost | |\n|---|---|---|---|\n"
    )
    return head + "\n".join(lines) + "\n\n" + " ".join(claims)


def smollm2(texts: Path, tokens: int, window: int) -> str:
    path = smollm2_file(resolve("smollm2"))
    model, tokenizer = load_gguf(path)
    windows = windows_of(tokenizer, texts, tokens, window)
    truth = by_definition(model, windows)
    held, _ = load_gguf(path, quantized=True)
    lines = [row("Q4_1 multiplied out to float32, the definition", truth, truth, "")]
    for kv in ("float32", "float16", "int8"):
        lines.append(row("Q4_1 as it is stored", by_native(held, windows, kv), truth, f"keys and values {kv}"))
    head = (
        f"**smollm2**, {len(truth)} tokens in {len(windows)} windows of {window}, relative to its own dequantised Q4_1 "
        "(there are no float weights of it here).\n\n| weights | perplexity | cost | |\n|---|---|---|---|\n"
    )
    return head + "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", metavar="FOLDER|smollm2")
    parser.add_argument("--texts", type=Path, required=True)
    parser.add_argument("--peer-python", required=True)
    parser.add_argument("--tokens", type=int, default=50_000)
    parser.add_argument("--window", type=int, default=512)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--dry", action="store_true", help="print, but leave RESULTS.md alone")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    parts = []
    for model in arguments.models:
        if model == "smollm2":
            parts.append(smollm2(arguments.texts, arguments.tokens, arguments.window))
        else:
            folder, name = Path(model), "/".join(Path(model).resolve().parts[-2:])
            parts.append(
                trained(name, folder, arguments.texts, arguments.tokens, arguments.window, arguments.peer_python)
            )
        print(parts[-1], flush=True)
    if not arguments.dry:
        write_section("What integers cost in perplexity", "\n\n".join(parts))


if __name__ == "__main__":
    main()
