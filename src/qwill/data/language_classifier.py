"""py3langid's classifier for many texts at once: its tables, walked in C where a compiler exists, in Python elsewhere.

Both sum in double precision and round to SCORE_DIGITS, so that they say the same; py3langid itself sums in single
precision and differs from them by about 1e-6."""

from __future__ import annotations

import ctypes
import os
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qwill.base.errors import ConfigError

SCORE_DIGITS = 6

# Languages that share a script or many words with English or Chinese, or are simply common.
_COMMON = """
en zh yue wuu ja ko vi th id ms fr de es ca it pt nl sv da no fi pl cs ro hu tr la ru uk bg el ar fa ur he hi bn ta te
sw tl af hr sk
"""
COMMON = frozenset(_COMMON.split())

_native = os.environ.get("QWILL_NATIVE", "1") != "0"


def use_native(on: bool) -> None:
    """Walk the texts in C (where a compiler exists) or in Python."""
    global _native
    _native = on


@cache
def _model() -> Any:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)


@cache
def _library() -> ctypes.CDLL | None:
    from qwill.base.native_build import compile_library

    return compile_library("language.c", "qwill.data", threads=False)


@cache
def classifier(labels: frozenset[str]) -> Classifier:
    """The classifier among COMMON and `labels`. Raises ConfigError for a label that py3langid does not know."""
    known = _model().labels
    for label in sorted(labels):
        if label not in known:
            raise ConfigError(
                f"labels names {label!r}, which py3langid does not know; expected some of {', '.join(sorted(known))}, "
                "or [] to tell the language by its script alone."
            )
    return Classifier([name for name in known if name in labels or name in COMMON])


@dataclass
class Classifier:
    """`labels`: what it tells apart, in the order of its answers' columns."""

    labels: list[str]

    @cached_property
    def _columns(self) -> list[int]:
        """Columns of py3langid's table, a label's second column after all firsts (Serbian has one for each script)."""
        names = list(_model().nb_classes)
        first = [names.index(label) for label in self.labels]
        return first + [i for i, name in enumerate(names) if name in self.labels and i not in first]

    @cached_property
    def _tables(self) -> tuple[NDArray, ...]:
        model = _model()
        return (
            np.frombuffer(model.tk_nextmove, np.uint32),
            np.frombuffer(model.tk_row, np.uint16),
            np.array(model.tk_output, np.int32),
            np.ascontiguousarray(model.nb_ptc[:, self._columns], np.float32),
            model.nb_pc[self._columns].astype(np.float64),
        )

    def posteriors(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """[texts, labels]: each row sums to 1; rows of a text without any known n-gram are equal everywhere.

        The softmax has temperature sqrt(bytes), which keeps py3langid's scores comparable across lengths."""
        encoded = [_encoded(text) for text in texts]
        library = _library() if _native else None
        scores = self._walk(encoded) if library is None else self._walk_native(library, encoded)
        lengths = np.array([max(len(data), 1) for data in encoded], np.float64)
        scores /= np.sqrt(lengths)[:, None]
        scores = np.exp(scores - scores.max(axis=1, keepdims=True)) if len(texts) else scores
        scores /= scores.sum(axis=1, keepdims=True)
        for extra, column in enumerate(self._columns[len(self.labels) :], len(self.labels)):
            scores[:, self.labels.index(_model().nb_classes[column])] += scores[:, extra]
        return np.round(scores[:, : len(self.labels)], SCORE_DIGITS)

    def _walk(self, encoded: Sequence[bytes]) -> NDArray[np.float64]:
        from py3langid.langid import visit_counts

        model, weights, prior = _model(), self._tables[3], self._tables[4]
        base = [row << 8 for row in model.tk_row]
        scores = np.zeros((len(encoded), len(prior)))
        for i, data in enumerate(encoded):
            visits = visit_counts(model.tk_nextmove, base, model.tk_output, data)
            if visits:
                counts = np.log1p(np.array(list(visits.values()), np.float64))
                scores[i] = counts @ weights[list(visits)].astype(np.float64) + prior
        return scores

    def _walk_native(self, library: ctypes.CDLL, encoded: Sequence[bytes]) -> NDArray[np.float64]:
        weights, prior = self._tables[3:]
        starts = np.concatenate(([0], np.cumsum([len(data) for data in encoded], dtype=np.int64)))
        longest = max(map(len, encoded), default=0)
        logs = np.log1p(np.arange(longest + 1, dtype=np.float64))
        count, seen = np.zeros(len(weights), np.int32), np.empty(longest + 1, np.int32)
        scores, known = np.empty((len(encoded), len(prior))), np.empty(len(encoded), np.uint8)
        library.score_texts(
            b"".join(encoded), _at(starts), ctypes.c_int64(len(encoded)), *map(_at, self._tables), _at(logs),
            ctypes.c_int64(len(prior)), _at(count), _at(seen), _at(scores), _at(known),
        )  # fmt: skip
        scores[known == 0] = 0.0
        return scores


def _at(array: NDArray) -> ctypes.c_void_p:
    return ctypes.c_void_p(array.ctypes.data)


def _encoded(text: str) -> bytes:
    """The bytes that py3langid looks at."""
    if text.isupper():
        text = text.lower()
    return unicodedata.normalize("NFC", text).encode("utf-8", "surrogatepass")
