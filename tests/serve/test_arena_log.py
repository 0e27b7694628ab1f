"""The arena's log in the database: one vote a battle and voter, nothing lost, changes noticed, erasure for good."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.base.databases import KINDS, database

from qwill.base.errors import DataError, StateError
from qwill.base.state import State, close_state, open_state, reading, writing
from qwill.base.state_rows import changes
from qwill.evaluate.arena_standings import counted, history, standings
from qwill.evaluate.votes import OUTCOMES, check_chain, replay
from qwill.serve.arena_board import Board
from qwill.serve.arena_log import (
    VoteRefused,
    cast_vote,
    erase,
    find_battle,
    log_entries,
    new_battle,
    next_turn,
    purge,
    said_to,
    save_reply,
    secrets,
    server_secret,
    turn_of,
    votes,
    votes_of,
)

ME = "local"
ASKED = [{"role": "user", "content": "Why is the sky blue?"}]
REPLY = {"content": "Light.", "reasoning": "", "finish_reason": "stop", "tokens": 2}
MARKS = {"leaks": [], "categories": ["en"], "style": [[1, 0, 0, 0], [1, 0, 0, 0]], "address": "n_1", "consent": True}


@pytest.fixture(params=KINDS)
def state(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[State]:
    databases = database(request.param, tmp_path)
    opened = open_state(next(databases))
    yield opened
    close_state(opened)
    next(databases, None)


def fought(state: State, voter: str = "v_1", a: str = "ash", b: str = "birch", tenant: str = ME) -> str:
    battle = new_battle(state, tenant, voter, "en", ASKED, a, b)["id"]
    for side in ("a", "b"):
        save_reply(state, tenant, battle, side, REPLY)  # type: ignore[arg-type]
    return str(battle)


def entries(state: State, tenant: str = ME) -> list[dict[str, Any]]:
    with reading(state) as connection:
        return log_entries(connection, tenant)


def refusal(*arguments: Any) -> str:
    with pytest.raises(VoteRefused) as found:
        cast_vote(*arguments)
    return found.value.code


def test_a_vote_is_counted_once_however_often_it_is_sent(state: State) -> None:
    battle = fought(state)
    first = cast_vote(state, ME, battle, "v_1", "a", MARKS)
    again = cast_vote(state, ME, battle, "v_1", "a", MARKS)
    assert not first.repeated and again.repeated and again.vote == first.vote
    assert refusal(state, ME, battle, "v_1", "b", MARKS) == "already_voted"
    assert len(entries(state)) == 1


def test_many_at_once_are_one(state: State) -> None:
    battle = fought(state)
    with ThreadPoolExecutor(8) as pool:
        done = list(pool.map(lambda _: cast_vote(state, ME, battle, "v_1", "tie", MARKS), range(16)))
    assert sum(not one.repeated for one in done) == 1 and len({one.vote["id"] for one in done}) == 1
    check_chain(entries(state))


def test_the_database_itself_holds_one_vote_a_battle_and_voter(state: State) -> None:
    battle = fought(state)
    row = cast_vote(state, ME, battle, "v_1", "a", MARKS).vote
    for name in ("sequence", "battle"):  # neither a second vote nor a second entry of the same number
        other = row | {"id": "another", name: row[name] + 1 if name == "sequence" else None}
        with pytest.raises(sa.exc.IntegrityError), writing(state) as db:
            db.connection.execute(votes.insert().values(other))


def test_what_can_not_be_voted_on_is_said(state: State) -> None:
    battle = new_battle(state, ME, "v_1", "en", ASKED, "ash", "birch")["id"]
    save_reply(state, ME, battle, "a", REPLY)
    assert refusal(state, ME, battle, "v_1", "a", MARKS) == "not_finished"
    assert refusal(state, ME, battle, "v_2", "a", MARKS) == "not_yours"
    assert refusal(state, "other", battle, "v_1", "a", MARKS) == "unknown_battle"
    assert refusal(state, ME, "01890000-0000-7000-8000-000000000000", "v_1", "a", MARKS) == "unknown_battle"
    with pytest.raises(DataError, match="expected one of a, b, tie, both_bad"):
        cast_vote(state, ME, battle, "v_1", "model_a", MARKS)
    assert entries(state) == []


def test_the_first_reply_that_is_kept_stays(state: State) -> None:
    battle = fought(state)
    save_reply(state, ME, battle, "a", REPLY | {"content": "another"})
    assert find_battle(state, ME, battle, "v_1")["reply_a"] == REPLY


def test_a_battle_goes_on_for_several_turns_until_the_vote(state: State) -> None:
    battle = fought(state)
    with pytest.raises(VoteRefused, match="turn 1; the next is 2, not 3"):
        next_turn(state, ME, battle, "v_1", 3, "And at night?")
    begun = next_turn(state, ME, battle, "v_1", 2, "And at night?")
    assert turn_of(begun) == 2 and next_turn(state, ME, battle, "v_1", 2, "And at night?") == begun, (
        "once, if sent twice"
    )
    save_reply(state, ME, battle, "a", REPLY | {"content": "late"}, turn=1)  # a stream of the turn before
    save_reply(state, ME, battle, "b", REPLY | {"content": "Dark."}, turn=2)
    assert find_battle(state, ME, battle, "v_1")["reply_a"] is None
    assert refusal(state, ME, battle, "v_1", "a", MARKS) == "not_finished"
    with pytest.raises(VoteRefused) as found:
        next_turn(state, ME, battle, "v_1", 3, "Why?")
    assert found.value.code == "not_finished"
    with pytest.raises(VoteRefused) as found:
        next_turn(state, ME, battle, "v_2", 3, "Why?")
    assert found.value.code == "not_yours"
    save_reply(state, ME, battle, "a", REPLY | {"content": "Stars."}, turn=2)
    roles = [message["role"] for message in said_to(find_battle(state, ME, battle, "v_1"), "a")]
    assert roles == ["user", "assistant", "user"]
    assert not cast_vote(state, ME, battle, "v_1", "a", MARKS).repeated
    assert cast_vote(state, ME, battle, "v_1", "a", MARKS).repeated, "one vote a battle, however many turns"
    with pytest.raises(VoteRefused) as found:
        next_turn(state, ME, battle, "v_1", 3, "Why?")
    assert found.value.code == "already_voted"
    assert erase(state, ME, "v_1") == 1
    with reading(state) as connection:
        told = json.dumps([change.payload for change in changes(connection) if change.row_id == battle])
    assert "Stars" not in told and "night" not in told


def test_battles_without_a_vote_are_forgotten_and_replays_stay_the_same(state: State) -> None:
    voted, open_, other = fought(state), fought(state), fought(state, tenant="acme")
    cast_vote(state, ME, voted, "v_1", "a", MARKS)
    before = entries(state)
    assert purge(state, 0) == 0
    later = find_battle(state, "acme", other, "v_1")["changed"] + 1
    assert purge(state, later, "nobody") == 0
    assert purge(state, later) == 2 and purge(state, later) == 0
    for tenant, battle in ((ME, open_), ("acme", other)):
        with pytest.raises(VoteRefused) as found:
            find_battle(state, tenant, battle, "v_1")
        assert found.value.code == "unknown_battle"
    assert entries(state) == before and find_battle(state, ME, voted, "v_1")["messages"] == ASKED
    check_chain(entries(state))
    with reading(state) as connection:
        told = [change for change in changes(connection) if change.row_id == open_]
        rows_ = connection.execute(
            sa.text("SELECT messages, reply_a, asker FROM battles WHERE deleted IS NOT NULL")
        ).all()
    assert "sky" not in json.dumps([change.payload for change in told]) and told[-1].operation == "delete"
    assert len(rows_) == 2 and "sky" not in str(rows_) and "Light" not in str(rows_) and "v_1" not in str(rows_)
    assert refusal(state, ME, open_, "v_1", "a", MARKS) == "unknown_battle"


def test_many_battles_are_forgotten_in_pieces(state: State, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qwill.serve.arena_log._AT_ONCE", 2)
    made = [fought(state) for _ in range(5)]
    later = find_battle(state, ME, made[-1], "v_1")["changed"] + 1
    assert purge(state, later) == 5


def test_erasure_leaves_no_trace_of_what_was_asked_and_voted(state: State) -> None:
    battle, other = fought(state), fought(state, "v_2")
    cast_vote(state, ME, battle, "v_1", "both_bad", MARKS)
    cast_vote(state, ME, other, "v_2", "a", MARKS)
    assert votes_of(state, ME, "v_1") == 1
    assert erase(state, ME, "v_1") == 1 and erase(state, ME, "v_1") == 0
    assert votes_of(state, ME, "v_1") == 0
    assert [vote.voter for vote in replay(entries(state))] == ["v_2"]
    check_chain(entries(state))
    with reading(state) as connection:
        told = [change for change in changes(connection) if change.row_id in (battle, entries(state)[0]["id"])]
    for text in (str(entries(state)[0]), json.dumps([change.payload for change in told])):
        assert "v_1" not in text and "both_bad" not in text and "sky" not in text
    with pytest.raises(VoteRefused):
        find_battle(state, ME, battle, "v_1")


def test_a_replay_honours_an_erasure_where_the_vote_is_still_found(state: State) -> None:
    """A copy of the log from before the erasure, with what was appended later."""
    cast_vote(state, ME, fought(state), "v_1", "a", MARKS)
    old = entries(state)
    erase(state, ME, "v_1")
    assert replay([*old, *entries(state)[1:]]) == []


@pytest.mark.parametrize("field", ["outcome", "voter", "body", "created", "battle", "salt", "chain", "commitment"])
def test_a_change_of_any_entry_is_noticed(state: State, field: str) -> None:
    for _ in range(3):
        cast_vote(state, ME, fought(state), "v_1", "a", MARKS)
    log = entries(state)
    check_chain(log)
    log[1] = log[1] | {field: log[1][field] + 1 if field == "created" else {} if field == "body" else "b"}
    with pytest.raises(DataError, match="entry 2 of the log was changed"):
        check_chain(log)


def test_an_entry_taken_out_or_moved_is_noticed(state: State) -> None:
    for _ in range(3):
        cast_vote(state, ME, fought(state), "v_1", "a", MARKS)
    one, two, three = entries(state)
    with pytest.raises(DataError, match="entry 2 of the log is missing"):
        check_chain([one, three])
    with pytest.raises(DataError, match="entry 2"):
        check_chain([one, three | {"sequence": 2}])
    with pytest.raises(DataError, match="order"):
        replay([two, one])
    assert check_chain([one, two]) != check_chain([one, two, three])


def test_tenants_have_logs_of_their_own(state: State) -> None:
    for tenant in (ME, "acme", ME):
        cast_vote(state, tenant, fought(state, tenant=tenant), "v_1", "a", MARKS)
    assert [entry["sequence"] for entry in entries(state)] == [1, 2]
    assert [entry["sequence"] for entry in entries(state, "acme")] == [1]


def test_the_secret_is_made_once_and_never_told_to_other_nodes(state: State) -> None:
    with ThreadPoolExecutor(4) as pool:
        assert len(set(pool.map(lambda _: server_secret(state), range(8)))) == 1
    with reading(state) as connection:
        assert changes(connection) == [] and len(connection.execute(secrets.select()).all()) == 1


def test_nothing_is_acknowledged_that_was_not_committed(state: State, monkeypatch: pytest.MonkeyPatch) -> None:
    from qwill.serve import arena_log

    battle = fought(state)

    def full(*_: object) -> None:
        raise StateError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(arena_log, "insert", full)
        with pytest.raises(StateError):
            cast_vote(state, ME, battle, "v_1", "a", MARKS)
    assert entries(state) == []
    assert not cast_vote(state, ME, battle, "v_1", "a", MARKS).repeated


step = st.tuples(
    st.sampled_from(["v_1", "v_2", "v_3"]),
    st.sampled_from(["ash birch", "birch ash", "ash cedar", "cedar birch"]),
    st.sampled_from([*OUTCOMES, *OUTCOMES, "erase"]),
    st.booleans(),
)


@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(step, min_size=1, max_size=14))
def test_a_board_that_follows_the_log_says_what_a_replay_says(
    tmp_path_factory: pytest.TempPathFactory, steps: list[Any]
) -> None:
    """To the last bit, after votes and erasures in any order, read now and then."""
    state = open_state(str(tmp_path_factory.mktemp("log") / "state.db"))
    board, models = Board(state, ME, 0.1), ["ash", "birch", "cedar"]
    for number, (voter, pair, outcome, leak) in enumerate(steps):
        if outcome == "erase":
            erase(state, ME, voter)
        else:
            battle = fought(state, voter, *pair.split())
            cast_vote(state, ME, battle, voter, outcome, MARKS | {"leaks": ["a:self"] if leak else []})
        if number % 3 == 0:
            assert set(board.next_pair(models, np.random.default_rng(number))) <= set(models)
    again = counted(replay(entries(state)))
    assert board.leaderboard(models, "all") == standings(again, models) | {"through": board.last}
    assert board.history()["points"] == history(again.votes)
    assert json.dumps(Board(state, ME, 0.1).leaderboard(models, "all")) == json.dumps(board.leaderboard(models, "all"))
    assert board.leaderboard(models, "all")["set_aside"]["leak"] == sum(bool(v.leaks) for v in replay(entries(state)))
    close_state(state)
