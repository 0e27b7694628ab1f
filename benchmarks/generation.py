"""Generation for rollouts: our engine against transformers' `generate`.

    .venv/bin/python benchmarks/generation.py --peer-python PYTHON_WITH_TRANSFORMERS [--recipe recipes/demo.yaml]

Same folder of weights, same prompts, batch 64, sequences of one length (which spares the peer the finished
sequences that it would go on padding), sampled at temperature 1 over the whole vocabulary, float32, 2 threads. The peer
runs with the experts implementation that turns out best here. Rounds alternate in one process tree; rounds with more
than 10 % of the CPU stolen are thrown away. Claim: at least 5 times the peer's tokens per second.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

from compare import Worker, alternate, describe, write_section

PEER = Path(__file__).parent / "peers" / "transformers_generation.py"
VARIANTS = ("eager", "grouped_mm", "batched_mm")


def work(folder: str, rows: int, prompt: int, new: int, threads: int) -> None:
    """Our side: each line on standard input is a round, answered with its seconds."""
    import torch

    from qwill.engine.generate import generate
    from qwill.engine.sampler import Sampling
    from qwill.model.files import load_model

    torch.set_num_threads(threads)
    model = load_model(folder)
    generator = torch.Generator().manual_seed(0)
    prompts = torch.randint(0, model.config.vocab_size, (rows, prompt), generator=generator).tolist()
    greedy = [c.token_ids for (c,) in generate(model, prompts, Sampling(6, temperature=0), slots=rows)]
    print(json.dumps({"ready": True, "greedy": greedy}), flush=True)
    for seed, _ in enumerate(sys.stdin):
        started = time.perf_counter()
        made = generate(model, prompts, Sampling(new), slots=rows, seed=seed)
        seconds = time.perf_counter() - started
        assert all(len(c.token_ids) == new for (c,) in made)
        print(json.dumps({"seconds": seconds}), flush=True)


def agreement(ours: list[list[int]], peer: list[list[int]]) -> float:
    """Share of sequences that are the same when chosen greedily: it is the same model on both sides."""
    return sum(a == b for a, b in zip(ours, peer, strict=True)) / len(ours)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer-python", required=False)
    parser.add_argument("--recipe", type=Path, default=Path("recipes/demo.yaml"))
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--prompt", type=int, default=48)
    parser.add_argument("--new", type=int, default=96)
    parser.add_argument("--dry", action="store_true", help="print, but leave RESULTS.md alone")
    parser.add_argument("--worker", nargs=5, metavar=("FOLDER", "ROWS", "PROMPT", "NEW", "THREADS"))
    arguments = parser.parse_args()
    if arguments.worker:
        folder, *numbers = arguments.worker
        work(folder, *map(int, numbers))
        return
    if not arguments.peer_python:
        parser.error("--peer-python is needed: a Python that has torch and transformers")
    import torch

    from qwill.model.config import ModelConfig
    from qwill.model.files import save_model
    from qwill.model.size import count_parameters
    from qwill.model.transformer import Transformer
    from qwill.workflow.recipe import load_recipe

    recipe = load_recipe(arguments.recipe)
    section, words = recipe.section("base"), recipe.section("tokenizer")
    assert section is not None and words is not None
    c = section.config
    config = ModelConfig.from_depth(c.depth, words.config.vocab_size, experts=c.experts, top_k=c.experts_per_token)
    model = Transformer(config)
    model.init_weights(torch.Generator().manual_seed(0))
    tokens = arguments.batch * arguments.new
    with tempfile.TemporaryDirectory() as folder:
        save_model(model, Path(folder))
        size = count_parameters(Path(folder) / "config.json")
        shape = [folder, *map(str, (arguments.batch, arguments.prompt, arguments.new, recipe.threads))]
        trial = {}
        for variant in VARIANTS:
            with Worker([arguments.peer_python, str(PEER), *shape, variant]) as peer:
                trial[variant] = tokens / peer.ask("go")["seconds"]
                print(f"peer, {variant}: {trial[variant]:.0f} tokens/s", flush=True)
        best = max(trial, key=lambda v: trial[v])
        ours = Worker([sys.executable, __file__, "--worker", *shape])
        with ours, Worker([arguments.peer_python, str(PEER), *shape, best]) as peer:
            same = agreement(ours.first["greedy"], peer.first["greedy"])
            assert same > 0.9, f"only {same:.0%} of the greedy beginnings agree: not the same model"
            rounds = alternate(ours, peer, arguments.rounds)
            peer_version = peer.first["version"]
    body = describe(
        rounds,
        f"{size.active / 1e6:.2f} M active of {size.total / 1e6:.2f} M parameters, {arguments.batch} prompts of "
        f"{arguments.prompt} tokens, {arguments.new} new tokens each, float32, against transformers {peer_version} "
        f"({best} experts; trials, tokens/s: {', '.join(f'{k} {v:.0f}' for k, v in trial.items())})",
        work=tokens, unit="tokens/s", claim=5,
    )  # fmt: skip
    print(body)
    if not arguments.dry:
        write_section("Generation for rollouts", body)


if __name__ == "__main__":
    main()
