"""Stage `fusion`: one training set of both modes, from conversations that think and conversations that do not.

As Qwen3's (arXiv 2505.09388 §4.3, table 9): a user's or the system's `/think` and `/no_think` say which mode a reply
has, the last one counts, a reply that does not think has the empty block, and without a switch a model thinks.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qwill.base.config import need_share
from qwill.base.errors import ConfigError, DataError
from qwill.base.files import read_jsonl, write_json, write_text
from qwill.base.stage import StageContext
from qwill.data.conversation import problem
from qwill.text.content import content_text
from qwill.text.surrogates import all_without_surrogates
from qwill.text.thinking import SWITCHES, last_switch

Row = dict[str, Any]


@dataclass(frozen=True)
class FusionConfig:
    """thinking: the share of conversations that think; as many are taken of each kind as keep it, at most
    `conversations` in all (0: no limit).

    switched: the share of thinking conversations with `/think` (the others have no switch), and of those that do not
    think with `/no_think` (the others are trained as enable_thinking=False gives them). in_system: the share of these
    switches that a system message has. several: the share of conversations that are joined to talks of 2 to `turns`
    turns, each with a mode of its own and a switch where the mode changes.
    """

    thinking: float = 0.5
    conversations: int = 0
    switched: float = 0.5
    in_system: float = 0.1
    several: float = 0.2
    turns: int = 3

    def __post_init__(self) -> None:
        need_share(self, "thinking", "switched", "in_system", "several")
        if self.conversations < 0 or self.turns < 2:
            raise ConfigError(
                f"conversations is {self.conversations} and turns {self.turns}; expected 0 or more, and 2 or more."
            )


def run(config: FusionConfig, ctx: StageContext) -> dict[str, Any]:
    """Fill `ctx.out` with train.jsonl, heldout.jsonl and account.json.

    Raises DataError naming file and line for a conversation that can't be trained on, and for an input that has none of
    the kind that it is for.
    """
    account: dict[str, Any] = {}
    for part in ("train", "heldout"):
        thinking = [r for r in _read(ctx.inputs["rejection"] / f"{part}.jsonl") if thinks(r)]
        plain = [r for r in _read(ctx.inputs["dialogues"] / f"{part}.jsonl") if not thinks(r)]
        for name, found, wanted in (
            ("rejection", thinking, config.thinking),
            ("dialogues", plain, 1 - config.thinking),
        ):
            if part == "train" and wanted and not found:
                kind = "thinking" if name == "rejection" else "without thinking"
                raise DataError(f"{ctx.inputs[name]}/{part}.jsonl holds no conversation {kind}; name another input.")
        rows, counts = fuse(thinking, plain, config, random.Random(f"{ctx.seed}/fusion/{part}"))
        lines = (json.dumps(row, ensure_ascii=False) for row in rows)
        write_text(ctx.out / f"{part}.jsonl", "".join(line + "\n" for line in lines))
        account[part] = counts
    write_json(ctx.out / "account.json", account)
    return {name: account["train"][name] for name in ("conversations", "thinking_share")} | {
        f"heldout_{name}": account["heldout"][name] for name in ("conversations",)
    }


def _read(path: Path) -> list[Row]:
    rows = []
    for line, row in read_jsonl(path):
        row = all_without_surrogates(row)
        messages = row.get("messages")
        wrong = problem(messages, row.get("tools") or []) if isinstance(messages, list) else "messages: not a list"
        if wrong:
            raise DataError(f"{path}: line {line}: {wrong}; mend or remove it.")
        rows.append(row)
    return rows


def thinks(row: Row) -> bool:
    """Whether its last reply does."""
    last = row["messages"][-1]
    return bool(str(last.get("reasoning_content") or "").strip()) or "</think>" in (content_text(last["content"]) or "")


def fuse(
    thinking: Sequence[Row], plain: Sequence[Row], config: FusionConfig, rng: random.Random
) -> tuple[list[Row], dict[str, Any]]:
    """(conversations in random order, what they are by mode, switch and language)."""
    first, second = _shares(len(thinking), len(plain), config)
    chosen = [(row, True) for row in _drawn(thinking, first, rng)]
    chosen += [(row, False) for row in _drawn(plain, second, rng)]
    rng.shuffle(chosen)
    # Tools and what is a talk already stay as they are, and so does what holds a switch of its own.
    joined = [c for c in chosen if _simple(c[0]) and rng.random() < config.several]
    taken = {id(row) for row, _ in joined}
    rows = [_single(row, mode, config, rng) for row, mode in chosen if id(row) not in taken]
    languages = sorted({str(row.get("language")) for row, _ in joined})
    for language in languages:
        own = [c for c in joined if str(c[0].get("language")) == language]
        while own:
            size = min(len(own), rng.randint(2, config.turns))
            rows.append(_talk(own[:size], rng))
            own = own[size:]
    rng.shuffle(rows)
    modes = [mode for _, mode in chosen]
    return rows, {
        "conversations": len(rows),
        "replies": len(chosen),
        "thinking_share": round(sum(modes) / len(modes), 4) if modes else 0.0,
        "in_talks": len(joined),
        "thinking": _by_language([row for row, mode in chosen if mode]),
        "not_thinking": _by_language([row for row, mode in chosen if not mode]),
    }


def _by_language(rows: Sequence[Row]) -> dict[str, int]:
    names = [str(row.get("language")) for row in rows]
    return {name: names.count(name) for name in sorted(set(names))}


def _shares(thinking: int, plain: int, config: FusionConfig) -> tuple[int, int]:
    """How many of each keep the share: the scarcer kind decides."""
    most = config.conversations or thinking + plain
    # Not divided by a share, which may be as small as can be.
    if thinking < most * config.thinking:
        most = round(thinking / config.thinking)
    if plain < most * (1 - config.thinking):
        most = round(plain / (1 - config.thinking))
    first = min(thinking, round(most * config.thinking))
    return first, min(plain, most - first)


def _drawn(rows: Sequence[Row], count: int, rng: random.Random) -> list[Row]:
    """`count` rows, of each language as much as there is of it."""
    languages = sorted({str(row.get("language")) for row in rows})
    out: list[Row] = []
    for number, language in enumerate(languages):
        own = [row for row in rows if str(row.get("language")) == language]
        left = count - len(out)
        rest = sum(str(row.get("language")) in languages[number:] for row in rows)
        out += rng.sample(own, min(len(own), round(left * len(own) / rest)))
    return out


def _simple(row: Row) -> bool:
    roles = [message["role"] for message in row["messages"]]
    return roles == ["user", "assistant"] and not row.get("tools") and _free(row)


def _free(row: Row) -> bool:
    """Whether nobody has thrown a switch in it yet."""
    texts = (content_text(m["content"]) or "" for m in row["messages"] if m["role"] != "assistant")
    return last_switch(texts) is None


def _single(row: Row, mode: bool, config: FusionConfig, rng: random.Random) -> Row:
    messages = row["messages"]
    if row.get("tools") or not _free(row) or rng.random() >= config.switched:
        return row
    if messages[0]["role"] == "system" or rng.random() < config.in_system:
        return row | {"messages": _with_system(messages, mode)}
    # In the last turn: the earlier ones of a talk have replies that no switch was meant for.
    at = max(i for i, message in enumerate(messages) if message["role"] == "user")
    return row | {"messages": [_switched(m, mode, rng) if i == at else m for i, m in enumerate(messages)]}


def _with_system(messages: Sequence[Mapping[str, Any]], mode: bool) -> list[Mapping[str, Any]]:
    if messages[0]["role"] != "system":
        return [{"role": "system", "content": SWITCHES[mode]}, *messages]
    text = content_text(messages[0]["content"]) or ""
    return [dict(messages[0]) | {"content": f"{text} {SWITCHES[mode]}".strip()}, *messages[1:]]


def _switched(message: Mapping[str, Any], mode: bool, rng: random.Random) -> dict[str, Any]:
    """The switch stands behind what the user says, now and then before it."""
    text, word = content_text(message["content"]) or "", SWITCHES[mode]
    return dict(message) | {"content": f"{word} {text}" if rng.random() < 0.2 else f"{text} {word}"}


def _talk(parts: Sequence[tuple[Row, bool]], rng: random.Random) -> Row:
    """Single questions as one talk: a switch wherever the mode changes, and sometimes where it need not stand."""
    now, messages = True, list[Mapping[str, Any]]()
    for row, mode in parts:
        user, reply = row["messages"]
        messages += [_switched(user, mode, rng) if mode != now or rng.random() < 0.3 else user, reply]
        now = mode
    first = parts[0][0]
    return {
        "id": "+".join(str(row.get("id")) for row, _ in parts), "source": "fusion",
        "language": str(first.get("language")), "messages": messages,
    }  # fmt: skip
