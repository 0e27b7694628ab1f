"""trafilatura sooner, with the same answers to the letter.

Four things of trafilatura 2.3.1 take half of its time and none of it is its judgement:
- justext's stop words of all languages, a tuple of half a million words, are hashed anew for each page, to look up the
  set that was made of them: here the tuple hashes as itself;
- lxml asks a Python function for the class of every element that it hands out: here a table in C answers;
- its XPath expressions with `re:test` call back into Python for each element: here the same conditions are asked in
  Python, each attribute's value once;
- `header` elements and the like are sought by XPath where iteration by name does.

What is replaced is module state of trafilatura (a stop list, a parser's lookup, the members of lists of expressions),
in this process only and for the version that it was written for; with another one nothing is touched. The tests hold
every replacement to the expression it stands for."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache, lru_cache
from importlib import import_module
from importlib.metadata import version
from typing import Any

VERSION = "2.3.1"
Select = Callable[[Any], list[Any]]
_PARTS = ("div", "section", "aside")
_BLOCKS = ("div", "item", "list", "p", "section", "span")


@cache
def quicken() -> bool:
    """Replace what is slow; True if that was done (or had been)."""
    if version("trafilatura") != VERSION:
        return False
    import trafilatura.utils as utils
    import trafilatura.xpaths as xpaths
    from lxml import etree, html

    external: Any = import_module("trafilatura.external")
    external.JT_STOPLIST = _ByIdentity(external.jt_stoplist_init())
    utils.HTML_PARSER.set_element_class_lookup(
        etree.ElementDefaultClassLookup(
            element=html.HtmlElement,
            comment=html.HtmlComment,
            pi=html.HtmlProcessingInstruction,
            entity=html.HtmlEntity,
        )
    )
    for name, selectors in replacements().items():
        expressions = getattr(xpaths, name)
        for i, selector in enumerate(selectors):
            if selector is not None:
                expressions[i] = selector
    return True


class _ByIdentity(tuple):
    """A tuple that is equal to itself alone, so that looking it up costs nothing."""

    __slots__ = ()
    __hash__ = object.__hash__

    def __eq__(self, other: object) -> bool:
        return self is other


def _finds(pattern: str, flags: int = 0) -> Callable[[str], bool]:
    """Whether a value matches, remembered: classes come again and again, and each is asked for many times a page."""
    search = re.compile(pattern, flags).search
    return lru_cache(maxsize=1 << 14)(lambda value: search(value) is not None)


def replacements() -> dict[str, list[Select | None]]:
    """List of trafilatura.xpaths → for each of its expressions what selects the same elements in the same order, or
    None for those that are left as they are."""
    import trafilatura.xpaths as x

    def either(*groups: tuple[str, ...]) -> str:
        return "|".join(token for group in groups for token in group)

    consent = _finds(either(x._CONSENT_ID_CLASS_TOKENS))
    discard_id = _finds(either(x._OVERALL_DISCARD_BOTH_TOKENS, x._OVERALL_DISCARD_ID_TOKENS))
    discard_class = _finds(either(x._OVERALL_DISCARD_BOTH_TOKENS, x._OVERALL_DISCARD_CLASS_TOKENS))
    hidden = _finds("hidden")
    reader_comments = _finds("reader-comments|akismet")
    odd_class = _finds(
        "^hide-|comments-title|nocomments|-reply-|message|akismet|suggest-links|-hide-|hide-print| hidden| hide|noprint"
        "|notloaded"
    )
    bottom = _finds(r"(^|\s)bottom|bottom(\s|$)")
    link = _finds(r"(^|\s)link(\s|$)")
    comments_id = _finds(f"^(?:{x._COMMENTS_ID}|disqus_thread|dsq-comments)")
    comments_class = _finds(x._COMMENTS_CLASS)
    comments_id_alone = _finds(f"^(?:{x._COMMENTS_ID})")
    follow_up_any = _finds("mvp-post-add-(?:box|wrap)|infinite-?scroll")
    follow_up_box = _finds("mvp-post-add-(?:box|wrap)")
    article_id, article_class = (
        _finds(either(tokens)) for tokens in (x._ARTICLE_CONTENT_ID_TOKENS, x._ARTICLE_CONTENT_CLASS_TOKENS)
    )
    story_id, story_class = (_finds(either(tokens)) for tokens in (x._STORY_ID_TOKENS, x._STORY_CLASS_TOKENS))
    main_id, main_class = (_finds(either(t)) for t in (x._MAIN_CONTENT_ID_TOKENS, x._MAIN_CONTENT_CLASS_TOKENS))
    fulltext = _finds("fulltext", re.IGNORECASE)

    def first_of(e: Any, *names: str) -> str:
        """`@id|@class` as the argument of a function: the string of the one that stands first in the page."""
        return next((value for name, value in e.items() if name in names), "")

    def overall(e: Any) -> bool:
        get = e.get
        own, kind = get("id"), get("class")
        role, component = get("role"), get("data-component")
        return (
            (own is not None and discard_id(own))
            or (kind is not None and discard_class(kind))
            or consent(first_of(e, "id", "class"))
            or (role is not None and "nav" in role.replace("N", "n"))
            or (component is not None and "MostPopularStories" in component)
            or get("data-lp-replacement-content") is not None
        )

    def unseen(e: Any) -> bool:
        if not e.keys():
            return False
        get = e.get
        own, kind, style = get("id"), get("class"), get("style")
        if kind is not None and (kind == "comments-title" or odd_class(kind)):
            return True
        if own is not None and reader_comments(own):
            return True
        if style is not None and ("display:none" in style or "display: none" in style):
            return True
        if get("aria-hidden") == "true" or hidden(first_of(e, "id", "style")):
            return True
        return first_of(e, "id", "class").startswith("reply-")

    def teaser(e: Any) -> bool:
        own, kind = e.get("id"), e.get("class")
        return (own is not None and "teaser" in own.replace("T", "t")) or (
            kind is not None and "teaser" in kind.replace("T", "t")
        )

    def precise(e: Any) -> bool:
        value, style = first_of(e, "id", "class"), e.get("style")
        return bottom(value) or link(value) or (style is not None and "border" in style)

    def comments(e: Any) -> bool:
        own, kind = e.get("id"), e.get("class")
        return (own is not None and comments_id(own)) or (kind is not None and comments_class(kind))

    def comments_or_lists(e: Any) -> bool:
        if not comments(e):
            return False
        own, kind = e.get("id"), e.get("class")
        return (
            e.tag not in ("ol", "ul")
            or (own is not None and comments_id_alone(own))
            or (kind is not None and comments_class(kind))
        )

    def follow_up(e: Any) -> bool:
        own, kind = e.get("id"), e.get("class")
        if not ((own is not None and follow_up_any(own)) or (kind is not None and follow_up_any(kind))):
            return False
        return (
            (own is not None and follow_up_box(own))
            or (kind is not None and follow_up_box(kind))
            or e.find(".//h1") is None
        )

    def share_buttons(e: Any) -> bool:
        return "elementor-share-buttons" in (e.get("class") or "")

    def caption(e: Any) -> bool:
        return "caption" in (e.get("id") or "") or "caption" in (e.get("class") or "")

    def article(e: Any) -> bool:
        own, kind = e.get("id"), e.get("class")
        return (
            kind in ("post", "entry")
            or e.get("itemprop") == "articleBody"
            or own == "articleContent"
            or (own is not None and article_id(own))
            or (kind is not None and article_class(kind))
        )

    def story(e: Any) -> bool:
        own, kind = e.get("id"), e.get("class")
        return (
            e.get("role") == "article"
            or own in ("article", "story")
            or kind in ("postarea", "art-postcontent", "text", "cell", "story")
            or (own is not None and story_id(own))
            or (kind is not None and (fulltext(kind) or story_class(kind)))
        )

    def main(e: Any) -> bool:
        own, kind = e.get("id"), e.get("class")
        if own is not None and (own == "content" or main_id(own) or "main-content" in _lower(own, "CM")):
            return True
        return kind is not None and (
            kind == "content"
            or main_class(kind)
            or "main-content" in _lower(kind, "CM")
            or "page-content" in _lower(kind, "CP")
        )

    return {
        "OVERALL_DISCARD_XPATH": [_all(overall, *_BLOCKS), _all(unseen, "*")],
        "PRECISION_DISCARD_XPATH": [_all(None, "header"), _all(precise, *_BLOCKS)],
        "TEASER_DISCARD_XPATH": [_all(teaser, *_BLOCKS)],
        "REMOVE_COMMENTS_XPATH": [_all(comments, "div", "list", "section", "details")],
        "REMOVE_COMMENTS_AND_LISTS_XPATH": [_all(comments_or_lists, "div", "list", "section", "details", "ol", "ul")],
        "RAW_TREE_PRUNE_XPATH": [_all(follow_up, *_PARTS), _all(share_buttons, *_PARTS)],
        "DISCARD_IMAGE_ELEMENTS": [_all(caption, *_BLOCKS)],
        "BODY_XPATH": [
            _first_of_each_parent(article, "article", "div", "main", "section"),
            None,
            _first(story, "article", "div", "main", "section"),
            _first(main, "article", "div", "main", "section"),
            None,
        ],
    }


def _lower(value: str, letters: str) -> str:
    for letter in letters:
        value = value.replace(letter, letter.lower())
    return value


def _all(holds: Callable[[Any], bool] | None, *tags: str) -> Select:
    if holds is None:
        return lambda tree: list(tree.iterdescendants(*tags))
    return lambda tree: [element for element in tree.iterdescendants(*tags) if holds(element)]


def _first(holds: Callable[[Any], bool], *tags: str) -> Select:
    def select(tree: Any) -> list[Any]:
        return next(([element] for element in tree.iterdescendants(*tags) if holds(element)), [])

    return select


def _first_of_each_parent(holds: Callable[[Any], bool], *tags: str) -> Select:
    """`.//*[...][1]`: of the children of each element the first that holds."""

    def select(tree: Any) -> list[Any]:
        found, parents = list[Any](), set[Any]()
        for element in tree.iterdescendants(*tags):
            if holds(element) and (parent := element.getparent()) not in parents:
                parents.add(parent)
                found.append(element)
        return found

    return select
