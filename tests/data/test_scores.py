"""Histograms and samples against plain counting over all documents."""

import json
import math
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from qwill.data.documents import Document, Reject
from qwill.data.rules import Rule
from qwill.data.scores import CLASSES, Limit, Scores, limits_of

LIMITS = {
    ("en", "web"): {
        "a.low": Limit(0.8, step="a"),
        "a.both": Limit(-1.0, 3.0, "a"),
        "b.high": Limit(most=0.1, step="b"),
        "free": Limit(),
    },
    ("zh", "web"): {"a.low": Limit(least=5.0, step="a"), "b.high": Limit(most=0.0, step="b")},
}
special = st.sampled_from([0.0, -0.0, 0.1, 0.8, 3.0, -1.0, 5.0, math.nextafter(0.1, 1), 0.0999, 1e9, -2.5, 4.0, 1e-300])
values = st.one_of(special, st.floats(allow_nan=True, allow_infinity=True), st.floats(-6, 6))
rows = st.lists(
    st.tuples(
        st.sampled_from(["en", "zh", "other"]),
        st.fixed_dictionaries({}, optional={name: values for name in ("a.low", "a.both", "b.high", "free", "more")}),
        st.sampled_from(["first", "second", "third"]),
        st.sampled_from([None, None, None, "language"]),
    ),
    max_size=25,
)


def outside(value: float, limit: Limit) -> bool:
    low = limit.least is not None and value < limit.least
    return low or (limit.most is not None and value > limit.most)


def judged(data: list[Any]) -> list[Document]:
    """Dropped by the first limit that fails, in order of name, or by another step."""
    made = []
    for i, (language, scores, text, other) in enumerate(data):
        limits = LIMITS.get((language, "web"), {})
        failing = [n for n in sorted(limits) if n in scores and outside(scores[n], limits[n])]
        reject = Reject(failing[0].split(".")[0], failing[0], 0.0) if failing else None
        reject = Reject(other, "no language", 0.0) if other else reject
        made.append(
            Document(f"s/{i}", "s", "web", language, text, 9 + i, scores=scores, reject=reject, changed={"repair": -i})
        )
    return made


def counted(documents: list[Document], near: int = 2) -> Scores:
    scores = Scores(LIMITS, sample=3, near=near)
    scores.add(documents)
    return scores


def expected_class(document: Document, limits: dict[str, Limit], name: str) -> int:
    if document.reject is None:
        return 0
    failing = [n for n in limits if n in document.scores and outside(document.scores[n], limits[n])]
    return 1 if failing == [name] and document.reject.step == name.split(".")[0] else 2


@given(rows)
@settings(max_examples=200)
def test_cells_say_exactly_what_any_threshold_at_their_edges_drops(data: list[Any]) -> None:
    documents = judged(data)
    for part, name, cells in counted(documents).cells():
        limits = LIMITS[part] | {"more": Limit()} | {"free": Limit(), "a.both": LIMITS[part].get("a.both", Limit())}
        mine = [d for d in documents if d.language == part[0] and not math.isnan(d.scores.get(name, math.nan))]
        starts = [cell.start for cell in cells]
        assert starts == sorted(set(starts))
        least, most = limits[name].least, limits[name].most
        bounds = [least, None if most is None else math.nextafter(most, math.inf)]
        edges = starts + [bound for bound in bounds if bound is not None]
        for edge in edges:
            for kind in range(len(CLASSES)):
                under = [d for d in mine if d.scores[name] < edge and expected_class(d, limits, name) == kind]
                found = [c for c in cells if c.start < edge]
                assert sum(c.documents[kind] for c in found) == len(under)
                assert sum(c.bytes[kind] for c in found) == 9 * len(under)
        if most is not None:
            over = sum(sum(c.documents) for c in cells if c.start > most)
            assert over == sum(d.scores[name] > most for d in mine)
    got = {(part, name) for part, name, _ in counted(documents).cells()}
    assert got == {
        ((d.language, "web"), name)
        for d in documents
        for name, value in d.scores.items()
        if d.language != "other" and not math.isnan(value)
    }


@given(rows, st.lists(st.integers(0, 3), max_size=25), st.randoms())
def test_parts_add_up_to_the_whole_in_any_grouping(data: list[Any], groups: list[int], shuffle: Any) -> None:
    documents = judged(data)
    parts: list[list[Document]] = [[], [], [], []]
    for i, document in enumerate(documents):
        parts[groups[i] if i < len(groups) else 0].append(document)
    for part in parts:
        shuffle.shuffle(part)
    shuffle.shuffle(parts)
    a, b, c, d = (Scores.from_json(json.loads(json.dumps(counted(part).to_json()))) for part in parts)
    b.merge(c)
    a.merge(b)
    a.merge(d)
    assert json.dumps(a.to_json()) == json.dumps(counted(documents).to_json())


@given(rows)
def test_the_documents_nearest_to_a_threshold_are_shown_on_their_sides(data: list[Any]) -> None:
    documents = judged(data)
    found = {(part, name, bound, side): shown for part, name, bound, side, shown in counted(documents, 50).near()}
    for (part, name, bound, side), shown in found.items():
        limit = LIMITS[part][name]
        threshold = limit.least if bound == "least" else limit.most
        assert threshold is not None
        distances = [abs(row["value"] - threshold) for row in shown]
        assert distances == sorted(distances)
        assert len({row["text"] for row in shown}) == len(shown)
        for row in shown:
            beyond = row["value"] < threshold if bound == "least" else row["value"] > threshold
            assert beyond == (side == "dropped")
            assert (row["step"] == "") == (side == "kept")
    for document in documents:
        for name, limit in LIMITS.get((document.language, "web"), {}).items():
            value = document.scores.get(name, math.nan)
            if limit.most is not None and value > limit.most:
                shown = found[(document.language, "web"), name, "most", "dropped"]
                nearest = min(row["value"] for row in shown if row["text"] == document.text)
                assert nearest <= value


def test_the_sample_is_the_lowest_hashes_with_all_values() -> None:
    scores = [{"a.low": 0.9, "a.both": i / 7, "b.high": 0.0, "free": math.inf} for i in range(9)]
    documents = [Document(str(i), "s", "web", "en", f"text {i}", 9, scores=own) for i, own in enumerate(scores)]
    sample = [row for _, row in counted(documents).sample()]
    assert len(sample) == 3
    for row in sample:
        both = float(f"{int(row['id']) / 7:.6g}")
        assert row["values"] == {"a.low": 0.9, "a.both": both, "b.high": 0.0, "free": None}
    again = [row for _, row in counted(documents[::-1]).sample()]
    assert again == sample


def test_rules_become_limits_and_conditions_stay() -> None:
    """A document fails a limit exactly when one of its rules fails."""
    rules = [
        Rule("short", "units", True, 5, "min"),
        Rule("long", "units", False, 50, "max"),
        Rule("dup", "dup", False, 0.3, "a", ("units", 0, 20)),
        Rule("dup", "dup", False, 0.1, "b", ("units", 20, math.inf)),
        Rule("ended", "ended", True, 0.5, "c", ("units", 10, 30)),
    ]
    limits = limits_of({"f": rules})
    assert sorted(limits) == ["f.dup (units < 20)", "f.dup (units >= 20)", "f.ended", "f.units"]
    assert (limits["f.units"].least, limits["f.units"].most) == (5, 50)
    for units in (3, 5, 10, 19, 20, 30, 51):
        for dup in (0.05, 0.2, 0.4):
            for ended in (0.4, 0.5):
                values = {"units": units, "dup": dup, "ended": ended}
                scores = {f"f.{name}": value for name, value in values.items()}
                failing = {f"f.{rule.value}" for rule in rules if rule.fails(values)}
                assert failing == {
                    limit.of or name for name, limit in limits.items() if outside(limit.value(name, scores), limit)
                }
    scores_of = Scores({("en", "web"): limits})
    scores_of.add([Document("1", "s", "web", "en", "x", 1, scores={"f.units": 12, "f.dup": 0.2, "f.ended": 1, "g": 2})])
    assert [name for _, name, _ in scores_of.cells()] == ["f.dup (units < 20)", "f.ended", "f.units", "g"]
    assert Scores.from_json(json.loads(json.dumps(scores_of.to_json()))).limits == scores_of.limits
