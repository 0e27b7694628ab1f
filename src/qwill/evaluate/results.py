"""The stage `results`: every model answers the same held-out problems; every reply is kept and scored."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qwill.base.errors import ConfigError, DataError
from qwill.base.files import read_jsonl, write_json, write_jsonl
from qwill.base.stage import StageContext
from qwill.evaluate.task_data import load_rows
from qwill.evaluate.tasks import LANGUAGES, verify

if TYPE_CHECKING:
    from qwill.engine.sampler import Sampling
    from qwill.model.transformer import Transformer
    from qwill.text.tokenizer import Tokenizer


def _conversation_prompts() -> dict[str, list[str]]:
    return {
        "en": ["Hello! Who are you?", "What is the capital of France?", "Give me three tips for staying healthy."],
        "zh": ["你好！你是谁？", "中国的首都是哪里？", "请给我三条保持健康的建议。"],
    }


@dataclass(frozen=True)
class ResultsConfig:
    """`problems` (greedy) and `sampled_problems` (n = `samples`) are for each language; 0 problems means all."""

    models: list[str] = field(default_factory=lambda: ["base", "sft", "aligned", "int8"])
    problems: int = 0
    sampled_problems: int = 200
    samples: int = 16
    temperature: float = 1.0
    max_tokens: int = 48
    conversation_tokens: int = 96
    slots: int = 64
    heldout_documents: int = 100
    window: int = 256
    alpha: float = 0.01
    conversations: dict[str, list[str]] = field(default_factory=_conversation_prompts)


def reply_to(
    model: Transformer,
    tokenizer: Tokenizer,
    prompts: Sequence[str],
    sampling: Sampling,
    n: int = 1,
    slots: int = 64,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> list[list[str]]:
    """`n` replies to each prompt, asked as a user's first message without thinking; special tokens are left out."""
    from qwill.engine.generate import generate
    from qwill.text.chat import render

    rendered = [
        render([{"role": "user", "content": prompt}], thinking=False, generation_prompt=True, tokenizer=tokenizer).ids
        for prompt in prompts
    ]
    completions = generate(
        model,
        rendered,
        sampling,
        n=n,
        slots=slots,
        stop_ids=tokenizer.stop_ids,
        seed=seed,
        vocab_size=tokenizer.vocab_size,
        progress=progress,
    )
    return [[tokenizer.decode(sample.token_ids) for sample in samples] for samples in completions]


def grade(model: str, kind: str, task: Mapping[str, Any], replies: list[str]) -> dict[str, Any]:
    """A row of results.jsonl for one problem."""
    row = {name: task[name] for name in ("id", "family", "language", "prompt", "key")}
    correct = [verify(task, reply) for reply in replies]
    return {"model": model, "kind": kind} | row | {"replies": replies, "correct": correct}


def run(config: ResultsConfig, ctx: StageContext) -> dict[str, Any]:
    """Write results.jsonl (every reply) and summary.json; returns the headline accuracies.

    What one model has answered in one language is kept in `ctx.work`, so an interrupted run goes on with the next.
    """
    # Imported here: a run that finds this stage made only wants its settings, and must not wait for NumPy.
    from qwill.evaluate.scores import summarise

    _check(config, ctx.inputs)
    tasks = load_rows(ctx.inputs["tasks"] / "heldout.jsonl")
    for language in LANGUAGES:
        if not any(task["language"] == language for task in tasks):
            raise DataError(f"{ctx.inputs['tasks']}/heldout.jsonl has no problem in '{language}'; run `qwill tasks`.")
    rows: list[dict[str, Any]] = []
    bits: dict[str, Any] = {}
    for name in config.models:
        done = ctx.work / f"{name}.jsonl"
        if not done.is_file():
            write_jsonl(done, _examine(name, config, ctx, tasks))
        for _, row in read_jsonl(done):
            if row["kind"] == "bits_per_byte":
                bits[name] = row["bits_per_byte"]
            else:
                rows.append(row)
    summary = summarise(rows, config.models, config.alpha) | {"bits_per_byte": bits}
    write_jsonl(ctx.out / "results.jsonl", rows)
    write_json(ctx.out / "summary.json", summary)
    return {
        f"accuracy_{name}_{language}": summary["accuracy"][name][language]["all"]["accuracy"]
        for name in config.models
        for language in LANGUAGES
    }


def _examine(
    name: str, config: ResultsConfig, ctx: StageContext, tasks: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """All rows of one model: greedy, sampled, conversations, and one row of bits per byte."""
    from qwill.engine.sampler import Sampling
    from qwill.evaluate.bits_per_byte import bits_per_byte
    from qwill.model import load_model
    from qwill.text.tokenizer import Tokenizer

    model = load_model(ctx.inputs[name])
    tokenizer = Tokenizer.load(ctx.inputs[name])
    greedy = Sampling(max_tokens=config.max_tokens, temperature=0.0)
    random = Sampling(max_tokens=config.max_tokens, temperature=config.temperature)
    talk = Sampling(max_tokens=config.conversation_tokens, temperature=0.0, repetition_penalty=1.1)
    rows: list[dict[str, Any]] = []
    for language in LANGUAGES:
        asked = [task for task in tasks if task["language"] == language]
        asked = asked[: config.problems or None]
        for kind, sampling, n, chosen in (
            ("greedy", greedy, 1, asked),
            ("sampled", random, config.samples, asked[: config.sampled_problems or None]),
        ):
            with ctx.display.stage(f"{name} {language} {kind}", len(chosen) * n, "reply") as bar:
                replies = reply_to(
                    model,
                    tokenizer,
                    [task["prompt"] for task in chosen],
                    sampling,
                    n,
                    config.slots,
                    ctx.seed,
                    lambda done, tokens, bar=bar: bar.update(done, tokens=tokens),  # type: ignore[misc]
                )
                rows += [grade(name, kind, task, texts) for task, texts in zip(chosen, replies, strict=True)]
                right = sum(sum(row["correct"]) for row in rows[-len(chosen) :])
                bar.note(f"{name}, {language}, {kind}: {right} of {len(chosen) * n} replies right")
        prompts = config.conversations.get(language, [])
        for prompt, texts in zip(prompts, reply_to(model, tokenizer, prompts, talk), strict=True):
            rows.append(
                {"model": name, "kind": "conversation", "language": language, "prompt": prompt, "replies": texts}
            )
    documents = heldout_documents(ctx.inputs["corpus"] / "heldout.parquet", config.heldout_documents)
    bits = {}
    for language, texts in documents.items():
        found = bits_per_byte(model, tokenizer, texts, config.window)
        bits[language] = {
            "value": found.bits_per_byte,
            # One document gives no standard error, and NaN is no JSON.
            "stderr": found.stderr if len(texts) > 1 else None,
            "documents": len(texts),
        }
    rows.append({"model": name, "kind": "bits_per_byte", "bits_per_byte": bits})
    return rows


def heldout_documents(path: Path, count: int) -> dict[str, list[str]]:
    """The first `count` texts of each language in a corpus file, English and Chinese first. DataError for none."""
    from pyarrow import parquet

    from qwill.data.languages import in_order

    table = parquet.read_table(path, columns=["text", "language"])
    texts: dict[str, list[str]] = {}
    for text, language in zip(table["text"].to_pylist(), table["language"].to_pylist(), strict=True):
        if len(own := texts.setdefault(language, [])) < count:
            own.append(text)
    if not texts:
        raise DataError(f"{path} has no document; curate a corpus that holds some text out.")
    return {language: texts[language] for language in in_order(texts)}


def _check(config: ResultsConfig, inputs: Mapping[str, Path]) -> None:
    if not config.models:
        raise ConfigError("results.models is empty; name at least one model stage, such as 'aligned'.")
    for name in config.models:
        if name not in inputs:
            raise ConfigError(f"results.models names '{name}', which is no input; choose from {sorted(inputs)}.")
    for name in ("sampled_problems", "problems"):
        if getattr(config, name) < 0:
            raise ConfigError(f"results.{name} must be 0 (all) or more, and {getattr(config, name)} was given.")
    for name in ("samples", "max_tokens", "conversation_tokens", "slots", "heldout_documents", "window"):
        if getattr(config, name) < 1:
            raise ConfigError(f"results.{name} must be 1 or more, and {getattr(config, name)} was given.")
    if config.temperature <= 0 or not 0 < config.alpha < 1:
        raise ConfigError("results.temperature must be above 0, and results.alpha between 0 and 1.")
