"""What goes wrong while a recipe runs ends in one sentence and exit code 2, with nothing half-written in its folder.

A tiny life is made once through the command line; each test spoils something in a copy of it. What can be wrong in a
recipe's keys, in arguments, and in each file of a model is tested in tests/workflow, test_command_line.py and
tests/model; here it is that the whole way to the user keeps its promise.
"""

from __future__ import annotations

import errno
import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors.torch import load_file, save_file
from tests.data.made_up_text import chinese, english

from qwill.cli.main import main
from qwill.model import files as model_files
from qwill.train import checkpoint, pretrain

LIFE: dict[str, Any] = {
    "name": "life", "seed": 1, "threads": 1,
    "tasks": {"demonstrations": 20, "rl": 20, "heldout": 10},
    "corpus": {
        "sources": [
            {"name": "english", "path": "en.txt", "language": "en"},
            {"name": "chinese", "path": "zh.txt", "language": "zh"},
        ],
        "heldout": {"share": 0.1, "min_bytes": 2000},
    },
    "dialogues": {"sources": [{"name": "demonstrations"}]},
    "tokenizer": {"vocab_size": 300},
    "base": {
        "depth": 1, "experts": 0, "steps": 3, "batch_rows": 2, "row_tokens": 32, "context": 256,
        "heldout_bytes": 1000, "validation_bytes": 500, "baselines": [],
    },
    "sft": {"steps": 2, "batch_tokens": 1000},
}  # fmt: skip
RUN = Path("runs/life")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the texts, the recipe and every stage before `sft` made."""
    folder = tmp_path_factory.mktemp("life")
    rng = random.Random(3)
    for name, write in (("en.txt", english), ("zh.txt", chinese)):
        (folder / name).write_text("\n".join(write(rng) for _ in range(40)), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("OMP_NUM_THREADS", "1")
        Path("life.yaml").write_text(yaml.safe_dump({k: v for k, v in LIFE.items() if k != "sft"}))
        assert main(["run", "life.yaml"]) == 0
    return folder


@pytest.fixture
def life(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    (tmp_path / "life.yaml").write_text(yaml.safe_dump(LIFE))
    return tmp_path


class Fails:
    """Runs a command that is to fail and returns its one sentence."""

    def __init__(self, capfd: pytest.CaptureFixture[str]) -> None:
        self.capfd = capfd

    def __call__(self, *arguments: str) -> str:
        self.capfd.readouterr()
        assert main(arguments) == 2
        said = self.capfd.readouterr()
        assert said.out == "" and "Traceback" not in said.err
        # A stage says on lines of its own what it begins with; the sentence comes last and is one line.
        *before, last = said.err.splitlines()
        assert last.startswith("qwill: ") and not any("qwill: " in line for line in before), said.err
        assert last.endswith(".")
        return last


@pytest.fixture
def fails(capfd: pytest.CaptureFixture[str]) -> Fails:
    return Fails(capfd)


def nothing_half_written(*made_stages: str) -> None:
    """Only whole artifacts, the logs, and the state that lets a run go on."""
    names = {path.name for path in RUN.iterdir()}
    assert names - {"logs", ".work", ".lock"} == set(made_stages)
    assert all((RUN / stage / "qwill.json").is_file() for stage in made_stages)
    assert [path for path in RUN.rglob("*") if path.name.endswith(".tmp") or ".part-" in path.name] == []


BEFORE_BASE = ("tasks", "corpus", "dialogues", "tokenizer")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "cannot be read (Is a directory)"),
        (b"name: \xff\n", "line 1 is not UTF-8"),
        (b"name: life\nbase:\n  steps: many\n", "base.steps is 'many' (text); expected a whole number"),
        (b"name: life\nbase:\n  optimizer: {lerning_rate: 1}\n", "did you mean learning_rate?"),
        (b"name: life\nbase:\n  optimizer: {learning_rate: .nan}\n", "base.optimizer.learning_rate is nan"),
    ],
)
def test_a_recipe_that_cannot_be_followed(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    content: bytes | None,
    words: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "bad.yaml"
    if content is None:
        path.mkdir()
    else:
        path.write_bytes(content)
    assert main(["run", "bad.yaml"]) == 2
    said = capfd.readouterr()
    assert said.out == "" and said.err.startswith("qwill: bad.yaml: ") and said.err.count("\n") == 1
    assert words in said.err
    assert not Path("runs").exists()


def _nothing_passes(life: Path) -> None:
    (life / "en.txt").write_text("too short\n" * 5)
    (life / "zh.txt").write_text("\n\n")


def _english_alone(life: Path) -> None:
    rng = random.Random(9)
    (life / "zh.txt").write_text("\n".join(english(rng) for _ in range(5)))


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (_nothing_passes, "no English and no Chinese document left after curation"),
        (_english_alone, "no Chinese document left after curation"),
        (lambda life: (life / "en.txt").unlink(), "en.txt cannot be read (No such file or directory)"),
    ],
)
def test_texts_that_make_no_corpus(life: Path, fails: Fails, spoil: Callable[[Path], None], words: str) -> None:
    shutil.rmtree(RUN)
    spoil(life)
    assert words in fails("run", "life.yaml")
    nothing_half_written("tasks")


def test_a_loss_that_is_not_finite(life: Path, fails: Fails) -> None:
    shutil.rmtree(RUN / "base")
    sentence = fails("pretrain", "life.yaml", "optimizer.learning_rate=1e30", "optimizer.matrix_rate=1e30")
    assert "of step 1 is not finite (rows [" in sentence and "lower the learning rates" in sentence
    nothing_half_written(*BEFORE_BASE)


def _half_and_full(tensors: Any, path: Path, metadata: Any = None) -> None:
    Path(path).write_bytes(b"half of what was to be written")
    raise OSError(errno.ENOSPC, "No space left on device", str(path))


def _half_and_full_in_rust(tensors: Any, path: Path, metadata: Any = None) -> None:
    from safetensors import SafetensorError

    Path(path).write_bytes(b"half of what was to be written")
    raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")


@pytest.mark.parametrize("fail", [_half_and_full, _half_and_full_in_rust])
@pytest.mark.parametrize("module", [checkpoint, model_files], ids=["checkpoint", "weights"])
def test_a_disk_that_gets_full(
    life: Path, fails: Fails, monkeypatch: pytest.MonkeyPatch, module: Any, fail: Callable[..., None]
) -> None:
    kept = (RUN / "base" / "qwill.json").read_bytes()
    shutil.rmtree(RUN / "base")
    with monkeypatch.context() as patch:
        patch.setattr(module, "save_file", fail)
        assert "the disk is full" in fails("pretrain", "life.yaml")
    nothing_half_written(*BEFORE_BASE)
    assert main(["pretrain", "life.yaml"]) == 0  # the sentence says that this goes on
    assert json.loads((RUN / "base" / "qwill.json").read_bytes())["content_id"] == json.loads(kept)["content_id"]
    assert list((RUN / ".work").iterdir()) == []


@pytest.fixture
def stopped(life: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Pretraining was stopped after its last step; its one checkpoint."""

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    shutil.rmtree(RUN / "base")
    with monkeypatch.context() as patch:
        patch.setattr(pretrain, "_score", stop)
        assert main(["pretrain", "life.yaml"]) == 130
    nothing_half_written(*BEFORE_BASE)
    (path,) = (RUN / ".work").glob("base-*/checkpoint-*.safetensors")
    return path


def _cut_off(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def _other_shape(path: Path) -> None:
    tensors = load_file(path)
    tensors["model.norm.weight"] = tensors["model.norm.weight"][:7].clone()
    save_file(tensors, path, {"step": "3", "extra": "{}"})


@pytest.mark.parametrize(
    ("spoil", "words"),
    [(_cut_off, "cannot be used"), (_other_shape, "tensor model.norm.weight has shape [7], expected [64]")],
)
def test_a_checkpoint_that_cannot_be_used(
    stopped: Path, fails: Fails, spoil: Callable[[Path], None], words: str
) -> None:
    spoil(stopped)
    sentence = fails("pretrain", "life.yaml")
    assert words in sentence and str(stopped) in sentence
    nothing_half_written(*BEFORE_BASE)
    folder = sentence.partition("; delete ")[2].partition(" to train")[0]
    shutil.rmtree(folder)
    assert main(["pretrain", "life.yaml"]) == 0


def _another_type(base: Path) -> None:
    raw = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps(raw | {"model_type": "mamba"}))


def _narrower(base: Path) -> None:
    tensors = load_file(base / "model.safetensors")
    tensors["model.norm.weight"] = tensors["model.norm.weight"][:7].clone()
    save_file(tensors, base / "model.safetensors")


def _weights_cut_off(base: Path) -> None:
    _cut_off(base / "model.safetensors")


@pytest.mark.parametrize("command", [("sft", "life.yaml"), ("chat", "runs/life/base")], ids=["sft", "chat"])
@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (_another_type, "model_type 'mamba' is not supported; Qwill reads qwen2, qwen2_moe, qwen3, qwen3_moe"),
        (_narrower, "model.norm.weight has shape [7], but config.json means [64]"),
        (_weights_cut_off, "model.safetensors: cut off"),
    ],
)
def test_a_model_that_cannot_be_read(
    life: Path, fails: Fails, command: tuple[str, ...], spoil: Callable[[Path], None], words: str
) -> None:
    spoil(RUN / "base")
    assert words in fails(*command)
    nothing_half_written(*BEFORE_BASE, "base")
