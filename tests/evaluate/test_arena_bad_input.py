"""Whatever a file of votes holds, `qwill arena` rates it or says one sentence and exits 2; what can't be compared is
named, and nothing is regularised unless asked."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qwill.base.errors import DataError
from qwill.cli.main import main
from qwill.evaluate.arena import anchored, fit_ratings, pair_weights, win_matrix
from qwill.evaluate.arena_bootstrap import bootstrap_ratings
from qwill.evaluate.arena_categories import categories_of
from qwill.evaluate.arena_online import add_model, add_vote, live_ratings, ratings_now, start_ratings
from qwill.evaluate.arena_pairing import next_pair
from qwill.evaluate.arena_table import read_votes
from qwill.evaluate.judge import Pair, check_pairs
from qwill.evaluate.judge_inputs import read_human, read_prompts, read_replies

Capture = pytest.CaptureFixture[str]
ANY_FIXTURE = settings(max_examples=120, suppress_health_check=[HealthCheck.function_scoped_fixture])
OPTIONS: list[list[str]] = [
    [], ["--prior", "0.1"], ["--style", "--prior", "1"], ["--category", "zh", "--prior", "0.1"],
    ["--cluster", "voter", "--prior", "0.1"], ["--bootstrap", "5", "--prior", "0.1"], ["--feature", "length"],
    ["--weight-pairs", "--prior", "0.1"], ["--anchor", "a=1000", "--prior", "0.1"],
]  # fmt: skip

scalars = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.floats(allow_nan=True, allow_infinity=True),
    st.text(max_size=8), st.sampled_from(["a", "b", "tie", "both_bad", "model_a", "", "m1", "m2", "\0", "x" * 300]),
)  # fmt: skip
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
FIELDS = (
    "id", "model_a", "model_b", "outcome", "winner", "reply", "reply_a", "reply_b", "prompt", "messages", "language",
    "voter", "length",
)  # fmt: skip
broken = st.dictionaries(st.sampled_from(FIELDS), values, max_size=9)
sound = st.fixed_dictionaries(
    {
        "model_a": st.sampled_from(["a", "b"]),
        "model_b": st.sampled_from(["c", "d"]),
        "outcome": st.sampled_from(["a", "b", "tie", "both_bad", 1, 0, 0.5, 0.25]),
        "reply_a": st.text(max_size=5),
        "reply_b": st.text(max_size=5),
        "prompt": st.sampled_from(["写一首诗", "Write a poem", ""]),
        "voter": st.sampled_from(["v1", "v2", "v3"]),
        "length": st.floats(-5, 5),
    }
)


def write(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def one_sentence(words: list[str], capsys: Capture) -> str:
    """Runs the command, which must fail as a user's mistake does."""
    assert main(words) == 2, words
    said = capsys.readouterr()
    assert said.out == "" and said.err.startswith("qwill: ") and said.err.count("\n") == 1, said.err
    assert said.err.rstrip().endswith("."), said.err
    return said.err


@ANY_FIXTURE
@given(st.lists(sound, max_size=6), broken, st.lists(sound, max_size=3), st.sampled_from(OPTIONS))
def test_any_row_among_votes_is_rated_or_named(
    tmp_path: Path, capsys: Capture, before: list[Any], wrong: Any, after: list[Any], options: list[str]
) -> None:
    votes = write(tmp_path / "votes.jsonl", [*before, wrong, *after])
    code = main(["arena", "rate", str(votes), *options, "--json"])
    said = capsys.readouterr()
    if code == 0:
        json.loads(said.out, parse_constant=lambda name: pytest.fail(f"{name} in what was printed"))
    else:
        assert code == 2 and said.out == "" and said.err.count("\n") == 1, said.err


@ANY_FIXTURE
@given(st.lists(sound, min_size=1, max_size=8), st.sampled_from(OPTIONS))
def test_sound_votes_are_rated_with_a_prior_and_what_cannot_be_is_named(
    tmp_path: Path, capsys: Capture, rows: list[Any], options: list[str]
) -> None:
    votes = write(tmp_path / "votes.jsonl", rows)
    code = main(["arena", "rate", str(votes), *options, "--json"])
    said = capsys.readouterr()
    if code:
        assert any(words in said.err for words in ("perfect separation", "no vote connects", "category", "cluster",
                                                   "no rating", "anchor", "not rated")), said.err  # fmt: skip
    else:
        for row in json.loads(said.out)["ratings"]:
            assert math.isfinite(row["rating"]) and row["lower"] <= row["upper"]
            # Five resamples may all lie on one side of the estimate.
            assert row["lower"] <= row["rating"] <= row["upper"] or "--bootstrap" in options


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "no votes in it"),
        (b"\n\n", "no votes in it"),
        (b'{"model_a": "a", "model_b": "b", "outcome": 1', "line 1"),
        (b'{"model_a": "a", "model_b": "b", "outcome": 1}\n{"model_a"', "line 2"),
        (b'{"model_a": "\xff", "model_b": "b", "outcome": 1}\n', "line 1 is not UTF-8"),
        (b"[1, 2]\n", "line 1 holds list"),
        (b"not json\n", "line 1"),
        (b'{"model_a": "a", "model_b": "b", "outcome": NaN}\n', "line 1: 'outcome' is NaN"),
        (b'{"model_a": "a", "model_b": "a", "outcome": 1}\n', "meets itself"),
        (b'{"model_a": "a", "outcome": 1}\n', "'model_b' is missing"),
        (b'{"model_a": "a", "model_b": "b"}\n', "missing"),
        (b'{"model_a": "a", "model_b": "b", "outcome": 2}\n', "'outcome' is 2"),
        (b'{"model_a": "a", "model_b": "b", "outcome": -0.5}\n', "'outcome' is -0.5"),
        (b'{"model_a": "a", "model_b": "b", "outcome": "A"}\n', "'outcome' is \"A\""),
        (b'{"model_a": ["a"], "model_b": "b", "outcome": 1}\n', "'model_a' is"),
        (b'{"model_a": "a", "model_b": "b", "outcome": 1}\n', "perfect separation"),
        (b"[" * 5000 + b"\n", "line 1"),
        (b'{"model_a": "a", "model_b": "b", "outcome": ' + b"1" * 5000 + b"}\n", "line 1"),
    ],
)
def test_broken_files(tmp_path: Path, capsys: Capture, data: bytes, says: str) -> None:
    path = tmp_path / "votes.jsonl"
    path.write_bytes(data)
    assert says in one_sentence(["arena", "rate", str(path)], capsys)


def test_a_file_that_is_none(tmp_path: Path, capsys: Capture) -> None:
    assert "cannot be read" in one_sentence(["arena", "rate", str(tmp_path / "nothing.jsonl")], capsys)
    assert "cannot be read" in one_sentence(["arena", "rate", str(tmp_path)], capsys)


def vote(a: str, b: str, outcome: float) -> dict[str, Any]:
    return {"model_a": a, "model_b": b, "outcome": outcome}


def test_groups_that_never_met_are_named_and_rated_only_if_asked(tmp_path: Path, capsys: Capture) -> None:
    rows = [vote("a", "b", 1), vote("b", "a", 1), vote("c", "d", 1), vote("d", "c", 1)]
    votes = write(tmp_path / "votes.jsonl", rows)
    said = one_sentence(["arena", "rate", str(votes)], capsys)
    assert "2 groups" in said and "a, b; c, d" in said and "prior" in said
    assert main(["arena", "rate", str(votes), "--prior", "0.1", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["groups"] == [["a", "b"], ["c", "d"]]
    assert any("a, b" in note and "c, d" in note for note in found["notes"])


def test_a_model_that_won_all_is_named_and_rated_only_if_asked(tmp_path: Path, capsys: Capture) -> None:
    rows = [vote("a", "b", 1), vote("b", "a", 1), vote("best", "a", 1), vote("best", "b", 1)]
    votes = write(tmp_path / "votes.jsonl", rows)
    assert "perfect separation: best" in one_sentence(["arena", "rate", str(votes)], capsys)
    assert main(["arena", "rate", str(votes), "--prior", "0.1", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [row["model"] for row in found["ratings"] if row["separated"]] == ["best"]


def test_unknown_models_categories_features_and_clusters(tmp_path: Path, capsys: Capture) -> None:
    votes = str(write(tmp_path / "votes.jsonl", [vote("a", "b", 1), vote("b", "a", 1)]))
    for options, says in (
        (["--anchor", "nobody=1000"], "nobody"),
        (["--anchor", "a=nan"], "a"),
        (["--anchor", "1000"], "--anchor is '1000'"),
        (["--category", "poems"], "there is no category 'poems'"),
        (["--category", "zh"], "no vote is in the category 'zh'"),
        (["--feature", "tone"], "the feature 'tone' is missing"),
        (["--cluster", "voter"], "'voter'"),
        (["--style"], "'reply_a' is missing"),
    ):
        assert says in one_sentence(["arena", "rate", votes, *options], capsys), options


def test_nan_features_are_named(tmp_path: Path, capsys: Capture) -> None:
    rows = [vote("a", "b", 1) | {"tone": 0.5}, vote("b", "a", 1) | {"tone": float("nan")}]
    votes = write(tmp_path / "votes.jsonl", rows)
    assert "line 2: the feature 'tone' is NaN" in one_sentence(
        ["arena", "rate", str(votes), "--feature", "tone"], capsys
    )
    for call in (fit_ratings, bootstrap_ratings):
        with pytest.raises(DataError, match=r"features\[1\]"):
            call(["a", "b"], ["b", "a"], [1, 1], [[0.5], [float("nan")]])


@pytest.mark.parametrize("call", [fit_ratings, bootstrap_ratings])
@pytest.mark.parametrize(
    ("given", "says"),
    [
        ((["a"], ["a"], [1]), "against itself"),
        (([], [], []), "name 0 models"),
        ((["a", None], ["b", "b"], [1, 0]), r"model_a\[1\] is None"),
        ((["a"], ["b"], [float("nan")]), r"outcome\[0\]"),
        ((["a"], ["b"], [1.5]), r"outcome\[0\] is 1.5"),
        ((["a"], ["b"], [1, 0]), "outcome has shape"),
        ((["a", "b"], ["b"], [1, 0]), "give one of each"),
        ((["a", "b"], ["b", "a"], [1, 1], None, [1, -1]), "weights must be 0 or more"),
        ((["a", "b"], ["b", "a"], [1, 1], None, [0, 0]), "not all 0"),
        ((["a", "b"], ["b", "a"], [1, 1], None, [1, float("inf")]), "weights"),
        ((["a", "b"], ["b", "a"], [1, 1], [[1], [2], [3]]), "features has shape"),
        ((["a", "b"], ["b", "a"], [1, 1], [1, 2]), "features has shape"),
    ],
)
def test_bad_columns_are_named(call: Any, given: tuple[Any, ...], says: str) -> None:
    with pytest.raises(DataError, match=says):
        call(*given)


def test_anchors_weights_and_tables_of_nothing() -> None:
    found = fit_ratings(["a", "b"], ["b", "a"], [1, 1])
    with pytest.raises(DataError, match="nobody"):
        anchored(found, "nobody", 1000)
    with pytest.raises(DataError, match="0 models"):
        pair_weights([], [])
    with pytest.raises(DataError, match="0 models"):
        win_matrix([], [], [])


def test_live_ratings_refuse_strangers_and_stay_as_they_were() -> None:
    state = start_ratings(["a", "b"])
    before = ratings_now(state)
    for a, b, outcome, says in (
        ("a", "nobody", 1.0, "names 'nobody', which is not rated"),
        ("a", "a", 1.0, "against itself"),
        ("a", "b", 2.0, "outcome is 2"),
        ("a", "b", float("nan"), "outcome is nan"),
    ):
        with pytest.raises(DataError, match=says):
            add_vote(state, a, b, outcome)
    after = ratings_now(state)
    assert np.array_equal(before.rating, after.rating) and np.array_equal(before.covariance, after.covariance)
    with pytest.raises(DataError, match="rated already"):
        add_model(state, "a")
    for models in ([], ["a"], ["a", "a"]):
        with pytest.raises(DataError, match="name at least two"):
            start_ratings(models)
    with pytest.raises(DataError, match="prior"):
        live_ratings(["a"], ["b"], [1.0], prior=0)
    with pytest.raises(DataError, match="1 of the rated models can answer"):
        next_pair(state, np.random.default_rng(0), among=["a", "nobody"])


@given(st.text(max_size=60), st.text(max_size=60), st.text(max_size=60), st.none() | st.text(max_size=5))
def test_any_text_has_categories(prompt: str, a: str, b: str, language: str | None) -> None:
    assert len(categories_of(prompt, a, b, language)) == len(set(categories_of(prompt, a, b, language)))


@ANY_FIXTURE
@given(broken, st.sampled_from(["prompts", "replies", "votes"]))
def test_any_row_for_a_judge_is_read_or_named(tmp_path: Path, wrong: Any, which: str) -> None:
    path = tmp_path / "rows.jsonl"
    good = {"id": "1", "prompt": "p", "reply": "r", "model_a": "a", "model_b": "b", "outcome": "a", "prompt_id": "1"}
    prompts = read_prompts(write(path, [good]))
    try:
        write(path, [good, wrong])
        if which == "prompts":
            found = read_prompts(path)
            check_pairs([Pair(one.id, one.text, "", "", one.language) for one in found])
        elif which == "replies":
            assert read_replies(path, prompts).keys() == {"1"}
        else:
            assert all(0 <= vote.outcome <= 1 for vote in read_human(path, prompts, "a", "b")["1"])
    except DataError as error:
        assert f"{path}: line 2" in str(error) and "\n" not in str(error)


def test_numbers_out_of_range_are_one_sentence(tmp_path: Path, capsys: Capture) -> None:
    votes = str(write(tmp_path / "votes.jsonl", [vote("a", "b", 1), vote("b", "a", 1)]))
    for options in (["--prior", "nan"], ["--prior", "inf"], ["--confidence", "nan"], ["--anchor", "a=inf"]):
        one_sentence(["arena", "rate", votes, *options], capsys)
    for options in (["--seed", "-1"], ["--bootstrap", "1"], ["--confidence", "1"], ["--prior", "-1"]):
        assert main(["arena", "rate", votes, *options]) == 2
        said = capsys.readouterr()
        assert options[0] in said.err and not said.out and "Traceback" not in said.err


@pytest.mark.filterwarnings("error")
def test_features_as_large_as_numbers_can_be_are_standardised_all_the_same(tmp_path: Path, capsys: Capture) -> None:
    found = []
    for scale in (1.0, 1e308):
        rows = [vote("a", "b", i % 3 > 0) | {"tone": scale * x} for i, x in enumerate([1, -1, 0.5, 0.2, -0.7, 0.9])]
        rows = [row | {"outcome": float(row["outcome"])} for row in rows]
        assert main(["arena", "rate", str(write(tmp_path / "v.jsonl", rows)), "--feature", "tone", "--json"]) == 0
        found.append(json.loads(capsys.readouterr().out))
    assert found[1]["features"]["tone"] == pytest.approx(found[0]["features"]["tone"]) != 0


def test_intervals_of_ties_alone_are_said_to_be_no_certainty(tmp_path: Path, capsys: Capture) -> None:
    votes = str(write(tmp_path / "votes.jsonl", [vote("a", "b", 0.5)] * 3))
    assert main(["arena", "rate", votes]) == 0
    assert "it is no certainty" in capsys.readouterr().out
    assert main(["arena", "rate", str(write(tmp_path / "w.jsonl", [vote("a", "b", 1), vote("b", "a", 1)]))]) == 0
    assert "no certainty" not in capsys.readouterr().out


def test_a_file_is_read_whole_or_not_at_all(tmp_path: Path) -> None:
    """A bad line after thousands of good ones is still named by its own number."""
    rows: list[Any] = [vote("a", "b", i % 2) for i in range(9000)]
    rows[8765] = vote("a", "b", 7)
    with pytest.raises(DataError, match="line 8766"):
        read_votes(write(tmp_path / "votes.jsonl", rows))
