"""A reply's text while its tokens come: no half characters, and nothing that may yet turn out to be a stop text."""

from __future__ import annotations

from collections.abc import Sequence

from qwill.text.tokenizer import StreamDecoder, Tokenizer


class ReplyText:
    """`push` tokens; what it returns, one after the other, is the text up to the first stop text."""

    def __init__(self, tokenizer: Tokenizer, stop: Sequence[str] = ()) -> None:
        self._decoder, self._stop, self._held = StreamDecoder(tokenizer), stop, ""
        self.found: str | None = None

    def push(self, token: int) -> str:
        return self._show(self._decoder.push(token))

    def finish(self) -> str:
        """What was still held back."""
        shown = self._show(self._decoder.finish())
        held, self._held = self._held, ""
        return shown if self.found else shown + held

    def _show(self, text: str) -> str:
        if not self._stop or self.found:
            return "" if self.found else text
        text, self._held = self._held + text, ""
        places = [(text.find(stop), -len(stop), stop) for stop in self._stop if stop in text]
        if places:
            at, _, self.found = min(places)
            return text[:at]
        longest = max(map(len, self._stop)) - 1
        for at in range(max(0, len(text) - longest), len(text)):
            if any(stop.startswith(text[at:]) for stop in self._stop):
                self._held = text[at:]
                return text[:at]
        return text
