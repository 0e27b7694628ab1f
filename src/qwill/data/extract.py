"""The main text of an HTML page, by trafilatura, within limits that no page can break.

Two ways: `readable` keeps headings, lists, code and tables as Markdown and parts paragraphs by empty lines; `datatrove`
gives to the letter what datatrove's `Trafilatura` step gives (precision favoured, deduplicated within what one process
of it has read), on the same version of trafilatura."""

from __future__ import annotations

import faulthandler
import os
import re
import resource
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from html import unescape
from typing import Any, Literal

Way = Literal["readable", "datatrove"]

SECONDS = 30.0  # of CPU a page may take; one that people read takes some hundredths
MOST_DEPTH = 2000  # elements open at once; pages that people read have some dozens, libxml2 itself goes wrong deeper
MOST_TAGS = 500_000
SUSPECT_BYTES, SUSPECT_DEPTH = 2 << 20, 200  # beyond these a page is extracted in a process of its own
CHILD_MEMORY = 4 << 30  # bytes of address space that such a process may add

_TAG = re.compile(r"<(/?)([a-zA-Z][a-zA-Z0-9:-]*)(?:[^<>]*(/)>)?")
_VOID = frozenset(
    ["area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "param", "source", "track", "wbr"]
)
# The parser ends these by itself where another one begins, so that they do not nest.
_ENDED_BY_THEMSELVES = frozenset(["p", "li", "dt", "dd", "td", "th", "tr", "option", "thead", "tbody", "tfoot"])
_TITLE = re.compile(r"<title[^>]*>([^<]{1,1000})</title", re.IGNORECASE)


@dataclass(frozen=True)
class Refused:
    """Why a page has no text: nothing in it, over a limit, or beyond the extractor."""

    reason: str


class _OutOfTime(BaseException):
    """Not an Exception: trafilatura catches those and goes on."""


class Extractor:
    """Extracts page after page. With `datatrove` it remembers paragraphs as one process of datatrove does, so its
    answers depend on the pages that it has seen before; make a new one for each block."""

    def __init__(self, way: Way = "readable", seconds: float = SECONDS) -> None:
        from qwill.data.fast_trafilatura import quicken

        quicken()
        from trafilatura.deduplication import LRUCache
        from trafilatura.settings import LRU_SIZE

        self.seconds = seconds
        if way == "datatrove":
            seen = LRUCache(maxsize=LRU_SIZE)
            self.options: dict[str, Any] = {"favor_precision": True, "include_comments": False, "deduplicate": seen}
        else:
            self.options = {"include_comments": False, "include_formatting": True}

    def __call__(self, page: str) -> str | Refused:
        """The text, or why there is none. Raises nothing."""
        depth, tags = nesting(page)
        if depth > MOST_DEPTH:
            return Refused(f"markup nested more than {MOST_DEPTH} deep")
        if tags > MOST_TAGS:
            return Refused(f"more than {MOST_TAGS} tags")
        page = page.encode("utf-8", "replace").decode()  # lxml raises for lone surrogates
        if len(page) > SUSPECT_BYTES or depth > SUSPECT_DEPTH:
            return _alone(self._extract, page, self.seconds)
        try:
            with _at_most(self.seconds):
                return self._extract(page)
        except _OutOfTime:
            return _late(self.seconds)

    def _extract(self, page: str) -> str | Refused:
        from trafilatura import extract

        try:
            text = extract(page, **self.options)
        except Exception as error:  # third-party code on hostile input
            return Refused(f"the extractor failed ({type(error).__name__}: {str(error)[:200]})")
        return text if text else Refused("no main text found")


def _late(seconds: float) -> Refused:
    return Refused(f"extraction took more than {seconds:g} seconds")


def nesting(page: str) -> tuple[int, int]:
    """(how deep elements are nested at most, number of tags), by tags alone: an upper bound of what a parser builds."""
    depth, deepest, tags = 0, 0, 0
    if page.count("<") <= SUSPECT_DEPTH:
        return 0, 0
    for tags, match in enumerate(_TAG.finditer(page), start=1):
        closing, name, empty = match.groups()
        name = name.lower()
        if name in _VOID or empty or name in _ENDED_BY_THEMSELVES:
            continue
        depth = depth + 1 if not closing else max(0, depth - 1)
        deepest = max(deepest, depth)
        if deepest > MOST_DEPTH or tags > MOST_TAGS:
            # Exact numbers would take a walk through what may be 100 MB of brackets.
            return deepest, tags
    return deepest, tags


def title_of(page: str) -> str | None:
    match = _TITLE.search(page, 0, 65536)
    return " ".join(unescape(match.group(1)).split()) or None if match else None


@contextmanager
def _at_most(seconds: float) -> Iterator[None]:
    """Raise _OutOfTime in the block after so much CPU time of this process. Only a main thread can be told so: in
    another there is no limit but those on the page's form."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def ring(*_: object) -> None:
        raise _OutOfTime

    before = signal.signal(signal.SIGPROF, ring)
    signal.setitimer(signal.ITIMER_PROF, seconds, 0.5)  # again, should the first be swallowed
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def _alone(extract: Any, page: str, seconds: float) -> str | Refused:
    """Extract in a child of this process, which is killed after `seconds` of CPU, three times that by the clock, or
    when it wants too much memory: whatever libxml2 does, this process goes on."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(reading)
            faulthandler.disable()  # a crash here is an answer, not news
            limit = int(seconds) + 1
            resource.setrlimit(resource.RLIMIT_CPU, (limit, limit))
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            with open("/proc/self/statm") as f:
                now = int(f.read().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (now + CHILD_MEMORY, now + CHILD_MEMORY))
            found = extract(page)
            answer = b"r" + found.reason.encode() if isinstance(found, Refused) else b"t" + found.encode()
            with open(writing, "wb") as f:
                f.write(answer)
        finally:
            os._exit(0)
    os.close(writing)
    held, ends = bytearray(), time.monotonic() + 3 * seconds + 1
    timer = threading.Timer(max(0.0, ends - time.monotonic()), _kill, (child,))
    timer.start()
    with open(reading, "rb") as f:
        held += f.read()
    _, status = os.waitpid(child, 0)
    timer.cancel()
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        if number in (signal.SIGXCPU, signal.SIGKILL):
            return _late(seconds)
        return Refused(f"the extractor crashed ({signal.Signals(number).name})")
    if not held:
        return Refused("the extractor ended without an answer, most likely for want of memory")
    text = held[1:].decode()
    return text if held[:1] == b"t" else Refused(text)


def _kill(child: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(child, signal.SIGKILL)
