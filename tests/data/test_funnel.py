import json
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwill.data.documents import Document, Reject
from qwill.data.funnel import STEPS, Account
from qwill.data.sampling import by_hash

# What happens to a document: dropped by a step (or by none), repaired or not.
fates = st.lists(
    st.tuples(
        st.sampled_from(["a", "b"]),
        st.sampled_from(["en", "zh", "other"]),
        st.text(st.characters(codec="utf-8"), max_size=12),
        st.integers(0, 30),
        st.sampled_from([None, *STEPS]),
        st.sampled_from(["one reason", "another"]),
    )
)


def documents(rows: list[tuple[str, str, str, int, str | None, str]]) -> list[Document]:
    made = []
    for i, (source, language, text, raw, step, reason) in enumerate(rows):
        size = len(text.encode()) if step == "unreadable" else raw
        reject = Reject(step, reason, 1.0) if step else None
        changed = {} if step == "unreadable" else {"repair": len(text.encode()) - size}
        made.append(Document(f"{i}", source, "r", language, text, size, changed=changed, reject=reject))
    return made


def balanced(steps: list[dict[str, Any]]) -> None:
    for before, after in pairwise(steps):
        assert before["documents"] == after["documents"] + after["dropped_documents"]
        assert before["bytes"] + after.get("added_bytes", 0) == after["bytes"] + after["dropped_bytes"]
        assert after["dropped_documents"] == sum(after["reasons"].values())
        assert after["dropped_bytes"] == sum(after["reason_bytes"].values())


@given(fates)
def test_every_document_and_byte_is_accounted_for(rows) -> None:
    all_documents = documents(rows)
    funnel = Account()
    for document in all_documents:
        late = document.reject is not None and document.reject.step not in ("unreadable", "repair", "language")
        reject, document.reject = document.reject, None if late else document.reject
        funnel.read(document)
        if late:
            document.reject = reject
            funnel.drop(document)
    kept = [document for document in all_documents if document.reject is None]
    account = funnel.close(kept)
    for steps in [*account["languages"].values(), *(s for c in account["sources"].values() for s in c.values())]:
        balanced(steps)
    for code, steps in account["languages"].items():
        mine = [d for d in all_documents if d.language == code]
        assert (steps[0]["documents"], steps[0]["bytes"]) == (len(mine), sum(d.raw_bytes for d in mine))
        out = [d for d in mine if d.reject is None]
        assert (steps[-1]["documents"], steps[-1]["bytes"]) == (len(out), sum(d.bytes for d in out))
    for i in range(len(STEPS) + 1):
        for what in ("documents", "bytes"):
            by_language = sum(steps[i][what] for steps in account["languages"].values())
            by_source = sum(s[i][what] for columns in account["sources"].values() for s in columns.values())
            assert by_language == by_source


def test_an_account_that_does_not_add_up_is_a_bug() -> None:
    document = Document("1", "a", "r", "en", "text", 4)
    funnel = Account()
    funnel.read(document)
    with pytest.raises(AssertionError):
        funnel.close([])
    with pytest.raises(AssertionError):
        funnel.close([document, document])


@given(fates, st.lists(st.integers(0, 2), max_size=40))
def test_accounts_add_up_in_any_grouping(rows, groups) -> None:
    """Three parts, written as JSON and read back, merged in two orders, give the account of all."""
    steps = ("extract", *STEPS)

    def told(documents: list[Document]) -> Account:
        account = Account(steps, each=2)
        for document in documents:
            if document.changed:
                document = replace(document, changed={"extract": -5, "repair": document.changed["repair"] + 5})
            account.read(document)
            if document.reject is None:
                # What is cut after the document has been read counts as a change of its own.
                account.change(document, "near_duplicates", -len(document.text[:1].encode()))
                account.keep(replace(document, text=document.text[1:]))
        return account

    everything = documents(rows)
    parts: list[list[Document]] = [[], [], []]
    for i, document in enumerate(everything):
        parts[groups[i] if i < len(groups) else 0].append(document)
    whole = told(everything)
    a, b, c = (Account.from_json(json.loads(json.dumps(told(part).to_json()))) for part in parts)
    b.merge(c)
    a.merge(b)
    assert json.dumps(a.to_json()) == json.dumps(whole.to_json())
    x, y, z = (told(part) for part in parts)
    z.merge(x)
    z.merge(y)
    account = whole.close()
    assert z.close() == a.close() == account
    assert z.sample() == whole.sample()
    for column in account["columns"]:
        balanced(column["steps"])
    for i in range(len(steps) + 1):
        sums = {sum(s[i]["bytes"] for c in account[by].values() for s in c.values()) for by in ("registers", "sources")}
        assert sums == {sum(column["steps"][i]["bytes"] for column in account["columns"])}


def test_what_is_not_a_step_is_a_bug() -> None:
    document = Document("1", "a", "r", "en", "text", 4, reject=Reject("gopher", "x", 1.0))
    for wrong in (lambda: Account().read(document), lambda: Account().change(document, "extract", 1)):
        with pytest.raises(AssertionError):
            wrong()
    with pytest.raises(AssertionError):
        Account(("a",)).merge(Account(("b",)))


@given(st.permutations(range(12)), st.integers(1, 3), st.integers(0, 12))
def test_the_sample_of_rejects_does_not_depend_on_order_or_division(order: list[int], each: int, cut: int) -> None:
    texts = ["one", "two", "three", "four"]
    rejects = [Document(str(i), "a", "r", "en", texts[i % 4], 3, reject=Reject("quality", "x", 0.5)) for i in range(12)]
    parts = Account(each=each), Account(each=each)
    for place, i in enumerate(order):
        parts[place < cut].drop(rejects[i])
    parts[0].merge(parts[1])
    shown = parts[0].sample()
    first = Account(each=each)
    for document in rejects:
        first.drop(document)
    assert shown == first.sample()
    assert len(shown) == each
    assert len({row["text"] for row in shown}) == each
    lowest = {min(by_hash(d.id) for d in rejects if d.text == text) for text in texts}
    assert [by_hash(row["id"]) for row in shown] == sorted(lowest)[:each]


def test_a_sampled_reject_can_be_written_whatever_it_holds() -> None:
    account = Account()
    account.read(Document("1", "a", "r", "en", "a\ud800b" + "c" * 700, 706, reject=Reject("quality", "x", 0.5)))
    (row,) = account.sample()
    assert json.dumps(row, ensure_ascii=False).encode()
    assert row["text"] == "a?b" + "c" * 597
