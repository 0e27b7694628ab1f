"""`qwill curate` without a recipe, and `qwill curate inspect`."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.data.made_up_corpus import HOSTILE, write_corpus_files

from qwill.base.config import load_yaml
from qwill.base.errors import ConfigError
from qwill.cli import curate, recipes
from qwill.cli.main import main
from qwill.workflow.recipe import load_recipe

Run = tuple[Path, list[str], bool]


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Run]:
    """What would be run, in a folder of its own with some pages."""
    calls = list[Run]()
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my pages").mkdir()
    (tmp_path / "notes.jsonl").write_text('{"text": "x"}\n')

    def run(path: Path, overrides: list[str], verb: str, as_json: bool) -> int:
        assert verb == "curate"
        calls.append((path, list(overrides), as_json))
        return 0

    monkeypatch.setattr(recipes, "run", run)
    return calls


def test_a_folder_gets_a_recipe_of_its_own(ran: list[Run], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["curate", "my pages", "corpus.shown=2"]) == 0
    path = Path("runs/my-pages/curate.yaml")
    assert ran == [(path, ["corpus.shown=2"], False)]
    assert str(path) in capsys.readouterr().out
    recipe = load_recipe(path, only="corpus")
    (section,) = recipe.sections
    (source,) = section.config.sources
    assert (recipe.name, recipe.folder, source.name, source.path) == ("my-pages", path.parent, "my-pages", "my pages")
    assert not section.config.need_every_language


def test_settings_that_were_changed_stay(ran: list[Run]) -> None:
    assert main(["curate", "notes.jsonl", "--out", "here", "--json"]) == 0
    path = Path("here/curate.yaml")
    path.write_text(path.read_text().replace("rejects: sample", "rejects: keep"))
    assert main(["curate", "--out", "here", "notes.jsonl"]) == 0
    assert load_yaml(path)["corpus"]["rejects"] == "keep"
    assert ran == [(path, [], True), (path, [], False)]
    assert main(["curate", "my pages", "--out", "here"]) == 2


def test_a_recipe_is_run_as_it_is(ran: list[Run]) -> None:
    Path("own.yaml").write_text("name: x\ncorpus:\n")
    assert main(["curate", "own.yaml", "seed=2", "--json"]) == 0
    assert main(["curate", "own.yaml", "--out", "there", "seed=2"]) == 0
    assert ran == [(Path("own.yaml"), ["seed=2"], True), (Path("own.yaml"), ["folder=there", "seed=2"], False)]


def test_what_is_not_there_is_said(ran: list[Run], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["curate", "nothing"]) == 2
    assert capsys.readouterr().err == (
        "qwill: nothing is not there; give a recipe (.yaml), or a folder or file of text to curate.\n"
    )
    assert not Path("runs").exists() and ran == []


def test_a_folder_called_inspect_can_be_curated(ran: list[Run]) -> None:
    Path("inspect").mkdir()
    assert main(["curate", "./inspect"]) == 0
    assert ran[0][0] == Path("runs/inspect/curate.yaml")


@given(st.text(st.characters(codec="utf-8", exclude_characters="\0/"), min_size=1, max_size=20))
def test_any_path_stands_in_the_settings_as_it_is(name: str) -> None:
    import yaml

    read = yaml.safe_load(curate.settings("a", Path(name), Path("runs") / name))
    assert read["corpus"]["sources"][0]["path"] == str(Path(name))
    assert read["folder"] == str(Path("runs") / name)


def test_curate_help_names_both_uses(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["curate"], ["curate", "--help"]):
        assert main(words) in (0, 2)
        shown = "".join(capsys.readouterr())
        assert "CONFIG|FOLDER|FILE" in shown and "inspect" in shown and "qwill curate examples/curate/pages" in shown


def test_inspect_prints_each_step_and_nothing_that_a_terminal_obeys(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = write_corpus_files(tmp_path)
    shown = json.loads((tmp_path / "rejects.jsonl").read_text().splitlines()[0])
    assert main(["curate", "inspect", str(tmp_path), shown["id"], "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["step"] == shown["step"]
    hostile = next(d for d in made if d.text == HOSTILE[2] and d.reject is not None and d.reject.step != "unreadable")
    line = shown | {"id": hostile.id, "text": hostile.text, "step": "gopher_quality"}
    (tmp_path / "rejects.jsonl").write_text(json.dumps(line) + "\n")
    assert main(["curate", "inspect", str(tmp_path), hostile.id]) == 0
    printed = capsys.readouterr().out
    assert "✓ language" in printed and "✗ gopher_quality" in printed and "· fineweb" in printed
    assert not set(printed) & set("\x1b\x00\x07")
    assert main(["curate", "inspect", str(tmp_path), "nothing"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_settings_for_another_source_are_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b"):
        (tmp_path / name / "pages").mkdir(parents=True)
    curate.own_recipe(Path("a/pages"), None)
    with pytest.raises(ConfigError, match="another source"):
        curate.own_recipe(Path("b/pages"), None)
