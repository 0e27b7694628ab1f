"""Constrained decoding: which tokens a reply may go on with, by llguidance (an Earley parser over the vocabulary's
trie).

A `Guide` follows one reply. Masks have a bit a token, least significant first, as llguidance and the sampler have
them. Shape letters: B rows of a batch, W words of 32 bits.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from qwill.base.errors import DataError
from qwill.engine.constraint import Constraint, explained, grammar
from qwill.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from llguidance import LLExecutor, LLMatcher, LLTokenizer

Words = NDArray[np.int32]
MANY = 32  # masks; below, waking other threads costs more than it saves (a mask takes some ten microseconds)
AFTER_THINKING = "\n\n"  # what the template puts between </think> and the answer


class _Vocabulary:
    """A tokenizer as llguidance wants it, and the grammars compiled for it.

    The end of a reply is a token behind the vocabulary: so the grammar never asks for a stop token itself, and a
    request may have several, whichever it likes.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        from llguidance import LLTokenizer, TokenizerWrapper

        size = tokenizer.vocab_size
        self.size, self.end = size, size
        self.tokens = [tokenizer.token_bytes(i) for i in range(size)]
        specials = frozenset(tokenizer.specials.values())
        self._own = {token: i for i, token in enumerate(self.tokens) if len(token) == 1 and i not in specials}
        self._encode = tokenizer.encode
        self.tokenizer = tokenizer

        class Wrapped:
            eos_token_id, bos_token_id = self.end, None
            # An id without bytes would be allowed everywhere; as a special token it is allowed nowhere.
            special_token_ids = sorted({*specials, self.end, *(i for i, t in enumerate(self.tokens) if not t)})
            tokens = [token or b"<unused %d>" % i for i, token in enumerate(self.tokens)] + [b"<end of reply>"]
            __call__ = staticmethod(self.encode)

        wrapper = TokenizerWrapper(Wrapped())
        self.ll: LLTokenizer = LLTokenizer(wrapper, eos_token=self.end, slices=LLTokenizer.json_slices())
        self.compiled = lru_cache(maxsize=64)(self._compiled)
        # While a model thinks it may write anything but tokens that structure the conversation.
        free = np.zeros(self.words(size) * 32, dtype=bool)
        free[:size] = [bool(token) and i not in specials for i, token in enumerate(self.tokens)]
        self.free_W = _packed(free)

    @staticmethod
    def words(rows: int) -> int:
        return -(-rows // 32)

    def encode(self, text: str | bytes) -> list[int]:
        """Ids whose bytes are exactly the text's: those of the tokenizer, unless it would change the text (NFC)."""
        data = text if isinstance(text, bytes) else text.encode()
        try:
            ids = self._encode(data.decode())
        except UnicodeDecodeError:
            ids = []
        if b"".join(self.tokens[i] for i in ids) == data:
            return ids
        return [self._own[data[i : i + 1]] for i in range(len(data)) if data[i : i + 1] in self._own]

    def _compiled(self, constraint: Constraint) -> LLMatcher:
        from llguidance import LLMatcher

        matcher = LLMatcher(self.ll, grammar(constraint, self.tokenizer.specials), log_level=0)
        if matcher.is_error():
            raise DataError(explained(constraint, matcher.get_error()))
        return matcher


_vocabularies: WeakKeyDictionary[Tokenizer, _Vocabulary] = WeakKeyDictionary()


def _vocabulary(tokenizer: Tokenizer) -> _Vocabulary:
    if tokenizer not in _vocabularies:
        _vocabularies[tokenizer] = _Vocabulary(tokenizer)
    return _vocabularies[tokenizer]


class Guide:
    """What one reply may go on with, under a constraint.

    Ask `mask` (or `fill_masks` for a batch), choose a token, `accept` it; or choose one, ask whether it may come by
    `take`, and accept it if so. Once `finished`, the reply is complete and may only stop. While the reply thinks, it is
    free, but can't stop.
    """

    def __init__(self, tokenizer: Tokenizer, constraint: Constraint, stop_ids: Collection[int] | None = None) -> None:
        """Raises DataError, one sentence, when the constraint can't be kept."""
        self._vocabulary = _vocabulary(tokenizer)
        self._constraint = constraint
        self._matcher = self._vocabulary.compiled(constraint).deep_copy()
        stop_ids = tokenizer.stop_ids if stop_ids is None else stop_ids
        self._stop_ids = sorted(i for i in stop_ids if 0 <= i < self._vocabulary.size)
        self._thinks = [tokenizer.specials.get(name, -1) for name in ("<think>", "</think>")]
        self._thinking = constraint.thinking == "open" and self._thinks[1] >= 0
        self._may_think = constraint.thinking == "allowed" and min(self._thinks) >= 0
        self._due: list[int] = []  # tokens of the template that have to come next
        self._next: list[int] | None = None  # `_spelt`, once it was asked for
        self._taken: int | None = None  # a token that the matcher has consumed already
        self.finished = False

    def mask(self) -> Words:
        """Bits of the tokens that may come next, int32 [W] with W = ceil(vocab_size / 32)."""
        mask_W = np.zeros(self._vocabulary.words(self._vocabulary.size), dtype=np.int32)
        fill_masks([self], mask_W[None])
        return mask_W

    def take(self, token: int) -> bool:
        """The token's bit in `mask`, without the others: far quicker. A token that may come is the one to accept next:
        the matcher answers and goes on in one walk through its grammar (another one costs a step back)."""
        assert self._taken is None
        if self.finished or self._due:
            return token in (self._stop_ids if self.finished else self._due[:1])
        if not 0 <= token < self._vocabulary.size:
            return False
        if self._thinking:
            free = bool(self._vocabulary.free_W[token >> 5] >> (token & 31) & 1) and token not in self._stop_ids
            return free or token == self._thinks[1]
        if self._may_think and token == self._thinks[0]:
            return True
        if token in self._stop_ids:
            return bool(self._matcher.is_accepting())
        if forced := self._spelt():
            return bool(token == forced[0])
        if not self._matcher.try_consume_tokens([token]):
            return False
        self._taken = token
        return True

    def accept(self, token: int) -> None:
        """The token that was chosen. Raises DataError for one that the mask forbids, and for a constraint that turns
        out too complex to follow."""
        if self.finished:
            return
        self._next = None
        taken, self._taken = self._taken, None
        if taken not in (None, token):
            self._matcher.rollback(1)
            taken = None
        if self._due:
            self._due = self._due[1:] if token == self._due[0] else self._refuse(token)
        elif self._thinking:
            if token in self._stop_ids:
                self._refuse(token)
            if token == self._thinks[1]:
                self._thinking = False
                self._due = self._vocabulary.encode(AFTER_THINKING)
        elif self._may_think and token == self._thinks[0]:
            self._thinking, self._may_think = True, False
        elif token in self._stop_ids and self._matcher.is_accepting():
            self.finished = True
        else:
            self._may_think = False
            known = 0 <= token < self._vocabulary.size
            if taken is None and not (known and self._matcher.consume_token(token)):
                self._refuse(token)
            self.finished = self._matcher.is_stopped()
            if not self.finished:
                self._spelt()  # now that the matcher is in the processor's cache

    def forced(self) -> list[int]:
        """Ids that have to come next, whatever the model says: they need no sampling. Often none."""
        if self.finished or self._thinking or self._may_think:
            return []
        if self._due:
            return list(self._due)
        ids = self._spelt()
        return ids[: self._matcher.validate_tokens(ids)] if ids else []

    def _spelt(self) -> list[int]:
        """Text that has to come is spelt in one way only: these tokens."""
        if self._next is None:
            self._next = self._matcher.compute_ff_tokens()
        return self._next

    def copy(self) -> Guide:
        """A guide at the same place, which then goes its own way."""
        twin = object.__new__(Guide)
        twin.__dict__.update(self.__dict__, _matcher=self._matcher.deep_copy())
        return twin

    def _refuse(self, token: int) -> list[int]:
        said = self._matcher.get_error()
        if said and "doesn't satisfy the grammar" not in said:
            raise DataError(explained(self._constraint, said))
        raise DataError(f"token {token} isn't allowed here by the constraint of kind {self._constraint.kind!r}.")

    # -- for fill_masks

    def _fill_own(self, mask_W: Words) -> bool:
        """Writes the mask where the matcher isn't needed; says whether it was."""
        assert self._taken is None
        # Text is forced only where the reply can't end.
        due = self._due or ([] if self._thinking or self._may_think else self._next)
        if not (self.finished or due or self._thinking):
            return False
        mask_W[:] = 0
        if self.finished:
            self._change(mask_W, self._stop_ids, ())
        elif due:
            self._change(mask_W, due[:1], ())
        else:
            mask_W[: len(self._vocabulary.free_W)] = self._vocabulary.free_W
            self._change(mask_W, self._thinks[1:], self._stop_ids)
        return True

    def _correct(self, mask_W: Words) -> None:
        """Turns the matcher's mask into the reply's: the end is any stop token, the start may be `<think>`."""
        if self._matcher.is_error():
            raise DataError(explained(self._constraint, self._matcher.get_error()))
        vocabulary, accepting = self._vocabulary, self._matcher.is_accepting()
        mask_W[vocabulary.words(vocabulary.size) :] = 0
        out = [] if accepting else self._stop_ids
        if vocabulary.end < 32 * len(mask_W):
            out = [*out, vocabulary.end]
        may = list(self._stop_ids) if accepting else []
        self._change(mask_W, may + self._thinks[:1] if self._may_think else may, out)

    @staticmethod
    def _change(mask_W: Words, allow: Sequence[int], forbid: Sequence[int]) -> None:
        bits = mask_W.data.cast("B").cast("I")  # its elements are far quicker than numpy's
        for i in forbid:
            bits[i >> 5] &= ~(1 << (i & 31)) & 0xFFFFFFFF
        for i in allow:
            bits[i >> 5] |= 1 << (i & 31)


def fill_masks(guides: Sequence[Guide | None], bitmask_BW: Any) -> None:
    """The masks of a batch, on all cores if there are many: into an int32 array or CPU tensor [B, W] with W at least
    ceil(rows of the model's vocabulary / 32); it's quicker if there is a bit more than the vocabulary has tokens.

    A row without a guide allows everything. Spare rows of a padded vocabulary are never allowed in a row with one.
    Raises DataError for a constraint that turns out too complex to follow.
    """
    masks_BW: Words = bitmask_BW if isinstance(bitmask_BW, np.ndarray) else bitmask_BW.numpy()
    asked: list[tuple[Guide, int]] = []
    for row, guide in enumerate(guides):
        if guide is None:
            masks_BW[row] = -1
        elif not guide._fill_own(masks_BW[row]):
            asked.append((guide, row))
    if len(asked) >= MANY:
        _fill_many(asked, masks_BW)
        return
    for guide, row in asked:
        mask_W, bits = masks_BW[row], guide._vocabulary.size + 1
        # llguidance wants room for exactly one bit a token of its own vocabulary, which has an end.
        room_W = mask_W if 32 * len(mask_W) >= bits else np.zeros(_Vocabulary.words(bits), dtype=np.int32)
        guide._matcher.unsafe_compute_mask_ptr(room_W.ctypes.data, 4 * _Vocabulary.words(bits))
        if room_W is not mask_W:
            mask_W[:] = room_W[: len(mask_W)]
        guide._correct(mask_W)


def _fill_many(asked: list[tuple[Guide, int]], masks_BW: Words) -> None:
    by_size: dict[int, list[tuple[Guide, int]]] = {}
    for guide, row in asked:
        by_size.setdefault(guide._vocabulary.size, []).append((guide, row))
    for size, rows in by_size.items():
        room_BW = np.zeros((len(rows), _Vocabulary.words(size + 1)), dtype=np.int32)
        matchers = [(guide._matcher, place) for place, (guide, _) in enumerate(rows)]
        _executor().unsafe_compute_mask_ptr(matchers, room_BW.ctypes.data, room_BW.shape[1] * 4, len(rows))
        width = min(room_BW.shape[1], masks_BW.shape[1])
        for place, (guide, row) in enumerate(rows):
            masks_BW[row, :width] = room_BW[place, :width]
            guide._correct(masks_BW[row])


@cache
def _executor() -> LLExecutor:
    from llguidance import LLExecutor

    return LLExecutor()


def _packed(allowed: NDArray[np.bool_]) -> Words:
    return np.packbits(allowed, bitorder="little").view(np.int32).copy()
