"""The comparison with transformers' record that the parity tests and the tests of those tests share."""

import json
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
SPARSE = [c for c in CASES if c.startswith("moe")]

OTHER_LENGTHS = (1, 2, 40)
FORWARD = 1e-5  # max|Δ| over max|reference|
GRADIENT = 2e-5  # ‖Δ‖ over ‖reference‖, each tensor
BALANCE = 1e-6


def said(case: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    record = json.loads((RECORD / case / "record.json").read_text())
    return load_file(RECORD / case / "said.safetensors.bin"), record


def differences(case: str, model: Transformer) -> list[str]:
    """What of the record the model does not reproduce; empty when it is at parity."""
    reference, record = said(case)
    tokens, weight = reference["tokens"], reference["weight"]
    out: list[str] = []
    chosen: list[Tensor] = []
    handles = [
        module.gate.register_forward_hook(lambda m, _, logits: chosen.append(logits.detach()))
        for module in model.modules()
        if isinstance(module, transformer.Experts)
    ]
    with torch.no_grad():
        logits = model.logits(tokens)
        for h in handles:
            h.remove()
        others = {n: model.logits(reference[f"tokens_{n}"]) for n in OTHER_LENGTHS}
    for got, expected in [(logits, reference["logits"]), *((x, reference[f"logits_{n}"]) for n, x in others.items())]:
        error = float((got - expected).abs().max() / expected.abs().max())
        if not error <= FORWARD:
            out.append(f"logits of {got.shape[1]} tokens differ by {error:.1e}")
    if "chosen" in reference:
        k = reference["chosen"].shape[-1]
        mine = torch.stack([c.topk(k, -1).indices.sort(-1).values for c in chosen])
        if not torch.equal(mine, reference["chosen"]):
            out.append("router choices differ")
    output = model(Batch.rows(tokens))
    hidden = output.hidden_ND.view(*tokens.shape, -1)[:, :-1].reshape(weight.numel(), -1)
    targets = tokens[:, 1:].reshape(-1)
    total, _ = ops.cross_entropy(hidden, model.head_weight_VD, targets, weight.reshape(-1), chunk=7)
    if not abs(float(total.detach()) - record["loss"]) <= 1e-5 * record["loss"]:
        out.append("loss differs")
    if output.router_stats:
        pooled = transformer.pooled_balancing_loss(output.router_stats)
        if (
            not abs(float(pooled.detach()) - record["pooled_balancing_loss"])
            <= BALANCE * record["pooled_balancing_loss"]
        ):
            out.append("balancing loss differs")
        total = total + 0.7 * pooled
    model.zero_grad()
    total.backward()
    gradients = {n: p.grad for n, p in model.named_parameters()}
    for name, slot in released_names(model.config).items():
        expected = reference[f"gradient.{name}"]
        whole = gradients.get(slot.parameter)
        got = torch.zeros_like(expected) if whole is None else slot.read(whole)
        error = float((got - expected).norm() / expected.norm().clamp_min(1e-12))
        if not error <= GRADIENT:
            out.append(f"gradient of {name} differs by {error:.1e}")
    return out


def load(case: str) -> Transformer:
    return load_model(RECORD / case)
