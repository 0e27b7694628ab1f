"""What the other ranks of a run do: rank 0 makes the artifacts, and they compute with it when it says so."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

from qwill.base.device import set_threads
from qwill.base.progress import SILENT
from qwill.base.stage import StageContext
from qwill.train.ranks import Ranks
from qwill.workflow.recipe import Recipe
from qwill.workflow.stages import load


def orders(stage: str, context: StageContext) -> dict[str, Any]:
    """What rank 0 tells the others of a stage that begins."""
    return {
        "stage": stage, "work": str(context.work), "inputs": {k: str(v) for k, v in context.inputs.items()},
        "metrics": str(context.metrics_path), "seed": context.seed, "recipe_id": context.recipe_id,
        "dtype": context.dtype, "threads": context.threads,
    }  # fmt: skip


def follow(recipe: Recipe, ranks: Ranks) -> None:
    """Take part in every stage that rank 0 begins, until it has ended; nothing that a follower writes is kept."""
    while (order := ranks.hear()) is not None:
        section = recipe.section(order["stage"])
        assert section is not None
        os.environ["OMP_NUM_THREADS"] = str(order["threads"])
        set_threads(order["threads"])
        with tempfile.TemporaryDirectory() as out:
            context = StageContext(
                out=Path(out),
                work=Path(order["work"]),
                inputs={k: Path(v) for k, v in order["inputs"].items()},
                seed=order["seed"],
                threads=order["threads"],
                display=SILENT,
                budget_s=None,
                metrics_path=Path(order["metrics"]),
                recipe_id=order["recipe_id"],
                dtype=order["dtype"],
            )
            load(section.stage.run)(section.config, context)
