"""Tools of training: what the model is told of them, and what it reads when something goes wrong."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any, Literal

import pytest

from qwill.align.settings import GRPOConfig, ToolPart
from qwill.align.tool_schema import schema_of
from qwill.align.tools import LONGEST, Tools
from qwill.base.config import identity_of, parse
from qwill.base.errors import ConfigError, DataError, QwillError

CALCULATOR = Path(__file__).parents[2] / "examples" / "tools" / "calculator.py"
MOODY = '''
import time, os

def moody(how: str) -> str:
    """Moody. 喜怒无常。"""
    if how == "hang":
        time.sleep(60)
    if how == "die":
        os._exit(3)
    if how == "long":
        return "x" * 9000
    if how == "raise":
        raise ValueError("不行")
    print("noise on standard output")
    return how

def bare(x):
    return x

def untyped(x) -> int:
    """No type."""
    return x

def odd(x: set) -> int:
    """A set."""
    return 1
'''


def call(name: str, arguments: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "arguments": arguments}}


@pytest.fixture
def moody(tmp_path: Path) -> str:
    (tmp_path / "moody.py").write_text(MOODY, encoding="utf-8")
    return f"{tmp_path / 'moody.py'}"


def test_a_schema_is_that_of_signature_and_docstring() -> None:
    def find(
        words: str, kind: Literal["new", "old"], most: int = 3, tags: list[str] | None = None, **_: Any
    ) -> list[str]:
        return [words, kind, str(most), *(tags or [])]

    def search(words: str, kind: Literal["new", "old"], most: int = 3, tags: list[str] | None = None) -> list[str]:
        """Search the notes.

        Newest first.

        Args:
            words: What to look for,
                in any language.
            kind (str): Which notes.
            most: How many: at most ten.

        Returns:
            nothing: of interest
        """
        return []

    # As transformers' get_json_schema says it, but for the Literal, which that takes from `(choices: …)`.
    search.__annotations__ = {"words": str, "kind": Literal["new", "old"], "most": int, "tags": list[str] | None}
    assert schema_of(search) == {
        "type": "function",
        "function": {
            "name": "search",
            "description": "Search the notes.\n\nNewest first.",
            "parameters": {
                "type": "object",
                "properties": {
                    "words": {"type": "string", "description": "What to look for, in any language."},
                    "kind": {"type": "string", "enum": ["new", "old"], "description": "Which notes."},
                    "most": {"type": "integer", "description": "How many: at most ten."},
                    "tags": {"type": "array", "items": {"type": "string"}, "nullable": True},
                },
                "required": ["words", "kind"],
            },
        },
    }
    find.__annotations__ = {}
    with pytest.raises(DataError):
        schema_of(find)


def test_the_calculator_calculates_and_nothing_else() -> None:
    spec = importlib.util.spec_from_file_location("calculator", CALCULATOR)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for text, value in (("17 * (3 + 4)", "119"), ("１２＋３０", "42"), ("7 / 2", "3.5"), ("-3 - -5", "2")):
        assert module.calculate(text) == value
    for text in ("__import__('os')", "2 ** 9", "a + 1", "'x' * 3", "True + 1"):
        with pytest.raises(ValueError):
            module.calculate(text)


def test_a_call_gives_a_text_and_every_failure_is_one_too(moody: str) -> None:
    with Tools([ToolPart(f"{moody}:moody", seconds=1.0), ToolPart(f"{CALCULATOR}:add")]) as tools:
        assert [s["function"]["name"] for s in tools.schemas] == ["moody", "add"]
        assert tools.run(call("add", {"a": 2, "b": 3.5})) == ("5.5", False)
        assert tools.run(call("moody", {"how": "好"})) == ("好", False)
        for how, said in (("raise", "Error: ValueError: 不行"), ("hang", "took more than 1 s"), ("die", "status 3")):
            text, failed = tools.run(call("moody", {"how": how}))
            assert failed and text.startswith("Error") and said in text and "\n" not in text
        text, failed = tools.run(call("moody", {"how": "long"}))
        assert not failed and text.startswith("x" * LONGEST) and text.endswith("(5000 characters were cut)")
        for wrong in (call("sing", {}), call("add", "{broken"), call("add", [1, 2]), call("add", {"c": 1})):
            text, failed = tools.run(wrong)
            assert failed and text.startswith("Error")
        assert tools.run(call("moody", {"how": "still there"})) == ("still there", False)


def test_tools_that_cannot_be_used_are_refused_in_one_sentence(moody: str, tmp_path: Path) -> None:
    for target, said in (
        (f"{moody}:bare", "has no docstring"), (f"{moody}:untyped", "no type for the argument x"),
        (f"{moody}:odd", "which JSON has not"), (f"{moody}:none", "no function"),
        (f"{tmp_path}/no.py:f", "no such file"),
    ):  # fmt: skip
        with pytest.raises(QwillError, match=said) as caught:
            Tools([ToolPart(target)])
        assert "\n" not in str(caught.value)
    with pytest.raises(ConfigError, match="two tools are called moody"):
        Tools([ToolPart(f"{moody}:moody"), ToolPart(f"{moody}:moody")])
    with pytest.raises(ConfigError, match="has no name"):
        ToolPart("a.py:f", schema={"parameters": {}})
    own = {"name": "bare", "parameters": {"type": "object", "properties": {"x": {"type": "integer"}}}}
    with Tools([ToolPart(f"{moody}:bare", schema=own)]) as tools:
        assert tools.schemas == [{"type": "function", "function": own}]
        assert tools.run(call("bare", {"x": 4})) == ("4", False)


def test_what_a_tool_is_made_of_is_part_of_the_recipe(moody: str) -> None:
    settings = parse(GRPOConfig, {"tools": [{"function": f"{moody}:moody"}]}, "aligned")
    before = identity_of(settings)
    Path(moody).write_text(MOODY + "\n# changed\n", encoding="utf-8")
    assert identity_of(settings) != before
    assert not {"tools", "max_turns", "thinking", "redraws", "shown"} & identity_of(GRPOConfig()).keys()


def test_a_tool_that_does_not_load_again_is_a_sentence_for_the_model(moody: str) -> None:
    with Tools((ToolPart(f"{moody}:moody", seconds=1.0),)) as tools:
        assert tools.run(call("moody", {"how": "hang"})) == ("Error: took more than 1 s and was ended.", True)
        whole = Path(moody).read_text(encoding="utf-8")
        Path(moody).write_text("def moody(:\n")
        for _ in range(2):
            text, failed = tools.run(call("moody", {"how": "well"}))
            assert failed and text.startswith("Error: the tool moody can't be loaded (SyntaxError") and "\n" not in text
        Path(moody).write_text(whole, encoding="utf-8")
        assert tools.run(call("moody", {"how": "well"})) == ("well", False)


def test_half_a_surrogate_pair_in_a_result_is_what_the_model_reads(moody: str) -> None:
    with Tools((ToolPart(f"{moody}:moody"),)) as tools:
        assert tools.run(call("moody", {"how": "caf\udce9.txt \ud83d\ude00"})) == ("caf\ufffd.txt 😀", False)
