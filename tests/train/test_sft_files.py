"""Which files of a folder are trained on, and whose rows: names that only begin as those that are held out do."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from tests.engine.tiny import byte_tokenizer, tiny_model
from tests.train.tiny_training import context

from qwill.base.artifact import Manifest
from qwill.base.errors import DataError
from qwill.base.files import read_json, write_json
from qwill.cli.main import main
from qwill.data.sft_rows import read_sft_rows
from qwill.model.files import save_model
from qwill.train import sft
from qwill.train.settings import SFTConfig
from qwill.train.sft_examples import HELD_OUT, read_examples

TOKENIZER = byte_tokenizer()
CONFIG = SFTConfig(heldout=0, max_tokens=500)


def talk(asked: str, said: str, **more: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": asked}, {"role": "assistant", "content": said, **more}]}


def written(path: Path, *rows: dict[str, Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def names(folder: Path) -> tuple[list[str], list[str]]:
    train, heldout = read_examples(folder, TOKENIZER, CONFIG, 0)
    assert len(train.rendered) == len(train.files) and len(heldout.rendered) == len(heldout.files)
    return [file.name for file in train.files], [file.name for file in heldout.files]


def test_a_train_file_hides_no_other_but_in_a_folder_of_ours(tmp_path: Path) -> None:
    for name in ("train", "test", "validation", "train2", "heldout"):
        written(tmp_path / f"{name}.jsonl", talk(name, name))
    assert names(tmp_path) == (["train.jsonl", "train2.jsonl"], ["heldout.jsonl", "test.jsonl", "validation.jsonl"])
    made = Manifest("dialogues", "dialogues", 2, "qw1-a", "qw1-b", {}, {}, 0, {}, 1, "float32", {}, {}, {})
    write_json(tmp_path / "qwill.json", asdict(made))
    assert names(tmp_path) == (["train.jsonl"], ["heldout.jsonl"])


def test_whole_words_are_held_out(tmp_path: Path) -> None:
    kept = ["dev-1.jsonl", "eval.jsonl", "held_out_en.jsonl", "Test-00000-of-00001.jsonl", "test2.jsonl", "val.jsonl"]
    trained = ["contest.jsonl", "devices.jsonl", "evaluate.jsonl", "testimonials.jsonl", "valid\u00e9s.jsonl"]
    trained += ["validated.jsonl", "values.jsonl"]
    for name in kept + trained:
        written(tmp_path / name, talk(name, name))
    assert names(tmp_path) == (sorted(trained), sorted(kept))


@given(
    word=st.sampled_from(["heldout", "held-out", "Test", "tests", "validation", "dev"]),
    more=st.text("ab\u00e9\u4e2d1-_. ", min_size=1, max_size=3),
)
def test_a_letter_behind_the_word_makes_it_another(word: str, more: str) -> None:
    assert bool(HELD_OUT.match(f"{word}{more}.jsonl")) != more[0].isalpha()


def test_the_stage_and_the_preview_say_which_files_are_held_out_and_what_thinking_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    chatml = (
        "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    )
    save_model(tiny_model("dense", TOKENIZER.padded_vocab_size, 200), Path("base"), byte_tokenizer(chatml))
    written(Path("chats/mine.jsonl"), talk("a", "b", reasoning_content="why"), talk("c", "d"))
    written(Path("chats/test.jsonl"), talk("e", "f"))
    ctx = context(tmp_path / "run", {"base": Path("base"), "dialogues": Path("chats")})
    said: list[str] = []
    monkeypatch.setattr(ctx.display, "say", said.append)
    metrics = sft.run(SFTConfig(steps=1, batch_tokens=100, max_tokens=100), ctx)
    report = read_json(ctx.out / "training.json")
    assert metrics["thinking_left_out"] == report["thinking_left_out"] == 1 and report["heldout_files"] == [
        "test.jsonl"
    ]
    assert "  held out: test.jsonl" in said
    assert "  the model's chat template leaves out the thinking of 1 turns" in said
    section = {"inputs": {"base": "base", "dialogues": "chats"}}
    Path("own.yaml").write_text(yaml.safe_dump({"name": "own", "sft": section}))
    capsys.readouterr()
    assert main(["sft", "own.yaml", "--preview", "1"]) == 0
    shown = capsys.readouterr().out
    assert "held out: test.jsonl" in shown and "1 without their thinking" in shown
    assert main(["sft", "own.yaml", "--preview", "1", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["thinking_left_out"], found["heldout_files"]) == (1, ["test.jsonl"])


# -- ShareGPT's rows

ASKED, ANSWER = {"from": "human", "value": "Weather?"}, {"from": "gpt", "value": "Mild."}
CALL = {"name": "look", "arguments": {"city": "\u897f\u5b89"}}


def one(tmp_path: Path, row: dict[str, Any]) -> Any:
    (found,) = read_sft_rows(written(tmp_path / "d.jsonl", row))
    return found


@pytest.mark.parametrize("said", [json.dumps(CALL), CALL, json.dumps([CALL, CALL]), json.dumps({"name": "look"})])
def test_a_function_call_is_trained_as_a_call(tmp_path: Path, said: Any) -> None:
    turns = [ASKED, {"from": "function_call", "value": said}, {"from": "observation", "value": "mild"}, ANSWER]
    row = one(tmp_path, {"conversations": turns, "tools": json.dumps([{"name": "look"}])})
    assert [m["role"] for m in row.said] == ["user", "assistant", "tool", "assistant"]
    calls = [call["function"] for call in row.said[1]["tool_calls"]]
    assert calls[0] == (CALL if "city" in str(said) else {"name": "look", "arguments": {}})
    assert len(calls) == (2 if str(said).startswith("[") else 1) and row.said[1]["content"] == ""
    train, _ = read_examples(tmp_path / "d.jsonl", TOKENIZER, SFTConfig(heldout=0, max_tokens=2000), 0)
    trained = [i for e in train.rendered for i, m in zip(e.ids, e.loss_mask, strict=True) if m]
    assert trained.count(TOKENIZER.special("<tool_call>")) == len(calls)


def test_names_are_read_wherever_messages_stand(tmp_path: Path) -> None:
    asked, answer = {"role": "user", "content": "Weather?"}, {"role": "assistant", "content": "Mild."}
    row = one(tmp_path, {"prompt": [ASKED], "completion": [ANSWER]})
    assert (row.prompt, row.said) == ([asked], [answer])
    row = one(tmp_path, {"prompt": [ASKED], "chosen": [ANSWER], "rejected": [{"from": "gpt", "value": "?"}]})
    assert (row.prompt, row.said) == ([asked], [answer])


def test_a_system_beside_a_conversation_is_its_first_message(tmp_path: Path) -> None:
    system = {"role": "system", "content": "Be kind."}
    for row in (
        {"conversations": [ASKED, ANSWER], "system": "Be kind."},
        {"conversations": [{"from": "system", "value": "Be kind."}, ASKED, ANSWER], "system": "Be kind."},
        {"messages": talk("Weather?", "Mild.")["messages"], "system": "Be kind."},
    ):
        assert one(tmp_path, row).said[0] == system and len(one(tmp_path, row).said) == 3
    assert one(tmp_path, {"prompt": [ASKED], "completion": [ANSWER], "system": "Be kind."}).prompt[0] == system
    for nothing in (None, ""):
        assert one(tmp_path, {"conversations": [ASKED, ANSWER], "system": nothing}).said[0]["role"] == "user"


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"conversations": [ASKED, {"from": "function_call", "value": "look()"}]},
         "conversations: message 2: function_call: text that is not JSON"),
        ({"conversations": [ASKED, {"from": "function_call", "value": "3"}]},
         "function_call: expected an object with name and arguments, found int"),
        ({"conversations": [ASKED, {"from": "function_call", "value": '{"function": "look"}'}]},
         "expected an object with name and arguments, found an object with function"),
        ({"conversations": [ASKED, {"from": "function_call"}]}, "an object with name and arguments, found nothing"),
        ({"conversations": [ASKED, {"from": "function_call", "value": "[]"}]}, "found an empty one"),
        ({"conversations": [ASKED, {"from": ["x"], "value": "b"}]},
         "conversations: message 2: from: expected a speaker such as human or gpt, found list"),
        ({"prompt": [ASKED], "completion": [{"from": {}, "value": "b"}]}, "completion: message 1: from: expected"),
        ({"conversations": [{"from": "system", "value": "Be kind."}, ASKED, ANSWER], "system": "Be short."},
         "system: it and the conversation's own system message say different things; remove one"),
        ({"conversations": [ASKED, ANSWER], "system": ["x"]}, "system: expected text, found list"),
    ],
)  # fmt: skip
def test_what_can_not_be_read_is_one_sentence(tmp_path: Path, row: dict[str, Any], words: str) -> None:
    with pytest.raises(DataError) as caught:
        one(tmp_path, row)
    assert f"{tmp_path / 'd.jsonl'}: line 1" in str(caught.value) and words in str(caught.value)
    assert "\n" not in str(caught.value)
