"""Labels that are made from what is known of a document, beside its language, register and source: quality, domain."""

from __future__ import annotations

import math
from urllib.parse import urlsplit


def quality_bucket(score: float) -> str:
    """`q0` … `q9` for scores from 0 to 1 (the tenth it lies in; 1.0 is in q9), and `unscored` for NaN."""
    return "unscored" if math.isnan(score) else f"q{max(0, min(9, int(10 * score)))}"


def domain(url: str) -> str:
    """The host that a URL names, in lower case, without `www.`, port and user; "" for what is no URL with a host."""
    try:
        host = urlsplit(url.strip()).hostname or ""
    except ValueError:
        return ""
    return host.removeprefix("www.").rstrip(".")
