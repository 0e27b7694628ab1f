"""`qwill eval` against lm-eval with its `hf` model: the same checkpoint, every task in the box.

    .venv/bin/python benchmarks/eval_parity.py --peer-python PYTHON_WITH_LM_EVAL [--tasks a b] [--limit 200] [--speed]

Every task file is written as one of lm-eval's (eval_lm_eval_tasks.py), which lm-eval renders itself: choices, few-shot
examples, instruction. The checkpoint is a small Qwen3 of random weights with wide logits and a vocabulary trained on
the tasks' own texts. Claims: every log-likelihood within 1e-4, the same `is_greedy`, the same prompts, replies and
scores, those of the task's own scorer on both sides' replies among them. Tasks whose data are on the Hugging Face Hub
are asked with made-up rows in the same columns (fake_hub.py), or with `--real-hub` as they are. reasoning_gym needs the
package. With `--speed` also the time for four tasks with a real model (SmolLM2-135M), in turns.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from compare import Worker, alternate, spread, verdict, write_section
from eval_lm_eval_tasks import write_task
from fake_hub import BOX as MADE_UP
from fake_hub import FakeHub
from lm_eval_parity import folder_of
from serve_models import config_of

from qwill.base.errors import ConfigError, SourceError
from qwill.engine.language_model import LanguageModel, load
from qwill.evaluate.prompting import Shots, prompt_ids, prompt_of, solution
from qwill.evaluate.run_replies import answer_of
from qwill.evaluate.run_task import EvalSettings, Evaluation, evaluate
from qwill.evaluate.scorers import scorer_of
from qwill.evaluate.task import Example, Score, Task, box_names, load_examples, load_task

PEER = Path(__file__).parent / "peers" / "lm_eval_hf.py"
CLOSE = 1e-4
TIE = 1e-5  # between the two likeliest tokens' logits; a log-likelihood is rounded to more
VOCABULARY, CONTEXT = 4096, 4096
REPLY = 24  # tokens of a reply: a random model says nothing that is worth more


@dataclass
class Found:
    """What two runs of one task have in common."""

    name: str
    shots: int
    examples: int
    available: int = 0
    made_up: bool = False
    likelihoods: int = 0
    largest: float = 0.0
    scale: float = 0.0
    greedy: int = 0
    greedy_differs: int = 0
    prompts_differ: int = 0
    replies: int = 0
    replies_differ: int = 0
    ties: int = 0
    others: list[tuple[str, str]] = field(default_factory=list)
    scores: dict[str, tuple[float, float]] = field(default_factory=dict)

    @property
    def met(self) -> bool:
        # Probabilities carry the log-likelihoods' last bits; the others are counts.
        near = all(abs(a - b) <= (CLOSE if "mass" in k else 1e-12) for k, (a, b) in self.scores.items())
        return (
            near and self.largest <= CLOSE and not (self.greedy_differs or self.prompts_differ or self.replies_differ)
        )


def write_checkpoint(folder: Path, texts: list[str], seed: int = 0) -> Path:
    """As serve_models.write_random: norms away from 1 and wide logits, here behind a vocabulary of words."""
    from qwill.model.files import save_model
    from qwill.model.transformer import Transformer
    from qwill.text.train_tokenizer import train

    tokenizer = train(texts, VOCABULARY)
    model = Transformer(config_of(tokenizer, 64, 2, CONTEXT)).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "norm" in name:
                p.copy_(0.5 + torch.rand(p.shape, generator=generator))
            else:
                p.copy_(torch.randn(p.shape, generator=generator) * p.shape[-1] ** -0.5)
        model.embed_tokens.weight.mul_(8)
        assert model.lm_head is not None
        model.lm_head.weight.mul_(3)
    save_model(model, folder, tokenizer, generation_config={"temperature": 0.0, "eos_token_id": [*tokenizer.stop_ids]})
    return folder


def same_text(example: Example, reply: str) -> Score:
    """lm-eval's exact_match; what our own scorers make of a reply is theirs alone to test."""
    answer = example.answer
    return Score(
        float(reply in (answer if isinstance(answer, list) else [solution(example) if answer is not None else ""]))
    )


def tasks_of(names: list[str], shots: list[int]) -> Iterator[tuple[Task, int]]:
    """Each task as it is, and with so many shots where it can have them: where it says what a right reply is."""
    for name in names:
        task = load_task(name)
        task = replace(task, generate=replace(task.generate, max_tokens=REPLY, temperature=0.0), tools="")
        solved = task.kind == "choice" or (task.answer is not None and task.scorer != "calls")
        for count in sorted({task.shots.count, *(shots if solved else ())}):
            yield task, count


def peer_answers(python: str, settings: dict[str, Any], place: Path, threads: int) -> dict[str, Any]:
    settings = settings | {"out": str(place / "answers.json")}
    (place / "settings.json").write_text(json.dumps(settings), encoding="utf-8")
    done = subprocess.run(
        [python, str(PEER), "answers", str(place / "settings.json")], capture_output=True, text=True,
        cwd=tempfile.gettempdir(), env=_environment(threads),
    )  # fmt: skip
    if done.returncode:
        raise SystemExit(f"lm-eval ended with {done.returncode}:\n{done.stderr[-3000:]}")
    return dict(json.loads(Path(settings["out"]).read_text(encoding="utf-8")))


def _environment(threads: int) -> dict[str, str]:
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    environment.pop("PYTHONPATH", None)
    return environment


def own_scores(task: Task, examples: Sequence[Example], sides: Sequence[Sequence[str]]) -> list[float]:
    """The mean score of each side's replies by the task's own scorer, in the sandbox where it is code."""
    score = scorer_of(task)
    means = []
    known: dict[tuple[int, str], float] = {}
    for replies in sides:
        for number, reply in enumerate(replies):
            if (number, reply) not in known:
                known[number, reply] = score(examples[number], reply).value
        means.append(statistics.fmean(known[number, reply] for number, reply in enumerate(replies)))
    return means


def at_a_tie(lm: LanguageModel, ids: list[int], wanted: str, task: Task, chat: bool) -> bool:
    """Whether `wanted` is what our model says when, somewhere, it takes the second likeliest token although the
    likeliest is ahead by less than TIE: rounding alone decides there, and each batch size rounds otherwise."""
    paths: list[list[int]] = [[]]
    while paths:
        made = paths.pop()
        while len(made) < REPLY and not (made and made[-1] in lm.stop_ids):
            with torch.no_grad():
                top = lm.model.logits(torch.tensor([[*ids, *made]]))[0, -1].topk(2)
            first, second = top.indices.tolist()
            if float(top.values[0] - top.values[1]) < TIE:
                paths.append([*made, second])
            made = [*made, first]
        made = made[:-1] if made[-1] in lm.stop_ids else made
        if answer_of(lm.tokenizer.decode(made), task.generate.stop, False, chat)[0] == wanted:
            return True
    return False


def settle(lm: LanguageModel, found: Found, task: Task, shots: int, chat: bool) -> None:
    """Counts the replies that differ at a tie apart from the others."""
    examples = load_examples(task)
    before = Shots(task, shots, examples)
    named = {example.id: example for example in examples}
    for name, theirs in found.others:
        prompt = prompt_of(lm, task, before.before(named[name]), named[name], chat, False)
        found.ties += at_a_tie(lm, prompt_ids(lm.tokenizer, prompt), theirs, task, chat)
    found.replies_differ -= found.ties


def compared(name: str, shots: int, ours: Evaluation, theirs: dict[str, Any], mass: dict[str, Any] | None) -> Found:
    found = Found(name, shots, len(ours.rows), ours.available)
    assert len(ours.rows) == len(theirs["rows"]), name
    for a, b in zip(ours.rows, theirs["rows"], strict=True):
        found.prompts_differ += a.get("asked", a["prompt"]) != b["context"]
        if "logprobs" in a:
            for value, greedy, (peer, peer_greedy) in zip(a["logprobs"], a["greedy"], b["replies"], strict=True):
                found.likelihoods += 1
                found.largest = max(found.largest, abs(value - peer))
                found.scale = max(found.scale, abs(peer))
                found.greedy += peer_greedy
                found.greedy_differs += greedy != peer_greedy
        else:
            found.replies += 1
            if a["replies"][0]["text"] != b["replies"][0]:
                found.replies_differ += 1
                found.others.append((a["id"], b["replies"][0]))
                print(f"{name}, {a['id']}: ours {a['replies'][0]!r}, theirs {b['replies'][0]!r}", flush=True)
    for metric in ours.metrics:
        if metric == "mass":
            assert mass is not None
            found.scores["mass"] = ours.mean(metric), mass["scores"]["acc"]
        elif metric in theirs["scores"]:
            found.scores[metric] = ours.mean(metric), theirs["scores"][metric]
        elif metric == "score" and all(_text_or_texts(row["answer"]) for row in ours.rows):
            found.scores["exact_match"] = ours.mean(metric), theirs["scores"]["exact_match"]
    return found


def _text_or_texts(answer: Any) -> bool:
    """Whether lm-eval's exact_match is meant for such a reference."""
    if isinstance(answer, list):
        return bool(answer) and all(isinstance(one, str) for one in answer)
    return isinstance(answer, str | None)


def line(f: Found) -> str:
    scores = ", ".join(f"{k} {a:.6g}" + ("" if a == b else f" (theirs {b:.6g})") for k, (a, b) in f.scores.items())
    likelihoods = (
        f"{f.likelihoods} | {f.largest:.1e} (of {f.scale:.0f}) | {f.greedy_differs}" if f.likelihoods else "| |"
    )
    replies = f"{f.replies_differ} of {f.replies}" if f.replies else ""
    replies += f", {f.ties} more at a tie" if f.ties else ""
    examples = f"{f.examples} of {f.available}" + (", made up" if f.made_up else "")
    return f"| {f.name} | {f.shots} | {examples} | {likelihoods} | {f.prompts_differ} | {replies} | {scores} |"


HEAD = (
    "| task | shots | examples | log-likelihoods | largest difference | is_greedy differs | prompts differ | "
    "replies differ | scores |\n|---|---|---|---|---|---|---|---|---|"
)


def run(arguments: argparse.Namespace, chat: bool, left_out: dict[str, str]) -> list[Found]:
    settings = EvalSettings(limit=arguments.limit, first=True, chat=chat)
    names, found = arguments.tasks or box_names(), list[Found]()
    if arguments.kind:
        names = [name for name in names if load_task(name).kind == arguments.kind]
    with tempfile.TemporaryDirectory() as place:
        folder, asked = Path(place), {}
        for task, shots in tasks_of(names, arguments.shots):
            if task.chat and not chat:
                continue
            try:
                examples = load_examples(task)
                shot_examples = (
                    load_examples(replace(task, source=task.shots.source), shots) if shots and task.shots.source else []
                )
            except (SourceError, ConfigError) as error:
                left_out[task.name] = str(error)
                print(f"left out: {task.name}: {error}", flush=True)
                continue
            if shots and any(len(e.gold) > 1 for e in examples):
                continue  # lm-eval has no form for a shot with several right choices
            if shots and task.kind == "generate" and not all(_text_or_texts(e.answer) for e in examples):
                continue
            key = f"q_{task.name}_{shots}"
            asked[key] = task, shots, write_task(folder / "tasks", key, task, examples, shots, shot_examples)
        texts = ["\n".join([e.prompt, *e.choices]) for task, *_ in asked.values() for e in load_examples(task, 150, 0)]
        checkpoint = write_checkpoint(folder / "model", texts)
        lm = load(checkpoint)
        every = [name for *_, written in asked.values() for name in written]
        theirs = peer_answers(
            arguments.peer_python,
            {
                "folder": str(folder / "tasks"), "model": str(checkpoint), "tasks": every, "chat": chat, "batch": 16,
                "softmax": arguments.softmax, "limit": arguments.limit or None,
            },
            folder,
            arguments.threads,
        )  # fmt: skip
        for key, (task, shots, written) in asked.items():
            ours = evaluate(lm, task, replace(settings, shots=shots), score=same_text)
            mass = theirs[written[1]] if len(written) > 1 else None
            one = compared(task.name, shots, ours, theirs[key], mass)
            one.made_up = "hub" in task.source and not arguments.real_hub
            if task.kind == "generate":
                settle(lm, one, task, shots, chat)
                sides = [[r["replies"][0]["text"] for r in ours.rows], [r["replies"][0] for r in theirs[key]["rows"]]]
                mine, peer = own_scores(task, load_examples(task, len(ours.rows)), sides)
                one.scores[f"{task.scorer} (its own)"] = mine, peer
            found.append(one)
            print(line(one), flush=True)
    return found


class Ours:
    """The other worker: our side of the clock, in a process of its own."""

    @staticmethod
    def serve(model: str, names: list[str], limit: int) -> None:
        lm = load(model)
        print(json.dumps({"ready": True}), flush=True)
        for _ in sys.stdin:
            start = time.perf_counter()
            for name in names:
                evaluate(lm, load_task(name), EvalSettings(limit=limit, first=True, shots=0))
            print(json.dumps({"seconds": time.perf_counter() - start}), flush=True)


def speed(arguments: argparse.Namespace) -> str:
    """Time for the same questions of four tasks, each side with its model loaded; theirs at its quickest batch size."""
    names, limit = arguments.speed_tasks, arguments.speed_limit
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        model = folder_of("smollm2", folder)
        tasks = []
        for task in map(load_task, names):
            tasks += write_task(folder / "tasks", f"q_{task.name}", task, load_examples(task), 0)[:1]
        lines = []
        for batch in arguments.speed_batches:
            settings = {
                "folder": str(folder / "tasks"), "model": str(model), "tasks": tasks,
                "chat": False, "batch": batch, "limit": limit,
            }  # fmt: skip
            (folder / "settings.json").write_text(json.dumps(settings), encoding="utf-8")
            own = [sys.executable, __file__, "--serve", str(model), str(limit), *names]
            peer = [arguments.peer_python, str(PEER), "clock", str(folder / "settings.json")]
            os.environ["OMP_NUM_THREADS"] = str(arguments.threads)
            with Worker(own) as ours, Worker(peer) as theirs:
                rounds = alternate(ours, theirs, arguments.rounds)
            seconds = statistics.median(rounds.ours), statistics.median(rounds.peer)
            lines.append(
                f"| {batch} | {seconds[0]:.1f} s | {seconds[1]:.1f} s | {spread(rounds.ratios)} | {rounds.dropped} |"
            )
            print(lines[-1], flush=True)
    asked = (
        f"{limit} questions each of {', '.join(names)}, no shots, SmolLM2-135M in float32, {arguments.threads} threads."
    )
    return "\n".join(
        [
            asked,
            "",
            "| batch of lm-eval | ours | lm-eval hf | ratio | rounds dropped |",
            "|---|---|---|---|---|",
            *lines,
        ]
    )


def summary(found: Sequence[Found]) -> str:
    made_up = sorted({f.name for f in found if f.made_up})
    says = (
        f"{len({f.name for f in found})} tasks, {sum(f.examples for f in found):,} prompts, "
        f"{sum(f.likelihoods for f in found):,} log-likelihoods (largest difference "
        f"{max((f.largest for f in found), default=0):.1e}; {sum(f.greedy for f in found):,} choices are greedy), "
        f"{sum(f.replies for f in found):,} replies of at most {REPLY} tokens ({sum(f.ties for f in found)} differ at "
        f"a tie: the two likeliest tokens within {TIE:g}). Examples: the first so many of all that a task has. "
        "Shots: the first examples of its source; tasks that say no right reply have none. Tools are not told, for "
        "lm-eval has no place for them."
    )
    if made_up:
        says += (
            f" Their data are on the Hugging Face Hub, out of reach here, and rows made up in the same columns stand "
            f"for them ({len(made_up)} tasks): {', '.join(made_up)}."
        )
    return says


def main() -> int:
    if sys.argv[1:2] == ["--serve"]:
        Ours.serve(sys.argv[2], sys.argv[4:], int(sys.argv[3]))
        return 0
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer-python", required=True, help="a Python with lm-eval, torch and transformers")
    parser.add_argument("--tasks", nargs="*", default=[], help="names in the box or YAML files; none: the whole box")
    parser.add_argument("--kind", choices=["choice", "generate"], help="only such tasks, in a section of their own")
    parser.add_argument("--limit", type=int, default=0, help="examples of each task; 0: all")
    parser.add_argument("--shots", type=int, nargs="*", default=[2], help="choice tasks are also asked with so many")
    parser.add_argument("--softmax", default="float64", help="lm-eval's softmax_dtype")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--real-hub", action="store_true", help="Hub data sets as they are, not made-up rows")
    parser.add_argument("--speed", action="store_true")
    parser.add_argument("--speed-tasks", nargs="*", default=["openbookqa", "piqa", "commonsenseqa", "hellaswag"])
    parser.add_argument("--speed-limit", type=int, default=25)
    parser.add_argument("--speed-batches", type=int, nargs="*", default=[1, 16])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--dry", action="store_true", help="print, but leave RESULTS.md alone")
    arguments = parser.parse_args()
    if arguments.speed:
        body = speed(arguments)
        if not arguments.dry:
            write_section("qwill eval against lm-eval hf: time", body)
        return 0
    parts, every, left_out = [], list[Found](), dict[str, str]()
    with FakeHub(MADE_UP) as hub, tempfile.TemporaryDirectory() as cache:
        if not arguments.real_hub:
            assert "huggingface_hub" not in sys.modules, "it reads these when it is imported"
            os.environ |= {"HF_ENDPOINT": hub.url, "HF_HOME": cache, "HF_HUB_OFFLINE": "0"}
        for chat in (False, True):
            found = run(arguments, chat, left_out)
            parts += ["In a chat:" if chat else "As plain text:", "", HEAD, *map(line, found), ""]
            every += found
    body = "\n".join([summary(every), "", *parts])
    body += "".join(f"Left out: {name}: {why}\n\n" for name, why in left_out.items())
    met = all(f.met for f in every) and not left_out
    body += verdict("within 1e-4, same is_greedy, prompts, replies and scores", met)
    print(body)
    if not arguments.dry:
        title = {"choice": ": choices", "generate": ": replies", None: ""}[arguments.kind]
        write_section(f"qwill eval against lm-eval hf{title}", body)
    return int(not met)


if __name__ == "__main__":
    sys.exit(main())
