"""The engine: requests in, pieces of replies out, one pass over a mixed batch at a time.

    add ─► waiting ─► scheduler: which tokens of whom ─► executor: logits ─► draw ─► text, stops ─► events
              ▲ preempted ◄─┘  blocks: where they are cached                   └─► appended, next pass

What is drawn for a sample depends on its logits, its settings and its own random stream, never on the batch. What goes
wrong with one request ends that request. Shape letters: B sampled rows, V vocabulary.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from qwill.base.errors import DataError
from qwill.engine import native
from qwill.engine.blocks import BlockPool
from qwill.engine.edits import allow, penalise
from qwill.engine.engine_settings import EngineSettings, blocks_in
from qwill.engine.executor import Executor, TorchExecutor
from qwill.engine.generate import check_prompt
from qwill.engine.passes import prompt_scores, step_of, tops
from qwill.engine.randomness import uniforms
from qwill.engine.reply_text import ReplyText
from qwill.engine.request import EngineStats, Event, FinishReason, Request, TokenLogprob
from qwill.engine.sampler import Sampled, draw_edited, sample
from qwill.engine.scheduler import Piece, Scheduler, Sequence

if TYPE_CHECKING:
    from qwill.engine.constrain import Guide
    from qwill.model.transformer import Transformer
    from qwill.text.tokenizer import Tokenizer

__all__ = ["Engine", "EngineSettings"]

DRAWS = 64  # uniform numbers made at a time for a sample
PROMPT_CHUNK = 64  # tokens of a pass whose prompt wants log-probabilities: bounds the logits that are held


@dataclass(eq=False)
class _Sample:
    """One reply that is being made."""

    sequence: Sequence
    text: ReplyText | None
    guide: Guide | None
    thinking: bool
    output: Counter[int] = field(default_factory=Counter)
    produced: int = 0
    thought: int = 0
    logprob: float = 0.0
    draws: list[float] = field(default_factory=list)
    done: bool = False
    retried: bool = False
    held: list[Event] = field(default_factory=list)


@dataclass(eq=False)
class _Running:
    """A request that was added, and its samples once its prompt is computed (until then only the first)."""

    request: Request
    limit: int
    samples: list[_Sample]
    prompt_ids: Tensor | None = None
    prompt_logprobs: list[TokenLogprob | None] | None = None
    forked: bool = False


class Engine:
    """Serves requests with a model; nothing else may change the model's weights while it does."""

    def __init__(self, model: Transformer, tokenizer: Tokenizer | None, settings: EngineSettings | None = None) -> None:
        """Without a tokenizer there are no texts, stop texts and constraints."""
        self.model, self.tokenizer, self.settings = model, tokenizer, settings or EngineSettings()
        s, c = self.settings, model.config
        self.context, self.vocab_size = c.max_position_embeddings, c.vocab_size
        if tokenizer is not None:
            self.vocab_size = min(c.vocab_size, tokenizer.vocab_size)
        dtype = getattr(torch, s.kv_dtype) if s.kv_dtype else None
        blocks = s.blocks or blocks_in(s, c, dtype or model.embed_tokens.weight.dtype)
        snapshots = s.snapshots if c.has_linear else 0
        states = s.max_running + snapshots if snapshots else 0
        # Native where it can be: it copies the weights, and its blocks are whole vectors of the processor.
        fits = native.suits(model) and dtype in (None, *native.KINDS) and s.block_size % native.lanes() == 0
        kind = native.NativeExecutor if fits else TorchExecutor
        self.executor: Executor = kind(model, blocks, s.block_size, states, dtype)
        self.pool = BlockPool(blocks, s.block_size, snapshots, s.max_running)
        # Recurrent states without a snapshot can't be shared, and then neither can what belongs to them.
        self.scheduler = Scheduler(self.pool, s.max_running, s.token_budget, s.share_prefixes)
        self._requests: dict[str, _Running] = {}
        self._due: list[Event] = []
        self._prompt_tokens = self._cached = self._tokens = 0
        specials = tokenizer.specials if tokenizer is not None else {}
        self._think, self._answer = specials.get("<think>", -1), specials.get("</think>", -1)

    @property
    def has_work(self) -> bool:
        return bool(self._requests or self._due)

    def stats(self) -> EngineStats:
        return EngineStats(
            running=len(self.scheduler.running),
            waiting=len(self.scheduler.waiting),
            blocks_free=self.pool.free,
            blocks_total=self.pool.blocks,
            cached_tokens=self._cached,
            preemptions=self.scheduler.preemptions,
            steps=self.scheduler.passes,
            prompt_tokens=self._prompt_tokens,
            tokens=self._tokens,
        )

    def add(self, request: Request) -> None:
        """Take a request. Raises `DataError`, one sentence, for what can't be served."""
        check_prompt(request.prompt, self.model, "the prompt")
        room, prompt = self.pool.blocks * self.pool.block_size, len(request.prompt)
        if prompt >= room:
            raise DataError(f"the prompt has {prompt} tokens, but the cache holds {room}: shorten it or raise memory")
        if request.id in self._requests:
            raise DataError(f"there is a request {request.id!r} already: give each its own id")
        if request.n < 1 or (request.best_of and request.best_of < request.n):
            raise DataError(f"n is {request.n} and best_of {request.best_of}: n is at least 1, best_of at least n or 0")
        if request.adapter is not None:
            raise DataError(f"there is no adapter {request.adapter!r}: none is loaded")
        if self.tokenizer is None and (request.stop or request.constraint):
            raise DataError("stop texts and constraints need a tokenizer: give the engine one")
        if any(not text for text in request.stop):
            raise DataError("a stop text is empty: leave it out")
        if request.thinking_budget is not None and (request.thinking_budget < 0 or min(self._think, self._answer) < 0):
            raise DataError("thinking_budget must be 0 or more, and the tokenizer must know <think> and </think>")
        wrong = [i for i in request.sampling.logit_bias if not 0 <= i < self.vocab_size]
        if wrong:
            raise DataError(f"logit_bias names the id {wrong[0]}, but the model knows 0 to {self.vocab_size - 1}")
        scored = request.prompt_logprobs is not None
        chunk = PROMPT_CHUNK if scored else None
        sequence = Sequence(request.id, 0, list(request.prompt), reuse=not scored, chunk=chunk)
        limit = min(request.sampling.max_tokens, self.context - prompt, room - prompt)
        running = _Running(request, limit, [self._sample(request, sequence)])
        if scored:
            running.prompt_logprobs = [None]
        self._requests[request.id] = running
        self._prompt_tokens += prompt
        self.scheduler.add(sequence, request.priority)

    def _sample(self, request: Request, sequence: Sequence) -> _Sample:
        text = guide = None
        if self.tokenizer is not None:
            text = ReplyText(self.tokenizer, request.stop)
            if request.constraint is not None:
                from qwill.engine.constrain import Guide

                guide = Guide(self.tokenizer, request.constraint, request.stop_ids)
        marks = [i for i in request.prompt if i in (self._think, self._answer)]
        return _Sample(sequence, text, guide, thinking=bool(marks) and marks[-1] == self._think)

    def cancel(self, request_id: str) -> None:
        """End a request now: what it held is free at once. Its samples' last events come with the next `step`."""
        running = self._requests.pop(request_id, None)
        if running is not None:
            self._end(running, "cancel", None, self._due)

    def _end(self, running: _Running, reason: FinishReason, error: str | None, events: list[Event]) -> None:
        """End the samples of a request that still run."""
        self._requests.pop(running.request.id, None)
        for s in running.samples:
            self.scheduler.finish(s.sequence)
        if (running.request.best_of or running.request.n) > running.request.n or not running.forked:
            ended = set(range(running.request.n))
        else:
            ended = {s.sequence.sample for s in running.samples if not s.done}
        for i in sorted(ended):
            events.append(self._event(running, i, [], "", None, reason, error=error))

    def _event(
        self,
        running: _Running,
        number: int,
        tokens: list[int],
        text: str,
        logprobs: list[TokenLogprob] | None,
        reason: FinishReason | None,
        stop: str | None = None,
        error: str | None = None,
    ) -> Event:
        cached = running.samples[0].sequence.cached or 0
        prompt = running.prompt_logprobs if number == 0 else None
        if number == 0:
            running.prompt_logprobs = None
        size = len(running.request.prompt)
        return Event(running.request.id, number, tokens, text, logprobs, reason, stop, error, size, cached, prompt)

    @torch.inference_mode()
    def step(self) -> list[Event]:
        """One pass over what the scheduler chose; what it gave."""
        events, self._due = self._due, []
        pieces = self.scheduler.schedule()
        if not pieces:
            return events
        try:
            logits, rows = self._run(pieces)
        except Exception as error:
            # The pass is lost, and with it all that it was to write.
            self.pool.forget()
            for name in {piece.sequence.request for piece in pieces}:
                self._end(self._requests[name], "error", f"the model failed: {type(error).__name__}: {error}", events)
            return events
        self._score_prompts(pieces, logits, rows)
        ready: list[tuple[_Running, _Sample, int]] = []
        for piece, (_, last) in zip(pieces, rows, strict=True):
            sequence = piece.sequence
            if sequence.computed == len(sequence.tokens):
                running = self._requests[sequence.request]
                ready += [(running, s, last - 1) for s in self._ready(running, sequence)]
        if ready:
            self._draw(ready, logits, events)
        return events

    def _run(self, pieces: list[Piece]) -> tuple[Tensor, list[tuple[int, int]]]:
        """The pass's logits and, for each piece, which rows of them are its own."""
        if sources := [(p.source, p.sequence.state) for p in pieces if p.source >= 0]:
            self.executor.copy_states(*map(list, zip(*sources, strict=True)))
        scored = {p.sequence for p in pieces if self._scores(p)}
        step, rows = step_of(pieces, scored, self.pool.has_states)
        logits = self.executor.run(step)
        if copies := self.scheduler.snapshots(pieces):
            self.executor.copy_states(list(copies.values()), list(copies))
        return logits, rows

    def _scores(self, piece: Piece) -> bool:
        """Whether log-probabilities of the prompt are still wanted from this piece."""
        s = piece.sequence
        return not s.reuse and piece.start < s.prompt and self._requests[s.request].prompt_logprobs is not None

    def _score_prompts(self, pieces: list[Piece], logits: Tensor, rows: list[tuple[int, int]]) -> None:
        for piece, (first, last) in zip(pieces, rows, strict=True):
            s, running = piece.sequence, self._requests[piece.sequence.request]
            if running.prompt_logprobs is None or not self._scores(piece):
                continue
            warm = running.request.sampling.temperature or 1.0
            known, count = running.prompt_logprobs, running.request.prompt_logprobs or 0
            known += prompt_scores(
                logits[first:last], s.tokens[: s.prompt], piece.start, len(known), warm, count
            )
            if len(running.prompt_logprobs) == s.prompt:
                s.reuse, s.chunk = True, None

    def _ready(self, running: _Running, sequence: Sequence) -> list[_Sample]:
        """The samples that want a token after this sequence's last: when a prompt is done, all of the request."""
        request = running.request
        if running.forked:
            return [s for s in running.samples if s.sequence is sequence]
        running.forked = True
        running.prompt_ids = torch.tensor(sorted(set(request.prompt)))
        self._cached += sequence.cached or 0
        blocks: list[tuple[int, int]] = []
        states: list[tuple[int, int]] = []
        for number in range(1, request.best_of or request.n):
            other = Sequence(request.id, number, list(sequence.tokens), sequence.namespace)
            running.samples.append(self._sample(request, other))
            pairs = self.scheduler.fork(sequence, other)
            blocks += pairs[0]
            states += pairs[1]
        if blocks:
            self.executor.copy_blocks(*map(list, zip(*blocks, strict=True)))
        if states and self.pool.has_states:
            self.executor.copy_states(*map(list, zip(*states, strict=True)))
        return list(running.samples)

    def _draw(self, ready: list[tuple[_Running, _Sample, int]], logits: Tensor, events: list[Event]) -> None:
        """A token for each sample that is ready, those with the same settings at once."""
        masks = self._masks(ready, events)
        groups: dict[tuple[object, bool], list[int]] = {}
        for i, (running, s, _) in enumerate(ready):
            if running.request.id in self._requests:
                edited = i in masks or self._edits(running.request, s)
                groups.setdefault((replace(running.request.sampling, max_tokens=1, min_tokens=0), edited), []).append(i)
        for (_, edited), members in groups.items():
            part, sampling = [ready[i] for i in members], ready[members[0]][0].request.sampling
            own_BV = logits[[row for _, _, row in part]]
            uniforms_B = torch.tensor([self._uniform(r.request, s) for r, s, _ in part], dtype=torch.float64)
            uniforms_B = uniforms_B.to(logits.device)
            if edited:
                edited_BV = own_BV.clone()
                for row, i, (running, s, _) in zip(edited_BV, members, part, strict=True):
                    assert running.prompt_ids is not None
                    penalise(row, running.request.sampling, running.prompt_ids, s.output)
                    forced = self._answer if self._forced(running.request, s) else None
                    stops = running.request.stop_ids if s.produced < running.request.sampling.min_tokens else ()
                    allow(row, self.vocab_size, masks.get(i), stops, forced)
                chosen = draw_edited(own_BV, edited_BV, uniforms_B, sampling)
            else:
                chosen = sample(own_BV, uniforms_B, sampling, None, self.vocab_size)
            self._accept(part, own_BV, chosen, events)

    def _masks(self, ready: list[tuple[_Running, _Sample, int]], events: list[Event]) -> dict[int, Tensor]:
        """What each constrained sample may say next, bool [V]; a constraint that fails ends its request."""
        masks: dict[int, Tensor] = {}
        for i, (running, s, _) in enumerate(ready):
            if s.guide is None or running.request.id not in self._requests:
                continue
            try:
                bits = np.unpackbits(s.guide.mask().view(np.uint8), bitorder="little")
            except DataError as error:
                self._end(running, "error", str(error), events)
                continue
            allowed = torch.zeros(self.model.config.vocab_size, dtype=torch.bool)
            allowed[: self.vocab_size] = torch.from_numpy(bits[: self.vocab_size].astype(bool))
            masks[i] = allowed
        return masks

    def _forced(self, request: Request, s: _Sample) -> bool:
        return s.thinking and request.thinking_budget is not None and s.thought >= request.thinking_budget

    def _edits(self, request: Request, s: _Sample) -> bool:
        sampling = request.sampling
        penalised = sampling.penalises or sampling.frequency_penalty or sampling.logit_bias
        return bool(penalised or s.produced < sampling.min_tokens or self._forced(request, s))

    def _uniform(self, request: Request, s: _Sample) -> float:
        if s.produced % DRAWS == 0 or not s.draws:
            first = s.produced // DRAWS * DRAWS
            steps = np.arange(first, first + DRAWS)
            s.draws = uniforms(request.seed, request.stream, s.sequence.sample, steps).tolist()
        return s.draws[s.produced % DRAWS]

    def _accept(
        self, part: list[tuple[_Running, _Sample, int]], own_BV: Tensor, chosen: Sampled, events: list[Event]
    ) -> None:
        values = zip(
            chosen.tokens_B.tolist(), chosen.logprobs_B.tolist(), chosen.sampled_logprobs_B.tolist(), strict=True
        )
        for i, ((running, s, _), (token, own, sampled)) in enumerate(zip(part, values, strict=True)):
            request = running.request
            if request.id not in self._requests:
                continue
            if own != own:
                # NaN reaches whoever shares its blocks: once everyone may try again alone.
                self.pool.forget(blocks=list(s.sequence.blocks))
                if not s.retried:
                    s.retried, s.sequence.reuse = True, False
                    self.scheduler.restart(s.sequence)
                    continue
                self._end(running, "error", "the model gives NaN after this prompt: its weights are broken", events)
                continue
            logprobs = None
            if request.logprobs is not None:
                top: list[tuple[int, float]] = []
                if request.logprobs:
                    warm = own_BV[i : i + 1] / (request.sampling.temperature or 1.0)
                    top = next(tops(warm.log_softmax(1), request.logprobs))
                logprobs = [TokenLogprob(token, own, sampled, top)]
            try:
                reason, text = self._append(running, s, token, own)
            except DataError as error:
                self._end(running, "error", str(error), events)
                continue
            stop = s.text.found if s.text is not None else None
            event = self._event(running, s.sequence.sample, [token], text, logprobs, reason, stop)
            self._give(running, s, event, events)

    def _append(self, running: _Running, s: _Sample, token: int, own: float) -> tuple[FinishReason | None, str]:
        """Count a new token in; whether the reply ends with it, and the text to show."""
        request = running.request
        if s.guide is not None:
            s.guide.accept(token)
        s.sequence.tokens.append(token)
        s.output[token] += 1
        s.produced += 1
        s.logprob += own
        self._tokens += 1
        if token == self._answer:
            s.thinking = False
        elif s.produced == 1 and token == self._think:
            s.thinking = True
        elif s.thinking:
            s.thought += 1
        stopped = token in request.stop_ids and not request.sampling.ignore_eos
        text = "" if stopped or s.text is None else s.text.push(token)
        reason: FinishReason | None = None
        if stopped or (s.guide is not None and s.guide.finished) or (s.text is not None and s.text.found):
            reason = "stop"
        elif s.produced >= running.limit:
            reason = "length"
        if reason and s.text is not None:
            text += s.text.finish()
            if s.text.found:
                reason = "stop"
        return reason, text

    def _give(self, running: _Running, s: _Sample, event: Event, events: list[Event]) -> None:
        """Pass an event on; with `best_of` all of a sample's together, once it is known which samples are given."""
        request, best_of = running.request, running.request.best_of or running.request.n
        (events if best_of == request.n else s.held).append(event)
        if event.finish_reason is None:
            return
        s.done = True
        self.scheduler.finish(s.sequence)
        if len(running.samples) < best_of or not all(other.done for other in running.samples):
            return
        del self._requests[request.id]
        if best_of > request.n:
            scored = next((e.prompt_logprobs for o in running.samples for e in o.held if e.prompt_logprobs), None)
            best = sorted(running.samples, key=lambda o: -o.logprob / o.produced)[: request.n]
            for number, other in enumerate(best):
                first = [replace(e, sample=number, prompt_logprobs=None) for e in other.held]
                if number == 0:
                    first[0] = replace(first[0], prompt_logprobs=scored)
                events += first
