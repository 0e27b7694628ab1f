"""What the report's sections show: each function turns one artifact's JSON into plots, rows and sentences.

A view is a plain dict that report.html.jinja lays out; nothing here knows HTML beyond the SVG of plots.py.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from markupsafe import Markup

from qwill.base.numbers import megabytes, percent
from qwill.data.languages import in_order, name_of
from qwill.evaluate.plots import (
    Bar,
    Estimate,
    Series,
    bar_chart,
    heat_map,
    interval_chart,
    line_chart,
)
from qwill.evaluate.report_training import curves_of

LANGUAGES = (("en", "English"), ("zh", "Chinese"))  # in which problems are set; text may be in more
BASELINES = (
    ("model", "this model"),
    ("xz", "xz"),
    ("kneser_ney_byte5", "byte 5-gram"),
    ("kneser_ney_token5", "token 5-gram"),
)

View = dict[str, Any]


def named(codes: Iterable[str]) -> list[tuple[str, str]]:
    """(code, name) of languages, English and Chinese first."""
    return [(code, name_of(code)) for code in in_order(codes)]


def whole(value: float) -> str:
    return f"{value:.0f}"


def points(difference: float) -> str:
    """A difference of shares in percentage points, with its sign: 0.271 → +27.1."""
    return f"{100 * difference:+.1f}".replace("-", "−")


def p_text(p_value: float) -> str:
    return "p < 0.0001" if p_value < 1e-4 else f"p = {p_value:.2g}" if p_value < 0.995 else "p = 1"


def tokenizer_view(stats: Mapping[str, Any]) -> View:
    """From the tokenizer's stats.json."""
    languages = stats["languages"]
    bars = [Bar(name, languages[code]["characters_per_token"], f"s-{code}") for code, name in named(languages)]
    shares = stats.get("vocabulary_by_script", {})
    return {
        "vocab_size": stats["vocab_size"],
        "plot": Markup(bar_chart("Characters per token", bars, "characters per token", lambda v: f"{v:.2f}")),
        "scripts": [(name, f"{share:.1%}") for name, share in sorted(shares.items(), key=lambda item: -item[1])],
        "rows": [
            {
                "name": name,
                "characters": f"{languages[code]['characters']:,.0f}",
                "tokens": f"{languages[code]['tokens']:,.0f}",
                "bytes_per_token": f"{languages[code]['bytes_per_token']:.2f}",
                "bits_per_byte": f"{languages[code]['bits_per_byte']:.3f}"
                if "bits_per_byte" in languages[code]
                else "–",
            }
            for code, name in named(languages)
        ],
    }


def training_view(trainings: Mapping[str, Mapping[str, Any]]) -> list[View]:
    """Curves of each training stage, from its training.json."""
    views = []
    for stage, training in trainings.items():
        plots = []
        curve = training.get("curve", [])
        for plot in curves_of(stage, curve):
            series = [
                Series(name, [(float(p["step"]), float(p[key])) for p in curve if p.get(key) is not None], css)
                for key, name, css in plot.lines
            ]
            legend = [(s.name, s.css) for s in series if s.name]
            chart = line_chart(f"{stage}: {plot.title}", series, "step", plot.unit)
            plots.append(_figure(plot.title, chart, legend))
        scored = {code for entry in training.get("validation", [])[:-1] for code in entry.get("bits_per_byte", {})}
        validation = [Series(name, _validation(training, code), f"s-{code}") for code, name in named(scored)]
        if validation:
            chart = line_chart(f"{stage}: bits per byte of held-out text", validation, "step", "bits per byte")
            plots.append(_figure("held-out bits per byte while training", chart, [(s.name, s.css) for s in validation]))
        last = curve[-1] if curve else {}
        views.append({"stage": stage, "plots": plots, "steps": int(last.get("step", 0))})
    return views


def _validation(training: Mapping[str, Any], code: str) -> list[tuple[float, float]]:
    """The figures taken while it trained, all of the same text; the last one is of more text and stands elsewhere."""
    return [
        (float(entry["step"]), float(entry["bits_per_byte"][code]))
        for entry in training.get("validation", [])[:-1]
        if code in entry.get("bits_per_byte", {})
    ]


def _figure(caption: str, svg: str, legend: Sequence[tuple[str, str]] = ()) -> View:
    return {"caption": caption, "svg": Markup(svg), "legend": list(legend), "note": ""}


def experts_view(trainings: Mapping[str, Mapping[str, Any]]) -> list[View]:
    """Share of tokens that each expert took in each layer, near the end of each training stage."""
    views = []
    for stage, training in trainings.items():
        shares = training.get("expert_load") or []
        if shares:
            everything = [share * len(row) for row in shares for share in row]
            figure = _figure(stage, heat_map(f"{stage}: share of tokens by expert", shares, "layer", "expert"))
            figure["note"] = (
                f"An even share is {100 / len(shares[0]):.1f} %. The busiest expert of any layer takes "
                f"{max(everything):.2f} times that, the idlest {min(everything):.2f} times."
            )
            views.append(figure)
    return views


def compression_view(compression: Mapping[str, Any]) -> View:
    """Bits per byte of the base model beside the baselines, from compression.json."""
    panels, sentences = [], []
    for code, name in named(compression.get("model", {})):
        found = [(label, compression[key][code], key) for key, label in BASELINES if code in compression.get(key, {})]
        if not found or found[0][2] != "model":
            continue
        bars = [Bar(label, value, f"s-{code}" if key == "model" else "s-other") for label, value, key in found]
        chart = bar_chart(f"Bits per byte, {name}", bars, "bits per byte, fewer is better", lambda v: f"{v:.3f}")
        panels.append(_figure(name, chart))
        model = found[0][1]
        beaten = [label for label, value, _ in found[1:] if model < value]
        lost = [label for label, value, _ in found[1:] if model >= value]
        stderr = compression.get("model_stderr", {}).get(code)
        noise = f" ± {1.96 * stderr:.3f}" if stderr else ""
        sentence = f"{name}: {model:.3f}{noise} bits per byte"
        if beaten:
            sentence += f", fewer than {_and(beaten)}"
        if lost:
            sentence += ("; " if beaten else ", ") + f"not fewer than {_and(lost)}"
        sentences.append(sentence + ".")
    consumed = compression.get("bytes_consumed")
    return {
        "whole_corpus": "kneser_ney_token5" in compression,
        "panels": panels,
        "sentences": sentences,
        # One total, or one for each language.
        "consumed": megabytes(sum(consumed.values()) if isinstance(consumed, Mapping) else consumed)
        if consumed
        else None,
    }


def _and(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else ", ".join(names[:-1]) + " and " + names[-1]


FAMILY_WORDS = {
    "kinds": ("name words of the kinds that are asked for", "按要求说出几类词"),
    "split": ("split a number", "拆数"),
    "between": ("find a multiple", "找倍数"),
    "digits": ("make digits that add up", "凑数字"),
    "sort": ("sort", "排序"),
    "reverse": ("reverse", "倒写"),
    "compare": ("find the larger number", "比大小"),
    "add": ("add two numbers", "加法"),
}


def accuracy_view(summary: Mapping[str, Any]) -> View:
    """Accuracy, pass@k, paired tests and the table by family, from the results' summary.json."""
    models = summary["models"]
    greedy = summary["accuracy"]
    table = _family_table(summary)
    words = [FAMILY_WORDS[row["family"]] for row in table]
    bits = {model: cells for model, cells in summary.get("bits_per_byte", {}).items() if model in models}
    texts = named({code for cells in bits.values() for code in cells})
    figures = [
        _interval_figure(
            "greedy: one answer, the model's most likely",
            [
                (m, [_estimate(greedy[m][c]["all"], "accuracy", c) for c, _ in LANGUAGES if c in greedy[m]])
                for m in models
            ],
        )
    ]
    sampled = summary.get("pass_at_k", {})
    names = sorted({k for cell in sampled.values() for row in cell.values() for k in row["all"]}, key=_k_of)
    for name in names:
        rows = []
        for model in models:
            cells = sampled.get(model, {})
            rows.append((model, [_estimate(cells[c]["all"][name], "value", c) for c, _ in LANGUAGES if c in cells]))
        k = _k_of(name)
        figures.append(_interval_figure(f"{name}: " + ("one sample" if k == 1 else f"best of {k} samples"), rows))
    return {
        "figures": figures,
        "total": {code: greedy[models[0]][code]["all"]["total"] for code, _ in LANGUAGES if code in greedy[models[0]]},
        "alpha": summary["alpha"],
        "comparisons": [_comparison(pair) for pair in summary["comparisons"]],
        "families": table,
        "asked": {"en": ", ".join(en for en, _ in words), "zh": "、".join(zh for _, zh in words)},
        "models": models,
        "languages": texts,
        "bits": [
            {"model": model, "cells": [_bits(bits[model].get(code)) for code, _ in texts]}
            for model in models
            if model in bits
        ],
    }


def _bits(cell: Mapping[str, Any] | None) -> str:
    if cell is None:
        return "–"
    return f"{cell['value']:.3f}" + (f" ± {1.96 * cell['stderr']:.3f}" if cell["stderr"] is not None else "")


def _k_of(name: str) -> int:
    return int(name.partition("@")[2])


def _estimate(cell: Mapping[str, Any], key: str, code: str) -> Estimate:
    return Estimate(cell[key], cell["lower"], cell["upper"], f"s-{code}")


def _interval_figure(caption: str, rows: Sequence[tuple[str, Sequence[Estimate]]]) -> View:
    chart = interval_chart(caption, rows, "problems solved, with 95 % intervals", percent, (0.0, 1.0))
    return _figure(caption, chart, [(name, f"s-{code}") for code, name in LANGUAGES])


def _comparison(pair: Mapping[str, Any]) -> View:
    from qwill.evaluate.scores import BETTER, WORSE

    css = {BETTER: "good", WORSE: "bad"}.get(pair["verdict"], "even")
    return {
        "before": pair["before"],
        "after": pair["after"],
        "code": pair["language"],
        "language": name_of(pair["language"]),
        "gained": pair["gained"],
        "lost": pair["lost"],
        "points": points(pair["difference"]),
        "interval": f"{points(pair['lower'])} to {points(pair['upper'])}",
        "detectable": "–" if pair["detectable"] is None else f"{100 * pair['detectable']:.1f}",
        "p": p_text(pair["adjusted"]),
        "verdict": pair["verdict"],
        "css": css,
    }


def _family_table(summary: Mapping[str, Any]) -> list[View]:
    greedy, models = summary["accuracy"], summary["models"]
    families = sorted({name for cell in greedy.values() for row in cell.values() for name in row} - {"all"})
    rows = []
    for family in families:
        cells = []
        for model in models:
            found = [greedy[model].get(code, {}).get(family) for code, _ in LANGUAGES]
            cells.append(
                [{"text": f"{100 * c['accuracy']:.0f}", "share": round(c["accuracy"], 3)} if c else None for c in found]
            )
        rows.append({"family": family, "cells": cells})
    return rows


def samples_view(rows: Sequence[Mapping[str, Any]], models: Sequence[str], families: Sequence[str]) -> list[View]:
    """Conversations, then the first held-out problem of each family: not chosen for how well it went.

    Languages alternate, so that a problem stands beside its twin in the other language.
    """
    talks: dict[tuple[str, str, str], View] = {}
    for row in rows:
        family = row.get("family")
        if row["kind"] == "conversation" or (row["kind"] == "greedy" and family in families):
            key = (row["language"], family or "", row["prompt"])
            talk = talks.setdefault(
                key,
                {"language": row["language"], "family": family, "prompt": row["prompt"], "replies": []},
            )
            if row["model"] in models:
                correct = row["correct"][0] if "correct" in row else None
                talk["replies"].append({"model": row["model"], "text": row["replies"][0].strip(), "correct": correct})
    views = []
    for chosen in (None, *families):
        columns = [
            [talk for talk in talks.values() if (talk["language"], talk["family"]) == (code, chosen)]
            for code, _ in LANGUAGES
        ]
        most = max(map(len, columns)) if chosen is None else 1
        views += [column[at] for at in range(most) for column in columns if at < len(column)]
    return views


def arena_view(ratings: Mapping[str, Any]) -> View:
    """From the arena's ratings.json."""
    order = sorted(ratings["ratings"], key=lambda row: (-row["rating"], row["model"]))
    rows = [(r["model"], [Estimate(r["rating"], r["lower"], r["upper"], f"s-{r['model']}")]) for r in order]
    label = "rating, with 95 % intervals"
    figures = [_figure("Strength in pairwise battles", interval_chart("Arena ratings", rows, label, whole))]
    by_language = ratings.get("languages", {})
    if by_language:
        cells = {(code, row["model"]): row for code, board in by_language.items() for row in board["ratings"]}
        split = [
            (
                r["model"],
                [_rating(cells[code, r["model"]], code) for code, _ in LANGUAGES if (code, r["model"]) in cells],
            )
            for r in order
        ]
        chart = interval_chart("Arena ratings by language", split, label, whole)
        figures.append(_figure("The same, by language", chart, [(name, f"s-{code}") for code, name in LANGUAGES]))
    return {
        "figures": figures,
        "rows": [
            {
                "rank": r["rank"],
                "model": r["model"],
                "rating": f"{r['rating']:.0f}",
                "interval": f"{r['lower']:.0f} to {r['upper']:.0f}",
                "record": f"{r['wins']} / {r['ties']} / {r['losses']}",
                "separated": r["separated"],
            }
            for r in order
        ],
        "notes": ratings.get("notes", []),
    }


def _rating(row: Mapping[str, Any], code: str) -> Estimate:
    return Estimate(row["rating"], row["lower"], row["upper"], f"s-{code}")


def cost_view(cost: Mapping[str, Any]) -> list[View]:
    """From the quantised model's cost.json: `original` and `quantized`, measured in the same way.

    Speed is not among them: no two runs measure the same, and the report is the same for the same artifacts.
    """
    rows = []
    before, after = cost["original"], cost["quantized"]
    if "bytes" in before:
        change = f"{before['bytes'] / max(after['bytes'], 1):.2f} × smaller"
        rows.append(_cost("size on disk", megabytes(before["bytes"]), megabytes(after["bytes"]), change))
    for code, name in named(before.get("bits_per_byte", {})):
        a, b = before["bits_per_byte"][code], after["bits_per_byte"][code]
        rows.append(_cost(f"bits per byte, {name}", f"{a:.4f}", f"{b:.4f}", f"{b - a:+.4f}".replace("-", "−")))
    for code, name in LANGUAGES:
        if code in before.get("accuracy", {}):
            a, b = before["accuracy"][code], after["accuracy"][code]
            rows.append(_cost(f"problems solved, {name}", f"{a:.1%}", f"{b:.1%}", points(b - a) + " points"))
    return rows


def _cost(name: str, original: str, quantized: str, change: str) -> View:
    return {"name": name, "original": original, "quantized": quantized, "change": change}
