"""What a stage is: the one shape in which every room offers its work to a recipe."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qwill.base.progress import Display


@dataclass(frozen=True)
class StageContext:
    """What a stage gets to work with.

    out: folder to fill; it becomes the artifact (emptied before each attempt). work: private state that survives
    `kill -9`; removed once the artifact is sealed. inputs: finished artifacts by name. budget_s: seconds, shown only.
    metrics_path: this stage's metrics.jsonl, kept beside the run. recipe_id: goes into the weights' metadata.
    dtype: the precision of matrix products, resolved and recorded before the stage began.
    """

    out: Path
    work: Path
    inputs: dict[str, Path]
    seed: int
    threads: int
    display: Display
    budget_s: float | None
    metrics_path: Path
    recipe_id: str = ""
    dtype: str = "float32"


@dataclass(frozen=True)
class Stage:
    """name: section of the recipe, artifact folder, key in other stages' inputs. verb: its command.

    config and run are "module:name", imported only when used. run(config, ctx) returns deterministic metrics; it may
    write out/"sources.json" (external sources), which moves into the manifest. version goes up when numbers change.
    libraries: distributions that can change its numbers, beside those that count for every stage. optional: inputs
    that it takes where a recipe makes them or names a folder for them, and that no recipe has to have.
    """

    name: str
    verb: str
    kind: str
    version: int
    config: str
    inputs: tuple[str, ...] | Callable[[Any], tuple[str, ...]]
    run: str
    libraries: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
