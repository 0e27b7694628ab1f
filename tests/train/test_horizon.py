"""One dial: what `depth` decides, what a recipe may decide instead, and that every rule is said."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwill.model.size import count
from qwill.train.horizon import derive
from qwill.train.settings import OptimizerConfig, PretrainConfig


@given(depth=st.integers(1, 20), vocab=st.sampled_from([512, 8192, 151_936]), experts=st.sampled_from([0, 4, 8]))
def test_a_deeper_model_reads_more_in_larger_batches(depth: int, vocab: int, experts: int) -> None:
    here, deeper = (derive(PretrainConfig(depth=d, experts=experts), vocab) for d in (depth, depth + 1))
    tokens = [d.steps * d.batch_rows * 256 for d in (here, deeper)]
    assert here.model.hidden_size < deeper.model.hidden_size
    assert tokens[0] < tokens[1] and here.batch_rows <= deeper.batch_rows
    assert tokens[0] == pytest.approx(20 * count(here.model).active, rel=here.batch_rows * 256 / tokens[0])
    assert here.batch_rows & (here.batch_rows - 1) == 0
    best = 2048 * (tokens[0] / 1.4e6) ** 0.383 / 256
    assert abs(math.log2(here.batch_rows / best)) <= 0.51 or (best < 1 and here.batch_rows == 1)


@given(steps=st.integers(1, 100_000), rows=st.integers(1, 64))
def test_what_a_recipe_sets_is_taken_as_it_is(steps: int, rows: int) -> None:
    both = derive(PretrainConfig(depth=3, steps=steps, batch_rows=rows), 8192)
    assert (both.steps, both.batch_rows) == (steps, rows)
    only = derive(PretrainConfig(depth=3, steps=steps), 8192)
    assert only.steps == steps
    best = 2048 * (steps * only.batch_rows * 256 / 1.4e6) ** 0.383 / 256
    # Rounded to a power of two, and the horizon with it.
    assert abs(math.log2(only.batch_rows / best)) <= 0.51 or only.batch_rows == 1


def test_the_reference_is_the_demo() -> None:
    """At its own horizon the rule gives the batch that it was measured with."""
    assert derive(PretrainConfig(depth=3, steps=700), 8192).batch_rows == 8


def test_every_rule_is_said_with_its_source() -> None:
    free = " | ".join(derive(PretrainConfig(depth=2), 8192).sentences)
    for part in ("width 128", "arXiv 2505.13738", "arXiv 2203.15556", "20 an active parameter", "Muon 0.02"):
        assert part in free
    fixed = " | ".join(
        derive(
            PretrainConfig(depth=2, steps=10, batch_rows=3, optimizer=OptimizerConfig(optimizer="adamw")), 8192
        ).sentences
    )
    assert fixed.count("as set") == 2 and "3 rows of 256 tokens" in fixed and "Muon" not in fixed
