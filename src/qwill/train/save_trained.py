"""What a stage that trains writes: its model, sampled from as its start is, with its tokenizer's end tokens too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from qwill.base.errors import ModelError
from qwill.base.files import read_json
from qwill.base.stage import StageContext
from qwill.model.config import ModelConfig
from qwill.model.files import released_sampling, save_model
from qwill.model.transformer import Transformer
from qwill.text.tokenizer import Tokenizer


def kept_sampling(start: Path, config: ModelConfig, tokenizer: Tokenizer) -> dict[str, Any]:
    """generation_config.json of a model that was trained from `start`: the start's, or the released one where it has
    none. `eos_token_id` is the start's with those tokens of the tokenizer that end texts and replies, as training
    teaches them. Raises ModelError for a file that is no object."""
    path = start / "generation_config.json"
    kept = read_json(path) if path.is_file() else released_sampling(config)
    if not isinstance(kept, dict):
        raise ModelError(f"{path}: expected a JSON object; mend or remove it.")
    own = kept.get("eos_token_id")
    ends = [*(own if isinstance(own, list) else [] if own is None else [own]), *tokenizer.ends]
    eos = list(dict.fromkeys(ends))
    return kept | {"eos_token_id": eos[0] if len(eos) == 1 else eos or None}


def save_trained(
    model: Transformer, start: Path, tokenizer: Tokenizer, ctx: StageContext, score_D: Tensor | None = None
) -> None:
    """The model, with an adapter that is on it added, into the stage's folder; `score_D` is a reward model's head."""
    save_model(
        model, ctx.out, tokenizer, metadata={"recipe_id": ctx.recipe_id},
        generation_config=kept_sampling(start, model.config, tokenizer), score_D=score_D, merged=True,
    )  # fmt: skip
