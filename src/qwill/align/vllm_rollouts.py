"""Rollouts by vLLM, in this process, where the trainer's machine has a GPU for it.

The weights go over as a model folder: `save_model` writes one (an adapter merged in), and vLLM reads it into the
weights that it has (`reload_weights`), whatever its parallelism. A folder on a RAM disk makes that a copy in memory.
vLLM's numbers are of its own kernels and precision, so its log-probabilities differ from the trainer's by more than
rounding does here: importance sampling is on (`importance_most`).

Written for vLLM 0.32 (`LLM`, `SamplingParams`, `logprobs_mode`, `collective_rpc`).

Not covered: several ranks, truncated sampling (vLLM tells no support), replay of experts.
"""

from __future__ import annotations

import copy
import hashlib
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from qwill.align.rollout_engines import RolloutEngine
from qwill.align.settings import VllmConfig
from qwill.base.errors import ModelError
from qwill.engine.generate import Completion
from qwill.engine.sampler import Sampling
from qwill.model.files import save_model
from qwill.model.transformer import Linear, Transformer
from qwill.text.tokenizer import Tokenizer


def vllm_engine(model: Transformer, tokenizer: Tokenizer, config: VllmConfig, folder: Path, seed: int) -> RolloutEngine:
    """vLLM with this model's shape; its weights are `load_weights`'s. `folder` is emptied, and holds what is handed
    over. Raises ModelError, one sentence, where vLLM isn't installed or doesn't start."""
    try:
        import vllm  # type: ignore[import-not-found, unused-ignore]
    except ImportError as error:
        raise ModelError(
            f"rollout_engine is vllm, which can't be imported here ({error}); install it (`pip install vllm`), or set "
            "rollout_engine to own."
        ) from None
    vocab_size = tokenizer.vocab_size
    # Ids above the tokenizer's are padding of the embedding; they are never drawn.
    allowed = list(range(vocab_size)) if vocab_size < model.config.vocab_size else None
    running: list[Any] = []

    def write(model: Transformer) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        save_model(untied(model), folder, tokenizer, merged=True)

    def start() -> Any:
        try:
            return vllm.LLM(
                model=str(folder), skip_tokenizer_init=True, seed=seed % 2**31, dtype=config.dtype,
                tensor_parallel_size=config.tensor_parallel_size, generation_config="vllm",
                gpu_memory_utilization=config.gpu_memory_utilization, enforce_eager=config.enforce_eager,
                logprobs_mode="processed_logprobs",  # after temperature, as the trainer computes them
            )  # fmt: skip
        except Exception as error:
            said = (str(error).splitlines() or [type(error).__name__])[0][:300].rstrip(".")
            raise ModelError(f"vLLM does not start ({said}); mend that, or set rollout_engine to own.") from error

    def load_weights(model: Transformer) -> None:
        write(model)
        if not running:
            running.append(start())
            return
        running[0].collective_rpc("reload_weights", kwargs={"weights_path": str(folder)})
        # Keys and values of the old weights.
        if not running[0].reset_prefix_cache():
            raise ModelError("vLLM kept its cache over new weights, though nothing runs; that is a bug of this vLLM.")

    def generate(
        prompts: Sequence[Sequence[int]], sampling: Sampling, n: int, seed: int, streams: Sequence[int] | None = None
    ) -> list[list[Completion]]:
        places = range(len(prompts)) if streams is None else streams
        settings = [
            vllm.SamplingParams(
                n=n, temperature=sampling.temperature, max_tokens=sampling.max_tokens, seed=seed_of(seed, place),
                stop_token_ids=list(tokenizer.stop_ids), ignore_eos=True, detokenize=False, logprobs=0,
                allowed_token_ids=allowed,
            )
            for place in places
        ]  # fmt: skip
        asked = [{"prompt_token_ids": list(prompt)} for prompt in prompts]
        # In the order of the prompts; each one's outputs in the order of their index.
        found = running[0].generate(asked, settings, use_tqdm=False)
        return [[completion(output) for output in sorted(one.outputs, key=lambda o: o.index)] for one in found]

    return RolloutEngine(load_weights, generate)


def untied(model: Transformer) -> Transformer:
    """The model with a head of its own where that is its embedding: vLLM 0.32 reloads weights that two layers share for
    one of them only (measured: the head stayed as it was)."""
    if not model.config.tie_word_embeddings:
        return model
    made = copy.copy(model)
    made._modules, made.config = dict(model._modules), model.config.with_(tie_word_embeddings=False)
    made.lm_head = Linear(1, 1, bias=False)
    made.lm_head.weight = nn.Parameter(model.embed_tokens.weight.detach().clone(), requires_grad=False)
    return made


def seed_of(seed: int, stream: int) -> int:
    """vLLM's seed of a prompt; its samples have the numbers from there on, so neighbours must not be near."""
    digest = hashlib.blake2b(f"{seed}/{stream}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") % 2**31


def completion(output: Any) -> Completion:
    """vLLM's CompletionOutput as ours. Raises ModelError for a reply that vLLM did not finish."""
    if output.finish_reason not in ("stop", "length"):
        raise ModelError(f"vLLM ended a rollout with {output.finish_reason!r}; look at what it said above.")
    ids = list(output.token_ids)
    own = [float(at[token].logprob) for token, at in zip(ids, output.logprobs, strict=True)]
    return Completion("", ids, own, output.finish_reason, own)
