"""Stage `sft`: base model and conversations → chat model, trained on what the assistant says and on nothing else."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from qwill.base.errors import DataError
from qwill.base.files import read_jsonl, write_json
from qwill.base.stage import StageContext
from qwill.model.batch import Batch
from qwill.model.files import load_model, save_model
from qwill.text.chat import Rendered, training_examples
from qwill.text.tokenizer import Tokenizer
from qwill.train.adapter import begin_adapter, finish_adapter, start_weights
from qwill.train.loop import train
from qwill.train.settings import SFTConfig
from qwill.train.step import StepData


@dataclass
class Examples:
    """Rendered examples and how many conversations were left out because they are longer than the limit."""

    rendered: list[Rendered]
    names: list[str]
    too_long: int


def render_dialogues(path: Path, tokenizer: Tokenizer, max_tokens: int) -> Examples:
    """Every conversation of a dialogues file as training examples (several where the template is not append-only).

    Raises DataError naming the line of a conversation that would train on nothing.
    """
    out = Examples([], [], 0)
    for line, row in read_jsonl(path):
        if "messages" not in row:
            raise DataError(f"{path}: line {line} has no field 'messages'; expected a list of messages.")
        where = f"{path}: line {line}"
        for example in training_examples(row["messages"], row.get("tools"), tokenizer, where=where):
            if len(example.ids) > max_tokens:
                out.too_long += 1
            else:
                out.rendered.append(example)
                out.names.append(str(row.get("id", line)))
    if not out.rendered and not out.too_long:
        raise DataError(f"{path}: holds no conversation; add sources to the dialogues.")
    if not out.rendered:
        raise DataError(f"{path}: no conversation fits into {max_tokens} tokens; raise sft.max_tokens.")
    return out


def plan_steps(lengths: Sequence[int], steps: int, batch_tokens: int, seed: int) -> list[list[int]]:
    """Which examples each step packs: epochs in seeded order, cut where the next example would not fit."""
    plan: list[list[int]] = []
    epoch = 0
    while len(plan) < steps:
        order = list(range(len(lengths)))
        random.Random(f"{seed}/sft/{epoch}").shuffle(order)
        step: list[int] = []
        size = 0
        for i in order:
            if step and size + lengths[i] > batch_tokens:
                plan.append(step)
                step, size = [], 0
            step.append(i)
            size += lengths[i]
        plan.append(step)
        epoch += 1
    return plan[:steps]


def pack_examples(examples: Sequence[Rendered], source: str) -> StepData:
    """One packed batch: each token predicts the next of its own example; weight on assistant tokens only."""
    ordered = sorted(examples, key=lambda e: -len(e.ids))  # neighbours of like length: attention rows fill better
    batch = Batch.pack([e.ids[:-1] for e in ordered])
    targets = torch.tensor([t for e in ordered for t in e.ids[1:]])
    mask = torch.tensor([float(m) for e in ordered for m in e.loss_mask[1:]])
    return StepData(batch, targets, mask / mask.sum(), source)


def run(config: SFTConfig, ctx: StageContext) -> dict[str, Any]:
    tokenizer = Tokenizer.load(ctx.inputs["base"])
    quantized = start_weights(ctx.inputs["base"], config.lora) == "stored"
    model = load_model(ctx.inputs["base"], quantized=quantized)
    examples = render_dialogues(ctx.inputs["dialogues"] / "train.jsonl", tokenizer, config.max_tokens)
    heldout = render_dialogues(ctx.inputs["dialogues"] / "heldout.jsonl", tokenizer, config.max_tokens)
    plan = plan_steps([len(e.ids) for e in examples.rendered], config.steps, config.batch_tokens, ctx.seed)

    def step_data(step: int) -> StepData:
        chosen = plan[step]
        return pack_examples([examples.rendered[i] for i in chosen], f"conversations {examples.names[chosen[0]]} …")

    adapter = begin_adapter(model, config.lora, ctx.seed)
    history = train(
        model, config.steps, step_data, config.optimizer, config.schedule, config.balance, ctx, "sft", how=config.step
    )  # fmt: skip
    finish_adapter(model, adapter, ctx.inputs["base"], ctx)
    loss = heldout_loss(model, heldout.rendered, config.batch_tokens)
    report = history.thinned() | {
        "examples": len(examples.rendered),
        "too_long": examples.too_long,
        "heldout_loss": loss,
        "trained_tokens_share": sum(sum(e.loss_mask) for e in examples.rendered)
        / sum(len(e.ids) for e in examples.rendered),
    }
    write_json(ctx.out / "training.json", report)
    save_model(model, ctx.out, tokenizer, metadata={"recipe_id": ctx.recipe_id}, merged=True)
    return {
        "tokens": history.tokens,
        "examples": len(examples.rendered),
        "too_long": examples.too_long,
        "heldout_loss": round(loss, 4),
    }


@torch.inference_mode()
def heldout_loss(model: Any, examples: Sequence[Rendered], batch_tokens: int) -> float:
    """Mean loss in nats over the assistant tokens of held-out conversations."""
    from qwill.model import ops

    total = count = 0.0
    for step in plan_steps([len(e.ids) for e in examples], 1, 1 << 60, 0):
        order = sorted(step, key=lambda i: -len(examples[i].ids))
        while order:
            part: list[int] = []
            while order and sum(len(examples[i].ids) for i in part) + len(examples[order[0]].ids) <= max(
                batch_tokens, len(examples[order[0]].ids)
            ):
                part.append(order.pop(0))
            data = pack_examples([examples[i] for i in part], "held-out")
            mask = data.weight_N > 0
            _, loss_N = ops.cross_entropy(model(data.batch).hidden_ND[mask], model.head_weight_VD,
                                          data.targets_N[mask], data.weight_N[mask])  # fmt: skip
            total, count = total + float(loss_N.double().sum()), count + int(mask.sum())
    return total / count
