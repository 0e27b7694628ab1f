"""Whatever comes when, greedy replies are the definition's, token for token, or part from them at a tie.

Prompts of mixed lengths that begin alike, replies of mixed lengths, several samples, cancels at any moment, few blocks
and small passes, on both executors and every kind of model. The oracle is the model's definition run over the whole
text, one sequence at a time; where its two best logits are within `TIE`, a reply may go either way, and is counted.
"""

from functools import cache

import pytest
import torch
from hypothesis import event, given, settings
from hypothesis import strategies as st
from test_engine import books_are_clean, collect, finish
from test_executors import OTHERS, VARIANTS
from tiny import redrawn

from qwill.engine import native
from qwill.engine.engine import Engine, EngineSettings
from qwill.engine.executor import TorchExecutor
from qwill.engine.request import Request
from qwill.engine.sampler import Sampling

TIE = 1e-4
LONGEST = 44
MODELS = {name: redrawn(config, seed=6) for name, config in {**VARIANTS, **OTHERS}.items()}


@cache
def after(kind, tokens):
    """(likeliest token, by how much) after each of the tokens, from one pass over all of them."""
    with torch.inference_mode():
        values, ids = MODELS[kind].logits(torch.tensor([tokens]))[0].topk(2)
    return list(zip(ids[:, 0].tolist(), (values[:, 0] - values[:, 1]).tolist(), strict=True))


def at_ties(kind, prompt, reply):
    """At how many places a tie decided what was said. Fails where something else did."""
    ties = 0
    known = after(kind, (*prompt, *reply))[len(prompt) - 1 :]
    for place, (token, (best, gap)) in enumerate(zip(reply, known, strict=False)):
        assert token == best or gap < TIE, f"{reply} instead of {best} at {place}, by {gap}"
        ties += token != best
    return ties


@st.composite
def asks(draw):
    """Prompts, each with the length of its reply, its samples, passes before it comes, passes until its cancel."""
    stem = draw(st.lists(st.integers(0, 96), min_size=1, max_size=28))
    made = []
    for _ in range(draw(st.integers(1, 9))):
        prompt = stem[: draw(st.integers(0, len(stem)))] + draw(st.lists(st.integers(0, 96), min_size=1, max_size=6))
        cancel = draw(st.one_of(st.none(), st.none(), st.none(), st.integers(0, 12)))
        length, samples, wait = draw(st.integers(1, 10)), draw(st.sampled_from([1, 1, 3])), draw(st.integers(0, 5))
        made.append((prompt, length, samples, wait, cancel))
    return draw(st.permutations(made))


@pytest.mark.parametrize("executor", ["native", "torch"])
@settings(deadline=None, max_examples=80)
@given(kind=st.sampled_from(sorted(MODELS)), asked=asks(), data=st.data())
def test_greedy_replies_are_those_of_the_definition(executor, kind, asked, data):
    model = MODELS[kind]
    size = 16 if executor == "native" else data.draw(st.sampled_from([1, 3, 4, 5]), "block size")
    blocks = -(-LONGEST // size) + data.draw(st.integers(0, 6), "more blocks")
    running = data.draw(st.integers(1, 6), "running")
    engine = Engine(
        model, None, EngineSettings(blocks=blocks, block_size=size, max_running=running,
                                    token_budget=running + data.draw(st.integers(0, 24), "budget"),
                                    snapshots=data.draw(st.integers(1, 6), "snapshots")),
    )  # fmt: skip
    if executor == "torch" or not native.suits(model):
        assert isinstance(engine.executor, TorchExecutor) or native.lanes() < 16
    else:
        assert isinstance(engine.executor, native.NativeExecutor)
    out, due, cancelled = {}, {}, set()

    def a_pass():
        collect(engine, out)
        for name in [name for name, left in due.items() if left == 0]:
            engine.cancel(name)
            cancelled.add(name)
        for name in due:
            due[name] -= 1

    for number, (prompt, length, n, wait, cancel) in enumerate(asked):
        for _ in range(wait):
            a_pass()
        sampling = Sampling(max_tokens=length, temperature=0)
        engine.add(Request(str(number), prompt, sampling, n=n))
        if cancel is not None:
            due[str(number)] = cancel
    while any(left >= 0 for left in due.values()):
        a_pass()
    finish(engine, out)
    books_are_clean(engine)
    ties = 0
    assert {name for name, _ in out} == {str(i) for i in range(len(asked))}
    for (name, _), (reply, _, last) in out.items():
        prompt, length, _, _, _ = asked[int(name)]
        assert last.prompt_tokens == len(prompt)
        if last.finish_reason == "cancel":
            assert name in cancelled and len(reply) <= length
        else:
            assert last.finish_reason == "length" and len(reply) == length
        ties += at_ties(kind, prompt, reply)
    event(f"{'native' if size == 16 else 'torch'}: {ties} ties", ties)
    assert ties <= 3


def test_the_oracle_notices_one_wrong_token():
    prompt, (best, gap) = [3, 4, 5], after("dense tied", (3, 4, 5))[-1]
    assert gap > TIE and at_ties("dense tied", prompt, [best]) == 0
    with pytest.raises(AssertionError, match="instead of"):
        at_ties("dense tied", prompt, [(best + 1) % 97])
