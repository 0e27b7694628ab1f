"""The life of a model as a table: every stage, in the order in which stages are made."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

from qwill.base.device import CURATION
from qwill.base.stage import Stage


def inputs_of(reference: str) -> Callable[[Any], tuple[str, ...]]:
    """The inputs of a stage whose settings name them, by a function that is imported only when it is asked."""
    return lambda config: tuple(load(reference)(config))


MODELS = ("base", "sft", "aligned", "int8")

# A stage's settings and its function are named and not imported: `qwill --help` and a run that finds everything made
# must not wait for torch. That is also why settings may not live in a module that imports it.
# fmt: off
STAGES: tuple[Stage, ...] = (
    Stage("tasks", "tasks", "tasks", 1,
          "qwill.evaluate.task_data:TasksConfig", (), "qwill.evaluate.task_data:run"),
    Stage("corpus", "curate", "corpus", 2,
          "qwill.data.corpus:CurateConfig", (), "qwill.data.corpus:run", CURATION, optional=("tasks",)),
    Stage("dialogues", "dialogues", "dialogues", 2,
          "qwill.data.dialogues:DialoguesConfig", ("tasks",), "qwill.data.dialogues:run"),
    Stage("preferences", "preferences", "preferences", 1,
          "qwill.data.preference_sources:PreferencesConfig", (), "qwill.data.preference_sources:run"),
    Stage("tokenizer", "tokenizer train", "tokenizer", 1,
          "qwill.text.train_tokenizer:TokenizerConfig", ("corpus",), "qwill.text.train_tokenizer:run"),
    Stage("mixing", "mix", "mixing", 2,
          "qwill.workflow.mixing:MixingConfig", ("corpus", "tokenizer"), "qwill.workflow.mixing:run"),
    Stage("base", "pretrain", "model", 2,
          "qwill.train.settings:PretrainConfig", ("corpus", "tokenizer"), "qwill.train.pretrain:run",
          optional=("start",)),
    Stage("sft", "sft", "model", 4,
          "qwill.train.settings:SFTConfig", ("base", "dialogues"), "qwill.train.sft:run"),
    Stage("aligned", "grpo", "model", 4,
          "qwill.align.settings:GRPOConfig", ("sft", "tasks"), "qwill.align.grpo:run", optional=("reference",)),
    Stage("rejection", "rejection", "dialogues", 1,
          "qwill.align.rejection_settings:RejectionConfig", ("sft", "tasks"), "qwill.align.rejection:run"),
    Stage("fusion", "fusion", "dialogues", 1,
          "qwill.data.fusion:FusionConfig", ("rejection", "dialogues"), "qwill.data.fusion:run"),
    Stage("reward", "reward", "model", 3,
          "qwill.align.settings:RewardConfig", ("sft", "preferences"), "qwill.align.reward:run"),
    Stage("preferred", "dpo", "model", 3,
          "qwill.align.settings:PreferenceConfig", ("sft", "preferences"), "qwill.align.offline:run",
          optional=("reference",)),
    Stage("ppo", "ppo", "model", 2,
          "qwill.align.settings:PPOConfig", ("sft", "tasks"), "qwill.align.grpo:run", optional=("reference",)),
    Stage("distilled", "distill", "model", 2,
          "qwill.align.settings:DistillConfig", ("sft", "teacher", "tasks"), "qwill.align.distill:run"),
    Stage("int8", "quantize", "model", 2,
          "qwill.evaluate.quantize_stage:QuantizeConfig", ("aligned", "corpus", "tasks"),
          "qwill.evaluate.quantize_stage:run"),
    Stage("results", "eval", "results", 3,
          "qwill.evaluate.results:ResultsConfig", (*MODELS, "tasks", "corpus"), "qwill.evaluate.results:run"),
    Stage("arena", "arena", "arena", 2,
          "qwill.evaluate.arena_battles:ArenaConfig", (*MODELS, "tasks"), "qwill.evaluate.arena_battles:run"),
    Stage("modes", "modes", "results", 1,
          "qwill.evaluate.modes:ModesConfig", inputs_of("qwill.evaluate.modes:inputs"), "qwill.evaluate.modes:run"),
    Stage("report", "report", "report", 1,
          "qwill.evaluate.report:ReportConfig",
          ("tasks", "corpus", "dialogues", "tokenizer", *MODELS, "results", "arena"), "qwill.evaluate.report:run",
          optional=("reward", "preferred", "ppo", "distilled")),
)
# fmt: on


def load(reference: str) -> Any:
    """What `module:name` stands for; imports the module."""
    module, _, name = reference.partition(":")
    return getattr(import_module(module), name)
