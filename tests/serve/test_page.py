"""The page in a real browser, against scripted replies."""

import json
import re

import pytest
from tests.browser import CHROMIUM, Browser
from tests.serve.on_page import DONE, OPEN, READY, opened, reload, say, until
from tests.serve.page_server import HOSTILE, PageServer

from qwill.serve.page_files import FOLDER, page_file

in_browser = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")


def test_every_file_is_sent_under_a_strict_policy() -> None:
    policy = page_file("/").headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy and "script-src 'self';" in policy
    for file in FOLDER.iterdir():
        assert page_file(f"/{file.name}") is not None
    assert page_file("/../page_files.py") is None
    html = page_file("/").body.decode()
    assert not re.search(r"<script(?![^>]*\bsrc=)|\sstyle=|\son\w+=|https?://", html)


@in_browser
@pytest.mark.parametrize(
    "name", ["markdownAtEverySplit", "markdownExamples", "mathematics", "eventsAtEverySplit", "bombs"]
)
def test_the_modules_by_themselves(browser: Browser, scripted: PageServer, name: str) -> None:
    page = opened(browser, scripted.url)
    page.run(f"import('/tests/page_checks.js').then((checks) => checks.{name}())")


@in_browser
def test_html_would_be_dead_even_if_it_got_in(browser: Browser, scripted: PageServer) -> None:
    page = opened(browser, scripted.url)
    note = "(event) => (window.seen ??= []).push(event.effectiveDirective)"
    page.run(f"addEventListener('securitypolicyviolation', {note})")
    with pytest.raises(RuntimeError, match="TrustedHTML"):
        page.run("document.body.innerHTML = '<img src=x onerror=alert(1)>'")
    page.run("fetch('http://127.0.0.1:9/').catch(() => null)")
    page.run("void (document.body.appendChild(document.createElement('img')).src = 'http://127.0.0.1:9/spy.png')")
    page.run("document.body.appendChild(document.createElement('div')).setAttribute('style', 'color: red')")
    page.wait("['connect-src', 'img-src', 'style-src-attr'].every((name) => window.seen?.includes(name))")


@in_browser
def test_a_reply_is_shown_and_kept(browser: Browser, scripted: PageServer) -> None:
    page = opened(browser, scripted.url)
    say(page, "markdown please")
    for selector in ("h2", "strong", "table td.right", "pre .c-keyword", "math mfrac", "blockquote", "li li"):
        assert page.count(f".reply {selector}"), selector
    page.wait("location.hash.length > 1 && document.querySelector('#history .chat')")
    kept = next(iter(scripted.conversations.values()))
    until(lambda: [message["role"] for message in kept["messages"]] == ["user", "assistant"])
    reload(page)
    page.wait("document.querySelector('.reply table')")
    assert page.errors == []


@in_browser
def test_output_that_tries_to_be_html_stays_text(browser: Browser, scripted: PageServer) -> None:
    page = opened(browser, scripted.url)
    say(page, "hostile")
    assert page.run("window.broken ?? null") is None
    assert page.count(".reply :is(script, img, iframe, style, object, embed, form, base, link)") == 0
    links = page.run("[...document.querySelectorAll('.reply a')].map((a) => a.href)")
    assert all(link.startswith(("http://", "https://")) for link in links)
    names = "[...document.querySelectorAll('.reply *')].flatMap((e) => e.getAttributeNames())"
    assert page.run(f"{names}.filter((name) => /^on/.test(name))") == []
    assert "<script>window.broken = 1</script>" in page.text(".reply") and "window.broken = 1" in HOSTILE
    assert page.errors == []


@in_browser
def test_stop_edit_and_branches(browser: Browser, scripted: PageServer) -> None:
    page = opened(browser, scripted.url)
    scripted.pace = 0.01
    say(page, "endless", "document.querySelector('.reply > .markdown p')")
    page.press("Escape")
    page.wait(DONE)
    scripted.pace = 0.0
    page.click(".input [data-act=edit]")
    page.run("document.querySelector('.editor textarea').value = 'hello'")
    page.press("Enter")
    page.wait(f"{DONE} && document.querySelector('.reply').textContent.includes('tiny heard: hello')")
    assert "2/2" in page.text(".input .branches")
    page.click(".input [data-act=previous]")
    page.wait("document.querySelector('.input .said').textContent === 'endless'")
    assert [body["messages"][-1]["content"] for body in scripted.sent] == ["endless", "hello"]


@in_browser
def test_two_models_get_the_same_prompt(browser: Browser, scripted: PageServer) -> None:
    page = opened(browser, scripted.url)
    page.click("#pair")
    say(page, "hello", f"document.querySelectorAll('.two .reply').length === 2 && {DONE}")
    assert sorted(body["model"] for body in scripted.sent) == ["other", "tiny"]
    assert len({json.dumps(body["messages"]) for body in scripted.sent}) == 1


@in_browser
def test_a_key_is_asked_for_only_on_401(browser: Browser, scripted: PageServer) -> None:
    scripted.key = "secret"
    page = browser.page()
    page.goto(scripted.url)
    page.wait("document.querySelector('dialog[open] input[type=password]')")
    page.type("secret")
    page.press("Enter")
    page.wait(READY)
    assert page.run("sessionStorage.getItem('qwill.key')") == "secret"
    assert "secret" not in page.run("JSON.stringify(localStorage)")


@in_browser
def test_who_has_no_key_is_asked_once_and_told_why(browser: Browser, scripted: PageServer) -> None:
    scripted.key = "secret"
    page = browser.page()
    page.goto(scripted.url)
    page.wait(OPEN)
    page.press("Escape")
    page.wait("document.getElementById('notice').textContent.includes('The server wants a valid key.')")
    page.run("new Promise((done) => setTimeout(done, 300))")
    assert not page.run(OPEN)
    page.click("#notice button")
    page.wait(OPEN)
    page.type("secret")
    page.press("Enter")
    page.wait(f"{READY} && document.getElementById('notice').hidden")
    say(page, "hello")


@in_browser
def test_a_server_that_is_gone_and_comes_back(browser: Browser, scripted: PageServer) -> None:
    page = opened(browser, scripted.url)

    def wire(cut: bool) -> None:
        page.call(
            "Network.emulateNetworkConditions", offline=cut, latency=0, downloadThroughput=-1, uploadThroughput=-1
        )

    wire(True)
    say(page, "hello")
    assert "The server can't be reached." in page.text(".fault")
    wire(False)
    page.click(".fault button")
    page.wait(f"{DONE} && document.querySelector('.reply').textContent.includes('tiny heard: hello')")
    assert page.count(".fault:not([hidden])") == page.count(".branches") == 0, "what failed is gone"


@in_browser
def test_adapters_that_come_later_are_listed_and_chosen(browser: Browser, scripted: PageServer) -> None:
    scripted.models = ("other",)
    page = opened(browser, scripted.url)
    scripted.models = ("tiny", "other")
    page.click("[data-command=models]")
    page.wait("document.querySelectorAll('.models li').length === 3")
    assert page.text(".models .adapter strong") == "tiny-poet" and "adapter of tiny" in page.text(".models .adapter")
    page.click(".models .adapter button")
    say(page, "hello")
    assert scripted.sent[-1]["model"] == "tiny-poet" and page.text(".reply .who") == "tiny-poet"


@in_browser
@pytest.mark.parametrize(
    ("word", "words"),
    [("busy", "Try again in 7 s."), ("broken", "the engine has died"), ("long", "9000 tokens"),
     ("error", "the engine was restarted"), ("cut", "The connection ended before the reply did.")],
)  # fmt: skip
def test_what_goes_wrong_is_said(browser: Browser, scripted: PageServer, word: str, words: str) -> None:
    page = opened(browser, scripted.url)
    say(page, word)
    assert words in page.text(".fault")


@in_browser
def test_chinese_and_a_phone(browser: Browser, scripted: PageServer) -> None:
    page = opened(browser, scripted.url, width=360, height=740, languages="zh-CN")
    assert page.text("#hello-title") == "想聊点什么？"
    say(page, "markdown")
    assert page.run("document.documentElement.scrollWidth") <= 360
