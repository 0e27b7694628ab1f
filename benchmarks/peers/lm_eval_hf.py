"""lm-eval with its `hf` model, float32, in an environment of its own: what it renders, scores and says for tasks.

    PYTHON_WITH_LM_EVAL lm_eval_hf.py answers SETTINGS.json     once: writes {"out"}
    PYTHON_WITH_LM_EVAL lm_eval_hf.py clock SETTINGS.json       a worker: one run of the tasks for each line it reads

SETTINGS: {"folder" of task YAMLs, "model", "tasks", "chat", "batch", "out"}.
Requirements: lm-eval==0.4.13 torch==2.13.0 transformers==5.23.0 accelerate==1.15.0
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
CACHE = tempfile.TemporaryDirectory()
os.environ["HF_DATASETS_CACHE"] = CACHE.name


def model_of(settings: dict[str, Any]) -> Any:
    from lm_eval.models.huggingface import HFLM

    # Softmax in double precision is an option of theirs; in single precision the sum of a long answer is rounded to
    # more than what is asked here.
    return HFLM(
        pretrained=settings["model"], dtype="float32", device="cpu", batch_size=settings["batch"],
        softmax_dtype=settings.get("softmax"), **({"enable_thinking": False} if settings["chat"] else {}),
    )  # fmt: skip


def run(model: Any, settings: dict[str, Any], manager: Any, samples: bool) -> Any:
    import lm_eval

    return lm_eval.simple_evaluate(
        model=model, tasks=settings["tasks"], task_manager=manager, log_samples=samples, bootstrap_iters=0,
        limit=settings["limit"], apply_chat_template=settings["chat"], fewshot_as_multiturn=settings["chat"],
    )  # fmt: skip


def told(found: Any) -> dict[str, Any]:
    """Of each task its scores, and of each document, in order, what was asked and what came."""
    answers = {}
    for task, samples in found["samples"].items():
        rows = []
        for sample in sorted(samples, key=lambda s: s["doc_id"]):
            asked = sample["arguments"]
            rows.append({
                "context": asked[0][0],
                "continuations": [a[1] for a in asked] if isinstance(asked[0][1], str) else [],
                "replies": [of_one[0] for of_one in sample["resps"]],
                "scores": {k: v for k, v in sample.items() if k in sample["metrics"] and isinstance(v, int | float)},
            })  # fmt: skip
        scores = {
            name.partition(",")[0]: value
            for name, value in found["results"][task].items()
            if isinstance(value, int | float) and "stderr" not in name and name != "sample_len"
        }
        answers[task] = {"scores": scores, "rows": rows}
    return answers


def main() -> None:
    from lm_eval.tasks import TaskManager

    settings = json.loads(Path(sys.argv[2]).read_text(encoding="utf-8"))
    manager = TaskManager(include_path=settings["folder"], include_defaults=False)
    model = model_of(settings)
    if sys.argv[1] == "answers":
        Path(settings["out"]).write_text(json.dumps(told(run(model, settings, manager, True))), encoding="utf-8")
        return
    print(json.dumps({"ready": True}), flush=True)
    for _ in sys.stdin:
        start = time.perf_counter()
        run(model, settings, manager, False)
        print(json.dumps({"seconds": time.perf_counter() - start}), flush=True)


if __name__ == "__main__":
    main()
