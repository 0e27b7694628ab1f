"""A walk through everything the page can show, for the tests of how it looks, reads and is reached."""

import time
from collections.abc import Iterator

from tests.browser import Page
from tests.serve.on_page import OPEN, clear, fill, say
from tests.serve.page_server import PageServer

TOOLS = '[{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}]'
SLOW = "document.querySelector('.reply.running')"
LAST = ".turn:last-child"


def tour(page: Page, server: PageServer, key: bool = False) -> Iterator[str]:
    """Names of what is shown, one after another. `key`: ends where the server asks for its key."""
    page.wait("document.querySelector('#stats strong')")
    yield "empty"
    say(page, "markdown", "document.querySelector('#history .chat') && !document.querySelector('.reply.running')")
    yield "markdown"
    yield from _faults(page)
    yield from _thoughts_and_tools(page, server)
    say(page, "hello")
    page.press("ArrowUp")
    page.wait("document.querySelector('.input .editor')")
    yield "editor"
    page.press("Escape")
    page.press("c", alt=True)
    say(page, "two")
    yield "two models"
    page.press("c", alt=True)
    yield from _panel_and_dialogs(page)
    page.press("n", alt=True)
    page.wait("!document.getElementById('hello').hidden")
    yield "new chat"
    if key:
        server.key = "secret"
        fill(page, "#prompt", "Hello")
        page.press("Enter")
        page.wait(OPEN)
        yield "key"
        page.type("wrong")
        page.press("Enter")
        page.wait("document.querySelector('dialog .wrong')")
        yield "wrong key"


def _faults(page: Page) -> Iterator[str]:
    for word in ("busy", "short"):
        say(page, word)
        yield word
    page.press("r", alt=True)
    page.wait("document.querySelector('.reply .branches') && !document.querySelector('.reply.running')")
    yield "branches"
    say(page, "endless", f"document.querySelector('{LAST} .markdown p')")
    page.press("Escape")
    page.wait(f"document.querySelector('{LAST} .note:not([hidden])')")
    yield "stopped"


def _thoughts_and_tools(page: Page, server: PageServer) -> Iterator[str]:
    server.before = 0
    server.gate.clear()
    say(page, "think", SLOW)
    yield "waiting"
    server.gate.set()
    page.wait(f"!{SLOW}")
    server.before = 3
    server.gate.clear()
    say(page, "think", f"document.querySelector('{LAST} .thoughts.now:not([hidden])')")
    yield "thinking"
    time.sleep(0.1)  # so that the thought's time is shown
    server.gate.set()
    page.wait(f"!{SLOW} && document.querySelector('{LAST} .thoughts:not([hidden])')")
    page.click(f"{LAST} .thoughts summary")
    yield "thoughts"
    page.press("s", alt=True)
    fill(page, "#set-tools", TOOLS)
    page.press("Escape")
    say(page, "tool", f"document.querySelector('{LAST} .answer')")
    yield "tool call"
    fill(page, ".answer textarea", "sunny")
    page.click(".answer button")
    page.wait(f"document.querySelector('{LAST} .input.tool') && !{SLOW}")
    page.click(f"{LAST} .input.tool summary")
    yield "tool result"


def _panel_and_dialogs(page: Page) -> Iterator[str]:
    page.press("s", alt=True)
    page.wait("!document.getElementById('panel').hidden")
    yield "settings"
    fill(page, "#set-tools", "[1]")
    page.wait("document.querySelector('#hint-tools.wrong')")
    yield "wrong tools"
    clear(page, "#set-tools")
    page.press("Escape")
    for name in ("help", "models", "exportChat"):
        page.run(f"document.querySelector('[data-command={name}]').click()")
        page.wait(OPEN)
        yield name
        page.press("Escape")
        page.wait(f"!{OPEN}")
    narrow = page.run("matchMedia('(max-width: 860px)').matches")
    if narrow:
        page.press("b", alt=True)
    fill(page, "#search", "zebra")
    page.wait("!document.querySelector('#history .chat')")
    yield "nothing found"
    fill(page, "#search", "heading")
    page.wait("document.querySelector('#history .current small')")
    yield "found"
    clear(page, "#search")
    page.wait("document.querySelector('#history .chat') && !document.querySelector('#history small')")
    for n, name in ((2, "rename"), (3, "delete")):
        page.run(f"document.querySelector('#history li button:nth-child({n})').click()")
        page.wait(OPEN)
        yield name
        page.press("Escape")
        page.wait(f"!{OPEN}")
    if narrow:
        page.press("b", alt=True)
