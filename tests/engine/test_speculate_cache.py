"""What speculation leaves in the cache: recurrent states behind the drafts that count, and no others."""

import copy

import numpy as np
import pytest
import torch
from test_engine import MODELS, finish
from test_speculate import NGRAM, engines

from qwill.engine.engine_settings import DraftSpec
from qwill.engine.request import Request
from qwill.engine.sampler import Sampling


@pytest.mark.parametrize("by", ["ngram", "model"])
@pytest.mark.parametrize("kind", ["dense", "hybrid"])
def test_what_was_drafted_is_found_in_the_cache_as_it_is(kind, by):
    """A chat's next turn starts behind the last reply, most of which was drafted: states are shared too."""
    model, draft, spec = MODELS[kind], None, NGRAM
    if by == "model":
        draft, spec = copy.deepcopy(model), DraftSpec("almost the same", 3)
        with torch.no_grad():
            noise = torch.randn(draft.head_weight_VD.shape, generator=torch.Generator().manual_seed(3))
            draft.head_weight_VD.add_(noise * 0.03)
    sampling = Sampling(max_tokens=11, temperature=0, logit_bias={5: 99.0} if by == "ngram" else {})
    plain, quick = engines(model, spec, (draft, None), blocks=80)
    prompt, found, outs = [5, 6, 7, 8] * 2, [], []
    for turn in range(4):
        for engine in (plain, quick):
            engine.add(Request("a", prompt, sampling, logprobs=0, whole=True))
            outs.append(finish(engine)["a", 0])
            found.append(outs[-1][2].cached_tokens)
        assert outs[-2][0] == outs[-1][0]
        scores = [[score.logprob for score in out[2].logprobs] for out in outs[-2:]]
        np.testing.assert_allclose(*scores, atol=1e-4)
        prompt = prompt + outs[-1][0] + [turn]
    told = quick.stats()
    assert told.accepted > 12 and (by == "ngram" or told.accepted < told.drafted)
    assert found[-2] >= found[-1] > len(prompt) - 12 - 12 - 8
