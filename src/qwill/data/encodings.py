"""Bytes to text: which encoding they are in, by what they say and by what they are.

In this order: a byte-order mark; UTF-16 and UTF-32 by their zeros; strict UTF-8, because text in another encoding is
hardly ever valid UTF-8 by accident; the encoding that is declared (HTTP header, then `<meta>`), if it decodes without
loss and into text that reads like text; then whichever of the encodings of the web gives the most plausible text.
Labels mean what they mean in browsers (the WHATWG Encoding Standard): `gb2312` is GB18030, `latin-1` Windows-1252."""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator
from functools import lru_cache

from qwill.data.streams import Trouble

_MARKS = (
    (codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF32_LE, "utf-32-le"), (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"),
)  # fmt: skip
# The Encoding Standard reads a label as the larger encoding that pages under it are really in.
_LARGER = {
    "gb2312": "gb18030", "gbk": "gb18030", "hz": "gb18030", "iso8859-1": "cp1252", "ascii": "cp1252",
    "iso8859-9": "cp1254", "iso8859-11": "cp874", "tis-620": "cp874", "big5": "big5hkscs", "cp950": "big5hkscs",
    "shift_jis": "cp932", "shift_jis_2004": "cp932", "euc_kr": "cp949", "johab": "cp949",
}  # fmt: skip
_NAMES = {"gb18030": "gb18030", "big5hkscs": "big5", "cp932": "shift_jis", "cp949": "euc-kr", "cp1252": "windows-1252"}
_MULTIBYTE = ("gb18030", "big5hkscs", "cp932", "euc_jp", "cp949")
_SINGLE = ("cp1252", "cp1251", "koi8_r", "cp1250", "cp1253", "cp1254", "cp1255", "cp1256", "cp874")
# Python knows others that no page is in: idna, base64, rot13, utf-7.
_CHARSETS = re.compile(r"utf-(?:8|16|32)(?:-[bl]e)?|gb18030|big5hkscs|euc_j\w+|cp\d+|iso8859-\d+|koi8[-_]\w|mac-\w+")
_META = re.compile(rb"""<meta[^>]{0,500}?charset\s*=\s*["']?\s*([A-Za-z0-9_.:-]{2,40})""", re.IGNORECASE)
_XML = re.compile(rb"""\A\s*<\?xml[^>]{0,200}?encoding\s*=\s*["']([A-Za-z0-9_.:-]{2,40})""")
_SAMPLE = 4096  # bytes outside ASCII, with what stands between them, that candidates are scored on
_GOOD = 0.6  # plausibility from which a declared encoding needs no comparison; text in its own has 0.5 to 1
_KANA = re.compile("[\u3041-\u3096]")
_HEAD = 4096  # of a page, where its declaration must stand


def decode(data: bytes, declared: str | None = None, hint: str | None = None) -> tuple[str, str]:
    """(text, name of the encoding). Never fails: bytes that no encoding explains come out as U+FFFD, and the name ends
    in `, damaged`. hint: what the file around it is in; tried after `declared`."""
    for mark, name in _MARKS:
        if data.startswith(mark):
            return _loose(data[len(mark) :], name)
    if (wide := _by_zeros(data)) is not None:
        return _loose(data, wide)
    try:
        return data.decode("utf-8"), "utf-8"
    except UnicodeDecodeError as error:
        # UTF-8 all but for a few bytes: cut in the middle, or one stray. What is valid is far beyond chance.
        good, damaged = _valid_sequences(data, error.start)
    if good > 20 * damaged:
        return data.decode("utf-8", "replace"), "utf-8, damaged"
    sample, best, score = _sample(data), "", _GOOD
    for label in (declared, hint):
        believed = codec(label)
        if believed is None or believed.startswith("utf") or (own := _score(sample, believed)) is None:
            continue
        if own < _GOOD and not best:
            best, score = _most_plausible(sample, data)
        # A declaration is believed unless what it gives reads much worse than the best reading does.
        if own > score - 0.25:
            try:
                return data.decode(believed), shown(believed)
            except UnicodeDecodeError:
                pass
    return _loose(data, best or _most_plausible(sample, data)[0])


def declared_encoding(page: bytes, header: str | None = None) -> str | None:
    """What a page says it is in: its HTTP Content-Type, else its `<meta>` or XML declaration."""
    if header and (found := re.search(r"charset\s*=\s*[\"']?([\w.:-]+)", header, re.IGNORECASE)):
        return found.group(1)
    head = page[:_HEAD]
    match = _META.search(head) or _XML.match(head)
    return match.group(1).decode("ascii") if match else None


@lru_cache(maxsize=256)
def codec(label: str | None) -> str | None:
    """Python's name of the encoding that a label means, or None for a label of none (or of something that is no text
    encoding)."""
    if not label:
        return None
    try:
        info = codecs.lookup(label.strip().replace("x-", "", 1) if label.startswith(("x-", "X-")) else label.strip())
    except (LookupError, ValueError):
        return None
    name = _LARGER.get(info.name.replace("_", "-"), _LARGER.get(info.name, info.name))
    return name if _CHARSETS.fullmatch(name) else None


def shown(name: str) -> str:
    return _NAMES.get(name, name.replace("_", "-").replace("cp12", "windows-12"))


def _loose(data: bytes, name: str) -> tuple[str, str]:
    try:
        return data.decode(name), shown(name)
    except UnicodeDecodeError:
        return data.decode(name, "replace"), shown(name) + ", damaged"


def _by_zeros(data: bytes) -> str | None:
    """UTF-16 or UTF-32 without a mark, by where its zeros are: text in Latin letters or with spaces and line ends."""
    head = data[:4096]
    if len(head) < 8 or head.count(0) < len(head) // 64 + 1:
        return None
    at = [head[i::4].count(0) / max(1, len(head[i::4])) for i in range(4)]
    if len(data) % 4 == 0 and min(at[2:]) > 0.9 and at[0] < 0.1:
        return "utf-32-le"
    if len(data) % 4 == 0 and min(at[:2]) > 0.9 and at[3] < 0.1:
        return "utf-32-be"
    even, odd = head[0::2].count(0), head[1::2].count(0)
    for mine, other, name in ((odd, even, "utf-16-le"), (even, odd, "utf-16-be")):
        if mine > len(head) // 4 and other < mine // 8:
            return name
        if mine >= 2 and other == 0:
            try:
                text = head[: len(head) // 2 * 2].decode(name, "strict" if len(head) == len(data) else "ignore")
            except UnicodeDecodeError:
                continue
            if _plausibility(text) > 0.3:
                return name
    return None


def _valid_sequences(data: bytes, first: int) -> tuple[int, int]:
    """(characters outside ASCII that are valid UTF-8, places that are not) of bytes whose first fault is at `first`."""
    text = data[max(0, first - 65536) : first + 65536].decode("utf-8", "replace")
    wrong = text.count("\ufffd")
    return len(text) - len(text.encode("ascii", "ignore")) - wrong, max(1, wrong)


def _sample(data: bytes) -> bytes:
    """The parts of `data` that tell encodings apart: runs with bytes outside ASCII."""
    if len(data) <= _SAMPLE:
        return data
    held, size = [], 0
    for match in re.finditer(rb"[^\n<>]*[\x80-\xff][^\n<>]*", data):
        held.append(match.group())
        size += len(match.group())
        if size > _SAMPLE:
            break
    return b"\n".join(held)


def _most_plausible(sample: bytes, data: bytes) -> tuple[str, float]:
    scores = {}
    if len(data) % 2 == 0:
        for name in ("utf-16-le", "utf-16-be"):  # Chinese without a space has no zeros to tell it by
            if (score := _score(data[:_SAMPLE], name)) is not None and score > _GOOD:
                scores[name] = score - 0.1
    for name in (*_MULTIBYTE, *_SINGLE):
        if (score := _score(sample, name)) is not None:
            scores[name] = score
    if not scores:
        return "cp1252", -1.0
    best = max(scores, key=lambda name: scores[name])  # of equals the first: the lists are in order of use
    return best, scores[best]


def _score(sample: bytes, name: str) -> float | None:
    """How much what `name` makes of the sample reads like text (1 at most), or None if it makes none of it."""
    try:
        text = sample.decode(name)
    except (UnicodeDecodeError, LookupError):
        try:
            text = sample.decode(name, "replace")
        except (UnicodeDecodeError, LookupError):
            return None
        wrong = text.count("\ufffd")
        # A sample may be cut inside a character, and a page may have a stray byte.
        if not text or wrong > 2 + len(text) // 2000:
            return None
    score = _plausibility(text) - 0.02 * text.count("\ufffd")
    # The Chinese and Korean sets hold kana, at the very places of EUC-JP; a page in them is hardly full of it.
    foreign = name in ("gb18030", "big5hkscs", "cp949") and len(_KANA.findall(text)) > len(text) / 10
    return score - 0.5 if foreign else score


def _plausibility(text: str) -> float:
    """The mean over characters outside ASCII of how usual each is where it stands."""
    from qwill.data.usual_characters import usual

    total, count, before = 0.0, 0, " "
    for c in text:
        if c >= "\x80":
            total += usual(c, before)
            count += 1
        elif c < " " and c not in "\n\t\r\x0c":
            total -= 1.0
            count += 1
        before = c
    return total / count if count else 0.5


def transcoded(pieces: Iterator[bytes | Trouble], declared: str | None) -> tuple[Iterator[bytes | Trouble], str | None]:
    """(pieces that can be cut at line feeds, what they are in) of a file of lines.

    UTF-16 and UTF-32, in which a line feed is no single byte, become UTF-8 on the way; a byte-order mark is dropped.
    For the rest the answer is what a file that is not UTF-8 is in by its first piece, or None."""
    head = next(pieces, b"")
    if not isinstance(head, bytes):
        return _before(head, pieces), codec(declared)
    for mark, name in _MARKS:
        if head.startswith(mark):
            rest = _before(head[len(mark) :], pieces)
            return (rest, None) if name == "utf-8" else (_recoded(rest, name), None)
    wide = codec(declared) if (codec(declared) or "").startswith(("utf-16", "utf-32")) else _by_zeros(head)
    if wide is not None:
        return _recoded(_before(head, pieces), wide), None
    encoding = codec(declared)
    if encoding is None:
        try:
            codecs.getincrementaldecoder("utf-8")().decode(head)  # its end may be inside a character
        except UnicodeDecodeError as error:
            good, damaged = _valid_sequences(head, error.start)
            encoding = None if good > 20 * damaged else _most_plausible(_sample(head), b"")[0]
    return _before(head, pieces), encoding


def _before(head: bytes | Trouble, rest: Iterator[bytes | Trouble]) -> Iterator[bytes | Trouble]:
    if head:
        yield head
    yield from rest


def _recoded(pieces: Iterator[bytes | Trouble], name: str) -> Iterator[bytes | Trouble]:
    engine = codecs.getincrementaldecoder(name)("replace")
    for piece in pieces:
        yield engine.decode(piece).encode() if isinstance(piece, bytes) else piece
    yield engine.decode(b"", final=True).encode()
