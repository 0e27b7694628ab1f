"""What reading gives: a document as it was found, or a record that could not be read and why."""

from __future__ import annotations

from dataclasses import dataclass, field

EXCERPT = 300  # characters of a bad record that are kept to show it


@dataclass(frozen=True)
class Raw:
    """One document as it was found.

    record: its name inside the source, such as `0000012` (its line from 1; of several lines the first) or
    `path/in/folder#0000012`. raw_bytes: what it took in the source: of HTML the page, else its text in UTF-8.
    labels: what is known beside the text: url, title, date, encoding. html: the page that the text was extracted
    from, for showing before and after."""

    record: str
    text: str
    raw_bytes: int
    labels: dict[str, str] = field(default_factory=dict)
    html: str | None = None


@dataclass(frozen=True)
class Bad:
    """A record that could not be read, why, and its beginning."""

    record: str
    reason: str
    content: str = ""
    raw_bytes: int = 0


def number_name(number: int) -> str:
    """A record's number as names have it: seven digits, so that names in order of text are in order of number.

    From ten million on an `a` and ten digits, which still sort after all that come before."""
    return f"{number:07d}" if number < 10_000_000 else f"a{number:010d}"


def raw(number: int, text: str) -> Raw:
    return Raw(number_name(number), text, len(text.encode("utf-8", "surrogatepass")))


def bad(number: int, reason: str, content: str) -> Bad:
    size = len(content.encode("utf-8", "surrogatepass"))
    return Bad(number_name(number), reason, content[:EXCERPT], size)


def excerpt(data: bytes) -> str:
    """The beginning of bytes that could not be read, as text."""
    return data[: 4 * EXCERPT].decode("utf-8", "replace")[:EXCERPT]
