"""Bot rings are found and honest crowds are not accused; votes.py and arena_standings.py on made-up crowds."""

import json
import random
from dataclasses import asdict, replace
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_up_votes import honest, mixed, numbered, ring, vote

from qwill.base.errors import DataError
from qwill.evaluate.arena import fit_ratings
from qwill.evaluate.arena_standings import checkpoint, counted, history, standings, with_votes
from qwill.evaluate.coordination import ring_voters, suspicions
from qwill.evaluate.coordination_evidence import MIDDLE, Groups, cells_of, evidence
from qwill.evaluate.coordination_evidence import honest as honest_law
from qwill.evaluate.votes import Vote, replay


@pytest.mark.parametrize("taste", [0.0, 0.4, 0.8])
@pytest.mark.parametrize("homes", [0, 15])
def test_honest_crowds_are_not_accused(taste: float, homes: int) -> None:
    """Tastes apart by as much as the models are, people who share addresses, some who vote much more than others."""
    for seed in range(4):
        assert suspicions(honest(seed, taste=taste, homes=homes)) == []


@pytest.mark.parametrize(
    ("kind", "target", "accounts", "each", "more"),
    [
        ("address", "ash", 10, 10, {}),  # behind one address, few votes each
        ("address", "ash", 10, 12, {"addresses": 2, "loyalty": 0.95}),
        ("address", "fir", 8, 12, {"against": True}),
        ("crowd", "ash", 20, 15, {"addresses": 20}),  # from addresses of their own
        ("crowd", "fir", 15, 15, {"addresses": 15, "against": True}),
        ("voter", "oak", 1, 150, {}),  # one bot alone
    ],
)
def test_rings_are_found_whole_and_nobody_else(kind: str, target: str, accounts: int, each: int, more: dict) -> None:
    for seed in range(3):
        votes = mixed(seed, honest(seed), ring(seed, target, accounts, each, **more))
        found = suspicions(votes)
        accused = ring_voters(votes)
        bots = {name for name in accused if name.startswith("bot")}
        assert len(bots) >= 0.8 * accounts and len(accused) - len(bots) <= 1
        first = found[0]
        assert first.model == target and first.direction == ("against" if more.get("against") else "for")
        assert kind in {one.kind for one in found} and first.chance < 1e-4 and first.votes > 0


@pytest.mark.parametrize(("target", "against"), [("ash", False), ("elm", False), ("fir", True)])
def test_ten_accounts_of_ten_votes_from_addresses_of_their_own_are_found(target: str, against: bool) -> None:
    found = 0
    for seed in range(6):
        accused = ring_voters(mixed(seed, honest(seed), ring(seed, target, 10, 10, addresses=10, against=against)))
        bots = {name for name in accused if name.startswith("bot")}
        found += len(bots) >= 5
        assert len(accused) - len(bots) <= 1, (seed, accused)
    assert found >= 5


def test_people_of_strong_taste_are_no_ring() -> None:
    """One voter in eight finds their favourite, whichever it is, to have five times the odds."""
    for seed in range(6):
        assert suspicions(honest(seed, fans=0.125)) == []


def test_accounts_that_come_together_or_ask_one_thing_are_found_sooner() -> None:
    """Ten accounts with eight votes each: too few for the whole crowd, enough for a burst or a prompt."""
    found = {"burst": 0, "prompt": 0, "": 0}
    for seed in range(4):
        crowd, bots = honest(seed, voters=150), ring(seed, "ash", 10, 8, addresses=10)
        asked = [replace(vote, prompt="who are you?") for vote in bots]
        found[""] += bool(ring_voters(mixed(seed, crowd, bots)))
        found["burst"] += len(ring_voters(numbered([*crowd[:900], *bots, *crowd[900:]]))) >= 6
        found["prompt"] += len(ring_voters(mixed(seed, crowd, asked))) >= 6
    assert found["burst"] >= 3 and found["prompt"] >= 3 and found[""] <= 2, found


def test_the_law_of_honest_votes_sums_to_one() -> None:
    """Over all ways in which three votes can go, for each taste and shift; and e-values have a mean of 1 at most."""
    odds = np.array([0.3, -0.8, 1.4])
    ways = [np.array(way) for way in product([True, False], repeat=3)]
    tables = [honest_law(cells_of(np.zeros(3, np.int64), odds, way, 1)) for way in ways]
    total = np.exp(np.stack(tables)).sum(axis=0)
    assert np.abs(total - 1).max() < 1e-9
    # Three voters with one vote each.
    groups = Groups(np.arange(3), np.array([0]), np.array([3]), None, (0.1, 0.5))
    for taste, shift in ((0, MIDDLE), (2, MIDDLE + 2), (3, MIDDLE - 1)):
        mean = 0.0
        for way in ways:
            cells = cells_of(np.arange(3), odds, way, 3)
            table = honest_law(cells)
            value = evidence(groups, table, cells, 1, taste)[0][0]
            mean += float(np.exp(value + table[taste, shift].sum()))
        assert mean <= 1 + 1e-9


def test_where_few_vote_opposite_tastes_are_no_ring() -> None:
    friends = [vote(i, f"friend-{i % 4}", "ash", "birch", "a" if i % 4 < 2 else "b", "home") for i in range(400)]
    assert suspicions(friends) == []


def test_ratings_without_a_ring_are_those_of_the_honest() -> None:
    crowd = honest(7, voters=120)
    votes = mixed(7, crowd, ring(7, "oak", 12, 20))
    found = counted(votes)
    clean = {row["model"]: row["rating"] for row in standings(counted(crowd), [])["ratings"]}
    now = {row["model"]: row["rating"] for row in standings(found, [])["ratings"]}
    moved = fit_ratings([v.model_a for v in votes], [v.model_b for v in votes], [v.points for v in votes], prior=0.1)
    pushed = dict(zip(moved.models, moved.rating, strict=True))["oak"]
    assert found.set_aside["coordinated"] >= 200
    assert abs(now["oak"] - clean["oak"]) < 5 < 30 < pushed - clean["oak"]


def test_votes_under_suspicion_are_said_and_count_if_asked() -> None:
    votes = mixed(7, honest(7, voters=120), ring(7, "oak", 12, 20))
    out, kept = counted(votes), counted(votes, leave_out=False)
    assert out.suspicions == kept.suspicions and kept.set_aside["coordinated"] == 0 and len(kept.votes) == len(votes)
    shown = standings(kept, [])
    assert shown["suspicions"][0]["voters"] >= 10 and "bot" not in json.dumps(shown)
    assert any("they count here" in note["en"] for note in shown["notes"])
    assert any("don't count" in note["en"] for note in standings(out, [])["notes"])
    for leave_out in (True, False):  # the same log gives the same answer, also when it is followed vote by vote
        found = counted(votes[: checkpoint(len(votes))], leave_out)
        for one in votes[checkpoint(len(votes)) :]:
            found = with_votes(found, [one])
        assert found == counted(votes, leave_out)


def test_style_is_taken_out_of_ratings_if_asked() -> None:
    """Two equal models; one writes longer, and voters like that."""
    rng = random.Random(0)
    votes = []
    for i in range(600):
        lengths = (rng.randint(20, 200), rng.randint(20, 200) + 60)
        won = rng.random() < 1 / (1 + (lengths[1] / lengths[0]) ** 1.5)
        style = [(length, 0, 0, 0) for length in lengths]
        sides = ["ash", "birch"]
        if i % 2:
            style, sides, won = style[::-1], sides[::-1], not won
        votes.append(vote(i, f"v-{i}", *sides, "a" if won else "b", style=tuple(style)))
    plain, controlled = (standings(counted(votes), [], style=style)["ratings"] for style in (False, True))
    gap = [rows[0]["rating"] - rows[1]["rating"] for rows in (plain, controlled)]
    assert 0 < gap[1] < 0.9 * gap[0]  # not 0: the ridge that arena-rank has too draws effects of style together
    assert all(row["upper"] - row["lower"] > 0 for row in controlled)
    effects = standings(counted(votes), [], style=True)["style_effects"]
    assert effects["length"] > 0.1 and effects["bold"] == 0
    some = standings(counted([*votes, vote(600, "x", "ash", "birch", "a")]), [], style=True)
    assert some["votes"] == 601 and "1 votes have no counts of style" in some["notes"][0]["en"]
    assert some["ratings"][0]["rating"] == controlled[0]["rating"]


@given(st.integers(0, 10**6))
def test_checkpoints_grow_with_the_log(count: int) -> None:
    found = checkpoint(count)
    assert found <= count and checkpoint(found) == found
    assert count - found < max(50, 0.06 * count)


def test_following_the_log_is_as_starting_anew_between_checkpoints() -> None:
    votes = honest(1, voters=30, each=(5, 10))
    start = checkpoint(len(votes))
    found = counted(votes[:start])
    for one in votes[start:]:
        found = with_votes(found, [one])
    assert found == counted(votes)


def test_the_leaderboard_says_everything_and_is_json() -> None:
    votes = [vote(i, f"v-{i}", "ash", "birch", "ab"[i % 2], categories=("en",)) for i in range(20)]
    votes += [vote(20 + i, f"w-{i}", "birch", "cedar", "tie", categories=("zh", "code")) for i in range(5)]
    votes += [vote(30, "x", "ash", "cedar", "a", leaks=("a:self",))]
    shown = json.loads(json.dumps(standings(counted(votes), ["ash", "birch", "cedar", "elm"], "all")))
    assert [row["model"] for row in shown["ratings"]][-1] == "elm" and shown["ratings"][-1]["rating"] is None
    assert shown["set_aside"] == {"leak": 1, "coordinated": 0} and shown["categories"] == {
        "all": 25, "code": 5, "en": 20, "zh": 5,
    }  # fmt: skip
    ash = next(row for row in shown["ratings"] if row["model"] == "ash")
    assert (ash["votes"], ash["wins"], ash["ties"], ash["losses"]) == (20, 10, 0, 10)
    assert all(set(note) == {"en", "zh"} for note in shown["notes"])
    zh = standings(counted(votes), ["ash"], "zh")
    assert zh["votes"] == 5 and next(r for r in zh["ratings"] if r["model"] == "ash")["rating"] is None
    assert [point["votes"] for point in history(votes)][-1] == 26
    with pytest.raises(DataError, match="choose from all, code, en, zh"):
        standings(counted(votes), [], "fr")


def test_what_can_not_be_compared_is_said() -> None:
    apart = [vote(i, f"v-{i}", *(("ash", "birch") if i % 2 else ("cedar", "elm")), "ab"[i // 2 % 2]) for i in range(20)]
    shown = standings(counted(apart), [])
    assert any("ash, birch; cedar, elm" in note["en"] for note in shown["notes"])
    plain = standings(counted(apart), [], prior=0.0)
    assert all(row["rating"] is None for row in plain["ratings"]) and "No ratings" in plain["notes"][0]["en"]
    assert standings(counted([]), ["ash"])["notes"][0]["zh"] == "还没有投票。"


def entry(number: int, **more: object) -> dict[str, object]:
    body = {"model_a": "ash", "model_b": "birch"}
    row = {"sequence": number, "kind": "vote", "id": f"i{number}", "battle": f"b{number}", "voter": "v", "outcome": "a",
           "body": body, "created": 1, "deleted": None, "erases": None}  # fmt: skip
    return row | more


@pytest.mark.parametrize(
    ("entries", "said"),
    [
        ([entry(1), entry(2, battle="b1")], "entry 2 is a second vote of one voter on battle b1"),
        ([entry(1, outcome="c")], "entry 1: outcome 'c'; expected one of a, b, tie, both_bad"),
        ([entry(1, body={"model_a": "ash"})], "entry 1: model_b is None"),
        ([entry(1, body={"model_a": "ash", "model_b": "ash"})], "entry 1: 'ash' against itself"),
        ([entry(2), entry(1)], "entry 1 comes after entry 2"),
        ([entry(1, kind="erasure", erases="i9")], "entry 1 erases i9, which is no vote before it"),
    ],
)
def test_a_log_that_makes_no_sense_is_refused_by_entry(entries: list[dict[str, object]], said: str) -> None:
    with pytest.raises(DataError, match=said):
        replay(entries)


def test_a_vote_is_read_as_it_was_written() -> None:
    body = {"model_a": "ash", "model_b": "birch", "language": "zh", "categories": ["zh"], "leaks": ["a:self"],
            "consent": True, "address": "n_1", "style": [[1, 2], [3, 4]]}  # fmt: skip
    found = replay([entry(1, body=body)])[0]
    assert found == Vote("i1", 1, 1, "b1", "v", "a", "ash", "birch", "zh", ("zh",), ("a:self",), True, "n_1",
                         ((1, 2), (3, 4)))  # fmt: skip
    assert asdict(found)["outcome"] == "a" and found.points == 1.0
