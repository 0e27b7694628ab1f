import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_up_text import chinese, english, full_width, name

from qwill.base.errors import DataError
from qwill.data.decontaminate import Overlap, Question, build_index, leak, read_questions
from qwill.data.units import split

EN = "Which whole number strictly between 539 and 574 can be divided by 6 without a remainder? Give one example."
ZH = "小明买了三支铅笔和两本练习簿，一共花了二十七元，请问每支铅笔多少钱？"
INDEX = build_index([Question("q-en", EN), Question("q-zh", ZH)], Overlap())

DISGUISES = {
    "as it is": lambda text: text,
    "upper case": str.upper,
    "full width": full_width,
    "spaced": lambda text: "  \n ".join(text.split(" ")),
    "spaced characters": lambda text: " ".join(text) if text == ZH else text,
    "no punctuation": lambda text: "".join(c for c in text if c.isalnum() or c == " "),
    "other punctuation": lambda text: text.replace("，", " , ").replace("?", " ...").replace("？", "！"),
}


@pytest.mark.parametrize("disguise", DISGUISES)
@pytest.mark.parametrize(("question", "text", "write"), [("q-en", EN, english), ("q-zh", ZH, chinese)])
def test_a_planted_question_is_found_however_it_is_written(disguise: str, question: str, text: str, write) -> None:
    rng = random.Random(disguise)
    document = write(rng) + "\n" + DISGUISES[disguise](text) + "\n" + write(rng)
    match = leak(INDEX, document)
    assert match is not None
    assert match.question == question
    assert split(match.span) == split(text)


@given(st.integers())
def test_other_text_leaks_nothing(seed: int) -> None:
    rng = random.Random(seed)
    assert leak(INDEX, english(rng, 10)) is None
    assert leak(INDEX, chinese(rng, 10)) is None


@pytest.mark.parametrize(("text", "run", "joint"), [(EN, 13, " "), (ZH, 20, "")])
def test_a_part_counts_from_a_run_of_n_units(text: str, run: int, joint: str) -> None:
    units = split(text)
    assert len(units) > run
    for start in range(len(units) - run + 1):
        assert leak(INDEX, joint.join(["so", *units[start : start + run], "so"])) is not None
    assert leak(INDEX, joint.join([*units[: run - 1], "so", *units[run:]])) is None


@pytest.mark.parametrize(
    "question", ["Write the digits of 1925443 backwards for me now.", "找两个正整数，它们加起来是1833。"]
)
def test_a_question_shorter_than_a_run_counts_as_a_whole(question: str) -> None:
    index = build_index([Question("q", question)], Overlap())
    match = leak(index, f"So I said: {question} And so on.")
    assert match is not None
    assert split(match.span) == split(question)
    assert leak(index, f"So I said: {question[:-8]}") is None


def test_questions_are_repaired_as_documents_are() -> None:
    index = build_index(
        [Question("q", "Who built a cafe\u0301 at the soft\u00adhyphen river in the year 1900?")], Overlap()
    )
    assert leak(index, "It asks who built a café at the softhyphen river in the year 1900, and why.") is not None


def test_a_shared_phrasing_is_no_evidence_but_a_whole_question_is() -> None:
    phrasing = "Think of the sum of the two numbers that are written down here and then say it aloud:"
    rng = random.Random(1)
    texts = [f"{phrasing} {name(rng)} and {name(rng)}." for _ in range(30)]
    index = build_index([Question(str(i), text) for i, text in enumerate(texts)], Overlap(shared=10))
    assert leak(index, f"{english(rng)} {phrasing} nothing at all.") is None
    for text in texts[:5]:
        match = leak(index, f"{english(rng)} {text.upper()} {english(rng)}")
        assert match is not None
        assert split(match.span) == split(text)
    few = build_index([Question(str(i), text) for i, text in enumerate(texts[:10])], Overlap(shared=10))
    assert leak(few, f"{english(rng)} {phrasing} nothing at all.") is not None


def test_questions_too_short_to_be_sought_are_counted() -> None:
    index = build_index([Question("a", "550和337哪个更大？"), Question("b", EN)], Overlap())
    assert index.unsought == 1
    assert leak(index, "他问：550和337哪个更大？我说550。") is None
    assert leak(build_index([], Overlap()), EN) is None


def test_questions_are_read_from_rows_of_several_kinds(tmp_path: Path) -> None:
    path = tmp_path / "questions.jsonl"
    path.write_text('{"id": "a", "prompt": "P", "key": "k"}\n\n{"question": "Q"}\n{"text": "T"}\n', encoding="utf-8")
    assert read_questions([path]) == [
        Question("a", "P", "k"),
        Question("questions.jsonl:3", "Q"),
        Question("questions.jsonl:4", "T"),
    ]
    path.write_text('{"prompt": "P"}\n{"answer": "A"}\n', encoding="utf-8")
    with pytest.raises(DataError, match=r"questions\.jsonl: line 2 has no text under prompt, question, text"):
        read_questions([path])
