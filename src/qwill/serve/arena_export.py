"""The arena's votes as files to rate and to train on: two artifacts, of which the second is made from the first.

- `votes`: every vote that counts, in the order of the log; texts only where the voter agreed to their use. What
  `qwill arena rate` reads.
- `preferences`: a pair (data/preferences.py) for each vote for a or b with consent; it names its battle and its vote.

The rules on leaks are asked again, as they are now: no model should learn to say that it is another. Personal data in
texts is replaced by tags, since agreeing to training is not agreeing to be learnt by heart.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from qwill.base.artifact import recipe_id, seal
from qwill.base.errors import DataError
from qwill.base.files import new_folder, write_jsonl
from qwill.base.state import State, reading
from qwill.base.state_rows import Row
from qwill.data.conversation import problem
from qwill.data.preferences import FILE, preference_problem
from qwill.evaluate.arena_standings import counted
from qwill.evaluate.votes import Vote, check_chain, replay
from qwill.serve.arena_log import SIDES, battles, log_entries, said_to, turn_of
from qwill.serve.arena_marks import marks_of

VERSION = 2
VOTES = "votes.jsonl"
_AT_ONCE = 500  # battles read with one query


@dataclass(frozen=True)
class Export:
    """How many votes and pairs were written, and how many were left out, by reason."""

    votes: int
    pairs: int
    left_out: dict[str, int]


def export_arena(state: State, tenant: str, out: Path, redacted: bool = True, leave_out: bool = True) -> Export:
    """Write `out`/votes and `out`/preferences. leave_out: without votes of those who seem to act together. Raises
    DataError where there is no vote yet, or the log was changed."""
    with reading(state) as connection:
        entries = log_entries(connection, tenant)
        head = check_chain(entries)
        everything = replay(entries)
        found = counted(everything, leave_out)
        if not everything:
            raise DataError(f"The arena of {tenant!r} has no votes yet; let people vote (`qwill serve A B --arena`).")
        there = _battles(connection, tenant, [vote.battle for vote in found.votes])
    models = sorted({name for vote in everything for name in (vote.model_a, vote.model_b)})
    left_out: Counter[str] = Counter({why: count for why, count in found.set_aside.items() if count})
    rows, pairs = [], []
    for vote in found.votes:
        battle = there.get(vote.battle)
        shown = _texts(battle, vote, redacted) if vote.consent and battle is not None else {}
        rows.append(_vote_row(vote) | _public(shown))
        pair, why = _pair(vote, battle, shown, models)
        if pair is not None:
            pairs.append(pair)
        else:
            left_out[why] += 1
    config = {"tenant": tenant, "entries": len(entries), "head": head, "redacted": redacted, "leave_out": leave_out}
    counts = {"votes": len(rows), **found.set_aside}
    _write(out / "votes", "votes", VOTES, rows, {}, config, counts)
    counts = {"pairs": len(pairs), **dict(sorted(left_out.items()))}
    _write(out / "preferences", "preferences", FILE, pairs, {"votes": out / "votes"}, config, counts)
    return Export(len(rows), len(pairs), dict(sorted(left_out.items())))


def _write(
    folder: Path, kind: str, file: str, rows: Sequence[Row], inputs: dict[str, Path], config: Row, metrics: Row
) -> None:
    from qwill.base.artifact import identify

    made: dict[str, Any] = {
        "stage": f"arena_{kind}", "stage_version": VERSION, "config": config, "seed": 0, "libraries": {}, "threads": 1,
        "dtype": "float32",
    }  # fmt: skip
    parents = {name: identify(path).content_id for name, path in inputs.items()}
    with new_folder(folder) as out:
        write_jsonl(out / file, rows)
        seal(out, kind=kind, recipe=recipe_id(inputs=parents, **made), inputs=inputs, metrics=metrics, **made)


def _battles(connection: sa.Connection, tenant: str, wanted: Sequence[str]) -> dict[str, Row]:
    found: dict[str, Row] = {}
    for start in range(0, len(wanted), _AT_ONCE):
        some = wanted[start : start + _AT_ONCE]
        query = battles.select().where(battles.c.tenant == tenant, battles.c.id.in_(some), battles.c.deleted.is_(None))
        found |= {row.id: dict(row._mapping) for row in connection.execute(query)}
    return found


def _vote_row(vote: Vote) -> Row:
    return {
        "id": vote.id, "sequence": vote.sequence, "time": vote.time / 1000, "battle": vote.battle,
        "prompt_id": vote.battle, "voter": vote.voter, "model_a": vote.model_a, "model_b": vote.model_b,
        "outcome": vote.outcome, "language": vote.language, "categories": list(vote.categories),
        "consent": vote.consent,
    }  # fmt: skip


def _texts(battle: Row, vote: Vote, redacted: bool) -> Row:
    """Messages and both replies, as they may be shown to others."""

    def clean(text: str) -> str:
        if not redacted:
            return text
        from qwill.data.redact import redact

        return redact(text, language=vote.language if vote.language in ("en", "zh") else "en").text

    shown: Row = {"turns": turn_of(battle)}
    for side in SIDES:
        said = [{"role": m["role"], "content": clean(str(m["content"]))} for m in said_to(battle, side)]
        shown[f"messages_{side}"] = said
        reply = battle[f"reply_{side}"]
        shown[f"reply_{side}"] = clean(reply["content"])
        shown[f"thinking_{side}"] = clean(reply["reasoning"])
    return shown


def _public(shown: Row) -> Row:
    """What a vote's row says of the texts: where both sides had one conversation, it is there once."""
    if not shown:
        return {}
    texts = {"reply_a": shown["reply_a"], "reply_b": shown["reply_b"]}
    if shown["turns"] == 1:
        return {"messages": shown["messages_a"], **texts}
    asked = [message for message in shown["messages_a"] if message["role"] == "user"]
    return {"messages": asked, "messages_a": shown["messages_a"], "messages_b": shown["messages_b"], **texts}


def _pair(vote: Vote, battle: Row | None, shown: Row, models: Sequence[str]) -> tuple[Row | None, str]:
    """The pair of a vote, or None and why there is none."""
    if not vote.consent or battle is None:
        return None, "no_consent"
    if vote.outcome not in SIDES:
        return None, vote.outcome
    if shown["turns"] > 1:
        return None, "several_turns"
    if marks_of(battle, models)["leaks"]:
        return None, "leak_by_newer_rules"
    winner, loser = (vote.outcome, "b" if vote.outcome == "a" else "a")
    row = {
        "id": vote.id, "prompt": shown["messages_a"], "chosen": _reply(shown, winner), "rejected": _reply(shown, loser),
        "language": vote.language, "categories": list(vote.categories), "battle": vote.battle, "vote": vote.id,
        "sequence": vote.sequence, "source": "arena", "chosen_model": battle[f"model_{winner}"],
        "rejected_model": battle[f"model_{loser}"],
        "cut_off": battle[f"reply_{winner}"]["finish_reason"] == "length",
    }  # fmt: skip
    wrong = preference_problem(row)
    if wrong is None:
        return row, ""
    same = problem([*row["prompt"], *row["chosen"]]) is None and row["chosen"] == row["rejected"]
    return None, "same_replies" if same else "empty_reply"


def _reply(shown: Row, side: str) -> list[dict[str, str]]:
    message = {"role": "assistant", "content": shown[f"reply_{side}"]}
    thinking = shown[f"thinking_{side}"]
    return [message | {"reasoning_content": thinking} if thinking.strip() else message]
