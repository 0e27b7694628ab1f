"""What a token was sampled with is what the trainer computes for it, to the last bit: any model, any temperature."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_executors import VARIANTS
from tiny import redrawn

from qwill.engine import native
from qwill.engine.generate import generate
from qwill.engine.sampler import Sampling
from qwill.model import ops
from qwill.model.batch import Batch

pytestmark = pytest.mark.skipif(native.library() is None, reason="no C compiler: there are no native kernels to test")

MODELS = {name: redrawn(config, seed=4) for name, config in VARIANTS.items()}


def trained_logprobs(model, sequences: list[tuple[list[int], int]], temperature: float) -> torch.Tensor:
    """Log-probabilities of the tokens from each sequence's start on, by one packed forward pass, as in training."""
    batch = Batch.pack([ids[:-1] for ids, _ in sequences])
    begins = batch.cu_seqlens[:-1].tolist()
    index = [b + j for b, (ids, start) in zip(begins, sequences, strict=True) for j in range(start - 1, len(ids) - 1)]
    targets = torch.tensor([t for ids, start in sequences for t in ids[start:]])
    hidden_ND = model(batch).hidden_ND[torch.tensor(index)]
    return -ops.token_losses(hidden_ND, model.head_weight_VD, targets, temperature)


@settings(deadline=None, max_examples=40)
@given(
    name=st.sampled_from(sorted(MODELS)),
    sizes=st.lists(st.integers(1, 25), min_size=1, max_size=6),
    n=st.integers(1, 3),
    temperature=st.sampled_from([0.3, 0.6, 1.0, 1.9]),
    limited=st.booleans(),
    in_place=st.booleans(),
    seed=st.integers(0, 999),
)
def test_rollouts_and_trainer_agree_to_the_last_bit(name, sizes, n, temperature, limited, in_place, seed):
    model = MODELS[name]
    vocab = model.config.vocab_size
    draw = torch.Generator().manual_seed(seed)
    prompts = [torch.randint(0, vocab, (size,), generator=draw).tolist() for size in sizes]
    groups = generate(
        model, prompts, Sampling(max_tokens=12, temperature=temperature), n=n, slots=4, seed=seed, stop_ids=[3],
        vocab_size=vocab - 5 if limited else None, in_place=in_place,
    )  # fmt: skip
    done = [(p, c) for p, group in zip(prompts, groups, strict=True) for c in group]
    sampled = torch.tensor([x for _, c in done for x in c.logprobs])
    with torch.set_grad_enabled(bool(seed % 2)):  # the pass that makes gradients comes to the same values
        trained = trained_logprobs(model, [([*p, *c.token_ids], len(p)) for p, c in done], temperature)
    assert torch.equal(sampled, trained.detach())


def test_other_weights_are_seen():
    """The agreement is of the arithmetic, not of something that both sides were handed."""
    model = redrawn(VARIANTS["moe"], seed=4)
    group = generate(model, [[5, 6, 7]], Sampling(max_tokens=12), n=3, seed=1)[0]
    with torch.no_grad():
        model.layers[0].mlp.down.mul_(1 + 1e-6)
    trained = trained_logprobs(model, [([5, 6, 7, *c.token_ids], 3) for c in group], 1.0)
    assert not torch.equal(torch.tensor([x for c in group for x in c.logprobs]), trained.detach())
