"""The model card (README.md) of a model artifact, from its manifest and what stands beside it.

README.md is no part of an artifact's content, so a card may be written again when there is more to say.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from qwill.base.artifact import Manifest, need_manifest
from qwill.base.files import read_json, write_text
from qwill.data.languages import in_order, name_of
from qwill.hub.headline import spelled
from qwill.hub.lineage import source_name

DONE = {
    "base": "It was pretrained from scratch and has not been taught to follow instructions.",
    "sft": "It was pretrained from scratch and fine-tuned on instructions and generated tasks.",
    "aligned": "It was pretrained from scratch, fine-tuned, and improved by reinforcement learning (GRPO) on tasks "
    "whose answers are checked by programs.",
    "int8": "It is the aligned model with its weights in int8 (`compressed-tensors`, weight-only).",
}


def model_card(folder: Path, summary: Mapping[str, Any] | None = None) -> str:
    """Markdown for a sealed model folder. `summary` is summary.json of an evaluation that this model took part in.

    Raises ArtifactError when the folder has no manifest.
    """
    manifest = need_manifest(folder)
    parts = [
        _front(manifest),
        f"# {manifest.stage} {manifest.content_id[:12]}\n\n{_what(folder, manifest)}",
        _accuracy(manifest, summary) if summary else "",
        _cost(folder),
        _metrics(manifest),
        _sources(manifest),
        _making(manifest),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def refresh_cards(models: Iterable[Path], summary: Mapping[str, Any]) -> None:
    """Write the cards again of models that have been evaluated; scores of `qwill eval` stay in them."""
    from qwill.hub.eval_card import kept_scores

    for folder in models:
        path, new = folder / "README.md", model_card(folder, summary)
        old = path.read_bytes().decode(errors="replace") if path.is_file() else ""
        write_text(path, kept_scores(old, new))


def _front(manifest: Manifest) -> str:
    # Hugging Face reads this block; the licence is that of the weights only where every source agrees, so it is not
    # claimed here.
    lines = ["---", "library_name: transformers", "pipeline_tag: text-generation"]
    lines += [
        "language:",
        *(f"- {code}" for code in _languages(manifest)),
        "license: other",
        "tags:",
        "- qwen3",
        "- qwill",
        "---",
    ]
    if manifest.stage == "int8":
        lines.insert(-1, "- compressed-tensors")
    return "\n".join(lines)


def _languages(manifest: Manifest) -> list[str]:
    """Codes of the languages that the model was measured in, English and Chinese where nothing is told."""
    measured = manifest.metrics.get("bits_per_byte")
    return in_order(measured) if isinstance(measured, Mapping) and measured else ["en", "zh"]


def _spoken(manifest: Manifest) -> str:
    *most, last = map(name_of, _languages(manifest))
    return f"{', '.join(most)} and {last}" if most else last


def _what(folder: Path, manifest: Manifest) -> str:
    config = read_json(folder / "config.json")
    shape = f"{config.get('num_hidden_layers')} layers, width {config.get('hidden_size')}"
    if config.get("num_experts"):
        shape += f", {config['num_experts']} experts of which {config.get('num_experts_per_tok')} work on a token"
    done = DONE.get(manifest.stage, "")
    return (
        f"A small `{config.get('model_type')}` language model for {_spoken(manifest)} ({shape}, vocabulary "
        f"{config.get('vocab_size'):,}). {done}\n\nIt shows the whole life of a model on one small machine: it has "
        "read little, knows little, and states false things with confidence. Use it to learn and to test tools, not to "
        "answer questions."
    )


def _accuracy(manifest: Manifest, summary: Mapping[str, Any]) -> str:
    scores = summary.get("accuracy", {}).get(manifest.stage, {})
    if not scores:
        return ""
    lines = ["## Accuracy on held-out problems", "", "Greedy replies, 95 % Wilson intervals.", ""]
    lines += ["| language | problems | correct | interval |", "|---|---|---|---|"]
    for language, families in sorted(scores.items()):
        score = families["all"]
        interval = f"{score['lower']:.1%} to {score['upper']:.1%}"
        name = name_of(language)
        lines.append(f"| {name} | {score['total']:,} | {score['accuracy']:.1%} | {interval} |")
    return "\n".join(lines)


def _cost(folder: Path) -> str:
    if not (folder / "cost.json").is_file():
        return ""
    cost = read_json(folder / "cost.json")
    before, after = cost["original"], cost["quantized"]
    rows = [("size of the weights, bytes", before["bytes"], after["bytes"])]
    for key, what in (("bits_per_byte", "bits per byte"), ("accuracy", "problems solved")):
        for language in sorted(before[key]):
            rows.append((f"{what}, {name_of(language)}", before[key][language], after[key][language]))
    run = read_json(folder / "run.json") if (folder / "run.json").is_file() else {}
    if speeds := run.get("tokens_per_second"):
        rows.append(("tokens per second (where it was made)", speeds["original"], speeds["quantized"]))
    lines = ["## What quantisation cost", "", "| | original | quantised |", "|---|---|---|"]
    return "\n".join(lines + [f"| {name} | {spelled(a)} | {spelled(b)} |" for name, a, b in rows])


def _metrics(manifest: Manifest) -> str:
    rows = []
    for name, value in manifest.metrics.items():
        if isinstance(value, Mapping):
            rows += [(f"{name}, {name_of(k)}", v) for k, v in value.items()]
        else:
            rows.append((name, value))
    if not rows:
        return ""
    lines = [f"| {name.replace('_', ' ')} | {spelled(value)} |" for name, value in rows]
    return "\n".join(["## Measured while it was made", "", "| | |", "|---|---|", *lines])


def _sources(manifest: Manifest) -> str:
    """Every package that the model or an ancestor was made from, with its licence as far as it is stated."""
    sources: dict[str, Mapping[str, Any]] = {}
    for record in [{"sources": manifest.sources}, *manifest.ancestry.values()]:
        for source in record["sources"]:
            sources[source_name(source)] = source
    if not sources:
        return ""
    lines = ["## Data", "", "| package | licence | sha256 |", "|---|---|---|"]
    for name, source in sorted(sources.items()):
        licence = source.get("licence") or "not stated by the package"
        lines.append(f"| {name} | {licence} | `{str(source.get('sha256', ''))[:16]}` |")
    return "\n".join(
        [
            *lines,
            "",
            "The texts keep their own licences, and some packages state none: do not publish the weights or the texts "
            "before you have looked at each.",
        ]
    )


def _making(manifest: Manifest) -> str:
    libraries = ", ".join(f"{name} {version}" for name, version in sorted(manifest.libraries.items()))
    return "\n".join(
        [
            "## How it was made",
            "",
            f"- content id `{manifest.content_id}`, recipe id `{manifest.recipe_id}`",
            f"- stage {manifest.stage} (version {manifest.stage_version}), seed {manifest.seed}, "
            f"{manifest.threads} threads, {manifest.dtype}",
            f"- {libraries}",
            "",
            "`qwill.json` holds all settings, the hash of every tensor, and the same for every ancestor; "
            "`qwill lineage FOLDER` shows it as a tree, `--verify` hashes everything again.",
        ]
    )
