"""The top and the foot of the report: the run in a sentence and a few numbers, and what it was made with."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from qwill.base.numbers import percent, short
from qwill.data.languages import name_of
from qwill.evaluate.report_views import BASELINES, LANGUAGES, named, points

if TYPE_CHECKING:
    from qwill.base.artifact import Manifest


def overview(
    funnel: Mapping[str, Any] | None, parameters: tuple[int, int] | None, found: Mapping[str, Any]
) -> dict[str, Any]:
    """`tiles`, `summary` and `summary_zh`, each only from what is there."""
    tiles = []
    if funnel and funnel["languages"]:
        note = " + ".join(f"{part['size']} {part['name']}" for part in funnel["languages"])
        tiles.append(_tile("Curated text", funnel["size"], "", note))
    if parameters:
        total, active = parameters
        note = f"{short(active)} of them work on any one token" if active < total else "all work on every token"
        tiles.append(_tile("Parameters", short(total), "", note))
    if found["compression"]:
        tiles.append(_compression_tile(found["compression"]))
    if found["accuracy"]:
        tiles += _accuracy_tiles(found["accuracy"])
    english, chinese = _sentences(funnel, parameters, found)
    return {"tiles": tiles, "summary": english, "summary_zh": chinese}


def _tile(what: str, number: str, unit: str, note: str) -> dict[str, str]:
    return {"what": what, "number": number, "unit": unit, "note": note}


def _compression_tile(compression: Mapping[str, Any]) -> dict[str, str]:
    model = compression["model"]
    number = " · ".join(f"{model[code]:.2f}" for code, _ in named(model))
    names = " · ".join(name for _, name in named(model))
    xz = compression.get("xz", {})
    beside = " · ".join(f"{xz[code]:.2f}" for code, _ in named(model) if code in xz)
    note = names + (f"; xz needs {beside}" if beside else "")
    return _tile("Bits per byte, unseen text", number, "", note)


def _accuracy_tiles(summary: Mapping[str, Any]) -> list[dict[str, str]]:
    """SFT beside aligned where both are there; otherwise the last model alone."""
    accuracy, models = summary["accuracy"], summary["models"]
    tiles = []
    for code, name in LANGUAGES:
        if "sft" in models and "aligned" in models:
            before, after = (accuracy[m].get(code, {}).get("all") for m in ("sft", "aligned"))
            if before and after:
                number = f"{percent(before['accuracy']).removesuffix(' %')} → {percent(after['accuracy'])}"
                change = points(after["accuracy"] - before["accuracy"])
                tiles.append(_tile(f"Problems solved, {name}", number, "", f"before and after RL: {change} points"))
        elif cell := accuracy[models[-1]].get(code, {}).get("all"):
            tiles.append(_tile(f"Problems solved, {name}", percent(cell["accuracy"]), "", f"by {models[-1]}"))
    return tiles


def _sentences(
    funnel: Mapping[str, Any] | None, parameters: tuple[int, int] | None, found: Mapping[str, Any]
) -> tuple[str, str]:
    english, chinese = [], []
    if parameters:
        total, active = parameters
        kind, kind_zh = ("mixture of experts", "混合专家") if active < total else ("dense model", "稠密")
        size = f" of {short(total)} parameters"
        english.append(f"A small Qwen3 {kind}{size}, made from nothing but text in one run.")
        chinese.append(f"一个只有 {short(total)} 参数的 Qwen3 {kind_zh}模型，在一次运行中从零训练而成。")
    else:
        english.append("A small model, made from nothing but text in one run.")
        chinese.append("一个小型模型，在一次运行中从零训练而成。")
    if funnel and funnel["languages"]:
        *most, last = [f"{part['size']} of {part['name']}" for part in funnel["languages"]]
        sizes = ", ".join(most) + " and " + last if most else last
        english.append(f"Its corpus is {sizes}.")
        chinese.append(
            "语料：" + "，".join(f"{name_of(p['code'], chinese=True)} {p['size']}" for p in funnel["languages"]) + "。"
        )
    if compression := found["compression"]:
        baselines = [key for key, _ in BASELINES[1:] if key in compression]
        model = compression["model"]
        wins = baselines and all(
            model[code] < compression[key][code] for key in baselines for code in model if code in compression[key]
        )
        if wins:
            english.append("It predicts unseen text in every language in fewer bits than every baseline here.")
            chinese.append("它预测未见文本所需的比特数少于此处所有基线。")
    return " ".join(english), "".join(chinese)


def machine_rows(manifests: Mapping[str, "Manifest"], machine: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Names and values: this machine, then what the manifests pin. Nothing that changes from run to run."""
    rows = []
    for name, value in machine.items():
        unit = " GiB" if name.endswith("_gib") else ""
        rows.append((name.removesuffix("_gib").replace("_", " "), _value(value) + unit))
    for title, values in (
        ("threads", [m.threads for m in manifests.values()]),
        ("precision", [m.dtype for m in manifests.values()]),
        ("seed", [m.seed for m in manifests.values()]),
    ):
        known = sorted({str(value) for value in values if value is not None})
        if known:
            rows.append((title, ", ".join(known)))
    libraries: dict[str, set[str]] = {}
    for manifest in manifests.values():
        for name, version in manifest.libraries.items():
            libraries.setdefault(name, set()).add(str(version))
    rows += [(name, ", ".join(sorted(versions))) for name, versions in sorted(libraries.items())]
    return rows


def _value(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(str(item) for item in value)
    if isinstance(value, dict):
        return ", ".join(f"{name} {item}" for name, item in value.items())
    return str(value)
