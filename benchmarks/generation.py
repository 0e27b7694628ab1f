"""Generation for rollouts: our engine against transformers' `generate`.

    .venv/bin/python benchmarks/generation.py --peer-python PYTHON_WITH_TRANSFORMERS [--recipe recipes/demo.yaml]

Same folder of weights, same prompts, batch 64, sampled at temperature 1 over the whole vocabulary, float32, 2 threads.
The peer runs with the experts implementation that turns out best here. Two settings:

- rollouts, as the recipe's GRPO asks for them: several replies to each prompt, each ending at a stop token (any of a
  set that is drawn with the chance 1 / --length), more replies than the batch holds. Tokens up to the stop count.
- equal lengths: one reply to each of 64 prompts and nothing to stop at, so that the peer wastes no step.

Rounds alternate in one process tree; rounds with more than 10 % of the CPU stolen are thrown away. Claim: at least 5
times the peer's tokens per second in rollouts; equal lengths are reported beside it.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from compare import Rounds, Worker, alternate, describe, write_section

PEER = Path(__file__).parent / "peers" / "transformers_generation.py"
VARIANTS = ("eager", "grouped_mm")  # batched_mm copies the chosen experts for every token: 50 times slower here


def work(job: dict[str, Any]) -> None:
    """Our side: each line on standard input is a round, answered with its seconds."""
    import torch

    from qwill.engine.generate import generate
    from qwill.engine.sampler import Sampling
    from qwill.model.files import load_model

    torch.set_num_threads(job["threads"])
    model, prompts = load_model(job["folder"]), job["prompts"]
    greedy = [c.token_ids for (c,) in generate(model, prompts, Sampling(6, temperature=0), slots=job["batch"])]
    print(json.dumps({"ready": True, "greedy": greedy}), flush=True)
    for seed, _ in enumerate(sys.stdin):
        started = time.perf_counter()
        settings = {"n": job["samples"], "slots": job["batch"], "stop_ids": job["stop"], "seed": seed}
        made = generate(model, prompts, Sampling(job["most"]), **settings)
        seconds = time.perf_counter() - started
        tokens = sum(len(c.token_ids) for group in made for c in group)
        print(json.dumps({"seconds": seconds * job["tokens"] / tokens, "tokens": tokens}), flush=True)


def agreement(ours: list[list[int]], peer: list[list[int]]) -> float:
    """Share of sequences that are the same when chosen greedily: it is the same model on both sides."""
    return sum(a == b for a, b in zip(ours, peer, strict=True)) / len(ours)


def compare(job: dict[str, Any], peer_python: str, rounds: int) -> tuple[Rounds, str]:
    """Alternating rounds against the peer's best variant, and a note on the peer."""
    trial = {}
    for variant in VARIANTS:
        with Worker([peer_python, str(PEER), json.dumps(job), variant]) as peer:
            trial[variant] = job["tokens"] / peer.ask("go")["seconds"]
            print(f"peer, {variant}: {trial[variant]:.0f} tokens/s", flush=True)
    best = max(trial, key=lambda v: trial[v])
    ours = Worker([sys.executable, __file__, "--worker", json.dumps(job)])
    with ours, Worker([peer_python, str(PEER), json.dumps(job), best]) as peer:
        same = agreement(ours.first["greedy"], peer.first["greedy"])
        assert same > 0.9, f"only {same:.0%} of the greedy beginnings agree: not the same model"
        trials = ", ".join(f"{k} {v:.0f}" for k, v in trial.items())
        note = f"transformers {peer.first['version']}, {best} experts (trials, tokens/s: {trials})"
        return alternate(ours, peer, rounds), note


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer-python", required=False)
    parser.add_argument("--recipe", type=Path, default=Path("recipes/demo.yaml"))
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--prompt", type=int, default=48, help="tokens of a prompt")
    parser.add_argument("--most", type=int, help="tokens at which a reply is cut off; as in the recipe's GRPO")
    parser.add_argument("--length", type=int, help="mean tokens of a rollout, were it not cut off; half of --most")
    parser.add_argument("--equal", type=int, default=96, help="tokens of a reply when all are equally long")
    parser.add_argument("--dry", action="store_true", help="print, but leave RESULTS.md alone")
    parser.add_argument("--worker", metavar="JOB")
    arguments = parser.parse_args()
    if arguments.worker:
        work(json.loads(arguments.worker))
        return
    if not arguments.peer_python:
        parser.error("--peer-python is needed: a Python that has torch and transformers")
    import torch

    from qwill.model.config import ModelConfig
    from qwill.model.files import save_model
    from qwill.model.initial import init_weights
    from qwill.model.size import count_parameters
    from qwill.model.transformer import Transformer
    from qwill.workflow.recipe import load_recipe

    recipe, batch = load_recipe(arguments.recipe), arguments.batch
    base, words, aligned = (recipe.section(name) for name in ("base", "tokenizer", "aligned"))
    assert base is not None and words is not None and aligned is not None
    c, vocab, samples = base.config, words.config.vocab_size, aligned.config.samples
    most = arguments.most or aligned.config.max_tokens
    length = arguments.length or most // 2
    model = Transformer(ModelConfig.from_depth(c.depth, vocab, experts=c.experts, top_k=c.experts_per_token))
    generator = torch.Generator().manual_seed(0)
    init_weights(model, generator)
    replies = 2 * batch  # so that finished places are filled again, as in a training step
    prompts = torch.randint(0, vocab, (batch, arguments.prompt), generator=generator).tolist()
    with tempfile.TemporaryDirectory() as folder:
        save_model(model, Path(folder))
        size = count_parameters(Path(folder) / "config.json")
        same = {"folder": folder, "batch": batch, "threads": recipe.threads}
        # An untrained model draws every token about equally often.
        stop = torch.randperm(vocab, generator=generator)[: vocab // length].tolist()
        rollouts = same | {
            "prompts": prompts[: replies // samples], "samples": samples, "stop": stop, "most": most,
            "tokens": replies * length,
        }  # fmt: skip
        equal = same | {"prompts": prompts, "samples": 1, "stop": [], "most": arguments.equal}
        equal["tokens"] = batch * arguments.equal
        rounds, note = compare(rollouts, arguments.peer_python, arguments.rounds)
        beside, beside_note = compare(equal, arguments.peer_python, arguments.rounds)
    body = describe(
        rounds,
        f"{size.active / 1e6:.2f} M active of {size.total / 1e6:.2f} M parameters, {samples} replies to each of "
        f"{replies // samples} prompts of {arguments.prompt} tokens, stopping after {length} tokens on average and "
        f"{most} at most, batch {batch}, float32, against {note}",
        work=rollouts["tokens"], unit="tokens/s", claim=5,
    )  # fmt: skip
    ours, peer = (equal["tokens"] / statistics.median(s) for s in (beside.ours, beside.peer))
    middle, spread = statistics.median(beside.ratios), (min(beside.ratios), max(beside.ratios))
    body += (
        f"\n\nEqual lengths ({batch} prompts, {arguments.equal} tokens each, nothing to stop at), against "
        f"{beside_note}: ours {ours:.0f} tokens/s, peer {peer:.0f}: {middle:.2f}× ({spread[0]:.2f} to {spread[1]:.2f})."
    )
    print(body)
    if not arguments.dry:
        write_section("Generation for rollouts", body)


if __name__ == "__main__":
    main()
