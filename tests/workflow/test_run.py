import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import fake_life
import pytest
from fake_life import RECIPE, STAGES, content_ids

from qwill.base.artifact import Manifest, content_id, read_manifest, verify
from qwill.base.errors import ArtifactError, ConfigError, QwillError
from qwill.base.progress import Display
from qwill.workflow.recipe import load_recipe
from qwill.workflow.run import Made, run_recipe

PROGRAM = Path(fake_life.__file__)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    (tmp_path / "life.yaml").write_text(RECIPE)
    return tmp_path


def run(*overrides: str, only: str | None = None) -> list[Made]:
    recipe = load_recipe(Path("life.yaml"), overrides, STAGES, only)
    return run_recipe(recipe, only, Display(quiet=True))


def made_now(made: list[Made]) -> list[str]:
    return [item.section.stage.name for item in made if item.seconds is not None]


def program(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, str(PROGRAM), "life.yaml", *arguments], capture_output=True, text=True)


def test_every_stage_is_made_once_and_then_skipped(here: Path) -> None:
    assert made_now(run()) == ["letters", "weights", "copy", "page"]
    before = {path: path.stat().st_mtime_ns for path in Path("runs/life").rglob("*") if path.is_file()}
    again = run()
    assert made_now(again) == []
    assert {path for path, at in before.items() if path.stat().st_mtime_ns != at} == {Path("runs/life/.lock")}
    assert [item.manifest for item in again] == [read_manifest(item.folder) for item in again]


def test_an_artifact_says_what_it_was_made_from(here: Path) -> None:
    run()
    letters, weights = read_manifest(Path("runs/life/letters")), read_manifest(Path("runs/life/weights"))
    assert letters is not None and weights is not None
    assert letters.sources[0]["name"] == "alphabet" and not Path("runs/life/letters/sources.json").exists()
    assert weights.inputs == {"letters": letters.content_id}
    assert weights.config == {"scale": 1.0, "inner": {"rate": 0.25}}
    assert (weights.seed, weights.threads, weights.stage_version) == (3, 1, 1)
    times = json.loads(Path("runs/life/letters/run.json").read_text())
    assert times["seconds"] >= 0 and "letters_per_second" in times and times["bytes"] == {"letters.txt": 6}
    assert Path("runs/life/logs/letters/metrics.jsonl").read_text().count("\n") == 6
    assert "weights" in Path("runs/life/weights/README.md").read_text()
    assert not list(Path("runs/life/.work").iterdir())


def test_two_runs_give_the_same_content(here: Path) -> None:
    run()
    run("name=second")
    assert content_ids(Path("runs/life")) == content_ids(Path("runs/second"))


@pytest.mark.parametrize(
    ("override", "again"),
    [
        ("weights.scale=2.0", ["weights", "page"]),
        ("weights.inner.rate=0.125", ["weights"]),  # it changes nothing in the weights, so not what comes after them
        ("letters.alphabet=xyz", ["letters", "weights", "copy", "page"]),
        ("seed=4", ["letters", "weights", "copy", "page"]),
        ("copy.seed=4", ["copy"]),
        ("threads=2", ["letters", "weights", "copy", "page"]),
        ("page.budget_s=1", []),
    ],
)
def test_a_change_makes_again_what_depends_on_it(here: Path, override: str, again: list[str]) -> None:
    run()
    made = made_now(run(override))
    # Seeds and threads are asked of every stage; what they leave as it was is found to be so.
    assert made == again if override not in ("threads=2", "seed=4") else set(made) >= {"letters"}


def test_going_back_gives_what_was_there_before(here: Path) -> None:
    run()
    before = content_ids(Path("runs/life"))
    run("letters.count=9")
    assert content_ids(Path("runs/life")) != before
    run()
    assert content_ids(Path("runs/life")) == before


def test_another_version_of_a_stage_or_a_library_is_another_recipe(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dataclasses import replace

    run()
    newer = tuple(replace(stage, version=2) if stage.name == "copy" else stage for stage in STAGES)
    assert made_now(run_recipe(load_recipe(Path("life.yaml"), (), newer), None, Display(quiet=True))) == ["copy"]
    monkeypatch.setattr("qwill.workflow.run.numeric_libraries", lambda own: {"torch": "9.9"})
    assert made_now(run()) == ["letters", "weights", "copy", "page"]


@pytest.mark.parametrize("damage", ["missing", "shorter", "no times"])
def test_an_artifact_with_a_damaged_file_is_made_again(here: Path, damage: str) -> None:
    run()
    before = content_ids(Path("runs/life"))
    if damage == "missing":
        Path("runs/life/copy/copy.txt").unlink()
    elif damage == "shorter":
        Path("runs/life/copy/copy.txt").write_text("x")
    else:
        Path("runs/life/copy/run.json").unlink()
    assert made_now(run()) == ["copy"]
    assert content_ids(Path("runs/life")) == before


def test_a_stray_file_does_not_cost_an_artifact(here: Path) -> None:
    run()
    Path("runs/life/weights/notes.txt").write_text("mine")
    assert made_now(run()) == []


def test_one_stage_alone_uses_what_is_there_and_names_what_is_not(here: Path) -> None:
    with pytest.raises(ArtifactError, match=r"`qwill write letters life\.yaml`"):
        run(only="weights")
    assert made_now(run(only="letters")) == ["letters"]
    assert made_now(run("scale=3", only="weights")) == ["weights"]
    manifest = read_manifest(Path("runs/life/weights"))
    assert manifest is not None and manifest.config["scale"] == 3.0
    assert made_now(run(only="weights")) == ["weights"]
    assert made_now(run()) == ["copy", "page"]


def test_one_stage_alone_says_that_its_input_is_out_of_date(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run()
    run_recipe(load_recipe(Path("life.yaml"), ["letters.count=9"], STAGES), "page", Display(live=False))
    shown = capsys.readouterr().err
    assert shown.count("runs/life/letters is not what life.yaml says now; `qwill write letters life.yaml`") == 1
    run_recipe(load_recipe(Path("life.yaml"), (), STAGES), "page", Display(live=False))
    assert "`qwill write letters" not in capsys.readouterr().err


def test_one_stage_alone_needs_its_inputs_and_not_what_they_were_made_from(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run()
    shutil.rmtree("runs/life/letters")
    shutil.rmtree("runs/life/page")
    made = run_recipe(load_recipe(Path("life.yaml"), (), STAGES), "page", Display(live=False))
    assert made_now(made) == ["page"] and "note" not in capsys.readouterr().err


def test_an_input_from_elsewhere(here: Path) -> None:
    run()
    Path("other.yaml").write_text("name: other\nthreads: 1\nweights:\n  inputs: {letters: runs/life/letters}\n")
    recipe = load_recipe(Path("other.yaml"), (), STAGES)
    assert [str(item.folder) for item in run_recipe(recipe, None, Display(quiet=True))] == ["runs/other/weights"]
    made, given = read_manifest(Path("runs/other/weights")), read_manifest(Path("runs/life/letters"))
    assert made is not None and given is not None and made.inputs == {"letters": given.content_id}


def test_a_stage_that_fails_leaves_no_artifact_and_keeps_its_work(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def cut_short(path: Path, text: str) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(fake_life, "write_text", cut_short)
        with pytest.raises(OSError, match="No space left"):
            run()
    left = {path.name for path in Path("runs/life").iterdir()}
    assert left == {".lock", ".work", "logs"}
    assert made_now(run()) == ["letters", "weights", "copy", "page"]
    assert json.loads(Path("runs/life/letters/run.json").read_text())["resumed"] is True


def test_two_runs_in_one_folder_at_once_are_refused(here: Path) -> None:
    holder = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "from pathlib import Path; import sys; from qwill.base.lock import folder_lock\n"
            "with folder_lock(Path('runs/life')): print('held', flush=True); sys.stdin.read()",
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        assert holder.stdout is not None and holder.stdout.readline() == b"held\n"
        with pytest.raises(ArtifactError, match=f"in use by another qwill .process {holder.pid}."):
            run()
    finally:
        holder.kill()
        holder.wait()
        for stream in (holder.stdin, holder.stdout):
            assert stream is not None
            stream.close()
    assert made_now(run()) == ["letters", "weights", "copy", "page"]


def test_a_worker_that_outlives_a_killed_run_does_not_hold_the_lock(here: Path) -> None:
    parent = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "from pathlib import Path; import os, time; from qwill.base.lock import folder_lock\n"
            "with folder_lock(Path('runs/life')):\n"
            "    child = os.fork()\n"
            "    if child: print(child, flush=True)\n"
            "    time.sleep(60)",
        ],
        stdout=subprocess.PIPE,
    )
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    try:
        parent.kill()
        parent.wait()
        os.kill(child, 0)  # it lives
        assert made_now(run(only="letters")) == ["letters"]
    finally:
        os.kill(child, signal.SIGKILL)
        parent.stdout.close()


def test_killed_anywhere_the_same_command_ends_with_the_same_artifacts(here: Path) -> None:
    """Killed at the n-th time that it touches a file, for n over the whole run, and gone on with."""
    Path("runs").mkdir()
    whole = program("0", "name=whole")
    assert whole.returncode == 0, whole.stderr
    wanted, touches = content_ids(Path("runs/whole")), int(whole.stdout)
    assert len(wanted) == len(STAGES) and touches > 60
    # Every 11th place and the last ones, each in a folder of its own; and once more soon after it has begun again.
    for number in sorted({*range(1, touches, 11), touches - 2, touches - 1}):
        name = f"name=killed{number}"
        assert program(str(number), name).returncode == -signal.SIGKILL
        assert program(str(1 + number % 10), name).returncode == -signal.SIGKILL
        last = program("0", name)
        assert last.returncode == 0, last.stderr
        folder = Path("runs") / name.partition("=")[2]
        assert content_ids(folder) == wanted
        assert all(verify(folder / stage.name) == [] for stage in STAGES)
        left = {path.name for path in folder.iterdir()} - {stage.name for stage in STAGES}
        assert left == {".lock", ".work", "logs"} and not list((folder / ".work").iterdir())
        assert Path(folder / "logs/letters/metrics.jsonl").read_text().count("\n") == 6
        steps = json.loads((folder / "letters/run.json").read_text())["steps"]
        assert len(steps) == len(set(steps)), "a step that was kept was done again"


def test_a_missing_manifest_field_is_one_sentence(here: Path) -> None:
    run()
    path = Path("runs/life/letters/qwill.json")
    path.write_text(path.read_text()[:100])
    with pytest.raises(QwillError, match=r"qwill\.json"):
        run()


def test_downloads_come_before_a_stage_that_is_made_and_not_before_one_that_is_there(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetched: list[object] = []
    monkeypatch.setattr("qwill.data.sources.fetch", lambda packages, display: fetched.append(packages))
    monkeypatch.setattr(fake_life.LettersConfig, "packages", lambda self: ["alphabet"], raising=False)
    run()
    assert fetched == [["alphabet"]]
    run()
    assert fetched == [["alphabet"]]


def test_an_optional_input_may_be_a_model_that_has_no_manifest(here: Path) -> None:
    """Then its content id, and not its path, decides what is made again."""
    stages = tuple(replace(s, optional=("start",)) if s.name == "copy" else s for s in STAGES)
    foreign = Path("foreign")
    foreign.mkdir()
    (foreign / "config.json").write_text("{}")

    def again(*overrides: str) -> Manifest:
        made = run_recipe(load_recipe(Path("life.yaml"), overrides, stages), display=Display(quiet=True))
        return next(m.manifest for m in made if m.section.stage.name == "copy")

    plain, given = again(), again("copy.inputs.start=foreign")
    assert plain.inputs.keys() == {"letters"} and given.inputs.keys() == {"letters", "start"}
    assert given.inputs["start"] == content_id(foreign)[0] and given.ancestry[given.inputs["start"]]["kind"] == "model"
    foreign.rename("moved")
    assert again("copy.inputs.start=moved").recipe_id == given.recipe_id
    Path("moved/config.json").write_text("{ }")
    assert again("copy.inputs.start=moved").recipe_id != given.recipe_id
    Path("moved/config.json").unlink()
    with pytest.raises(ArtifactError, match="copy: the input start is moved, which is no artifact, no model"):
        again("copy.inputs.start=moved")
    with pytest.raises(ConfigError, match="the stage has no input 'begin'; it needs letters and takes start"):
        again("copy.inputs.begin=moved")


def test_a_stage_used_twice_makes_two_artifacts_and_each_goes_on_from_its_own(here: Path) -> None:
    (here / "life.yaml").write_text(
        "name: life\nseed: 3\nthreads: 1\nletters:\nmore: {uses: letters, count: 3}\n"
        "shout: {uses: copy, inputs: {letters: more}}\ncopy:\n"
    )
    made = run()
    assert [item.section.name for item in made] == ["letters", "more", "shout", "copy"]
    assert [item.folder.name for item in made] == ["letters", "more", "shout", "copy"]
    assert {item.manifest.stage for item in made} == {"letters", "copy"}
    letters = (here / "runs/life/more/letters.txt").read_text()
    assert len(letters) == 3 and (here / "runs/life/shout/copy.txt").read_text() == letters.upper()
    assert made_now(run()) == [] and made_now(run("more.count=4")) == ["letters", "copy"]
    assert [item.section.name for item in run(only="letters")] == ["letters", "more"]
