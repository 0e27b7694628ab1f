"""Qwill: an open workshop for the whole life of a Qwen model.

`qwill.load(ref)` gives a LanguageModel; the rooms (`qwill.model`, `qwill.data`, `qwill.align` …) are described in
docs/en/. Importing this package loads nothing heavy.
"""

from typing import TYPE_CHECKING, Any

from qwill.base.errors import QwillError

if TYPE_CHECKING:
    from qwill.engine.language_model import load

__version__ = "0.1.0"
__all__ = ["QwillError", "__version__", "load"]


def __getattr__(name: str) -> Any:
    if name == "load":
        from qwill.engine.language_model import load

        return load
    raise AttributeError(f"module 'qwill' has no attribute {name!r}")
