"""`qwill eval` killed (SIGKILL, a real process) at every moment at which it touches the disk, and then run again.

The process counts its own file operations near the results and kills itself at the n-th, so that all moments are
visited and none by luck. A server that has the imports done forks it, which takes a fraction of a second.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.model.gguf_models import tiny

from qwill.base.artifact import content_id, verify
from qwill.cli.main import main
from qwill.evaluate import run_task
from qwill.model import save_model

EVENTS = {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.link", "tempfile.mkstemp"}
# What the command imports, so that the server has it before it forks.
MODULES = [
    "yaml", "jinja2", "jinja2.sandbox", "qwill.cli.main", "qwill.cli.eval", "qwill.model", "qwill.model.gguf",
    "qwill.engine.language_model", "qwill.engine.engine", "qwill.engine.scoring", "qwill.evaluate.run_task",
    "qwill.evaluate.scorers", "qwill.evaluate.task_sources", "qwill.evaluate.eval_report", "qwill.evaluate.task_scores",
    "qwill.hub.eval_card", "tests.cli.test_eval_killed",
]  # fmt: skip
TASKS = {
    "said": 'source: {jsonl: rows.jsonl}\nkind: generate\nprompt: "{{ q }}"\nanswer: "{{ q }}"\n'
    "generate: {max_tokens: 3}\n",
    "chosen": 'source: {jsonl: rows.jsonl}\nkind: choice\nprompt: "{{ q }}"\nchoices: ["yes", "no"]\nanswer: 0\n',
}
COMMAND = ["eval", "model", "--tasks", "said.yaml,chosen.yaml", "--out", "out/results", "--card", "model", "--json"]
CARD = "---\nlicense: mit\n---\n# Mine\n"
EXAMPLES = 6


def evaluate_until(folder: str, moment: int) -> None:
    """The command in a process of its own, which ends at its `moment`-th file operation in out/ or on the card (0:
    never)."""
    os.chdir(folder)
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 1)
        os.dup2(nowhere.fileno(), 2)
    places, count = tuple(os.path.join(folder, name) for name in ("out", ".model.README", "model/README")), 0

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal count
        if event not in EVENTS or not arguments or not isinstance(arguments[0], str | os.PathLike):
            return
        if os.path.abspath(os.fspath(arguments[0])).startswith(places):
            count += 1
            if count == moment:
                os.kill(os.getpid(), signal.SIGKILL)

    def kept(self: Any, row: dict[str, Any]) -> None:
        add(self, row)
        with open(os.path.join(folder, "seen.txt"), "a") as file:
            print(row["task"], row["id"], file=file)

    add, run_task.KeptRows.add = run_task.KeptRows.add, kept  # type: ignore[method-assign]
    sys.addaudithook(hook)
    code = main(COMMAND)
    Path(folder, "count.txt").write_text(str(count))
    sys.exit(code)


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("killed")
    model, tokenizer = tiny("qwen3")
    save_model(model, folder / "model", tokenizer)
    rows = [{"id": f"q{number}", "q": f"{number} + {number} ="} for number in range(EXAMPLES)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name, text in TASKS.items():
        (folder / f"{name}.yaml").write_text(f"name: {name}\n{text}")
    return folder


def run(here: Path, moment: int) -> int | None:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(MODULES)
    process = context.Process(target=evaluate_until, args=(str(here), moment))
    process.start()
    process.join(60)
    assert process.exitcode is not None, "the command hangs"
    return process.exitcode


def clear(here: Path) -> None:
    import shutil

    shutil.rmtree(here / "out", ignore_errors=True)
    (here / "model" / "README.md").write_text(CARD)
    (here / "seen.txt").unlink(missing_ok=True)


def test_killed_at_any_moment_it_goes_on_to_the_same_results(here: Path) -> None:
    clear(here)
    assert run(here, 0) == 0
    whole = json.loads((here / "out/results/qwill.json").read_text())["content_id"]
    card, own = (here / "model/README.md").read_text(), content_id(here / "model")[0]
    assert "model-index" in card
    names = sorted(path.name for path in here.iterdir())
    last = int((here / "count.txt").read_text())
    assert last > 30
    wholly_done = 0
    # A third of the moments around the end, where results and card are put in place; a seventh of those before.
    for moment in [*range(1, last - 24, 7), *range(last - 24, last, 3), last]:
        clear(here)
        assert run(here, moment) == -signal.SIGKILL, f"moment {moment} of {last}"
        # What stands beside the working folder is whole, or not there.
        there = {path.name for path in (here / "out").iterdir()} if (here / "out").exists() else set()
        assert there <= {".work", "results"}, (moment, there)
        assert (here / "model/README.md").read_text() in (CARD, card), moment
        assert content_id(here / "model")[0] == own
        if "results" in there:
            assert verify(here / "out/results") == [], moment
            wholly_done += 1
        assert run(here, 0) == 0, moment
        assert [path.name for path in (here / "out").iterdir()] == ["results"], moment
        assert json.loads((here / "out/results/qwill.json").read_text())["content_id"] == whole, moment
        assert (here / "model/README.md").read_text() == card, moment
        assert sorted(path.name for path in here.iterdir()) == names
        # What was kept is not asked again.
        seen = (here / "seen.txt").read_text().splitlines()
        assert len(seen) == len(set(seen)) == 2 * EXAMPLES, (moment, seen)
    assert wholly_done > 2


def test_killed_again_and_again_it_comes_to_an_end(here: Path) -> None:
    clear(here)
    for moment in (9, 8, 7, 12, 11):
        assert run(here, moment) == -signal.SIGKILL
    assert run(here, 0) == 0
    assert len((here / "seen.txt").read_text().splitlines()) == 2 * EXAMPLES
    assert verify(here / "out/results") == []
