"""Pages in every encoding of the web, labelled rightly, wrongly or not at all, come out as what was written."""

import codecs

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwill.data.encodings import codec, declared_encoding, decode, transcoded
from qwill.data.streams import Trouble

SIMPLIFIED = "电脑和手机的软件更新之后，系统会自动检查网络设置。用户可以在这里选择语言，也可以关闭这个功能。"
TRADITIONAL = "電腦和手機的軟體更新之後，系統會自動檢查網路設定。使用者可以在這裡選擇語言，也可以關閉這個功能。"
JAPANESE = "このページでは、ソフトウェアの設定方法について説明します。東京の天気は晴れです。"
KOREAN = "이 페이지에서는 소프트웨어 설정 방법에 대해 설명합니다. 오늘 서울의 날씨는 맑습니다."
FRENCH = "Le café est à côté de l’église, où l’été dernier les élèves ont mangé des crêpes."
RUSSIAN = "Компьютер и телефон обновляются, после чего система проверяет настройки сети."
ENGLISH = "It’s “quoted”, costs €5 — and the naïve reader’s résumé is fine."
WRITTEN = [
    (SIMPLIFIED, "gb18030", "gb18030"), (SIMPLIFIED, "gbk", "gb18030"), (SIMPLIFIED, "gb2312", "gb18030"),
    (SIMPLIFIED, "utf-8", "utf-8"), (SIMPLIFIED, "utf-16", "utf-16-le"), (TRADITIONAL, "big5", "big5"),
    (TRADITIONAL, "gbk", "gb18030"), (TRADITIONAL, "utf-16", "utf-16-le"), (JAPANESE, "shift_jis", "shift_jis"),
    (JAPANESE, "euc_jp", "euc-jp"), (KOREAN, "euc_kr", "euc-kr"), (FRENCH, "latin-1", "windows-1252"),
    (FRENCH, "cp1252", "windows-1252"), (ENGLISH, "cp1252", "windows-1252"), (ENGLISH, "utf-8", "utf-8"),
    (RUSSIAN, "cp1251", "windows-1251"), (RUSSIAN, "koi8_r", "koi8-r"), (RUSSIAN, "utf-8", "utf-8"),
]  # fmt: skip
PAGE = "<html><head>{meta}<title>{title}</title></head><body><p>{text}</p>\n<p class='x'>{text}</p></body></html>"


def page(text: str, encoding: str, label: str | None) -> tuple[str, bytes]:
    meta = f'<meta charset="{label}">' if label else ""
    if encoding == "latin-1":
        text = text.replace("’", "'")
    written = PAGE.format(meta=meta, title=text[:12], text=text)
    return written, written.encode(encoding)


@pytest.mark.parametrize("size", [8, 20, 10_000])
@pytest.mark.parametrize(("text", "encoding", "name"), WRITTEN)
def test_without_a_label_by_what_the_bytes_are(text: str, encoding: str, name: str, size: int) -> None:
    if encoding == "koi8_r" and size == 8:
        pytest.skip("eight letters of Russian do not tell KOI8-R from others")
    many = (text * (1 + size // len(text)))[:size]
    written, data = page(many, encoding, None)
    if encoding in ("latin-1", "cp1252") and written.isascii():
        name = "utf-8"
    assert decode(data, declared_encoding(data)) == (written, name)


@pytest.mark.parametrize(
    "label", ["utf-8", "gb2312", "GBK", "big5", "iso-8859-1", "windows-1252", "shift_jis", "no-such"]
)
@pytest.mark.parametrize(("text", "encoding", "name"), WRITTEN)
def test_a_wrong_label_is_seen_through(text: str, encoding: str, name: str, label: str) -> None:
    written, data = page(text, encoding, label)
    if not encoding.startswith("utf-16"):
        assert declared_encoding(data) == label
    assert decode(data, label)[0] == written


@pytest.mark.parametrize(("text", "encoding", "name"), WRITTEN)
def test_a_right_label_is_believed_however_short_the_text(text: str, encoding: str, name: str) -> None:
    word = next(w for w in text.replace("，", " ").replace("、", " ").split() if not w.isascii())[:4]
    if encoding == "latin-1" and "’" in word:
        return
    label = {"latin-1": "iso-8859-1", "utf-16": "utf-16le"}.get(encoding, encoding)
    assert decode(word.encode(encoding), label)[0] == word


def test_what_no_encoding_explains_is_damaged_and_said_to_be() -> None:
    text, name = decode("很好的中文，只有一个字节坏了。".encode() * 20 + b"\xff" + "后面还是好的。".encode())
    assert text.count("\ufffd") == 1 and text.endswith("后面还是好的。") and name == "utf-8, damaged"
    assert decode(b"")[0] == ""


@given(
    st.binary(max_size=300), st.none() | st.sampled_from(["utf-8", "gbk", "utf-16", "idna", "rot13", "hex", "x", ""])
)
def test_any_bytes_become_text(data: bytes, label: str | None) -> None:
    text, name = decode(data, label)
    assert isinstance(text, str) and name
    if not data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE, codecs.BOM_UTF8)) and b"\0" not in data:
        try:
            assert text == data.decode()
        except UnicodeDecodeError:
            assert name != "utf-8"


def test_labels_mean_what_they_mean_in_browsers() -> None:
    assert [codec(label) for label in ("gb2312", "gbk", "latin1", "ISO-8859-1", "us-ascii", "x-sjis")] == [
        "gb18030", "gb18030", "cp1252", "cp1252", "cp1252", "cp932",
    ]  # fmt: skip
    assert codec("base64") is None and codec("rot13") is None and codec(None) is None


@pytest.mark.parametrize(
    ("data", "header", "label"),
    [
        (b"<meta charset=big5>", "text/html; charset=GBK", "GBK"),
        (b'<meta http-equiv="Content-Type" content="text/html; charset=gb2312">', None, "gb2312"),
        (b'<?xml version="1.0" encoding="euc-kr"?><html>', "text/html", "euc-kr"),
        (b"<p>charset=big5</p>", None, None),
        (b" " * 5000 + b"<meta charset=big5>", None, None),
    ],
)
def test_where_a_page_says_what_it_is_in(data: bytes, header: str | None, label: str | None) -> None:
    assert declared_encoding(data, header) == label


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32", "utf-16-le"])
@given(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\n\r"), max_size=5), min_size=1), st.data())
def test_files_of_lines_can_be_cut_at_line_feeds(encoding: str, texts: list[str], data: st.DataObject) -> None:
    # Without a mark it takes Latin text for UTF-16 to be told.
    text = "a line to begin with, in Latin letters\n" + "\n".join(texts)
    written = text.encode(encoding)
    cut = data.draw(st.integers(200, 1000))
    pieces, found = transcoded(iter([written[:cut], written[cut:]]), None)
    assert b"".join(piece for piece in pieces if isinstance(piece, bytes)).decode() == text
    assert found is None


def test_a_file_of_lines_in_another_encoding_is_found_out_by_its_beginning() -> None:
    data = "\n".join([SIMPLIFIED, "短"]).encode("gbk")
    pieces, found = transcoded(iter([data, Trouble("broken")]), None)
    assert list(pieces) == [data, Trouble("broken")] and found == "gb18030"
    assert decode("短".encode("gbk"), None, found)[0] == "短"
