"""Qwill's task files as task files of lm-eval: the same templates, rendered there by lm-eval itself."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import jinja2
import yaml
from jinja2 import meta

from qwill.evaluate.task import Example, Task


def templates(task: Task) -> list[str]:
    choices = [task.choices] if isinstance(task.choices, str) else task.choices
    return [t for t in (task.instruction, task.prompt, *choices, task.answer) if isinstance(t, str)]


def fields_needed(task: Task) -> set[str]:
    environment = jinja2.Environment()
    environment.filters |= {"regex_replace": str, "tojson": str}
    return set().union(*(meta.find_undeclared_variables(environment.parse(t)) for t in templates(task)))


def config_of(task: Task, data: Path, shots_data: Path | None, shots: int, metric: str | None) -> dict[str, Any]:
    """`metric`: one whose score lm-eval takes from a function (`mass`), alone; else the task's own that it knows."""
    files = {"test": str(data)} | ({"shots": str(shots_data)} if shots_data else {})
    config: dict[str, Any] = {
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": files},
        "test_split": "test",
        "fewshot_split": "shots" if shots_data else "test",
        "fewshot_config": {"sampler": "first_n"},
        "num_fewshot": shots,
        "description": task.instruction,
        "doc_to_text": task.prompt,
        "doc_to_target": task.answer,
        "target_delimiter": task.delimiter,
        "fewshot_delimiter": task.shots.separator,
    }
    if task.kind == "choice":
        choices = task.choices
        if not isinstance(choices, str):
            # lm-eval renders one template that gives a list, and leaves a list of templates as it is.
            parts = [f"{{% set choice_{i} %}}{choice}{{% endset %}}" for i, choice in enumerate(choices)]
            names = ", ".join(f"choice_{i}" for i in range(len(choices)))
            choices = "".join(parts) + "{{ [" + names + "] }}"
        known = [m for m in task.metrics if m != "mass"] or ["acc"]
        config |= {"output_type": "multiple_choice", "doc_to_choice": choices}
        config["metric_list"] = [{"metric": m, "aggregation": "mean", "higher_is_better": True} for m in known]
        if metric == "mass":
            config["process_results"] = "FUNCTION"
            config["metric_list"] = [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}]
    else:
        g = task.generate
        config |= {
            "output_type": "generate_until",
            "generation_kwargs": {"until": list(g.stop), "max_gen_toks": g.max_tokens, "do_sample": False},
            "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
        }
        if task.answer is None:
            config["doc_to_target"] = ""
    return config


def write_task(
    folder: Path, name: str, task: Task, examples: Iterable[Example], shots: int, shot_examples: Iterable[Example] = ()
) -> list[str]:
    """NAME.yaml with its data; for `mass` another one, NAME_mass. Returns the names."""
    folder.mkdir(parents=True, exist_ok=True)
    needed = fields_needed(task)
    shot_examples = list(shot_examples)

    def write(path: Path, given: Iterable[Example]) -> Path:
        rows = [
            {k: v for k, v in e.fields.items() if k in needed} | {"gold_": list(e.gold), "id_": e.id} for e in given
        ]
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
        return path

    data = write((folder / f"{name}.jsonl").resolve(), examples)
    shots_data = write((folder / f"{name}_shots.jsonl").resolve(), shot_examples) if shot_examples else None
    names = []
    for metric in [None, "mass"] if "mass" in task.metrics else [None]:
        full = name if metric is None else f"{name}_{metric}"
        config: Mapping[str, Any] = {"task": full} | config_of(task, data, shots_data, shots, metric)
        text = yaml.safe_dump(config, allow_unicode=True, sort_keys=False, width=10**6)
        (folder / f"{full}.yaml").write_text(text.replace("FUNCTION", "!function mc2.mass"), encoding="utf-8")
        names.append(full)
    # lm-eval's own MC2 (tasks/truthfulqa/utils.py), handed the labels in the form that it reads.
    (folder / "mc2.py").write_text(
        "from lm_eval.tasks.truthfulqa.utils import process_results_mc2\n\n\n"
        "def mass(doc, results):\n"
        "    labels = [int(i in doc['gold_']) for i in range(len(results))]\n"
        "    return process_results_mc2({'mc2_targets': {'labels': labels}}, results)\n",
        encoding="utf-8",
    )
    return names
