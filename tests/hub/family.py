"""A family of sealed artifacts, to test what is said of it: tasks → corpus, dialogues → base → sft → int8."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors.numpy import save_file

from qwill.base.artifact import Manifest, recipe_id, seal
from qwill.base.files import write_json, write_jsonl

PACKAGE = {"name": "texts", "version": "1.2", "paths": ["a.txt"], "licence": "CC-BY", "source": ["a", "b"]}


def sealed(folder: Path, kind: str, inputs: dict[str, Path], metrics: dict[str, Any] | None = None) -> Manifest:
    """Seal `folder` as the stage of its own name."""
    from qwill.base.artifact import need_manifest

    asked: dict[str, Any] = {
        "stage": folder.name,
        "stage_version": 1,
        "config": {"size": 1},
        "seed": 7,
        "libraries": {"torch": "2.13.0"},
        "threads": 2,
        "dtype": "float32",
    }
    recipe = recipe_id(inputs={name: need_manifest(path).content_id for name, path in inputs.items()}, **asked)
    return seal(folder, kind=kind, recipe=recipe, inputs=inputs, metrics=metrics or {}, **asked)


def model(folder: Path, inputs: dict[str, Path], seed: int, metrics: dict[str, Any]) -> None:
    folder.mkdir()
    values = np.random.default_rng(seed).standard_normal((4, 3)).astype(np.float32)
    save_file({"a.weight": values, "b.weight": values[:2] * 2}, folder / "model.safetensors")
    config = {"model_type": "qwen3_moe", "num_hidden_layers": 4, "hidden_size": 64, "vocab_size": 8192}
    write_json(folder / "config.json", config | {"num_experts": 8, "num_experts_per_tok": 2})
    if folder.name == "int8":
        sides = {"bytes": 4000, "bits_per_byte": {"en": 2.0, "zh": 2.5}, "accuracy": {"en": 0.5, "zh": 0.25}}
        write_json(folder / "cost.json", {"original": sides, "quantized": sides | {"bytes": 1000}})
        write_json(folder / "run.json", {"tokens_per_second": {"original": 123.4, "quantized": 234.5}})
    sealed(folder, "model", inputs, metrics)


def make_family(runs: Path, package_sha256: str) -> Path:
    """Write the family into `runs/life`; returns that folder."""
    life = runs / "life"
    for name in ("tasks", "corpus", "dialogues"):
        (life / name).mkdir(parents=True)
    write_jsonl(life / "tasks/rl.jsonl", [{"id": "rl-1", "prompt": "1+1?", "answer": "2", "language": "en"}])
    write_jsonl(life / "tasks/demonstrations.jsonl", [{"id": "d-1", "prompt": "2+2?", "answer": "4"}])
    sealed(life / "tasks", "tasks", {})
    texts = [(n, f"text {n} 你好", "en" if n % 2 else "zh") for n in range(5)]
    rows = [{"id": f"doc-{n}", "text": text, "source": "a", "language": language} for n, text, language in texts]
    pq.write_table(pa.Table.from_pylist(rows), life / "corpus/train.parquet")
    pq.write_table(pa.Table.from_pylist(rows[:1]), life / "corpus/heldout.parquet")
    write_json(life / "corpus/sources.json", [PACKAGE | {"sha256": package_sha256}])
    sealed(life / "corpus", "corpus", {"tasks": life / "tasks"}, {"documents": 5})
    messages = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "hi there"}]
    write_jsonl(life / "dialogues/train.jsonl", [{"id": "talk-1", "source": "t", "messages": messages}])
    sealed(life / "dialogues", "dialogues", {"tasks": life / "tasks"})
    metrics = {"bits_per_byte": {"en": 2.345, "zh": 2.5}, "tokens": 1000}
    model(life / "base", {"corpus": life / "corpus"}, 1, metrics)
    model(life / "sft", {"base": life / "base", "dialogues": life / "dialogues"}, 2, {"loss": 1.5})
    model(life / "int8", {"sft": life / "sft"}, 3, {})
    return life
