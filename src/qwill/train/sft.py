"""Stage `sft`: base model and conversations → chat model, trained on what the assistant says and on nothing else
(or, of plain texts, on completions or on all of it)."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import torch

from qwill.base.errors import ConfigError
from qwill.base.files import write_json
from qwill.base.stage import StageContext
from qwill.engine.language_model import load
from qwill.model.batch import Batch
from qwill.text.chat import Rendered
from qwill.train.adapter import begin_adapter, finish_adapter, start_weights
from qwill.train.best_fit import pack_best_fit
from qwill.train.loop import train
from qwill.train.mesh import check_mesh, resolve_mesh
from qwill.train.ranks import current
from qwill.train.save_trained import save_trained
from qwill.train.settings import SFTConfig
from qwill.train.sft_examples import read_examples
from qwill.train.step import StepData


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
    start = load(ctx.inputs["base"], weights=start_weights(ctx.inputs["base"], config.lora))
    tokenizer, model = start.tokenizer, start.model
    ranks = current()
    mesh = resolve_mesh(config.mesh, ranks.world if ranks else 1)
    if config.lora is not None and any(size > 1 for axis, size in mesh.items() if axis != "dp"):
        raise ConfigError(
            "mesh: an adapter is trained with a whole model on every rank; leave out all but dp, or lora."
        )
    check_mesh(mesh, model.config)
    examples, heldout = read_examples(ctx.inputs["dialogues"], tokenizer, config, ctx.seed)
    if heldout.files:
        ctx.display.say(f"  held out: {', '.join(file.name for file in heldout.files)}")
    if examples.unwritten:
        ctx.display.say(f"  the model's chat template leaves out the thinking of {examples.unwritten} turns")
    # An example's last token predicts nothing and is not packed.
    lengths = [len(e.ids) - 1 for e in examples.rendered]
    steps = None if config.epochs else config.steps
    packing = pack_best_fit(lengths, config.batch_tokens, ctx.seed, steps=steps, epochs=config.epochs)
    plan = packing.steps

    def step_data(step: int) -> StepData:
        chosen = plan[step]
        return pack_examples([examples.rendered[i] for i in chosen], f"conversations {examples.names[chosen[0]]} …")

    before = heldout_loss(model, heldout.rendered, config.batch_tokens) if heldout.rendered else None
    adapter = begin_adapter(model, config.lora, ctx.seed)
    parallel = None
    if ranks is not None:
        from qwill.train.mesh import make_mesh
        from qwill.train.parallel import parallelize

        parallel = parallelize(model, make_mesh(mesh), fill=True)  # the last step of an epoch may be small
        ctx.display.say(f"  mesh: {parallel.mesh}")
    history = train(
        model, len(plan), step_data, config.optimizer, config.schedule, config.balance, ctx, "sft", how=config.step,
        parallel=parallel,
    )  # fmt: skip
    finish_adapter(model, adapter, ctx.inputs["base"], ctx)
    loss = heldout_loss(model, heldout.rendered, config.batch_tokens) if heldout.rendered else None
    whole = model if parallel is None else parallel.whole_model()
    if whole is None:
        return {}  # rank 0 writes the artifact
    counts = {
        "examples": len(examples.rendered), "heldout": len(heldout.rendered), "too_long": examples.too_long,
        "fill": round(packing.fill, 4),
    }  # fmt: skip
    counts |= {"cut": examples.cut} if examples.cut else {}
    counts |= {"unwanted": examples.unwanted} if examples.unwanted else {}
    counts |= {"thinking_left_out": examples.unwritten} if examples.unwritten else {}
    share = examples.trained / examples.tokens
    report = history.thinned() | counts | {"trained_tokens_share": share}
    report |= {"heldout_files": [file.name for file in heldout.files]} if heldout.files else {}
    report |= {"heldout_loss": loss, "heldout_loss_before": before}
    write_json(ctx.out / "training.json", report)
    save_trained(whole, ctx.inputs["base"], tokenizer, ctx)
    losses = {"heldout_loss": loss, "heldout_loss_before": before}
    told = {name: round(value, 4) for name, value in losses.items() if value is not None}
    return {"tokens": history.tokens, **counts, **told}


@torch.inference_mode()
def heldout_loss(model: Any, examples: Sequence[Rendered], batch_tokens: int) -> float:
    """Mean loss in nats over the assistant tokens of held-out conversations."""
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
            hidden_ND = model(data.batch).hidden_ND[mask]
            _, loss_N = model.cross_entropy(hidden_ND, data.targets_N[mask], data.weight_N[mask])
            total, count = total + float(loss_N.double().sum()), count + int(mask.sum())
    return total / count
