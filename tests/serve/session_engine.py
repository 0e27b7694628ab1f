"""An engine-shaped thing over `Session`, one cache a sample: slow and simple, for tests of the server."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial

import torch

from qwill.base.errors import DataError
from qwill.engine.language_model import LanguageModel, load
from qwill.engine.request import EngineStats, Event, Request, TokenLogprob
from qwill.engine.stream import Session
from qwill.serve.engine_process import model_info
from qwill.serve.wire import ModelInfo
from qwill.text.tokenizer import StreamDecoder


@dataclass
class Running:
    request: Request
    sample: int
    tokens: object
    decoder: StreamDecoder
    text: str = ""
    shown: int = 0
    count: int = 0
    first: bool = True
    ids: list[int] = field(default_factory=list)


class SessionEngine:
    def __init__(self, lm: LanguageModel) -> None:
        self.lm, self.running, self.adapters, self.steps = lm, [], {}, 0

    @property
    def has_work(self) -> bool:
        return bool(self.running)

    def add(self, request: Request) -> None:
        if len(request.prompt) >= self.lm.context:
            raise DataError("the prompt is too long")
        if request.adapter is not None and request.adapter not in self.adapters:
            raise DataError(f"no adapter {request.adapter}")
        vocab = min(self.lm.tokenizer.vocab_size, self.lm.model.config.vocab_size)
        for sample in range(request.n):
            seed = request.seed + sample
            tokens = Session(self.lm.model).stream(request.prompt, request.sampling, request.stop_ids, seed, vocab)
            self.running.append(Running(request, sample, tokens, StreamDecoder(self.lm.tokenizer)))

    def cancel(self, request_id: str) -> None:
        self.running = [r for r in self.running if r.request.id != request_id]

    def step(self) -> list[Event]:
        self.steps += 1
        events = [event for running in self.running for event in self._advance(running)]
        ended = {(e.request, e.sample) for e in events if e.finish_reason}
        self.running = [r for r in self.running if (r.request.id, r.sample) not in ended]
        return events

    def _advance(self, running: Running) -> list[Event]:
        request, token = running.request, next(running.tokens)
        running.count += 1
        stopped = token.id in request.stop_ids
        if not stopped:
            running.text += running.decoder.push(token.id)
        last = stopped or running.count >= request.sampling.max_tokens
        last = last or len(request.prompt) + running.count >= self.lm.context
        if last:
            running.text += running.decoder.finish()
        reason = ("stop" if stopped else "length") if last else None
        stop_text, end = None, len(running.text)
        for stop in request.stop:
            found = running.text.find(stop)
            if 0 <= found < end or (found >= 0 and stop_text is None):
                stop_text, end, reason = stop, min(end, found), "stop"
        if reason is None and request.stop:
            end -= max(map(len, request.stop)) - 1
        end = max(end, running.shown)
        text, running.shown = running.text[running.shown : end], end
        logprobs = None
        if request.logprobs is not None:
            top = [(token.id, token.logprob)] * bool(request.logprobs)
            logprobs = [TokenLogprob(token.id, token.logprob, token.logprob, top)]
        prompt_logprobs = None
        if running.first and running.sample == 0 and request.prompt_logprobs is not None:
            prompt_logprobs = self._prompt_logprobs(request)
        event = Event(
            request.id, running.sample, [token.id], text, logprobs, reason, stop_text,
            prompt_tokens=len(request.prompt) if running.first and running.sample == 0 else 0,
            prompt_logprobs=prompt_logprobs,
        )  # fmt: skip
        running.first = False
        return [event]

    @torch.inference_mode()
    def _prompt_logprobs(self, request: Request) -> list[TokenLogprob | None]:
        ids = torch.tensor([request.prompt])
        scores = self.lm.model.logits(ids)[0].log_softmax(-1)
        found: list[TokenLogprob | None] = [None]
        for i, token in enumerate(request.prompt[1:]):
            values, places = scores[i].topk(max(1, request.prompt_logprobs))
            top = list(zip(places.tolist(), values.tolist(), strict=True))[: request.prompt_logprobs]
            own = float(scores[i, token])
            found.append(TokenLogprob(token, own, own, top))
        return found

    def stats(self) -> EngineStats:
        return EngineStats(running=len(self.running), blocks_free=10, blocks_total=10, steps=self.steps)

    @torch.inference_mode()
    def embed(self, prompts: list[list[int]]) -> torch.Tensor:
        rows = [self.lm.model.logits(torch.tensor([p]))[0, -1] for p in prompts]
        return torch.nn.functional.normalize(torch.stack(rows), dim=-1)

    def load_adapter(self, name: str, folder: str) -> None:
        self.adapters[name] = folder

    def unload_adapter(self, name: str) -> None:
        del self.adapters[name]


def reference_build(reference: str) -> tuple[SessionEngine, ModelInfo]:
    lm = load(reference)
    return SessionEngine(lm), model_info(lm)


def from_reference(reference: str) -> partial:
    return partial(reference_build, reference)
