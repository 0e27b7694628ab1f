"""What the log keeps of a battle's texts when it is voted on: leaks, categories, language and counts of style.

They are found once and kept in the vote, so that a replay needs no texts, and gives the same after the rules change.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from qwill.base.state_rows import Row
from qwill.evaluate.arena_categories import categories_of
from qwill.evaluate.arena_style import style_counts
from qwill.evaluate.leaks import leaks_of
from qwill.serve.arena_log import SIDES, asked_in, replies_of


def marks_of(battle: Row, names: Sequence[str]) -> dict[str, Any]:
    """`names`: the models that take part. A battle without its replies has no marks yet."""
    if None in (battle["reply_a"], battle["reply_b"]):
        return {}
    replies = [replies_of(battle, side) for side in SIDES]
    prompt = "\n\n".join(asked_in(battle))
    before = "\n\n".join([*(str(m["content"]) for m in battle["messages"] if m["role"] != "user"), prompt])
    texts = ["\n\n".join(str(reply["content"]) for reply in own) for own in replies]
    everyone = sorted({*names, battle["model_a"], battle["model_b"]})
    leaks = [
        f"{side}:{leak.kind}"
        for side, own in zip(SIDES, replies, strict=True)
        for reply in own
        for leak in leaks_of(f"{reply['reasoning']}\n{reply['content']}", everyone, before)
    ]
    return {
        "leaks": sorted(set(leaks)),
        "categories": categories_of(prompt, texts[0], texts[1], battle["language"]),
        "style": [list(style_counts(text)) for text in texts],
    }
