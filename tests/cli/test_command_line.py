import errno
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import click
import pytest

from qwill import __version__
from qwill.cli import recipes
from qwill.cli.groups import Itself
from qwill.cli.main import main, qwill
from qwill.workflow.recipe import load_recipe
from qwill.workflow.stages import STAGES

ROOT = Path(__file__).parents[2]
HEAVY = ("torch", "pyarrow", "scipy", "transformers", "tokenizers", "rich", "numpy", "jinja2", "prompt_toolkit")
PAGES = ("README.md", "docs/en/quickstart.md", "docs/zh/quickstart.md")
EVALUATION = ("docs/en/evaluation.md", "docs/zh/evaluation.md")
SFT = ("docs/en/sft.md", "docs/zh/sft.md")
GUIDES = (*SFT, "docs/en/curation.md", "docs/zh/curation.md", "docs/en/serve.md", "docs/zh/serve.md", *EVALUATION)


def commands(group: click.Group = qwill, path: tuple[str, ...] = ()) -> dict[tuple[str, ...], click.Command]:
    """Every command that does something, by its words."""
    found: dict[tuple[str, ...], click.Command] = {}
    for name, command in group.commands.items():
        words = (*path, name)
        if isinstance(command, Itself):
            found[words] = command.own
        found |= commands(command, words) if isinstance(command, click.Group) else {words: command}
    return found


@pytest.mark.parametrize("words", sorted(commands()), ids=" ".join)
def test_every_command_has_help_with_an_example_that_parses(
    words: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*words, "--help"]) == 0
    shown = capsys.readouterr().out
    examples = [line.strip() for line in shown.partition("Example:")[2].splitlines() if line.strip()]
    assert examples and all(line.startswith(" ".join(["qwill", *words])) for line in examples)
    for line in examples:
        parse(line)


def parse(line: str) -> None:
    """Raises where a command line or its recipe would not be understood; runs nothing."""
    _, *words = shlex.split(line, comments=True)
    command: click.Command = qwill
    while isinstance(command, click.Group) and words and not words[0].startswith("-"):
        if isinstance(command, Itself) and words[0] not in command.commands:
            command = command.own
            break
        name, *words = words
        command = command.commands[name]
    if words and words != ["--help"]:
        given = command.make_context("qwill", words).params
        if "recipe" in given and given["recipe"].suffix == ".yaml":
            verb = next((stage.name for stage in STAGES if line.startswith(f"qwill {stage.verb} ")), None)
            # Artifacts that an example takes from elsewhere are not there while it is tested.
            overrides = [override for override in given["overrides"] if ".inputs=" not in override]
            load_recipe(ROOT / given["recipe"], overrides, only=verb)


def test_each_stage_has_a_command_and_each_command_of_a_recipe_a_stage() -> None:
    verbs = {tuple(stage.verb.split()) for stage in STAGES}
    takes_recipe = {words for words, command in commands().items() if "recipe" in {p.name for p in command.params}}
    assert takes_recipe == verbs | {("run",), ("data", "fetch")}


@pytest.mark.parametrize("page", (*PAGES, *GUIDES))
def test_what_the_pages_say_to_type_is_understood(page: str) -> None:
    blocks = re.findall(r"```sh\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), re.S)
    inline = re.findall(r"`((?:make|qwill) [^`]*)`", (ROOT / page).read_text(encoding="utf-8"))
    lines = [line.strip() for block in blocks for line in block.splitlines()] + inline
    lines = [line.removeprefix(".venv/bin/") for line in lines if "COMMAND" not in line]
    typed = [line for line in lines if line.startswith("qwill ")]
    made = [line.split()[1] for line in lines if line.startswith("make ")]
    assert len(typed) >= 5 and (made or page in GUIDES)
    for line in typed:
        parse(line)
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.M))
    assert set(made) <= targets


@pytest.mark.parametrize("page", ["quickstart", "serve", "sft"])
def test_both_languages_say_the_same(page: str) -> None:
    english, chinese = ((ROOT / "docs" / code / f"{page}.md").read_text(encoding="utf-8") for code in ("en", "zh"))

    def bones(text: str) -> list[str]:
        code = re.findall(r"```.*?```", text, re.S)
        without_remarks = [re.sub(r"\s*#.*| TEXT| 文字", "", block) for block in code]
        return without_remarks + re.findall(r"^#+ \d", text, re.M) + re.findall(r"^\| `.*?` \| `.*?` \|", text, re.M)

    assert bones(english) == bones(chinese)


# Stages of other lives than the demo's; each has a recipe of its own.
OWN_RECIPES = ("mixing", "preferences", "reward", "preferred", "ppo", "distilled", "rejection", "fusion", "modes")


@pytest.mark.parametrize("recipe", sorted((ROOT / "recipes").glob("*.yaml")), ids=lambda path: path.stem)
def test_the_recipes_are_sound_and_whole(recipe: Path) -> None:
    read = load_recipe(recipe)
    stages = [section.stage.name for section in read.sections]
    whole = [stage.name for stage in STAGES if stage.name not in OWN_RECIPES]
    parts = {
        "mixing": ["tasks", "corpus", "tokenizer", "mixing"], "languages": ["corpus", "tokenizer", "base"],
        "dpo": ["preferences", "preferred"], "reward": ["preferences", "reward"],
        "grpo": ["tasks", "aligned"], "ppo": ["tasks", "ppo"], "distill": ["tasks", "distilled"],
        "sft": ["sft"], "grpo-tools": ["aligned"],
        "qwen3-post-training": [
            "tasks", "tasks", "corpus", "dialogues", "dialogues", "tokenizer", "base", "sft", "aligned", "rejection",
            "fusion", "sft", "aligned", "modes",
        ],
    }  # fmt: skip
    assert stages == parts.get(recipe.stem, whole)
    assert read.name == recipe.stem
    minutes = {"smoke": 4, "demo": 15, "evening": 90, "mixing": 15, "qwen3-post-training": 20}
    if recipe.stem in minutes:
        assert sum(section.budget_s or 1e9 for section in read.sections) <= minutes[recipe.stem] * 60


def modules_after(code: str) -> set[str]:
    """Names of the modules that a fresh interpreter holds after running `code`."""
    program = f"import sys\n{code}\nprint('\\n'.join(sys.modules), file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return set(done.stderr.split())


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"], ["lineage", "--help"], ["version"]], ids=str)
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    modules = modules_after(f"from qwill.cli.main import main\nassert main({arguments!r}) == 0")
    assert "qwill.cli.main" in modules and not modules & set(HEAVY)


def test_importing_qwill_imports_nothing_heavy() -> None:
    assert not modules_after("import qwill") & set(HEAVY)


def test_a_recipe_is_read_without_torch() -> None:
    """So that a run which finds everything made ends in a moment."""
    modules = modules_after(
        "from pathlib import Path\nimport qwill.workflow.run\nfrom qwill.workflow.recipe import load_recipe\n"
        "assert load_recipe(Path('recipes/demo.yaml')).sections"
    )
    assert "qwill.workflow.run" in modules
    assert not modules & {"torch", "scipy", "tokenizers", "transformers"}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["rnu", "recipes/demo.yaml"], ["rnu"]),
        (["run"], ["RECIPE"]),
        (["run", "recipes/none.yaml"], ["recipes/none.yaml"]),
        (["run", "recipes/demo.yaml", "bse.steps=3"], ["bse", "base"]),
        (["run", "recipes/demo.yaml", "base.stps=3"], ["base.stps", "steps"]),
        (["pretrain", "recipes/demo.yaml", "stps=3"], ["base.stps", "steps"]),
        (["sft", "recipes/demo.yaml", "folder=nowhere"], ["nowhere/base", "qwill pretrain recipes/demo.yaml"]),
        (["lineage", "runs/none"], ["runs/none"]),
        (["lineage", "recipes"], ["recipes", "qwill.json"]),
        (["lineage", "recipes", "--documents", "0"], ["documents"]),
        (["chat", "runs/none"], ["runs/none"]),
        (["data", "fetch", "recipes/demo.yaml", "corpus.sources=[{name: bolq}]"], ["bolq", "boolq"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_bad_input_is_one_sentence_and_exit_code_2(
    arguments: list[str],
    words: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")
    assert main(arguments) == 2
    said = capfd.readouterr()
    assert said.out == "" and "Traceback" not in said.err
    assert [word for word in words if word not in said.err] == [], said.err
    [sentence] = [line for line in said.err.splitlines() if line.startswith(("qwill: ", "Error: "))]
    assert sentence


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device", "runs/demo/x"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        RuntimeError("I/O error: No space left on device (os error 28)"),
    ],
    ids=["disk", "quota", "another language's words"],
)
def test_a_full_disk_is_one_sentence(
    error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object) -> int:
        try:
            raise error
        except type(error) as first:
            raise ValueError("what the library made of it") from first

    monkeypatch.setattr(recipes, "run", fail)
    assert main(["run", "x.yaml"]) == 2
    said = capsys.readouterr().err
    assert "disk is full" in said and "same command" in said and said.count("\n") == 1


def test_no_permission_is_one_sentence(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def fail(*_: object) -> int:
        raise PermissionError(errno.EACCES, "Permission denied", "/runs")

    monkeypatch.setattr(recipes, "run", fail)
    assert main(["run", "x.yaml"]) == 2
    assert "no permission (/runs)" in capsys.readouterr().err


def test_ctrl_c_says_how_to_go_on(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def stop(*_: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(recipes, "run", stop)
    assert main(["run", "x.yaml"]) == 130
    assert "run the same command again" in capsys.readouterr().err


def test_a_bug_is_a_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> int:
        raise ZeroDivisionError

    monkeypatch.setattr(recipes, "run", fail)
    with pytest.raises(ZeroDivisionError):
        main(["run", "x.yaml"])


def test_a_reader_that_has_had_enough_is_no_error() -> None:
    program = "from qwill.cli.main import main; import sys; sys.exit(main(['doctor', '--json']))"
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=dict(os.environ)
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        assert b"Traceback" not in process.stderr.read()


def test_doctor_says_what_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("QWILL_CACHE", str(tmp_path / "cache"))
    assert main(["doctor", "--json"]) == 0
    findings = {row["what"]: row for row in json.loads(capsys.readouterr().out)["findings"]}
    assert findings["torch"]["state"] in ("ok", "better") and findings["processor"]["state"] == "ok"
    assert "qwill data fetch" in findings["cache"]["advice"]
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr("qwill.cli.doctor.MEMORY_GIB", 1e6)
    assert main(["doctor"]) == 2
    shown = capsys.readouterr().out
    assert re.search(r"^note +C compiler +none", shown, re.M) and re.search(r"^MISSING +memory", shown, re.M)


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["version"], ["--version"]):
        assert main(arguments) == 0
        assert capsys.readouterr().out == f"qwill {__version__}\n"
