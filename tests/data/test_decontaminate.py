import random

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from made_up_leaks import disguised, unit
from made_up_text import chinese, english, full_width, name

from qwill.base.errors import DataError
from qwill.data.decontaminate import (
    DecontaminateSettings,
    Overlap,
    Question,
    build_index,
    cut_leaks,
    decontaminate_batch,
    find_leaks,
    find_leaks_batch,
    leak,
)
from qwill.data.documents import Document
from qwill.data.fold import _BY_WORD, fold
from qwill.data.question_index import Index
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


# ---------------------------------------------------------------- figure 6


@given(st.integers(), st.sampled_from(["en", "zh", "mixed"]), st.integers(3, 20), st.integers(3, 20))
def test_n_shared_units_are_found_in_any_disguise_and_fewer_are_not(seed: int, kind: str, words: int, han: int) -> None:
    rng = random.Random(seed)
    questions = [[unit(rng, kind) for _ in range(rng.randrange(25, 60))] for _ in range(5)]
    overlap = Overlap(english=words, chinese=han)
    index = build_index([Question(str(i), disguised(q, rng), set="s") for i, q in enumerate(questions)], overlap)
    number = rng.randrange(5)
    chosen = questions[number]

    def runs(units: list[str], length: int) -> set[tuple[str, ...]]:
        return {tuple(units[i : i + length]) for i in range(len(units) - length + 1)}

    sizes = [han if 2 * sum(not u.isascii() for u in q) > len(q) else words for q in questions]
    n = sizes[number]
    # Drawn at random, another question may share so many units with this one, and then is rightly found too.
    others = [i for i in range(5) if i != number]
    assume(all(runs(questions[i], sizes[i]).isdisjoint(runs(chosen, sizes[i])) for i in others))
    # Units that no question has stand on both sides, so that the run is as long as it was made.
    before, after = (["zzqx", *(name(rng) + "q" for _ in range(20)), "qxzz"] for _ in range(2))
    size = rng.randrange(n, len(chosen) + 1)
    start = rng.randrange(len(chosen) - size + 1)
    planted = disguised(chosen[start : start + size], rng)
    text = " ".join(before) + " " + planted + " " + " ".join(after)
    found = find_leaks(index, text)
    assert [(f.question, f.set, f.units, split(f.span)) for f in found] == [
        (str(number), "s", size, split(" ".join(chosen[start : start + size])))
    ]
    assert text[found[0].start : found[0].end] == found[0].span
    assert len(" ".join(before)) < found[0].start and found[0].end <= len(text) - len(" ".join(after)) - 1
    fewer = disguised(chosen[start : start + n - 1], rng)
    assert find_leaks(index, " ".join(before) + " " + fewer + " " + " ".join(after)) == []


def test_every_question_of_a_document_is_reported_with_its_set() -> None:
    rng = random.Random(3)
    questions = [Question(str(i), english(rng, 2), set=f"set{i % 2}") for i in range(40)]
    index = build_index(questions, Overlap())
    text = "\n".join(q.text.upper() for q in questions[:20]) + "\n" + english(rng)
    found = find_leaks(index, text)
    assert [(f.question, f.set) for f in found] == [(q.id, q.set) for q in questions[:20]]
    assert [f.span for f in found] == [q.text.upper().rstrip(".") for q in questions[:20]]


@given(st.integers())
def test_a_batch_finds_what_each_document_alone_gives(seed: int) -> None:
    rng = random.Random(seed)
    texts = [rng.choice([EN, ZH, EN[: rng.randrange(len(EN))], english(rng, 1), chinese(rng, 2), ""]) for _ in range(6)]
    assert find_leaks_batch(INDEX, texts) == [find_leaks(INDEX, text) for text in texts]
    half = EN.index("can be")
    assert find_leaks_batch(INDEX, [EN[:half], EN[half:]]) == [[], []]


@settings(max_examples=15)
@given(st.integers(), st.integers(0, 30))
def test_an_index_is_the_same_from_its_files(tmp_path_factory, seed: int, count: int) -> None:
    rng = random.Random(seed)
    questions = [
        Question(str(i), rng.choice([english(rng, 1), chinese(rng, 1), "Find two whole numbers near 1833 for me now."]))
        for i in range(count)
    ]
    index = build_index(questions, Overlap(shared=2))
    folder = tmp_path_factory.mktemp("index")
    index.save(folder)
    loaded = Index.load(folder)
    text = "\n".join(q.text for q in questions) + english(rng)
    assert find_leaks(loaded, text) == find_leaks(index, text)
    assert (loaded.keys, loaded.unsought, loaded.overlap) == (index.keys, index.unsought, index.overlap)
    (folder / "units.npy").write_bytes(b"cut")
    with pytest.raises(DataError, match="not a whole index of questions"):
        Index.load(folder)


def test_a_run_ends_with_its_question() -> None:
    first, second = (split(english(random.Random(seed), 1)) for seed in (1, 2))
    index = build_index([Question("a", " ".join(first)), Question("b", " ".join(second))], Overlap())
    assert find_leaks(index, " ".join([*first[-10:], *second[:10]])) == []


def test_an_answer_counts_by_a_run_and_never_as_a_short_whole() -> None:
    short, long = "it is all of the ones that were named above", english(random.Random(4), 1)
    index = build_index(
        [Question("q", short, part="answers 1"), Question("q", long, part="answers 2"), Question("r", EN)], Overlap()
    )
    assert find_leaks(index, f"well, {short}.") == []
    assert [f.question for f in find_leaks(index, f"well, {long}")] == ["q"]


def test_the_leaking_paragraphs_are_cut_and_what_then_meets_is_looked_at_again() -> None:
    rng = random.Random(5)
    first, last = english(rng), chinese(rng)
    half = EN.index("can be")
    text, leaks = cut_leaks(INDEX, f"{first}\n{ZH}\n{last}")
    assert (text, [f.question for f in leaks]) == (f"{first}\n{last}", ["q-zh"])
    text, leaks = cut_leaks(INDEX, f"{first}\n{EN[:half]}\n{ZH}\n{EN[half:]}\n{last}")
    assert (text, {f.question for f in leaks}) == (f"{first}\n{last}", {"q-zh", "q-en"})


def test_a_batch_of_documents_is_dropped_or_cut_and_reported() -> None:
    rng = random.Random(6)
    clean = english(rng)

    def documents() -> list[Document]:
        texts = [clean, f"{clean}\n{EN}", ZH]
        return [Document(str(i), "s", "web", "en", text, len(text)) for i, text in enumerate(texts)]

    dropped = documents()
    rows = decontaminate_batch(dropped, INDEX, DecontaminateSettings())
    assert [(r["id"], r["question"], r["action"]) for r in rows] == [("1", "q-en", "drop"), ("2", "q-zh", "drop")]
    assert [d.reject and d.reject.step for d in dropped] == [None, "decontamination", "decontamination"]
    assert dropped[1].text[rows[0]["start"] : rows[0]["end"]] == rows[0]["span"]
    cut = documents()
    rows = decontaminate_batch(cut, INDEX, DecontaminateSettings(action="cut"))
    assert [(r["id"], r["action"]) for r in rows] == [("1", "cut"), ("2", "drop")]
    assert [d.text for d in cut[:2]] == [clean, clean]
    assert cut[2].reject is not None
    assert cut[1].scores == {"decontaminate.cut": 1.0}


def test_every_word_of_a_dictionary_matches_its_traditional_form() -> None:
    """By phrases, as people convert: 明瞭 is 明了 there, and 瞭 by itself is not 了."""
    import jieba
    from opencc import OpenCC

    with jieba.get_dict_file() as file:
        every = [line.split()[0].decode() for line in file]
    words = [word for number, word in enumerate(every) if number % 20 == 0 or set(word) & set(_BY_WORD)]
    traditional = OpenCC("s2hk").convert("\n".join(words)).split("\n")
    assert [(a, b) for a, b in zip(words, traditional, strict=True) if fold(a) != fold(b)] == []
