from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwill.data.documents import Document, Reject
from qwill.data.funnel import STEPS, Funnel

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
        made.append(Document(f"{i}", source, "r", language, text, size, repaired=True, reject=reject))
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
    funnel = Funnel()
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
    funnel = Funnel()
    funnel.read(document)
    with pytest.raises(AssertionError):
        funnel.close([])
    with pytest.raises(AssertionError):
        funnel.close([document, document])


@given(st.permutations(range(12)), st.integers(1, 3))
def test_the_sample_of_rejects_does_not_depend_on_their_order(order: list[int], each: int) -> None:
    texts = ["one", "two", "three", "four"]
    rejects = [Document(str(i), "a", "r", "en", texts[i % 4], 3, reject=Reject("quality", "x", 0.5)) for i in range(12)]
    funnel = Funnel()
    for i in order:
        funnel.drop(rejects[i])
    shown = funnel.sample(each)
    first = Funnel()
    for document in rejects:
        first.drop(document)
    assert shown == first.sample(each)
    assert len(shown) == each
    assert len({row["text"] for row in shown}) == each
