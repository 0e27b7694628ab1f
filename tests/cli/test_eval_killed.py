"""`qwill eval` killed (SIGKILL, a real process) at many moments at which it touches the disk, and then run again.

The process counts its own file operations near the results and kills itself at the n-th, so that moments are chosen and
not left to luck. A server that has the imports done forks it, which takes a fraction of a second.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
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
    "qwill.hub.eval_card", "qwill.base.device",
]  # fmt: skip
TASKS = {
    "said": 'source: {jsonl: rows.jsonl}\nkind: generate\nprompt: "{{ q }}"\nanswer: "{{ q }}"\n'
    "generate: {max_tokens: 3}\n",
    "chosen": 'source: {jsonl: rows.jsonl}\nkind: choice\nprompt: "{{ q }}"\nchoices: ["yes", "no"]\nanswer: 0\n',
}
COMMAND = ["eval", "model", "--tasks", "said.yaml,chosen.yaml", "--out", "out/results", "--card", "model", "--json"]
CARD = "---\nlicense: mit\n---\n# Mine\n"
EXAMPLES = 6
SERVER: list[subprocess.Popen[str]] = []  # one, while the tests run


def evaluate_until(folder: str, moment: int) -> int:
    """The command, which kills this process at its `moment`-th file operation in out/ or on the card (0: never)."""
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
    return code


def serve(folder: str) -> None:
    """For each number on standard input a process of its own; its exit code, or the signal's negative, on standard
    output."""
    for module in MODULES:
        import_module(module)
    os.chdir(folder)
    answers = os.fdopen(os.dup(1), "w")
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 1)
        os.dup2(nowhere.fileno(), 2)
    for line in sys.stdin:
        if (child := os.fork()) == 0:
            os._exit(evaluate_until(folder, int(line)))
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), file=answers, flush=True)


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("killed")
    model, tokenizer = tiny("qwen3")
    save_model(model, folder / "model", tokenizer)
    rows = [{"id": f"q{number}", "q": f"{number} + {number} ="} for number in range(EXAMPLES)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name, text in TASKS.items():
        (folder / f"{name}.yaml").write_text(f"name: {name}\n{text}")
    command, path = [sys.executable, __file__, str(folder)], os.pathsep.join(filter(None, sys.path))
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env=os.environ | {"PYTHONPATH": path}, **pipes) as server:
        SERVER.append(server)
        yield folder
        SERVER.clear()
        server.communicate()


def run(moment: int) -> int:
    (server,) = SERVER
    assert server.stdin is not None and server.stdout is not None
    print(moment, file=server.stdin, flush=True)
    return int(server.stdout.readline())


def clear(here: Path) -> None:
    shutil.rmtree(here / "out", ignore_errors=True)
    (here / "model" / "README.md").write_text(CARD)
    (here / "seen.txt").unlink(missing_ok=True)


def test_killed_at_any_moment_it_goes_on_to_the_same_results(here: Path) -> None:
    clear(here)
    assert run(0) == 0
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
        assert run(moment) == -signal.SIGKILL, f"moment {moment} of {last}"
        # What stands beside the working folder is whole, or not there.
        there = {path.name for path in (here / "out").iterdir()} if (here / "out").exists() else set()
        assert there <= {".work", "results"}, (moment, there)
        assert (here / "model/README.md").read_text() in (CARD, card), moment
        assert content_id(here / "model")[0] == own
        if "results" in there:
            assert verify(here / "out/results") == [], moment
            wholly_done += 1
        assert run(0) == 0, moment
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
        assert run(moment) == -signal.SIGKILL
    assert run(0) == 0
    assert len((here / "seen.txt").read_text().splitlines()) == 2 * EXAMPLES
    assert verify(here / "out/results") == []


if __name__ == "__main__":
    serve(sys.argv[1])
