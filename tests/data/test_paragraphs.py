import itertools
import random

from hypothesis import given
from hypothesis import strategies as st
from made_up_text import chinese, english

from qwill.data.language import identify
from qwill.data.paragraphs import paragraph_languages, pieces

FRENCH = "Il était une fois un petit village au bord de la mer, où tout le monde se connaissait depuis longtemps."
RUSSIAN = "Олень вышел из леса и остановился у реки, потому что он очень хотел пить."
JAPANESE = "これは日本語の文章です。猫が好きで、毎日公園を散歩しています。"


def mixed_page(seed: int) -> tuple[str, list[str]]:
    rng = random.Random(seed)
    kinds = [rng.choice(("en", "zh", "fr", "ru", "ja")) for _ in range(rng.randint(1, 8))]
    made = {"fr": lambda: FRENCH, "ru": lambda: RUSSIAN, "ja": lambda: JAPANESE}
    made |= {"en": lambda: english(rng), "zh": lambda: chinese(rng)}
    return "\n\n".join(made[kind]() for kind in kinds), kinds


@given(st.integers())
def test_each_paragraph_of_a_mixed_page_is_told(seed: int) -> None:
    text, kinds = mixed_page(seed)
    asked = ["en", "zh", "fr"]
    expected = [kind if kind in asked else "other" for kind in kinds]
    runs = [kind for i, kind in enumerate(expected) if i == 0 or expected[i - 1] != kind]
    assert [code for _, _, code, _ in paragraph_languages(text, asked)] == runs


@given(
    st.one_of(
        st.text(), st.lists(st.sampled_from([FRENCH, RUSSIAN, "好", "\n", "12", "The cat sat here."])).map("\n".join)
    )
)
def test_spans_are_the_whole_text_in_order_and_neighbours_differ(text: str) -> None:
    spans = paragraph_languages(text)
    assert "".join(text[start:end] for start, end, _, _ in spans) == text
    assert all(a[2] != b[2] for a, b in itertools.pairwise(spans))
    assert all(0 <= score <= 1 for *_, score in spans)


def test_a_runs_score_is_its_lowest_paragraphs() -> None:
    clear, less = "Where is the book that I read about the city yesterday?", "Y.M. Molding Industry Mfg. Incorporated"
    scores = [identify(text, minimum=0.0).score for text in (clear, less)]
    assert scores[1] < scores[0]
    [(_, _, code, score)] = paragraph_languages(f"{clear}\n{less}\n{clear}", minimum=scores[1] / 2)
    assert (code, score) == ("en", scores[1])


def test_short_lines_go_with_the_paragraph_before_them() -> None:
    rng = random.Random(1)
    text = f"目录\n{english(rng)}\nOK\n好的\n{chinese(rng)}\nNote:\n"
    spans = paragraph_languages(text)
    assert [code for _, _, code, _ in spans] == ["en", "zh"]
    assert text[spans[1][0] :].endswith("Note:\n")


def test_a_mixed_page_is_kept_cut_or_split() -> None:
    rng = random.Random(3)
    first, second, third = english(rng), chinese(rng), english(rng) + english(rng) + english(rng)
    text = "\n".join((first, second, RUSSIAN, third))
    assert [part for part, _ in pieces(text, mixed="keep")] == [text]
    [(main, told)] = pieces(text, mixed="main")
    assert (main, told.code) == (f"{first}\n{third}", "en")
    split = pieces(text, mixed="split")
    assert [(part, one.code) for part, one in split] == [(f"{first}\n{third}", "en"), (second, "zh")]


def test_a_page_of_one_language_is_not_touched() -> None:
    for text in (f"{FRENCH}\n\n\n{FRENCH}\n", f"{RUSSIAN}\n", "", "\n\n"):
        for mixed in ("keep", "main", "split"):
            assert [part for part, _ in pieces(text, ["en", "fr"], mixed)] == [text]
