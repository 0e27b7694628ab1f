"""What an optional install brings is named when it is missing."""

import sys
import tomllib
from pathlib import Path

import pytest

from qwill.cli import main as cli
from qwill.cli.ends import EXTRAS


@pytest.mark.parametrize("module", sorted(EXTRAS))
def test_a_missing_extra_is_one_sentence(
    module: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def missing(*_: object, **__: object) -> None:
        monkeypatch.setitem(sys.modules, module, None)
        raise ModuleNotFoundError(f"No module named {module!r}", name=module)

    monkeypatch.setattr(cli.qwill, "main", missing)
    assert cli.main(["version"]) == 2
    assert f"qwill[{EXTRAS[module]}]" in capsys.readouterr().err
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    distribution = module.replace("_", "-")
    brought = project["optional-dependencies"][EXTRAS[module]]
    assert any(line.startswith(distribution) for line in brought)
    assert not any(line.startswith(distribution) for line in project["dependencies"])
