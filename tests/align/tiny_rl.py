"""A tiny model that often ends its replies, rows of tasks, and rewards that do not depend on knowing anything."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.engine.tiny import tiny_model
from tests.train.tiny_training import Killed

from qwill.align.rollouts import Rollout
from qwill.align.sample_rollouts import roll_out
from qwill.align.settings import GRPOConfig
from qwill.model.transformer import Transformer
from qwill.text.tokenizer import Tokenizer
from qwill.text.vocabulary import to_characters
from qwill.train.settings import OptimizerConfig


class ManyStops(Tokenizer):
    """One token a byte; a reply also ends at a small letter, as an untrained model hardly finds `<|im_end|>`."""

    @property
    def stop_ids(self) -> tuple[int, ...]:
        return (*super().stop_ids, *range(ord("a"), ord("z") + 1))


TOKENIZER = ManyStops.from_trained({to_characters(bytes([b])): b for b in range(256)}, [])
assert isinstance(TOKENIZER, ManyStops)


def model(kind: str, seed: int = 0) -> Transformer:
    return tiny_model(kind, TOKENIZER.padded_vocab_size, 100, seed)


def rows(count: int = 6) -> list[dict[str, Any]]:
    languages = ("en", "zh")
    return [
        {"id": f"t{i}", "family": "reverse", "language": languages[i % 2], "prompt": f"{i}?", "key": f"reverse:{i}234"}
        for i in range(count)
    ]


def by_length(row: dict[str, Any], reply: str) -> bool:
    """A reward that splits most groups."""
    return len(reply) % 2 == 0


def until_cut(cut: int | None) -> Callable[..., list[list[Rollout]]]:
    """`roll_out` in a process that is killed at step `cut`."""

    def drawn(*arguments: Any) -> list[list[Rollout]]:
        if arguments[4] == cut:
            raise Killed
        return roll_out(*arguments)

    return drawn


def config(**changes: Any) -> GRPOConfig:
    """Four steps of 3 prompts with 6 replies each, at rates that leave most groups undecided to the end."""
    settings: dict[str, Any] = {
        "steps": 4, "prompts": 3, "samples": 6, "max_tokens": 10,
        "optimizer": OptimizerConfig(learning_rate=2e-3, matrix_rate=2e-3),
    }  # fmt: skip
    return GRPOConfig(**settings | changes)
