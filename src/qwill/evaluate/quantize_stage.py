"""The stage `int8`: the aligned model with one byte a weight, and what that cost, measured the same way on both."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from qwill.base.config import LATER
from qwill.base.errors import ConfigError
from qwill.base.files import read_json, write_json
from qwill.base.stage import StageContext
from qwill.evaluate.results import heldout_documents, reply_to
from qwill.evaluate.task_data import load_rows
from qwill.evaluate.tasks import LANGUAGES, verify

if TYPE_CHECKING:
    from qwill.base.progress import Bar
    from qwill.model.transformer import Transformer
    from qwill.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class QuantizeConfig:
    """`problems` (greedy) and `heldout_documents` are for each language and each of the two models.

    `bits` 8 has one scale a row, or one for each `group_size` columns of it; `bits` 4 has groups of 32 or `group_size`.
    Speed is one reply at a time, as in a chat: `speed_tokens` tokens, `speed_rounds` times, the models taking turns.
    """

    problems: int = 100
    max_tokens: int = 48
    slots: int = 64
    heldout_documents: int = 50
    window: int = 256
    speed_tokens: int = 64
    speed_rounds: int = 5
    bits: Literal[8, 4] = field(default=8, metadata=LATER)
    group_size: int | None = field(default=None, metadata=LATER)
    format: Literal["pack-quantized", "int-quantized"] = field(default="pack-quantized", metadata=LATER)

    def __post_init__(self) -> None:
        for name in ("problems", "max_tokens", "slots", "heldout_documents", "window", "speed_tokens", "speed_rounds"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be 1 or more, and {getattr(self, name)} was given.")
        if self.group_size is not None and self.group_size < 1:
            raise ConfigError(f"group_size must be 1 or more, and {self.group_size} was given.")
        if self.bits == 4 and self.format == "int-quantized":
            raise ConfigError("int-quantized has a byte for each weight; set bits 8, or format pack-quantized.")


def run(config: QuantizeConfig, ctx: StageContext) -> dict[str, Any]:
    """Write the quantised model folder and cost.json; speeds go to run.json, because no two runs measure the same."""
    from qwill.model import load_model
    from qwill.model.quantize import Scheme, quantize_folder
    from qwill.text.tokenizer import Tokenizer

    scheme = Scheme(config.bits, config.group_size or (32 if config.bits == 4 else None), config.format)
    quantize_folder(ctx.inputs["aligned"], ctx.out, metadata={"recipe_id": ctx.recipe_id}, scheme=scheme)
    tokenizer = Tokenizer.load(ctx.inputs["aligned"])
    folders = {"original": ctx.inputs["aligned"], "quantized": ctx.out}
    models = {side: load_model(folder) for side, folder in folders.items()}
    cost = {side: _measure(side, models[side], folders[side], tokenizer, config, ctx) for side in folders}
    write_json(ctx.out / "cost.json", cost)
    write_json(ctx.out / "run.json", {"tokens_per_second": _speeds(models, tokenizer, config, ctx)})
    return {
        "bytes": cost["quantized"]["bytes"],
        "times_smaller": round(cost["original"]["bytes"] / cost["quantized"]["bytes"], 3),
        **{
            f"{key}_change": {
                language: round(cost["quantized"][key][language] - before, 5)
                for language, before in cost["original"][key].items()
            }
            for key in ("bits_per_byte", "accuracy")
        },
    }


def _measure(
    side: str, model: Transformer, folder: Path, tokenizer: Tokenizer, config: QuantizeConfig, ctx: StageContext
) -> dict[str, Any]:
    """Size, bits per byte and accuracy of one of the two models; kept in `ctx.work` for an interrupted run."""
    from qwill.engine.sampler import Sampling
    from qwill.evaluate.bits_per_byte import bits_per_byte

    done = ctx.work / f"{side}.json"
    if done.is_file():
        kept: dict[str, Any] = read_json(done)
        return kept
    tasks = load_rows(ctx.inputs["tasks"] / "heldout.jsonl")
    documents = heldout_documents(ctx.inputs["corpus"] / "heldout.parquet", config.heldout_documents)
    greedy = Sampling(max_tokens=config.max_tokens, temperature=0.0)
    accuracy, bits = {}, {}
    for language in LANGUAGES:
        asked = [task for task in tasks if task["language"] == language][: config.problems]
        with ctx.display.stage(f"{side}, {language}", len(asked), "problem", budget_s=ctx.budget_s) as bar:
            prompts = [task["prompt"] for task in asked]

            def show(finished: int, _: int, bar: Bar = bar) -> None:
                bar.update(finished)

            replies = reply_to(model, tokenizer, prompts, greedy, slots=config.slots, progress=show)
            right = sum(verify(task, reply) for task, [reply] in zip(asked, replies, strict=True))
            accuracy[language] = right / len(asked)
            bar.update(len(asked), right=right)
    for language, texts in documents.items():
        bits[language] = bits_per_byte(model, tokenizer, texts, config.window).bits_per_byte
    size = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    measured = {"bytes": size, "accuracy": accuracy, "bits_per_byte": bits, "problems": len(asked)}
    write_json(done, measured)
    return measured


def _speeds(
    models: dict[str, Transformer], tokenizer: Tokenizer, config: QuantizeConfig, ctx: StageContext
) -> dict[str, float]:
    """Median tokens per second of each model, generating alone; the models take turns, so that a busy machine is
    busy for both."""
    from qwill.engine.generate import generate
    from qwill.engine.sampler import Sampling

    prompt = tokenizer.encode("The quick brown fox jumps over the lazy dog. 敏捷的棕色狐狸跳过懒狗。")
    length = Sampling(max_tokens=config.speed_tokens, temperature=1.0)
    rates: dict[str, list[float]] = {side: [] for side in models}
    with ctx.display.stage("tokens per second", config.speed_rounds, "round") as bar:
        for turn in range(config.speed_rounds + 1):
            for side, model in models.items():
                started = time.perf_counter()
                [[completion]] = generate(
                    model, [prompt], length, slots=1, stop_ids=[], seed=turn, vocab_size=tokenizer.vocab_size
                )
                if turn > 0:  # the first turn warms up caches and compiled code
                    rates[side].append(len(completion.token_ids) / (time.perf_counter() - started))
            bar.update(turn, **{side: values[-1] for side, values in rates.items() if values})
    return {side: round(statistics.median(values), 1) for side, values in rates.items()}
