"""From votes to preference pairs: what is left out, that each pair leads to its battle, that training can read it."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from click.testing import CliRunner
from tests.serve.test_arena_log import ASKED, MARKS, ME

from qwill.base.artifact import need_manifest, verify
from qwill.base.errors import DataError
from qwill.base.files import read_jsonl
from qwill.base.state import State, close_state, open_state, reading, writing
from qwill.cli.arena import arena
from qwill.data.preferences import read_preferences
from qwill.evaluate.arena_table import read_votes
from qwill.serve.arena_export import export_arena
from qwill.serve.arena_log import battles, cast_vote, erase, new_battle, save_reply, votes


@pytest.fixture
def state(tmp_path: Path) -> Iterator[State]:
    opened = open_state(str(tmp_path / "state.db"))
    yield opened
    close_state(opened)


def vote(
    state: State, a: str, b: str, outcome: str = "a", voter: str = "v_1", asked: str = "Why?", thinking: str = "",
    **marks: Any,
) -> str:  # fmt: skip
    messages = [{"role": "user", "content": asked}]
    battle = str(new_battle(state, ME, voter, "en", messages, "ash", "qwen-tiny")["id"])
    for side, text in (("a", a), ("b", b)):
        reply = {"content": text, "reasoning": thinking, "finish_reason": "stop", "tokens": 2}
        save_reply(state, ME, battle, side, reply)  # type: ignore[arg-type]
    cast_vote(state, ME, battle, voter, outcome, MARKS | marks)
    return battle


def test_each_pair_leads_to_its_battle_and_its_vote(state: State, tmp_path: Path) -> None:
    one = vote(state, "Light.", "Magic.", "a")
    two = vote(state, "红", "蓝", "b", asked="天空是什么颜色？", thinking="想")
    made = export_arena(state, ME, tmp_path / "out")
    assert (made.votes, made.pairs, made.left_out) == (2, 2, {})
    pairs = list(read_preferences(tmp_path / "out" / "preferences"))
    assert [pair.origin["battle"] for pair in pairs] == [one, two]
    assert pairs[0].chosen == [{"role": "assistant", "content": "Light."}] and pairs[0].origin["chosen_model"] == "ash"
    assert pairs[1].chosen == [{"role": "assistant", "content": "蓝", "reasoning_content": "想"}]
    with reading(state) as connection:
        for pair in pairs:  # the lineage holds in the database and in the votes that the pairs were made from
            battle = connection.execute(battles.select().where(battles.c.id == pair.origin["battle"])).one()
            assert battle.messages == pair.prompt
            cast = connection.execute(votes.select().where(votes.c.id == pair.origin["vote"])).one()
            assert cast.battle == battle.id and cast.sequence == pair.origin["sequence"]
        head = connection.execute(sa.select(votes.c.chain).where(votes.c.sequence == 2)).scalar_one()
    manifest, parent = need_manifest(tmp_path / "out" / "preferences"), need_manifest(tmp_path / "out" / "votes")
    assert (manifest.kind, parent.kind) == ("preferences", "votes")
    assert manifest.inputs == {"votes": parent.content_id} and parent.content_id in manifest.ancestry
    assert manifest.config["head"] == head and manifest.metrics["pairs"] == 2
    assert verify(tmp_path / "out" / "preferences") == verify(tmp_path / "out" / "votes") == []
    rows = [row for _, row in read_jsonl(tmp_path / "out" / "votes" / "votes.jsonl")]
    assert [row["id"] for row in rows] == [pair.origin["vote"] for pair in pairs]
    assert read_votes(tmp_path / "out" / "votes" / "votes.jsonl", style=True, cluster="voter").outcome == [1.0, 0.0]


def test_what_was_not_agreed_to_leaked_or_tells_nothing_makes_no_pair(state: State, tmp_path: Path) -> None:
    vote(state, "Secret one", "Secret two", consent=False)
    vote(state, "I am Qwen-Tiny.", "No idea.", leaks=["a:self"])  # marked when it was voted on
    vote(state, "I am Qwen-Tiny.", "No idea.")  # voted on before there was a rule
    vote(state, "x", "y", "tie")
    vote(state, "x", "y", "both_bad")
    vote(state, "the same", "the same")
    vote(state, "something", " ")
    erased = vote(state, "to be", "forgotten", voter="v_2")
    erase(state, ME, "v_2")
    made = export_arena(state, ME, tmp_path / "out")
    assert made.pairs == 0 and made.votes == 6
    assert made.left_out == {
        "leak": 1, "leak_by_newer_rules": 1, "no_consent": 1, "tie": 1, "both_bad": 1, "same_replies": 1,
        "empty_reply": 1,
    }  # fmt: skip
    written = "".join(path.read_text() for path in (tmp_path / "out").rglob("*") if path.is_file())
    assert "Secret" not in written and "forgotten" not in written and erased not in written


def test_personal_data_becomes_tags_unless_asked_otherwise(state: State, tmp_path: Path) -> None:
    vote(state, "Write to anna.meier@mailbox.org.", "No.", asked="Who is at anna.meier@mailbox.org?")
    export_arena(state, ME, tmp_path / "out")
    export_arena(state, ME, tmp_path / "raw", redacted=False)
    texts = {
        name: (tmp_path / name / "preferences" / "preferences.jsonl").read_text()
        + (tmp_path / name / "votes" / "votes.jsonl").read_text()
        for name in ("out", "raw")
    }
    assert "anna" not in texts["out"] and texts["raw"].count("anna.meier") == 4


def test_the_same_log_gives_the_same_artifacts(state: State, tmp_path: Path) -> None:
    vote(state, "Light.", "Magic.")
    for name in ("one", "two"):
        export_arena(state, ME, tmp_path / name)
    ids = {need_manifest(tmp_path / name / "preferences").content_id for name in ("one", "two")}
    assert len(ids) == 1


def test_a_log_that_was_changed_is_not_exported(state: State, tmp_path: Path) -> None:
    vote(state, "Light.", "Magic.")
    with writing(state) as db:
        db.connection.execute(votes.update().values(outcome="b"))
    with pytest.raises(DataError, match="entry 1 of the log was changed"):
        export_arena(state, ME, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_command_says_what_it_wrote_and_what_it_left_out(state: State, tmp_path: Path) -> None:
    import click

    command = arena(click.Command("arena"))
    run = CliRunner().invoke(command, ["export", str(tmp_path / "o"), "--state", str(tmp_path / "state.db")])
    assert isinstance(run.exception, DataError) and "no votes yet" in str(run.exception)
    vote(state, "Light.", "Magic.")
    vote(state, "Light.", "Magic.", consent=False)
    arguments = ["export", str(tmp_path / "o"), "--state", str(tmp_path / "state.db")]
    said = CliRunner().invoke(command, arguments, standalone_mode=False, catch_exceptions=False)
    assert "2 votes" in said.output and "1 preference pairs" in said.output and "no consent" in said.output
    as_json = CliRunner().invoke(command, [*arguments, "--json"], standalone_mode=False, catch_exceptions=False)
    assert json.loads(as_json.output)["pairs"] == 1


GOOD = {
    "id": "1", "prompt": ASKED, "chosen": [{"role": "assistant", "content": "x"}],
    "rejected": [{"role": "assistant", "content": "y"}],
}  # fmt: skip


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"prompt": "Why?"}, "prompt: expected a list"),
        ({"chosen": []}, "chosen: expected a list"),
        ({"rejected": GOOD["chosen"]}, "chosen and rejected are the same"),
        ({"chosen": [{"role": "user", "content": "x"}]}, "prompt with chosen: message 2, role"),
        ({"rejected": [{"role": "assistant", "content": " "}]}, "prompt with rejected: message 2, content: empty"),
        ({"language": 3}, "language"),
    ],
)
def test_pairs_that_make_no_sense_are_refused_by_line_and_field(
    tmp_path: Path, change: dict[str, Any], said: str
) -> None:
    file = tmp_path / "pairs.jsonl"
    file.write_text(json.dumps(GOOD) + "\n" + json.dumps(GOOD | change) + "\n")
    pairs = read_preferences(file)
    assert next(pairs).prompt == ASKED
    with pytest.raises(DataError, match=f"pairs.jsonl: line 2: {said}"):
        next(pairs)
