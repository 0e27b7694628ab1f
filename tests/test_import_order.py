"""Rooms import only from rooms to their left, and what a newcomer types first loads nothing heavy."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

import qwill

ROOMS = (
    "base", "text", "model", "data", "engine", "evaluate", "train", "align", "hub", "memory", "agent", "serve",
    "workflow", "cli",
)  # fmt: skip
HEAVY = ("torch", "pyarrow", "numpy", "scipy", "rich", "transformers", "tokenizers")
PACKAGE = Path(qwill.__file__).parent


def imported_rooms(source: str, package: str) -> list[tuple[int, str]]:
    """(line, room) of every import of a room, wherever it stands: in functions and under TYPE_CHECKING too.

    `package` is the package of the file (`qwill.data`), which relative imports start from.
    """
    found = []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.expr | ast.stmt):
            continue
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")
            anchor = parents[: len(parents) - node.level + 1] if node.level else []
            base = ".".join(anchor + ([node.module] if node.module else []))
            names = [f"{base}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            # importlib.import_module("qwill.x"): an import by another name.
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if called in ("import_module", "__import__") and isinstance(node.args[0].value, str):
                names = [node.args[0].value]
        for name in names:
            parts = name.split(".")
            if parts[0] == "qwill" and len(parts) > 1 and parts[1] in ROOMS:
                found.append((node.lineno, parts[1]))
    return found


def wrong_imports(source: str, room: str) -> list[tuple[int, str]]:
    own = ROOMS.index(room)
    return [(line, other) for line, other in imported_rooms(source, f"qwill.{room}") if ROOMS.index(other) > own]


def python_files() -> list[Path]:
    return sorted(p for p in PACKAGE.rglob("*.py") if p.parent != PACKAGE)


def test_every_folder_is_a_room_we_know() -> None:
    folders = {p.name for p in PACKAGE.iterdir() if p.is_dir() and p.name != "__pycache__"}
    assert folders <= set(ROOMS)
    assert {"base", "text", "model", "data", "engine", "evaluate", "train", "align", "workflow", "cli"} <= folders


def test_rooms_import_only_to_their_left() -> None:
    wrong = [
        f"{path.relative_to(PACKAGE)}:{line} imports {other}"
        for path in python_files()
        for line, other in wrong_imports(path.read_text(encoding="utf-8"), path.relative_to(PACKAGE).parts[0])
    ]
    assert wrong == []


@pytest.mark.parametrize(
    "source",
    [
        "import qwill.train",
        "import qwill.train.loop as loop",
        "from qwill.train import loop",
        "from qwill import train",
        "from ..train import loop",
        "from .. import train",
        "def f():\n    from qwill.cli.main import main",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from qwill.align.losses import grpo",
        "import importlib\nimportlib.import_module('qwill.workflow.run')",
    ],
)
def test_the_walk_sees_imports_of_every_form(source: str) -> None:
    assert wrong_imports(source, "data")


def test_the_walk_allows_the_left_and_the_own_room() -> None:
    assert imported_rooms("from qwill.base.errors import DataError\nfrom .split import f", "qwill.data") == [
        (1, "base"), (2, "data"),
    ]  # fmt: skip
    assert wrong_imports("from qwill.base import errors\nfrom .split import f\nimport torch, json", "data") == []


@pytest.mark.parametrize("path", sorted(PACKAGE.glob("*/__init__.py")), ids=lambda p: p.parent.name)
def test_every_room_says_what_it_is_for(path: Path) -> None:
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    assert docstring is not None and len(docstring) > 20


def test_every_module_has_a_docstring() -> None:
    silent = [
        str(p.relative_to(PACKAGE)) for p in PACKAGE.rglob("*.py") if not ast.get_docstring(ast.parse(p.read_bytes()))
    ]
    assert silent == []


LOADED = "import json, sys; print(json.dumps(sorted({m.partition('.')[0] for m in sys.modules})))"


def modules_after(code: str) -> set[str]:
    done = subprocess.run([sys.executable, "-c", f"{code}\n{LOADED}"], capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize(
    "code",
    [
        "import qwill",
        "import qwill.cli.main",
        "from qwill.cli.main import main\nassert main(['--help']) == 0",
        "from qwill.cli.main import main\nassert main(['run', '--help']) == 0",
        "from qwill.cli.main import main\nassert main(['--version']) == 0",
        *(f"import qwill.{path.parent.name}" for path in sorted(PACKAGE.glob("*/__init__.py"))),
    ],
)
def test_nothing_heavy_is_loaded(code: str) -> None:
    assert modules_after(code).isdisjoint(HEAVY)


def test_the_check_for_heavy_modules_can_fail() -> None:
    assert "numpy" in modules_after("import numpy")
