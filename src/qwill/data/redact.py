"""Personal data replaced by tags, by fakes, or only counted.

The tags are plain ASCII in angle brackets, as StarCoder's data has them (`<EMAIL>`; Li et al. 2023, section 4.3): no
special token of Qwen, which are `<|…|>`, `<think>` and the like in small letters, and nothing that is found again.
Redacting twice is redacting once.
"""

from __future__ import annotations

import hashlib
import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from qwill.base.config import nearest
from qwill.base.errors import ConfigError
from qwill.data.documents import Document
from qwill.data.personal_data import KINDS, Span, find_personal_data, narrow
from qwill.data.phones import REGIONS

TAGS = {kind: f"<{kind.upper()}>" for kind in KINDS}

Replacement = Literal["tag", "fake", "none"]


@dataclass(frozen=True)
class RedactSettings:
    """Section `redact` of a curation.

    kinds: those to look for, of KINDS. replacement: `tag`; `fake`, something of the same form that is nobody's, the
    same for the same; `none`, count alone. regions: ISO country codes of telephone numbers without a country code;
    None takes those of the document's language (`phones.REGIONS`).
    """

    kinds: list[str] = field(default_factory=lambda: list(KINDS))
    replacement: Replacement = "tag"
    regions: list[str] | None = None

    def check(self) -> None:
        """Raises ConfigError for a kind that there is not."""
        for kind in self.kinds:
            if kind not in KINDS:
                raise ConfigError(f"redact.kinds: {kind!r} is no kind of personal data; {nearest(kind, KINDS)}")


@dataclass(frozen=True)
class Redacted:
    """The new text, how many of each kind were found, and where in the old text."""

    text: str
    counts: dict[str, int]
    spans: tuple[Span, ...]


def redact(
    text: str,
    kinds: Sequence[str] = KINDS,
    language: str = "en",
    replacement: Replacement = "tag",
    regions: Sequence[str] | None = None,
) -> Redacted:
    """Find personal data of `kinds` in `text` and replace it; text without any comes back as it is.

    `language` chooses the countries of telephone numbers that say none; `regions` names them.
    """
    where = REGIONS.get(language, ()) if regions is None else regions
    spans, tagged, gaps = list[Span](), text, [(0, 0)]
    while new := find_personal_data(_hidden(tagged), kinds, where):
        # What was replaced no longer stands beside its neighbours, so that one of them may now be found.
        spans = sorted([*spans, *(_in_original(span, gaps) for span in new)])
        tagged, gaps = _replaced(text, spans, "tag")
    if spans and replacement == "none":
        tagged = text
    elif spans and replacement == "fake":
        # A fake may read as something else beside its neighbours; that gets its tag.
        tagged = redact(_replaced(text, spans, "fake")[0], kinds, language, "tag", regions).text
    return Redacted(tagged, dict(Counter(span.kind for span in spans)), tuple(spans))


_TAG = re.compile("|".join(TAGS.values()))


def _hidden(text: str) -> str:
    """`text` with tags that are there already made illegible, so that they aren't read as words beside a number."""
    return _TAG.sub(lambda found: "\0" * len(found.group()), text)


def _replaced(text: str, spans: Sequence[Span], replacement: Replacement) -> tuple[str, list[tuple[int, int]]]:
    """The text with spans replaced, and where each stretch that stayed begins: (in the new text, in the old)."""
    parts, gaps, position, length = list[str](), [(0, 0)], 0, 0
    for span in spans:
        value = text[span.start : span.end]
        parts += [text[position : span.start], TAGS[span.kind] if replacement == "tag" else fake(span.kind, value)]
        length += len(parts[-2]) + len(parts[-1])
        position = span.end
        gaps.append((length, position))
    return "".join([*parts, text[position:]]), gaps


def _in_original(span: Span, gaps: Sequence[tuple[int, int]]) -> Span:
    new, old = gaps[bisect_right(gaps, span.start, key=lambda gap: gap[0]) - 1]
    return Span(span.start - new + old, span.end - new + old, span.kind)


def fake(kind: str, value: str) -> str:
    """Something of the form of `value` that is nobody's and is not found again; the same for the same value.

    Addresses are of the ranges for documentation (RFC 2606, 5737, 3849); numbers keep their signs and have zeros for
    all but their last digits, four at least, so that no check digit, issuer,
    province or country fits.
    """
    digest = hashlib.blake2b(f"{kind}:{narrow(value).lower()}".encode("utf-8", "surrogatepass"), digest_size=8).digest()
    number = int.from_bytes(digest, "big")
    if kind == "email":
        return f"user{number % 10**6:06d}@example.com"
    if kind == "ip":
        return f"2001:db8::{number % 0x10000:x}" if ":" in narrow(value) else f"192.0.2.{number % 256}"
    if kind == "secret":
        return "X" * min(len(value), 32)
    last, out = f"{number % 10**4:04d}"[: max(0, sum(map(str.isdecimal, value)) - 4)], list[str]()
    for character in reversed(value):
        if character.isdecimal():
            digit = last[-1] if last else "0"
            last = last[:-1]
            out.append(digit)
        else:
            out.append("X" if kind != "phone" and character.isalpha() else character)
    return "".join(reversed(out))


def redact_batch(documents: Iterable[Document], settings: RedactSettings) -> dict[str, dict[str, int]]:
    """Redact documents where they are; what was found, by language and kind.

    A document in which something was found gets `scores["redact.KIND"]`, the number of each kind.
    """
    settings.check()
    total: dict[str, Counter[str]] = {}
    for document in documents:
        result = redact(document.text, settings.kinds, document.language, settings.replacement, settings.regions)
        document.change("redact", result.text)
        document.scores.update({f"redact.{kind}": float(count) for kind, count in result.counts.items()})
        if result.counts:
            total.setdefault(document.language, Counter()).update(result.counts)
    return {language: dict(counts) for language, counts in total.items()}
