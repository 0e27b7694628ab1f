"""The script `qwill`: a plain leaderboard needs next to no imports, and is what the whole command line prints."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from qwill.cli import main as whole
from qwill.cli import start

SLOW = ("click", "numpy", "typing", "inspect", "dataclasses", "pathlib", "torch", "pandas", "scipy")
LOADED = f"""
import sys
before = set(sys.modules)
from qwill.cli.start import main
code = main(sys.argv[1:])
print([name for name in {SLOW!r} if name in sys.modules and name not in before], file=sys.stderr)
sys.exit(code)
"""


@pytest.fixture
def votes(tmp_path: Path) -> str:
    path = tmp_path / "votes.jsonl"
    rows = [{"model_a": "x", "model_b": "y", "winner": winner} for winner in ("model_a", "tie", "model_b", "model_a")]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def test_a_plain_leaderboard_imports_no_parser_and_no_arrays(votes: str) -> None:
    done = subprocess.run([sys.executable, "-c", LOADED, "arena", "rate", votes], capture_output=True, text=True)
    assert done.returncode == 0 and done.stderr == "[]\n" and "rank" in done.stdout


@pytest.mark.parametrize("more", [[], ["--json"]])
@pytest.mark.parametrize("text", [None, "", "{", '{"model_a": "x", "model_b": "y", "winner": "model_a"}\n'])
def test_both_ways_in_say_the_same(
    votes: str, more: list[str], text: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    if text is not None:
        Path(votes).write_text(text, encoding="utf-8")
    said = []
    for main in (start.main, whole.main):
        code = main(["arena", "rate", votes, *more])
        said.append((code, *capsys.readouterr()))
    assert said[0] == said[1] and said[0][0] == (0 if text is None else 2)


def test_anything_else_goes_to_the_whole_command_line(votes: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert start.plain_leaderboard(["arena", "rate", votes, "--json"]) == (votes, True)
    for words in (["arena", "rate"], ["arena", "rate", "--help"], ["arena", "rate", votes, "--prior"], ["arena", votes],
                  ["arena", "rate", votes, votes], ["arena", "rate", ""], [], ["version"]):  # fmt: skip
        assert start.plain_leaderboard(words) is None
    assert start.main(["arena", "rate", votes, "--prior", "1", "--json"]) == 0
    assert "prior of precision 1" in capsys.readouterr().out
    assert start.main(["arena", "rate", votes, "--nonsense"]) == 2
    assert "--nonsense" in capsys.readouterr().err
