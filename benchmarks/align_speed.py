"""Fine-tuning and reinforcement learning: tokens per second of ours and of TRL, on the same model, data and settings.

    .venv/bin/python benchmarks/align_speed.py --peer-python PYTHON_WITH_TRL [--model small smollm2] [--kind sft grpo]

`small` is a Qwen3 of 5 M parameters with a vocabulary of 8,192, trained whole; `smollm2` is SmolLM2-135M with LoRA of
rank 16 on every matrix. Data: English and Chinese preference pairs of the package registry that fit into 512 tokens,
the same 8 examples in each step for both (a pair is one); SFT learns the chosen replies. GRPO samples 8 replies to each
prompt at temperature 1 and takes one step; its reward is a Python function, the same file for both. AdamW, float32,
2 threads.

Each as its user would run it here. TRL's defaults on a CPU are bfloat16 autocast and recomputed activations; both are
tried off, and the quicker setting is its own. It pads (without flash attention its packing mixes examples). DPO's
reference is a second model in TRL's step, and computed once before training in ours, in the same clock. What is timed
is training from the first step to the last, with sampling and rewards; loading, rendering, tokenising and saving are
not.

Claims: `small` SFT and DPO 2 times, GRPO 4 times; `smollm2` SFT and DPO 1.3 times, GRPO 3 times.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from compare import Worker, spread, take_turns, verdict, write_section

from qwill.align.replies import render_reply
from qwill.base.progress import Display
from qwill.base.stage import StageContext
from qwill.data.preference_sources import PreferenceChoice, PreferencesConfig
from qwill.data.preference_sources import run as make_preferences
from qwill.data.preferences import read_preferences
from qwill.model.config import ModelConfig
from qwill.text.chat import render
from qwill.text.tokenizer import Tokenizer

WORKER = Path(__file__).parent / "align_speed_worker.py"
PEER = Path(__file__).parent / "peers" / "trl_speed.py"
REWARD = Path(__file__).parent / "peers" / "speed_reward.py"
LONGEST, PROMPT = 512, 64
CLAIMS = {"small": {"sft": 2.0, "dpo": 2.0, "grpo": 4.0}, "smollm2": {"sft": 1.3, "dpo": 1.3, "grpo": 3.0}}
VARIANTS = ("", "recompute", "bf16", "bf16+recompute")


@dataclass
class Job:
    """What both sides are told. `steps` are those of a round; `batch` are examples, pairs or replies of a step."""

    kind: str
    model: str
    data: str
    work: str
    steps: int
    batch: int
    lora: int
    samples: int = 8
    new_tokens: int = 64
    threads: int = 2
    rate: float = 1e-5
    longest: int = LONGEST
    reward: str = str(REWARD)


def small_model(folder: Path, texts: list[str]) -> None:
    """A Qwen3 of 5 M parameters with random weights and a vocabulary of its own."""
    import torch

    from qwill.model.files import save_model
    from qwill.model.initial import init_weights
    from qwill.model.transformer import Transformer
    from qwill.text.train_tokenizer import train

    tokenizer = train(texts, 8192)
    model = Transformer(ModelConfig("qwen3", 8192, 256, 4, 4, 2, 64, 768, tie_word_embeddings=True))
    init_weights(model, torch.Generator().manual_seed(0))
    folder.mkdir()
    save_model(model, folder, tokenizer)


def write_rows(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return str(path)


def prepare(model: str, folder: Path) -> dict[str, Job]:
    """The model's folder and the data of every kind."""
    (folder / "work").mkdir()
    ctx = StageContext(folder, folder / "work", {}, 0, 2, Display(), None, folder / "metrics.jsonl")
    make_preferences(PreferencesConfig([PreferenceChoice("dpo_en"), PreferenceChoice("dpo_zh")]), ctx)
    pairs = list(read_preferences(folder))
    place = folder / "model"
    if model == "small":
        small_model(place, [json.dumps([p.prompt, p.chosen, p.rejected], ensure_ascii=False) for p in pairs])
    else:
        from qwill.engine.language_model import load
        from qwill.model.files import save_model

        start = load("smollm2")
        place.mkdir()
        save_model(start.model, place, start.tokenizer)
    tokenizer = Tokenizer.load(place)
    fitting = []
    for p in pairs:
        replies = [render_reply(p.prompt, said, tokenizer, where=p.where) for said in (p.chosen, p.rejected)]
        if max(reply.length for reply in replies) <= LONGEST:
            fitting.append(p)
    sft = [{"prompt": p.prompt, "completion": p.chosen} for p in fitting]
    dpo = [{"prompt": p.prompt, "chosen": p.chosen, "rejected": p.rejected} for p in fitting]
    known: set[str] = set()
    grpo = []
    for p in pairs:
        ids = render(p.prompt, tokenizer=tokenizer, thinking=False, generation_prompt=True).ids  # type: ignore[arg-type]
        if len(ids) <= PROMPT and str(p.prompt) not in known:
            known.add(str(p.prompt))
            grpo.append({"prompt": p.prompt})
    lora = 0 if model == "small" else 16
    sizes = {"sft": (12, 8), "dpo": (6, 8), "grpo": (2, 64)} if model == "small" else {
        "sft": (2, 8), "dpo": (1, 8), "grpo": (1, 64)
    }  # fmt: skip
    rows = {"sft": sft, "dpo": dpo, "grpo": grpo}
    return {
        kind: Job(kind, str(place), write_rows(folder / f"{kind}.jsonl", rows[kind]), str(folder), *sizes[kind], lora)
        for kind in sizes
    }


def compare(job: Job, model: str, python: str, rounds: int) -> tuple[str, bool]:
    """One line of the table, and whether the claim is met."""
    told = Path(job.work) / f"{job.kind}.json"
    told.write_text(json.dumps(asdict(job)))
    trial: dict[str, float] = {}
    for variant in VARIANTS:
        with Worker([python, str(PEER), str(told), variant]) as peer:
            done = peer.ask("go")
            trial[variant or "float32"] = done["tokens"] / done["seconds"]
        print(
            f"{model} {job.kind}, TRL, {variant or 'float32'}: {trial[variant or 'float32']:.0f} tokens/s", flush=True
        )
    best = max(trial, key=lambda v: trial[v])
    with ExitStack() as stack:
        ours = stack.enter_context(Worker([sys.executable, str(WORKER), str(told)]))
        peer = stack.enter_context(Worker([python, str(PEER), str(told), "" if best == "float32" else best]))
        first = [worker.ask("go") for worker in (ours, peer)]  # warms both up, and says what they did
        seconds, stolen, dropped = take_turns({"ours": ours, "peer": peer}, rounds)
    if job.kind != "grpo":
        # TRL also trains on the empty thinking block and on the line break behind the end token, which our model is
        # never asked for: a few tokens an example. The examples are the same, so both rates count ours.
        assert first[0]["tokens"] <= first[1]["tokens"] <= 1.1 * first[0]["tokens"], ("trained tokens differ", first)
        # A trained model is sure of them, so TRL's mean may be lower by as much as their share.
        more = 1 - first[0]["tokens"] / first[1]["tokens"] if job.kind == "sft" else 0.0
        first[1]["tokens"] = first[0]["tokens"]
        low, high = first[0]["loss"] * (1 - more), first[0]["loss"]
        assert (1 - 2e-3) * low < first[1]["loss"] < (1 + 2e-3) * high, ("losses differ", first)
    speeds = [one["tokens"] / statistics.median(seconds[name]) for one, name in zip(first, seconds, strict=True)]
    # Replies may end early: each side's rate counts its own tokens.
    scale = first[0]["tokens"] / first[1]["tokens"]
    ratios = [scale * p / o for o, p in zip(seconds["ours"], seconds["peer"], strict=True)]
    claim = CLAIMS[model][job.kind]
    met = statistics.median(ratios) >= claim
    unit = "generated" if job.kind == "grpo" else "trained"
    tried = ", ".join(f"{k} {v:.0f}" for k, v in trial.items())
    losses = "" if job.kind == "grpo" else f" First loss {first[0]['loss']:.5f}, TRL's {first[1]['loss']:.5f}."
    line = (
        f"- {model}, {job.kind}: ours {speeds[0]:.0f}, TRL {speeds[1]:.0f} {unit} tokens/s: {spread(ratios)}; "
        f"{dropped} rounds dropped, at most {100 * stolen:.1f} % stolen. TRL's settings: {tried}.{losses} "
        + verdict(f"{claim}×", met)
    )
    print(line, flush=True)
    return line, met


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer-python", required=True)
    parser.add_argument("--model", nargs="+", choices=list(CLAIMS), default=list(CLAIMS))
    parser.add_argument("--kind", nargs="+", choices=["sft", "dpo", "grpo"], default=["sft", "dpo", "grpo"])
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--dry", action="store_true", help="print, and leave RESULTS.md as it is")
    arguments = parser.parse_args()
    for model in arguments.model:
        folder = Path(tempfile.mkdtemp())
        jobs = prepare(model, folder)
        lines = [compare(jobs[kind], model, arguments.peer_python, arguments.rounds)[0] for kind in arguments.kind]
        shutil.rmtree(folder)
        if not arguments.dry:
            title = f"Alignment against TRL: {model}"
            write_section(
                title, "\n".join([*lines, "", "TRL 1.16.0, transformers 5.24.0 (`benchmarks/align_speed.py`)."])
            )


if __name__ == "__main__":
    main()
