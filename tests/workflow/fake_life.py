"""A life in four small stages, to test the workflow without any model; and a program that runs it and kills itself.

python fake_life.py RECIPE KILL_AT [section.key=value …]: like `qwill run`, but the process kills itself (SIGKILL) when
it touches a file of the run for the KILL_AT-th time; 0 never. It ends by printing how many times it touched one.
"""

import json
import os
import random
import signal
import struct
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from qwill.base.files import read_json, write_json, write_text
from qwill.base.progress import Display, MetricsLog
from qwill.base.stage import Stage, StageContext

EVENTS = ("open", "os.mkdir", "os.remove", "os.rename", "os.rmdir", "shutil.rmtree")


@dataclass(frozen=True)
class LettersConfig:
    count: int = 6
    alphabet: Literal["ab", "xyz"] = "ab"


@dataclass(frozen=True)
class Inner:
    rate: float = 0.5


@dataclass(frozen=True)
class WeightsConfig:
    scale: float = 1.0
    inner: Inner = field(default_factory=Inner)


@dataclass(frozen=True)
class Nothing:
    pass


def letters(config: LettersConfig, ctx: StageContext) -> dict[str, Any]:
    """One letter a step; what is there of an earlier attempt is kept, so a step is never done twice."""
    state = ctx.work / "state.json"
    chosen: list[str] = read_json(state) if state.exists() else []
    log = MetricsLog(ctx.metrics_path, resume_step=len(chosen))
    for step in range(len(chosen), config.count):
        chosen.append(random.Random(f"{ctx.seed}/{step}").choice(config.alphabet))
        log.log(step + 1, letter=chosen[-1])
        write_json(state, chosen)
        with open(ctx.work / "steps.txt", "a") as f:
            f.write(f"{step}\n")
    write_text(ctx.out / "letters.txt", "".join(chosen))
    write_json(ctx.out / "sources.json", [{"name": "alphabet", "version": "1", "sha256": "0" * 64, "licence": "MIT"}])
    steps = (ctx.work / "steps.txt").read_text().split()
    write_json(ctx.out / "run.json", {"letters_per_second": random.SystemRandom().random(), "steps": steps})
    return {"letters": len(chosen)}


def weights(config: WeightsConfig, ctx: StageContext) -> dict[str, Any]:
    text = (ctx.inputs["letters"] / "letters.txt").read_text()
    values = [config.scale * ord(letter) for letter in text]
    data = struct.pack(f"<{len(values)}f", *values)
    header = json.dumps({"w": {"dtype": "F32", "shape": [len(values)], "data_offsets": [0, len(data)]}}).encode()
    (ctx.out / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + data)
    write_json(ctx.out / "config.json", {"model_type": "qwen3", "vocab_size": 3, "hidden_size": 1})
    return {"total": sum(values), "bits_per_byte": {"en": 1.5, "zh": 1.25}}


def copy(config: Nothing, ctx: StageContext) -> dict[str, Any]:
    write_text(ctx.out / "copy.txt", (ctx.inputs["letters"] / "letters.txt").read_text().upper())
    return {}


def page(config: Nothing, ctx: StageContext) -> dict[str, Any]:
    write_text(ctx.out / "page.txt", " ".join(sorted(ctx.inputs)))
    return {"inputs": len(ctx.inputs)}


STAGES = (
    Stage("letters", "write letters", "tasks", 1, "fake_life:LettersConfig", (), "fake_life:letters"),
    Stage("weights", "weigh", "model", 1, "fake_life:WeightsConfig", ("letters",), "fake_life:weights"),
    Stage("copy", "copy", "copy", 1, "fake_life:Nothing", ("letters",), "fake_life:copy"),
    Stage("page", "page", "report", 1, "fake_life:Nothing", ("weights", "copy"), "fake_life:page"),
)
RECIPE = "name: life\nseed: 3\nthreads: 1\nletters:\nweights:\n  inner: {rate: 0.25}\ncopy:\npage:\n  budget_s: 60\n"


def content_ids(folder: Path) -> dict[str, str]:
    """Name → content id of every finished stage in a run's folder."""
    return {
        stage.name: read_json(folder / stage.name / "qwill.json")["content_id"]
        for stage in STAGES
        if (folder / stage.name).exists()
    }


def main() -> None:
    from qwill.workflow.recipe import load_recipe
    from qwill.workflow.run import run_recipe

    path, kill_at, *overrides = sys.argv[1:]
    recipe = load_recipe(Path(path), overrides, STAGES)
    touched = 0
    mine = str(recipe.folder.resolve())

    def count(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal touched
        if event in EVENTS and isinstance(arguments[0], str | Path) and os.path.abspath(arguments[0]).startswith(mine):
            touched += 1
            if touched == int(kill_at):
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(count)
    run_recipe(recipe, display=Display(quiet=True))
    print(touched)


if __name__ == "__main__":
    main()
