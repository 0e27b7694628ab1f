"""The page's words: all there in both languages, each used, and none of the other language left when one is chosen."""

import re
from functools import cache

import pytest
from tests.browser import CHROMIUM, Browser
from tests.serve.on_page import OPEN, check, opened
from tests.serve.page_server import PageServer
from tests.serve.page_tour import tour

from qwill.serve.page_files import FOLDER

in_browser = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
HAN = re.compile(r"[\u3400-\u9fff]")
# What has no other name in Chinese, or is the name of the other language.
SAME = {
    *("title", "top_p", "top_k", "min_p", "exportMarkdown", "exportJson", "switchLanguage", "switchLanguageLabel"),
    "changed",
}


@cache
def words() -> dict[str, dict[str, str]]:
    """WORDS of i18n.js and those of the arena, read as the lines they are written in."""
    found: dict[str, dict[str, str]] = {"en": {}, "zh": {}}
    for name in ("i18n.js", "arena_words.js"):
        text = (FOLDER / name).read_text(encoding="utf-8")
        for tongue, lines in re.findall(r"^  (\w\w): \{\n(.*?)^  \},$", text, re.M | re.S):
            new = dict(re.findall(r'^    (\w+): "(.*)",$', lines, re.M))
            assert not new.keys() & found[tongue].keys(), "the arena's words take the place of the chat's"
            found[tongue] |= new
    return found


def test_both_languages_have_the_same_words() -> None:
    english, chinese = words()["en"], words()["zh"]
    assert list(english) == list(chinese) and len(english) > 100
    for key in english:
        assert sorted(re.findall(r"\{\w+\}", english[key])) == sorted(re.findall(r"\{\w+\}", chinese[key])), key
        if key not in SAME:
            assert HAN.search(chinese[key]) and not HAN.search(english[key]), key


def test_every_word_is_used_and_every_used_one_is_there() -> None:
    code = "\n".join(
        f.read_text(encoding="utf-8")
        for f in FOLDER.iterdir()
        if f.suffix in (".js", ".html") and f.stem not in ("i18n", "arena_words")
    )
    made = {f"{stem}{end}" for stem in ("suggest",) for n in "1234" for end in (n, f"{n}Text")}
    made |= {f"{name}Hint" for name in ("system", "stopWords", "tools")} | {"language"}
    for key in words()["en"]:
        assert key in made or re.search(rf"\b{key}\b", code), f"{key} is in no other file"
    named = re.findall(r'\bt\("(\w+)"|data-(?:t|label|hint)="(\w+)"|\b(error\w+)"', code)
    assert len(named) > 90
    for key in {key for keys in named for key in keys if key} - {"error"}:
        assert key in words()["en"], f"no words for {key}"


def plain(found: list[str]) -> set[str]:
    """What is read on the page, but for its numbers: tokens and seconds differ from run to run."""
    return {re.sub(r"\d[\d.,]*", "0", text) for text in found}


@in_browser
def test_no_word_of_the_other_language_is_left(browser: Browser, scripted: PageServer) -> None:
    """The same walk in both languages has no words in common but names; to change languages on the way is to have begun
    in the other."""
    page = opened(browser, scripted.url, languages="zh-CN")
    chinese = {state: plain(check(page, "words()")) for state in tour(page, scripted, key=True)}
    scripted.key = None
    scripted.conversations.clear()
    names = {
        *scripted.models,
        "tiny-poet",
        "Qwill",
        "markdown · Qwill",
        "Hello · Qwill",
        "0/0",
        "0",
        "–",
        "JSON",
        "Markdown",
    }
    names |= {words()["en"][key] for key in ("top_p", "top_k", "min_p")}
    page = opened(browser, scripted.url)
    for state in tour(page, scripted, key=True):
        english = plain(check(page, "words()"))
        assert english & chinese[state] <= names, state
        assert {text for text in english if HAN.search(text)} == {"中文", "切换到中文"}, state
        assert {text for text in chinese[state] if not HAN.search(text)} <= names | {"English", "Switch to English"}, (
            state
        )
        if not page.run(OPEN):
            page.press("l", alt=True)
            assert plain(check(page, "words()")) == chinese[state], state
            page.press("l", alt=True)
            assert plain(check(page, "words()")) == english, state
