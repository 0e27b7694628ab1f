"""The C file of MinHash and how it is called; without a compiler, or with QWILL_NATIVE=0, the definitions are used."""

from __future__ import annotations

import ctypes
import os
from functools import cache
from typing import Any

import numpy as np

from qwill.base.native_build import compile_library


@cache
def library() -> ctypes.CDLL | None:
    if os.environ.get("QWILL_NATIVE", "1") == "0":
        return None
    found = compile_library("minhash.c", "qwill.data", threads=False)
    if found is not None:
        found.minhash_simplify.restype = ctypes.c_int64
    return found


def pointer(value: Any) -> Any:
    """An argument: arrays and bytes pass as pointers (arrays must be contiguous), ints as int64."""
    if isinstance(value, np.ndarray):
        assert value.flags.c_contiguous
        return ctypes.c_void_p(value.ctypes.data)
    return ctypes.c_int64(value) if isinstance(value, int) else value


def call(function: Any, *values: Any) -> None:
    """Call what returns nothing."""
    function.restype = None
    function(*map(pointer, values))
