"""Whether whole replies of an engine that speculates have the law that the model's own probabilities give them."""

import math
from collections import Counter

import numpy as np
import torch
from scipy import stats
from test_engine import finish
from test_sampler import reference

from qwill.engine.engine import Engine
from qwill.engine.request import Request
from qwill.engine.sampler import Sampling
from qwill.model.transformer import Transformer

VOCAB, PROMPT, LONGEST, STOP = 4, [1, 3, 3], 4, 0


def law_of(model: Transformer, sampling: Sampling) -> Counter[tuple[int, ...]]:
    """The probability of every reply of at most LONGEST tokens, with what penalties, bias, truncation and stops do at
    each place."""
    law: Counter[tuple[int, ...]] = Counter()

    def walk(reply: tuple[int, ...], chance: float) -> None:
        if len(reply) == LONGEST or reply[-1:] == (STOP,):
            law[reply] += chance
            return
        with torch.no_grad():
            logits = model.logits(torch.tensor([[*PROMPT, *reply]]))[0, -1].double().numpy().copy()
        for token in range(VOCAB):
            times = reply.count(token)
            logits[token] -= sampling.presence_penalty * (times > 0) + sampling.frequency_penalty * times
            logits[token] += sampling.logit_bias.get(token, 0)
        if len(reply) < sampling.min_tokens:
            logits[STOP] = -1e9
        for token, p in enumerate(reference(logits, sampling)):
            if p > 1e-12:
                walk((*reply, token), chance * p)

    walk((), 1.0)
    return law


def replies_follow_the_law(engine: Engine, model: Transformer, sampling: Sampling, count: int = 3000) -> None:
    """By a chi-square test; the drafts must be neither always right nor always wrong, or little is tested."""
    law, out = law_of(model, sampling), {}
    for i in range(count // 60):
        engine.add(Request(str(i), PROMPT, sampling, n=60, seed=i, stop_ids=frozenset({STOP}), whole=True, logprobs=0))
        finish(engine, out)
    counts: Counter[tuple[int, ...]] = Counter()
    for tokens, _, last in out.values():
        counts[tuple(tokens)] += 1
        if len(tokens) == 1:  # sampled log-probabilities are of the law too
            assert abs(last.logprobs[0].sampled - math.log(law[tuple(tokens)])) < 1e-4
    told = engine.stats()
    assert 0.1 < told.accepted / told.drafted < 0.97 and set(counts) <= set(law)
    common = [reply for reply in law if law[reply] * count >= 5]
    observed = [counts[reply] for reply in common] + [count - sum(counts[reply] for reply in common)]
    expected = [law[reply] * count for reply in common] + [count - sum(law[reply] for reply in common) * count]
    if expected[-1] < 5:
        observed, expected = observed[:-1], np.array(expected[:-1]) * sum(observed[:-1]) / sum(expected[:-1])
    assert stats.chisquare(observed, expected).pvalue > 1e-3
