"""A child process of maths.py: math-verify (Kydlíček 2025) answers whether two texts are equal, one line each.

math-verify's own limit is SIGALRM, which works in no thread but the main one; here the parent ends the process.
"""

from __future__ import annotations

import logging
import sys
from typing import Any

from qwill.evaluate.scorer_process import serve

MEMORY = 4 * 2**30  # bytes of address space: 10**10**10 fills what it gets


def limit_memory() -> None:
    if sys.platform == "linux":
        import resource

        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, hard))


def equal(wanted: list[str], said: list[str]) -> tuple[bool, str]:
    """Whether one of the readings of the reply equals one of the reference's; and what the reply says."""
    from math_verify import parse, verify

    shown = ""
    for reply in said:
        found = parse(reply, parsing_timeout=None)
        shown = shown or (str(found[-1])[:200] if found else "")
        for reference in wanted:
            if found and verify(parse(reference, parsing_timeout=None), found, timeout_seconds=None):
                return True, shown
    return False, shown


def _answer(function: Any, request: dict[str, Any]) -> dict[str, Any]:
    try:
        right, said = function(request["wanted"], request["said"])
    except (MemoryError, RecursionError) as error:
        return {"right": False, "said": "", "trouble": f"needed more than it may have ({type(error).__name__})."}
    return {"right": bool(right), "said": said}


if __name__ == "__main__":
    limit_memory()
    logging.getLogger("math_verify").setLevel(logging.CRITICAL)  # it warns that its time limits are off
    # Loads SymPy and the grammar, so that no reply's time goes into it.
    if not equal(["$\\frac{1}{2}$"], ["$0.5$"])[0]:
        sys.exit("math-verify finds a half unequal to 0.5; install it again: pip install 'qwill[eval]'.")
    serve(sys.argv[1], _answer)
