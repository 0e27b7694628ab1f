"""Stage `modes`: models that think and don't, on held-out problems in every mode; does each reply obey its mode?

A mode is how a problem is asked: enable_thinking on or off, a switch in the user's text, a second turn whose switch
undoes the first's (Qwen3's ThinkFollow, arXiv 2505.09388 §4.6), and thinking within a budget.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from importlib import resources
from typing import TYPE_CHECKING, Any

from qwill.base.errors import ConfigError, DataError
from qwill.base.files import read_jsonl, write_json, write_jsonl, write_text
from qwill.base.stage import StageContext
from qwill.evaluate.task_data import load_rows
from qwill.evaluate.tasks import LANGUAGES, final_answer, verify
from qwill.text.thinking import asked_to_think, thinking_budget, well_formed

if TYPE_CHECKING:
    from qwill.engine.language_model import LanguageModel

# name: (enable_thinking, switch of an earlier turn, switch of the last one)
MODES: dict[str, tuple[bool, str, str]] = {
    "thinking": (True, "", ""),
    "not_thinking": (False, "", ""),
    "think_switch": (True, "", "/think"),
    "no_think_switch": (True, "", "/no_think"),
    "think_then_no_think": (True, "/think", "/no_think"),
    "no_think_then_think": (True, "/no_think", "/think"),
    "budget": (True, "", ""),
}
WORDS = {
    "thinking": "thinking, no switch", "not_thinking": "enable_thinking=False", "think_switch": "/think",
    "no_think_switch": "/no_think", "think_then_no_think": "/think, then /no_think",
    "no_think_then_think": "/no_think, then /think", "budget": "thinking within the budget",
}  # fmt: skip


@dataclass(frozen=True)
class ModesConfig:
    """`models`: sections of the recipe, in the order of the table. `problems` are for each language (0: all), answered
    greedily. thinking_budget: tokens, of the mode `budget`; 0 leaves that mode out."""

    models: tuple[str, ...] = ("sft", "aligned")
    problems: int = 100
    max_tokens: int = 256
    thinking_budget: int = 32
    slots: int = 64

    def __post_init__(self) -> None:
        if not self.models:
            raise ConfigError("models is empty; name at least one section that makes a model.")
        for name in ("problems", "thinking_budget"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} is {getattr(self, name)}; expected 0 or more.")
        for name in ("max_tokens", "slots"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; expected 1 or more.")


def inputs(config: ModesConfig) -> tuple[str, ...]:
    return (*config.models, "tasks")


def run(config: ModesConfig, ctx: StageContext) -> dict[str, Any]:
    """Write replies.jsonl, summary.json and report.html; what one model has said is kept in `ctx.work`."""
    tasks = load_rows(ctx.inputs["tasks"] / "heldout.jsonl")
    rows: list[dict[str, Any]] = []
    for name in config.models:
        done = ctx.work / f"{name}.jsonl"
        if not done.is_file():
            write_jsonl(done, _examine(name, config, ctx, tasks))
        rows += [row for _, row in read_jsonl(done)]
    summary = summarise(rows, config.models)
    write_jsonl(ctx.out / "replies.jsonl", rows)
    write_json(ctx.out / "summary.json", summary)
    write_text(ctx.out / "report.html", page(summary, config))
    last = summary[config.models[-1]]
    return {
        f"{what}_{mode}_{language}": last[mode][language][what]
        for mode in ("thinking", "not_thinking") for language in last[mode] for what in ("accuracy", "obeyed")
    }  # fmt: skip


def ask(tasks: Sequence[Mapping[str, Any]], place: int, mode: str) -> list[dict[str, Any]]:
    """The messages that put the problem at `place` in a mode; an earlier turn is the problem before it, answered."""
    _, earlier, switch = MODES[mode]
    messages: list[dict[str, Any]] = []
    if earlier:
        before = tasks[place - 1]
        messages = [{"role": "user", "content": f"{before['prompt']} {earlier}"},
                    {"role": "assistant", "content": before["answer"]}]  # fmt: skip
    return [*messages, {"role": "user", "content": f"{tasks[place]['prompt']} {switch}".strip()}]


def _examine(
    name: str, config: ModesConfig, ctx: StageContext, tasks: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    from qwill.engine.language_model import load

    lm = load(ctx.inputs[name])
    if not lm.thinks:
        raise DataError(f"{ctx.inputs[name]} has no <think> in its tokenizer, so it has one mode only.")
    rows: list[dict[str, Any]] = []
    modes = [mode for mode in MODES if mode != "budget" or config.thinking_budget]
    for language in LANGUAGES:
        asked = [task for task in tasks if task["language"] == language][: config.problems or None]
        if not asked:
            raise DataError(f"{ctx.inputs['tasks']}/heldout.jsonl has no problem in '{language}'; run `qwill tasks`.")
        with ctx.display.stage(f"{name} {language}", len(modes), "mode") as bar:
            for number, mode in enumerate(modes, start=1):
                rows += _replies(lm, name, mode, language, asked, config)
                bar.update(number, right=sum(row["correct"] for row in rows[-len(asked) :]))
    return rows


def _replies(
    lm: LanguageModel, name: str, mode: str, language: str, asked: Sequence[Mapping[str, Any]], config: ModesConfig
) -> list[dict[str, Any]]:
    from qwill.engine.generate import generate
    from qwill.engine.sampler import Sampling

    enabled = MODES[mode][0]
    conversations = [ask(asked, place, mode) for place in range(len(asked))]
    groups = generate(
        lm.model, [lm.prompt(messages, enabled) for messages in conversations],
        Sampling(max_tokens=config.max_tokens, temperature=0.0), slots=config.slots, stop_ids=lm.stop_ids,
        vocab_size=lm.tokenizer.vocab_size,
        budget=thinking_budget(lm.tokenizer, config.thinking_budget) if mode == "budget" else None,
    )  # fmt: skip
    rows = []
    for task, messages, (reply,) in zip(asked, conversations, groups, strict=True):
        text, ended = lm.tokenizer.decode(reply.token_ids), reply.finish_reason == "stop"
        thinks = asked_to_think(messages, enabled)
        rows.append({
            "model": name, "mode": mode, "language": language, "id": task["id"], "reply": text,
            "tokens": len(reply.token_ids), "correct": ended and verify(task, text),
            "obeyed": well_formed(text, thinks, enabled), "answered": ended and bool(final_answer(text)),
        })  # fmt: skip
    return rows


def summarise(rows: Sequence[Mapping[str, Any]], models: Sequence[str]) -> dict[str, Any]:
    """model → mode → language → accuracy and the share of replies that obey the mode, each with Wilson's interval."""
    from qwill.evaluate.statistics import wilson

    summary: dict[str, Any] = {}
    for name in models:
        for row in (row for row in rows if row["model"] == name):
            summary.setdefault(name, {}).setdefault(row["mode"], {}).setdefault(row["language"], []).append(row)
        for modes in summary[name].values():
            for language, own in modes.items():
                right, obeyed = sum(row["correct"] for row in own), sum(row["obeyed"] for row in own)
                first, second = wilson(right, len(own)), wilson(obeyed, len(own))
                modes[language] = {
                    "problems": len(own), "accuracy": round(right / len(own), 4),
                    "accuracy_interval": [round(first.lower, 4), round(first.upper, 4)],
                    "obeyed": round(obeyed / len(own), 4),
                    "obeyed_interval": [round(second.lower, 4), round(second.upper, 4)],
                    "tokens": round(sum(row["tokens"] for row in own) / len(own), 1),
                }  # fmt: skip
    return summary


def page(summary: Mapping[str, Any], config: ModesConfig) -> str:
    """One self-contained HTML page: a table of every model in every mode."""
    css = (resources.files("qwill.base") / "page.css").read_text(encoding="utf-8")
    head = "".join(f"<th>{word}</th>" for word in ("model", "mode", "language", "right", "obeys the mode", "tokens"))
    lines = []
    for name, modes in summary.items():
        for mode, languages in modes.items():
            words = WORDS[mode] + (f" of {config.thinking_budget} tokens" if mode == "budget" else "")
            for language, own in languages.items():
                cells = [name, words, language, _percent(own, "accuracy"), _percent(own, "obeyed"), str(own["tokens"])]
                lines.append("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in cells) + "</tr>")
    note = "Greedy replies to held-out problems; in brackets Wilson's 95 % interval."
    note += " 对保留题目的贪心回复；括号内为 Wilson 95% 区间。"
    return (
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>"
        f"<title>Both modes · 两种模式</title><style>{css}</style><main><h1>Both modes · 两种模式</h1><p>{note}</p>"
        f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table></main></html>\n"
    )


def _percent(own: Mapping[str, Any], what: str) -> str:
    low, high = own[f"{what}_interval"]
    return f"{100 * own[what]:.0f} % ({100 * low:.0f} to {100 * high:.0f})"
