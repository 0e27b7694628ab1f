"""Room `text`: everything between characters and token ids.

The tokenizer (load, build, train), the one chat renderer (messages -> ids and loss mask) with the released
Qwen3 template beside it, and the parser of replies. May import from `qwill.base` only.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from qwill.text.chat import Rendered, render, training_examples
    from qwill.text.parse import Reply, parse_reply
    from qwill.text.tokenizer import StreamDecoder, Tokenizer

__all__ = ["Rendered", "Reply", "StreamDecoder", "Tokenizer", "parse_reply", "render", "training_examples"]

_HOME = {
    "Rendered": "chat",
    "render": "chat",
    "training_examples": "chat",
    "Reply": "parse",
    "parse_reply": "parse",
    "StreamDecoder": "tokenizer",
    "Tokenizer": "tokenizer",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
