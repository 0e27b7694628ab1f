"""What can be wrong with alignment's data and models ends in one sentence and exit code 2, before anything is trained,
with nothing half-written; what only some rows have is counted, and the run goes on."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from tests.engine.tiny import byte_tokenizer, tiny_model

from qwill.base.files import read_json
from qwill.cli.main import main
from qwill.model.files import save_model
from qwill.model.quantize import Scheme, quantize_folder
from qwill.text.tokenizer import Tokenizer
from qwill.text.vocabulary import to_characters

TOKENIZER = byte_tokenizer()
VOCAB, CONTEXT = TOKENIZER.padded_vocab_size, 150
SMALL: dict[str, Any] = {"steps": 2, "pairs": 4, "heldout": 0.0}
ONLINE: dict[str, Any] = {"steps": 2, "prompts": 2, "samples": 2, "max_tokens": 8}
SECTIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "dpo": ("preferred", SMALL), "kto": ("preferred", SMALL | {"loss": "kto"}), "reward": ("reward", SMALL),
    "grpo": ("aligned", ONLINE), "ppo": ("ppo", ONLINE), "distill": ("distilled", ONLINE),
}  # fmt: skip


def talk(role: str, content: Any) -> dict[str, Any]:
    return {"role": role, "content": content}


def pair(i: int = 0, **changes: Any) -> dict[str, Any]:
    row = {
        "prompt": [talk("user", f"{i}?")], "chosen": [talk("assistant", "yes")], "rejected": [talk("assistant", "no")],
    }  # fmt: skip
    return row | changes


def judged(i: int = 0, **changes: Any) -> dict[str, Any]:
    return {"prompt": [talk("user", f"{i}?")], "completion": [talk("assistant", "ok")], "label": i % 2 == 0} | changes


def problem(i: int = 0, **changes: Any) -> dict[str, Any]:
    return {"prompt": f"{i}?", "key": f"reverse:{i}12", "language": "en"} | changes


GOOD: dict[str, list[dict[str, Any]]] = {
    "dpo": [pair(i) for i in range(6)], "reward": [pair(i) for i in range(6)], "kto": [judged(i) for i in range(6)],
    "grpo": [problem(i) for i in range(4)], "ppo": [problem(i) for i in range(4)],
    "distill": [problem(i) for i in range(4)],
}  # fmt: skip


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    save_model(tiny_model("dense", VOCAB, CONTEXT), folder / "m", TOKENIZER)
    quantize_folder(folder / "m", folder / "int8", scheme=Scheme(8, None, "int-quantized"))
    other = Tokenizer.from_trained({to_characters(bytes([b])): 255 - b for b in range(256)}, [])
    save_model(tiny_model("dense", VOCAB, CONTEXT, 3), folder / "foreign", other)
    save_model(tiny_model("dense", VOCAB, CONTEXT, 4), folder / "kin", TOKENIZER)
    return folder


@pytest.fixture
def here(tmp_path: Path, models: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(models, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return tmp_path


def run(verb: str, rows: list[dict[str, Any]] | Path, model: str = "m", more: Any = None, **changes: Any) -> int:
    """The command's exit code."""
    section, settings = SECTIONS[verb]
    path = rows if isinstance(rows, Path) else Path("rows.jsonl")
    if not isinstance(rows, Path):
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    inputs = {"sft": model, "preferences" if section in ("preferred", "reward") else "tasks": str(path)}
    inputs |= {"teacher": "kin"} if verb == "distill" else {}
    recipe = {"name": "x", "seed": 1, "threads": 1, section: settings | changes | {"inputs": inputs | (more or {})}}
    Path("r.yaml").write_text(yaml.safe_dump(recipe))
    return main(["dpo" if verb == "kto" else verb, "r.yaml"])


Refused = Callable[..., str]


@pytest.fixture
def refused(capfd: pytest.CaptureFixture[str]) -> Refused:
    def one_sentence(*arguments: Any, **named: Any) -> str:
        capfd.readouterr()
        assert run(*arguments, **named) == 2
        said = capfd.readouterr()
        assert said.out == "" and "Traceback" not in said.err
        *before, last = said.err.splitlines()
        assert last.startswith("qwill: ") and not any("qwill: " in line for line in before), said.err
        assert last.endswith("."), last
        made = [path for path in Path("runs").rglob("*") if path.is_file()] if Path("runs").exists() else []
        assert not [p for p in made if p.name in ("qwill.json", "config.json") or p.suffix in (".safetensors", ".tmp")]
        return last

    return one_sentence


LINE3 = "rows.jsonl: line 3"
PAIRS: dict[str, tuple[dict[str, Any], str]] = {
    "no prompt": ({"prompt": None}, "prompt: expected a list of messages"),
    "same": ({"rejected": [talk("assistant", "yes")]}, "chosen and rejected are the same"),
    "role": ({"chosen": [talk("user", "yes")]}, "prompt with chosen: message 2, role: 'user'"),
    "no words": ({"rejected": [talk("assistant", "")]}, "content: empty"),
    "nothing said": ({"chosen": []}, "chosen: expected a list of messages, found an empty one"),
    "number": ({"chosen": 7}, "chosen: expected a list of messages, found int"),
    "margin": ({"margin": "much"}, "margin: expected a number, found str"),
    "margin nan": ({"margin": float("nan")}, "margin: expected a number that is finite, found nan"),
    "margin yes": ({"margin": True}, "margin: expected a number, found bool"),
    "tools": ({"tools": [7]}, "tools: entry 1 has no function.name"),
    "language": ({"language": 3}, "language: expected such as en or zh"),
}


@pytest.mark.parametrize("verb", ["dpo", "reward"])
@pytest.mark.parametrize("name", PAIRS)
def test_a_pair_that_cannot_be_learnt_from(verb: str, name: str, here: Path, refused: Refused) -> None:
    wrong, words = PAIRS[name]
    said = refused(verb, [pair(0), pair(1), pair(2, **wrong), pair(3)])
    assert LINE3 in said and words in said


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"label": "good"}, "label: expected true or false"), ({"label": None}, "label: expected true or false"),
        ({"completion": 3}, "completion: expected a list of messages"),
        ({"completion": []}, "completion: expected a list of messages, found an empty one"),
    ],
)  # fmt: skip
def test_a_verdict_that_cannot_be_learnt_from(wrong: Any, words: str, here: Path, refused: Refused) -> None:
    said = refused("kto", [judged(0), judged(1), judged(2, **wrong), judged(3)])
    assert LINE3 in said and words in said


@pytest.mark.parametrize("verb", ["grpo", "ppo", "distill"])
@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"prompt": ""}, "prompt: expected text or a list of messages"),
        ({"prompt": 4}, "prompt: expected text or a list of messages"),
        ({"prompt": [talk("assistant", "I")]}, "prompt: message 1, role: 'assistant'"),
        ({"prompt": [talk("user", 7)]}, "prompt: message 1, content"),
        ({"prompt": ["hm"]}, "prompt: message 1 is a str"),
        ({"language": 5}, "language: expected such as en or zh"),
    ],
)
def test_a_prompt_that_cannot_be_asked(verb: str, wrong: Any, words: str, here: Path, refused: Refused) -> None:
    said = refused(verb, [problem(0), problem(1), problem(2, **wrong), problem(3)])
    assert LINE3 in said and words in said


@pytest.mark.parametrize("key", ["nonsense", "reverse", 5, None, "split:four"])
def test_a_problem_without_a_key_that_verifies(key: Any, here: Path, refused: Refused) -> None:
    row = problem(2, key=key)
    if key is None:
        del row["key"]
    said = refused("grpo", [problem(0), problem(1), row])
    assert LINE3 in said and ("has no 'key'" if key is None else "key: ") in said and "reward of your own" in said


@pytest.mark.parametrize("verb", SECTIONS)
def test_files_that_hold_nothing(verb: str, here: Path, refused: Refused) -> None:
    said = refused(verb, [])
    assert "rows.jsonl" in said and "holds no p" in said
    Path("empty.parquet").write_bytes(b"")
    assert "empty.parquet: not readable as Parquet" in refused(verb, Path("empty.parquet"))
    assert "there is no such" in refused(verb, Path("gone.jsonl")) or "gone.jsonl" in refused(verb, Path("gone.jsonl"))


@pytest.mark.parametrize("verb", SECTIONS)
@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b'{"prompt": "caf\xe9"}', "line 2"),
        (b'{"prompt": ', "line 2"),
        (b'["a", "b"]', "line 2"),
    ],
)
def test_lines_that_are_no_rows(verb: str, line: bytes, words: str, here: Path, refused: Refused) -> None:
    good = json.dumps(GOOD[verb][0]).encode()
    Path("bad.jsonl").write_bytes(good + b"\n" + line + b"\n" + good + b"\n")
    said = refused(verb, Path("bad.jsonl"))
    assert "bad.jsonl" in said and words in said


@pytest.mark.parametrize(
    ("verb", "columns", "words"),
    [
        ("dpo", {"prompt": [1, 2], "chosen": ["a", "b"], "rejected": ["c", "d"]}, "prompt: expected"),
        ("dpo", {"prompt": ["p", "q"], "chosen": ["a", "b"], "rejected": [1.5, 2.5]}, "expected a list of messages"),
        ("reward", {"prompt": ["p"], "chosen": ["a"], "rejected": ["b"], "margin": ["1"]}, "margin: expected a number"),
        ("kto", {"prompt": ["p", "q"], "completion": ["a", "b"], "label": [1, 0]}, "label: expected true or false"),
        ("grpo", {"prompt": [3], "key": ["reverse:12"]}, "prompt: expected text or a list of messages"),
        ("distill", {"prompt": [[1, 2]]}, "prompt: message 1 is a int"),
    ],
)
def test_columns_of_another_type(verb: str, columns: Any, words: str, here: Path, refused: Refused) -> None:
    pq.write_table(pa.table(columns), "rows.parquet")
    said = refused(verb, Path("rows.parquet"))
    assert "rows.parquet: line 1" in said and words in said


def test_an_empty_margin_is_none(here: Path) -> None:
    columns = {"prompt": ["p", "q"], "chosen": ["a", "b"], "rejected": ["c", "d"], "margin": [None, 1.0]}
    pq.write_table(pa.table(columns), "rows.parquet")
    assert run("reward", Path("rows.parquet"), pairs=2) == 0


@pytest.mark.parametrize("verb", ["dpo", "reward", "kto"])
def test_preferences_longer_than_the_context_are_counted_or_all_there_is(
    verb: str, here: Path, refused: Refused
) -> None:
    make = judged if verb == "kto" else pair
    field = "completion" if verb == "kto" else "chosen"
    long = {field: [talk("assistant", "x" * CONTEXT)]}
    said = refused(verb, [make(i, **long) for i in range(4)])
    assert "rows.jsonl" in said and f"nothing fits into {CONTEXT} tokens" in said
    if verb != "kto":  # there each reply is another one's, too
        assert run(verb, [*GOOD[verb], make(8, **long)]) == 0
        section = SECTIONS[verb][0]
        assert read_json(Path("runs/x") / section / "training.json")["too_long"] == 1


@pytest.mark.parametrize("verb", ["grpo", "ppo", "distill"])
def test_prompts_without_room_for_a_reply(
    verb: str, here: Path, refused: Refused, capfd: pytest.CaptureFixture[str]
) -> None:
    long = problem(7, prompt="y" * (CONTEXT - 25))
    said = refused(verb, [*GOOD[verb], long], too_long="refuse")
    assert "rows.jsonl" in said and "the prompt of 5 has" in said and f"the context of {CONTEXT}" in said
    assert "no prompt leaves room" in refused(verb, [long])
    assert run(verb, [*GOOD[verb], long]) == 0
    assert "1 of 5 prompts are left out" in capfd.readouterr().err
    section = SECTIONS[verb][0]
    assert read_json(Path("runs/x") / section / "qwill.json")["metrics"]["prompts_too_long"] == 1


@pytest.mark.parametrize("verb", ["dpo", "reward", "grpo", "ppo", "distill"])
def test_integers_cannot_be_trained(verb: str, here: Path, refused: Refused) -> None:
    assert "is quantised, and integers can't be trained; add `lora:" in refused(verb, GOOD[verb], model="int8")


def test_a_reference_that_does_not_match(here: Path, refused: Refused) -> None:
    for verb, changes in (("dpo", {}), ("kto", {}), ("grpo", {"kl": 0.1}), ("ppo", {"kl": 0.1})):
        said = refused(verb, GOOD[verb], more={"reference": "foreign"}, **changes)
        assert "foreign: token 0 is" in said and "to the reference and" in said
    assert "grpo.kl is 0, so inputs.reference" in refused("grpo", GOOD["grpo"], more={"reference": "kin"})
    said = refused("dpo", GOOD["dpo"], more={"reference": "kin"}, loss="simpo")
    assert "the loss simpo has no reference" in said


def test_another_teacher(here: Path, refused: Refused) -> None:
    assert "foreign: token 0 is" in refused("distill", GOOD["distill"], more={"teacher": "foreign"})


@pytest.mark.parametrize(("verb", "changes"), [("dpo", {}), ("kto", {}), ("grpo", {"kl": 0.1})])
def test_another_reference_counts(verb: str, changes: dict[str, Any], here: Path) -> None:
    section, told = SECTIONS[verb][0], []
    for more in ({}, {"reference": "kin"}):
        assert run(verb, GOOD[verb], more=more, **changes) == 0
        curve = read_json(Path("runs/x") / section / "training.json")["curve"]
        told.append(curve[0].get("kl_start", curve[0].get("loss")))
        shutil.rmtree("runs")
    assert told[0] != told[1]
