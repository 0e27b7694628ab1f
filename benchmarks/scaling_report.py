"""The section of RESULTS.md that the scaling study writes: its tables, and the sentences that limit them."""

from __future__ import annotations

from typing import Any

LANGUAGES = ("en", "zh")


def section(result: dict[str, Any]) -> str:
    """Markdown, from `scaling_fit.analyse` with `cost` and `rates` added."""
    return "\n\n".join([
        _method(result), _pairs(result), _levels(result), _constants(result), _cost(result), _rates(result),
        "Nothing here is extrapolated: the curves are looked at only between the least and the most compute of the "
        "cells that they go through, and say nothing about models, corpora or budgets beyond them.",
    ])  # fmt: skip


def _method(result: dict[str, Any]) -> str:
    runs = {(p["kind"], p["rung"], p["seed"]) for p in result["points"]}
    spread = result["seed_spread"]
    active = [c["active"] / 1e6 for c in result["cells"]]
    return (
        f"{len(runs)} runs with {len(result['points'])} horizons: Qwen3 (dense) and Qwen3-MoE (two of eight experts) "
        f"of equal width, depth and active size (within 2 %), {min(active):.2f} to {max(active):.2f} M "
        "active weights with the head, on the evening recipe's corpus and tokenizer (8,192 tokens), the same rows in "
        "the same order, 2,048 tokens a step, Muon and AdamW, warm-up, stable and 40 % decay for each horizon. Loss "
        "is bits per byte of held-out documents, the mean of English and Chinese unless it says which. Compute is "
        "6 · active weights (head once) · tokens. Intervals are 95 %: documents drawn again, and a shift for each run "
        f"as large as seeds differ; the standard deviation between seeds is {spread['mean']:.4f} ({spread['en']:.4f} "
        f"en, {spread['zh']:.4f} zh), measured on the two smallest sizes and taken for all."
    )


def _span(value: float | None, interval: list[float] | tuple[float, float] | None, form: str) -> str:
    if value is None:
        return "outside"
    if interval is None:
        return f"{value:{form}} [–]"
    return f"{value:{form}} [{interval[0]:{form}}, {interval[1]:{form}}]"


def _pairs(result: dict[str, Any]) -> str:
    rows = [
        "| active | tokens | 10¹² FLOPs | seeds | dense | sparse | sparse − dense | en | zh |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for c in sorted(result["cells"], key=lambda c: (c["active"], c["tokens"])):
        mean = c["mean"]
        gaps = [_span(c[k]["difference"], c[k]["interval"], "+.3f") for k in ("mean", *LANGUAGES)]
        rows.append(
            f"| {c['active'] / 1e6:.2f} M | {c['tokens'] / 1e6:.2f} M | {c['flops'] / 1e12:.2f} | {c['seeds']} | "
            f"{mean['dense']:.3f} | {mean['sparse']:.3f} | {' | '.join(gaps)} |"
        )
    return "The same size, tokens and compute (measured, no curve between):\n\n" + "\n".join(rows)


def _levels(result: dict[str, Any]) -> str:
    rows = [
        "| 10¹² FLOPs | dense | sparse | sparse − dense | multiplier | multiplier en | multiplier zh |",
        "|---|---|---|---|---|---|---|",
    ]
    curves = result["curves"]
    for i, level in enumerate(curves["mean"]["levels"]):
        factors = [curves[k]["levels"][i] for k in ("mean", *LANGUAGES)]
        factor = [_span(f["multiplier"], f["multiplier_interval"], ".2f") for f in factors]
        gap = _span(level["sparse"] - level["dense"], level["difference_interval"], "+.3f")
        rows.append(
            f"| {level['compute'] / 1e12:.3g} | {level['dense']:.3f} | {level['sparse']:.3f} | {gap} | "
            f"{' | '.join(factor)} |"
        )
    best = ", ".join(f"{rung} {tokens / 1e6:.2f} M" for rung, tokens in result["frontier"])
    return (
        f"The best cells at their compute (width, layers and tokens: {best}), by the curves fitted through them. The "
        "multiplier is how many times the sparse model's compute a dense one of this compute has for the same loss; "
        "below 1, sparsity costs; 'outside' and [–]: the sparse model's would lie outside what was trained. "
        "Both kinds are scored on the same documents, so differences are surer than the curves' own bands.\n\n"
        + "\n".join(rows)
    )


def _constants(result: dict[str, Any]) -> str:
    rows = ["| | E | a | b | residual |", "|---|---|---|---|---|"]
    for kind in ("dense", "sparse"):
        curve = result["curves"]["mean"][kind]
        cells = [_span(curve["constants"][k], curve["intervals"][k], ".2f") for k in ("e", "a", "b")]
        rows.append(f"| {kind} | {' | '.join(cells)} | {curve['constants']['residual']:.4f} |")
    return (
        "L(C) = E + a·(C/10¹²)^−b (a range this short cannot tell E from the rest; the curve inside the range is what "
        "it is good for):\n\n" + "\n".join(rows)
    )


def _cost(result: dict[str, Any]) -> str:
    active = {c["rung"]: c["active"] for c in result["cells"]}
    parts = [
        f"{active[rung] / 1e6:.2f} M {c['dense']:.0f} and {c['sparse']:.0f} ({c['ratio']:.2f}×)"
        for rung, c in sorted(result["cost"].items(), key=lambda item: active[item[0]])
    ]
    return (
        "What it costs (processor seconds for a million tokens on one thread of a shared machine, dense and sparse): "
        + "; ".join(parts)
        + ". A multiplier below this ratio saves compute on paper and no time."
    )


def _rates(result: dict[str, Any]) -> str:
    groups: dict[tuple[str, int], dict[float, dict[str, float]]] = {}
    for p in result["rates"]:
        group = groups.setdefault((p["rung"], p["tokens"]), {})
        values = p["bits_per_byte"].values()
        group.setdefault(p["rate_factor"], {})[p["kind"]] = sum(values) / len(values)
    parts = []
    for (rung, tokens), factors in groups.items():
        told = ", ".join(f"×{f:g} {v['dense']:.3f} and {v['sparse']:.3f}" for f, v in sorted(factors.items()))
        parts.append(f"{rung} at {tokens / 1e6:.2f} M tokens: {told}")
    return (
        "Learning rates, as multiples of the evening recipe's (AdamW 0.003, Muon 0.02), loss of dense and sparse: "
        + "; ".join(parts)
        + f". The ladder has ×{result['rate_factor']:g} for both kinds at every size."
    )
