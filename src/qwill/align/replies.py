"""Replies as trainers see them: token ids, which of them the model is to have said, and packed batches of many.

Letters: N trained tokens of a batch, S replies.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from qwill.align.truncated import truncated_losses
from qwill.base.errors import DataError
from qwill.base.progress import SILENT, Display
from qwill.data.preferences import Said
from qwill.engine.said import said_examples
from qwill.engine.support import Support
from qwill.model import ops
from qwill.model.batch import Batch
from qwill.model.transformer import RouterStats, Transformer
from qwill.text.chat import Rendered
from qwill.text.tokenizer import Tokenizer
from qwill.train.replicas import ALONE, Replicas

Unit = TypeVar("Unit")


@dataclass(frozen=True)
class Reply:
    """One reply behind its prompt. Several examples only where a reply holds several turns and the template does not
    keep what came before; the log-probability of the reply is the sum over all."""

    examples: tuple[Rendered, ...]

    @property
    def tokens(self) -> int:
        """How many the model is to have said."""
        return sum(sum(e.loss_mask) for e in self.examples)

    @property
    def length(self) -> int:
        """Tokens of prompt and reply, of the longest example."""
        return max(len(e.ids) for e in self.examples)


def render_reply(
    prompt: Said, said: Said, tokenizer: Tokenizer, tools: Sequence[dict[str, Any]] = (), where: str = "reply"
) -> Reply:
    """Prompt and reply as ids, by the model's own chat template; trained are the turns of the assistant in `said`.

    Raises DataError, beginning with `where`, for what can't be rendered.
    """
    if prompt == "":
        raise DataError(f"{where}: the prompt is empty, so nothing predicts the reply's first token; give one.")
    return Reply(tuple(said_examples(prompt, said, tokenizer, tools, where)))


def as_messages(prompt: Said) -> list[dict[str, Any]]:
    """A prompt as a conversation: plain text is what a user says."""
    return [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)


@dataclass(frozen=True)
class Packed:
    """A batch of replies: hidden states at `index_N` predict `targets_N`, which belong to the replies `reply_N`.
    `support`: what each of the targets is predicted among; None: the whole vocabulary."""

    batch: Batch
    index_N: Tensor
    targets_N: Tensor
    reply_N: Tensor
    replies: int
    support: Support | None = None

    def sums(self, logp_N: Tensor) -> Tensor:
        """Log-probability of each reply, [S]."""
        return logp_N.new_zeros(self.replies).index_add(0, self.reply_N, logp_N)


def pack_replies(replies: Sequence[Reply], whole: bool = False, share: bool = True) -> Packed:
    """All examples of all replies end to end; none sees another. The last token of each predicts nothing, so it is left
    out of the batch, unless `whole`: then `index_N` are the trained tokens' own. With `share` what examples have in
    common from their first token on, such as a prompt, is computed once."""
    index, targets, owner, start = [], [], [], 0
    sequences = []
    for i, reply in enumerate(replies):
        for example in reply.examples:
            at = [j for j, trained in enumerate(example.loss_mask) if trained]
            index += [start + j - (not whole) for j in at]
            targets += [example.ids[j] for j in at]
            owner += [i] * len(at)
            sequences.append(example.ids if whole else example.ids[:-1])
            start += len(sequences[-1])
    batch = Batch.share(sequences) if share else Batch.pack(sequences)
    index_N = batch.rows_at(torch.tensor(index))
    return Packed(batch, index_N, torch.tensor(targets), torch.tensor(owner), len(replies))


def token_logprobs(
    model: Transformer,
    packed: Packed,
    hidden_ND: Tensor,
    temperature: float = 1.0,
    entropy_N: Tensor | None = None,
) -> Tensor:
    """log softmax(logits / temperature) of `packed.targets_N`, [N], each among its support, from the hidden states that
    predict them. `entropy_N`: see `ops.token_losses`."""
    given = hidden_ND, model.head_weight_VD, packed.targets_N
    if packed.support is None:
        return -ops.token_losses(*given, temperature, entropy_N=entropy_N)
    return -truncated_losses(*given, packed.support, temperature, entropy_N=entropy_N)


def policy_pass(
    model: Transformer,
    packed: Packed,
    loss_of: Callable[[Tensor], Tensor],
    temperature: float = 1.0,
    entropies: list[Tensor] | None = None,
) -> tuple[Tensor, list[RouterStats] | None]:
    """(loss, router statistics), the loss as `loss_of` makes it from the log-probabilities (float64 [N], on the CPU) of
    the trained tokens under softmax(logits / temperature), over their support where there is one.

    To `entropies` those of the tokens' distributions are added, [N] in nats.
    """
    output = model(packed.batch)
    hidden_ND = output.hidden_ND[packed.index_N]
    entropy_N = None if entropies is None else hidden_ND.new_empty(len(hidden_ND))
    logp_N = token_logprobs(model, packed, hidden_ND, temperature, entropy_N)
    if entropies is not None and entropy_N is not None:
        entropies.append(entropy_N.cpu())
    # Sums over a reply keep their last bits in float64, which not every device has; these are a few thousand numbers.
    return loss_of(logp_N.cpu().double()).to(logp_N), output.router_stats


@torch.no_grad()
def reply_logprobs(
    model: Transformer, replies: Sequence[Reply], most_tokens: int, replicas: Replicas = ALONE,
    display: Display = SILENT, title: str = "replies",
) -> Tensor:  # fmt: skip
    """Log-probability of each reply, float64 [S], whatever is packed beside it and whichever rank computes it."""
    out = torch.zeros(len(replies), dtype=torch.float64)
    length = lambda i: _length(replies[i])  # noqa: E731
    mine, done = replicas.deal(range(len(replies)), length), 0
    with display.stage(title, sum(map(length, mine)), "token") as bar:
        for part in parts_of(mine, length, most_tokens):
            packed = pack_replies([replies[i] for i in part])
            hidden_ND = model(packed.batch).hidden_ND[packed.index_N]
            out[torch.tensor(part)] = packed.sums(token_logprobs(model, packed, hidden_ND).double())
            done += sum(map(length, part))
            bar.update(done)
    return replicas.all_sum(out)


def _length(reply: Reply) -> int:
    return sum(len(e.ids) for e in reply.examples)


def parts_of(units: Iterable[Unit], length: Callable[[Unit], int], most: int) -> list[list[Unit]]:
    """Units of like length together, at most `most` tokens a part, where one alone isn't longer."""
    parts: list[list[Unit]] = []
    size = 0
    for unit in sorted(units, key=lambda u: -length(u)):
        if not parts or size + length(unit) > most:
            parts.append([])
            size = 0
        parts[-1].append(unit)
        size += length(unit)
    return parts
