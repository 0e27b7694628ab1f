"""The mathematics of the Qwen family and its files: transformer, kernels, Hugging Face folders, GGUF, int8, sizes.

May import base and text.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from qwill.model.config import ModelConfig
    from qwill.model.files import load_model, save_model
    from qwill.model.size import count_parameters
    from qwill.model.transformer import Transformer

__all__ = ["ModelConfig", "Transformer", "count_parameters", "load_model", "save_model"]
_HOME = {
    "ModelConfig": "config", "Transformer": "transformer", "count_parameters": "size",
    "load_model": "files", "save_model": "files",
}  # fmt: skip


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name in _HOME:
        return getattr(import_module(f"qwill.model.{_HOME[name]}"), name)
    raise AttributeError(f"module 'qwill.model' has no attribute {name!r}")
