"""Votes from a file: what is read, and what is said about each kind of malformed line."""

import json

import pytest

from qwill.base.errors import DataError
from qwill.evaluate import arena_table
from qwill.evaluate.arena_table import read_votes

VOTE = {"model_a": "x", "model_b": "y", "outcome": "a"}


def write(path, rows):
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows), "utf-8")
    return path


def test_every_spelling_of_an_outcome(tmp_path):
    spelled = ["a", "b", "tie", "both_bad", 1, 0, 0.5, 1.0]
    table = read_votes(write(tmp_path / "v", [VOTE | {"outcome": value} for value in spelled]))
    assert table.outcome == [1, 0, 0.5, 0.5, 1, 0, 0.5, 1]
    lmarena = ["model_a", "model_b", "tie", "tie (bothbad)"]
    rows = [{"model_a": "x", "model_b": "y", "winner": value} for value in lmarena]
    assert read_votes(write(tmp_path / "v", rows)).outcome == [1, 0, 0.5, 0.5]
    assert read_votes(write(tmp_path / "v", [VOTE | {"outcome": 0.25}])).outcome == [0.25]
    # Rows of both kinds and empty lines may stand in one file.
    mixed = read_votes(write(tmp_path / "v", [VOTE, "", rows[1], " ", VOTE]))
    assert read_votes(write(tmp_path / "w", [VOTE, "  ", VOTE])).outcome == [1, 1]
    assert (mixed.model_a, mixed.outcome) == (["x"] * 3, [1, 0, 1])


def test_the_fast_way_and_the_slow_way_agree(tmp_path, monkeypatch):
    rows = [VOTE | {"model_b": f"m{i % 7}", "outcome": ["a", "b", "tie"][i % 3]} for i in range(50)]
    path = write(tmp_path / "v", rows)
    fast = read_votes(path)
    monkeypatch.setattr(arena_table, "_add_plain", lambda table, rows: False)
    monkeypatch.setattr(arena_table, "LINES", 7)
    assert vars(read_votes(path)) == vars(fast)


def test_style_features_clusters_and_categories(tmp_path):
    rows = [
        {"reply_a": "# T\n\nlong **reply** here", "reply_b": "short", "tone": 1, "prompt": "Hi, how are you?"},
        {"reply_a": "x", "reply_b": "- y\n- z", "tone": -0.5, "prompt": "写一个函数"},
    ]
    rows = [VOTE | row | {"voter": f"v{i}"} for i, row in enumerate(rows, 1)]
    path = write(tmp_path / "v", rows)
    table = read_votes(path, style=True, features=["tone"], cluster="voter")
    assert table.feature_names == ["length", "headers", "bold", "lists", "tone"]
    assert table.features == [[3 / 5, 1, 1, 0, 1], [-1 / 3, 0, 0, -1, -0.5]]
    assert table.clusters == ["v1", "v2"]
    assert len(read_votes(path, category="zh").outcome) == len(read_votes(path, category="en").outcome) == 1
    with pytest.raises(DataError, match=r"no vote is in the category 'hard'; its votes are 1 code, 1 en, 1 zh"):
        read_votes(path, category="hard")
    with pytest.raises(DataError, match="there is no category 'fun'; choose from en, zh"):
        read_votes(path, category="fun")


BAD = [
    ("{", {}, r"line 2 is not valid JSON"),
    ("[1]", {}, r"line 2 holds list; expected a JSON object"),
    ("{}, {}", {}, r"line 2 is not valid JSON"),
    ({}, {}, r"line 2: 'model_a' is missing, expected a model's name"),
    (VOTE | {"model_b": 3}, {}, r"line 2: 'model_b' is 3, expected"),
    (VOTE | {"model_b": ""}, {}, r"line 2: 'model_b' is \"\""),
    (VOTE | {"model_b": ["y"]}, {}, r"line 2: 'model_b' is \[\"y\"\]"),
    (VOTE | {"model_b": "x"}, {}, r"line 2: 'x' meets itself"),
    (VOTE | {"outcome": "A wins"}, {}, r"line 2: 'outcome' is \"A wins\", expected \"a\""),
    (VOTE | {"outcome": 2}, {}, r"line 2: 'outcome' is 2, expected"),
    (VOTE | {"outcome": True}, {}, r"line 2: 'outcome' is true, expected"),
    (VOTE | {"outcome": None}, {}, r"line 2: 'outcome' is null"),
    (VOTE | {"outcome": [1]}, {}, r"line 2: 'outcome' is \[1\]"),
    (json.dumps(VOTE).replace('"a"', "NaN"), {}, r"line 2: 'outcome' is NaN"),
    ({"model_a": "x", "model_b": "y"}, {}, r"line 2: 'winner' is missing"),
    (VOTE, {"style": True}, r"line 1: 'reply_a' is missing; style is counted"),
    (VOTE, {"features": ["f"]}, r"line 1: the feature 'f' is missing"),
    (VOTE, {"cluster": "voter"}, r"line 1: 'voter', which is to group the votes, is missing"),
]  # fmt: skip


@pytest.mark.parametrize(("line", "options", "words"), BAD)
def test_bad_lines_are_named(tmp_path, line, options, words):
    with pytest.raises(DataError, match=words):
        read_votes(write(tmp_path / "v", [VOTE, line, VOTE]), **options)


def test_nan_features_files_that_are_none_and_empty_ones(tmp_path):
    path = write(tmp_path / "v", [VOTE | {"f": 1}, json.dumps(VOTE | {"f": 0}).replace('"f": 0', '"f": NaN')])
    with pytest.raises(DataError, match=r"line 2: the feature 'f' is NaN, expected a finite number"):
        read_votes(path, features=["f"])
    with pytest.raises(DataError, match="cannot be read"):
        read_votes(tmp_path / "none")
    with pytest.raises(DataError, match="there are no votes in it"):
        read_votes(write(tmp_path / "v", ["", ""]))
    (tmp_path / "v").write_bytes(b'{"model_a": "\xff"}\n')
    with pytest.raises(DataError, match="line 1 is not UTF-8"):
        read_votes(tmp_path / "v")
