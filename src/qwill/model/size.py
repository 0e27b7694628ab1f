"""How large a model is, from its config.json alone: exact, and without making a single tensor."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from qwill.base.errors import DataError, ModelError
from qwill.base.files import read_json
from qwill.model.config import ModelConfig


@dataclass(frozen=True)
class ParameterCount:
    """Numbers of weights. `active` are those that one token passes through: all but the experts not chosen for it.

    `embedding` are the token embedding and, where it is not tied to it, the head; both are part of the other two.
    """

    total: int
    active: int
    embedding: int


def count_parameters(config_json_path: str | Path) -> ParameterCount:
    """Exact parameter counts of the model that a `config.json` (or the folder that holds it) describes.

    Raises ModelError for a file that can't be read and for a model that is not supported.
    """
    path = Path(config_json_path)
    if path.is_dir():
        path = path / "config.json"
    if not path.is_file():
        raise ModelError(f"{path}: there is no such file; expected the config.json of a model.")
    try:
        raw = read_json(path)
    except DataError as error:
        raise ModelError(str(error)) from None
    if not isinstance(raw, dict):
        raise ModelError(f"{path}: expected a JSON object.")
    return count(ModelConfig.from_hf(raw, str(path)))


def count(config: ModelConfig) -> ParameterCount:
    """`count_parameters` of a configuration already read."""
    c = config
    d, q, kv = c.hidden_size, c.num_attention_heads * c.head_dim, c.num_key_value_heads * c.head_dim
    attention = (q + 2 * kv) * d + q * d
    if c.attention_bias:
        attention += (q + 2 * kv) + d
    if c.qk_norm:
        attention += 2 * c.head_dim
    dense = 3 * d * c.intermediate_size
    expert = 3 * d * c.moe_intermediate_size
    router = c.num_experts * d
    total = active = c.num_hidden_layers * (attention + 2 * d) + d
    for layer in range(c.num_hidden_layers):
        sparse = c.is_sparse(layer)
        total += router + c.num_experts * expert if sparse else dense
        active += router + c.num_experts_per_tok * expert if sparse else dense
    embedding = c.vocab_size * d * (1 if c.tie_word_embeddings else 2)
    return ParameterCount(total + embedding, active + embedding, embedding)
