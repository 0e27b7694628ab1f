"""Every algorithm as the invariance suite sees it: the gradient of a step however it is cut, dealt or ordered, its loss
on paper, and a short training. Also the padded batch that everybody else computes, with a mask for attention.

Letters: B rows, T places in a row, N tokens, D hidden.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.align import test_offline, test_policy_update, test_reward
from tests.align.preference_rows import TOKENIZER, VOCAB, pairs, verdicts
from tests.align.tiny_rl import TOKENIZER as RL_TOKENIZER
from tests.align.tiny_rl import config as rl_config
from tests.align.tiny_rl import model as rl_model
from tests.align.tiny_rl import rows as rl_rows
from tests.engine.tiny import tiny_model
from tests.train.tiny_training import context
from torch import Tensor, nn

from qwill.align.critic import Critic
from qwill.align.distill import Distillation, DistillStep
from qwill.align.distillation_losses import generalised_jsd
from qwill.align.grpo import train_grpo
from qwill.align.offline import Offline, reference_logprobs
from qwill.align.policy_update import update
from qwill.align.preference_examples import PreferenceStep
from qwill.align.reward import RewardTraining, leave_head
from qwill.align.rollouts import Rollout
from qwill.align.rule_rewards import Made
from qwill.align.settings import DistillConfig, PPOConfig, PreferenceConfig
from qwill.model import ops
from qwill.model.batch import AttentionPlan, Batch
from qwill.model.transformer import Transformer
from qwill.train.loop import History, train
from qwill.train.mesh import Mesh, make_mesh, resolve_mesh
from qwill.train.optim import make_optimizers
from qwill.train.parallel import Parallel, parallelize
from qwill.train.replicas import ALONE, Replicas
from qwill.train.settings import MeshConfig, OptimizerConfig, ScheduleConfig, StepConfig
from qwill.train.sft import pack_examples
from qwill.train.step import StepResult, backward, split

UNITS = 8
WHOLE = 10**9  # tokens at a time: everything
FAST = OptimizerConfig("adamw", learning_rate=3e-3, matrix_rate=3e-3)
UNCLIPPED = OptimizerConfig("adamw", clip=1e9)
SCHEDULE = ScheduleConfig(0.2, 0.4)
STEPS = 3
Hidden = Callable[[Transformer, list[int]], Tensor]  # of one sequence, [tokens, D]


@dataclass
class Result:
    """What a step gives: the gradient of each weight, and numbers for the log."""

    gradients: dict[str, Tensor]
    numbers: dict[str, float]

    def distance(self, other: Result) -> float:
        """The largest difference, relative where something is larger than 1."""
        assert self.gradients.keys() == other.gradients.keys() and self.numbers.keys() == other.numbers.keys()
        parts = [(a, other.gradients[name]) for name, a in self.gradients.items()]
        found = [float((a - b).norm() / (1 + b.norm())) for a, b in parts]
        return max(*found, *(abs(a - other.numbers[k]) / (1 + abs(a)) for k, a in self.numbers.items()))


def gradients_of(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def computed(model: Transformer, work: Callable[[], StepResult], replicas: Replicas) -> Result:
    model.zero_grad()
    done = work()
    replicas.sum_gradients(model)
    return Result(gradients_of(model), done.numbers())


def stepped(model: nn.Module, optimizers: list[torch.optim.Optimizer], work: Callable[[], dict[str, float]]) -> Result:
    """Of what makes its own optimiser step: the gradients that this was given."""
    found: dict[str, Tensor] = {}
    hook = optimizers[0].register_step_pre_hook(lambda *_: found.update(gradients_of(model)))
    numbers = work()
    hook.remove()
    return Result(found, numbers)


@dataclass
class Case:
    """An algorithm. `balance`: weight of the balancing loss, where the model is sparse."""

    name: str
    kind: str = "dense"
    balance: float = 0.0
    extra: dict[str, Any] = field(default_factory=dict)

    def gradient(self, units: Sequence[int], most: int, replicas: Replicas = ALONE) -> Result:
        """Of a step of these units, at most `most` tokens at a time."""
        raise NotImplementedError

    def paper(self, units: Sequence[int], hidden: Hidden) -> Result:
        """By autograd of the loss as it is written, sequence by sequence."""
        raise NotImplementedError

    def sequences(self) -> list[tuple[Transformer, list[int]]]:
        """Everything that `paper` asks hidden states of."""
        raise NotImplementedError

    def train(self, folder: Path, replicas: Replicas = ALONE, seed: int = 0) -> Any:
        """A few steps from the model of this seed, or from the checkpoint that is in the folder: (trained weights,
        history)."""
        raise NotImplementedError


def weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def trained(
    model: Transformer, folder: Path, data: Callable[[int], Any], compute: Any, replicas: Replicas
) -> tuple[dict[str, Tensor], History]:
    history = train(
        model, STEPS, data, FAST, SCHEDULE, 0.0, context(folder), "test", checkpoint_seconds=0.0, compute=compute,
        replicas=replicas,
    )  # fmt: skip
    return weights(model), history


def some(step: int) -> list[int]:
    """The units of a step of training; the last step is not full."""
    return [(3 * step + i) % UNITS for i in range(5 if step < STEPS - 1 else 3)]


@cache
def mesh(axis: str) -> Mesh:
    return make_mesh(resolve_mesh(MeshConfig(**{axis: 2}), torch.distributed.get_world_size()))


def cut(model: Transformer, axis: str = "dp") -> Parallel:
    return parallelize(model, mesh(axis), fill=True)


class SFT(Case):
    examples = [p.chosen.examples[0] for p in pairs(UNITS)]

    @cached_property
    def model(self) -> Transformer:
        return tiny_model(self.kind, VOCAB, 120).double()

    def how(self, most: int) -> StepConfig:
        return StepConfig(UNITS if most < WHOLE else 1, "exact")

    def gradient(self, units: Sequence[int], most: int, replicas: Replicas = ALONE) -> Result:
        data = pack_examples([self.examples[i] for i in units], "")
        data = replace(data, weight_N=data.weight_N.double())
        if replicas.count > 1:
            parallel = cut(tiny_model(self.kind, VOCAB, 120).double(), self.extra.get("axis", "dp"))
            done = parallel.backward(data, self.balance, self.how(most))
            gradients = {s.name: parallel.gather(s, s.local.grad) for s in parallel.shards}
        else:
            model, parts = self.model, split(data, self.how(most).micro_batches)
            model.zero_grad()
            done, gradients = backward(model, parts, self.balance, "exact"), gradients_of(model)
        if not self.balance:
            done.balance = None  # of each part's own load: shown, not trained on
        return Result(gradients, done.numbers())

    def paper(self, units: Sequence[int], hidden: Hidden) -> Result:
        self.model.zero_grad()
        losses = []
        for e in (self.examples[i] for i in units):
            logp = torch.log_softmax(self.model.head(hidden(self.model, e.ids)), -1)
            losses += [-logp[j - 1, e.ids[j]] for j, trained in enumerate(e.loss_mask) if trained]
        loss = torch.stack(losses).mean()
        loss.backward()
        return Result(gradients_of(self.model), {"loss": float(loss.detach())})

    def sequences(self) -> list[tuple[Transformer, list[int]]]:
        return [(self.model, e.ids) for e in self.examples]

    def train(self, folder: Path, replicas: Replicas = ALONE, seed: int = 0) -> Any:
        model = tiny_model(self.kind, VOCAB, 120, seed).double()
        parallel = cut(model) if replicas.count > 1 else None
        history = train(
            model, STEPS, lambda step: pack_examples([self.examples[i] for i in some(step)[: 5 - 2 * step]], ""), FAST,
            SCHEDULE, self.balance, context(folder), "test", checkpoint_seconds=0.0, how=StepConfig(2, "exact"),
            parallel=parallel,
        )  # fmt: skip
        return weights(model), history


class Reward(Case):
    def work(self, most: int, replicas: Replicas, seed: int = 0) -> RewardTraining:
        made = test_reward.training(self.kind, train_tokens=most, centring=0.05, balance=self.balance)
        if seed:
            made.model.load_state_dict(tiny_model(self.kind, VOCAB, 120, seed).double().state_dict(), strict=False)
        leave_head(made.model)
        made.replicas = replicas
        return made

    @cached_property
    def plain(self) -> RewardTraining:
        return self.work(WHOLE, ALONE)

    def gradient(self, units: Sequence[int], most: int, replicas: Replicas = ALONE) -> Result:
        work = self.work(most, replicas)
        return computed(work.model, lambda: work.compute(PreferenceStep(list(units), "", 0)), replicas)

    def paper(self, units: Sequence[int], hidden: Hidden) -> Result:
        model, score_D = self.plain.model, self.plain.model.get_parameter("score")
        model.zero_grad()
        losses = []
        for p in (self.plain.pairs[i] for i in units):
            a, b = (hidden(model, r.examples[-1].ids)[-1] @ score_D for r in p.replies)
            losses.append(-torch.nn.functional.logsigmoid(a - b - p.margin) + 0.05 * (a + b) ** 2)
        loss = torch.stack(losses).mean()
        loss.backward()
        return Result(gradients_of(model), {"loss": float(loss.detach())})

    def sequences(self) -> list[tuple[Transformer, list[int]]]:
        return [(self.plain.model, r.examples[-1].ids) for p in self.plain.pairs for r in p.replies]

    def train(self, folder: Path, replicas: Replicas = ALONE, seed: int = 0) -> Any:
        work = self.work(60, replicas, seed)
        return trained(work.model, folder, lambda step: PreferenceStep(some(step), "", 1), work.compute, replicas)


class Preferences(Case):
    """DPO's losses, KTO, ORPO, SimPO."""

    @cached_property
    def reference(self) -> Tensor:
        units = verdicts() if self.name == "kto" else pairs()
        return reference_logprobs(tiny_model("dense", VOCAB, 120, 1).double(), units, WHOLE, None)

    def work(self, most: int, replicas: Replicas = ALONE, seed: int = 0) -> Offline:
        beta = 2.0 if self.name in ("normalised", "simpo") else 0.2
        config = PreferenceConfig(loss=self.name, beta=beta, train_tokens=most, balance=self.balance)  # type: ignore[arg-type]
        units = verdicts() if self.name == "kto" else pairs()
        return Offline(tiny_model(self.kind, VOCAB, 120, seed).double(), units, self.reference, config, replicas)

    @cached_property
    def plain(self) -> Offline:
        return self.work(WHOLE)

    def gradient(self, units: Sequence[int], most: int, replicas: Replicas = ALONE) -> Result:
        work = self.work(most, replicas)
        return computed(work.model, lambda: work.compute(PreferenceStep(list(units), "", 0)), replicas)

    def paper(self, units: Sequence[int], hidden: Hidden) -> Result:
        self.plain.model.zero_grad()
        loss = test_offline.plain_loss(self.plain, list(units), hidden)
        loss.backward()
        return Result(gradients_of(self.plain.model), {"loss": float(loss.detach())})

    def sequences(self) -> list[tuple[Transformer, list[int]]]:
        return [(self.plain.model, e.ids) for u in self.plain.units for r in u.replies for e in r.examples]

    def train(self, folder: Path, replicas: Replicas = ALONE, seed: int = 0) -> Any:
        work = self.work(60, replicas, seed)
        return trained(work.model, folder, lambda step: PreferenceStep(some(step), "", 1), work.compute, replicas)


class EvenLengths:
    """A reward that splits most groups, in place of functions and models."""

    def of_all(self, made: Sequence[Made]) -> list[dict[str, float]]:
        return [{"even": float(len(one.reply) % 2 == 0)} for one in made]

    def total(self, parts: dict[str, float]) -> float:
        return parts["even"]


class Policy(Case):
    """The family of GRPO."""

    def config(self, most: int) -> Any:
        same = {"kl": 0.1, "importance_most": 1.1, **test_policy_update.WIDE}
        return rl_config(algorithm=self.name, train_tokens=most, balance=self.balance, optimizer=UNCLIPPED, **same)

    @cached_property
    def made(self) -> list[Rollout]:
        """Rollouts whose log-probabilities lie near the model's: the clip cuts some."""
        every = test_policy_update.chosen(self.kind)[:UNITS]
        for i, r in enumerate(every):
            r.old = [p + 0.2 * (-1) ** (i + j) for j, p in enumerate(r.logprobs)]
        return every

    @cached_property
    def plain(self) -> Transformer:
        return test_policy_update.model(self.kind)

    def gradient(self, units: Sequence[int], most: int, replicas: Replicas = ALONE) -> Result:
        model = test_policy_update.model(self.kind)
        optimizers = make_optimizers(model, UNCLIPPED)
        chosen = [self.made[i] for i in units]
        return stepped(model, optimizers, lambda: update(model, optimizers, chosen, self.config(most), replicas))

    def paper(self, units: Sequence[int], hidden: Hidden) -> Result:
        self.plain.zero_grad()
        loss = test_policy_update.on_paper(self.plain, [self.made[i] for i in units], self.config(WHOLE), hidden)
        loss.backward()
        return Result(gradients_of(self.plain), {})

    def sequences(self) -> list[tuple[Transformer, list[int]]]:
        return [(self.plain, r.ids) for r in self.made]

    def train(self, folder: Path, replicas: Replicas = ALONE, seed: int = 0) -> Any:
        model, reference = (rl_model(self.kind, s).double() for s in (seed, 0))
        config = replace(self.config(60), steps=STEPS, max_tokens=10, optimizer=FAST)
        history = train_grpo(
            model, RL_TOKENIZER, rl_rows(), config, context(folder), 0.0, reference, EvenLengths(),  # type: ignore[arg-type]
            replicas=replicas,
        )  # fmt: skip
        return weights(model), history


class PPO(Policy):
    def config(self, most: int) -> PPOConfig:
        return PPOConfig(
            steps=STEPS, prompts=3, samples=6, max_tokens=10, kl=0.1, train_tokens=most, balance=self.balance,
            value_clip=0.02, optimizer=UNCLIPPED, critic=UNCLIPPED,
        )  # fmt: skip

    def critic(self, most: int, seed: int = 5) -> Critic:
        score = torch.randn(32, generator=torch.Generator().manual_seed(2)) * 0.1
        return Critic.start(tiny_model(self.kind, 40, seed=seed).double(), self.config(most), score)

    @cached_property
    def made(self) -> list[Rollout]:
        every = test_policy_update.chosen(self.kind)[:UNITS]
        for i, r in enumerate(every):
            r.reward = float(i % 3)
        self.critic(WHOLE).set_advantages(every)
        for r in every:  # as if the critic had moved since
            r.values = [v + 0.03 * (-1) ** i for i, v in enumerate(r.values)]
        return every

    @cached_property
    def judge(self) -> Critic:
        return self.critic(WHOLE)

    def gradient(self, units: Sequence[int], most: int, replicas: Replicas = ALONE) -> Result:
        own, judge = super().gradient(units, most, replicas), self.critic(most)
        chosen = [self.made[i] for i in units]
        other = stepped(judge.model, judge.optimizers, lambda: judge.update(chosen, replicas))
        return Result(
            own.gradients | {f"critic.{k}": g for k, g in other.gradients.items()}, own.numbers | other.numbers
        )

    def paper(self, units: Sequence[int], hidden: Hidden) -> Result:
        own, model = super().paper(units, hidden), self.judge.model
        chosen = [self.made[i] for i in units]
        model.zero_grad()
        losses = []
        for r in chosen:
            value = hidden(model, r.ids)[r.start - 1 : -1] @ model.get_parameter("score")
            old, target = torch.tensor(r.values).double(), torch.tensor(r.returns).double()
            held = old + (value - old).clamp(-0.02, 0.02)
            losses.append(0.5 * torch.maximum((value - target) ** 2, (held - target) ** 2))
        loss = torch.cat(losses).mean()
        loss.backward()
        mine = {f"critic.{k}": g for k, g in gradients_of(model).items()}
        return Result(own.gradients | mine, {"value_loss": float(loss.detach())})

    def sequences(self) -> list[tuple[Transformer, list[int]]]:
        return [(model, r.ids) for model in (self.plain, self.judge.model) for r in self.made]

    def train(self, folder: Path, replicas: Replicas = ALONE, seed: int = 0) -> Any:
        model, reference = (rl_model(self.kind, s).double() for s in (seed, 0))
        config = replace(self.config(60), optimizer=FAST, critic=FAST)
        judge = Critic.start(rl_model(self.kind, 3 + seed).double(), config)
        history = train_grpo(
            model, RL_TOKENIZER, rl_rows(), config, context(folder), 0.0, reference, EvenLengths(), judge, replicas  # type: ignore[arg-type]
        )  # fmt: skip
        return weights(model) | {f"critic.{k}": w for k, w in weights(judge.model).items()}, history


class Distilled(Case):
    def work(self, most: int, replicas: Replicas = ALONE, seed: int = 0) -> Distillation:
        student = tiny_model(self.kind, VOCAB, 100, seed).double()
        teacher = tiny_model("moe", VOCAB, 100, seed=4).double()
        rows = [{"id": str(i), "prompt": f"{i}?", "language": ("en", "zh")[i % 2]} for i in range(6)]
        config = DistillConfig(
            steps=STEPS, prompts=3, samples=2, max_tokens=8, beta=self.extra["beta"], on_policy=0.5,
            divergence_temperature=1.3, train_tokens=most, optimizer=FAST,
        )  # fmt: skip
        return Distillation(student, teacher, TOKENIZER, rows, config, 0, replicas)

    made = [
        Rollout(p.chosen.examples[0].ids, p.chosen.examples[0].loss_mask.index(1), [], 0.0, "en") for p in pairs(UNITS)
    ]

    @cached_property
    def plain(self) -> Distillation:
        return self.work(WHOLE)

    def gradient(self, units: Sequence[int], most: int, replicas: Replicas = ALONE) -> Result:
        work, chosen = self.work(most, replicas), [self.made[i] for i in units]
        return computed(work.student, lambda: work.compute(DistillStep(chosen, True, "")), replicas)

    def paper(self, units: Sequence[int], hidden: Hidden) -> Result:
        student, teacher, size = self.plain.student, self.plain.teacher, TOKENIZER.vocab_size
        student.zero_grad()
        losses = []
        for r in (self.made[i] for i in units):
            ours, theirs = (m.head(hidden(m, r.ids)[r.start - 1 : -1])[:, :size] for m in (student, teacher))
            losses.append(generalised_jsd(ours, theirs.detach(), self.extra["beta"], 1.3))
        loss = torch.cat(losses).mean()
        loss.backward()
        return Result(gradients_of(student), {"loss": float(loss.detach())})

    def sequences(self) -> list[tuple[Transformer, list[int]]]:
        return [(m, r.ids) for m in (self.plain.student, self.plain.teacher) for r in self.made]

    def train(self, folder: Path, replicas: Replicas = ALONE, seed: int = 0) -> Any:
        work = self.work(60, replicas, seed)
        return trained(work.student, folder, work.step_data, work.compute, replicas)


def cases(kind: str = "dense", balance: float = 0.0) -> list[Case]:
    """All algorithms."""
    betas = {"forward": 0.0, "reverse": 1.0, "jsd": 0.3}
    return [
        SFT("sft", kind, balance), Reward("reward", kind, balance),
        *(Preferences(name, kind, balance) for name in test_offline.LOSSES),
        *(Policy(name, kind, balance) for name in test_policy_update.ALGORITHMS), PPO("dapo", kind, balance),
        *(Distilled(f"distill_{name}", kind, 0.0, {"beta": beta}) for name, beta in betas.items()),
    ]  # fmt: skip


def label(case: Case) -> str:
    return "ppo" if isinstance(case, PPO) else case.name


# -- the same as everybody else computes it: rows of equal length, filled up, with a mask


def alone(model: Transformer, ids: list[int]) -> Tensor:
    return model(Batch.pack([ids])).hidden_ND


def padded(wanted: Sequence[tuple[Transformer, list[int]]], side: str, more: int) -> Hidden:
    """Hidden states of all sequences, each model's in one batch of rows that are `more` longer than the longest."""
    known: dict[tuple[int, tuple[int, ...]], Tensor] = {}
    for model in {id(m): m for m, _ in wanted}.values():
        every = [ids for m, ids in wanted if m is model]
        width = max(map(len, every)) + more
        tokens_BT, real_BT = torch.zeros(len(every), width, dtype=torch.int64), torch.zeros(len(every), width).bool()
        spans = [slice(0, len(ids)) if side == "right" else slice(width - len(ids), width) for ids in every]
        for row, (ids, span) in enumerate(zip(every, spans, strict=True)):
            tokens_BT[row, span], real_BT[row, span] = torch.tensor(ids), True
        positions_BT = (real_BT.long().cumsum(1) - 1).clamp(min=0)
        batch = Batch.rows(tokens_BT)
        batch.positions_N = positions_BT.flatten()
        with masked_attention(real_BT):
            hidden_BTD = model(batch).hidden_ND.view(len(every), width, -1)
        for ids, span, hidden_TD in zip(every, spans, hidden_BTD, strict=True):
            known[id(model), tuple(ids)] = hidden_TD[span]
    return lambda model, ids: known[id(model), tuple(ids)]


@contextmanager
def masked_attention(real_BT: Tensor) -> Iterator[None]:
    """Attention over whole rows, in which no token sees what fills up."""

    def attention(q_NHK: Tensor, k_NHK: Tensor, v_NHK: Tensor, plan: AttentionPlan) -> Tensor:
        rows, width = real_BT.shape
        q, k, v = (x.view(rows, width, *x.shape[1:]).transpose(1, 2) for x in (q_NHK, k_NHK, v_NHK))
        k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], 1) for x in (k, v))
        seen = torch.ones(width, width).tril().bool() & real_BT[:, None, None, :]
        scores = (q @ k.mT * q.shape[-1] ** -0.5).masked_fill(~seen, -1e300)
        return (scores.softmax(-1) @ v).transpose(1, 2).reshape(rows * width, -1)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ops, "attention", attention)
        yield
