"""What a judge compares: prompts from a file, replies from a file or from a model, and people's votes on the same."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from qwill.base.errors import DataError
from qwill.base.files import canonical_json, read_json, read_jsonl
from qwill.evaluate.arena_table import OUTCOMES
from qwill.evaluate.ask import Asking, Respondent
from qwill.evaluate.judge import Pair
from qwill.evaluate.kept_rows import keep, read_kept

BATCH = 4  # slots' worth of prompts between two writes of what was replied


@dataclass(frozen=True)
class Prompt:
    """`text` is what the judge reads, `messages` what a model is asked."""

    id: str
    text: str
    messages: list[dict[str, Any]]
    language: str


def read_prompts(path: Path, limit: int = 0) -> list[Prompt]:
    """Rows with `prompt` (or `instruction`, or `messages`) and perhaps `id` and `language`, of JSON lines or one JSON
    list; the first `limit` of them, 0 for all. Raises DataError naming file and row."""
    prompts: list[Prompt] = []
    seen: dict[str, str] = {}
    for where, row in _rows(path):
        messages = _messages(row, where)
        text = messages[0]["content"] if len(messages) == 1 else _flat(messages)
        number = _id(row, text, where)
        if number in seen:
            raise DataError(f"{where} has the id {number!r} of {seen[number]}; give each prompt its own.")
        seen[number] = where
        prompts.append(Prompt(number, text, messages, _language(row, text, where)))
        if limit and len(prompts) == limit:
            break
    if not prompts:
        raise DataError(f"{path}: there are no prompts in it; expected a JSON object with 'prompt' on each line.")
    return prompts


def read_replies(path: Path, prompts: Sequence[Prompt]) -> dict[str, str]:
    """A reply to each prompt, by its id, from rows with `reply` (or `output`) and `id`, `prompt_id` or the prompt
    itself. Raises DataError naming file and row, or the first prompt that has no reply."""
    ids, texts = {prompt.id for prompt in prompts}, {prompt.text: prompt.id for prompt in prompts}
    replies: dict[str, str] = {}
    for where, row in _rows(path):
        reply = row.get("reply", row.get("output"))
        if not isinstance(reply, str):
            raise DataError(f"{where}: 'reply' is {_shown(reply)}, expected the text of a reply.")
        known = row.get("id", row.get("prompt_id"))
        found = str(known) if known is not None and str(known) in ids else texts.get(_text(row))
        if found is not None:
            replies[found] = reply
    for prompt in prompts:
        if prompt.id not in replies:
            raise DataError(f"{path}: there is no reply to the prompt {prompt.id!r} ({prompt.text[:60]!r}); add one.")
    return replies


def make_replies(
    model: Respondent,
    prompts: Sequence[Prompt],
    asking: Asking,
    kept: Path | None = None,
    progress: Callable[[int], None] | None = None,
) -> tuple[dict[str, str], dict[str, str]]:
    """The model's replies by prompt id, and why there is none. What `kept` holds already is not asked again."""
    known = read_kept(kept) if kept else {}
    replies: dict[str, str] = {}
    failed: dict[str, str] = {}
    missing = []
    how = {name: value for name, value in asdict(asking).items() if name != "slots"}
    for prompt in prompts:
        key = hashlib.sha256(canonical_json([model.identity, prompt.messages, how])).hexdigest()[:32]
        if key in known:
            replies[prompt.id] = known[key]["reply"]
        else:
            missing.append((prompt, key))
    size = BATCH * asking.slots
    for part in (missing[start : start + size] for start in range(0, len(missing), size)):
        if progress:
            progress(len(replies))
        rows = []
        for (prompt, key), answer in zip(part, model.ask([p.messages for p, _ in part], asking), strict=True):
            if answer.error:
                failed[prompt.id] = answer.error
                continue
            replies[prompt.id] = answer.text
            rows.append({"key": key, "id": prompt.id, "prompt": prompt.text, "reply": answer.text, "model": model.name})
        if kept:
            keep(kept, rows)
    if progress:
        progress(len(replies))
    return replies, failed


def make_pairs(prompts: Sequence[Prompt], replies_a: Mapping[str, str], replies_b: Mapping[str, str]) -> list[Pair]:
    """A pair for each prompt that both have replied to."""
    return [
        Pair(prompt.id, prompt.text, replies_a[prompt.id], replies_b[prompt.id], prompt.language)
        for prompt in prompts
        if prompt.id in replies_a and prompt.id in replies_b
    ]


@dataclass(frozen=True)
class HumanVote:
    """`outcome` as seen from model a; `replies` of a and b on which it was cast, None where the file doesn't say."""

    outcome: float
    replies: tuple[str, str] | None


def read_human(path: Path, prompts: Sequence[Prompt], model_a: str, model_b: str) -> dict[str, list[HumanVote]]:
    """People's votes on these two models, by prompt id: rows as `qwill arena rate` reads them, with `prompt_id` or
    `prompt`. Votes on other models or prompts are passed over. Raises DataError naming the row."""
    ids, texts = {prompt.id for prompt in prompts}, {prompt.text: prompt.id for prompt in prompts}
    votes: dict[str, list[HumanVote]] = {}
    for where, row in _rows(path):
        sides = (row.get("model_a"), row.get("model_b"))
        if not all(isinstance(side, str) and side for side in sides):
            raise DataError(f"{where}: a vote needs model_a and model_b, the names of two models.")
        outcome = _outcome(row, where)
        if sides not in ((model_a, model_b), (model_b, model_a)):
            continue
        known = row.get("prompt_id")
        found = str(known) if known is not None and str(known) in ids else texts.get(_text(row))
        if found is None:
            continue
        replies = (row.get("reply_a"), row.get("reply_b"))
        if sides != (model_a, model_b):
            outcome, replies = 1 - outcome, replies[::-1]
        told = all(isinstance(reply, str) for reply in replies)
        votes.setdefault(found, []).append(HumanVote(outcome, (str(replies[0]), str(replies[1])) if told else None))
    if not votes:
        raise DataError(f"{path}: there is no vote on {model_a} and {model_b} with one of these prompts.")
    return votes


def votes_on(pairs: Sequence[Pair], votes: Mapping[str, Sequence[HumanVote]]) -> tuple[dict[str, list[float]], int]:
    """(outcomes by pair, how many votes were on other replies to the same prompts): who saw other replies neither
    agrees nor disagrees. Raises DataError where none is left."""
    kept: dict[str, list[float]] = {}
    others = 0
    for pair in pairs:
        for vote in votes.get(pair.id, ()):
            if vote.replies in (None, (pair.reply_a, pair.reply_b)):
                kept.setdefault(pair.id, []).append(vote.outcome)
            else:
                others += 1
    if not kept:
        raise DataError(
            f"none of the people's votes is on a pair that is judged ({others} on other replies to the same prompts); "
            "let the judge see the replies that people saw."
        )
    return kept, others


def _outcome(row: Mapping[str, Any], where: str) -> float:
    value = row.get("outcome", row.get("winner"))
    if isinstance(value, str) and value in OUTCOMES:
        return OUTCOMES[value]
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1:
        return float(value)
    raise DataError(f"{where}: 'outcome' is {_shown(value)}, expected a, b, tie, both_bad or a number from 0 to 1.")


def _rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    if path.suffix != ".json":
        yield from ((f"{path}: line {number}", row) for number, row in read_jsonl(path))
        return
    rows = read_json(path)
    if not isinstance(rows, list):
        raise DataError(f"{path} holds {type(rows).__name__}, expected a list of objects, or a file of JSON lines.")
    for number, row in enumerate(rows):
        if not isinstance(row, dict):
            raise DataError(f"{path}: row {number} is {_shown(row)}, expected an object.")
        yield f"{path}: row {number}", row


def _messages(row: Mapping[str, Any], where: str) -> list[dict[str, Any]]:
    if "messages" not in row:
        text = row.get("prompt", row.get("instruction"))
        if not isinstance(text, str):
            raise DataError(f"{where}: 'prompt' is {_shown(text)}, expected the text of a prompt.")
        if not text.strip():
            raise DataError(f"{where}: the prompt is empty; take that line out.")
        return [{"role": "user", "content": text}]
    messages = row["messages"]
    right = isinstance(messages, list) and messages and all(
        isinstance(m, dict) and m.get("role") in ("system", "user", "assistant") and isinstance(m.get("content"), str)
        for m in messages
    )  # fmt: skip
    if not right or messages[-1]["role"] != "user" or not messages[-1]["content"].strip():
        raise DataError(
            f"{where}: 'messages' must be a list of objects with role and content, a user's that isn't empty the last."
        )
    return [{"role": m["role"], "content": m["content"]} for m in messages]


def _text(row: Mapping[str, Any]) -> str:
    if isinstance(row.get("messages"), list):
        try:
            messages = _messages(row, "")
        except DataError:
            return ""
        return str(messages[0]["content"]) if len(messages) == 1 else _flat(messages)
    text = row.get("prompt", row.get("instruction"))
    return text if isinstance(text, str) else ""


def _flat(messages: Sequence[Mapping[str, Any]]) -> str:
    return "\n\n".join(f"[{message['role']}]\n{message['content']}" for message in messages)


def _id(row: Mapping[str, Any], text: str, where: str) -> str:
    number = row.get("id", row.get("prompt_id"))
    if number is None:
        return hashlib.sha256(text.encode()).hexdigest()[:12]
    if not isinstance(number, str | int) or isinstance(number, bool) or number == "":
        raise DataError(f"{where}: 'id' is {_shown(number)}, expected a text or a whole number.")
    return str(number)


def _language(row: Mapping[str, Any], text: str, where: str) -> str:
    from qwill.data.dialogue_readers import language_of

    language = row.get("language")
    if language is None:
        return language_of(text)
    if not isinstance(language, str) or not language:
        raise DataError(f"{where}: 'language' is {_shown(language)}, expected one such as en or zh.")
    return language


def _shown(value: Any) -> str:
    return "missing" if value is None else json.dumps(value, ensure_ascii=False)[:80]
