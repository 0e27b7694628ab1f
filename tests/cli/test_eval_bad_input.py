"""Bad input of `qwill eval`: one sentence that names file, line or field, exit code 2, and nothing left behind."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.model.gguf_models import tiny

from qwill.cli.main import main
from qwill.evaluate import scorers
from qwill.model import save_model

WORDS = 'kind: generate\nprompt: "{{ q }}"\nanswer: "{{ a }}"\ngenerate: {max_tokens: 3}\n'
CHOICE = 'kind: choice\nprompt: "{{ q }}"\nchoices: "{{ c }}"\nanswer: "{{ a }}"\n'
GOOD = [{"q": "1", "a": "x", "c": ["a", "b"]}, {"q": "2", "a": "y", "c": ["a", "b"]}]
OWN = """\
import os
def raises(example, reply): return 1 / 0
def hangs(example, reply):
    while True: pass
def dies(example, reply): os._exit(3)
def nan(example, reply): return float("nan")
def none(example, reply): pass
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    model, tokenizer = tiny("qwen3")
    save_model(model, folder / "model", tokenizer)
    return folder / "model"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.py").write_text(OWN)
    return tmp_path


def write_task(settings: str, rows: list[dict[str, Any]] | str = GOOD) -> None:
    lines = rows if isinstance(rows, str) else "".join(json.dumps(row) + "\n" for row in rows)
    Path("t.jsonl").write_text(lines)
    Path("t.yaml").write_text(f"name: t\nsource: {{jsonl: t.jsonl}}\n{settings}")


def sentence(capsys: pytest.CaptureFixture[str], model: Path | str, *more: str, tasks: str = "t.yaml") -> str:
    """What the command says, which must be one line and exit code 2, with nothing written."""
    before = sorted(path for path in Path().rglob("*") if "__pycache__" not in path.parts)
    words = ["eval", str(model), "--tasks", tasks, *(() if "--out" in more else ("--out", "out/r")), *more]
    assert main(words) == 2
    told = capsys.readouterr()
    assert told.out == "" and "Traceback" not in told.err
    lines = [line for line in told.err.splitlines() if "·" not in line]  # of progress
    assert len(lines) == 1 and lines[0].startswith("qwill: "), told.err
    left = [path for path in Path().rglob("*") if path not in before and "__pycache__" not in path.parts]
    assert left in ([], [Path("out")]), left
    return lines[0]


@pytest.mark.parametrize(
    ("settings", "rows", "says"),
    [
        (WORDS, [GOOD[0], {"q": "2"}], "t.jsonl: line 2: answer can't be rendered: 'a' is undefined"),
        (WORDS, [GOOD[0], {"q": "2", "a": None}], "t.jsonl: line 2: its answer is empty, and the scorer exact"),
        (WORDS, [GOOD[0], {"q": "2", "a": ""}], "t.jsonl: line 2: its answer is empty"),
        (WORDS.replace('answer: "{{ a }}"\n', ""), GOOD, "t.yaml: answer is missing; the scorer exact compares"),
        (WORDS, '{"q": "1", "a": NaN}\n', "t.jsonl: line 1: its field 'a' holds nan"),
        (WORDS + "scorer: number\n", '{"q": "1", "a": [1, Infinity]}\n', "t.jsonl: line 1: its field 'a' holds inf"),
        (WORDS, '{"q": "\\ud800", "a": "x"}\n', "t.jsonl: line 1: its field 'q' holds half of a character"),
        (WORDS + "scorer: number\n", [{"q": "1", "a": {"n": 3}}], "example 0: the answer {'n': 3} is no number"),
        (CHOICE, '{"q": "1", "c": ["a", "b"], "a": NaN}\n', "line 1: its field 'a' holds nan"),
        (CHOICE, [{"q": "1", "c": ["a", "b"], "a": 2}], "line 1: its answer is 2; expected an index from 0 to 1"),
        (CHOICE, [{"q": "1", "c": ["a", "b"]}], "t.jsonl: line 1: answer can't be rendered"),
        (CHOICE, [{"q": "1", "c": ["a"], "a": 0}], "line 1: it has 1 choices; give at least two"),
        (WORDS, "", "task t: its source {'jsonl': 't.jsonl'} holds no example"),
        (WORDS, "\n\n", "holds no example"),
        (WORDS, '{"q": "1", "a": "x"}\n{"q": \n', "t.jsonl: line 2 is not valid JSON"),
        (WORDS, "[1]\n", "t.jsonl: line 1 holds list; expected a JSON object"),
        (WORDS, [{"id": "1", **GOOD[0]}, {"id": "1", **GOOD[1]}], "t.jsonl: line 2: its id '1' is also that of"),
        (WORDS + "scorer: exat\n", GOOD, "task t: 'exat' is no scorer; did you mean exact?"),
        (WORDS + "promt: x\n", GOOD, "t.yaml.promt is not a setting; did you mean prompt?"),
        (WORDS + "chat: perhaps\n", GOOD, "t.yaml.chat is 'perhaps' (text); expected true or false"),
        (WORDS.replace("{{ q }}", "{{ q"), GOOD, "t.yaml: prompt: line 1 of the template is not valid Jinja"),
        (WORDS.replace("{{ q }}", "{{ question }}"), GOOD, "line 1: prompt can't be rendered: 'question' is undefined"),
        (WORDS.replace("3}", "3, top_p: 7}"), GOOD, "t.yaml.generate: temperature is 0.0, top_p 7.0"),
        (WORDS.replace("3}", "3, temperature: .nan}"), GOOD, "t.yaml.generate.temperature is nan"),
        (WORDS.replace("3}", "0}"), GOOD, "t.yaml.generate: max_tokens is 0"),
        (WORDS + 'tools: "{{ a }}"\n', GOOD, "line 1: its tools are 'x'; expected a list of definitions"),
    ],
)
def test_a_task_that_is_wrong(
    made: Path, here: Path, capsys: pytest.CaptureFixture[str], settings: str, rows: Any, says: str
) -> None:
    write_task(settings, rows)
    assert says in sentence(capsys, made)


@pytest.mark.parametrize(
    ("scorer", "says"),
    [
        ("own.py:raises", "task t, example 0: the scorer own.py:raises raised ZeroDivisionError: division by zero"),
        ("own.py:hangs", "the scorer own.py:hangs took more than 1 s for one reply and was ended"),
        ("own.py:dies", "the scorer own.py:dies ended its process (status 3)"),
        ("own.py:nan", "the scorer own.py:nan gave nan; expected a number from 0 to 1"),
        ("own.py:none", "the scorer own.py:none gave None"),
        ("own.py:nobody", "names nobody, which is no function of"),
        ("gone.py:f", "task t names gone.py, and gone.py is not there"),
        ("broken.py:f", "the scorer broken.py:f can't be loaded (SyntaxError: invalid syntax in line 1 of broken.py)"),
        ("raising.py:f", "the scorer raising.py:f can't be loaded (KeyError: 'x' in line 2 of raising.py)"),
    ],
)
def test_a_scorer_that_is_wrong(
    made: Path,
    here: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    scorer: str,
    says: str,
) -> None:
    (here / "broken.py").write_text("def f(:\n")
    (here / "raising.py").write_text("import os\n{}['x']\n")
    monkeypatch.setattr(scorers.scorer_of, "__defaults__", (False, 1.0))
    write_task(WORDS + f"scorer: {scorer}\n")
    assert says in sentence(capsys, made)


def test_rows_that_were_answered_before_a_scorer_failed_are_kept(
    made: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Once the scorer is mended only the task whose scorer it is is asked again, for it is another task now."""
    (here / "c.jsonl").write_text("".join(json.dumps(row | {"a": 0}) + "\n" for row in GOOD))
    (here / "c.yaml").write_text(f"name: c\nsource: {{jsonl: c.jsonl}}\n{CHOICE}")
    write_task(WORDS + "scorer: own.py:raises\n")
    assert main(["eval", str(made), "--tasks", "c.yaml,t.yaml", "--out", "out/r"]) == 2
    assert "raised ZeroDivisionError" in capsys.readouterr().err
    assert [path.name for path in Path("out").iterdir()] == [".work"]
    # Two tasks, of which the second can't be read: nothing is asked of the first.
    (here / "t.jsonl").write_text("{\n")
    shutil.rmtree("out")
    assert "t.jsonl: line 1 is not valid JSON" in sentence(capsys, made, tasks="c.yaml,t.yaml")


def spoil(change: Callable[[Path], object]) -> Callable[[Path, Path], Path]:
    def made_bad(made: Path, here: Path) -> Path:
        bad = here / "bad"
        shutil.copytree(made, bad)
        change(bad)
        return bad

    return made_bad


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda bad: (bad / "tokenizer.json").unlink(), "bad/tokenizer.json: cannot be read (No such file"),
        (lambda bad: (bad / "tokenizer.json").write_text("{"), "bad/tokenizer.json: line 1 is not valid JSON"),
        (lambda bad: (bad / "config.json").unlink(), "bad holds no config.json, so it is no model"),
        (lambda bad: (bad / "config.json").write_text("{"), "bad/config.json: line 1 is not valid JSON"),
        (lambda bad: (bad / "model.safetensors").unlink(), "bad: holds no *.safetensors"),
        (lambda bad: (bad / "model.safetensors").write_bytes(b"x" * 20), "bad/model.safetensors"),
        (lambda bad: (bad / "qwill.json").write_text("{}"), "bad/qwill.json: manifest version None"),
    ],
)
def test_a_model_that_is_wrong(
    made: Path, here: Path, capsys: pytest.CaptureFixture[str], change: Callable[[Path], object], says: str
) -> None:
    write_task(WORDS)
    assert says in sentence(capsys, spoil(change)(made, here))


def test_places_that_cannot_be_written(made: Path, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_task(WORDS)
    (here / "file").write_text("mine")
    (here / "full").mkdir()
    (here / "full" / "mine").write_text("mine")
    for out, says in (
        ("file/r", "--out: file/r can't be made (Not a directory); name another folder"),
        ("file", "file is there already and holds no results of `qwill eval`; name another with --out"),
        ("full", "full is there already and holds no results"),
        (".", ". is there already and holds no results"),
        ("x" * 300, "can't be made (File name too long)"),
        ("out/" + "x" * 300, "can't be made (File name too long)"),
        ("/proc/nowhere/r", "--out: /proc/nowhere/r can't be made"),
    ):
        assert says in sentence(capsys, made, "--out", out)
    assert (here / "file").read_text() == (here / "full" / "mine").read_text() == "mine"


def test_a_folder_without_permission(
    made: Path, here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As root there is no folder without it, so the system's answer is made up."""
    write_task(WORDS)
    make = Path.mkdir

    def refuses(self: Path, *given: Any, **named: Any) -> None:
        if self.parts[:1] == ("locked",):
            raise PermissionError(13, "Permission denied", str(self))
        make(self, *given, **named)

    monkeypatch.setattr(Path, "mkdir", refuses)
    assert "--out: locked/r can't be made (Permission denied)" in sentence(capsys, made, "--out", "locked/r")


def test_settings_that_are_wrong(made: Path, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_task(WORDS)
    for words, says in (
        (("--temperature", "nan"), "temperature is nan; expected a number from 0"),
        (("--temperature", "inf"), "temperature is inf"),
        (("--device", "tpu"), "--device is 'tpu', which this machine does not have"),
        (("--shots", "2"), "task t: 2 shots were asked for, and there are 2 examples to take them from"),
        (("--thinking",), "thinking needs the chat template"),
    ):
        assert says in sentence(capsys, made, *words), words
    assert "--tasks is ' , ', which names no task" in sentence(capsys, made, tasks=" , ")
    for words, says in (
        (("--limit", "0"), "'--limit': 0 is not in the range x>=1"),
        (("--limit", "-3"), "'--limit': -3 is not in the range x>=1"),
        (("--limit", "few"), "'--limit': 'few' is not a valid integer"),
        (("--samples", "0"), "'--samples': 0 is not in the range x>=1"),
        (("--shots", "-1"), "'--shots': -1 is not in the range x>=0"),
        (("--seed", "x"), "'--seed': 'x' is not a valid integer"),
        (("--dtype", "float16"), "'--dtype': 'float16' is not one of"),
    ):
        assert main(["eval", str(made), "--tasks", "t.yaml", *words]) == 2
        told = capsys.readouterr().err
        assert says in told and "Traceback" not in told
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("file", "says"),
    [
        ("", "t.yaml: is empty; expected settings"),
        ("name: [x\n", "t.yaml: line 2 is not valid YAML"),
        ("- a\n", "t.yaml: holds ['a'] (a list); expected settings"),
        ("\xff", "t.yaml"),
    ],
)
def test_a_file_that_is_no_task(
    made: Path, here: Path, capsys: pytest.CaptureFixture[str], file: str, says: str
) -> None:
    Path("t.yaml").write_text(file, encoding="latin-1")
    assert says in sentence(capsys, made)


def test_numbers_of_any_length_are_scored(made: Path, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from qwill.evaluate.text_scorers import numbers

    assert numbers(f"1/{'9' * 5000} and 7") == [7] and numbers("3/4") == [0.75]


def test_a_page_that_cannot_be_written(made: Path, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_task(WORDS)
    assert main(["eval", str(made), "--tasks", "t.yaml", "--out", "r"]) == 0
    (here / "file").write_text("mine")
    capsys.readouterr()
    assert main(["eval", "compare", "r", "r", "--html", "file/page.html"]) == 2
    assert "--html: file/page.html can't be written (" in capsys.readouterr().err
