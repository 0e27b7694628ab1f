"""A reference of one's own: `inputs: {reference: MODEL}` in the start's place, for DPO and its kin, KTO, and the KL of
online reinforcement learning. It may differ from the policy in everything but the vocabulary."""

from __future__ import annotations

from qwill.base.errors import ConfigError, DataError
from qwill.base.stage import StageContext
from qwill.engine.language_model import load
from qwill.model.transformer import Transformer
from qwill.text.tokenizer import Tokenizer


def own_reference(ctx: StageContext, tokenizer: Tokenizer, unused: str | None) -> Transformer | None:
    """The model that the recipe names as reference; None where it names none. Raises ConfigError where it would count
    for nothing (`unused` says why) and DataError for one of another vocabulary."""
    if (place := ctx.inputs.get("reference")) is None:
        return None
    if unused:
        raise ConfigError(f"{unused}, so inputs.reference counts for nothing; leave one of the two out.")
    found = load(place)
    same_vocabulary(tokenizer, found.tokenizer, str(place), "the reference", "a log-ratio", "a reference")
    return found.model.requires_grad_(False).eval()


def same_vocabulary(
    student: Tokenizer,
    teacher: Tokenizer,
    where: str,
    name: str = "the teacher",
    use: str = "distillation",
    choose: str = "a teacher",
) -> None:
    """Raises DataError, naming the first token that differs, unless every id means the same to both."""
    whose = "the student" if use == "distillation" else "the model"
    if student.vocab_size != teacher.vocab_size:
        raise DataError(
            f"{where}: {name}'s vocabulary has {teacher.vocab_size} tokens, {whose}'s {student.vocab_size}; "
            f"{use} needs the same one: choose {choose} of {whose}'s family."
        )
    for i in range(student.vocab_size):
        if student.token_bytes(i) != teacher.token_bytes(i):
            raise DataError(
                f"{where}: token {i} is {teacher.token_bytes(i)!r} to {name} and {student.token_bytes(i)!r} to "
                f"{whose}; {use} needs the same vocabulary: choose {choose} of {whose}'s family."
            )
