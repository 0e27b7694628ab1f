"""Preference pairs as tokens: only the replies count, earlier turns of the assistant don't."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from qwill.align.pairs import pair_batch, render_pairs
from qwill.base.errors import DataError

sys.path.insert(0, str(Path(__file__).parents[1] / "engine"))


def test_of_a_longer_conversation_only_the_reply_is_learnt(tmp_path: Path) -> None:
    from tiny import chat_model

    tokenizer = chat_model().tokenizer
    prompt = [
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": "first"},
        {"role": "user", "content": "two"},
    ]
    row = {
        "id": "p", "prompt": prompt, "chosen": [{"role": "assistant", "content": "good, and longer"}],
        "rejected": [{"role": "assistant", "content": "bad"}], "battle": "b-1",
    }  # fmt: skip
    file = tmp_path / "pairs.jsonl"
    file.write_text(json.dumps(row) + "\n")
    found = render_pairs(file, tokenizer, 500)
    (pair,) = found.rendered
    assert pair.origin == {"battle": "b-1"}
    batch = pair_batch([pair], pad=7)
    learnt = [tokenizer.decode(batch.ids_2PT[i][batch.mask_2PT[i]].tolist()) for i in (0, 1)]
    assert "good, and longer" in learnt[0] and "bad" in learnt[1] and "first" not in learnt[0] + learnt[1]
    lengths = [len(pair.chosen.ids), len(pair.rejected.ids)]
    assert batch.ids_2PT.shape == (2, max(lengths)) and bool((batch.ids_2PT[1, lengths[1] :] == 7).all())
    assert not batch.mask_2PT[1, lengths[1] :].any()
    file.write_text("")
    with pytest.raises(DataError, match="there are no pairs"):
        render_pairs(file, tokenizer, 500)
    with pytest.raises(DataError, match="at least one pair"):
        pair_batch([], pad=0)
