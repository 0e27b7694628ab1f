import json
from pathlib import Path

import pytest
from fake_life import RECIPE, STAGES, content_ids

from qwill.base.progress import Display
from qwill.workflow.recipe import load_recipe
from qwill.workflow.run import run_recipe
from qwill.workflow.summary import print_summary, summary_json, try_next


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("life.yaml").write_text(RECIPE)


def test_the_table_has_each_stage_its_time_its_numbers_and_its_identity(capsys: pytest.CaptureFixture[str]) -> None:
    recipe = load_recipe(Path("life.yaml"), (), STAGES)
    print_summary(recipe, run_recipe(recipe, None, Display(quiet=True)))
    shown = capsys.readouterr().out
    for name, content_id in content_ids(recipe.folder).items():
        [line] = [line for line in shown.splitlines() if line.startswith(name)]
        assert content_id[:12] in line and "0:00" in line and "made before" not in line
    assert "bits per byte en 1.5" in shown and "1:00" in shown
    assert "qwill chat runs/life/weights" in shown and "qwill lineage runs/life/weights" in shown
    print_summary(recipe, run_recipe(recipe, None, Display(quiet=True)))
    assert capsys.readouterr().out.count("made before") == len(STAGES)


def test_for_programs_it_is_json_and_tells_what_was_made_now() -> None:
    recipe = load_recipe(Path("life.yaml"), (), STAGES)
    run_recipe(recipe, "letters", Display(quiet=True))
    stages = json.loads(json.dumps(summary_json(run_recipe(recipe, None, Display(quiet=True)))))["stages"]
    assert [(stage["stage"], stage["made"]) for stage in stages][:2] == [("letters", False), ("weights", True)]
    assert stages[0]["metrics"] == {"letters": 6} and stages[0]["folder"] == "runs/life/letters"
    assert all(stage["seconds"] >= 0 for stage in stages) and stages[3]["budget_s"] == 60


def test_only_what_is_there_is_proposed() -> None:
    recipe = load_recipe(Path("life.yaml"), (), STAGES)
    assert try_next(recipe) == []
    (recipe.folder / "report").mkdir(parents=True)
    (recipe.folder / "report/report.html").write_text("")
    assert try_next(recipe) == ["xdg-open runs/life/report/report.html"]
