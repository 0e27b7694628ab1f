"""Numbers as people read them, in pages and on terminals."""

from __future__ import annotations


def short(value: float) -> str:
    """A number for an axis: 1200 → 1.2k, 0.25 → 0.25, 3.0 → 3."""
    for limit, suffix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= limit:
            return f"{value / limit:.3g}{suffix}"
    return f"{value:.3g}"


def percent(value: float) -> str:
    """Whole percents; a tenth more where they would say all or nothing and it is not so."""
    shown = f"{100 * value:.0f}"
    return f"{100 * value:.1f} %" if shown in ("0", "100") and value not in (0, 1) else f"{shown} %"


def megabytes(size: float) -> str:
    """Bytes in decimal units, as people compare file sizes."""
    for limit, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if size >= limit:
            return f"{size / limit:.1f} {unit}"
    return f"{size:.0f} B"
