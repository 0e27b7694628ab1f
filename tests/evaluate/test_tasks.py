import random
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwill.base.errors import ConfigError, DataError
from qwill.evaluate.numerals import to_chinese
from qwill.evaluate.phrasings import PHRASINGS
from qwill.evaluate.task_data import TasksConfig, load_rows, make_tasks, quotas
from qwill.evaluate.tasks import (
    FAMILIES,
    LANGUAGES,
    Demonstration,
    Problem,
    demonstrate,
    draw_problem,
    final_answer,
    key_fraction,
    verify,
)

NUMERIC = [family for family in FAMILIES if family != "kinds"]  # words are tested in test_kinds.py
SEPARATORS = [" ", "\n", ", ", "、", " or ", "或", "; ", ""]


@st.composite
def problems(draw: st.DrawFn) -> tuple[dict[str, str], Demonstration, random.Random]:
    """A row as the verifier sees it, one demonstration of it, and a stream for the test's own choices."""
    rng = random.Random(draw(st.integers(0, 2**32)))
    problem = draw_problem(draw(st.sampled_from(NUMERIC)), rng)
    language = draw(st.sampled_from(LANGUAGES))
    return {"key": problem.key, "language": language}, demonstrate(problem, language, rng), rng


@given(problems())
def test_every_demonstration_is_right_with_and_without_its_thinking(case) -> None:
    row, shown, _ = case
    assert verify(row, shown.answer)
    assert verify(row, f"<think>\n{shown.thinking}\n</think>\n\n{shown.answer}")
    assert verify(row, f"**{shown.answer}**\n")
    assert not verify(row, "")


@given(problems())
def test_changing_any_one_number_makes_a_demonstration_wrong(case) -> None:
    row, shown, rng = case
    pieces = numbers_apart(shown.answer)
    at = rng.choice([place for place, piece in enumerate(pieces) if piece.isdecimal()])
    pieces[at] = str(int(pieces[at]) + rng.choice([1, 1000]))
    assert not verify(row, "".join(pieces))


@given(problems())
def test_leaving_out_a_number_makes_a_demonstration_wrong(case) -> None:
    row, shown, rng = case
    pieces = numbers_apart(shown.answer)
    pieces[rng.choice([place for place, piece in enumerate(pieces) if piece.isdecimal()])] = ""
    assert not verify(row, "".join(pieces))


def numbers_apart(text: str) -> list[str]:
    """The text cut at every border between digits and other characters."""
    pieces = [""]
    for character in text:
        if pieces[-1] and character.isdecimal() != pieces[-1][-1].isdecimal():
            pieces.append("")
        pieces[-1] += character
    return pieces


@given(problems(), st.integers(0, 10**6), st.sampled_from(SEPARATORS), st.booleans())
def test_a_further_number_never_helps(case, extra: int, separator: str, first: bool) -> None:
    row, shown, rng = case
    notations = [str(extra), f"{extra:,}", "①"]
    if row["language"] == "zh":
        # A numeral needs a border, or 二 + 十 would be one number.
        notations.append(f"({to_chinese(extra)})")
    other = rng.choice(notations)
    reply = other + separator + shown.answer if first else shown.answer + separator + other
    # Without a border the digits may run together into one number, which may even be right.
    if separator or not other[-1 if first else 0].isdecimal():
        assert not verify(row, reply)


@given(problems(), st.sampled_from(SEPARATORS), st.integers(2, 20))
def test_listing_candidates_never_pays(case, separator: str, count: int) -> None:
    row, shown, rng = case
    problem = Problem.from_key(row["key"])
    candidates = [demonstrate(problem, row["language"], rng).answer for _ in range(count)]
    assert not verify(row, separator.join(candidates))
    assert not verify(row, separator.join([shown.answer] * count))


@given(problems())
def test_answers_hidden_in_thinking_do_not_count(case) -> None:
    row, shown, _ = case
    assert not verify(row, f"<think>{shown.answer}</think>")
    assert not verify(row, f"<think>{shown.answer}")
    assert not verify(row, f"<think>{shown.answer}</think>{shown.answer}<think>")
    assert not verify(row, f"</think></think>{shown.answer}")
    assert not verify(row, shown.answer + " well" * 100)


@given(problems())
def test_echoing_the_question_does_not_pay(case) -> None:
    row, shown, _ = case
    assert not verify(row, shown.prompt + " " + shown.answer)


ATTACKS = [
    "{0}", "{0}-{0}", "{0}.{0}", "{0}/{1}", "{0} 0", "0 {0}", "-{0}", "1-{0}", " ".join(map(str, range(100))),
    "".join(map(str, range(100))), "0123456789", "all of them", "任意", "{0}*", "e^{0}", "{0}e0", "0x{0}", "∞",
    "{0}" * 60,
]  # fmt: skip


def test_seeded_attacks_win_no_more_than_a_blind_guess() -> None:
    """Fixed strings that know the prompt's numbers but do no work: none wins often in any family."""
    rng = random.Random(0)
    wins: Counter[tuple[str, str]] = Counter()
    for family in FAMILIES:
        for _ in range(200):
            problem = draw_problem(family, rng)
            row = {"key": problem.key, "language": rng.choice(LANGUAGES)}
            shown = [str(number) for number in rng.sample(problem.numbers, len(problem.numbers))]
            for attack in ATTACKS:
                wins[family, attack] += verify(row, attack.format(shown[0], shown[-1]))
    # Copying a number of the question is a fair guess where two are compared, or where an end may count.
    guesses = {key: count for key, count in wins.items() if count > 10}
    assert set(guesses) <= {("compare", "{0}"), ("between", "{0}"), ("compare", "{0}*"), ("between", "{0}*")}
    assert max(guesses.values()) < 130


def test_huge_numbers_are_refused_without_work() -> None:
    assert not verify({"key": "split:50", "language": "en"}, "9" * 200 + " and 1")


@given(st.integers(1, 900), st.integers(20, 60), st.integers(2, 9), st.sampled_from(["inclusive", "strict"]))
def test_between_agrees_with_its_definition(low: int, width: int, divisor: int, ends: str) -> None:
    high = low + width
    row = {"key": f"between:{low}:{high}:{divisor}:{ends}", "language": "en"}
    for value in range(max(low - 3, 0), high + 4):
        inside = low <= value <= high if ends == "inclusive" else low < value < high
        assert verify(row, str(value)) == (inside and value % divisor == 0)


def test_digits_are_fair_about_form_and_strict_about_content() -> None:
    row = {"key": "digits:3:4:13", "language": "zh"}
    for right in ("4、0、9", "409", "4 9 0", "四、五、四", "四五四"):
        assert verify(row, right)
    for wrong in ("40 9", "4, 9", "4, 0, 9, 0", "0, 4, 9", "4, 1, 9", "4, 09, 0"):
        assert not verify(row, wrong)


def test_reversed_digits_keep_their_zeros() -> None:
    row = {"key": "reverse:1200", "language": "zh"}
    assert verify(row, "0021") and verify(row, "零零二一") and verify(row, "0 0 2 1")
    assert not verify(row, "21") and not verify(row, "00021") and not verify(row, "1200")


def test_demonstrations_are_uniform_over_the_right_answers() -> None:
    rng = random.Random(3)
    for key, answers in (("split:20", 19), ("digits:3:4:13", 10), ("between:10:50:5:strict", 7)):
        counts = Counter(demonstrate(Problem.from_key(key), "en", rng).answer for _ in range(200 * answers))
        assert len(counts) == answers
        # Binomial(200·answers, 1/answers): six standard deviations around 200.
        assert all(abs(count - 200) < 6 * 200**0.5 for count in counts.values())


@given(problems())
def test_prompts_name_every_parameter(case) -> None:
    row, shown, _ = case
    for number in Problem.from_key(row["key"]).numbers:
        assert str(number) in shown.prompt


@pytest.mark.parametrize("wording", PHRASINGS)
def test_phrasings_are_several_and_ask_the_same_in_both_languages(wording: str) -> None:
    for language in LANGUAGES:
        phrasings = PHRASINGS[wording][language]
        assert 3 <= len(set(phrasings)) <= 5
        assert all(text.isascii() == (language == "en") for text in phrasings)


@pytest.mark.parametrize("key", ["", "split", "poem:3"])
def test_unknown_keys_are_named(key: str) -> None:
    with pytest.raises(DataError, match="problem key"):
        verify({"key": key, "language": "en"}, "3")


def test_final_answer_drops_thinking() -> None:
    assert final_answer("<think>\n1\n</think>\n\n 2 ") == "2"
    assert final_answer("1</think>2") == "2"
    assert final_answer(" 2\n") == "2"
    assert final_answer("<think>1") is None


SMALL = TasksConfig(demonstrations=60, rl=90, heldout=40)


def test_the_default_sizes_are_reached_and_no_problem_leaks() -> None:
    files = make_tasks(TasksConfig(), seed=1)
    keys = {name: {row["key"] for row in rows} for name, rows in files.items()}
    assert not keys["heldout"] & (keys["rl"] | keys["demonstrations"])
    assert not keys["rl"] & keys["demonstrations"]
    for language, (name, least) in ((la, item) for la in LANGUAGES for item in MINIMA.items()):
        rows = [row for row in files[name] if row["language"] == language]
        assert len(rows) >= least and len({row["prompt"] for row in rows}) == len(rows)
    assert len({row["id"] for rows in files.values() for row in rows}) == sum(map(len, files.values()))
    thinking = [row["thinking"] is not None for row in files["demonstrations"]]
    assert 0.13 < sum(thinking) / len(thinking) < 0.17


MINIMA = {"heldout": 1000, "demonstrations": 6000, "rl": 8000}


def test_heldout_problems_are_the_same_in_both_languages() -> None:
    rows = make_tasks(SMALL, seed=2)["heldout"]
    by_language = {language: Counter(r["key"] for r in rows if r["language"] == language) for language in LANGUAGES}
    english, chinese = by_language["en"], by_language["zh"]
    assert english == chinese
    assert max(by_language["en"].values()) == 1


def test_a_seed_gives_the_same_rows_and_another_seed_others() -> None:
    assert make_tasks(SMALL, 5) == make_tasks(SMALL, 5)
    assert make_tasks(SMALL, 5) != make_tasks(SMALL, 6)


def test_sharing_lets_rl_practise_demonstrated_problems() -> None:
    shared = make_tasks(TasksConfig(rl_reuses_demonstrated_problems=True), 0)
    keys = {name: {row["key"] for row in rows} for name, rows in shared.items()}
    assert keys["rl"] & keys["demonstrations"]
    assert not keys["heldout"] & (keys["rl"] | keys["demonstrations"])


@given(st.integers(1, 5000), st.dictionaries(st.sampled_from(FAMILIES), st.floats(0.01, 10), min_size=1))
def test_quotas_add_up_and_follow_the_weights(count: int, weights: dict[str, float]) -> None:
    shares = quotas(count, weights)
    total = sum(weights.values())
    assert sum(shares.values()) == count
    assert all(abs(shares[family] - count * weight / total) < 1 for family, weight in weights.items())


def test_key_fractions_spread_evenly() -> None:
    fractions = [key_fraction(f"split:{total}") for total in range(20, 10000)]
    assert min(fractions) >= 0 and max(fractions) < 1
    assert abs(sum(fraction < 0.2 for fraction in fractions) / len(fractions) - 0.2) < 0.02


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (TasksConfig(weights={"splits": 1.0}), "unknown family 'splits'"),
        (TasksConfig(weights={"split": -1.0}), "tasks.weights.split"),
        (TasksConfig(rl_weights={"split": 0.0}), "tasks.rl_weights"),
        (TasksConfig(heldout_share=1.0), "heldout_share"),
        (TasksConfig(thinking_share=1.5), "thinking_share"),
        (TasksConfig(rl=0), "tasks.rl"),
        (TasksConfig(weights={"digits": 1.0}, heldout=5000), "'digits' has only"),
    ],
)
def test_bad_configuration_is_named(config: TasksConfig, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_tasks(config, 0)


def test_rows_without_a_key_are_named_by_line(tmp_path: Path) -> None:
    path = tmp_path / "heldout.jsonl"
    path.write_text('{"id": "1", "family": "split", "language": "en", "prompt": "?"}\n', encoding="utf-8")
    with pytest.raises(DataError, match=r"heldout.jsonl:1.*'key'"):
        load_rows(path)
