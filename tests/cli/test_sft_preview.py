"""`qwill sft CONFIG --preview`: every token is shown, what is trained is told apart, nothing is trained."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from tests.engine.tiny import byte_tokenizer, tiny_model

from qwill.cli.main import main
from qwill.cli.sft_preview import CLOSE, OPEN, Piece, coloured, marked, pieces_of
from qwill.model.files import save_model
from qwill.text.chat import Rendered, training_examples

TOKENIZER = byte_tokenizer()
HOSTILE = "\x1b[31m<|im_end|>\n你好"


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    save_model(tiny_model("dense", TOKENIZER.padded_vocab_size, 200), tmp_path / "base", TOKENIZER)
    rows: list[dict[str, Any]] = [
        {"messages": [{"role": "user", "content": HOSTILE}, {"role": "assistant", "content": f"ok {i}"}]}
        for i in range(4)
    ]
    rows += [{"prompt": "x", "completion": "y" * 300}, {"prompt": "x", "completion": "y", "label": False}]
    Path("chats.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    section = {
        "inputs": {"base": "base", "dialogues": "chats.jsonl"}, "heldout": 0.0, "batch_tokens": 100, "max_tokens": 150,
    }  # fmt: skip
    Path("own.yaml").write_text(yaml.safe_dump({"name": "own", "sft": section}))
    return Path("own.yaml")


def test_examples_are_shown_with_marks_and_counts(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sft", str(recipe), "--preview", "2"]) == 0
    shown = capsys.readouterr().out
    assert "chats.jsonl: line 1, messages" in shown and "line 2" in shown and "line 3" not in shown
    # What a user wrote neither steers the terminal nor passes for a special token.
    assert "␛[31m\\<|im_end|>↵\n你好<|im_end|>↵\n<|im_start|>assistant↵\n" in shown and "\x1b" not in shown
    assert re.findall(f"{OPEN}(.*?){CLOSE}", shown, re.S) == ["ok 0<|im_end|>", "ok 1<|im_end|>", "trained"]
    assert "4 examples · 0 held out · 1 too long · 1 labelled false" in shown
    assert not Path("runs").exists()


def test_the_same_for_programs(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sft", str(recipe), "--preview", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert len(found["examples"]) == 3 and (found["count"], found["too_long"], found["unwanted"]) == (4, 1, 1)
    for i, one in enumerate(found["examples"]):
        assert TOKENIZER.decode(one["ids"], False) == "".join(p["text"] for p in one["pieces"]).replace("\\<", "<")
        assert "".join(p["text"] for p in one["pieces"] if p["trained"]) == f"ok {i}<|im_end|>"
        assert one["trained_tokens"] == sum(one["loss_mask"]) and one["tokens"] == len(one["ids"])
    assert found["trained_tokens"] < found["tokens"] and found["steps_an_epoch"] >= 2 and 0 < found["fill"] <= 1


def test_a_bad_row_and_a_missing_section_are_one_sentence(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Path("chats.jsonl").open("a") as file:
        file.write('{"messages": "x"}\n')
    assert main(["sft", str(recipe), "--preview"]) == 2
    assert "chats.jsonl: line 7: messages: expected a list" in capsys.readouterr().err
    Path("other.yaml").write_text("name: other\ntasks:\n")
    assert main(["sft", "other.yaml", "--preview"]) == 2
    assert "needs a section 'sft:'" in capsys.readouterr().err


def test_every_section_that_fine_tunes_is_shown(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    read = yaml.safe_load(recipe.read_text())
    read["again"] = read["sft"] | {"uses": "sft", "max_tokens": 1000}
    recipe.write_text(yaml.safe_dump(read))
    assert main(["sft", str(recipe), "--preview", "1"]) == 0
    shown = capsys.readouterr().out
    assert shown.count("again:\n") == shown.count("sft:\n") == 1 and "1 too long" in shown and "0 too long" in shown
    assert main(["sft", str(recipe), "--preview", "1", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {name: one["too_long"] for name, one in found.items()} == {"sft": 1, "again": 0}


TEXTS = st.text("ab \n<|im_end|>中\U0001f642\x07", max_size=12)


@given(asked=TEXTS, said=TEXTS)
def test_the_pieces_are_the_example(asked: str, said: str) -> None:
    messages = [{"role": "user", "content": asked}, {"role": "assistant", "content": said + "!"}]
    (example,) = training_examples(messages, None, TOKENIZER)
    pieces = pieces_of(example, TOKENIZER)
    assert "".join(p.text for p in pieces).replace("\\<|", "<|") == TOKENIZER.decode(example.ids, False)
    assert [p.text for p in pieces if p.special] == [
        name for i in example.ids for name, special in TOKENIZER.specials.items() if i == special
    ]
    assert coloured(pieces).plain == marked(pieces).replace(OPEN, "").replace(CLOSE, "")


def test_what_stands_for_a_character_together_is_shown_together() -> None:
    ids = TOKENIZER.encode("好")
    assert pieces_of(Rendered(ids, [1] * 3), TOKENIZER) == [Piece("好", True, False)]
