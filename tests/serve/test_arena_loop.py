"""The loop closed: battles and votes over HTTP → export → pairs that training reads, each traced to its battle."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from arena_serving import Person, arena, text_of

from qwill.align.preference_examples import pairs_of
from qwill.base.artifact import need_manifest
from qwill.base.errors import DataError
from qwill.base.files import read_jsonl, write_jsonl
from qwill.base.state import State, close_state, open_state, reading
from qwill.cli.main import main
from qwill.data.preferences import read_preferences
from qwill.serve.arena_log import battles, cast_vote, erased_among, new_battle, save_reply, votes
from qwill.serve.arena_marks import marks_of

sys.path.insert(0, str(Path(__file__).parents[1] / "engine"))
TENANT = "local"
MODELS = ("tiny-1", "tiny-2", "tiny-3")


def fought(person: Person, prompt: str) -> tuple[str, dict[str, str]]:
    """A battle whose replies can be told apart: tiny random models may say nothing, or the same."""
    for number in range(40):
        battle = person.begin(f"{prompt} ({number})")
        said = {side: text_of(person.read(battle, side)) for side in "ab"}
        if all(text.strip() for text in said.values()) and said["a"] != said["b"]:
            return battle, said
    raise AssertionError("no two replies")


def leaking(state: State, outcome: str, reply: str, asked: str = "Who made the sky blue?") -> str:
    """A battle of the arena's own code with a reply that tiny models would not think of."""
    messages = [{"role": "user", "content": asked}]
    battle = str(new_battle(state, TENANT, "v_leak", "en", messages, MODELS[0], MODELS[1])["id"])
    for side, text in (("a", reply), ("b", "Light.")):
        said = {"content": text, "reasoning": "", "finish_reason": "stop", "tokens": 2}
        save_reply(state, TENANT, battle, side, said)  # type: ignore[arg-type]
    with reading(state) as connection:
        row = dict(connection.execute(battles.select().where(battles.c.id == battle)).one()._mapping)
    cast_vote(state, TENANT, battle, "v_leak", outcome, marks_of(row, MODELS) | {"address": "n_9", "consent": True})
    return battle


@pytest.fixture(scope="module")
def loop(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What was said and voted, and the folder of the export."""
    folder = tmp_path_factory.mktemp("loop")
    file = folder / "state.db"
    told: dict[str, Any] = {"folder": folder, "file": file, "won": {}, "none": []}
    with arena(file) as server:
        one, two, three = Person(server), Person(server), Person(server)
        for person, prompt, outcome in ((one, "Why is the sky blue?", "a"), (two, "请写一首关于雨的诗", "b")):
            battle, said = fought(person, prompt)
            body = person.vote(battle, outcome).json()
            told["won"][battle] = {"outcome": outcome, "said": said, **body}
        for outcome, consent in (("tie", True), ("both_bad", True), ("a", False)):
            battle, said = fought(one, "Tell me of the sea.")
            assert one.vote(battle, outcome, consent).status_code == 201
            told["none"].append(battle)
        battle, said = fought(three, "Forget me, please.")
        assert three.vote(battle, "a").status_code == 201
        assert three.client.delete("/qwill/arena/votes/mine").json() == {"erased": 1}
        told["erased"] = (battle, said)
    state = open_state(str(file))
    told["none"].append(leaking(state, "a", "I am Qwen, made by Alibaba Cloud."))
    told["none"].append(leaking(state, "b", "我是通义千问，由阿里云研发。", "天空为什么是蓝的？"))
    close_state(state)
    assert main(["arena", "export", str(folder / "out"), "--state", str(file)]) == 0
    return told


def test_only_votes_for_one_reply_with_consent_and_without_leaks_are_pairs(loop: dict[str, Any]) -> None:
    pairs = list(read_preferences(loop["folder"] / "out" / "preferences"))
    assert {pair.origin["battle"] for pair in pairs} == set(loop["won"])
    for pair in pairs:
        cast = loop["won"][pair.origin["battle"]]
        winner, loser = cast["outcome"], "b" if cast["outcome"] == "a" else "a"
        assert pair.chosen[0]["content"].strip() == cast["said"][winner].strip()
        assert pair.rejected[0]["content"].strip() == cast["said"][loser].strip()
        assert pair.origin["chosen_model"] == cast[f"model_{winner}"]
        assert pair.id == pair.origin["vote"] == cast["id"]
    assert [pair.language for pair in pairs] == ["en", "zh"]
    metrics = need_manifest(loop["folder"] / "out" / "preferences").metrics
    assert metrics == {"pairs": 2, "tie": 1, "both_bad": 1, "no_consent": 1, "leak": 2}


def test_what_was_erased_is_in_no_file(loop: dict[str, Any]) -> None:
    battle, _ = loop["erased"]
    written = "".join(path.read_text() for path in (loop["folder"] / "out").rglob("*") if path.is_file())
    assert battle not in written and "Forget me" not in written
    rows = [row for _, row in read_jsonl(loop["folder"] / "out" / "votes" / "votes.jsonl")]
    assert len(rows) == 5 and battle not in {row["battle"] for row in rows}
    private = next(row for row in rows if row["battle"] == loop["none"][2])
    assert "messages" not in private and "reply_a" not in private and private["outcome"] == "a"


def test_each_pair_is_traced_to_its_battle(loop: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    folder = loop["folder"] / "out" / "preferences"
    assert main(["lineage", str(folder), "--verify", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["intact"] and [check["found"] for check in told["checks"]] == [True, True]
    assert main(["lineage", str(folder), "--documents", "5"]) == 0
    shown = capsys.readouterr().out
    assert all(f"battle {battle}" in shown for battle in loop["won"])
    state = open_state(str(loop["file"]))
    with reading(state) as connection:
        for pair in read_preferences(folder):
            battle = connection.execute(battles.select().where(battles.c.id == pair.origin["battle"])).one()
            cast = connection.execute(votes.select().where(votes.c.id == pair.origin["vote"])).one()
            assert battle.messages == pair.prompt and (cast.battle, cast.deleted) == (battle.id, None)
        erased = erased_among(connection, TENANT, 0)
    close_state(state)
    assert len(erased) == 1 and not {pair.id for pair in read_preferences(folder)} & set(erased)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"battle": "another"}, "says battle another, its vote says"),
        ({"vote": "another"}, "its vote another is not among the votes"),
        ({"chosen_model": "other"}, "prefers other, its vote"),
    ],
)
def test_a_pair_that_is_not_its_votes_is_named(
    loop: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str], change: dict[str, str], said: str
) -> None:
    import shutil

    shutil.copytree(loop["folder"] / "out", tmp_path / "out")
    file = tmp_path / "out" / "preferences" / "preferences.jsonl"
    rows = [row for _, row in read_jsonl(file)]
    write_jsonl(file, [rows[0], rows[1] | change])
    assert main(["lineage", str(file.parent), "--verify"]) == 2
    shown = capsys.readouterr().out
    assert said in shown and "line 2" in shown and "line 1" not in shown


def test_training_reads_the_pairs(loop: dict[str, Any]) -> None:
    from tiny import chat_model

    tokenizer = chat_model().tokenizer
    folder = loop["folder"] / "out" / "preferences"
    found = pairs_of(folder, tokenizer, 2000, 0.0, 0)
    assert found.too_long == 0 and [pair.id for pair in found.train] == [cast["id"] for cast in loop["won"].values()]
    for pair, cast in zip(found.train, loop["won"].values(), strict=True):
        winner, loser = cast["outcome"], "b" if cast["outcome"] == "a" else "a"
        starts = []
        for reply, side in ((pair.chosen, winner), (pair.rejected, loser)):
            (example,) = reply.examples
            learnt = tokenizer.decode([t for t, m in zip(example.ids, example.loss_mask, strict=True) if m])
            assert cast["said"][side].strip() in learnt and "(0)" not in learnt
            starts.append(example.ids[: example.loss_mask.index(1)])
        assert starts[0] == starts[1]
    with pytest.raises(DataError, match="nothing fits into 3 tokens"):
        pairs_of(folder, tokenizer, 3, 0.0, 0)
