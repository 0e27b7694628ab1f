"""Settings of the training stages, apart from the code so that reading a recipe does not import torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from qwill.base.config import LATER, need_positive, need_share
from qwill.base.errors import ConfigError
from qwill.model.lora_config import LoraConfig

# Of matrix products while training; weights, optimiser and files stay float32. `auto` is resolved once and recorded.
Precision = Literal["auto", "float32", "bfloat16"]


@dataclass(frozen=True)
class OptimizerConfig:
    """`learning_rate` is AdamW's for everything that Muon does not take; `matrix_rate` is Muon's (or, with
    `optimizer: adamw`, AdamW's for matrices). Rates are peaks; the schedule multiplies them."""

    optimizer: Literal["muon", "adamw"] = "muon"
    learning_rate: float = 3e-3
    matrix_rate: float = 0.02
    embedding_rate: float | None = None
    beta1: float = 0.9
    beta2: float = 0.95
    momentum: float = 0.95
    newton_schulz_steps: int = 5
    weight_decay: float = 0.0
    clip: float = 1.0

    def __post_init__(self) -> None:
        need_positive(self, "learning_rate", "matrix_rate", "clip")
        if not 1 <= self.newton_schulz_steps <= 5:
            raise ConfigError(f"newton_schulz_steps is {self.newton_schulz_steps}; expected 1 to 5.")


@dataclass(frozen=True)
class ScheduleConfig:
    """Warm-up, stable, decay (MiniCPM, arXiv 2404.06395): shares of the whole run; the decay goes to `final` in a
    straight line, or down half a cosine. The plain cosine schedule is `shape: cosine` with warm-up and decay that
    make up the whole run."""

    warmup: float = 0.02
    decay: float = 0.4
    final: float = 0.0
    shape: Literal["linear", "cosine"] = field(default="linear", metadata=LATER)

    def __post_init__(self) -> None:
        need_share(self, "warmup", "decay", "final")
        if self.warmup + self.decay > 1 + 1e-9:
            raise ConfigError(
                f"warmup ({self.warmup}) and decay ({self.decay}) are more than the whole run; lower one so that "
                "together they are at most 1."
            )


@dataclass(frozen=True)
class StepConfig:
    """How a step is computed; with the balancing loss off or `exact`, none of it changes what comes out.

    micro_batches: into how many parts a step is cut (at the borders of sequences, as evenly as they allow): less memory
    and more time. balance_over: the tokens whose expert load f the balancing loss takes: each part's own (`micro`), all
    parts of the step so far (`running`: what Qwen3 trains with, arXiv 2501.11873 §3), or the whole step's, for which
    the step's forward passes run twice (`exact`). recompute: keep the residual stream only and compute the insides of
    each `layer` again in the backward pass, or keep everything (`none`).
    """

    micro_batches: int = 1
    balance_over: Literal["micro", "running", "exact"] = "running"
    recompute: Literal["none", "layer"] = "none"

    def __post_init__(self) -> None:
        need_positive(self, "micro_batches")


@dataclass(frozen=True)
class MeshConfig:
    """How many ranks each axis of the mesh has (train/mesh.py says what they hold); all 1: `dp` over what there is.

    It changes rounding and nothing else, like another machine, so it is no part of a recipe's identity.
    """

    dp: int = 1
    fsdp: int = 1
    ep: int = 1
    cp: int = 1
    tp: int = 1

    def __post_init__(self) -> None:
        need_positive(self, "dp", "fsdp", "ep", "cp", "tp")


@dataclass(frozen=True)
class YarnConfig:
    """Stretch the model's positions `factor` times by YaRN (arXiv 2309.00071), static, as Qwen3 is released.

    trained: the context in tokens that it was trained with; its max_position_embeddings where that is left out.
    """

    factor: float = 4.0
    trained: int | None = None

    def __post_init__(self) -> None:
        need_positive(self, "trained")
        if self.factor <= 1:
            raise ConfigError(f"factor is {self.factor}; expected more than 1: how many times longer the context gets.")


@dataclass(frozen=True)
class PretrainConfig:
    """`depth` derives the model, and `steps` and `batch_rows` where they are not set (train/horizon.py says how);
    `steps` × `batch_rows` × `row_tokens` is the horizon. With `inputs: {start: MODEL}` training goes on from that
    model; `depth`, `experts`, `experts_per_token` and `hybrid` then count for nothing, and `yarn` and `context` may
    lengthen the context that it is made for. `hybrid`: three of four layers are Gated DeltaNets, as in Qwen3-Next.

    `validation_bytes` of each language are scored `validations` times during training, `heldout_bytes` at the end.
    `baselines` names what the result is compared with: xz, kneser_ney_byte5, kneser_ney_token5.
    """

    depth: int = 4
    experts: int = 8
    experts_per_token: int = 2
    steps: int | None = None
    batch_rows: int | None = None
    row_tokens: int = 256
    context: int = 1024
    balance: float = 0.01
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    step: StepConfig = field(default=StepConfig(), metadata=LATER)
    mesh: MeshConfig = field(default=MeshConfig(), metadata=LATER)
    yarn: YarnConfig | None = field(default=None, metadata=LATER)
    hybrid: bool = field(default=False, metadata=LATER)
    dtype: Precision = "auto"
    validations: int = 4
    validation_bytes: int = 30_000
    heldout_bytes: int = 400_000
    baselines: list[Literal["xz", "kneser_ney_byte5", "kneser_ney_token5"]] = field(
        default_factory=lambda: ["xz", "kneser_ney_byte5"]
    )

    def __post_init__(self) -> None:
        need_positive(self, "depth", "steps", "batch_rows", "row_tokens", "validation_bytes", "heldout_bytes")
        if self.experts and not 1 <= self.experts_per_token <= self.experts:
            raise ConfigError(f"experts_per_token is {self.experts_per_token}; expected 1 to {self.experts} (experts).")
        if self.context < self.row_tokens:
            raise ConfigError(f"context is {self.context}; expected at least row_tokens ({self.row_tokens}).")


@dataclass(frozen=True)
class ProxyConfig:
    """A small dense model and its step, for runs that are compared with each other (train/proxy.py)."""

    depth: int = 2
    batch_rows: int = 8
    row_tokens: int = 128
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)

    def __post_init__(self) -> None:
        need_positive(self, "depth", "batch_rows", "row_tokens")


def _finetuning() -> OptimizerConfig:
    return OptimizerConfig(learning_rate=1e-3, matrix_rate=0.01)


@dataclass(frozen=True)
class SFTConfig:
    """`steps` of at most `batch_tokens` packed tokens, or with `epochs` as many as those take.

    too_long: what happens to examples of more than `max_tokens`: left out and counted (`leave_out`), the first of them
    stops the stage (`refuse`), or plain texts are cut into pieces of which none is lost, and conversations left out
    (`split`). heldout: the share of prompts kept back, where the data don't say which. template: `inference` trains
    each turn behind exactly the prompt that the model's template gives for it; `training` is TRL's training template
    for Qwen3, one sequence with every turn's thinking.

    With `lora` only an adapter is trained, by AdamW at `learning_rate`; it lies in the model's folder `adapter/`, and
    the model has it merged in.
    """

    steps: int = 100
    batch_tokens: int = 4096
    max_tokens: int = 512
    balance: float = 0.01
    optimizer: OptimizerConfig = field(default_factory=_finetuning)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    step: StepConfig = field(default=StepConfig(), metadata=LATER)
    mesh: MeshConfig = field(default=MeshConfig(), metadata=LATER)
    lora: LoraConfig | None = field(default=None, metadata=LATER)
    epochs: int | None = field(default=None, metadata=LATER)
    too_long: Literal["leave_out", "refuse", "split"] = field(default="leave_out", metadata=LATER)
    heldout: float = field(default=0.05, metadata=LATER)
    template: Literal["inference", "training"] = field(default="inference", metadata=LATER)
    dtype: Precision = "auto"

    def __post_init__(self) -> None:
        need_positive(self, "steps", "batch_tokens", "epochs")
        if self.max_tokens < 2:
            raise ConfigError(f"max_tokens is {self.max_tokens}; expected at least 2: one to see and one to predict.")
        if not 0 <= self.heldout < 1:
            raise ConfigError(f"heldout is {self.heldout}; expected a share from 0 to below 1.")
