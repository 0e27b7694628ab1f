"""Replies drawn under a guide's masks, without a model: random logits that lean to what ends a value."""

import numpy as np

from qwill.engine.constrain import Guide
from qwill.engine.constraint import Constraint
from qwill.text.tokenizer import Tokenizer

LIKELY = b'"}],\\abcde'


def allowed(mask_W: np.ndarray) -> np.ndarray:
    """Ids whose bit is set."""
    return np.flatnonzero(np.unpackbits(mask_W.view(np.uint8), bitorder="little"))


def draw(tokenizer: Tokenizer, constraint: Constraint, seed: int, most: int = 600) -> tuple[list[int], Guide]:
    """A reply at temperature 1: its tokens and the guide, which has finished unless the reply grew too long."""
    rng = np.random.default_rng(seed)
    guide = Guide(tokenizer, constraint)
    ids: list[int] = []
    while not guide.finished and len(ids) < most:
        open_ids = allowed(guide.mask())
        logits = rng.normal(size=len(open_ids))
        # Towards the end it gets more and more likely that brackets and quotes close.
        logits[np.isin(open_ids, [*LIKELY, *tokenizer.stop_ids])] += 1 + len(ids) / 30
        weights = np.exp(logits)
        ids.append(int(rng.choice(open_ids, p=weights / weights.sum())))
        guide.accept(ids[-1])
    return ids, guide


def reply(constraint: Constraint, seed: int, tokenizer: Tokenizer) -> str:
    """The text of a reply that stopped."""
    ids, guide = draw(tokenizer, constraint, seed)
    assert guide.finished
    return tokenizer.decode([i for i in ids if i not in tokenizer.stop_ids], skip_special=False)
