"""What lm-eval says of made-up tasks with its `hf` model: prompts, log-likelihoods, is_greedy, replies and scores.

requirements: torch==2.13.0 lm-eval==0.4.13 transformers==5.23.0 accelerate==1.15.0 tokenizers pyyaml jinja2 safetensors
run: python tests/oracles/make_lm_eval_oracle.py   (writes lm_eval.json)

Each task file is written as one of lm-eval's by benchmarks/eval_lm_eval_tasks.py and rendered there.
"""

import json
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "benchmarks"), str(ROOT / "benchmarks" / "peers"), str(HERE)]
from lm_eval_hf import model_of, run, told  # noqa: E402  (first: it sets what Hugging Face's libraries read)

if __name__ == "__main__":
    import torch
    from eval_lm_eval_tasks import write_task
    from lm_eval.tasks import TaskManager
    from lm_eval_cases import TASKS, write_checkpoint, write_tasks

    from qwill.evaluate.task import load_examples, load_task

    torch.set_num_threads(1)
    packages = ("lm_eval", "transformers", "torch")
    out: dict = {"versions": {name: version(name) for name in packages}, "tasks": {}}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        model = str(write_checkpoint(folder / "model"))
        for name, path in write_tasks(folder).items():
            task = load_task(path)
            written = write_task(folder / "theirs", f"q_{name}", task, load_examples(task), task.shots.count)
            settings = {"model": model, "tasks": written, "chat": TASKS[name][2], "batch": 1, "limit": None}
            settings["softmax"] = "float64"
            manager = TaskManager(include_path=str(folder / "theirs"), include_defaults=False)
            found = told(run(model_of(settings), settings, manager, True))
            out["tasks"][name] = found[written[0]]
            if len(written) > 1:
                out["tasks"][name]["mass"] = found[written[1]]["scores"]["acc"]
    (HERE / "lm_eval.json").write_text(json.dumps(out, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
