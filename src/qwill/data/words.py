"""Words and sentences of a text by the rule that its language's file names.

The rules of word_rules.json (english, spaces, arabic, …) give what spaCy 3.8's blank tokenizers give, "chinese" what
spaCy gives with jieba; datatrove 0.10.1 asks those for its words (`load_word_tokenizer`). French is the exception: the
15,600 compounds that spaCy keeps whole are not in the table. "characters" is ours, for scripts without spaces: a word
is one character of Han, kana, Thai, Lao, Khmer or Burmese with the marks on it, and the rest is cut as by "spaces".
"""

from __future__ import annotations

import re
import unicodedata
from functools import cache

from qwill.base.errors import ConfigError
from qwill.data import native_words
from qwill.data.affix_words import affixes, cut_text, kind, tables
from qwill.data.chinese_words import cut_chinese, with_spaces

_UNSPACED = re.compile(
    "([\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3041-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
    "\uff66-\uff9f\U00020000-\U0003ffff])"
)


@cache
def word_rules() -> tuple[str, ...]:
    """The names that a language's file may give for `words`."""
    return (*tables()["rules"], "chinese", "characters")


def tokens(text: str, rule: str) -> list[str]:
    """The words of `text` with those that are white space: what the sentences are counted over.

    Raises ConfigError for a rule that isn't one of `word_rules()`.
    """
    if rule in tables()["rules"]:
        return cut_text(text, affixes(rule))
    if rule == "chinese":
        return with_spaces(cut_chinese(text))
    if rule == "characters":
        return _characters(text)
    raise ConfigError(f"words: no rule is called {rule!r}; there are {', '.join(word_rules())}.")


def _characters(text: str) -> list[str]:
    found: list[str] = []
    for i, part in enumerate(_UNSPACED.split(text)):
        if i % 2 == 0:
            found += cut_text(part, affixes("spaces")) if part else []
        elif found and unicodedata.category(part) in ("Mn", "Mc") and not found[-1].isspace():
            found[-1] += part
        else:
            found.append(part)
    return found


def split_words(text: str, rule: str) -> list[str]:
    """The words of `text`, in order, white space stripped and dropped."""
    if native_words.suits(rule):
        return native_words.cut(text, native_words.code_points(text), rule).strings(text)
    return [w for w in map(str.strip, tokens(text, rule)) if w]


def count_sentences(text: str, rule: str) -> int:
    """Sentences of `text`, at least 1: one ends at a sentence-final mark and further punctuation after it."""
    if rule != "chinese" and native_words.suits(rule):
        return native_words.cut(text, native_words.code_points(text), rule).sentences
    count, ended = 1, False
    for word in tokens(text, rule):
        what = kind(word)
        if what == 1:
            ended = True
        elif ended and what == 0:
            count += 1
            ended = False
    return count
