"""JSON as models write it, read a character at a time and given out as strict JSON as soon as it is certain.

Mended on the way, because models write it: a comma before a closing bracket, line breaks and other control
characters inside a text, Python's quotes, constants and `\\x`, a backslash that escapes nothing (`"\\d+"`). Nothing
that was given out is ever taken back, so the output may be streamed.
"""

import json
import re

_NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?")
_CONSTANTS = {"True": "true", "False": "false", "None": "null"} | {c: c for c in ("true", "false", "null")}
_BARE = frozenset("+-.0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_")
_SPACE = frozenset(" \t\r\n")
_ESCAPES = frozenset('"\\/bfnrt')
_HEX = frozenset("0123456789abcdefABCDEF")


class JsonScanner:
    """Reads one JSON value, character by character.

    `push` gives the strict JSON that a character makes certain, and None where the text can't be JSON (nothing may
    be pushed after that). `depth` counts the brackets that are open; `done` says that the value is complete: a
    value that isn't in brackets is complete only with the character behind it, which `end` stands for.
    """

    def __init__(self) -> None:
        self.depth = 0
        self.done = False
        self._brackets: list[str] = []
        self._expects = "value"  # or: first (value or end), key, first key, colon, comma
        self._quote = ""  # of the text that is being read
        self._is_key = False
        self._escape = ""  # a backslash and what follows it, until that is complete
        self._bare = ""  # a number or constant, until it is complete
        self._held = ""  # a comma and the space behind it: nothing but a further member shows that it belongs
        self._last = ""  # what was certain when the text turned out to be no JSON

    def push(self, character: str) -> str | None:
        """What this character makes certain; None: this is no JSON."""
        if self._quote:
            return self._in_text(character)
        if self._bare:
            if character in _BARE:
                self._bare += character
                return ""
            before = self.end()
            if before is None:
                return None
            behind = self._between(character) if not self.done else None
            if behind is None:
                self._last = before
                return None
            return before + behind
        return None if self.done else self._between(character)

    def end(self) -> str | None:
        """Ends a number or constant, as a character behind it would; None where it is none. Else nothing."""
        bare = self._bare
        if not bare:
            return ""
        if bare not in _CONSTANTS and not _NUMBER.fullmatch(bare):
            return None
        self._bare = ""
        return self._value(_CONSTANTS.get(bare, bare))

    def closing(self) -> str | None:
        """What is missing where nothing but closing brackets is; None in the middle of something."""
        between = not self._quote and not self._bare and (self._expects == "comma" or self._held)
        return self._last + "".join(reversed(self._brackets)) if between else None

    def pending(self) -> str:
        """What was read and not yet given out, as it was written."""
        return self._last + self._held + self._bare + self._escape

    def _between(self, character: str) -> str | None:
        expects = self._expects
        if character in _SPACE:
            if self._held:
                self._held += character
                return ""
            return character
        if character in "}]":
            may_end = expects in ("comma", "first", "first key") or bool(self._held)
            if not self._brackets or self._brackets[-1] != character or not may_end:
                return None
            self._held = ""
            self._brackets.pop()
            self.depth -= 1
            return self._value(character)
        if character == "," and expects == "comma" and self._brackets:
            self._expects = "key" if self._brackets[-1] == "}" else "value"
            self._held = ","
            return ""
        if character == ":" and expects == "colon":
            self._expects = "value"
            return character
        if character in "\"'" and expects in ("value", "first", "key", "first key"):
            self._quote, self._is_key = character, expects in ("key", "first key")
            return self._released() + '"'
        if expects not in ("value", "first"):
            return None
        if character in "{[":
            self._brackets.append("}" if character == "{" else "]")
            self.depth += 1
            self._expects = "first key" if character == "{" else "first"
            return self._released() + character
        if character in _BARE:
            self._bare = character
            return ""
        return None

    def _in_text(self, character: str) -> str:
        if self._escape:
            return self._escaped(character)
        if character == "\\":
            self._escape = character
            return ""
        if character == self._quote:
            self._quote = ""
            if not self._is_key:
                return self._value('"')
            self._expects = "colon"
            return '"'
        if character == '"' or character < " ":
            return json.dumps(character)[1:-1]
        return character

    def _escaped(self, character: str) -> str:
        so_far, self._escape = self._escape, ""
        if so_far == "\\":
            if character in "ux":
                self._escape = "\\" + character
                return ""
            if character in _ESCAPES:
                return "\\" + character
            # It escapes nothing: the backslash is meant, except in front of Python's other quote.
            return character if character == "'" else "\\\\" + self._in_text(character)
        if character not in _HEX:
            return "\\" + so_far + self._in_text(character)
        if len(so_far) == (5 if so_far[1] == "u" else 3):
            return "\\u" + (so_far[2:] + character).zfill(4)
        self._escape = so_far + character
        return ""

    def _released(self) -> str:
        held, self._held = self._held, ""
        return held

    def _value(self, text: str) -> str:
        self.done = not self._brackets
        self._expects = "comma"
        return self._released() + text


def strict_json(text: str) -> str | None:
    """A whole JSON value, mended as `JsonScanner` does, without the space around it; None where it is none."""
    scanner, pieces = JsonScanner(), []
    for character in text.strip():
        piece = scanner.push(character)
        if piece is None:
            return None
        pieces.append(piece)
    last = scanner.end()
    return "".join([*pieces, last]) if last is not None and scanner.done else None
