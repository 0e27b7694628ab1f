"""Settings of the alignment stages, apart from the code so that reading a recipe does not import torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from qwill.base.config import LATER, need_positive, need_share
from qwill.base.errors import ConfigError
from qwill.model.lora_config import LoraConfig
from qwill.train.settings import MeshConfig, OptimizerConfig, ScheduleConfig


def _gentle() -> OptimizerConfig:
    return OptimizerConfig(learning_rate=3e-4, matrix_rate=3e-3)


PolicyAlgorithm = Literal["dapo", "grpo", "dr_grpo", "cispo", "gspo", "rloo", "reinforce_plus_plus"]


BUILT_IN_REWARDS = ("format", "language", "brevity")
RULES = ("maths", "code", "reasoning_gym", "overlong", "repetition")
Rule = Literal["verifier", "format", "language", "brevity", "maths", "code", "reasoning_gym", "overlong", "repetition"]


@dataclass(frozen=True)
class RewardPart:
    """One term of a reply's reward: `function`, `model`, `judge`, or else a `rule`, which `name` says by default.

    function: file.py:NAME, yours with TRL's signature, NAME(prompts, completions, **columns) -> one number each; it
    runs in a process of its own. seconds: what it, a server that judges, a row's tests or a comparison of mathematics
    may take for a reply. model: the
    reward model of that folder. judge: a model folder or URL#MODEL that grades replies; `answer` is the column with the
    right answer. rule: `verifier`, the problem's own check; `maths` compares with the column `answer`; `code` runs the
    row's tests, `tests` says what counts; `reasoning_gym`; `overlong` costs up to 1 over the last `buffer` tokens
    before max_tokens; `repetition` costs the share of repeated n-grams; format_rewards.py has the others.
    """

    name: str = "verifier"
    weight: float = 1.0
    function: str | None = None
    model: str | None = None
    seconds: float = 20.0
    rule: Rule | None = field(default=None, metadata=LATER)
    judge: str | None = field(default=None, metadata=LATER)
    answer: str = field(default="answer", metadata=LATER)
    tests: Literal["all", "share"] = field(default="all", metadata=LATER)
    buffer: int = field(default=0, metadata=LATER)

    def __post_init__(self) -> None:
        need_positive(self, "seconds")
        given = [name for name in ("function", "model", "judge", "rule") if getattr(self, name) is not None]
        if len(given) > 1:
            raise ConfigError(f"the reward {self.name} has a {given[0]} and a {given[1]}; make two rewards of them.")
        if not given and self.name not in ("verifier", *BUILT_IN_REWARDS, *RULES):
            raise ConfigError(
                f"the reward {self.name} has no function, model, judge or rule; add one, or call it "
                f"{', '.join(('verifier', *BUILT_IN_REWARDS))} or {', '.join(RULES)}."
            )
        if self.kind == "overlong" and self.buffer < 1:
            raise ConfigError(f"the reward {self.name}: buffer is {self.buffer}; give the tokens over which it falls.")

    @property
    def kind(self) -> str:
        """`function`, `model`, `judge` or the rule."""
        given = [name for name in ("function", "model", "judge") if getattr(self, name) is not None]
        return given[0] if given else self.rule or self.name


@dataclass(frozen=True)
class VllmConfig:
    """vLLM beside the trainer: `gpu_memory_utilization` is the share of a GPU that it takes for weights and cache,
    `dtype` the type of its weights; `enforce_eager`: no CUDA graphs."""

    tensor_parallel_size: int = 1
    gpu_memory_utilization: float = 0.5
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    enforce_eager: bool = False

    def __post_init__(self) -> None:
        need_positive(self, "tensor_parallel_size", "gpu_memory_utilization")


@dataclass(frozen=True)
class ToolPart:
    """A tool that the model may call while it is trained: `function: file.py:NAME`, a Python function of yours, run in
    a process of its own, `seconds` a call. Its description for the model is made from signature and docstring, or is
    `schema`: name, description and parameters as in OpenAI's tools."""

    function: str
    seconds: float = 5.0
    schema: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        need_positive(self, "seconds")
        if self.schema is not None and not isinstance(self.openai_schema["function"].get("name"), str):
            raise ConfigError(f"the schema of the tool {self.function} has no name; give name and parameters.")

    @property
    def openai_schema(self) -> dict[str, Any]:
        assert self.schema is not None
        whole = isinstance(self.schema.get("function"), dict)
        return self.schema if whole else {"type": "function", "function": self.schema}


def need_own_names(rewards: Sequence[RewardPart]) -> None:
    """Raises ConfigError where two rewards have one name, as a part of the sum would be lost."""
    names = [part.name for part in rewards]
    if len(set(names)) < len(names):
        raise ConfigError(f"rewards are called {', '.join(names)}; give each a name of its own.")


def hashes_of(rewards: Sequence[RewardPart], tools: Sequence[ToolPart] = ()) -> dict[str, str]:
    """The hashes of the files and model folders that rewards and tools name: what they hold is part of a stage's
    identity."""
    from qwill.base.artifact import identify
    from qwill.base.files import sha256_file
    from qwill.base.resolve import resolve

    named = [part.function for part in rewards if part.function] + [tool.function for tool in tools]
    files = [Path(function.rpartition(":")[0]) for function in named]
    judges = [part.model or part.judge or "" for part in rewards]
    folders = [name for name in judges if name and not name.startswith(("http://", "https://"))]
    models = {name: identify(resolve(name)).content_id for name in folders}
    return {str(file): sha256_file(file) for file in files if file.is_file()} | models


@dataclass(frozen=True)
class GRPOConfig:
    """`steps` × `prompts` prompts, `samples` replies each of at most `max_tokens`; `updates` optimiser steps on each.

    algorithm: `dapo` (a mean over tokens), `grpo` (over replies of means over tokens), `dr_grpo` (unscaled, over a
    fixed length), `cispo`, `gspo`, `rloo`, `reinforce_plus_plus`; docs/en/alignment.md has their equations. clip_low
    and clip_high bound a token's ratio, with rloo a reply's; sequence_low and sequence_high GSPO's; ratio_most CISPO's.
    kl: weight of the KL to the starting model, as a term of the loss or in the reward. importance_most: the truncation
    of importance sampling between rollout and trainer; 0 leaves it out where their probabilities are the same, and is 2
    where rollouts have another precision. rewards: a weighted sum; without any the problems' own check.

    top_p, top_k, min_p truncate what is sampled (off by default); training is then over the same support.
    routing_replay: with `rollout` training sends every token through the experts that it went through in the rollout.
    rollout_dtype: what the weights are rounded to for rollouts; `same`: not at all, and nothing is copied.
    rollout_engine: Qwill's `own`, or `vllm` with the settings `vllm` (vllm_rollouts.py).

    thinking: the share of each language's prompts that are asked with thinking; what is verified is the answer behind
    it. switched: the share of these that say so by `/think`, and of the others that say it by `/no_think` instead of
    the closed block, so that the model itself must obey.

    lora: only an adapter is trained (PPO's critic has one of its own), by AdamW at `learning_rate`; the start is the
    model without it, so that weights are held once. too_long: what happens to prompts that leave no room for max_tokens
    in the context: left out and counted (`leave_out`), or the first of them is an error (`refuse`); none is cut.

    tools: functions that the model may call, up to `max_turns` turns of its own and `max_tokens` in all of them; only
    what it says itself is trained.

    Each step draws half its prompts from each language. Groups that are all right or all wrong teach nothing and are
    left out of the update; up to `redraws` times others are drawn in their place (DAPO's dynamic sampling). `shown`
    rollouts a step are kept to be read (rollouts.jsonl). The policy that is sampled and trained is softmax(logits /
    temperature): below 1 it is nearer to the greedy replies that users see.
    """

    steps: int = 60
    prompts: int = 32
    samples: int = 8
    updates: int = 1
    max_tokens: int = 24
    temperature: float = 1.0
    clip_low: float = 0.2
    clip_high: float = 0.28
    scale_advantages: bool = True
    balance: float = 0.0
    train_tokens: int = 8192
    optimizer: OptimizerConfig = field(default_factory=_gentle)
    schedule: ScheduleConfig = field(default_factory=lambda: ScheduleConfig(warmup=0.05, decay=0.3))
    algorithm: PolicyAlgorithm = field(default="dapo", metadata=LATER)
    sequence_low: float = field(default=3e-4, metadata=LATER)
    sequence_high: float = field(default=4e-4, metadata=LATER)
    ratio_most: float = field(default=5.0, metadata=LATER)
    kl: float = field(default=0.0, metadata=LATER)
    kl_in: Literal["loss", "reward"] = field(default="loss", metadata=LATER)
    kl_estimator: Literal["k1", "k2", "k3"] = field(default="k3", metadata=LATER)
    importance_most: float = field(default=0.0, metadata=LATER)
    rewards: tuple[RewardPart, ...] = field(default=(), metadata=LATER)
    tools: tuple[ToolPart, ...] = field(default=(), metadata=LATER)
    max_turns: int = field(default=4, metadata=LATER)
    redraws: int = field(default=0, metadata=LATER)
    shown: int = field(default=4, metadata=LATER)
    top_p: float = field(default=1.0, metadata=LATER)
    top_k: int = field(default=0, metadata=LATER)
    min_p: float = field(default=0.0, metadata=LATER)
    routing_replay: Literal["none", "rollout"] = field(default="none", metadata=LATER)
    rollout_dtype: Literal["same", "bfloat16", "int8"] = field(default="same", metadata=LATER)
    rollout_engine: Literal["own", "vllm"] = field(default="own", metadata=LATER)
    vllm: VllmConfig = field(default=VllmConfig(), metadata=LATER)
    mesh: MeshConfig = field(default=MeshConfig(), metadata=LATER)
    lora: LoraConfig | None = field(default=None, metadata=LATER)
    thinking: float = field(default=0.0, metadata=LATER)
    switched: float = field(default=0.0, metadata=LATER)
    too_long: Literal["leave_out", "refuse"] = field(default="leave_out", metadata=LATER)

    def outside(self) -> dict[str, str]:
        """The hashes of the files that rewards and tools name."""
        return hashes_of(self.rewards, self.tools)

    def __post_init__(self) -> None:
        need_own_names(self.rewards)
        need_positive(self, "steps", "prompts", "updates", "max_tokens", "max_turns", "temperature", "train_tokens")
        if self.samples < 2:
            raise ConfigError(f"samples is {self.samples}; a group needs at least 2 to compare.")
        for name in (
            "clip_low",
            "clip_high",
            "sequence_low",
            "sequence_high",
            "kl",
            "importance_most",
            "redraws",
            "shown",
        ):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} is {getattr(self, name)}; expected 0 or more.")
        need_share(self, "thinking", "switched", "min_p")
        if self.tools and self.rollout_engine != "own":
            raise ConfigError("tools need Qwill's own engine for rollouts; leave rollout_engine out.")
        if not 0 < self.top_p <= 1:
            raise ConfigError(f"top_p is {self.top_p}; expected above 0 and at most 1 (off).")
        if self.top_k < 0:
            raise ConfigError(f"top_k is {self.top_k}; expected 0 (off) or more.")
        if self.rollout_engine == "vllm":
            for name, plain in (
                ("top_p", 1.0), ("top_k", 0), ("min_p", 0.0), ("routing_replay", "none"), ("rollout_dtype", "same"),
            ):  # fmt: skip
                if getattr(self, name) != plain:
                    raise ConfigError(
                        f"{name} is {getattr(self, name)}, which rollouts by vLLM can't have; leave it out, or set "
                        "rollout_engine to own."
                    )
        if self.kl_in == "reward" and self.kl_estimator != "k1":
            raise ConfigError(
                f"kl_estimator is {self.kl_estimator}; in the reward only k1 has the right gradient: set it to k1, or "
                "kl_in to loss."
            )

    @property
    def truncation(self) -> float:
        """The bound of importance weights between rollout and trainer, 0: none are made."""
        same = self.rollout_dtype == "same" and self.rollout_engine == "own"
        return self.importance_most or (0.0 if same else 2.0)

    @property
    def aggregation(self) -> Literal["token_mean", "sequence_mean", "sequence_sum", "fixed_length"]:
        """How tokens become one loss (aggregation.py)."""
        match self.algorithm:
            case "grpo" | "gspo":
                return "sequence_mean"
            case "dr_grpo":
                return "fixed_length"
            case "rloo":
                return "sequence_sum"
            case _:
                return "token_mean"


def _critical() -> OptimizerConfig:
    return OptimizerConfig("adamw", learning_rate=3e-4, matrix_rate=3e-4)


@dataclass(frozen=True)
class PPOConfig(GRPOConfig):
    """As GRPOConfig, with advantages of tokens by a critic (critic.py): gamma and lam are GAE's, value_clip bounds how
    far a value moves in one step, `critic` is its optimiser. The policy's loss is `dapo`'s: the clipped ratio of each
    token, a mean over all."""

    gamma: float = 1.0
    lam: float = 0.95
    value_clip: float = 0.2
    critic: OptimizerConfig = field(default_factory=_critical)

    def __post_init__(self) -> None:
        super().__post_init__()
        need_positive(self, "value_clip")
        if self.algorithm != "dapo":
            raise ConfigError(f"algorithm is {self.algorithm}; PPO has its own: leave it out.")
        need_share(self, "gamma", "lam")


@dataclass(frozen=True)
class DistillConfig:
    """`steps` × `prompts` prompts, `samples` replies each; the student learns the teacher's distribution at each token.

    on_policy: the share of steps whose replies are the student's own; in the others they are the teacher's. beta: 0 is
    the forward KL(teacher ‖ student), 1 the reverse, between them the generalised JSD (GKD, arXiv 2306.13649).
    temperature: of sampling; divergence_temperature: of both distributions in the loss. lora: only an adapter of the
    student is trained. too_long: as in GRPOConfig.
    """

    steps: int = 100
    prompts: int = 32
    samples: int = 1
    max_tokens: int = 64
    on_policy: float = 1.0
    beta: float = 0.5
    temperature: float = 1.0
    divergence_temperature: float = 1.0
    train_tokens: int = 8192
    optimizer: OptimizerConfig = field(default_factory=_gentle)
    schedule: ScheduleConfig = field(default_factory=lambda: ScheduleConfig(warmup=0.05, decay=0.3))
    mesh: MeshConfig = field(default=MeshConfig(), metadata=LATER)
    lora: LoraConfig | None = field(default=None, metadata=LATER)
    too_long: Literal["leave_out", "refuse"] = field(default="leave_out", metadata=LATER)

    def __post_init__(self) -> None:
        need_positive(
            self, "steps", "prompts", "samples", "max_tokens", "temperature", "divergence_temperature", "train_tokens"
        )
        need_share(self, "on_policy", "beta")


PairLoss = Literal["sigmoid", "hinge", "ipo", "robust", "exo", "normalised", "orpo", "simpo", "kto"]
REFERENCE_FREE = ("orpo", "simpo")


def _preferring() -> OptimizerConfig:
    return OptimizerConfig("adamw", learning_rate=2e-5, matrix_rate=2e-5)


@dataclass(frozen=True)
class PairTraining:
    """`steps` of `pairs` pairs each, from a file of preferences.

    heldout: the share of prompts kept out, on which pair accuracy is measured. Pairs longer than `max_tokens` are left
    out and counted, never cut. train_tokens: at most so many are computed at once.
    """

    steps: int = 100
    pairs: int = 16
    max_tokens: int = 1024
    train_tokens: int = 8192
    heldout: float = 0.1
    balance: float = 0.0
    optimizer: OptimizerConfig = field(default_factory=_preferring)
    schedule: ScheduleConfig = field(default_factory=lambda: ScheduleConfig(warmup=0.1, decay=0.9))
    lora: LoraConfig | None = None
    mesh: MeshConfig = field(default=MeshConfig(), metadata=LATER)

    def __post_init__(self) -> None:
        need_positive(self, "steps", "pairs", "max_tokens", "train_tokens")
        if not 0 <= self.heldout < 1:
            raise ConfigError(f"heldout is {self.heldout}; expected a share from 0 to below 1.")


@dataclass(frozen=True)
class PreferenceConfig(PairTraining):
    """As PairTraining; with `kto`, `pairs` counts replies.

    loss: DPO's `sigmoid`, `hinge`, `ipo`, `robust`, `exo`, `normalised` (by length); `kto`, `orpo`, `simpo`. beta: how
    far the policy may go from the reference. gamma: SimPO's margin. flipped: the share of wrong labels that `robust`
    and `exo` reckon with. likelihood: weight of the chosen replies' own loss, a token each (ORPO's is 1). desirable,
    undesirable: KTO's weights.
    """

    loss: PairLoss = "sigmoid"
    beta: float = 0.1
    gamma: float = 1.0
    flipped: float = 0.1
    likelihood: float | None = None
    desirable: float = 1.0
    undesirable: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        need_positive(self, "beta")
        if self.loss in ("robust", "exo") and not 0 < self.flipped < 0.5:
            raise ConfigError(f"flipped is {self.flipped}; expected a share between 0 and 0.5.")
        if self.loss == "kto" and self.pairs < 2:
            raise ConfigError("pairs is 1; KTO compares with the other replies of a step and needs at least 2.")
        if self.loss == "kto" and self.likelihood is not None:
            raise ConfigError(f"likelihood is {self.likelihood}; KTO has single replies and none that was chosen.")

    @property
    def own_likelihood(self) -> float:
        if self.likelihood is not None:
            return self.likelihood
        return 1.0 if self.loss == "orpo" else 0.0


@dataclass(frozen=True)
class RewardConfig(PairTraining):
    """As PairTraining. centring: weight of (chosen + rejected)², which fixes the zero of rewards. margins: whether
    rows' margins are taken."""

    centring: float = 0.01
    margins: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.centring < 0:
            raise ConfigError(f"centring is {self.centring}; expected 0 or more.")
