"""Our side of benchmarks/align_speed.py: `go` trains a round on the next examples; its seconds, tokens, first loss."""

from __future__ import annotations

import json
import math
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from qwill.align.grpo import train_grpo
from qwill.align.offline import Offline, reference_logprobs
from qwill.align.preference_examples import Pair, PreferenceStep
from qwill.align.replies import Reply, render_reply
from qwill.align.rewards import Rewards
from qwill.align.settings import GRPOConfig, PreferenceConfig, RewardPart
from qwill.base.progress import Display
from qwill.base.stage import StageContext
from qwill.model.files import load_model
from qwill.model.lora_config import LoraConfig
from qwill.model.transformer import Transformer
from qwill.text.tokenizer import Tokenizer
from qwill.train.adapter import begin_adapter
from qwill.train.loop import train
from qwill.train.settings import OptimizerConfig, ScheduleConfig
from qwill.train.sft import pack_examples

Round = tuple[float, int, float]  # seconds, tokens, the first step's loss


def main(told: str) -> None:
    job = json.loads(Path(told).read_text())
    torch.set_num_threads(job["threads"])
    rows = [json.loads(line) for line in Path(job["data"]).read_text().splitlines()]
    tokenizer = Tokenizer.load(job["model"])
    lora = LoraConfig(job["lora"], 2 * job["lora"]) if job["lora"] else None
    optimizer = OptimizerConfig("adamw", job["rate"], job["rate"])
    schedule = ScheduleConfig(warmup=0.0, decay=0.0)
    steps, batch = job["steps"], job["batch"]
    display = Display()

    def sft(model: Transformer, part: list[dict[str, Any]], ctx: StageContext) -> Round:
        replies = [render_reply(r["prompt"], r["completion"], tokenizer) for r in part]
        examples = [e for reply in replies for e in reply.examples]
        started = time.perf_counter()
        history = train(
            model, steps, lambda s: pack_examples(examples[s * batch : (s + 1) * batch], "rows"), optimizer, schedule,
            0.0, ctx, "sft", checkpoint_seconds=math.inf,
        )  # fmt: skip
        return time.perf_counter() - started, sum(r.tokens for r in replies), history.curve[0]["loss"]

    def dpo(model: Transformer, part: list[dict[str, Any]], ctx: StageContext) -> Round:
        def reply(row: dict[str, Any], name: str) -> Reply:
            return render_reply(row["prompt"], row[name], tokenizer)

        pairs = [Pair(str(i), "", reply(r, "chosen"), reply(r, "rejected")) for i, r in enumerate(part)]
        config = PreferenceConfig(steps=steps, pairs=batch, optimizer=optimizer, schedule=schedule)
        started = time.perf_counter()
        reference_U2 = reference_logprobs(model, pairs, config.train_tokens, ctx.work)
        offline = Offline(model, pairs, reference_U2, config)
        plan = [list(range(s * batch, (s + 1) * batch)) for s in range(steps)]
        history = train(
            model, steps, lambda s: PreferenceStep(plan[s], "pairs", 0), optimizer, schedule, 0.0, ctx, "dpo",
            checkpoint_seconds=math.inf, compute=offline.compute,
        )  # fmt: skip
        tokens = sum(r.tokens for p in pairs for r in p.replies)
        return time.perf_counter() - started, tokens, history.curve[0]["loss"]

    def grpo(model: Transformer, part: list[dict[str, Any]], ctx: StageContext) -> Round:
        problems = [{"id": str(i), "language": "other"} | r for i, r in enumerate(part)]
        config = GRPOConfig(
            steps=steps, prompts=batch // job["samples"], samples=job["samples"], max_tokens=job["new_tokens"],
            optimizer=optimizer, schedule=schedule, rewards=(RewardPart("vowels", function=job["reward"] + ":vowels"),),
        )  # fmt: skip
        with Rewards(config.rewards, display.say) as rewards:
            started = time.perf_counter()
            history = train_grpo(model, tokenizer, problems, config, ctx, math.inf, rewards=rewards)
            return time.perf_counter() - started, history.tokens, 0.0

    work: Callable[[Transformer, list[dict[str, Any]], StageContext], Round] = {"sft": sft, "dpo": dpo, "grpo": grpo}[
        job["kind"]
    ]
    count = steps * batch // (job["samples"] if job["kind"] == "grpo" else 1)
    print(json.dumps({"ready": True}), flush=True)
    for _ in sys.stdin:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            (folder / "work").mkdir()
            ctx = StageContext(folder, folder / "work", {}, 1, 2, display, None, folder / "metrics.jsonl")
            model = load_model(job["model"])
            begin_adapter(model, lora, 1)
            seconds, tokens, loss = work(model, [rows[i % len(rows)] for i in range(count)], ctx)
        print(json.dumps({"seconds": seconds, "tokens": tokens, "loss": loss}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
