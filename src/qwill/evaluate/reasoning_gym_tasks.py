"""Families of reasoning-gym (Stojanovski et al. 2025): problems without end, each with its own scorer.

The package is optional (`pip install 'qwill[eval]'`) and, unlike the other sources, is executed: it generates.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from qwill.base.config import nearest
from qwill.base.errors import ConfigError, DataError
from qwill.evaluate.task import Example, Score

# Those whose questions a small model can read, of every part of the package; none needs further packages or files.
FAMILIES = (
    "basic_arithmetic", "chain_sum", "gcd", "lcm", "products", "fraction_simplification", "count_primes",
    "simple_equations", "polynomial_multiplication", "leg_counting", "time_intervals", "calendar_arithmetic",
    "base_conversion", "letter_counting", "number_sorting", "number_filtering", "spell_backward",
    "word_sequence_reversal", "word_sorting", "caesar_cipher", "isomorphic_strings", "number_sequence",
    "countdown", "mini_sudoku", "maze", "n_queens", "shortest_path", "largest_island", "family_relationships",
    "knights_knaves", "syllogism", "simple_geometry", "coin_flip", "circuit_logic",
)  # fmt: skip


def rows(families: Sequence[str] = FAMILIES, each: int = 20, seed: int = 0) -> Iterator[dict[str, Any]]:
    """`each` problems of every family: question, answer, family, id and the package's own entry.

    Raises ConfigError where the package is not installed or has no such family.
    """
    try:
        import reasoning_gym
        from reasoning_gym.factory import DATASETS
    except ImportError:
        raise ConfigError("this task needs reasoning-gym; run: pip install 'qwill[eval]'.") from None
    for family in families:
        if family not in DATASETS:
            raise ConfigError(f"reasoning-gym has no family {family!r}; {nearest(family, sorted(DATASETS))}")
        for number, entry in enumerate(reasoning_gym.create_dataset(family, size=each, seed=seed)):
            yield {
                "id": f"{family}-{number}",
                "family": family,
                "question": entry["question"],
                "answer": entry["answer"],
                "entry": entry,
            }


def score(example: Example, reply: str) -> Score:
    """The family's own score of what stands in `<answer>` tags, else behind the last announcement of an answer, else of
    the whole reply."""
    import reasoning_gym

    from qwill.evaluate.text_scorers import announced

    entry = example.fields.get("entry")
    if not isinstance(entry, dict) or "metadata" not in entry:
        raise DataError("the scorer reasoning_gym reads the field entry, which the example has not.")
    said = reasoning_gym.utils.extract_answer(reply)
    said = (announced(reply) if said is None else said).strip()
    value = float(reasoning_gym.get_score_answer_fn(entry["metadata"]["source_dataset"])(said, entry))
    return Score(min(max(value, 0.0), 1.0), said[:200])
