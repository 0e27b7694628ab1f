"""What replaces trafilatura's expressions selects the same elements; its text is the same to the letter."""

import importlib.util
import json
import subprocess
import sys
from functools import cache
from pathlib import Path
from types import ModuleType

import pytest
import trafilatura
from hypothesis import given
from hypothesis import strategies as st
from lxml import html

ORACLES = Path(__file__).parents[1] / "oracles"
sys.path.insert(0, str(ORACLES))

from html_pages import pages  # noqa: E402

from qwill.data.extract import Extractor  # noqa: E402
from qwill.data.fast_trafilatura import VERSION, quicken, replacements  # noqa: E402


@cache
def originals() -> ModuleType:
    """trafilatura's expressions, untouched by what else runs in this process."""
    import trafilatura.xpaths

    assert trafilatura.xpaths.__file__ is not None
    spec = importlib.util.spec_from_file_location("xpaths_untouched", trafilatura.xpaths.__file__)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# fmt: off
TAGS = [
    "div", "item", "list", "p", "section", "span", "article", "main", "header", "aside", "details", "ol", "ul", "h1",
    "h2", "dt", "form", "footer", "nav", "td", "tr", "table", "figure",
]
VALUES = [
    "post", "entry", "content", "main", "page-content", "Main-Content", "story", "text", "cell", "postarea",
    "art-postcontent", "articleBody", "reply-to", "teaser", "Teaser", "header-link", "link", "bottom", "page-bottom",
    "padding-bottom-lg", "cookie", "c.vb2_plane_cookie", "hidden", "hide-print", "share", "nav", "Nav", "navbar",
    "comments", "Commentary", "comment-list", "comol", "disqus_thread", "infinite-scroll", "mvp-post-add-box",
    "border:0", "display:none", "caption", "widget", "sidebar", "related", "primary", "story-body", "content-main",
    "contentBody", "FULLTEXT", "article", "elementor-share-buttons", "akismet", "noprint", "message", "post-comments",
    "presentation", "true", "entry-content", "body-text", "x", "y", "MostPopularStories", "newsletter", "gdpr",
    "consent", "ad-", "footer", "meta", "tags", "byline", "author",
]
NAMES = [
    "id", "class", "role", "style", "itemprop", "aria-hidden", "data-component", "data-lp-replacement-content", "href",
]
# fmt: on
attributes = st.lists(
    st.tuples(st.sampled_from(NAMES), st.lists(st.sampled_from(VALUES), max_size=2).map(" ".join)),
    max_size=3,
    unique_by=lambda pair: pair[0],
)


@st.composite
def elements(draw: st.DrawFn, depth: int = 3) -> str:
    written = "".join(f' {name}="{value}"' for name, value in draw(attributes))
    tag = draw(st.sampled_from(TAGS))
    inner = "".join(draw(st.lists(elements(depth=depth - 1), max_size=3))) if depth else "text"
    return f"<{tag}{written}>{inner}</{tag}>"


@given(st.lists(elements(), min_size=1, max_size=4))
def test_every_replacement_selects_what_the_expression_selects(parts: list[str]) -> None:
    tree = html.fromstring(f"<html><body>{''.join(parts)}</body></html>")
    for name, selectors in replacements().items():
        expressions = getattr(originals(), name)
        assert len(selectors) == len(expressions), name
        for expression, selector in zip(expressions, selectors, strict=True):
            if selector is not None:
                assert selector(tree) == expression(tree), (name, expression.path)


def test_every_pair_of_values_in_either_order_of_the_attributes() -> None:
    values = [*VALUES, "", "x hidden", "a hide", "bottom-bar", "x-reply-y", "primary-nav", "hide-x"]
    pairs = [(a, b) for a in values for b in values]
    parts = [f"<div id='{a}' class='{b}'></div><section class='{a}' id='{b}'></section>" for a, b in pairs]
    parts += [f"<p style='{a}' id='{b}'></p><span id='{a}' style='{b}' role='{b}'></span>" for a, b in pairs]
    trees = [
        html.fromstring(f"<html><body>{part}</body></html>") for part in ("".join(parts), *parts[:: len(values) // 2])
    ]
    for name, selectors in replacements().items():
        for expression, selector in zip(getattr(originals(), name), selectors, strict=True):
            if selector is not None:
                assert all(selector(tree) == expression(tree) for tree in trees), (name, expression.path)


# Runs where nothing has been replaced, then where it has.
_BOTH = """
import json, sys
from trafilatura import extract
from trafilatura.meta import reset_caches
pages = json.load(sys.stdin)
ways = [{"favor_precision": True, "deduplicate": True}, {"include_formatting": True}, {"favor_recall": True}]
def texts():
    answer = []
    for way in ways:
        reset_caches()
        answer.append([extract(page, include_comments=False, **way) for page in pages])
    return answer
before = texts()
from qwill.data.fast_trafilatura import quicken
assert quicken()
print(json.dumps([before, texts()]))
"""


def test_the_text_is_the_same_as_without_replacements() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _BOTH], input=json.dumps(pages()), capture_output=True, text=True, check=True
    )
    before, after = json.loads(done.stdout)
    assert before == after
    assert sum(text is not None for way in before for text in way) > 20


def test_another_version_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    import qwill.data.fast_trafilatura as fast

    monkeypatch.setattr(fast, "version", lambda name: "2.3.2")
    quicken.cache_clear()
    assert not quicken()
    monkeypatch.undo()
    quicken.cache_clear()
    assert quicken()


def test_the_text_is_what_datatrove_gives() -> None:
    said = json.loads((ORACLES / "extract.json").read_text(encoding="utf-8"))
    assert said["trafilatura"] == VERSION
    extractor = Extractor("datatrove")
    # One after the other: its step remembers paragraphs, and so must ours.
    found = [extractor(page) for page in pages()]
    assert [text if isinstance(text, str) else None for text in found] == said["texts"]
    assert sum(text is None for text in said["texts"]) >= 3 and len(set(filter(None, said["texts"]))) >= 8


def test_it_is_written_for_the_version_that_is_installed() -> None:
    assert trafilatura.__version__ == VERSION
