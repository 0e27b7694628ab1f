"""Which prompts of a file are kept back, so that what was learnt can be measured on them."""

from __future__ import annotations

import hashlib
import json
from typing import Any


def held_out(prompt: list[dict[str, Any]] | str, share: float, seed: int) -> bool:
    """Whether a prompt is held out; the same prompt always is, or is not, whatever stands around it."""
    text = prompt if isinstance(prompt, str) else json.dumps(prompt, sort_keys=True, ensure_ascii=False)
    digest = hashlib.blake2b(f"{seed}/{text}".encode(errors="surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big") < share * 2**64
