import io
import json
import zipfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwill.base.errors import DataError
from qwill.data import readers
from qwill.data.records import Bad, Raw, bad, raw


def zipped(text: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("dictionary.txt", text)
    return buffer.getvalue()


@given(st.text(), st.integers(0, 300))
def test_a_wrong_byte_is_named_with_its_offset(text: str, place: int) -> None:
    good = text.encode("utf-8", "ignore")
    assert readers.decode(good, "f") == good.decode("utf-8-sig")
    broken = b"".join(c.encode("utf-8", "ignore") for c in text[:place])
    with pytest.raises(DataError, match=rf"notes\.txt is not UTF-8: byte {len(broken)} is 0xff"):
        readers.decode(broken + b"\xff" + good, "notes.txt")


def test_a_byte_order_mark_is_dropped_and_counted_in_offsets() -> None:
    assert readers.decode(b"\xef\xbb\xbfab", "f") == "ab"
    with pytest.raises(DataError, match="byte 4 is 0xc3"):
        readers.decode(b"\xef\xbb\xbfa\xc3", "f")


@given(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\n\r"))))
def test_lines_end_at_line_feeds_only_and_keep_their_numbers(texts: list[str]) -> None:
    found = list(readers.read_lines("\r\n".join(texts).encode(), "f"))
    want = [raw(i, text) for i, text in enumerate(texts, start=1) if text.strip()]
    # A byte-order mark in front of the first line belongs to the file and not to the text.
    if texts and texts[0].startswith("\ufeff"):
        want = [raw(i, text.removeprefix("\ufeff") if i == 1 else text) for i, text in enumerate(texts, start=1)]
        want = [r for r in want if r.text.strip()]
    assert found == want


def test_json_lines_with_bad_records_are_read_on_and_each_is_named() -> None:
    data = b'{"text": "one"}\n\n{"text": 2}\n{"body": "x"}\n[1]\n{"text": "cut\n{"text": "two"}'
    found = list(readers.read_json_field(data, "f", "text"))
    assert [item for item in found if isinstance(item, Raw)] == [raw(1, "one"), raw(7, "two")]
    reasons = {int(item.record): item.reason for item in found if isinstance(item, Bad)}
    assert reasons.keys() == {3, 4, 5, 6}
    assert reasons[3] == "field 'text' is a int, not text"
    assert reasons[4] == "field 'text' is missing"
    assert reasons[5] == "a JSON list, not an object"
    assert reasons[6].startswith("not JSON")


def test_passages_lose_the_traces_of_their_questions() -> None:
    rows = [{"passage": "He said ``no'' twice. CANNOTANSWER"}, {"passage": "Plain."}]
    data = "\n".join(map(json.dumps, rows)).encode()
    assert list(readers.read_passages(data, "f")) == [raw(1, 'He said "no" twice.'), raw(2, "Plain.")]


def test_paragraphs_that_ran_together_are_parted() -> None:
    text = "It is old.Humans lived there (in caves).They left.Then e.g. node.js and 3.5 km at 5 p.m. in U.S.A. came."
    (raw,) = readers.read_wiki_demo(text.encode(), "f")
    assert isinstance(raw, Raw)
    assert raw.text.split("\n")[:3] == ["It is old.", "Humans lived there (in caves).", "They left."]
    assert raw.text.replace("\n", "") == text


def test_dictionary_entries_become_readable_documents() -> None:
    entry = "晨光\t1.曙光﹐阳光。｜～很美。\r\n晨星\t1.星。2.比喻少。\r\n晨星\t1.星。2.比喻少。\r\n只有词\r\n"
    documents = list(readers.read_words(zipped(entry), "f"))
    assert documents == [
        bad(4, "1 columns or an empty one, 2 expected", "只有词"),
        raw(1, "晨光：曙光，阳光。；晨光很美。\n晨星：1.星。2.比喻少。"),
    ]
    many = "".join(f"词{i}\t{'很长的解释' * 10}。\n" for i in range(20))
    lengths = [len(item.text) for item in readers.read_words(zipped(many), "f") if isinstance(item, Raw)]
    assert len(lengths) > 1
    assert all(readers.ENTRY_CHARACTERS <= n < readers.ENTRY_CHARACTERS + 70 for n in lengths[:-1])


def test_a_character_has_a_line_for_each_reading() -> None:
    row = "丁\t一\t0\t1\t一\t丁\tSGH\t[dīng]1.天干的第四位。2.人口：人~。[zhēng]1.伐木声。\r\n"
    row += "坏\t一\t0\t1\t一\t丁\tS\t无音\r\n"
    assert list(readers.read_characters(zipped(row), "f")) == [
        bad(2, "gloss does not begin with a reading in brackets", "无音"),
        raw(1, "丁（dīng）：1.天干的第四位。2.人口：人丁。\n丁（zhēng）：伐木声。"),
    ]


def test_sayings_with_the_same_beginning_are_one() -> None:
    rows = "泥鳅跳龙门\t妄想\n泥鳅跳龙门\t痴心妄想\n泥鳅跳龙门\t妄想\n泥鳅打鼓\t乱谈\n"
    assert list(readers.read_sayings(zipped(rows), "f")) == [raw(1, "泥鳅跳龙门——妄想；痴心妄想。\n泥鳅打鼓——乱谈。")]


def test_a_broken_archive_is_refused() -> None:
    with pytest.raises(DataError, match="words is not a zip archive"):
        list(readers.read_words(b"PK no", "words"))


def test_a_poem_is_its_title_and_its_lines() -> None:
    works = [{"title": "蜀先主庙", "author": "刘", "paragraphs": ["天地英雄气，", "千秋尚凛然。"]}, {"title": "空"}, 3]
    found = list(readers.read_poems(json.dumps(works).encode(), "f"))
    assert found[0] == raw(1, "蜀先主庙\n天地英雄气，\n千秋尚凛然。")
    assert [(item.record, item.reason) for item in found[1:] if isinstance(item, Bad)] == [
        ("0000002", "no list of paragraphs"),
        ("0000003", "no list of paragraphs"),
    ]
    one = json.dumps({"chapter": "大學", "paragraphs": ["大學之道"]}).encode()
    assert list(readers.read_poems(one, "f")) == [raw(1, "大學\n大學之道")]
    with pytest.raises(DataError, match="f is not JSON"):
        list(readers.read_poems(b"[" * 100_000, "f"))
