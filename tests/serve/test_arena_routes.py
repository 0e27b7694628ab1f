"""The arena over HTTP, against a real server of tiny models."""

import json
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from arena_serving import Person, arena, text_of
from serving import Server

NAMES = {"tiny-1", "tiny-2", "tiny-3"}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with arena(tmp_path_factory.mktemp("arena") / "state.db") as running:
        yield running


def test_a_battle_from_its_prompt_to_the_leaderboard(server: Server) -> None:
    me = Person(server)
    before = me.get("")
    assert set(before["models"]) == NAMES and set(before["prompts"]) == set(before["consent"]) == {"en", "zh"}
    battle = me.begin("请写一首诗")
    events = me.read(battle, "a")
    assert all("model" not in event for event in events)
    assert events[-1]["choices"][0]["finish_reason"] in ("stop", "length")
    early = me.vote(battle)
    assert early.status_code == 409 and early.json()["error"]["code"] == "not_finished"
    me.read(battle, "b")
    voted = me.vote(battle, "a")
    assert voted.status_code == 201, voted.text
    body = voted.json()
    assert {body["model_a"], body["model_b"]} < NAMES and body["counted"] and not body["repeated"]
    assert set(body["changes"]) == {body["model_a"], body["model_b"]}
    again = me.vote(battle, "a")
    assert again.status_code == 200 and again.json() == body | {"repeated": True}
    other = me.vote(battle, "b")
    assert other.status_code == 409 and other.json()["error"]["code"] == "already_voted"
    board = me.get("/leaderboard")
    assert {row["model"] for row in board["ratings"]} == NAMES
    assert board["votes"] == before["votes"] + 1 and board["categories"]["zh"] >= 1
    best = next(row for row in board["ratings"] if row["model"] == body["model_a"])
    assert best["lower"] < best["rating"] < best["upper"]
    assert me.get("/history")["points"][-1]["votes"] == board["votes"]
    assert me.get("")["voted"] == 1


def test_what_is_opened_again_is_the_same_reply(server: Server) -> None:
    me = Person(server)
    battle = me.begin()
    with me.client.stream("GET", f"/qwill/arena/battles/{battle}/a") as broken:
        next(broken.iter_bytes())
    whole = text_of(me.read(battle, "a"))
    assert whole and text_of(me.read(battle, "a")) == whole
    with me.client.stream("GET", f"/qwill/arena/battles/{battle}/b") as one:
        two = text_of(me.read(battle, "b"))
        one.read()
    assert text_of(me.read(battle, "b")) == two


def test_only_who_began_a_battle_sees_it_and_votes(server: Server) -> None:
    me, other = Person(server), Person(server)
    battle = me.battle()
    assert other.vote(battle).status_code == 403
    assert other.client.get(f"/qwill/arena/battles/{battle}/a").status_code == 403
    missing = other.vote("01890000-0000-7000-8000-000000000000")
    assert missing.status_code == 404 and missing.json()["error"]["code"] == "unknown_battle"
    assert me.vote(battle, "tie").status_code == 201


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "prompt"),
        ({"prompt": "x", "messages": [{"role": "user", "content": "x"}]}, "prompt"),
        ({"prompt": " \n"}, "prompt"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "assistant", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "system", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]}, "messages"),
        ({"prompt": "x", "model": "tiny-1"}, "model"),
        ({"prompt": "x", "language": "fr"}, "language"),
        ({"prompt": 3}, "prompt"),
    ],
)
def test_battles_that_make_no_sense_are_refused_by_field(server: Server, body: Any, param: str) -> None:
    answer = server.post("/qwill/arena/battles", body)
    assert answer.status_code == 400 and answer.json()["error"]["param"] == param, answer.text


@pytest.mark.parametrize(
    "body", [{}, {"outcome": "c"}, {"outcome": 1}, {"outcome": "a", "consent": "perhaps"}, {"outcome": "a", "x": 1}, []]
)
def test_votes_that_make_no_sense_are_refused(server: Server, body: Any) -> None:
    me = Person(server)
    answer = me.client.post(f"/qwill/arena/battles/{me.battle()}/votes", json=body)
    assert answer.status_code == 400 and "error" in answer.json()


def test_erasure_takes_the_votes_and_prompts_of_one_voter(server: Server) -> None:
    me, other = Person(server), Person(server)
    mine, theirs = me.battle("Something personal"), other.battle()
    assert me.vote(mine).status_code == other.vote(theirs).status_code == 201
    before = me.get("")["votes"]
    assert me.client.delete("/qwill/arena/votes/mine").json() == {"erased": 1}
    assert me.get("")["votes"] == me.get("/leaderboard")["votes"] == before - 1
    assert me.client.get(f"/qwill/arena/battles/{mine}/a").status_code == 404
    assert me.vote(mine).status_code == 404
    assert me.client.delete("/qwill/arena/votes/mine").json() == {"erased": 0}
    assert other.vote(theirs).json()["repeated"]


def test_an_unknown_category_is_said(server: Server) -> None:
    answer = server.client.get("/qwill/arena/leaderboard?category=cooking")
    assert answer.status_code == 400 and "cooking" in answer.json()["error"]["message"]


def test_the_cookie_is_for_the_arena_alone_and_kept_from_scripts(server: Server) -> None:
    sent = server.client.get("/qwill/arena").headers["set-cookie"].lower()
    assert "httponly" in sent and "samesite=strict" in sent and "path=/qwill/arena" in sent


def test_a_server_without_the_option_has_no_arena(tmp_path: Path) -> None:
    from serving import serving

    from qwill.base.state import open_state

    with serving(state=open_state(str(tmp_path / "s.db"))) as plain:
        assert plain.client.get("/qwill/arena").status_code == 404


def test_a_battle_of_two_turns_is_shown_again_as_it_is(server: Server) -> None:
    me, other = Person(server), Person(server)
    battle = me.begin("Why is the sky blue?")
    turns = f"/qwill/arena/battles/{battle}/turns"
    early = me.client.post(turns, json={"prompt": "And at night?", "turn": 2})
    assert early.status_code == 409 and early.json()["error"]["code"] == "not_finished"
    first = {side: text_of(me.read(battle, side)) for side in "ab"}
    begun = me.client.post(turns, json={"prompt": "And at night?", "turn": 2})
    assert begun.status_code == 200 and begun.json() == {"id": battle, "turn": 2}
    assert me.client.post(turns, json={"prompt": "And at night?", "turn": 2}).json() == begun.json()
    assert me.client.post(turns, json={"prompt": "Else?", "turn": 2}).json()["error"]["code"] == "other_turn"
    assert other.client.post(turns, json={"prompt": "And?", "turn": 2}).status_code == 403
    assert me.client.post(turns, json={"prompt": " ", "turn": 3}).status_code == 400
    assert me.client.post(turns, json={"prompt": "x" * 100_001, "turn": 3}).status_code == 400
    second = text_of(me.read(battle, "a"))
    now = me.get(f"/battles/{battle}")
    assert [turn["asked"] for turn in now["turns"]] == ["Why is the sky blue?", "And at night?"]
    assert {side: reply["content"] for side, reply in now["turns"][0]["replies"].items()} == first
    assert now["turns"][1]["replies"]["a"]["content"] == second and now["turns"][1]["replies"]["b"] is None
    assert now["vote"] is None and "tiny-" not in str(now)
    assert me.vote(battle).json()["error"]["code"] == "not_finished"
    me.read(battle, "b")
    voted = me.vote(battle, "b")
    assert voted.status_code == 201 and me.vote(battle, "b").json()["repeated"]
    shown = me.get(f"/battles/{battle}")["vote"]
    assert shown == voted.json() | {"repeated": True}
    assert me.client.post(turns, json={"prompt": "More?", "turn": 3}).json()["error"]["code"] == "already_voted"
    assert other.client.get(f"/qwill/arena/battles/{battle}").status_code == 403


def test_the_leaderboard_with_and_without_style(server: Server) -> None:
    me = Person(server)
    for n in range(4):
        me.vote(me.battle(f"Prompt {n}"), "ab"[n % 2])
    plain, controlled = me.get("/leaderboard"), me.get("/leaderboard?style=true")
    assert not plain["style"] and plain["style_effects"] == {} and plain["suspicions"] == []
    assert controlled["style"] and set(controlled["style_effects"]) == {"length", "headers", "bold", "lists"}
    for board in (plain, controlled):
        rated = [row for row in board["ratings"] if row["rating"] is not None]
        assert rated and all(row["lower"] < row["rating"] < row["upper"] for row in rated)
    assert server.client.get("/qwill/arena/leaderboard?style=perhaps").status_code == 400


def test_a_running_server_forgets_battles_that_nobody_voted_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dataclasses import replace

    from arena_serving import FREE

    monkeypatch.setattr("qwill.serve.arena_purge.EVERY", 0.1)
    with arena(tmp_path / "s.db", replace(FREE, keep_days=1e-6)) as running:
        me = Person(running)
        battle = me.begin("Something personal")
        until = time.monotonic() + 20
        while me.client.get(f"/qwill/arena/battles/{battle}").status_code != 404:
            assert time.monotonic() < until
            time.sleep(0.05)
    with sqlite3.connect(tmp_path / "s.db") as db:
        assert "Something personal" not in "\n".join(db.iterdump())


def test_the_command_forgets_too(tmp_path: Path) -> None:
    import click
    from click.testing import CliRunner

    from qwill.base.state import close_state, open_state
    from qwill.cli.arena import arena as commands
    from qwill.serve.arena_log import new_battle

    where = str(tmp_path / "s.db")
    state = open_state(where)
    new_battle(state, "local", "v_1", "en", [{"role": "user", "content": "x"}], "ash", "birch")
    close_state(state)
    command = commands(click.Command("arena"))
    assert CliRunner().invoke(command, ["purge", "--state", where]).output == "0 battles without a vote forgotten.\n"
    time.sleep(0.01)
    run = CliRunner().invoke(command, ["purge", "--state", where, "--days", "0", "--json"])
    assert json.loads(run.output) == {"battles": 1, "days": 0.0}
