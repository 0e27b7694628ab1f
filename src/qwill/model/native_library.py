"""The C files of the model, compiled once a machine, and how they are called.

They are compiled with the system's C compiler at first use (a few seconds, kept in Qwill's cache under a hash of
source, compiler and processor). Without a compiler everything still works through the PyTorch definitions, slower.
"""

from __future__ import annotations

import ctypes
import os
from functools import cache
from typing import Any

import torch
from torch import Tensor

from qwill.base.native_build import compile_library

ROWS = ("rows.h", "qwill.model")
ATTEND = ("attend.h", "qwill.model")
SOURCES = {
    "kernels.c": [ROWS],
    "products.c": [ROWS],
    "attention.c": [ROWS, ATTEND],
    "delta.c": [ROWS, ("chunk.h", "qwill.model")],
    "gates.c": [ROWS],
    "blocks.c": [],
    "fitted.c": [ROWS, ATTEND],
}

_enabled = os.environ.get("QWILL_NATIVE", "1") != "0"


def enable(on: bool) -> None:
    """Turn the native kernels on (where a compiler exists) or off."""
    global _enabled
    _enabled = on


@cache
def libraries() -> tuple[ctypes.CDLL, ...] | None:
    """The compiled C files; None without a compiler."""
    found = [compile_library(name, "qwill.model", *headers) for name, headers in SOURCES.items()]
    return tuple(lib for lib in found if lib) if all(found) else None


@cache
def function(name: str) -> Any:
    return next(getattr(lib, name) for lib in libraries() or () if hasattr(lib, name))


@cache
def lanes() -> int:
    return int(function("panel_width")()) // 2


def suits(x: Tensor) -> bool:
    return (
        _enabled
        and x.dtype == torch.float32
        and x.device.type == "cpu"
        and not torch.is_autocast_enabled("cpu")
        and libraries() is not None
    )


def call(name: str, *args: Any) -> None:
    """Call a kernel; tensors pass as pointers (they must be contiguous), ints as int64, floats as float."""
    converted: list[Any] = []
    for a in args:
        if isinstance(a, Tensor):
            converted.append(ctypes.c_void_p(a.data_ptr()))
        elif isinstance(a, bool):
            converted.append(ctypes.c_int(a))
        elif isinstance(a, int):
            converted.append(ctypes.c_int64(a))
        elif isinstance(a, float):
            converted.append(ctypes.c_float(a))
        else:
            converted.append(a)
    function(name)(*converted)


def threads() -> ctypes.c_int:
    return ctypes.c_int(torch.get_num_threads())
