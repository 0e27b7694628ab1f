"""A request while it is served, and the replies to it: what each new token does to one, and what is told of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from qwill.engine.edits import Seen
from qwill.engine.reply_text import ReplyText
from qwill.engine.request import Event, FinishReason, Request, TokenLogprob
from qwill.engine.scheduler import Sequence

if TYPE_CHECKING:
    from torch import Tensor

    from qwill.engine.adapters import Loaded
    from qwill.engine.constrain import Guide
    from qwill.engine.routing import Routing
    from qwill.engine.speculate import History
    from qwill.text.tokenizer import Tokenizer

Edited = Literal["", "checked", "masked", "edited", "proposed"]


@dataclass(eq=False)
class Running:
    """A request, and its replies once its prompt is computed (until then only the first). `think` and `answer` are the
    ids of `<think>` and `</think>`, −1 if the model has none; `limit`: most tokens of a reply."""

    request: Request
    limit: int
    tokenizer: Tokenizer | None
    think: int = -1
    answer: int = -1
    replies: list[Reply] = field(default_factory=list)
    prompt_logprobs: list[TokenLogprob | None] | None = None
    forked: bool = False
    adapter: Loaded | None = None

    def __post_init__(self) -> None:
        r, s = self.request, self.request.sampling
        self.count = self.left = r.best_of or r.n
        self.chooses = self.count > r.n
        self.whole = r.whole or self.chooses
        self.stops = frozenset() if s.ignore_eos else r.stop_ids
        self.edits = bool(s.penalises or s.logit_bias)
        self.ending = r.thinking_end or (self.answer,)
        self.late = bool(s.min_tokens) or r.thinking_budget is not None
        self.scored = r.logprobs is not None or r.support or r.experts
        self.plain = not (self.edits or self.late or r.constraint)
        self.guided: Edited = "masked" if self.scored or (s.temperature and s.truncates) else "checked"
        # Replies of equal ones are drawn together.
        self.draw = repr((s.temperature, s.top_k, s.top_p, s.min_p, r.support))

    def start(self, sequence: Sequence) -> Reply:
        """One more reply, made in `sequence`."""
        request, text, guide = self.request, None, None
        if self.tokenizer is not None:
            text = ReplyText(self.tokenizer, request.stop)
            if request.constraint is not None:
                from qwill.engine.constrain import Guide

                guide = Guide(self.tokenizer, request.constraint, request.stop_ids)
        reply = Reply(self, sequence, text, guide)
        if request.thinking_budget is not None:
            marks = [i for i in request.prompt if i in (self.think, self.answer)]
            reply.thinking = bool(marks) and marks[-1] == self.think
        if request.sampling.penalises:
            reply.seen = Seen(request.prompt)
        self.replies.append(reply)
        return reply

    def best(self) -> list[Reply]:
        """The likeliest replies by their mean log-probability, as many as were asked for."""
        return sorted(self.replies, key=lambda reply: -reply.logprob / reply.produced)[: self.request.n]


@dataclass(eq=False, slots=True)
class Reply:
    """One reply. Of its `produced` tokens `given` are told; `unsaid` and `scores` are the text and the
    log-probabilities of the others. `thought`: tokens of its thinking, `closing`: how many of those that have to end
    it have come. `reason`: why it has ended; `failure`: what is wrong with its constraint. `draws`:
    by purpose a run of its random stream, with its number. `experts`: those of its next token; `routing`: once it has
    ended, of all tokens but the last, if the engine keeps it. `drafts`: what may come
    next, `proposed` the distributions that they were drawn from (none if they are certain); `tried`: how many the last
    pass had, of which `taken` came."""

    running: Running
    sequence: Sequence
    text: ReplyText | None
    guide: Guide | None
    thinking: bool = False
    thought: int = 0
    closing: int = 0
    seen: Seen | None = None
    produced: int = 0
    given: int = 0
    unsaid: str = ""
    scores: list[TokenLogprob] = field(default_factory=list)
    logprob: float = 0.0
    reason: FinishReason | None = None
    draws: dict[int, tuple[int, list[float]]] = field(default_factory=dict)
    retried: bool = False
    failure: str | None = None
    drafts: list[int] = field(default_factory=list)
    proposed: list[Tensor] = field(default_factory=list)
    tried: int = 0
    taken: int = 0
    history: History | None = None
    embedding: list[float] | None = None
    experts: list[list[int]] | None = None
    routing: Routing | None = None

    @property
    def forced(self) -> int | None:
        """The token that has to come, once it has thought long enough."""
        budget, ending = self.running.request.thinking_budget, self.running.ending
        if budget is None or not (self.closing or (self.thinking and self.thought >= budget)):
            return None
        return ending[self.closing] if self.closing < len(ending) else None

    @property
    def due(self) -> bool:
        """Whether what it has said since it was last told of is told now."""
        untold = self.produced - self.given
        return not self.running.whole and (not self.given or untold >= self.running.request.stride)

    @property
    def edited(self) -> Edited:
        """What but the model has a say in its next token: only a mask, or more."""
        running = self.running
        if self.proposed:
            return "proposed"
        if running.edits or (
            running.late and (self.produced < running.request.sampling.min_tokens or self.forced is not None)
        ):
            return "edited"
        return "" if self.guide is None else running.guided

    def append(self, token: int, own: float) -> None:
        """Count a new token in, `own` its log-probability. Raises `DataError` if its constraint fails."""
        running = self.running
        if self.guide is not None:
            self.guide.accept(token)
        self.sequence.tokens.append(token)
        self.produced += 1
        self.logprob += own
        if self.seen is not None:
            self.seen.add(token)
        if running.request.thinking_budget is not None:
            self._think(token)
        stopped = token in running.stops
        if stopped or (self.guide is not None and self.guide.finished):
            self.reason = "stop"
        elif self.produced >= running.limit:
            self.reason = "length"
        if self.text is not None:
            self._say(self.text, token, stopped)

    def _say(self, text: ReplyText, token: int, stopped: bool) -> None:
        if not stopped:
            self.unsaid += text.push(token)
        if self.reason and not text.found:
            self.unsaid += text.finish()
        if text.found:
            self.reason = "stop"

    def _think(self, token: int) -> None:
        if self.forced is not None:
            self.closing += 1
        if token == self.running.answer:
            self.thinking = False
        elif self.produced == 1 and token == self.running.think:
            self.thinking = True
        elif self.thinking:
            self.thought += 1

    def event(self, number: int) -> Event:
        """What was not told yet, as that of sample `number` of the request."""
        running, tokens = self.running, self.sequence.tokens
        new = tokens[len(tokens) - self.produced + self.given :]
        text, scores = self.unsaid, self.scores
        self.given, self.unsaid, self.scores = self.produced, "", []
        prompt = None
        if number == 0 and running.prompt_logprobs is not None:
            prompt, running.prompt_logprobs = running.prompt_logprobs, None
        request = running.request
        return Event(
            request.id, number, new, text, scores if running.scored else None, self.reason,
            self.text.found if self.text is not None else None, None, len(request.prompt),
            running.replies[0].sequence.cached or 0, prompt, self.embedding, self.routing,
        )  # fmt: skip
