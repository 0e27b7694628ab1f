"""Unicode repair: text that was decoded wrongly, escaped twice or carries invisible characters becomes plain
text."""

from __future__ import annotations

import re
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ftfy import TextFixerConfig

# ZWJ and ZWNJ stay: emoji and several scripts need them. The rest of this list is invisible and means nothing
# in running text: soft hyphen, zero-width space, direction marks, word joiner, byte-order mark, private use.
_INVISIBLE = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x84\x86-\x9f\u00ad\u200b\u200e\u200f\u202a-\u202e\u2060-\u2064\ufeff"
    "\ufff9-\ufffb\ue000-\uf8ff\ufdd0-\ufdef\ufffe\uffff]"
)
_LINE_END = re.compile("\r\n?|\x85|\u2028|\u2029")
_OTHER_SPACE = re.compile("[\u00a0\u1680\u2000-\u200a\u202f\u205f\u3000]")
_TRAILING_SPACE = re.compile(r" +(?=\n)| +\Z")
# Text of these characters alone holds nothing that ftfy repairs, which a test holds it to: ASCII without the ampersand,
# Chinese and Japanese without what composes, full-width forms, and the punctuation that no mojibake begins with.
_PLAIN_RANGES = (
    "\\n\\t -%'-~\u2013\u2014\u2018\u2019\u201c\u201d\u2026\u3001-\u301f\u3041-\u3096\u30a1-\u30fa\u30fc\u4e00-\u9fff"
    "\uff01-\uff5e"
)
_PLAIN = re.compile(f"[{_PLAIN_RANGES}]*")
_PLAIN_MARKUP = re.compile(f"[{_PLAIN_RANGES}&]*")
_MOST_PASSES = 8  # one repair can uncover the next: text escaped twice, mojibake parted by an invisible character
_EMPTY_LINES = re.compile(r"\n{3,}")


@cache
def _ftfy_config() -> TextFixerConfig:
    """ftfy without the two fixes that are changes of style.

    `fix_character_width` turns the Chinese comma and full stop's neighbours（，！？）into ASCII, and
    `uncurl_quotes` turns “ ” into ", so both would rewrite correct Chinese."""
    from ftfy import TextFixerConfig

    return TextFixerConfig(uncurl_quotes=False, fix_character_width=False, normalization="NFC", explain=False)


def repair(text: str) -> str:
    """The text with mojibake undone, HTML entities unescaped, NFC, `\\n` line ends and no invisible characters.

    Idempotent. Trailing spaces and more than one empty line in a row go; spaces inside a line stay, because they carry
    meaning in code and tables. U+FFFD stays: it is evidence of loss, which a filter judges.
    """
    for _ in range(_MOST_PASSES):
        repaired = _pass(text)
        if repaired == text:
            break
        text = repaired
    return text


def _fixed(text: str) -> str:
    """What ftfy makes of the text. It works line by line, so that a plain line need not be shown to it; from the first
    line with a `<` on it leaves entities alone, and then ampersands are plain too."""
    import ftfy

    if _PLAIN.fullmatch(text):
        return text
    lines, config, plain = text.split("\n"), _ftfy_config(), _PLAIN
    for i, line in enumerate(lines):
        if plain is _PLAIN and "<" in line:
            config, plain = config._replace(unescape_html=False), _PLAIN_MARKUP
        if not plain.fullmatch(line):
            lines[i] = ftfy.fix_text(line, config)
    return "\n".join(lines)


def _pass(text: str) -> str:
    if _PLAIN.fullmatch(text) and " \n" not in text and "\n\n\n" not in text and text == text.strip():
        return text
    fixed = _fixed(_LINE_END.sub("\n", text))
    fixed = _INVISIBLE.sub("", _LINE_END.sub("\n", fixed))
    fixed = _OTHER_SPACE.sub(" ", fixed)
    fixed = _EMPTY_LINES.sub("\n\n", _TRAILING_SPACE.sub("", fixed))
    return fixed.strip()
