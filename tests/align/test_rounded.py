"""Rollouts of rounded weights: what they are made of, that the gap is logged and corrected for; and that weights of the
same precision are handed over as they lie."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from tests.align.replay_models import model, moved
from tests.align.test_grpo import rewards
from tests.align.tiny_rl import TOKENIZER, config, rows, until_cut
from tests.train.tiny_training import Killed, Outcome, context, outcome

from qwill.align import grpo
from qwill.align.grpo import train_grpo
from qwill.align.policy_update import logprobs_of
from qwill.align.rollouts import Rollout
from qwill.align.rounded import rollout_weights
from qwill.align.sample_rollouts import roll_out
from qwill.base.errors import ConfigError
from qwill.base.progress import Display
from qwill.engine import native
from qwill.engine.engine import Engine
from qwill.engine.engine_settings import EngineSettings
from qwill.engine.executor import TorchExecutor
from qwill.engine.generate import generate
from qwill.engine.request import Request
from qwill.engine.sampling import Sampling
from qwill.model import ops
from qwill.model.held import hold
from qwill.model.lora import attach, new_adapter
from qwill.model.lora_config import LoraConfig
from qwill.model.project import Quantized


def pointers(made: torch.nn.Module) -> set[int]:
    return {t.untyped_storage().data_ptr() for t in (*made.parameters(), *made.buffers())}


@pytest.mark.parametrize("kind", ["dense", "moe", "hybrid"])
def test_weights_of_the_same_precision_are_handed_over_as_they_lie(kind: str) -> None:
    """The engine of a rollout reads the storage that the optimiser writes, and holds no weight twice."""
    made, engines = model(kind), list[Engine]()
    assert rollout_weights(made, "same")() is made
    real = Engine.__init__

    def watched(self: Engine, *arguments: Any, **more: Any) -> None:
        real(self, *arguments, **more)
        engines.append(self)

    for native_ in (True, False):  # False: as on an accelerator
        ops.use_native(native_)
        try:
            with rewards() as patch:
                patch.setattr(Engine, "__init__", watched)
                roll_out(made, TOKENIZER, rows(2), config(), 0, 0)
        finally:
            ops.use_native(True)
        executor = engines[-1].executor
        if native_ and kind != "hybrid" and native.library() is not None:
            assert isinstance(executor, native.NativeExecutor)
            held = {t.untyped_storage().data_ptr() for t in executor._keep}
            assert held == pointers(made), "every weight, and nothing that isn't the model's own"
        else:
            assert isinstance(executor, TorchExecutor) and executor._model is made


@pytest.mark.skipif(native.library() is None, reason="no C compiler")
def test_the_native_executor_sees_what_was_written_since(tmp_path: Path) -> None:
    """One engine, no word to it between two requests, and the weights change where they lie."""
    made = model("moe")
    engine = Engine(made, None, EngineSettings(blocks=20, max_running=2, in_place=True, share_prefixes=False))
    said = []
    for _ in range(2):
        engine.add(Request("a", [5, 6, 7], Sampling(max_tokens=6), logprobs=0, whole=True))
        (event,) = (e for _ in range(20) if engine.has_work for e in engine.step())
        said.append((event.token_ids, [s.logprob for s in event.logprobs or []]))
        moved(made, 0.05)
    (fresh,) = generate(moved(model("moe"), 0.05), [[5, 6, 7]], Sampling(max_tokens=6))[0]
    assert said[1] == (fresh.token_ids, fresh.logprobs) != said[0]


def test_an_engine_reads_what_the_optimiser_wrote() -> None:
    """Without being told: the next rollouts are those of the new weights."""
    made = model("dense")
    with rewards():
        before = [r.logprobs for g in roll_out(made, TOKENIZER, rows(2), config(), 0, 0) for r in g]
        moved(made, 0.05)
        after = [r.logprobs for g in roll_out(made, TOKENIZER, rows(2), config(), 0, 0) for r in g]
        fresh = [r.logprobs for g in roll_out(copy.deepcopy(made), TOKENIZER, rows(2), config(), 0, 0) for r in g]
    assert after == fresh != before


@pytest.mark.parametrize("kind", ["dense", "moe", "hybrid"])
def test_rounded_weights_follow_the_trainers(kind: str) -> None:
    """Refreshed they are what rounding the new weights gives, where they lay before; the trainer's keep every bit."""
    made = model(kind)
    kept = [p.detach().clone() for p in made.parameters()]
    if kind == "dense":
        weights = {"bfloat16": rollout_weights(made, "bfloat16")}
        with pytest.raises(ConfigError, match=r"^rollout_dtype is int8, but layers\.0\.mlp\.down_proj: rows of 48"):
            rollout_weights(made, "int8")
    else:
        weights = {dtype: rollout_weights(made, dtype) for dtype in ("bfloat16", "int8")}  # type: ignore[arg-type]
    assert all(torch.equal(a, b) for a, b in zip(kept, made.parameters(), strict=True))
    first = {dtype: pointers(of()) for dtype, of in weights.items()}
    moved(made, 0.3)
    for dtype, of in weights.items():
        found, expected = of(), copy.deepcopy(made)
        assert pointers(found) == first[dtype] and not pointers(found) & pointers(made)
        if dtype == "int8":
            hold(expected, 8)
            assert any(isinstance(m, Quantized) for m in found.modules())
        else:
            expected.to(torch.bfloat16)
        mine, theirs = found.state_dict(), expected.state_dict()
        assert mine.keys() == theirs.keys() and all(torch.equal(mine[name], theirs[name]) for name in mine)
        assert not any(p.requires_grad for p in found.parameters())


class Heard(Display):
    def __init__(self) -> None:
        super().__init__(quiet=True)
        self.said: list[str] = []

    def say(self, text: str) -> None:
        if text.startswith("grpo: step"):  # others are the bar's
            self.said.append(text)


def run(
    folder: Path, cut: int | None = None, heard: Heard | None = None, shift: float = 0.0, **changes: Any
) -> Outcome:
    made = model("moe", seed=99 if list((folder / "work").glob("checkpoint-*")) else 0)
    ctx = context(folder)
    if heard is not None:
        object.__setattr__(ctx, "display", heard)

    def shifted(*arguments: Any) -> list[list[Rollout]]:
        groups = until_cut(cut)(*arguments)
        for r in (r for g in groups for r in g):
            r.logprobs = [p - shift for p in r.logprobs]
        return groups

    with rewards() as patch:
        patch.setattr(grpo, "roll_out", shifted)
        history = train_grpo(made, TOKENIZER, rows(), config(**changes), ctx, checkpoint_seconds=0)
    return outcome(folder, made, history)


@pytest.mark.parametrize("dtype", ["bfloat16", "int8"])
def test_a_run_logs_the_gap_corrects_for_it_and_goes_on_where_it_stopped(tmp_path: Path, dtype: str) -> None:
    changes: dict[str, Any] = {"rollout_dtype": dtype, "updates": 2, "top_k": 100, "routing_replay": "rollout"}
    assert config(**changes).truncation == 2 and config(importance_most=3.0, **changes).truncation == 3
    assert config().truncation == 0
    heard = Heard()
    whole = run(tmp_path / "whole", heard=heard, **changes)
    taught = [p for p in whole.history["curve"] if p["useful"]]
    assert taught and all(1e-4 < p["gap_mean"] < p["gap"] < 1 and 0 < p["gap_kl"] < 0.1 for p in taught)
    assert heard.said == [], "what is corrected for needs no warning"
    with pytest.raises(Killed):
        run(tmp_path / "cut", 2, **changes)
    assert run(tmp_path / "cut", **changes).differences(whole) == []


def test_a_gap_that_should_not_be_is_said_once(tmp_path: Path) -> None:
    heard = Heard()
    run(tmp_path, heard=heard, shift=0.5)
    (sentence,) = heard.said
    assert "differ by up to 0.5 (mean 0.5); importance_most: 2" in sentence
    heard = Heard()
    run(tmp_path / "again", heard=heard, shift=0.5, importance_most=2.0)
    assert heard.said == []
    run(tmp_path / "none", heard=heard)
    assert heard.said == []


@pytest.mark.parametrize("dtype", ["same", "bfloat16", "int8"])
def test_an_adapters_rollouts_follow_it(dtype: Literal["same", "bfloat16", "int8"]) -> None:
    """Truncated, routed, rounded: with an adapter on the model rollouts are those of both, step after step."""
    made = model("moe")
    attach(made, new_adapter(made, LoraConfig(), torch.Generator().manual_seed(0)))
    weights, said = rollout_weights(made, dtype), []
    settings_ = config(top_p=0.9, routing_replay="rollout", rollout_dtype=dtype)
    g = torch.Generator().manual_seed(1)
    for _ in range(2):
        with rewards():
            groups = roll_out(weights(), TOKENIZER, rows(2), settings_, 0, 0)
        every = [r for group in groups for r in group]
        own = logprobs_of(made, every, settings_, replay=True)
        gap = max(abs(p - q) for r, new in zip(every, own, strict=True) for p, q in zip(r.logprobs, new, strict=True))
        assert gap < 1e-5 if dtype == "same" else 1e-4 < gap < 1
        said.append([r.logprobs for r in every])
        with torch.no_grad():
            for p in made.parameters():
                if p.requires_grad:
                    p.add_(torch.randn(p.shape, generator=g) * 0.1)
    assert said[0] != said[1]
