"""Log-probabilities and gradients over the ids that each token was drawn among: the support of a truncated rollout.

    log π(a) = z_a/T − log Σ_{i ∈ S} e^{z_i/T}        S: what top-k, top-p and min-p left when the token was drawn

With the rollout's weights that is the distribution sampled from. After an update S stays what it was: the ratio
π_new(a)/π_old(a) compares two distributions over the same ids, so importance sampling holds (DeepSeek-V3.2, arXiv
2512.02556, "keep sampling mask"); the truncation that the new weights would make is not looked at, and ids outside S
get no gradient. Without it the two are about different sets, and a ratio of unchanged weights is already the mass of S.

Only the head's rows of ids in some support are multiplied: of 151,936 usually a few thousand a chunk.

Letters: N tokens, M of a chunk, V vocabulary, U ids that the chunk's tokens were drawn among, P pairs of a token and an
id, D hidden.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from qwill.engine.support import Support
from qwill.model import ops

MOST = 1 << 24  # logits at a time, in float64


def truncated_losses(
    hidden_ND: Tensor,
    head_VD: Tensor,
    targets_N: Tensor,
    support: Support,
    temperature: float = 1.0,
    most: int = MOST,
    entropy_N: Tensor | None = None,
) -> Tensor:
    """`ops.token_losses` over each token's support.

    Logits are rounded as the sampler's are; sums are in float64.
    """
    losses = []
    cuts = list(chunks(support, len(head_VD), most))
    for part in cuts:
        token_P, id_P = support[part].pairs()
        ids_U, column_P = np.unique(id_P, return_inverse=True)
        targets_M = targets_N[part].cpu().numpy()
        column_M = np.searchsorted(ids_U, targets_M)
        outside_MU = np.ones((len(targets_M), len(ids_U)), dtype=bool)
        outside_MU[token_P, column_P] = False
        at_M = column_M.clip(max=len(ids_U) - 1)
        inside = (ids_U[at_M] == targets_M) & ~outside_MU[np.arange(len(at_M)), at_M]
        assert inside.all(), "a token lies outside of what it was drawn among"
        ids, columns, outside = (torch.from_numpy(x).to(hidden_ND.device) for x in (ids_U, column_M, outside_MU))
        entropy_M = None if entropy_N is None else entropy_N[part]
        losses_of = partial(_losses, ids, columns, outside, temperature, entropy_M)
        if len(cuts) > 1 and torch.is_grad_enabled():  # the backward pass makes each chunk's logits again
            loss_M = checkpoint(losses_of, hidden_ND[part], head_VD, use_reentrant=False, preserve_rng_state=False)
        else:
            loss_M = losses_of(hidden_ND[part], head_VD)
        losses.append(loss_M)
    return torch.cat(losses).to(hidden_ND.dtype)


def _losses(
    ids_U: Tensor,
    column_M: Tensor,
    outside_MU: Tensor,
    temperature: float,
    entropy_M: Tensor | None,
    hidden_MD: Tensor,
    head_VD: Tensor,
) -> Tensor:
    head_UD = head_VD if len(ids_U) == len(head_VD) else head_VD[ids_U]
    logits_MU = (ops.linear(hidden_MD, head_UD) / temperature).double()  # rounded as the sampler's are
    logp_MU = logits_MU.masked_fill(outside_MU, float("-inf")).log_softmax(1)
    if entropy_M is not None:
        entropy_M.copy_(ops.entropy(logp_MU.detach()))
    return -logp_MU.gather(1, column_M[:, None])[:, 0]


def chunks(support: Support, vocabulary: int, most: int) -> Iterator[slice]:
    """Neighbouring tokens whose logits are surely no more than `most`, one token at least."""
    first = held = 0
    for i, size in enumerate(support.sizes_N.tolist()):
        if i > first and (i + 1 - first) * min(vocabulary, held + size) > most:
            yield slice(first, i)
            first, held = i, 0
        held += size
    yield slice(first, len(support))
