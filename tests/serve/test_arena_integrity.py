"""What keeps votes blind and honest over HTTP: anonymity, pseudonyms, limits, keys, leaks, a server started again."""

import json
import sqlite3
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from arena_serving import FREE, Person, arena
from serving import build_with, tiny_build

from qwill.base.errors import ConfigError
from qwill.base.state import close_state, open_state
from qwill.serve.arena_voters import Turnstile, fingerprint
from qwill.serve.errors import ApiError
from qwill.serve.keys import create_key
from qwill.serve.settings import ArenaSettings

MODELS = {f"secret-{i}": build_with(seed=i) for i in (1, 2)}


def test_nothing_says_who_is_who_before_the_vote(tmp_path: Path) -> None:
    with arena(tmp_path / "s.db", models=MODELS) as server:
        me = Person(server)
        made = me.client.post("/qwill/arena/battles", json={"prompt": "Hello"})
        battle = made.json()["id"]
        said = [made.text, str(made.headers)]
        for side in "ab":
            answer = me.client.get(f"/qwill/arena/battles/{battle}/{side}")
            said += [answer.text, str(answer.headers)]
        said.append(me.client.post(f"/qwill/arena/battles/{battle}/votes", json={"outcome": "?"}).text)
        assert "secret-" not in "".join(said)
        assert "secret-" in me.vote(battle).text


def test_errors_of_a_model_do_not_give_it_away(tmp_path: Path) -> None:
    """One model has no room for the prompt, the other has: both the words and the numbers would tell."""
    models = {"small-1": build_with(context=32), "large-1": build_with(context=2000)}
    with arena(tmp_path / "s.db", models=models) as server:
        me = Person(server)
        battle = me.begin("a long prompt " * 20)
        said = [me.client.get(f"/qwill/arena/battles/{battle}/{side}") for side in "ab"]
        assert sorted(answer.status_code for answer in said) == [200, 400]
        wrong = next(answer for answer in said if answer.status_code == 400)
        assert wrong.json()["error"]["code"] == "context_length_exceeded"
        assert "small" not in wrong.text and "32" not in wrong.text
        assert me.vote(battle).json()["error"]["code"] == "not_finished"


def test_each_pair_and_each_side_comes_up(tmp_path: Path) -> None:
    with arena(tmp_path / "s.db") as server:
        me, pairs = Person(server), set()
        for _ in range(60):
            me.begin()
        with sqlite3.connect(tmp_path / "s.db") as db:
            pairs = set(db.execute("SELECT model_a, model_b FROM battles"))
        assert len(pairs) == 6


def test_the_database_knows_voters_by_pseudonyms_only(tmp_path: Path) -> None:
    with arena(tmp_path / "s.db", models=MODELS) as server:
        one, two = Person(server), Person(server)
        for person in (one, two):
            assert person.vote(person.battle()).status_code == 201
        cookies = [person.client.cookies["qwill_voter"] for person in (one, two)]
        assert cookies[0] != cookies[1]
    with sqlite3.connect(tmp_path / "s.db") as db:
        rows = db.execute("SELECT voter, body FROM votes").fetchall()
        dump = "\n".join(db.iterdump())
    assert len({voter for voter, _ in rows}) == 2 and len({json.loads(body)["address"] for _, body in rows}) == 1
    assert not any(cookie in dump for cookie in cookies) and "127.0.0.1" not in dump


def test_one_prompt_has_one_pseudonym_and_no_text(tmp_path: Path) -> None:
    with arena(tmp_path / "s.db", models=MODELS) as server:
        for prompt in ("Who are you?", "  who ARE\nyou? ", "Who is he?"):
            me = Person(server)
            assert me.vote(me.battle(prompt)).status_code == 201
    with sqlite3.connect(tmp_path / "s.db") as db:
        bodies = [row[0] for row in db.execute("SELECT body FROM votes ORDER BY sequence")]
    prompts = [json.loads(body)["prompt"] for body in bodies]
    assert prompts[0] == prompts[1] != prompts[2]
    assert all(body["prompt"].startswith("p_") and "who" not in str(body).lower() for body in map(json.loads, bodies))
    assert fingerprint(b"one", ["x"]) != fingerprint(b"two", ["x"])


def test_a_cookie_that_is_none_is_replaced(tmp_path: Path) -> None:
    with arena(tmp_path / "s.db", models=MODELS) as server:
        for sent in ("", "short", "x" * 33, "y" * 31 + "!"):
            answer = server.client.get("/qwill/arena", headers={"Cookie": f"qwill_voter={sent}"})
            assert "qwill_voter=" in answer.headers["set-cookie"]
            server.client.cookies.clear()


def test_a_server_that_is_started_again_knows_its_voters_battles_and_votes(tmp_path: Path) -> None:
    with arena(tmp_path / "s.db", models=MODELS) as server:
        me = Person(server)
        done, open_ = me.battle(), me.battle()
        assert me.vote(done, "a").status_code == 201
        before = me.get("/leaderboard")
        cookie = me.client.cookies["qwill_voter"]
    with arena(tmp_path / "s.db", models=MODELS) as server:
        me = Person(server, Cookie=f"qwill_voter={cookie}")
        assert me.get("/leaderboard") == before  # to the last bit
        again = me.vote(done, "a")
        assert again.status_code == 200 and again.json()["repeated"]
        assert me.vote(open_, "tie").status_code == 201 and me.get("")["voted"] == 2


def test_too_many_battles_and_votes_of_one_voter_or_address_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qwill.serve.arena_voters.clock", lambda: 0)
    few = ArenaSettings(battles=3, votes=2, address=9, max_tokens=2)
    with arena(tmp_path / "s.db", few, MODELS) as server:
        me, other = Person(server), Person(server)
        battles = [me.battle() for _ in range(3)]
        late = me.client.post("/qwill/arena/battles", json={"prompt": "x"})
        assert late.status_code == 429 and 1 <= int(late.headers["retry-after"]) <= 20
        assert [me.vote(battle).status_code for battle in battles] == [201, 201, 429]
        # What was not let in counts for the address too: 7 of its 9 are used.
        assert other.client.post("/qwill/arena/battles", json={"prompt": "x"}).status_code == 201
        assert other.client.post("/qwill/arena/battles", json={"prompt": "x"}).status_code == 201
        refused = other.client.post("/qwill/arena/battles", json={"prompt": "x"})
        assert refused.status_code == 429 and "address" in refused.json()["error"]["message"]


def test_the_turnstile_forgets_those_who_have_rested(monkeypatch: pytest.MonkeyPatch) -> None:
    from qwill.serve import arena_voters

    moment = [0]
    monkeypatch.setattr(arena_voters, "clock", lambda: moment[0])
    monkeypatch.setattr(arena_voters, "_MOST_METERS", 10)
    gate = Turnstile(1, "Votes")
    for number in range(50):
        gate.enter(f"v{number}")
        moment[0] += 10_000_000_000
    assert len(gate.meters) <= 10
    with pytest.raises(ApiError) as found:
        gate.enter("v49")
    assert found.value.status_code == 429 and found.value.headers == {"Retry-After": "50"}
    Turnstile(None, "Votes").enter("anybody")


def test_with_keys_the_key_is_the_voter_and_tenants_have_arenas_of_their_own(tmp_path: Path) -> None:
    state = open_state(str(tmp_path / "s.db"))
    mine, theirs = (create_key(state, tenant, "k")[1] for tenant in ("acme", "other"))
    close_state(state)
    with arena(tmp_path / "s.db", FREE, MODELS, api_key_required=True) as server:
        assert server.client.get("/qwill/arena").status_code == 401
        me, again, other = (Person(server, Authorization=f"Bearer {key}") for key in (mine, mine, theirs))
        battle = me.battle()
        again.client.cookies.clear()
        assert again.vote(battle).status_code == 201  # another browser, the same key
        assert other.vote(battle).status_code == 404
        assert (me.get("")["votes"], other.get("")["votes"]) == (1, 0)
        assert "set-cookie" not in me.client.get("/qwill/arena").headers


def test_a_vote_on_a_reply_that_said_its_name_is_kept_and_not_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from qwill.serve import arena_log

    keep = arena_log.save_reply

    def leaking(state: Any, tenant: str, battle: str, side: Any, reply: Any, turn: int) -> None:
        keep(state, tenant, battle, side, {**reply, "content": "I am Qwen." if side == "a" else "Hello."}, turn)

    monkeypatch.setattr("qwill.serve.arena_replies.save_reply", leaking)
    with arena(tmp_path / "s.db", models=MODELS) as server:
        me = Person(server)
        voted = me.vote(me.battle()).json()
        assert (voted["counted"], voted["why"], voted["changes"]) == (False, "leak", {})
        board = me.get("/leaderboard")
        assert board["votes"] == 0 and board["set_aside"]["leak"] == 1
        assert all(row["rating"] is None for row in board["ratings"])


def test_one_model_is_no_arena(tmp_path: Path) -> None:
    from qwill.cli.serve import start
    from qwill.serve.settings import ServeSettings

    with pytest.raises(ConfigError, match="at least two models"):
        start({"one": partial(tiny_build)}, {"one": "one"}, ServeSettings(arena=FREE), False)  # type: ignore[dict-item]
    with arena(tmp_path / "s.db", models={"one": build_with()}) as server:
        answer = server.post("/qwill/arena/battles", {"prompt": "x"})
        assert answer.status_code == 503 and answer.json()["error"]["code"] == "one_model"
