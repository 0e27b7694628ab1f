"""The ladder of the scaling study: its models, and one resumable training run with its points.

A run is a folder: `points/<tokens>.json` for each finished horizon, which is not trained again; an interrupted one goes
on where it was, and longer horizons can be asked for later. All horizons of a run share one trunk at the full rate;
each branches off for its decay, so that a point is what training with that horizon alone gives (warm-up, stable, decay;
MiniCPM, arXiv 2404.06395).
"""

from __future__ import annotations

import os
import shutil
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from qwill.base.files import read_json, write_json
from qwill.base.progress import Display
from qwill.base.stage import StageContext
from qwill.data.packing import RowLoader, TokenStore
from qwill.evaluate.bits_per_byte import bits_per_byte
from qwill.model.config import ModelConfig
from qwill.model.initial import init_weights
from qwill.model.size import count
from qwill.model.transformer import Transformer
from qwill.text.tokenizer import Tokenizer
from qwill.train.loop import train
from qwill.train.settings import OptimizerConfig, ScheduleConfig
from qwill.train.step import StepData

KINDS = ("dense", "sparse")
EXPERTS, TOP_K = 8, 2
HEAD_DIM = 32
ROW_TOKENS, BATCH_ROWS = 256, 8
WARMUP_STEPS = 16  # the same for every horizon, or the trunk would not be common to them
DECAY, BALANCE = 0.4, 0.01  # those of recipes/evening.yaml


@dataclass(frozen=True)
class Rung:
    """One size of the ladder: `width` and `layers` of both kinds, and the horizons in tokens, shortest first."""

    width: int
    layers: int
    horizons: tuple[int, ...]

    @property
    def name(self) -> str:
        return f"w{self.width}l{self.layers}"


def model_config(kind: str, rung: Rung, vocab_size: int) -> ModelConfig:
    """Qwen3 (`dense`) or Qwen3-MoE (`sparse`, two of eight experts) of the same width, depth and attention.

    The feed-forward of 3·width is whole or cut into experts of half of it, so what differs in active size is the
    router: 8·width a layer, at most 2 % of the weights beside the embedding.
    """
    heads = max(2, rung.width // HEAD_DIM)
    config = ModelConfig(
        "qwen3", vocab_size, rung.width, rung.layers, heads, max(1, heads // 2), HEAD_DIM, 3 * rung.width,
        max_position_embeddings=ROW_TOKENS, rope_theta=1e4, router_aux_loss_coef=BALANCE,
    )  # fmt: skip
    if kind == "dense":
        return config
    return config.with_(
        model_type="qwen3_moe", num_experts=EXPERTS, num_experts_per_tok=TOP_K,
        moe_intermediate_size=3 * rung.width // TOP_K,
    )  # fmt: skip


def sizes(kind: str, rung: Rung, vocab_size: int) -> dict[str, int]:
    """Weights: all; active for one token (the tied embedding counts once, as the head that it is); active beside it."""
    size = count(model_config(kind, rung, vocab_size))
    return {"total": size.total, "active": size.active, "active_inner": size.active - size.embedding}


def training_flops(active: int, tokens: int) -> float:
    """6·N·D (Kaplan et al. 2020, arXiv 2001.08361, §2.1), N = active weights with the head, for its products are a
    large part here. Attention scores are left out (the same for both kinds), and so is Muon's own work."""
    return 6.0 * active * tokens


def sample_documents(corpus: Path, limit_bytes: int, seed: int = 0) -> dict[str, list[str]]:
    """Held-out documents of each language, drawn without replacement until there are `limit_bytes` (the file is sorted
    by source, so its beginning would be one source)."""
    import pyarrow.parquet as pq

    table = pq.read_table(corpus / "heldout.parquet", columns=["text", "language"])
    texts, languages = table["text"].to_pylist(), table["language"].to_pylist()
    out: dict[str, list[str]] = {}
    size: dict[str, int] = {}
    for i in np.random.default_rng(seed).permutation(len(texts)):
        language = languages[i]
        if size.get(language, 0) < limit_bytes:
            out.setdefault(language, []).append(texts[i])
            size[language] = size.get(language, 0) + len(texts[i].encode())
    return dict(sorted(out.items()))


@dataclass
class Data:
    """What every run reads: tokens of the corpus, tokenizer, held-out documents by language."""

    store: TokenStore
    tokenizer: Tokenizer
    heldout: dict[str, list[str]]


@dataclass
class _Clock:
    """Steps that this process really made, and what they took."""

    steps: int = 0
    wall: float = 0.0
    cpu: float = 0.0


def steps_of(tokens: int) -> int:
    return tokens // (ROW_TOKENS * BATCH_ROWS)


def run_one(folder: Path, kind: str, rung: Rung, seed: int, rate_factor: float, data: Data) -> list[dict[str, Any]]:
    """Train one model at all horizons of its rung; returns (and leaves in `folder`/points) a point for each.

    Both kinds with one seed read the same rows in the same order.
    """
    points = folder / "points"
    points.mkdir(parents=True, exist_ok=True)
    config = model_config(kind, rung, data.tokenizer.padded_vocab_size)
    loader = RowLoader(data.store, ROW_TOKENS, BATCH_ROWS, seed)
    size = sizes(kind, rung, data.tokenizer.padded_vocab_size)
    for horizon in rung.horizons:
        point = points / f"{horizon}.json"
        if point.exists():
            continue
        steps, clock = steps_of(horizon), _Clock()
        split = steps - round(DECAY * steps)
        trunk, branch = folder / "trunk", folder / f"branch-{horizon}"
        if not branch.exists():
            _train(config, trunk, split, 0.0, seed, rate_factor, loader, clock)
            copy = folder / "copying"
            shutil.rmtree(copy, ignore_errors=True)
            shutil.copytree(trunk, copy)
            os.replace(copy, branch)
        model, last = _train(config, branch, steps, DECAY, seed, rate_factor, loader, clock)
        scored = {k: bits_per_byte(model, data.tokenizer, v, ROW_TOKENS) for k, v in data.heldout.items()}
        write_json(point, {
            "kind": kind, "rung": rung.name, "seed": seed, "rate_factor": rate_factor, **size,
            "tokens": steps * ROW_TOKENS * BATCH_ROWS, "steps": steps,
            "flops": training_flops(size["active"], steps * ROW_TOKENS * BATCH_ROWS),
            "bits_per_byte": {k: c.bits_per_byte for k, c in scored.items()},
            "document_bits": {k: c.bits.round(3).tolist() for k, c in scored.items()},
            "document_bytes": {k: c.bytes_.tolist() for k, c in scored.items()},
            "training_loss": last, "clock": asdict(clock),
        })  # fmt: skip
        shutil.rmtree(branch)
    for left in folder.glob("branch-*"):
        shutil.rmtree(left)
    return [read_json(points / f"{h}.json") for h in rung.horizons]


def _train(
    config: ModelConfig, work: Path, steps: int, decay: float, seed: int, rate_factor: float, loader: RowLoader,
    clock: _Clock,
) -> tuple[Transformer, float]:  # fmt: skip
    """Up to `steps` in `work` with the product's loop, from the checkpoint there if there is one; the model, and the
    mean training loss of its last 20 steps."""
    model = Transformer(config)
    init_weights(model, torch.Generator().manual_seed(seed))
    uniform = torch.full((BATCH_ROWS * ROW_TOKENS,), 1.0 / (BATCH_ROWS * ROW_TOKENS))

    def step_data(step: int) -> StepData:
        clock.steps += 1
        rows = loader.step(step)
        return StepData(rows.batch, rows.targets_N, uniform, f"rows {loader.row_indices(step)[:4]}… of the corpus")

    optimizer = OptimizerConfig()
    optimizer = replace(
        optimizer,
        learning_rate=rate_factor * optimizer.learning_rate,
        matrix_rate=rate_factor * optimizer.matrix_rate,
    )
    ctx = StageContext(work, work, {}, seed, 1, Display(quiet=True), None, work / "metrics.jsonl")
    wall, cpu = time.perf_counter(), time.process_time()
    schedule = ScheduleConfig(min(1.0, WARMUP_STEPS / steps), decay)
    history = train(
        model, steps, step_data, optimizer, schedule, BALANCE, ctx, "scaling", checkpoint_seconds=30.0,
    )  # fmt: skip
    clock.wall += time.perf_counter() - wall
    clock.cpu += time.process_time() - cpu
    return model, float(np.mean([p["loss"] for p in history.curve[-20:]]))
