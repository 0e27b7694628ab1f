"""Qwill: an open workshop for the whole life of a Qwen model.

`qwill.load(ref)` gives a LanguageModel; the rooms (`qwill.model`, `qwill.data`, `qwill.align` …) are described in
docs/en/. Importing this package loads nothing heavy.
"""

from qwill.base.errors import QwillError

TYPE_CHECKING = False  # `typing` would take longer to import than the rest
if TYPE_CHECKING:
    from qwill.engine.language_model import load

__version__ = "0.1.0"
__all__ = ["QwillError", "__version__", "load"]


def __getattr__(name: str) -> object:
    if name == "load":
        from qwill.engine.language_model import load

        return load
    raise AttributeError(f"module 'qwill' has no attribute {name!r}")
