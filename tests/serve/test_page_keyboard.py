"""The page without a mouse: everything is reached by Tab, shows that it has the focus, and does what it is for."""

from collections.abc import Iterator

import pytest
from tests.browser import CHROMIUM, Browser, Page
from tests.serve.on_page import DONE, OPEN, check, fill, opened, say
from tests.serve.page_server import PageServer
from tests.serve.page_tour import TOOLS

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
FOCUS = "document.activeElement"


def picture(page: Page, box: dict[str, float]) -> str:
    """What the box looks like, with something of what is around it."""
    left, top = max(box["x"] - 30, 0), max(box["y"] - 30, 0)
    right, bottom = min(box["x"] + box["width"] + 30, 1280), min(box["y"] + box["height"] + 30, 800)
    clip = {"x": left, "y": top, "width": right - left, "height": bottom - top, "scale": 1}
    return str(page.call("Page.captureScreenshot", format="png", clip=clip)["data"])


def scenes(page: Page, server: PageServer) -> Iterator[str]:
    """Every kind of control, a few at a time."""
    say(page, "markdown", f"{DONE} && document.querySelector('#history .chat')")
    page.press("r", alt=True)
    page.wait(f"{DONE} && document.querySelector('.reply .branches')")
    yield "a reply"
    page.press("ArrowUp")
    page.press("s", alt=True)
    yield "editor and settings"
    fill(page, "#set-tools", TOOLS)
    page.press("Escape")
    page.press("n", alt=True)
    page.press("c", alt=True)
    yield "suggestions"
    page.press("c", alt=True)
    say(page, "tool", "document.querySelector('.answer') && document.querySelectorAll('#history .chat').length === 2")
    yield "tool call"
    for name in ("help", "models", "exportChat"):
        page.run(f"document.querySelector('[data-command={name}]').click()")
        page.wait(OPEN)
        yield name
        page.press("Escape")
        page.wait(f"!{OPEN}")
    server.key = "secret"
    page.press("r", alt=True)
    page.wait(OPEN)
    yield "key"


def test_tab_reaches_everything_and_is_seen(browser: Browser, scripted: PageServer) -> None:
    """WCAG 2.1.1, 2.4.7 and, but for the pixels' number, 2.4.13: with the focus and without it, as many pixels as half
    the box's outline differ by 3 : 1 or more, in both colours."""
    page = opened(browser, scripted.url)
    missed, unseen, kinds = [], [], set()
    for scene in scenes(page, scripted):
        page.run(f"{FOCUS}.blur()")
        wanted = dict(check(page, "controls()"))
        reached: set[int] = set()
        for _ in range(len(wanted) + 3):
            page.press("Tab")
            at = check(page, "focused()")
            kind = at and at["words"].split(" “")[0]
            reached.add(at and at["number"])
            if not at or at["number"] not in wanted or kind in kinds:
                continue
            kinds.add(kind)
            for theme in ("dark", "light"):
                page.run(f"document.documentElement.dataset.theme = '{theme}'")
                focused = picture(page, at)
                check(page, "blur()")
                without = picture(page, at)
                check(page, "refocus()")
                if check(page, f"changed('{focused}', '{without}')") < at["width"] + at["height"]:
                    unseen.append(f"{scene}, {theme}: {at['words']}")
        missed += [f"{scene}: {words}" for number, words in wanted.items() if number not in reached]
    assert not missed, "\n".join(missed)
    assert not unseen, "\n".join(unseen)
    assert len(kinds) > 20, kinds


def test_the_shortcuts(browser: Browser, scripted: PageServer) -> None:
    page = opened(browser, scripted.url)
    say(page, "hello")
    page.run(f"{FOCUS}.blur()")
    page.press("/")
    assert page.run(f"{FOCUS}.id") == "prompt" and page.run(f"{FOCUS}.value") == ""
    page.press("r", alt=True)
    page.wait(f"{DONE} && document.querySelector('.reply .branches')")
    page.press("m", alt=True)
    assert page.run("document.getElementById('model').value") == "other"
    page.press("c", alt=True)
    page.wait("!document.getElementById('model-second').hidden")
    page.press("t", alt=True)
    page.wait("document.querySelector('#think[aria-pressed=true]')")
    page.press("s", alt=True)
    page.wait(f"document.getElementById('panel').contains({FOCUS})")
    page.press("Escape")
    assert page.run(f"{FOCUS}.id") == "settings" and page.run("document.getElementById('panel').hidden")
    page.press("b", alt=True)
    page.wait("document.getElementById('side').inert")
    page.press("k", control=True)
    page.wait(f"{FOCUS}.id === 'search' && !document.getElementById('side').inert")
    page.press("d", alt=True)
    page.wait("document.documentElement.dataset.theme === 'light'")
    page.press("l", alt=True)
    page.wait("document.documentElement.lang === 'zh-CN'")
    page.run(f"{FOCUS}.blur()")
    page.press("?")
    page.wait(OPEN)
    page.press("l", alt=True)
    assert page.run("document.documentElement.lang") == "zh-CN", "no shortcut reaches under a dialog"
    page.press("Escape")
    page.wait(f"!{OPEN}")
    page.press("n", alt=True)
    page.wait("!document.getElementById('hello').hidden && location.hash === ''")
    assert page.run(f"{FOCUS}.id") == "prompt" and page.errors == []


def tab_to(page: Page, selector: str, back: bool = False) -> None:
    for _ in range(60):
        if page.run(f"{FOCUS}.matches('{selector}')"):
            return
        page.press("Tab", shift=back)
    raise AssertionError(f"Tab does not come to {selector}")


def test_a_chat_without_a_mouse(browser: Browser, scripted: PageServer) -> None:
    page = opened(browser, scripted.url)
    tab_to(page, "#suggestions button", back=True)
    page.press("Enter")
    assert page.run(f"{FOCUS}.id === 'prompt' && {FOCUS}.value.length") > 20
    scripted.pace = 0.01
    say(page, "endless", "document.querySelector('.reply .markdown p')")
    page.press("Escape")
    page.wait(DONE)
    scripted.pace = 0.0
    page.press("ArrowUp")
    fill(page, ".editor textarea", "hello")
    page.press("Enter")
    page.wait(f"{DONE} && document.querySelector('.input .branches')")
    tab_to(page, ".input [data-act=previous]", back=True)
    page.press("Enter")
    page.wait("document.querySelector('.input .said').textContent === 'endless'")
    assert page.run(f"{FOCUS}.matches('.input [data-act=next]')"), "the focus stays with the branches"
    page.press(" ")
    page.wait("document.querySelector('.input .said').textContent === 'hello'")
    page.wait("document.querySelector('#history .current')")
    page.press("k", control=True)
    page.press("ArrowDown")
    page.press("Tab")
    page.press("Enter")
    page.wait(OPEN)
    fill(page, "dialog input", "Renamed")
    page.press("Enter")
    page.wait("document.querySelector('#history .chat').textContent === 'Renamed'")
    page.wait(f"{FOCUS}.closest('#history')")
    tab_to(page, "#history li button:nth-child(3)")
    page.press("Enter")
    page.wait(OPEN)
    tab_to(page, "dialog .danger")
    page.press("Enter")
    page.wait("!document.querySelector('#history .chat') && !document.getElementById('hello').hidden")
    assert page.run(f"{FOCUS} !== document.body"), "the focus is never lost"
    assert page.errors == []


SOFT = """(async () => {
  const { Follow } = await import("/scroll.js");
  const box = document.createElement("div");
  box.style = "position: fixed; inset: 0; height: 100px; overflow: auto";
  const grow = () => box.append(Object.assign(document.createElement("p"), { style: "height: 300px" }));
  document.body.append(box);
  grow();
  const follow = new Follow(box, document.createElement("button"));
  const scrolled = () => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)));
  follow.grown();
  await scrolled();
  const end = box.scrollTop;
  box.dispatchEvent(new KeyboardEvent("keydown", { key: "Home" }));
  box.dispatchEvent(new Event("scroll")); // it tells of a place from before the key
  box.scrollTop = end - 10; // the first frame of a soft scroll
  await scrolled();
  grow();
  follow.grown();
  const left = box.scrollTop === end - 10;
  box.scrollTop = box.scrollHeight; // and going down to the end takes up following again
  await scrolled();
  grow();
  follow.grown();
  const again = box.scrollTop + box.clientHeight === box.scrollHeight;
  box.remove();
  return [end > 0, left, again];
})()"""


def test_a_key_that_leaves_the_end_wins_against_a_growing_text(browser: Browser, scripted: PageServer) -> None:
    page = opened(browser, scripted.url)
    assert page.run(SOFT) == [True, True, True]


def test_the_talk_scrolls_by_keys(browser: Browser, scripted: PageServer) -> None:
    page = opened(browser, scripted.url)
    say(page, "story")
    page.wait("document.getElementById('log').scrollTop > 100")
    tab_to(page, "#log *", back=True)
    page.press("Home")
    page.wait("document.getElementById('log').scrollTop === 0")
