"""The arena in a real browser: battles by keyboard, nobody's name before the vote, the leaderboard."""

import json
from collections.abc import Iterator

import pytest
from tests.browser import CHROMIUM, Browser, Page
from tests.serve.arena_stand_in import NAMES, Arena
from tests.serve.on_page import OPEN, check, fill, until
from tests.serve.page_server import PageServer
from tests.serve.test_page_words import HAN, plain

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
READY = "document.body?.classList.contains('ready') && document.querySelector('#suggestions button')"
# Keeps whatever fetch() gives, as text.
LISTEN = """window.heard = []; const plain = fetch; window.fetch = async (...given) => {
  const answer = await plain(...given);
  answer.clone().text().then((text) => heard.push([answer.url, text]));
  return answer;
};"""
FOCUS = "document.activeElement"
VOTE = "document.querySelector('.vote[data-vote=a]:enabled') && !document.getElementById('verdict').hidden"
TOLD = "document.getElementById('next')"


@pytest.fixture
def arena(scripted: PageServer) -> Arena:
    scripted.arena = Arena()
    return scripted.arena


def opened(browser: Browser, server: PageServer, where: str = "", **how: object) -> Page:
    page = browser.page(**how)
    page.goto(f"{server.url}/arena.html{where}", READY)
    return page


def fight(page: Page, prompt: str, until: str = VOTE) -> None:
    fill(page, "#prompt", prompt)
    page.press("Enter")
    page.wait(until)


def nobody_named(page: Page, names: tuple[str, ...]) -> None:
    """Not in the page, its address, its memory, nor in what came since `LISTEN`: texts and headers."""
    for where in (
        "document.documentElement.outerHTML",
        "document.title",
        "location.href",
        "JSON.stringify({...localStorage})",
    ):
        text = page.run(where)
        assert not any(name in text for name in names), where
    heard = page.wait("heard.filter(([url]) => url.includes('/battles')).length === 3 && heard")
    headers = [one["response"]["headers"] for one in page.responses if "/battles" in one["response"]["url"]]
    assert len(headers) == 3, "the battle and its two streams"
    text = json.dumps([headers, [one for one in heard if "/battles" in one[0]]])
    assert not any(name in text for name in names)


def tour(page: Page, server: PageServer) -> Iterator[str]:
    """Names of what the arena shows, one after another."""
    yield "ask"
    server.before = 0
    server.gate.clear()
    fight(page, "think", "document.querySelectorAll('.reply.running').length === 2")
    yield "waiting"
    server.gate.set()
    page.wait(VOTE)
    yield "vote"
    fill(page, "#prompt", "hello")
    page.press("Enter")
    page.wait(f"document.querySelectorAll('.turn').length === 2 && {VOTE}")
    yield "a second turn"
    page.press("1")
    page.wait(TOLD)
    yield "names"
    page.press("n")
    server.arena.leak = True
    fight(page, "markdown")
    yield "markdown"
    page.press("4")
    page.wait(TOLD)
    yield "a leak"
    server.arena.leak = False
    page.press("Enter")
    server.arena.refuse = 429
    fight(page, "hello", "!document.getElementById('notice').hidden")
    yield "refused"
    page.click("#notice button")
    page.wait(VOTE)
    page.press("Escape")
    server.arena.broken = True
    fight(page, "hello", "document.querySelector('.reply .fault:not([hidden])')")
    yield "cut"
    page.press("Escape")
    page.wait("!document.getElementById('ask').hidden")
    page.run("document.activeElement.blur()")
    page.press("?")
    page.wait(OPEN)
    yield "help"
    page.press("Escape")
    page.wait(f"!{OPEN}")
    page.press("b", alt=True)
    page.wait("document.querySelector('.ratings tbody tr') && document.querySelector('.chart')")
    yield "leaderboard"
    page.click(".styles button:nth-child(2)")
    page.wait("document.querySelector('.styles button:nth-child(2)[aria-pressed=true]')")
    yield "without style"
    page.click("#erase")
    page.wait(OPEN)
    yield "erase"
    page.press("Escape")
    page.wait(f"!{OPEN}")


def test_a_battle_without_a_mouse(browser: Browser, scripted: PageServer, arena: Arena) -> None:
    page = opened(browser, scripted)
    assert page.run(f"{FOCUS}.id") == "prompt"
    for _ in range(20):
        page.press("Tab", shift=True)
        if page.run(f"{FOCUS}.matches('#suggestions button')"):
            break
    page.press("Enter")
    assert page.run(f"{FOCUS}.id === 'prompt' && {FOCUS}.value.length") > 10
    prompt = page.run("document.getElementById('prompt').value")
    for key, outcome in (("1", "a"), ("ArrowRight", "b"), ("3", "tie"), ("4", "both_bad"), ("ArrowLeft", "a")):
        scripted.before = 1
        scripted.gate.clear()
        page.press("Enter")
        page.wait("document.querySelectorAll('.reply.running').length === 2")
        assert page.run(f"{FOCUS}.id") == "verdict", "the focus goes to the vote"
        page.press(key)
        assert not page.run(f"Boolean({TOLD})"), "there is no vote on half a reply; the server isn't even asked"
        scripted.gate.set()
        page.wait(VOTE)
        page.press(key)
        page.wait(TOLD)
        assert arena.votes[-1] == {"outcome": outcome, "consent": False}
        assert page.run(f"{FOCUS}.id") == "next"
        page.press("n" if key == "1" else "Enter")
        page.wait(f"!document.getElementById('ask').hidden && {FOCUS}.id === 'prompt'")
        page.type("hello")
    assert next(iter(arena.battles.values()))["prompt"] == prompt
    assert len(arena.battles) == len(arena.votes) == 5 and page.errors == []


def test_names_and_rating_changes_come_with_the_vote(browser: Browser, scripted: PageServer, arena: Arena) -> None:
    page = opened(browser, scripted)
    fight(page, "hello")
    assert [page.text(f".reply:nth-child({n}) .who") for n in (1, 2)] == ["A", "B"]
    assert page.text(".reply .markdown:not(.thoughts .markdown)") == "Side a heard: hello"
    page.click(".vote[data-vote=b]")
    page.wait(TOLD)
    assert [page.text(f".reply:nth-child({n}) .who") for n in (1, 2)] == [f"A · {NAMES[0]}", f"B · {NAMES[1]}"]
    assert "zebra-7b: 1,000 → 1,008 (+8.3)" in page.text("#outcome")
    assert "okapi-3b: 1,000 → 992 (−8.3)" in page.text("#outcome")
    assert page.count(".reply.won") == 1 and page.text(".reply.won .who").startswith("B")
    assert page.count("[data-act=again]") == 0, "no model answers again in a battle"
    page.wait("document.getElementById('said').textContent.includes('okapi-3b')")


def test_a_battle_goes_on_for_several_turns(browser: Browser, scripted: PageServer, arena: Arena) -> None:
    page = opened(browser, scripted)
    fight(page, "hello")
    assert page.run(f"{FOCUS}.id") == "verdict"
    page.press("/")
    assert page.run(f"{FOCUS}.id") == "prompt" and "before you vote" in page.run(f"{FOCUS}.placeholder")
    arena.refuse = 429
    page.type("hello again")
    page.press("Enter")
    page.wait("!document.getElementById('notice').hidden")
    assert page.run("document.getElementById('prompt').value") == "hello again" and page.count(".turn") == 1
    scripted.before = 1
    scripted.gate.clear()
    page.click("#notice button")
    page.wait("document.querySelectorAll('.reply.running').length === 2")
    page.run(f"{FOCUS}.blur()")
    page.press("1")
    assert not arena.votes, "there is no vote on half a reply of any turn"
    scripted.gate.set()
    page.wait(f"document.querySelectorAll('.turn').length === 2 && {VOTE}")
    asked = page.run("[...document.querySelectorAll('.turn .said')].map((one) => one.textContent)")
    assert asked == ["hello", "hello again"] and page.count(".reply") == 4
    assert page.text(".turn:nth-child(2) .reply > .markdown") == "Side a heard: hello again"
    top = "document.querySelector('.turn:nth-child(2)').getBoundingClientRect().top"
    assert abs(page.run(f"{top} - document.getElementById('log').getBoundingClientRect().top")) < 30, "it is in sight"
    page.run(f"{FOCUS}.blur()")
    page.press("2")
    page.wait(TOLD)
    whos = page.run("[...document.querySelectorAll('.reply .who')].map((one) => one.textContent)")
    assert whos == [f"A · {NAMES[0]}", f"B · {NAMES[1]}"] * 2 and page.count(".reply.won") == 2
    assert page.run("document.getElementById('ask').hidden"), "nothing can be asked after the vote"
    assert len(arena.battles) == len(arena.votes) == 1
    assert [error for error in page.errors if " 429 " not in error] == []


def test_a_reload_keeps_the_battle(browser: Browser, scripted: PageServer, arena: Arena) -> None:
    page = opened(browser, scripted)

    def again(wait: str) -> None:
        page.run("window.old = true; location.reload()")
        page.wait(f"!window.old && {READY} && {wait}")

    scripted.before = 1
    scripted.gate.clear()
    fight(page, "hello", "document.querySelectorAll('.reply.running').length === 2")
    again("document.querySelectorAll('.reply.running').length === 2")
    scripted.gate.set()
    page.wait(VOTE)
    fill(page, "#prompt", "hello again")
    page.press("Enter")
    page.wait(f"document.querySelectorAll('.turn').length === 2 && {VOTE}")
    page.responses.clear()
    again(f"document.querySelectorAll('.turn').length === 2 && {VOTE}")
    texts = page.run("[...document.querySelectorAll('.reply > .markdown')].map((one) => one.textContent)")
    assert texts == [f"Side {side} heard: {said}" for said in ("hello", "hello again") for side in "ab"]
    assert not any(one["response"]["url"].endswith(("/a", "/b")) for one in page.responses), "what is whole isn't read"
    assert not any(name in page.run("document.documentElement.outerHTML") for name in NAMES)
    page.run(f"{FOCUS}.blur()")
    page.press("3")
    page.wait(TOLD)
    again(TOLD)
    assert NAMES[0] in page.text("#outcome") and len(arena.votes) == 1
    page.press("n")
    page.wait("!document.getElementById('hello').hidden")
    again("!document.getElementById('hello').hidden")
    assert page.count(".turn") == 0 and len(arena.battles) == 1
    fight(page, "hello")
    arena.battles.clear()
    again("!document.getElementById('hello').hidden")
    assert page.run("document.getElementById('notice').hidden"), "a battle that is forgotten is no error"
    assert [error for error in page.errors if " 404 " not in error] == []


def test_the_leaderboard_without_style(browser: Browser, scripted: PageServer, arena: Arena) -> None:
    page = opened(browser, scripted, "#board")
    page.wait("document.querySelector('.bar')")
    first = page.run("document.querySelector('.bar').getAttribute('aria-label')")
    assert "11 voters for okapi-3b: 97% of 97 votes won, 42% expected" in page.text(".suspected")
    page.click(".styles button:nth-child(2)")
    page.wait("document.querySelector('.styles button:nth-child(2)[aria-pressed=true]')")
    assert page.run(f"{FOCUS}.textContent") == "Without style"
    label = page.run("document.querySelector('.bar').getAttribute('aria-label')")
    assert first == "1,062, between 1,044 and 1,080" and label == "1,031, between 1,001 and 1,061"
    assert "length ×1.5, headings ×1, bold ×0.9" in page.text("#board")
    page.click(".categories button:nth-child(3)")
    page.wait("document.querySelectorAll('.ratings tbody tr').length === 3")
    assert page.count(".styles button:nth-child(2)[aria-pressed=true]") == 1, "a category keeps the choice"
    assert page.errors == []


def test_nothing_names_the_models_before_the_vote(browser: Browser, scripted: PageServer, arena: Arena) -> None:
    page = opened(browser, scripted)
    page.responses.clear()
    page.run(LISTEN)
    fight(page, "markdown")
    nobody_named(page, NAMES)


def test_output_that_tries_to_be_html_stays_text(browser: Browser, scripted: PageServer, arena: Arena) -> None:
    page = opened(browser, scripted)
    fight(page, "hostile")
    assert page.run("window.broken ?? null") is None
    assert page.count(".reply :is(script, img, iframe, style, object, embed, form, base, link)") == 0
    assert "<script>window.broken = 1</script>" in page.text(".reply")
    names = "[...document.querySelectorAll('.reply *, .asked *')].flatMap((e) => e.getAttributeNames())"
    assert page.run(f"{names}.filter((name) => /^on/.test(name))") == []
    page.press("Escape")
    fight(page, "<img src=x onerror='window.broken = 1'>")
    assert page.count(".turn img") == 0 and page.text(".asked").startswith("<img") and page.errors == []


def test_consent_is_remembered_and_sent(browser: Browser, scripted: PageServer, arena: Arena) -> None:
    page = opened(browser, scripted)
    assert "pseudonym" in page.text("#agree") and not page.run("document.getElementById('consent').checked")
    page.run("document.getElementById('consent').focus()")
    page.press(" ")
    page.goto(f"{scripted.url}/arena.html?again", READY)
    assert page.run("document.getElementById('consent').checked")
    fight(page, "hello")
    page.press("3")
    page.wait(TOLD)
    assert arena.votes == [{"outcome": "tie", "consent": True}]


def test_what_goes_wrong_loses_nothing(browser: Browser, scripted: PageServer, arena: Arena) -> None:
    page = opened(browser, scripted)
    arena.refuse = 429
    fight(page, "hello there", "!document.getElementById('notice').hidden")
    assert "Try again in 7 s." in page.text("#notice")
    assert page.run("document.getElementById('prompt').value") == "hello there"
    arena.broken = True
    page.click("#notice button")
    page.wait("document.querySelector('.reply:nth-child(2) .fault:not([hidden])')")
    assert page.count(".vote[data-vote=a]:enabled") == 0, "half a reply can't be judged"
    page.click(".reply:nth-child(2) .fault button")
    page.wait(VOTE)
    assert page.text(".reply:nth-child(2) .markdown:not(.thoughts .markdown)") == "Side b heard: hello there"
    arena.refuse = 500
    page.press("1")
    page.wait("!document.getElementById('notice').hidden")
    page.click("#notice button")
    page.wait(TOLD)
    assert len(arena.votes) == 1 and page.run("document.getElementById('notice').hidden")


def test_skipping_stops_both_models(browser: Browser, scripted: PageServer, arena: Arena) -> None:
    page = opened(browser, scripted)
    scripted.pace = 0.01
    fight(page, "endless", "document.querySelectorAll('.reply > .markdown p').length === 2")
    page.press("Escape")
    page.wait(f"!document.getElementById('ask').hidden && {FOCUS}.id === 'prompt'")
    until(lambda: scripted.stopped == 2)
    assert page.count(".reply") == 0 and arena.votes == []


def test_the_leaderboard_says_how_sure_it_is(browser: Browser, scripted: PageServer, arena: Arena) -> None:
    page = opened(browser, scripted, "#board")
    page.wait("document.querySelector('.ratings tbody tr') && document.querySelector('.chart')")
    rows = page.run("[...document.querySelectorAll('.ratings tbody tr')].map((row) => row.textContent)")
    assert "no difference shown from zebra-7b" in rows[1] and "below tapir-1b" in rows[2] and "no votes yet" in rows[3]
    assert "95 % interval" in page.text("#board .soft") and "no difference" in page.text("#board .soft")
    labels = page.run(
        "[...document.querySelectorAll('.bar, .heat [role=img], .chart')].map((e) => e.getAttribute('aria-label'))"
    )
    assert "1,062, between 1,044 and 1,080" in labels
    assert "zebra-7b against okapi-3b: 75% of the points in 160 battles" in labels
    assert "tapir-1b against okapi-3b: no battle yet" in labels
    assert labels[-1].startswith("zebra-7b: 1,006 at first, now 1,060, between 1,041 and 1,079; tapir-1b: 1,041")
    assert page.count(".chart polyline") == page.count(".chart polygon") == page.count(".legend li") == 3
    bands = page.run(
        "[...document.querySelectorAll('.chart polygon')].map((band) => [...band.points].map((p) => [p.x, p.y]))"
    )
    for band in bands:
        upper, lower = band[: len(band) // 2], band[len(band) // 2 :][::-1]
        assert all(one[0] == other[0] and one[1] < other[1] for one, other in zip(upper, lower, strict=True))
    page.click(".categories button:nth-child(3)")
    page.wait("document.querySelectorAll('.ratings tbody tr').length === 3")
    assert page.run(f"{FOCUS}.textContent").startswith("Chinese"), "the focus stays with the category"
    assert "Three votes were set aside." in page.text("#board") and page.errors == []


def test_intervals_are_drawn_where_they_are(browser: Browser, scripted: PageServer, arena: Arena) -> None:
    page = opened(browser, scripted, "#board")
    page.wait("document.querySelector('.bar')")
    ends = page.run(
        "[...document.querySelectorAll('.bar')].map((bar) => { const r = bar.getBoundingClientRect();"
        " const span = bar.querySelector('.span'); return ['x1', 'x2'].map((x) => span[x].baseVal.value / r.width); })"
    )
    low, high = 941.2, 1080.4
    room = (high - low) * 0.05
    for (left, right), (rating, half) in zip(ends, [(1062.4, 18), (1041, 20), (961.2, 20)], strict=True):
        for found, value in ((left, rating - half), (right, rating + half)):
            assert found == pytest.approx((value - low + room) / (high - low + 2 * room), abs=1e-3)


def test_few_votes_draw_no_line(browser: Browser, scripted: PageServer, arena: Arena) -> None:
    arena.points = []
    page = opened(browser, scripted, "#board")
    page.wait("document.querySelector('.over-time').textContent.includes('once there have been more votes')")
    assert page.errors == []


def test_my_votes_are_erased_after_a_question(browser: Browser, scripted: PageServer, arena: Arena) -> None:
    page = opened(browser, scripted)
    fight(page, "hello")
    page.press("1")
    page.wait(TOLD)
    page.press("b", alt=True)
    page.wait("document.querySelector('#erase:enabled')")
    assert "voted 1 times" in page.text("#board")
    page.click("#erase")
    page.wait(OPEN)
    assert arena.votes
    page.click("dialog .danger")
    page.wait("document.querySelector('#erase:disabled')")
    assert arena.votes == [] and page.text("#said") == "Erased: 1 votes."


def test_a_server_without_an_arena_says_so(browser: Browser, scripted: PageServer) -> None:
    page = browser.page()
    page.goto(f"{scripted.url}/arena.html", "!document.getElementById('notice').hidden")
    assert "qwill serve MODEL MODEL --arena" in page.text("#notice")
    page.goto(f"{scripted.url}/", "document.querySelector('#stats strong')")
    assert page.run("document.getElementById('to-arena').hidden")
    scripted.arena = Arena()
    page.goto(f"{scripted.url}/?again", "!document.getElementById('to-arena').hidden")
    page.click("#to-arena")
    page.wait(f"location.pathname === '/arena.html' && {READY}")


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_everything_can_be_read(browser: Browser, scripted: PageServer, arena: Arena, dark: bool) -> None:
    page = opened(browser, scripted, dark=dark, still=False)
    bad = {found: state for state in tour(page, scripted) for found in check(page, "contrast()")}
    assert not bad, "\n".join(f"{state}: {found}" for found, state in bad.items())
    assert [error for error in page.errors if " 429 " not in error] == []


@pytest.mark.parametrize(("width", "language"), [(320, "en-US"), (390, "zh-CN")])
def test_a_phone_shows_all_of_it(
    browser: Browser, scripted: PageServer, arena: Arena, width: int, language: str
) -> None:
    page = opened(browser, scripted, width=width, height=700, languages=language)
    bad = {}
    for state in tour(page, scripted):
        bad |= dict.fromkeys(check(page, f"outside({width})") + check(page, "small()"), state)
        if state == "vote":
            tops = page.run(
                "[...document.querySelectorAll('.reply')].map((reply) => reply.getBoundingClientRect().top)"
            )
            assert tops[0] < tops[1], "one above the other"
    assert not bad, "\n".join(f"{state}: {found}" for found, state in bad.items())


def test_no_word_of_the_other_language_is_left(browser: Browser, scripted: PageServer, arena: Arena) -> None:
    page = opened(browser, scripted, languages="zh-CN")
    chinese = {state: plain(check(page, "words()")) for state in tour(page, scripted)}
    arena.votes.clear()
    page = opened(browser, scripted)
    page.run("document.activeElement.blur()")
    same = {"Qwill", "A", "B", "–", "0", "0%", "zebra-0b", "tapir-0b", "okapi-0b"}
    same |= {"new-model-with-a-long-name-0b-instruct"}
    same |= {"English", "中文"}  # the button that changes languages, and a category
    same |= {f"{side} · {name}" for side in "AB" for name in ("zebra-0b", "okapi-0b")}
    for state in tour(page, scripted):
        english = plain(check(page, "words()"))
        assert english & chinese[state] <= same, (state, english & chinese[state] - same)
        assert {text for text in english if HAN.search(text)} == {"中文", "切换到中文"}, state
        left = {text for text in chinese[state] if not HAN.search(text) and "→" not in text} - same
        assert left <= {"English", "Switch to English"}, (state, left)
        if not page.run(OPEN) and state != "refused":
            page.press("l", alt=True)
            page.wait("document.documentElement.lang === 'zh-CN'")
            assert plain(check(page, "words()")) == chinese[state], state
            page.press("l", alt=True)
            page.wait("document.documentElement.lang === 'en'")


def test_tab_goes_from_top_to_bottom(browser: Browser, scripted: PageServer, arena: Arena) -> None:
    page = opened(browser, scripted)
    for state in tour(page, scripted):
        if state not in ("ask", "vote", "names", "leaderboard"):
            continue
        before = page.run(f"{FOCUS}.id")
        page.run(f"{FOCUS}.blur()")
        page.run("document.querySelector('.skip').focus()")
        wanted = [number for number, _ in check(page, "controls()")]
        reached = [check(page, "focused()")["number"]]
        for _ in range(len(wanted) - 1):
            page.press("Tab")
            reached.append((check(page, "focused()") or {}).get("number"))
        assert reached == wanted, state
        if before:
            page.run(f"document.getElementById('{before}')?.focus()")


def test_who_wants_no_motion_sees_none(browser: Browser, scripted: PageServer, arena: Arena) -> None:
    for still, moving in ((True, 0), (False, 6)):
        page = opened(browser, scripted, still=still)
        scripted.before = 0
        scripted.gate.clear()
        fight(page, "hello", "document.querySelectorAll('.reply.running').length === 2")
        assert page.run("document.getAnimations().length") == moving
        scripted.gate.set()
        page.wait(VOTE)
