"""What YaRN buys beyond the trained context, and what it costs within it, on held-out text of a model of ours.

    .venv/bin/python benchmarks/yarn.py runs/evening [--trained 256] [--steps 60]

Held-out documents of one language are joined end to end (`<|endoftext|>` between them, as in training) and cut into
streams of `factor` times the trained context. The same text is then scored in windows of 1, 2 and 4 times the trained
context; every window starts at position 0 and every token is scored, so the lengths differ in nothing but how far
attention reaches. Four models: as trained, with static YaRN, and both after the same short training on streams of the
training text (whose windows hold different documents, as the held-out ones do). Intervals are 95 %, over streams; what
is said of a difference is paired.

Claim: at 4 times the context fewer bits per byte with YaRN than without.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from compare import verdict, write_section
from torch import Tensor

from qwill.base.progress import Display
from qwill.base.stage import StageContext
from qwill.evaluate.bits_per_byte import Compression
from qwill.model import ops
from qwill.model.batch import Batch
from qwill.model.files import load_model
from qwill.model.rope import RopeScaling
from qwill.model.transformer import Transformer
from qwill.text.tokenizer import Tokenizer
from qwill.train.loop import train
from qwill.train.settings import OptimizerConfig, ScheduleConfig
from qwill.train.step import StepData

LENGTHS = (1, 2, 4)  # times the trained context
Z95 = 1.96


def streams(corpus: Path, part: str, tokenizer: Tokenizer, length: int) -> dict[str, Tensor]:
    """By language: documents joined and cut, tokens [streams, length + 1]; neighbours share their border token."""
    import pyarrow.parquet as pq

    table = pq.read_table(corpus / f"{part}.parquet", columns=["text", "language"])
    end_id = tokenizer.special("<|endoftext|>")
    joined: dict[str, list[int]] = {}
    for ids, language in zip(
        tokenizer.encode_batch(table["text"].to_pylist()), table["language"].to_pylist(), strict=True
    ):
        joined.setdefault(language, []).extend([end_id, *ids])
    out = {}
    for language, ids in sorted(joined.items()):
        count = (len(ids) - 1) // length
        out[language] = torch.tensor(ids[: count * length + 1]).unfold(0, length + 1, length).contiguous()
    return out


@torch.inference_mode()
def score(model: Transformer, tokens_BT: Tensor, width: int, bytes_V: Tensor) -> Compression:
    """Bits and bytes of each stream, scored in windows of `width` tokens."""
    bits, sizes = [], []
    for stream_T in tokens_BT:
        windows = stream_T[:-1].view(-1, width)
        targets = stream_T[1:]
        hidden = model(Batch.rows(windows)).hidden_ND
        _, loss_N = ops.cross_entropy(hidden, model.head_weight_VD, targets, torch.ones(len(targets)))
        size = bytes_V[targets]
        bits.append(float((loss_N.double() * (size > 0)).sum()) / np.log(2))  # the end of a document is no byte of it
        sizes.append(float(size.sum()))
    return Compression(np.array(bits), np.array(sizes))


def tune(model: Transformer, text: dict[str, Tensor], steps: int, rows: int, seed: int) -> None:
    """Train in place on streams of both languages, `rows` a step, each as one sequence."""
    tokens = torch.cat(list(text.values()))
    order = torch.randperm(len(tokens), generator=torch.Generator().manual_seed(seed))

    def step_data(step: int) -> StepData:
        chosen = tokens[order[torch.arange(step * rows, (step + 1) * rows) % len(order)]]
        targets = chosen[:, 1:].reshape(-1)
        weight = torch.full((len(targets),), 1.0 / len(targets))
        return StepData(Batch.rows(chosen[:, :-1]), targets, weight, f"streams of step {step}")

    optimizer = OptimizerConfig(learning_rate=5e-4, matrix_rate=3e-3)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        ctx = StageContext(folder, folder / "work", {}, seed, 1, Display(quiet=True), None, folder / "metrics.jsonl")
        train(model, steps, step_data, optimizer, ScheduleConfig(0.1, 0.6), 0.01, ctx, "yarn", checkpoint_seconds=1e9)
    model.eval()


def interval(c: Compression) -> str:
    return f"{c.bits_per_byte:.3f} ± {Z95 * c.stderr:.3f}"


def difference(a: Compression, b: Compression) -> Compression:
    """a − b, paired by stream."""
    return Compression(a.bits - b.bits, a.bytes_)


def report(
    scores: dict[str, dict[str, dict[int, Compression]]], trained: int, factor: int, about: str, names: Sequence[str]
) -> str:
    lines = [about]
    met = True
    for language, by_model in scores.items():
        rows = [
            f"| {language} | " + " | ".join(f"{k}× ({k * trained})" for k in LENGTHS) + " |",
            "|---" * (len(LENGTHS) + 1) + "|",
        ]
        for name in names:
            rows.append(f"| {name} | " + " | ".join(interval(by_model[name][k]) for k in LENGTHS) + " |")
        lines.append("\n".join(rows))
        for stretched, plain, claimed in (
            (names[1], names[0], True),
            (names[3], names[0], True),
            (*names[:1:-1], False),
        ):
            far, near = (difference(by_model[stretched][k], by_model[plain][k]) for k in (factor, 1))
            lines.append(f"{language}, {stretched} − {plain}: {interval(far)} at {factor}×, {interval(near)} at 1×.")
            met &= not claimed or far.bits_per_byte + Z95 * far.stderr < 0
    lines.append(verdict(f"of fewer bits per byte at {factor}× with YaRN than as trained, both languages", met))
    return "\n\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="a run's folder, with base/ and corpus/")
    parser.add_argument("--trained", type=int, default=256, help="tokens of a row that the base was trained on")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--rows", type=int, default=4)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--streams", type=int, help="at most so many a language")
    parser.add_argument("--dry", action="store_true", help="print, and leave RESULTS.md alone")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    trained, factor = arguments.trained, LENGTHS[-1]
    folder = arguments.run / "base"
    tokenizer = Tokenizer.load(folder)
    heldout = streams(arguments.run / "corpus", "heldout", tokenizer, trained * factor)
    heldout = {k: v[: arguments.streams] for k, v in heldout.items()}
    text = streams(arguments.run / "corpus", "train", tokenizer, trained * factor)
    end_id = tokenizer.special("<|endoftext|>")
    vocabulary = range(tokenizer.vocab_size)
    bytes_V = torch.tensor([0.0 if i == end_id else float(len(tokenizer.token_bytes(i))) for i in vocabulary])
    yarn = RopeScaling("yarn", float(factor), trained)
    names = ["as trained", "YaRN", "trained on", "YaRN, trained on"]
    scores: dict[str, dict[str, dict[int, Compression]]] = {language: {} for language in heldout}
    for name in names:
        model = load_model(folder)
        if "YaRN" in name:
            model.config = model.config.with_(rope_scaling=yarn)
        if "trained on" in name:
            tune(model, text, arguments.steps, arguments.rows, seed=1)
        for language, tokens_BT in heldout.items():
            found = {k: score(model, tokens_BT, k * trained, bytes_V) for k in LENGTHS}
            scores[language][name] = found
            print(f"{language}, {name}: " + ", ".join(f"{k}× {interval(c)}" for k, c in found.items()), flush=True)
    about = (
        f"{arguments.run.name}/base, trained on rows of {trained} tokens (RoPE θ {model.config.rope_theta:g}, heads of "
        f"{model.config.head_dim}); bits per byte of held-out streams of {trained * factor} tokens, "
        + ", ".join(f"{k} {len(v)}" for k, v in heldout.items())
        + f". YaRN static, factor {factor}. Trained on: {arguments.steps} steps of {arguments.rows} training streams "
        f"({arguments.steps * arguments.rows * trained * factor / 1e6:.2f} M tokens). 95 % intervals over streams."
    )
    body = report(scores, trained, factor, about, names)
    print(body)
    if not arguments.dry:
        write_section("YaRN beyond the trained context", body)


if __name__ == "__main__":
    main()
