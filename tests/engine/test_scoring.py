"""Log-likelihoods of continuations are the model's own, whatever shares a pass, a prefix or a cache with them."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_executors import OTHERS
from tiny import redrawn, tiny_model

from qwill.base.errors import DataError, ModelError
from qwill.engine.engine_settings import EngineSettings
from qwill.engine.scoring import Scorer

MODELS = {"dense": tiny_model("dense"), "moe": tiny_model("moe"), "hybrid": redrawn(OTHERS["qwen3_next"], seed=4)}
IDS = st.integers(0, 96)
# The hybrid's own float32 pass is up to 8e-4 away from the same in float64; attention's sums are far closer.
CLOSE = {"dense": 2e-4, "moe": 2e-4, "hybrid": 3e-3}


def definition(model, context, continuation):
    """(sum of log-probabilities, all greedy) from one pass over the whole, cut on the left as lm-eval cuts it."""
    tokens = (context + continuation)[-(model.config.max_position_embeddings + 1) :]
    with torch.no_grad():
        logits_TV = model.logits(torch.tensor([tokens[:-1]]))[0, -len(continuation) :].double()
    wanted = torch.tensor(continuation)
    own = logits_TV.log_softmax(1).gather(1, wanted[:, None]).sum()
    return float(own), bool((logits_TV.argmax(1) == wanted).all())


def likely(model, context, count):
    """The greedy continuation, so that `greedy` is not always False."""
    tokens = list(context)
    for _ in range(count):
        with torch.no_grad():
            tokens.append(int(model.logits(torch.tensor([tokens]))[0, -1].argmax()))
    return tokens[len(context) :]


@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_scores_are_the_models_own(data):
    """Contexts that begin alike, choices that do, single tokens, and so few blocks that sequences are preempted; asked
    twice, the second time from the cache."""
    kind = data.draw(st.sampled_from(sorted(MODELS)))
    model, size = MODELS[kind], data.draw(st.sampled_from([4, 16]))
    blocks = -(-66 // size) + 1 + data.draw(st.integers(0, 12))
    snapshots = data.draw(st.sampled_from([0, 1, 8]))
    scorer = Scorer(
        model, EngineSettings(blocks=blocks, block_size=size, max_running=4, token_budget=9, snapshots=snapshots)
    )
    stem = data.draw(st.lists(IDS, min_size=1, max_size=30))
    pairs = []
    for _ in range(data.draw(st.integers(1, 5))):
        context = stem[: data.draw(st.integers(1, len(stem)))] + data.draw(st.lists(IDS, max_size=20))
        begin = data.draw(st.lists(IDS, max_size=4))
        for _ in range(data.draw(st.integers(1, 4))):
            pairs.append((context, begin + data.draw(st.lists(IDS, min_size=1, max_size=12))))
        if data.draw(st.booleans()):
            pairs.append((context, likely(model, context[-40:], 3)))
    found = scorer.score(pairs)
    for (context, continuation), one in zip(pairs, found, strict=True):
        value, greedy = definition(model, context, continuation)
        assert one.logprob == pytest.approx(value, abs=CLOSE[kind])
        assert (one.greedy, one.tokens) == (greedy, len(continuation))
    again = scorer.score(pairs)
    assert [one.logprob for one in again] == pytest.approx([one.logprob for one in found], abs=CLOSE[kind])
    assert scorer._pool.free == scorer._pool.blocks


def test_too_long_is_cut_on_the_left():
    model = MODELS["dense"]
    context, continuation = [i % 97 for i in range(90)], [5, 6, 7]
    (one,) = Scorer(model).score([(context, continuation)])
    assert one.logprob == pytest.approx(definition(model, context, continuation)[0], abs=1e-4)
    (whole,) = Scorer(model).score([(context, [i % 97 for i in range(64)])])
    assert whole.tokens == 64


def test_a_context_is_computed_once():
    scorer = Scorer(MODELS["dense"])
    context = list(range(40))
    scorer.score([(context, [50 + i, 1, 2]) for i in range(4)])
    assert scorer.computed == 40 + 4 * 2
    scorer.score([(context, [i]) for i in range(30)])  # single tokens: one pass over what isn't cached
    assert scorer.computed == 40 + 4 * 2 + 8


@pytest.mark.parametrize(
    ("pair", "says"),
    [
        (([1], []), "empty continuation"),
        (([], [1]), "empty context"),
        (([1], [97]), "id 97"),
        (([1], [1] * 65), "context is 64"),
    ],
)
def test_what_cannot_be_scored(pair, says):
    with pytest.raises(DataError, match=says):
        Scorer(MODELS["dense"]).score([([1], [2]), pair])
    with pytest.raises(DataError, match="room for 32"):
        Scorer(MODELS["dense"], EngineSettings(blocks=3)).score([([1] * 30, [2] * 20)])


def test_broken_weights_are_said_and_nothing_is_held():
    model = tiny_model("dense", seed=3)
    with torch.no_grad():
        model.layers[1].input_layernorm.weight.fill_(float("nan"))
    broken = Scorer(model)
    with pytest.raises(ModelError, match="NaN"):
        broken.score([(list(range(20)), [1, 2, 3])])
    assert broken._pool.free == broken._pool.blocks
