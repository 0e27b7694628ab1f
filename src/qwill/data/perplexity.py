"""How surprising a document is to a model of ours: bits per byte, a score that any model folder can give.

Low for what the model has learnt, and for what says the same again and again; high for what is in no language. CCNet
(Wenzek et al. 2020, arXiv 1911.00359) keeps the texts that a Wikipedia model finds likely.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from qwill.model.transformer import Transformer
    from qwill.text.tokenizer import Tokenizer

WIDTH = 512  # tokens that the model sees at once


@lru_cache(maxsize=1)
def _loaded(folder: Path) -> tuple[Transformer, Tokenizer]:
    from qwill.model.files import load_model
    from qwill.text.tokenizer import Tokenizer

    return load_model(folder).eval(), Tokenizer.load(folder)


def bits_per_byte(folder: Path, texts: Sequence[str]) -> NDArray[np.float64]:
    """[len(texts)] bits per byte of UTF-8 under the model in `folder`, rounded to four places; NaN for an empty text.

    The model is loaded once a process. Raises what loading a model raises.
    """
    from qwill.model.text_bits import text_bits

    model, tokenizer = _loaded(folder)
    # Half a surrogate pair has no bytes; it counts as the question mark that `replace` makes of it.
    data = [text.encode("utf-8", "replace") for text in texts]
    bits = text_bits(model, tokenizer, [d.decode() for d in data], min(WIDTH, model.config.max_position_embeddings))
    sizes = np.array([len(d) or np.nan for d in data])
    return np.asarray(np.round(bits / sizes, 4))
