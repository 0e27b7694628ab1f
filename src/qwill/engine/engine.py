"""The engine: requests in, pieces of replies out, one pass over a mixed batch at a time.

    add ─► waiting ─► scheduler: which tokens of whom ─► executor: logits ─► draw ─► text, stops ─► events
              ▲ preempted ◄─┘  blocks: where they are cached                   └─► appended, next pass

What is drawn for a sample depends on its logits, its settings and its own random stream, never on the batch. What goes
wrong with one request ends that request. Shape letters: B sampled rows, V vocabulary.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from qwill.base.errors import ConfigError, DataError, ModelError
from qwill.engine.adapters import Adapters
from qwill.engine.blocks import BlockPool
from qwill.engine.checks import check_request
from qwill.engine.choose import choose
from qwill.engine.drafting import Speculation, check_speculation
from qwill.engine.engine_settings import DraftSpec, EngineSettings
from qwill.engine.executors import executors_of
from qwill.engine.passes import score_prompts, scores, step_of, tops
from qwill.engine.replies import Reply, Running
from qwill.engine.request import EngineStats, Event, FinishReason, Request, TokenLogprob
from qwill.engine.routing import RoutingStore
from qwill.engine.sampler import Sampled
from qwill.engine.scheduler import Piece, Scheduler, Sequence

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from collections.abc import Sequence as Items
    from pathlib import Path

    from qwill.model.lora import Adapter
    from qwill.model.transformer import Transformer
    from qwill.text.tokenizer import Tokenizer

__all__ = ["Engine", "EngineSettings"]

PROMPT_CHUNK = 64  # tokens of a pass whose prompt wants log-probabilities: bounds the logits that are held


class Engine:
    """Serves requests with a model; nothing else may change the model's weights while it does."""

    def __init__(
        self,
        model: Transformer,
        tokenizer: Tokenizer | None,
        settings: EngineSettings | None = None,
        vocab_size: int | None = None,
        draft: tuple[Transformer, Tokenizer | None] | None = None,
    ) -> None:
        """Without a tokenizer there are no texts, stop texts and constraints. Ids from `vocab_size` on (the
        tokenizer's unless given) are never chosen. `draft`: the model of `DraftSpec` with its tokenizer. Raises
        ConfigError for speculation or routing that this model can't have."""
        self.model, self.tokenizer, self.settings = model, tokenizer, settings or EngineSettings()
        s, c = self.settings, model.config
        if vocab_size is None and tokenizer is not None:
            vocab_size = tokenizer.vocab_size
        self.context, self.vocab_size = c.max_position_embeddings, min(c.vocab_size, vocab_size or c.vocab_size)
        models = [model]
        if s.speculate is not None:
            check_speculation(s.speculate, c, self.vocab_size, tokenizer, draft)
            models += [draft[0]] if draft is not None and isinstance(s.speculate, DraftSpec) else []
        recurrent = any(m.config.has_linear for m in models)
        snapshots = s.snapshots if recurrent else 0
        self._executors = executors_of(models, s, s.max_running + snapshots if recurrent else 0)
        self.executor, blocks = self._executors[0], self._executors[0].blocks
        self._speculation = Speculation(s, models, self._executors, self.vocab_size)
        self.pool = BlockPool(blocks, s.block_size, snapshots, s.max_running)
        if s.routing and not c.num_experts:
            raise ConfigError("engine.routing is on, but this model has no experts: leave it out")
        self._routing = RoutingStore(c, blocks, s.block_size) if s.routing else None
        # Recurrent states without a snapshot can't be shared, and then neither can what belongs to them.
        share = s.share_prefixes and (snapshots > 0 or not recurrent)
        self.scheduler = Scheduler(self.pool, s.max_running, s.token_budget, share)
        self._tables = np.zeros((s.max_running, -(-self.context // s.block_size)), dtype=np.int32)
        self._requests: dict[str, Running] = {}
        self._embedded: set[Sequence] = set()
        self._due: list[Event] = []
        self._adapters = Adapters(model, self.executor, self.pool, s.adapters)
        self.failure: BaseException | None = None  # why a pass was lost
        self._prompt_tokens = self._cached = self._tokens = self._embeds = 0
        specials = tokenizer.specials if tokenizer is not None else {}
        # The ids of <think> and </think>; who gives no tokenizer may set them.
        self.marks = specials.get("<think>", -1), specials.get("</think>", -1)

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
            drafted=self._speculation.drafted,
            accepted=self._speculation.accepted,
        )

    def add(self, request: Request) -> None:
        """Take a request. Raises `DataError`, one sentence, for what can't be served."""
        room, prompt = self.pool.blocks * self.pool.block_size, len(request.prompt)
        check_request(request, self.model.config, self.vocab_size, room, self.tokenizer is not None, self.marks)
        if request.id in self._requests:
            raise DataError(f"there is a request {request.id!r} already: give each its own id")
        adapter = None if request.adapter is None else self._adapters.find(request.adapter)
        scored = request.prompt_logprobs is not None and not request.embed
        chunk = PROMPT_CHUNK if scored else None
        sequence = Sequence(request.id, 0, list(request.prompt), reuse=not scored, chunk=chunk)
        if adapter is not None:
            sequence.namespace, sequence.adapter = adapter.namespace, adapter.number
        limit = min(request.sampling.max_tokens, self.context - prompt, room - prompt)
        running = Running(request, limit, self.tokenizer, *self.marks)
        running.start(sequence)
        if adapter is not None:
            running.adapter = adapter
            adapter.users += 1
        if request.embed:
            self._embedded.add(sequence)
        if scored:
            running.prompt_logprobs = [None]
        self._requests[request.id] = running
        self._prompt_tokens += prompt
        self.scheduler.add(sequence, request.priority)

    def cancel(self, request_id: str) -> None:
        """End a request now: what it held is free at once. Its samples' last events come with the next `step`."""
        if request_id in self._requests:
            self._end(self._requests[request_id], "cancel", None, self._due)

    def load_adapter(self, name: str, folder: str | Path) -> None:
        """Have the PEFT adapter in a folder for requests that name it. Raises `DataError` for a name that is taken and
        when there are too many, ModelError or CheckpointError for a folder that holds no adapter of this model."""
        self._adapters.load(name, folder)

    def put_adapter(self, name: str, adapter: Adapter) -> None:
        """The same of one in memory, as it is now."""
        self._adapters.put(name, lambda: adapter)

    def unload_adapter(self, name: str) -> None:
        """No new request can have it; those that have it are finished with it. Raises `DataError` for an unknown
        name."""
        self._adapters.unload(name)

    @property
    def adapters(self) -> list[str]:
        """The names of the adapters that requests may have."""
        return self._adapters.names

    def update_weights(self, tensors: Mapping[str, Tensor] | Iterable[tuple[str, Tensor]]) -> None:
        """Replace weights where they lie (`replace_weights`, which says what it raises). What was cached is dropped;
        requests that run go on with the new weights, by which all their tokens so far are computed again."""
        from qwill.model.replace import replace_weights

        try:
            replace_weights(self.model, tensors)
        finally:
            self.executor.refresh()
            self.pool.forget()
            for sequence in list(self.scheduler.running):
                self.scheduler.restart(sequence)
            for running in self._requests.values():
                if running.prompt_logprobs is not None and not running.forked:
                    running.prompt_logprobs = [None]

    def _forget(self, running: Running) -> None:
        del self._requests[running.request.id]
        if running.request.embed:
            self._embedded.remove(running.replies[0].sequence)
        if running.adapter is not None:
            self._adapters.leave(running.adapter)

    def _end(self, running: Running, reason: FinishReason, error: str | None, events: list[Event]) -> None:
        """End the replies of a request that still run."""
        ended = set(range(running.request.n))
        if running.forked and not running.chooses:
            ended = {reply.sequence.sample for reply in running.replies if not reply.reason}
        for reply in running.replies:
            self.scheduler.finish(reply.sequence)
            reply.reason = reply.reason or reason
        self._forget(running)
        size, cached = len(running.request.prompt), running.replies[0].sequence.cached or 0
        for i in sorted(ended):
            events.append(Event(running.request.id, i, [], "", None, reason, None, error, size, cached))

    def embed(self, prompts: Items[Items[int]], adapter: str | None = None) -> Tensor:
        """float32 [n, D]: of each prompt the hidden state after the last norm at its last token, made length 1, as
        Qwen3-Embedding does (arXiv 2506.05176 §2). Other requests go on meanwhile; their events come with the next
        `step`. Raises `DataError` for a prompt that can't be served, `ModelError` when the model fails."""
        names = [f"embed {self._embeds + i}" for i in range(len(prompts))]
        self._embeds += len(prompts)
        rows, others = dict[str, list[float]](), list[Event]()
        try:
            for name, prompt in zip(names, prompts, strict=True):
                self.add(Request(name, list(prompt), embed=True, adapter=adapter))
            while len(rows) < len(prompts):
                for event in self.step():
                    if event.request not in names:
                        others.append(event)
                    elif event.embedding is None:
                        raise ModelError(event.error or "the request was cancelled")
                    else:
                        rows[event.request] = event.embedding
        finally:
            for name in names:
                self.cancel(name)
            self._due = others + [event for event in self._due if event.request not in names]
        return torch.tensor([rows[name] for name in names])

    def grow(self, blocks: int) -> None:
        """Have so many blocks, more than now; what is cached stays."""
        for executor in self._executors:
            executor.grow(blocks)
        if self._routing is not None:
            self._routing.grow(blocks)
        self.pool.grow(blocks)

    @torch.inference_mode()
    def step(self) -> list[Event]:
        """One pass over what the scheduler chose; what it gave."""
        events, self._due = self._due, []
        self._speculation.want(self._requests, self.scheduler.running)
        pieces = self.scheduler.schedule()
        if not pieces:
            return events
        try:
            logits, rows, token_rows = self._run(pieces)
        except BaseException as error:
            # The pass is lost, and with it all that it was to write.
            self.failure = error
            size = self.pool.block_size
            self.pool.forget(blocks=[b for p in pieces for b in p.sequence.blocks[p.start // size :]])
            for name in {piece.sequence.request for piece in pieces}:
                self._end(self._requests[name], "error", f"the model failed: {type(error).__name__}: {error}", events)
            if not isinstance(error, Exception):
                raise
            return events
        score_prompts(pieces, logits, rows, self._requests)
        if self._embedded:
            self._embed(pieces, events)
        ready, at = list[Reply](), list[int]()
        for piece, (first, last) in zip(pieces, rows, strict=True):
            sequence = piece.sequence
            if sequence.computed == len(sequence.tokens) and first < last:
                running = self._requests[sequence.request]
                if running.forked:
                    ready.append(running.replies[sequence.sample])
                    at.append(last - 1 - len(piece.drafts))
                else:
                    ready += self._fork(running, sequence)
                    at += [last - 1] * running.count
        experts = self.executor.experts_LNk
        experts_BLk = None if experts is None else experts[:, token_rows].transpose(0, 1)
        while ready:
            rows_of = dict(zip(ready, at, strict=True))
            further: list[Reply] = []
            if experts_BLk is not None:
                for reply in ready:
                    if reply.running.request.experts:
                        reply.experts = experts_BLk[rows_of[reply]].tolist()
            for part, own_BV, chosen in choose(ready, at, logits, self.vocab_size):
                further += self._accept(part, own_BV, chosen, events)
            ready, at = further, [rows_of[reply] + 1 for reply in further]
        self._speculation.settle(pieces)
        return events

    def _run(self, pieces: list[Piece]) -> tuple[Tensor, list[tuple[int, int]], Tensor]:
        """The pass's logits; for each piece, which rows of them are its own; of which of the pass's tokens they are."""
        self._copy_states([(p.source, p.sequence.state) for p in pieces if p.source >= 0])
        if self._adapters.names:
            # Neighbours with the same adapter are multiplied together.
            pieces.sort(key=lambda piece: piece.sequence.adapter)
        self._speculation.draft(pieces, self._tables)
        scored = {
            p.sequence: 0 for p in pieces if not p.sequence.reuse and scores(p, self._requests[p.sequence.request])
        }
        step, rows = step_of(pieces, scored, self._embedded, self.model.config.has_linear, self._tables)
        step.experts = self._routing is not None or any(r.request.experts for r in self._requests.values())
        logits = self.executor.run(step)
        if self._routing is not None and self.executor.experts_LNk is not None:
            self._routing.write(step, self.executor.experts_LNk)
        self._speculation.follow(pieces, step, self._tables)
        self._copy_states([(source, slot) for slot, source in self.scheduler.snapshots(pieces).items()])
        return logits, rows, step.rows

    def _embed(self, pieces: list[Piece], events: list[Event]) -> None:
        """Tell the embeddings of the prompts whose end was in this pass."""
        here = [piece.sequence for piece in pieces if piece.sequence in self._embedded]
        done = [sequence for sequence in here if sequence.computed == len(sequence.tokens)]
        if not done:
            return
        assert self.executor.hidden_BD is not None
        unit_BD = torch.nn.functional.normalize(self.executor.hidden_BD, dim=1)
        for sequence, vector in zip(done, unit_BD.tolist(), strict=True):
            running = self._requests[sequence.request]
            self._cached += sequence.cached or 0
            (reply,) = running.replies
            if vector[0] != vector[0]:
                self._broken(reply, events)
                continue
            reply.reason, reply.embedding = "stop", vector
            self._finish(reply, events)

    def _fork(self, running: Running, sequence: Sequence) -> list[Reply]:
        """A prompt is done: all replies to it."""
        request = running.request
        running.forked = True
        self._cached += sequence.cached or 0
        blocks: list[tuple[int, int]] = []
        states: list[tuple[int, int]] = []
        for number in range(1, running.count):
            other = Sequence(request.id, number, list(sequence.tokens), sequence.namespace, sequence.adapter)
            running.start(other)
            pairs = self.scheduler.fork(sequence, other)
            blocks += pairs[0]
            states += pairs[1]
        for holder in (*self._executors, self._routing) if blocks else ():
            if holder is not None:
                holder.copy_blocks(*map(list, zip(*blocks, strict=True)))
        self._copy_states(states)
        return running.replies

    def _copy_states(self, pairs: Items[tuple[int, int]]) -> None:
        for executor in self._executors if pairs else ():
            executor.copy_states(*map(list, zip(*pairs, strict=True)))

    def _accept(self, part: Items[Reply], own_BV: Tensor, chosen: Sampled, events: list[Event]) -> list[Reply]:
        """Count the tokens in; the replies whose drafted token came, so that another follows in this pass."""
        further: list[Reply] = []
        values = chosen.tokens_B.tolist(), chosen.logprobs_B.tolist(), chosen.sampled_logprobs_B.tolist()
        for i, (reply, token, own, sampled) in enumerate(zip(part, *values, strict=True)):
            running = reply.running
            if reply.reason:
                continue
            if own != own:
                self._broken(reply, events)
                continue
            if running.scored:
                top: list[tuple[int, float]] = []
                if count := running.request.logprobs:
                    warm = own_BV[i : i + 1] / (running.request.sampling.temperature or 1.0)
                    top = next(tops(warm.log_softmax(1), count))
                among = None if chosen.support is None else chosen.support[i]
                reply.scores.append(TokenLogprob(token, own, sampled, top, among, reply.experts))
            try:
                if reply.failure:
                    raise DataError(reply.failure)
                reply.append(token, own)
            except DataError as error:
                self._end(running, "error", str(error), events)
                continue
            self._tokens += 1
            came = bool(reply.drafts) and self._speculation.came(reply, token)
            if reply.reason:
                self._finish(reply, events)
            elif came:
                further.append(reply)
            elif reply.due:
                events.append(reply.event(reply.sequence.sample))
        return further

    def _broken(self, reply: Reply, events: list[Event]) -> None:
        """The model gave NaN, which reaches whoever shares its blocks: once everyone may try again alone."""
        self.pool.forget(blocks=list(reply.sequence.blocks))
        reply.drafts, reply.proposed = [], []
        if not reply.retried:
            reply.retried, reply.sequence.reuse = True, False
            self.scheduler.restart(reply.sequence)
            return
        why = "the model gives NaN after this prompt: its weights are broken"
        self._end(reply.running, "error", why, events)

    def _finish(self, reply: Reply, events: list[Event]) -> None:
        """A reply has ended by itself."""
        running, sequence = reply.running, reply.sequence
        if self._routing is not None:
            reply.routing = self._routing.read(sequence.blocks, len(sequence.tokens) - 1)
        self.scheduler.finish(sequence)
        if not running.chooses:
            events.append(reply.event(reply.sequence.sample))
        running.left -= 1
        if not running.left:
            self._forget(running)
            if running.chooses:
                events += [other.event(number) for number, other in enumerate(running.best())]
