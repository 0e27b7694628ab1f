"""What a model is sampled with, and where its replies end, outlives every stage that trains it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.align.test_qlora import STAGES, stage
from tests.align.tiny_rl import TOKENIZER, model
from tests.engine.tiny import byte_tokenizer

from qwill.base.errors import ModelError
from qwill.engine.language_model import load
from qwill.model.files import load_model, released_sampling, save_model
from qwill.text.tokenizer import Tokenizer
from qwill.train.save_trained import kept_sampling

END, TEXT_END = TOKENIZER.special("<|im_end|>"), TOKENIZER.special("<|endoftext|>")
OWN = {"do_sample": True, "temperature": 0.6, "top_p": 0.95, "top_k": 20, "eos_token_id": [7, END], "extra": 1}


def started(folder: Path, config: Any = OWN) -> Path:
    save_model(model("dense"), folder, TOKENIZER)
    (folder / "generation_config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize("name", STAGES)
def test_every_stage_keeps_how_its_start_is_sampled_from(name: str, tmp_path: Path) -> None:
    start = started(tmp_path / "start")
    ctx = stage(name, tmp_path / "run", start=start, lora=None)[1]
    kept = json.loads((ctx.out / "generation_config.json").read_text())
    assert kept | {"eos_token_id": None} == OWN | {"eos_token_id": None}
    assert kept["eos_token_id"][:3] == [7, END, TEXT_END] and set(TOKENIZER.ends) <= set(kept["eos_token_id"])
    if name != "reward":
        was, now = load(start), load(ctx.out)
        assert now.sampling == was.sampling and now.sampling.temperature == 0.6
        assert set(now.stop_ids) >= set(was.stop_ids)


def test_ends_are_united_and_none_stands_twice(tmp_path: Path) -> None:
    plain = byte_tokenizer()
    config = load_model(started(tmp_path / "start")).config
    for eos, expected in ((None, [END, TEXT_END]), (TEXT_END, [TEXT_END, END]), ([9, TEXT_END], [9, TEXT_END, END])):
        (tmp_path / "start" / "generation_config.json").write_text(json.dumps({"eos_token_id": eos}))
        assert kept_sampling(tmp_path / "start", config, plain) == {"eos_token_id": expected}
    other = Tokenizer(plain._document, plain.config | {"eos_token": "<|fim_pad|>"}, plain.chat_template)
    assert kept_sampling(tmp_path / "start", config, other)["eos_token_id"] == [9, TEXT_END, other.end_id, END]
    # A start without one, such as a GGUF file, gets the released sampling.
    found = kept_sampling(tmp_path / "start.gguf", config.with_(eos_token_id=3), plain)
    assert found == released_sampling(config) | {"eos_token_id": [3, END, TEXT_END]}


def test_a_file_that_is_no_object_is_named(tmp_path: Path) -> None:
    start = started(tmp_path / "start", [1])
    with pytest.raises(ModelError, match=r"generation_config\.json: expected a JSON object; mend or remove it\.$"):
        kept_sampling(start, load_model(start).config, TOKENIZER)
