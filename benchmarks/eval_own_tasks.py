"""Tasks of the box against the task files of the same benchmarks that lm-eval itself ships.

    .venv/bin/python benchmarks/eval_own_tasks.py --peer-python PYTHON_WITH_LM_EVAL [--limit 50]

eval_parity.py writes our task files as lm-eval's and so compares engines; this compares the files: lm-eval reads its
own (`include`), with our examples in the columns that it expects as its data set. Where data are on the Hugging Face
Hub they are made up (fake_hub.py). Replies are compared as they are: lm-eval's own scores of replies need what it
fetches from the Hub. Its stop texts are used, with our number of tokens. Shots are the first examples on both sides, of
the split that lm-eval names where our file names it too, else of the one that is asked, but never the question itself
(which lm-eval leaves out only of a test split; so it is told that it is one).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml
from compare import verdict, write_section
from eval_parity import HEAD, REPLY, Found, compared, line, peer_answers, same_text, write_checkpoint
from fake_hub import BOX, FakeHub

from qwill.engine.language_model import load
from qwill.evaluate.run_task import EvalSettings, evaluate
from qwill.evaluate.task import Task, load_examples, load_task

Row = Mapping[str, Any]
SPLITS = ("train", "validation", "test", "dev", "val")


def _lettered(row: Row) -> dict[str, Any]:
    letters = [chr(65 + i) for i in range(len(row["choices"]))]
    return {"choices": {"label": letters, "text": row["choices"]}, "answerKey": letters[row["label"]]}


@dataclass(frozen=True)
class Own:
    """lm-eval's file in its folder of tasks, and an example of ours in its columns; `says` what is known to differ."""

    file: str
    row: Callable[[Row], Row] = dict
    says: str = ""


OWN = {
    "aime": Own("aime/aime24.yaml"),
    "asdiv": Own("asdiv/default.yaml", says="the prompt only: there the likelihood of the answer counts"),
    "boolq": Own("super_glue/boolq/default.yaml"),
    "ceval": Own("ceval/ceval-valid_computer_network.yaml"),
    "cmmlu": Own("cmmlu/cmmlu_chinese_history.yaml"),
    "commonsense_qa": Own("commonsense_qa/default.yaml", lambda r: {"question": r["question"], **_lettered(r)}),
    "gsm8k": Own("gsm8k/gsm8k.yaml"),
    "hellaswag": Own("hellaswag/hellaswag.yaml"),
    "humaneval": Own("humaneval/humaneval.yaml"),
    "mmlu": Own(
        "mmlu/default/_default_template_yaml",
        lambda r: {"question": r["question"], "choices": r["choices"], "answer": r["label"]},
        "without the sentence about the subject",
    ),
    "openbookqa": Own(
        "openbookqa/openbookqa.yaml", lambda r: {"question_stem": r["question"].rstrip(), **_lettered(r)}
    ),
    "piqa": Own(
        "piqa/piqa.yaml",
        lambda r: {"goal": r["question"], "sol1": r["choices"][0], "sol2": r["choices"][1], "label": r["label"]},
    ),
    "truthfulqa_mc1": Own("truthfulqa/truthfulqa_mc1.yaml"),
    "truthfulqa_mc2": Own("truthfulqa/truthfulqa_mc2.yaml"),
}
NOT_COMPARED = (
    "Not compared: truthfulqa (lm-eval's truthfulqa_gen ends its prompt with the question, ours with a line `A:`), and "
    "the tasks that lm-eval does not have."
)


class _Plain(yaml.SafeLoader):
    """YAML whose `!function` is nothing."""


_Plain.add_multi_constructor("!", lambda loader, suffix, node: None)


def their_file(root: Path, own: Own) -> dict[str, Any]:
    """What lm-eval's file says, with what it includes, but for functions."""
    path = root / own.file
    settings = yaml.load(path.read_text(encoding="utf-8"), Loader=_Plain)  # a SafeLoader
    if "include" in settings:
        settings = their_file(root, Own(str(path.parent / settings.pop("include")))) | settings
    return dict(settings)


def write_own(folder: Path, root: Path, key: str, name: str, task: Task, limit: int, shots: int) -> None:
    """KEY.yaml, which includes lm-eval's own file and reads our examples."""
    folder.mkdir(parents=True, exist_ok=True)
    own, theirs = OWN[name], their_file(root, OWN[name])
    pools = {"own": load_examples(task)}
    if task.shots.source:
        pools["shots"] = load_examples(replace(task, source=task.shots.source))
    for pool, examples in pools.items():
        rows = [json.dumps(own.row(e.fields), ensure_ascii=False) + "\n" for e in examples]
        (folder / f"{key}_{pool}.jsonl").write_text("".join(rows), encoding="utf-8")
    files = {split: str((folder / f"{key}_own.jsonl").resolve()) for split in SPLITS}
    config: dict[str, Any] = {"include": str(root / own.file), "task": key}
    if task.kind == "generate":
        config = {n: theirs[n] for n in ("doc_to_text", "doc_to_target")}
        config |= {"task": key, "output_type": "generate_until"}
        known = theirs.get("generation_kwargs", {"until": list(task.generate.stop)})
        config["generation_kwargs"] = {"until": known["until"], "max_gen_toks": REPLY, "do_sample": False}
        config["metric_list"] = [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}]
    config |= {"validation_split": None, "test_split": "test", "fewshot_split": "test"}
    if "shots" in pools:
        config["fewshot_split"] = theirs["fewshot_split"]
        files[theirs["fewshot_split"]] = str((folder / f"{key}_shots.jsonl").resolve())
    config |= {
        "dataset_path": "json", "dataset_name": None, "dataset_kwargs": {"data_files": files}, "num_fewshot": shots,
        "fewshot_config": {"sampler": "first_n"},
    }  # fmt: skip
    (folder / f"{key}.yaml").write_text(yaml.safe_dump(config, allow_unicode=True, width=10**6), encoding="utf-8")


def run(arguments: argparse.Namespace, root: Path, chat: bool) -> list[Found]:
    settings = EvalSettings(limit=arguments.limit, first=True, chat=chat)
    with tempfile.TemporaryDirectory() as place:
        folder, asked = Path(place), {}
        for name in arguments.tasks or OWN:
            task = load_task(name)
            task = replace(task, generate=replace(task.generate, max_tokens=REPLY))
            for shots in sorted({task.shots.count, 0, *([2] if task.kind == "choice" else [])}):
                if shots and "mass" in task.metrics:
                    continue  # a shot with several right choices
                key = f"own_{name}_{shots}"
                write_own(folder / "tasks", root, key, name, task, arguments.limit, shots)
                asked[key] = task, shots
        texts = ["\n".join([e.prompt, *e.choices]) for task, _ in asked.values() for e in load_examples(task, 150, 0)]
        lm = load(write_checkpoint(folder / "model", texts))
        theirs = peer_answers(
            arguments.peer_python,
            {
                "folder": str(folder / "tasks"), "model": str(folder / "model"), "tasks": list(asked), "chat": chat,
                "batch": 16, "softmax": "float64", "limit": arguments.limit or None,
            },
            folder,
            arguments.threads,
        )  # fmt: skip
        found = []
        for key, (task, shots) in asked.items():
            ours = evaluate(lm, task, replace(settings, shots=shots), score=same_text)
            one = compared(task.name, shots, ours, theirs[key], theirs[key])
            one.scores.pop("exact_match", None)  # references differ
            one.made_up = "hub" in task.source
            found.append(one)
            print(line(one), flush=True)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer-python", required=True, help="a Python with lm-eval, torch and transformers")
    parser.add_argument("--tasks", nargs="*", default=[], choices=list(OWN), metavar="NAME")
    parser.add_argument("--limit", type=int, default=50, help="examples of each task; 0: all")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--dry", action="store_true", help="print, but leave RESULTS.md alone")
    arguments = parser.parse_args()
    where = "import lm_eval, os; print(os.path.dirname(lm_eval.__file__))"
    told = subprocess.run([arguments.peer_python, "-c", where], capture_output=True, text=True, check=True, cwd="/")
    root = Path(told.stdout.strip().splitlines()[-1]) / "tasks"
    parts, every = [], list[Found]()
    with FakeHub(BOX) as hub, tempfile.TemporaryDirectory() as cache:
        os.environ |= {"HF_ENDPOINT": hub.url, "HF_HOME": cache, "HF_HUB_OFFLINE": "0"}
        for chat in (False, True):
            found = run(arguments, root, chat)
            parts += ["In a chat:" if chat else "As plain text:", "", HEAD, *map(line, found), ""]
            every += found
    says = "; ".join(f"{name}: {own.says}" for name, own in OWN.items() if own.says)
    body = "\n".join([f"{(__doc__ or '').split(chr(10) * 2)[2]}\n\n{says}.\n", *parts, NOT_COMPARED, ""])
    body += "\n" + verdict("within 1e-4, same is_greedy, prompts, replies and scores", all(f.met for f in every))
    print(body)
    if not arguments.dry:
        write_section("qwill eval against lm-eval's own task files", body)
    return int(not all(f.met for f in every))


if __name__ == "__main__":
    sys.exit(main())
