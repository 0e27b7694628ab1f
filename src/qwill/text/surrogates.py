"""Halves of UTF-16 pairs that stand alone, as JSON's `"\\ud83d"` or a file name that is no UTF-8 leave them: text that
can't be written, and that no tokenizer reads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def without_surrogates(text: str) -> str:
    if text.isascii():
        return text
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        # Through UTF-16 the two halves of a pair become the character they mean; a lone half becomes U+FFFD.
        return text.encode("utf-16-le", errors="surrogatepass").decode("utf-16-le", errors="replace")
    return text


def all_without_surrogates(value: Any) -> Any:
    """The same of every text in a JSON value, names of fields among them."""
    if isinstance(value, str):
        return without_surrogates(value)
    if isinstance(value, Mapping):
        return {all_without_surrogates(name): all_without_surrogates(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [all_without_surrogates(inner) for inner in value]
    return value
