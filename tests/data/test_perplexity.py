"""Bits per byte as a score: that of the evaluation, of each text alone, whatever else is in the batch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tests.engine.tiny import byte_tokenizer, tiny_model

from qwill.data import perplexity
from qwill.evaluate.bits_per_byte import bits_per_byte
from qwill.model.files import save_model

TEXTS = ["the river", "石头 and stone " * 12, "", "a", "zzzz\n\n"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tokenizer = byte_tokenizer()
    model = tiny_model("dense", vocab_size=tokenizer.padded_vocab_size, context=64)
    (tmp_path / "model").mkdir()
    save_model(model, tmp_path / "model", tokenizer)
    return tmp_path / "model"


def test_it_is_the_bits_per_byte_of_the_evaluation(folder: Path) -> None:
    found = perplexity.bits_per_byte(folder, TEXTS)
    model, tokenizer = perplexity._loaded(folder)
    for text, value in zip(TEXTS, found, strict=True):
        if text:
            assert value == pytest.approx(bits_per_byte(model, tokenizer, [text], 64).bits_per_byte, abs=1e-4)
        else:
            assert np.isnan(value)


def test_a_score_is_of_the_text_alone(folder: Path) -> None:
    found = perplexity.bits_per_byte(folder, TEXTS)
    alone = [float(perplexity.bits_per_byte(folder, [text])[0]) for text in TEXTS]
    turned = perplexity.bits_per_byte(folder, TEXTS[::-1])[::-1]
    assert np.array_equal(found, alone, equal_nan=True) and np.array_equal(found, turned, equal_nan=True)


def test_half_a_surrogate_pair_is_no_reason_to_fail(folder: Path) -> None:
    assert perplexity.bits_per_byte(folder, ["a\ud800b"]) == perplexity.bits_per_byte(folder, ["a?b"])
