"""Tool calls in Hermes' form, which Qwen2.5 and Qwen3 write: `{"name": …, "arguments": {…}}` between the marks.

Name and arguments come out while they are written where the text begins as the model was taught. Otherwise
(arguments in front of the name, arguments as a JSON text, no arguments, the form with "function") the whole value
is waited for.
"""

import json
import re
from collections.abc import Generator
from typing import Any

from qwill.text.json_stream import JsonScanner, strict_json
from qwill.text.reply_reader import CALL, CALL_END, Marks, Pieces, Reader
from qwill.text.surrogates import without_surrogates

_BLOCK_ENDS = Marks([CALL_END, CALL])
_S = r"[ \t\r\n]*"
_TEXT = r'(?:"(?:[^"\\]|\\.)+"|' + r"'(?:[^'\\]|\\.)+')"
_HEAD = re.compile(
    rf"(?:\[{_S})?(?P<object>\{{){_S}(?P<q>[\"'])name(?P=q){_S}:{_S}(?P<name>{_TEXT}){_S},{_S}"
    rf"(?P<r>[\"'])(?:arguments|parameters)(?P=r){_S}:{_S}(?=\{{)",
    re.DOTALL,
)


def hermes_call(reader: Reader, start: int, pieces: Pieces) -> Generator[None, None, bool]:
    """Read a call, or a list of calls, whose bracket is at `start`. False, and nothing is read: it is no call."""
    scanner, place, strict = JsonScanner(), start, ""
    while True:
        # The head ends in front of a bracket, so without a new one there is nothing new to see.
        head = _HEAD.match(reader.text, start) if "{" in reader.text[place:] else None
        name = _text(head["name"]) if head else None
        if head and name:
            pieces.begin_call(name)
            yield from _arguments(reader, head, pieces)
            return True
        read: list[str] = []
        while place < len(reader.text) and not scanner.done:
            piece = scanner.push(reader.text[place])
            if piece is None:
                strict += "".join(read)
                ended = yield from reader.sees(place, CALL_END, CALL)
                return bool(ended) and _whole(reader, place, strict, scanner, pieces)
            read.append(piece)
            place += 1
        strict += "".join(read)
        if scanner.done or not (yield from reader.more()):
            return _whole(reader, place, strict, scanner, pieces)


def _whole(reader: Reader, place: int, strict: str, scanner: JsonScanner, pieces: Pieces) -> bool:
    """The calls of a value that has been read up to `place`; its last bracket may be missing."""
    if not scanner.done:
        missing = scanner.closing()
        if missing is None or scanner.depth > 1:
            return False
        strict += missing
    try:
        value = json.loads(strict)
    except (ValueError, RecursionError):
        return False
    calls = [_call(each) for each in (value if isinstance(value, list) else [value])]
    whole = [call for call in calls if call is not None]
    if not whole or len(whole) < len(calls):
        return False
    for name, arguments in whole:
        pieces.begin_call(name)
        pieces.arguments(arguments)
    reader.at = place
    return True


def _arguments(reader: Reader, head: re.Match[str], pieces: Pieces) -> Generator[None, None, None]:
    """Give out the arguments, then pass over what else the call's object holds."""
    scanner = JsonScanner()
    for character in reader.text[head.start("object") : head.end()]:
        scanner.push(character)
    reader.at = head.end()
    outer = scanner.depth
    while True:
        read: list[str] = []
        for place in range(reader.at, len(reader.text)):
            piece = scanner.push(reader.text[place])
            if piece is None:
                reader.at = place
                pieces.arguments("".join(read))
                yield from _broken(reader, scanner, pieces)
                return
            read.append(piece)
            if scanner.depth == outer:
                reader.at = place + 1
                pieces.arguments("".join(read))
                yield from _pass_over(reader, scanner)
                return
        pieces.arguments("".join(read))
        reader.text, reader.at = "", 0
        if not (yield from reader.more()):
            pieces.arguments(scanner.pending())
            return


def _broken(reader: Reader, scanner: JsonScanner, pieces: Pieces) -> Generator[None, None, None]:
    """The text at the reader's place can't be JSON: where the block ends there and only brackets are missing, they
    are supplied; else everything up to the block's end stays as it is."""
    missing = scanner.closing()
    if missing is not None and (yield from reader.sees(reader.at, CALL_END, CALL)):
        pieces.arguments(missing[:-1])  # without the call's own bracket
        return
    pieces.arguments(scanner.pending())
    yield from reader.until(_BLOCK_ENDS, pieces.arguments)


def _pass_over(reader: Reader, scanner: JsonScanner) -> Generator[None, None, None]:
    place = reader.at
    while not scanner.done:
        if place == len(reader.text):
            if not (yield from reader.more()):
                return
        elif scanner.push(reader.text[place]) is None:
            return
        else:
            place += 1
    reader.at = place


def _text(written: str) -> str | None:
    strict = strict_json(written)
    value = json.loads(strict) if strict else None
    return without_surrogates(value) if isinstance(value, str) else None


def _call(value: Any) -> tuple[str, str] | None:
    """Name and JSON text of the arguments of a parsed call; None for anything else."""
    if not isinstance(value, dict):
        return None
    if isinstance(value.get("function"), dict):
        value = value["function"]
    name = value.get("name")
    arguments = value.get("arguments", value.get("parameters", {}))
    if isinstance(arguments, str):
        try:
            arguments = json.loads(strict_json(arguments) or "null")
        except (ValueError, RecursionError):
            return None
    if not isinstance(name, str) or not name or not isinstance(arguments, dict):
        return None
    return without_surrogates(name), without_surrogates(json.dumps(arguments, ensure_ascii=False))
