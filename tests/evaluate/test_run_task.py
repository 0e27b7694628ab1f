"""Running tasks: what is asked, how often, in which form; what a killed run keeps; what is refused."""

import json
import math
import os
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.oracles.lm_eval_cases import write_checkpoint

from qwill.base.errors import ConfigError, DataError
from qwill.engine.language_model import load
from qwill.evaluate.likelihood_scores import choice_scores
from qwill.evaluate.prompting import encode_pairs, first_token, prompt_of
from qwill.evaluate.run_replies import answer_of, reply_scores
from qwill.evaluate.run_task import KEPT, EvalSettings, evaluate, headline
from qwill.evaluate.statistics import pass_at_k
from qwill.evaluate.task import Example, Replying, Score, Shots, Task


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return load(write_checkpoint(tmp_path_factory.mktemp("model")))


@pytest.fixture
def asked(tmp_path):
    """A task of eight questions to answer in words."""
    rows = [{"q": f"{word}?", "a": word} for word in ("one", "two", "three", "四", "五", "six", "seven", "八")]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    replying = Replying(max_tokens=8)
    source = {"jsonl": "a.jsonl"}
    return Task("asked", source, "generate", prompt="{{ q }}", answer="{{ a }}", generate=replying, folder=tmp_path)


def longer(example, reply):
    return Score(float(len(reply) > 4), f"{len(reply)} characters")


def texts(found):
    return [[reply["text"] for reply in row["replies"]] for row in found.rows]


def test_a_part_is_answered_as_the_whole(model, asked):
    """Neither company nor order decide a sampled reply, only the example's id and the seed."""
    settings = EvalSettings(samples=3, temperature=1.0, seed=5)
    whole = evaluate(model, asked, settings, score=longer)
    assert [row["id"] for row in whole.rows] == [str(i) for i in range(8)] and whole.available == 8
    by_id = dict(zip([row["id"] for row in whole.rows], texts(whole), strict=True))
    part = evaluate(model, asked, replace(settings, limit=3, slots=2), score=longer)
    assert len(part.rows) == 3 and [by_id[row["id"]] for row in part.rows] == texts(part)
    first = evaluate(model, asked, replace(settings, limit=3, first=True), score=longer)
    assert [row["id"] for row in first.rows] == ["0", "1", "2"]
    assert texts(evaluate(model, asked, replace(settings, seed=6), score=longer)) != texts(whole)
    assert len({text for of_one in texts(whole) for text in of_one}) > 8


def test_several_replies_are_scored_together(model, asked):
    found = evaluate(model, asked, EvalSettings(samples=4, temperature=1.0), score=longer)
    for row in found.rows:
        right = int(sum(reply["score"] for reply in row["replies"]))
        assert row["scores"] == {"score": right / 4, **{f"pass@{k}": pass_at_k(4, right, k) for k in (1, 2, 4)}}
        assert all(reply["detail"].endswith("characters") for reply in row["replies"])
    assert found.metrics == ["score", "pass@1", "pass@2", "pass@4"] and headline(asked) == "score"


@given(st.lists(st.sampled_from([0.0, 1.0]), min_size=1, max_size=20))
def test_pass_at_k_of_replies(values):
    scores = reply_scores(values)
    wanted = {1 << i for i in range(5) if 1 << i <= len(values)} | {len(values)} if len(values) > 1 else set()
    assert set(scores) == {"score", *(f"pass@{k}" for k in wanted)}
    if len(values) > 1:
        assert scores["pass@1"] == pytest.approx(scores["score"])
        assert scores[f"pass@{len(values)}"] == max(values)


def test_partly_right_replies_have_no_pass_at_k():
    assert reply_scores([0.5, 1.0]) == {"score": 0.75}


def test_replies_differ_unless_told_otherwise(model, asked):
    """A greedy task asked for several replies draws them as the model's folder says."""
    found = evaluate(model, asked, EvalSettings(samples=4), score=longer)
    assert any(len(set(of_one)) > 1 for of_one in texts(found))
    greedy = evaluate(model, asked, EvalSettings(samples=2, temperature=0.0), score=longer)
    assert all(len(set(of_one)) == 1 for of_one in texts(greedy))


def test_thinking(model, asked):
    found = evaluate(model, asked, EvalSettings(chat=True, thinking=True, limit=4), score=longer)
    plain = evaluate(model, asked, EvalSettings(chat=True, limit=4), score=longer)
    assert all(row["asked"].endswith("<think>\n\n</think>\n\n") for row in plain.rows)
    assert all(row["asked"].endswith("<|im_start|>assistant\n") for row in found.rows)
    with pytest.raises(ConfigError, match="thinking needs the chat template"):
        EvalSettings(thinking=True)


@pytest.mark.parametrize(
    ("text", "opened", "chat", "said", "thought"),
    [
        ("<think>\nhm, STOP\n</think>\n\n7 STOP 8", False, True, "7 ", "hm, STOP"),
        ("hm</think>7", True, True, "7", "hm"),
        ("hm, for ever", True, True, "", "hm, for ever"),
        ("7 STOP", False, True, "7 ", ""),
        ("7 END 8 STOP", False, False, "7 ", ""),
        ("  7", False, True, "  7", ""),
        (" 7 <think>8", False, True, " 7 <think>8", ""),
        ("<think>a</think>b", False, False, "<think>a</think>b", ""),
        ('<tool_call>\n{"name": "f", "arguments": {}}\n</tool_call>', False, True, None, ""),
    ],
)
def test_what_counts_of_a_reply(text, opened, chat, said, thought):
    answer, thinking = answer_of(text, ["STOP", "END"], opened, chat)
    assert answer == (text if said is None else said) and thinking.strip() == thought


class Killed(Exception):
    pass


def killing(after):
    def progress(done, total):
        if done == after:
            raise Killed

    return progress


@pytest.mark.parametrize("torn", [False, True])
def test_a_killed_run_goes_on(model, asked, tmp_path, torn):
    settings, work = EvalSettings(samples=2, temperature=1.0), tmp_path / "work"
    whole = evaluate(model, asked, settings, score=longer)
    with pytest.raises(Killed):
        evaluate(model, asked, settings, work, "m", killing(3), longer)
    if torn:
        with open(work / KEPT, "ab") as file:
            file.write(b'{"id": "7", "scores"')
    seen = []

    def counting(example, reply):
        seen.append(example.id)
        return longer(example, reply)

    steps = []
    found = evaluate(model, asked, settings, work, "m", lambda done, total: steps.append((done, total)), counting)
    assert found.rows == whole.rows and len(seen) == 2 * 5
    assert steps == [(i, 8) for i in range(4, 9)]
    again = evaluate(model, asked, replace(settings, limit=2), work, "m", score=counting)
    assert len(seen) == 10 and len(again.rows) == 2


def test_what_was_kept_of_another_run_is_not_taken(model, asked, tmp_path):
    work = tmp_path / "work"
    settings = EvalSettings()
    evaluate(model, asked, settings, work, "m", score=longer)

    def asks(task=asked, settings=settings, name="m"):
        seen = []
        evaluate(model, task, settings, work, name, score=lambda e, r: seen.append(e.id) or Score(0.0))
        return len(seen)

    assert asks() == 0
    assert asks(name="another") == 8
    assert asks(name="another", settings=replace(settings, shots=1)) == 8
    assert asks(name="another", settings=replace(settings, shots=1, slots=3)) == 0
    assert asks(name="another", settings=replace(settings, shots=1), task=replace(asked, prompt="{{ q }} ")) == 8
    (tmp_path / "a.jsonl").write_text('{"q": "new", "a": "x"}\n', encoding="utf-8")
    assert asks() == 1
    (work / KEPT).write_bytes((work / KEPT).read_bytes() + b"{}\n")
    with pytest.raises(DataError, match="delete the file"):
        asks()


def test_a_choice_task_is_kept_too(model, tmp_path):
    rows = [{"q": str(i), "options": ["a", "bb"]} for i in range(5)]
    (tmp_path / "c.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    task = Task(
        "c", {"jsonl": "c.jsonl"}, "choice", prompt="{{ q }}", choices="{{ options }}", answer=0, folder=tmp_path
    )
    whole = evaluate(model, task, work=tmp_path / "w")
    size = os.path.getsize(tmp_path / "w" / KEPT)
    assert evaluate(model, task, work=tmp_path / "w").rows == whole.rows
    assert os.path.getsize(tmp_path / "w" / KEPT) == size
    with pytest.raises(ConfigError, match="samples and thinking"):
        evaluate(model, task, EvalSettings(samples=2))


@pytest.mark.parametrize("value", [1.5, -0.1, math.nan])
def test_a_score_that_is_none(model, asked, value):
    with pytest.raises(
        DataError, match=r"task asked, example .*: the scorer exact gave .*expected a number from 0 to 1"
    ):
        evaluate(model, asked, score=lambda e, r: Score(value))


def test_a_scorer_that_fails_names_the_example(model, asked):
    def fails(example, reply):
        raise DataError("no answer is right")

    with pytest.raises(DataError, match=r"task asked, example [0-7]: no answer is right"):
        evaluate(model, asked, score=fails)


def test_shots(model, asked):
    found = evaluate(model, replace(asked, shots=Shots(2, "\n---\n"), delimiter=" => "), score=longer)
    assert found.rows[0]["asked"] == "two? => two\n---\nthree? => three\n---\none?"
    assert found.rows[5]["asked"] == "one? => one\n---\ntwo? => two\n---\nsix?"
    other = replace(asked, shots=Shots(1, "\n", {"jsonl": "a.jsonl"}))
    assert evaluate(model, other, score=longer).rows[0]["asked"] == "one? one\none?"
    with pytest.raises(DataError, match="8 shots were asked for, and there are 8"):
        evaluate(model, asked, EvalSettings(shots=8), score=longer)
    assert "asked" not in evaluate(model, asked, EvalSettings(limit=1), score=longer).rows[0]


def test_a_long_prompt_loses_its_beginning(model, asked):
    long = replace(asked, prompt="{{ q }} " + "word " * 100)
    found = evaluate(model, long, EvalSettings(limit=1, first=True), score=longer)
    assert found.rows[0]["cut"] == len(model.tokenizer.encode(found.rows[0]["prompt"])) - (128 - 8) > 300


@given(
    prompt=st.text(st.sampled_from(" \nthean是:"), max_size=8),
    choices=st.lists(st.text("the \n是", min_size=1), min_size=1),
)
def test_a_pair_is_the_whole_split(model, prompt, choices):
    """Context and continuation are the tokens of prompt and choice together, the white space with the choice."""
    task = Task("t", {"jsonl": "x"}, "choice", choices="{{ c }}", answer=0)
    told = prompt_of(model, task, [], Example("0", prompt), chat=False, thinking=False)
    tokenizer = model.tokenizer
    for choice, (context, continuation) in zip(choices, encode_pairs(tokenizer, told, choices), strict=True):
        if not prompt.rstrip():
            assert context == [first_token(tokenizer)] and tokenizer.decode(continuation) == prompt + choice
        elif tokenizer.encode(prompt + choice)[: len(context)] == context:
            assert context == tokenizer.encode(prompt.rstrip())
            assert context + continuation == tokenizer.encode(prompt + choice)


@given(st.lists(st.tuples(st.text("ab是", min_size=1), st.integers(-40, 0)), min_size=2), st.data())
def test_choice_scores(choices, data):
    texts, logprobs = [text for text, _ in choices], [float(value) for _, value in choices]
    gold = tuple(data.draw(st.sets(st.integers(0, len(texts) - 1), min_size=1)))
    example = Example("0", "", tuple(texts), gold)
    scores = choice_scores(["acc", "acc_norm", "acc_bytes", "mass"], example, logprobs)

    def best(sizes):
        return float(max(range(len(texts)), key=lambda i: (logprobs[i] / sizes[i], -i)) in gold)

    assert scores["acc"] == best([1] * len(texts))
    assert scores["acc_norm"] == best([len(text) for text in texts])
    assert scores["acc_bytes"] == best([len(text.encode()) for text in texts])
    shares = [math.exp(value) for value in logprobs]
    assert scores["mass"] == pytest.approx(sum(shares[i] for i in gold) / sum(shares))
