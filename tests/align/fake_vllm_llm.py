"""A stand-in for vLLM's offline API as far as rollouts use it, with Qwill's engine making the tokens: names, arguments,
shapes and what is easily got wrong, as documented for 0.20 to 0.32 (`vllm.LLM`, `vllm.SamplingParams`,
`vllm.outputs`, `vllm.v1.sample.sampler`, the sleep mode's pages on `reload_weights`).

What it keeps of the real one: sample i of a prompt has the seed + i; `logprobs=0` tells of the drawn token alone, as a
mapping from ids; the log-probabilities are of the raw logits unless `logprobs_mode` says processed; the token that ends
a reply is in `token_ids`; the model's own end ids end a reply unless `ignore_eos`; an unknown argument is an error; new
weights leave the cache of the old ones until it is reset.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qwill.engine.generate import generate
from qwill.engine.sampler import Sampling
from qwill.model.files import load_model
from qwill.model.transformer import Transformer

__version__ = "0.32.0"


@dataclass(kw_only=True)
class SamplingParams:
    n: int = 1
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    seed: int | None = None
    max_tokens: int | None = 16
    stop_token_ids: list[int] | None = None
    ignore_eos: bool = False
    detokenize: bool = True
    logprobs: int | None = None
    allowed_token_ids: list[int] | None = None

    def __post_init__(self) -> None:
        if self.seed is not None and not 0 <= self.seed < 2**63:
            raise ValueError(f"seed must be in 64 bits, got {self.seed}.")


@dataclass
class Logprob:
    logprob: float
    rank: int | None = None
    decoded_token: str | None = None


@dataclass
class CompletionOutput:
    index: int
    text: str
    token_ids: Sequence[int]
    cumulative_logprob: float | None
    logprobs: list[dict[int, Logprob]] | None
    finish_reason: str | None = None
    stop_reason: int | str | None = None


@dataclass
class RequestOutput:
    request_id: str
    prompt_token_ids: list[int]
    outputs: list[CompletionOutput]
    finished: bool = True


class LLM:
    """`started` are those of this process."""

    started: list[LLM] = []
    finish: str | None = None  # a reason to end replies with

    def __init__(
        self, model: str, *, skip_tokenizer_init: bool = False, tensor_parallel_size: int = 1, dtype: str = "auto",
        seed: int = 0, gpu_memory_utilization: float = 0.92, enforce_eager: bool = False,
        logprobs_mode: str = "raw_logprobs", generation_config: str = "auto",
    ) -> None:  # fmt: skip
        if not Path(model, "config.json").is_file():
            raise ValueError(f"Invalid repository ID or local directory specified: '{model}'.\nPlease verify it.")
        self.model: Transformer = load_model(model)
        self.skips_tokenizer, self.logprobs_mode, self.dtype = skip_tokenizer_init, logprobs_mode, dtype
        self.asked: list[SamplingParams] = []
        self.stale = False
        LLM.started.append(self)

    def collective_rpc(
        self, method: str, timeout: float | None = None, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> list[None]:
        assert method == "reload_weights" and not args and kwargs.keys() == {"weights_path"}
        # What two layers share is reloaded for one of them only (measured with 0.32.0).
        assert not self.model.config.tie_word_embeddings
        self.model, self.stale = load_model(kwargs["weights_path"]), True
        return [None]

    def reset_prefix_cache(self) -> bool:
        self.stale = False
        return True

    def generate(
        self, prompts: Sequence[dict[str, list[int]]], sampling_params: Sequence[SamplingParams],
        *, use_tqdm: bool = True,
    ) -> list[RequestOutput]:  # fmt: skip
        assert not self.stale, "keys and values of other weights would be used"
        assert len(prompts) == len(sampling_params)
        self.asked += sampling_params
        out = []
        for i, (prompt, asked) in enumerate(zip(prompts, sampling_params, strict=True)):
            if self.skips_tokenizer and asked.detokenize:
                raise ValueError("`detokenize` needs a tokenizer, and skip_tokenizer_init is set.")
            assert asked.max_tokens is not None and asked.seed is not None and asked.logprobs == 0
            eos = self.model.config.eos_token_id
            own = [] if eos is None or asked.ignore_eos else [eos] if isinstance(eos, int) else [*eos]
            ids = asked.allowed_token_ids
            size = self.model.config.vocab_size if ids is None else max(ids) + 1
            made = []
            for index in range(asked.n):
                ((one,),) = generate(
                    self.model, [prompt["prompt_token_ids"]], Sampling(asked.max_tokens, asked.temperature),
                    stop_ids=[*(asked.stop_token_ids or []), *own], seed=asked.seed + index, vocab_size=size,
                )  # fmt: skip
                told = [{t: Logprob(p, 1)} for t, p in zip(one.token_ids, one.logprobs, strict=True)]
                if self.logprobs_mode != "processed_logprobs":
                    told = [{t: Logprob(p.logprob * asked.temperature, 1) for t, p in at.items()} for at in told]
                stop = one.token_ids[-1] if one.finish_reason == "stop" else None
                reason = LLM.finish or one.finish_reason
                made.append(CompletionOutput(index, "", one.token_ids, None, told, reason, stop))
            out.append(RequestOutput(str(i), prompt["prompt_token_ids"], made[::-1]))
        return out
