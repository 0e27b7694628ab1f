"""Text that is a prompt as it stands: special tokens written in it are read as such, as transformers and vLLM do.

Conversations never come this way: what a user types there stays ordinary text (see text/chat.py).
"""

from __future__ import annotations

import re
from functools import lru_cache

from qwill.text.tokenizer import Tokenizer


def encode_raw(tokenizer: Tokenizer, text: str, add_special_tokens: bool = True) -> list[int]:
    """Ids of a text; `add_special_tokens` puts those around it that the model's files say."""
    ids: list[int] = []
    if not tokenizer.specials:
        ids = tokenizer.encode(text)
    else:
        for i, piece in enumerate(_pattern(tuple(tokenizer.specials)).split(text)):
            if i % 2:
                ids.append(tokenizer.special(piece))
            elif piece:
                ids += tokenizer.encode(piece)
    return framed(tokenizer, ids) if add_special_tokens else ids


def framed(tokenizer: Tokenizer, ids: list[int]) -> list[int]:
    """A text's ids with what the model's files put around it: the mark of the beginning, what its post-processor adds
    (transformers adds the same)."""
    before, after = tokenizer.around
    bos = tokenizer.config.get("bos_token")
    name = bos.get("content") if isinstance(bos, dict) else bos
    if not before and tokenizer.config.get("add_bos_token") and name in tokenizer.specials:
        before = [tokenizer.special(name)]
    return [*before, *ids, *after]


@lru_cache(maxsize=8)
def _pattern(names: tuple[str, ...]) -> re.Pattern[str]:
    longest_first = sorted(names, key=len, reverse=True)
    return re.compile("(" + "|".join(map(re.escape, longest_first)) + ")")
