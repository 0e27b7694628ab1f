"""Words and sentences of a text by the rule that its language's file names.

The rules of word_rules.json (english, spaces, arabic, …) give what spaCy 3.8's blank tokenizers give, "chinese" what
spaCy gives with jieba; datatrove 0.10.1 asks those for its words (`load_word_tokenizer`). "characters" is ours, for
scripts without spaces: a word is a letter of Han, kana, Thai and the like, or a run of anything else.
"""

from __future__ import annotations

import re
import unicodedata
from functools import cache

from qwill.base.errors import ConfigError
from qwill.data.affix_words import affixes, cut_text, sentence_ends, tables


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
    raise ConfigError(f"words: no rule is called {rule!r}; there are {', '.join(word_rules())}.")


def split_words(text: str, rule: str) -> list[str]:
    """The words of `text`, in order, white space stripped and dropped."""
    return [w for w in map(str.strip, tokens(text, rule)) if w]


@cache
def _punctuation(word: str) -> bool:
    return all(unicodedata.category(c)[0] == "P" for c in word)


def count_sentences(text: str, rule: str) -> int:
    """Sentences of `text`, at least 1: one ends at a sentence-final mark and further punctuation after it."""
    count, ended = 1, False
    for word in tokens(text, rule):
        if word in sentence_ends():
            ended = True
        elif ended and not _punctuation(word):
            count += 1
            ended = False
    return count
