"""What the HTTP process has to know of a model whose weights only vLLM reads."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from qwill.base.files import read_json
from qwill.engine.defaults import CAUTIOUS, NOT_THINKING, THINKING, folder_defaults
from qwill.serve.wire import ModelInfo
from qwill.text.tokenizer import Tokenizer


def folder_info(folder: Path, context: int | None) -> ModelInfo:
    """What the HTTP process needs to know of the model in a folder, without its weights. `context`: vLLM's.

    Raises `ArtifactError`, `ConfigError` for a folder that is no model's.
    """
    config = read_json(folder / "config.json")
    config = config.get("text_config", config)
    tokenizer = Tokenizer.load(folder)
    sampling, stop_ids = folder_defaults(folder)
    eos = config.get("eos_token_id")
    declared = [] if eos is None else [eos] if isinstance(eos, int) else [*eos]
    thinks = "<think>" in tokenizer.specials
    own = replace(NOT_THINKING if thinks else CAUTIOUS, **sampling)  # type: ignore[arg-type]

    def numbers(values: Any) -> dict[str, float]:
        return {name: value for name, value in asdict(values).items() if isinstance(value, int | float)}

    return ModelInfo(
        tokenizer=tokenizer,
        context=context or int(config["max_position_embeddings"]),
        vocab_size=min(tokenizer.vocab_size, int(config["vocab_size"])),
        stop_ids=tuple(sorted({*tokenizer.stop_ids, *declared, *stop_ids})),
        sampling=numbers(own),
        thinking_sampling=numbers(THINKING),
        thinks=thinks,
        dimensions=int(config["hidden_size"]),
    )
