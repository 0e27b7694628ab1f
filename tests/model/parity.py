"""The comparison with transformers' record that the parity tests and the tests of those tests share."""

import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from qwill.model import ops, transformer
from qwill.model.batch import Batch
from qwill.model.files import load_model
from qwill.model.layout import released_names
from qwill.model.transformer import Transformer

RECORD = Path(__file__).parent.parent / "oracles" / "model"
CASES = sorted(p.name for p in RECORD.iterdir() if p.is_dir())

FORWARD = 1e-5  # max|Δ| over max|reference|
GRADIENT = 2e-5  # ‖Δ‖ over ‖reference‖, each tensor
BALANCE = 1e-6


@cache
def said(case: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    record = json.loads((RECORD / case / "record.json").read_text())
    return load_file(RECORD / case / "said.safetensors.bin"), record


def apart(got: Tensor, expected: Tensor) -> float:
    return float((got.detach() - expected).abs().max() / expected.abs().max())


def differences(case: str, model: Transformer) -> Iterator[str]:
    """What of the record the model does not reproduce, cheapest first; nothing when it is at parity."""
    reference, record = said(case)
    tokens, weight = reference["tokens"], reference["weight"]
    chosen: list[Tensor] = []
    handles = [
        module.gate.register_forward_hook(lambda m, _, logits: chosen.append(logits.detach()))
        for module in model.modules()
        if isinstance(module, transformer.Experts)
    ]
    output = model(Batch.rows(tokens))
    for h in handles:
        h.remove()
    with torch.no_grad():
        yield from _forward(model.head(output.hidden_ND).view(*tokens.shape, -1), reference["logits"])
    if "chosen" in reference:
        k = reference["chosen"].shape[-1]
        mine = torch.stack([c.topk(k, -1).indices.sort(-1).values for c in chosen])
        if not torch.equal(mine, reference["chosen"]):
            yield "router choices differ"
    for n in sorted(int(k.removeprefix("tokens_")) for k in reference if k.removeprefix("tokens_").isdecimal()):
        with torch.no_grad():
            yield from _forward(model.logits(reference[f"tokens_{n}"]), reference[f"logits_{n}"])
    hidden = output.hidden_ND.view(*tokens.shape, -1)[:, :-1].reshape(weight.numel(), -1)
    targets = tokens[:, 1:].reshape(-1)
    total, _ = ops.cross_entropy(hidden, model.head_weight_VD, targets, weight.reshape(-1), chunk=7)
    if not abs(total.item() - record["loss"]) <= 1e-5 * record["loss"]:
        yield "loss differs"
    if output.router_stats:
        pooled, theirs = transformer.pooled_balancing_loss(output.router_stats), record["pooled_balancing_loss"]
        if not abs(pooled.item() - theirs) <= BALANCE * theirs:
            yield "balancing loss differs"
        total = total + 0.7 * pooled
    model.zero_grad()
    total.backward()
    yield from gradient_differences(model, reference)


def _forward(got: Tensor, expected: Tensor) -> Iterator[str]:
    error = apart(got, expected)
    if not error <= FORWARD:
        yield f"logits of {got.shape[1]} tokens differ by {error:.1e}"


def gradient_differences(model: Transformer, reference: dict[str, Tensor]) -> Iterator[str]:
    """The tensors of the record, named and laid out as in the files, whose gradient the model's is not."""
    gradients = {n: p.grad for n, p in model.named_parameters()}
    slots = released_names(model.config)
    for key in reference:
        name = key.removeprefix("gradient.")
        if name == key:
            continue
        if name not in slots:
            yield f"no tensor {name}"
            continue
        whole, expected = gradients.get(slots[name].parameter), reference[key]
        got = torch.zeros_like(expected) if whole is None else slots[name].read(whole)
        error = float((got - expected).norm() / expected.norm().clamp_min(1e-12))
        if not error <= GRADIENT:
            yield f"gradient of {name} differs by {error:.1e}"


def load(case: str) -> Transformer:
    return load_model(RECORD / case)
