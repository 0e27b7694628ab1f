import json
import re
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.base.databases import KINDS, database

from qwill.base import state_rows
from qwill.base.errors import DataError
from qwill.base.state import State, close_state, open_state, reading
from qwill.base.state_rows import changes
from qwill.data.conversation import problem
from qwill.serve.conversations import (
    add_message,
    change_conversation,
    conversations,
    delete_conversation,
    export_all,
    export_conversation,
    list_conversations,
    messages,
    new_conversation,
    read_conversation,
)

ME = "local"


@pytest.fixture(params=KINDS)
def state(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[State]:
    databases = database(request.param, tmp_path)
    opened = open_state(next(databases))
    yield opened
    close_state(opened)
    next(databases, None)


def said(state: State, identity: str, role: str, text: str, *parents: str, **more: Any) -> str:
    added = add_message(state, ME, identity, role, {"content": text}, parents, **more)
    assert added is not None
    return str(added["id"])


def titles(state: State, search: str = "", tenant: str = ME) -> list[str]:
    listed, more = list_conversations(state, tenant, search)
    assert not more
    return [one["title"] for one in listed]


def texts(exported: list[dict[str, Any]] | None) -> list[list[str]]:
    assert exported is not None
    return [[message["content"] for message in line["messages"]] for line in exported]


def test_what_was_said_is_read_back_with_every_branch(state: State) -> None:
    made = new_conversation(state, ME, "Plants", {"system": "Be brief.", "temperature": 0.5})
    one = made["id"]
    question = said(state, one, "user", "什么是光合作用？")
    reply = add_message(
        state, ME, one, "assistant", {"content": "It…", "reasoning": "Hm.", "tool_calls": [{"id": "c"}]}, [question],
        model="qwen", details={"lane": 0, "usage": {"completion_tokens": 3}},
    )  # fmt: skip
    edited = said(state, one, "user", "What is photosynthesis?")
    assert reply is not None
    whole = read_conversation(state, ME, one)
    assert whole is not None
    assert (whole["title"], whole["settings"]) == ("Plants", {"system": "Be brief.", "temperature": 0.5})
    assert [m["id"] for m in whole["messages"]] == [question, reply["id"], edited]
    assert whole["messages"][1] == reply
    assert reply["parents"] == [question] and reply["reasoning"] == "Hm." and reply["details"]["lane"] == 0
    assert whole["updated_at"] >= reply["created_at"] >= whole["created_at"]


def test_a_tenant_neither_sees_nor_changes_what_is_anothers(state: State) -> None:
    one = new_conversation(state, ME, "Mine", {})["id"]
    question = said(state, one, "user", "secret")
    other = new_conversation(state, "other", "Theirs", {})["id"]
    assert titles(state) == ["Mine"] and titles(state, tenant="other") == ["Theirs"]
    assert titles(state, "secret", "other") == []
    assert read_conversation(state, "other", one) is None
    assert change_conversation(state, "other", one, "Taken") is None
    assert add_message(state, "other", one, "user", {"content": "x"}) is None
    assert export_conversation(state, "other", one) is None
    assert not delete_conversation(state, "other", one)
    assert list(export_all(state, "other")) == []
    with pytest.raises(DataError, match="parents"):
        add_message(state, "other", other, "user", {"content": "x"}, [question])
    with pytest.raises(DataError, match="before"):
        list_conversations(state, "other", before=one)
    assert titles(state) == ["Mine"]


def test_deleting_leaves_tombstones_without_a_word_of_it(state: State) -> None:
    one = new_conversation(state, ME, "Mysterious", {"system": "Whispering"})["id"]
    reply = said(state, one, "assistant", "Confidential", said(state, one, "user", "Discreet"), model="Hushed")
    kept = new_conversation(state, ME, "Kept", {})["id"]
    assert delete_conversation(state, ME, one) and not delete_conversation(state, ME, one)
    assert read_conversation(state, ME, one) is None and titles(state) == ["Kept"]
    assert add_message(state, ME, one, "user", {"content": "x"}) is None
    with pytest.raises(DataError, match="parents"):
        add_message(state, ME, kept, "user", {"content": "x"}, [reply])
    other = new_conversation(state, ME, "Other", {})["id"]
    with pytest.raises(DataError, match="parents"):  # nor is a message of another conversation a parent
        add_message(state, ME, kept, "user", {"content": "x"}, [said(state, other, "user", "x")])
    assert delete_conversation(state, ME, other)
    with reading(state) as connection:
        tombstones = [*connection.execute(conversations.select()), *connection.execute(messages.select())]
        assert sum(row.deleted is not None for row in tombstones) == 5 and len(tombstones) == 6
        everything = repr(tombstones) + repr(changes(connection))
    for word in ("Mysterious", "Whispering", "Confidential", "Discreet", "Hushed", "mysterious", "discreet"):
        assert word not in everything
    if state.engine.dialect.name == "sqlite":
        file = Path(str(state.engine.url.database))
        with state.engine.connect() as connection:  # the log's old pages go when it is written back
            connection.connection.driver_connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")  # type: ignore
        stored = b"".join(path.read_bytes() for path in file.parent.iterdir())
        assert b"Kept" in stored and b"Confidential" not in stored and b"Whispering" not in stored


def test_each_branch_is_exported_as_fine_tuning_reads_it(state: State) -> None:
    one = new_conversation(state, ME, "T", {"system": "Be brief."})["id"]
    question = said(state, one, "user", "q1")
    said(state, one, "assistant", "a1", question)
    again = said(state, one, "assistant", "a1 again", question)
    said(state, one, "assistant", "a2", said(state, one, "user", "q2", again))
    edited = said(state, one, "user", "q1 edited")
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": '{"x": [1]}'}}
    called = add_message(
        state, ME, one, "assistant", {"content": None, "reasoning": "Hm.", "tool_calls": [call]}, [edited]
    )
    assert called is not None
    result = add_message(state, ME, one, "tool", {"content": "2", "tool_call_id": "c"}, [called["id"]])
    assert result is not None
    last = said(state, one, "assistant", "It is 2.", result["id"])
    exported = export_conversation(state, ME, one)
    assert texts(exported) == [
        ["Be brief.", "q1", "a1"], ["Be brief.", "q1", "a1 again", "q2", "a2"],
        ["Be brief.", "q1 edited", "", "2", "It is 2."],
    ]  # fmt: skip
    assert exported is not None and [problem(line["messages"]) for line in exported] == [None] * 3
    assert exported[2]["messages"][2]["tool_calls"][0]["function"]["arguments"] == {"x": [1]}
    assert exported[2]["messages"][2]["reasoning_content"] == "Hm."
    assert exported[2]["messages"][3]["tool_call_id"] == "c"
    assert export_conversation(state, ME, one, last) == exported[2:]
    assert texts(export_conversation(state, ME, one, again)) == [["Be brief.", "q1", "a1 again"]]
    with pytest.raises(DataError, match="leaf"):
        export_conversation(state, ME, one, one)
    assert list(export_all(state, ME)) == exported


def test_two_models_side_by_side_are_exported_each_with_its_own_replies(state: State) -> None:
    one = new_conversation(state, ME, "T", {})["id"]
    question = said(state, one, "user", "q1")
    left = said(state, one, "assistant", "left 1", question, model="same", details={"lane": 0})
    right = said(state, one, "assistant", "right 1", question, model="same", details={"lane": 1})
    more = said(state, one, "user", "q2", left, right)
    said(state, one, "assistant", "left 2", more, model="same", details={"lane": 0})
    said(state, one, "assistant", "right 2", more, model="same", details={"lane": 1})
    assert texts(export_conversation(state, ME, one)) == [
        ["q1", "left 1", "q2", "left 2"], ["q1", "right 1", "q2", "right 2"],
    ]  # fmt: skip


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.integers(0, 2), min_size=1, max_size=12), st.integers(1, 4), st.data())
def test_pages_of_the_list_are_the_list(state: State, touched: list[int], limit: int, data: st.DataObject) -> None:
    """Latest change first, with times that are often the same; each conversation on exactly one page."""
    tenant = f"tenant {state_rows.uuid7()}"
    made: list[str] = []
    for what in touched:
        if what == 0 or not made:
            made.append(new_conversation(state, tenant, "T", {})["id"])
        else:
            one = data.draw(st.sampled_from(made))
            change_conversation(state, tenant, one, settings={"n": what})
    whole, more = list_conversations(state, tenant, limit=200)
    assert not more and sorted(one["id"] for one in whole) == sorted(made)
    assert [(-one["updated_at"], one["id"]) for one in whole] == [
        (-one["updated_at"], one["id"])
        for one in sorted(whole, key=lambda one: (one["updated_at"], one["id"]), reverse=True)
    ]
    paged: list[dict[str, Any]] = []
    more = True
    while more:
        page, more = list_conversations(state, tenant, limit=limit, before=paged[-1]["id"] if paged else None)
        assert page and len(page) <= limit
        paged += page
    assert paged == whole


WORDS = st.sampled_from(
    ["Straße", "STRASSE", "100%", "a_b", "光合作用", "光合", "ＡＢＣ", "abc", "\\", "İ", "x", "100x", "axb"]
)


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.tuples(WORDS, st.lists(WORDS, max_size=3)), min_size=1, max_size=3),
    st.lists(WORDS | st.text(max_size=2), max_size=9),
)
def test_search_finds_each_word_in_the_title_or_a_message(
    state: State, made: list[tuple[str, list[str]]], words: list[str]
) -> None:
    def folded(text: str) -> str:
        return unicodedata.normalize("NFKC", re.sub("[\0\ud800-\udfff]", "\ufffd", text)).casefold()

    tenant, search = f"tenant {state_rows.uuid7()}", " ".join(words)
    expected = set()
    for title, contents in made:
        one = new_conversation(state, tenant, title, {})["id"]
        for content in contents:
            add_message(state, tenant, one, "user", {"content": content})
        if all(any(word in folded(text) for text in [title, *contents]) for word in folded(search).split()[:8]):
            expected.add(one)
    listed, _ = list_conversations(state, tenant, search)
    assert {one["id"] for one in listed} == expected
    for one in listed:
        if one.get("snippet"):
            assert any(word in folded(one["snippet"]) for word in folded(search).split())


@pytest.mark.parametrize(("search", "title"), [("100%", "100 of"), ("a_b", "axb")])
def test_signs_of_patterns_stand_for_themselves(state: State, search: str, title: str) -> None:
    said(state, new_conversation(state, ME, title, {})["id"], "user", title)
    assert titles(state, search) == []
    new_conversation(state, ME, f"{search}!", {})
    assert titles(state, search) == [f"{search}!"]


def test_a_snippet_shows_what_stands_around(state: State) -> None:
    one = new_conversation(state, ME, "T", {})["id"]
    said(state, one, "user", "word " * 40 + "Needle in\nthe hay " + "word " * 40)
    (found,), _ = list_conversations(state, ME, "needle")
    assert found["snippet"].startswith("…") and found["snippet"].endswith("…")
    assert "word Needle in the hay word" in found["snippet"] and len(found["snippet"]) < 100
    (found,), _ = list_conversations(state, ME, "t")
    assert found["snippet"] is None or "t" in found["snippet"]


@pytest.mark.parametrize("text", ["a\0b", "\ud800", "😀\u2028", "\x1b[31m"])
def test_odd_characters_are_kept_or_replaced_and_break_nothing(state: State, text: str) -> None:
    kept = text.replace("\0", "\ufffd").replace("\ud800", "\ufffd")
    one = new_conversation(state, ME, text, {})
    assert one["title"] == kept
    if "\ud800" in text:
        with pytest.raises(DataError, match="surrogate"):
            add_message(state, ME, one["id"], "user", {"content": text})
    else:
        said(state, one["id"], "user", text, model=text)
        whole = read_conversation(state, ME, one["id"])
        assert whole is not None and whole["messages"][0]["content"] == text and whole["messages"][0]["model"] == kept
    assert titles(state, "b" if "b" in text else "") == [kept]


def deep(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.parametrize(
    "value", [float("nan"), float("inf"), "x" * 300_000, "\udfff", pytest.param(deep(100_000), id="deep")]
)
def test_what_json_or_the_database_cannot_hold_is_refused_by_name(state: State, value: Any) -> None:
    with pytest.raises(DataError, match="settings: "):
        new_conversation(state, ME, "T", {"value": value})
    one = new_conversation(state, ME, "T", {})["id"]
    with pytest.raises(DataError, match="details: "):
        add_message(state, ME, one, "user", {"content": "x"}, details={"value": value})
    with pytest.raises(DataError, match=r"the message: .*2,097,152"):
        add_message(state, ME, one, "user", {"content": "x" * (2 << 20)})
    with pytest.raises(DataError, match="title: 501"):
        change_conversation(state, ME, one, "x" * 501)
    with pytest.raises(DataError, match="search: 201"):
        list_conversations(state, ME, "x" * 201)
    assert read_conversation(state, ME, one)["messages"] == []  # type: ignore[index]


def test_exports_are_json(state: State) -> None:
    one = new_conversation(state, ME, "T", {"system": 5})["id"]  # the page's own object: anything may stand there
    broken = [{"function": {"name": "f", "arguments": "{"}}, {"function": 3}, {}]
    add_message(state, ME, one, "assistant", {"content": "x", "tool_calls": broken})
    exported = export_conversation(state, ME, one)
    assert exported == [{"messages": [{"role": "assistant", "content": "x", "tool_calls": broken}]}]
    assert json.loads(json.dumps(exported)) == exported
