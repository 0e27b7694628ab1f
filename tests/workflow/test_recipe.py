from pathlib import Path

import pytest
from fake_life import RECIPE, STAGES, Inner, LettersConfig, WeightsConfig
from hypothesis import given, settings
from hypothesis import strategies as st

from qwill.base.errors import QwillError
from qwill.workflow.recipe import Recipe, load_recipe


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def read(text: str, *overrides: str, only: str | None = None) -> Recipe:
    Path("r.yaml").write_text(text, encoding="utf-8")
    return load_recipe(Path("r.yaml"), overrides, STAGES, only)


def test_sections_come_in_the_order_of_the_life_whatever_the_file_says() -> None:
    recipe = read("page:\ncopy:\nweights: {inner: {rate: 2}}\nletters:\n  count: 3\nname: backwards\n")
    assert [section.stage.name for section in recipe.sections] == ["letters", "weights", "copy", "page"]
    assert [section.config for section in recipe.sections][:2] == [
        LettersConfig(3),
        WeightsConfig(1.0, Inner(2.0)),
    ]
    assert recipe.folder == Path("runs/backwards")
    assert read("name: a\nfolder: elsewhere/b\nletters:\n").folder == Path("elsewhere/b")


def test_overrides_go_over_the_file_and_may_fill_an_empty_section() -> None:
    recipe = read(RECIPE, "letters.count=2", "seed=9", "weights.inner.rate=1e-3", "copy.seed=7", "page.budget_s=90")
    assert [section.seed for section in recipe.sections] == [9, 9, 7, 9]
    assert recipe.sections[0].config == LettersConfig(2) and recipe.sections[1].config.inner.rate == 0.001
    assert recipe.sections[3].budget_s == 90


def test_for_one_stage_a_plain_key_means_its_own_section() -> None:
    first = read(RECIPE, "count=2", "alphabet=xyz", "seed=1", only="letters").sections[0]
    assert first.config == LettersConfig(2, "xyz") and first.seed == 1
    assert read(RECIPE, "count=2", "letters.alphabet=xyz", only="letters").sections[0].config.alphabet == "xyz"
    with pytest.raises(QwillError, match="count"):
        read(RECIPE, "count=2")


@pytest.mark.parametrize(
    ("text", "overrides", "words"),
    [
        ("", [], ["r.yaml"]),
        ("- a\n- b\n", [], ["r.yaml"]),
        ("name: [", [], ["r.yaml"]),
        ("letters:\n", [], ["name", "missing"]),
        ("name: x\n", [], ["letters"]),
        ("name: x\nleters:\n", [], ["leters", "letters"]),
        ("name: x\nweigh:\n", [], ["weigh", "weights"]),
        ("name: x\nletters:\n  cuont: 3\n", [], ["letters", "cuont", "count"]),
        ("name: x\nletters:\n  count: three\n", [], ["letters.count", "three", "whole number"]),
        ("name: x\nletters:\n  count: 3\n  count: 4\n", [], ["line 4", "count"]),
        ("name: x\nletters:\n  alphabet: abc\n", [], ["alphabet", "ab, xyz"]),
        ("name: x\nletters: 3\n", [], ["letters", "section"]),
        ("name: x\nletters:\nweights:\n  inner:\n    rte: 1\n", [], ["weights.inner.rte", "rate"]),
        ("name: x\nletters:\n  budget_s: soon\n", [], ["budget_s", "soon"]),
        ("name: x\nletters:\n  seed: 0.5\n", [], ["seed", "0.5"]),
        ("name: x\nthreads: 0\nletters:\n", [], ["threads", "0"]),
        ("name: x\nthreads: many\nletters:\n", [], ["threads", "many"]),
        ("name: ../x\nletters:\n", [], ["name", "../x"]),
        ("name: x\nweights:\n", [], ["weights needs 'letters'", "inputs"]),
        ("name: x\nletters:\nweights:\n  inputs: {leters: a}\n", [], ["leters", "letters"]),
        ("name: x\nweights:\n  inputs: {letters: runs/none}\n", [], ["runs/none"]),
        ("name: x\nletters:\n", ["letters"], ["letters", "section.setting=value"]),
        ("name: x\nletters:\n", ["letters.count.more=3"], ["letters.count"]),
        ("name: x\nletters:\n", ["lettters.count=3"], ["lettters", "letters"]),
    ],
)
def test_a_bad_recipe_is_one_sentence_before_anything_is_made(
    text: str, overrides: list[str], words: list[str]
) -> None:
    with pytest.raises(QwillError) as caught:
        read(text, *overrides)
    sentence = str(caught.value)
    assert "\n" not in sentence and sentence.endswith((".", "?"))
    assert [word for word in words if word not in sentence] == [], sentence
    assert not Path("runs").exists()


@settings(max_examples=200, deadline=None)
@given(st.text(st.sampled_from("abceghilnoprstuw:-{}[]'\"#&*!|>%@` \n\t0123.é字"), max_size=60))
def test_no_file_is_a_traceback(text: str) -> None:
    try:
        read("name: x\nletters:\n" + text)
    except QwillError as error:
        assert "r.yaml" in str(error)


def test_a_file_that_cannot_be_read_is_named() -> None:
    with pytest.raises(QwillError, match=r"gone\.yaml"):
        load_recipe(Path("gone.yaml"), (), STAGES)
    Path("bytes.yaml").write_bytes(b"name: \xff\xfe")
    with pytest.raises(QwillError, match=r"bytes\.yaml.*UTF-8"):
        load_recipe(Path("bytes.yaml"), (), STAGES)
    with pytest.raises(QwillError, match="directory"):
        load_recipe(Path("."), (), STAGES)


def test_a_stage_may_be_used_several_times_each_behind_what_it_needs() -> None:
    recipe = read(
        "name: a\nlate: {uses: copy, inputs: {letters: other}}\nother: {uses: letters, count: 2, seed: 4}\n"
        "letters: {count: 3}\ncopy:\n"
    )
    assert [section.name for section in recipe.sections] == ["other", "letters", "late", "copy"]
    late, other = recipe.section("late"), recipe.section("other")
    assert late is not None and late.stage.name == "copy" and late.maker("letters") == "other" and not late.given
    assert other is not None and other.config == LettersConfig(2) and other.seed == 4
    assert recipe.sections[3].maker("letters") == "letters"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("one: {uses: leters}\n", ["one.uses", "leters", "letters"]),
        ("one: {uses: [letters]}\n", ["one.uses"]),
        ("weights: {uses: letters}\n", ["weights", "letters", "call it otherwise"]),
        ("../one: {uses: letters}\n", ["../one", "folder"]),
        ("1: {uses: letters}\n", ["folder"]),
        ("one: {uses: copy, inputs: {letters: two}}\ntwo: {uses: copy, inputs: {letters: one}}\n",
         ["one and two wait"]),
        ("one: {uses: copy, inputs: {letters: one}}\n", ["one", "wait"]),
        ("one: {uses: copy}\n", ["one needs 'letters'"]),
        ("logs: {uses: letters}\n", ["logs", "the run's logs"]),
        ("Logs: {uses: letters}\n", ["Logs", "the run's logs"]),
        ("one.two: {uses: letters}\n", ["one.two", "overrides", "folder"]),
    ],
)  # fmt: skip
def test_a_section_that_uses_a_stage_wrongly_is_one_sentence(text: str, words: list[str]) -> None:
    with pytest.raises(QwillError) as caught:
        read("name: x\n" + text)
    sentence = str(caught.value)
    assert "\n" not in sentence and [word for word in words if word not in sentence] == [], sentence


ONE = "name: a\nfirst: {uses: letters, count: 3}\n"
TWO = ONE + "second: {uses: letters, count: 4}\n"


def test_for_one_stage_a_plain_key_means_the_only_section_that_uses_it() -> None:
    recipe = read(ONE, "count=2", "seed=1", only="letters")
    assert [(s.name, s.config, s.seed) for s in recipe.sections] == [("first", LettersConfig(2), 1)]
    # A section called as the stage goes before those that use it; one that is named is meant.
    recipe = read(ONE + "letters:\n", "count=2", only="letters")
    assert [(s.name, s.config.count) for s in recipe.sections] == [("first", 3), ("letters", 2)]
    recipe = read(TWO, "second.count=2", only="letters")
    assert [(s.name, s.config.count) for s in recipe.sections] == [("first", 3), ("second", 2)]


@pytest.mark.parametrize(
    ("text", "override", "only", "words"),
    [
        (TWO, "count=2", "letters", "there is no section 'letters', and first and second use that stage; name the "
         "section: first.count=2."),
        (TWO, "letters.count=2", None, "first and second use that stage; name the section: first.count=2."),
        (ONE, "letters.count=2", None, "first uses that stage; name the section: first.count=2."),
    ],
)  # fmt: skip
def test_no_override_adds_a_section_of_a_stage_that_others_use(
    text: str, override: str, only: str | None, words: str
) -> None:
    with pytest.raises(QwillError) as caught:
        read(text, override, only=only)
    assert words in str(caught.value) and "\n" not in str(caught.value)
