import json
import random
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_up_text import chinese, english

from qwill.base.errors import ConfigError, DataError
from qwill.base.progress import Display
from qwill.base.stage import StageContext
from qwill.data import dialogue_readers as readers
from qwill.data.conversation import Conversation, problem
from qwill.data.dialogues import CHATTERBOT, DialogueChoice, DialoguesConfig, run
from qwill.data.records import Bad

CALL = {"type": "function", "function": {"name": "add", "arguments": {"a": 1}}}
TOOL = {"type": "function", "function": {"name": "add", "parameters": {}}}
Message = dict[str, Any]


def user(text: str = "Hello") -> Message:
    return {"role": "user", "content": text}


def assistant(text: str = "Hi", **more: Any) -> Message:
    return {"role": "assistant", "content": text, **more}


CALLING = [user(), assistant("", tool_calls=[CALL]), {"role": "tool", "content": "2"}, assistant()]

turns = st.lists(st.sampled_from(["plain", "call"]), min_size=1, max_size=5)


@given(turns, st.booleans(), st.integers(1, 3))
def test_well_formed_conversations_pass_and_losing_any_message_shows(
    kinds: list[str], system: bool, results: int
) -> None:
    messages: list[Message] = [{"role": "system", "content": "Be brief."}] if system else []
    for kind in kinds:
        messages.append(user())
        if kind == "call":
            messages.append(assistant("", tool_calls=[CALL] * results))
            messages += [{"role": "tool", "content": "2"}] * results
        messages.append(assistant())
    assert problem(messages, [TOOL]) is None
    for i, message in enumerate(messages):
        without = messages[:i] + messages[i + 1 :]
        spare = message["role"] == "system" or (message["role"] == "tool" and results > 1)
        assert (problem(without) is None) == spare


@pytest.mark.parametrize(
    ("messages", "said"),
    [
        ([assistant()], "message 1, role: 'assistant' where system or user is expected"),
        ([user(), user(), assistant()], "message 2, role: 'user' where assistant is expected"),
        ([user()], "message 1, role: the conversation does not end with the assistant's answer"),
        ([], "message 0, role: the conversation does not end with the assistant's answer"),
        ([user(), assistant("  ")], "message 2, content: empty"),
        ([user(""), assistant()], "message 1, content: empty"),
        ([{"role": "user", "content": 3}, assistant()], "message 1, content: neither text nor a list of text parts"),
        (["Hello", assistant()], "message 1 is a str, expected an object with role and content"),
        ([{**user(), "tool_calls": [CALL]}, assistant()], "message 1, tool_calls: only the assistant calls tools"),
        ([*CALLING[:2], assistant()], "message 3, role: 'assistant' where tool is expected"),
        ([user(), assistant("", tool_calls=[{"function": {}}])], "message 2, tool_calls: a call has no function.name"),
        (
            [user(), assistant("", tool_calls=[{"function": {"name": "add", "arguments": "{}"}}])],
            "message 2, tool_calls: arguments of add are a str, expected an object",
        ),
    ],
)
def test_what_is_malformed_is_named(messages: list[Any], said: str) -> None:
    assert problem(messages) == said


def test_parts_and_tools() -> None:
    assert problem([{"role": "user", "content": [{"type": "text", "text": "Hi"}]}, assistant()]) is None
    assert problem(CALLING, [{"name": "add"}]) == "tools: entry 1 has no function.name"


def as_json(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode()


def test_alpaca_with_names_filled_in() -> None:
    rows = [
        {"instruction": "Sum up.", "input": "A long text.", "output": "Short.\r\n"},
        {"instruction": "你是谁？", "input": "", "output": "我是 {{name}}，由 {{author}} 开发。"},
        {"instruction": "hi", "input": "", "output": ""},
        {"instruction": 5, "input": "", "output": "x"},
        "row",
    ]
    names = {"en": {"name": "Qwill", "author": "us"}, "zh": {"name": "Qwill", "author": "我们"}}
    found = list(readers.read_alpaca(as_json(rows), "f", None, names))
    assert found[:2] == [
        Conversation(1, "en", [user("Sum up.\nA long text."), assistant("Short.")]),
        Conversation(2, "zh", [user("你是谁？"), assistant("我是 Qwill，由 我们 开发。")]),
    ]
    assert [(int(item.record), item.reason) for item in found[2:] if isinstance(item, Bad)] == [
        (3, "message 2, content: empty"),
        (4, "instruction: not text"),
        (5, "a JSON str, not an object"),
    ]


def test_glaive_tool_calls_become_objects() -> None:
    row = {
        "conversations": [
            {"from": "human", "value": "1+1?"},
            {"from": "function_call", "value": '{"name": "add", "arguments": {"a": 1}}'},
            {"from": "observation", "value": '{"sum": 2}'},
            {"from": "gpt", "value": "2"},
        ],
        "tools": '[{"name": "add", "parameters": {}}]',
    }
    broken = [
        {**row, "conversations": [row["conversations"][0], {"from": "function_call", "value": '{"name": "add"'}]},
        {**row, "conversations": [row["conversations"][0], row["conversations"][2]]},
        {**row, "tools": "[{"},
        {"tools": "[]"},
    ]
    found = list(readers.read_glaive(as_json([row, *broken]), "f", "en"))
    assert found[0] == Conversation(
        1,
        "en",
        [user("1+1?"), assistant("", tool_calls=[CALL]), {"role": "tool", "content": '{"sum": 2}'}, assistant("2")],
        [TOOL],
    )
    assert [int(item.record) for item in found if isinstance(item, Bad)] == [2, 3, 4, 5]
    assert "message 2, role: 'tool' where assistant" in found[2].reason  # type: ignore[union-attr]


def test_chatterbot_topics() -> None:
    topic = "conversations:\n- - Are you there?\n  - Yes\n  - No\n- - Hi\n  - Hello\n  - Bye\n  - 42\n- one\n"
    pairs = list(readers.read_chatterbot(topic.encode(), "english/computers.yml", "en"))
    assert pairs[:2] == [
        Conversation(1, "en", [user("Are you there?"), assistant("Yes")]),  # not True
        Conversation(2, "en", [user("Hi"), assistant("Hello")]),
    ]
    assert isinstance(pairs[2], Bad)
    whole = list(readers.read_chatterbot(topic.encode(), "english/conversations.yml", "en"))
    assert whole[1] == Conversation(2, "en", [user("Hi"), assistant("Hello"), user("Bye"), assistant("42")])
    with pytest.raises(DataError, match="has no list `conversations`"):
        list(readers.read_chatterbot(b"a: b", "x.yml", "en"))


def test_tasks_are_ours_and_must_be_whole() -> None:
    good = {"prompt": "1+1?", "answer": "2", "language": "en", "thinking": "One and one.", "key": "add:1:1"}
    (read,) = readers.read_demonstrations(as_json(good), "demonstrations.jsonl")
    assert read == Conversation(
        1, "en", [user("1+1?"), assistant("2", reasoning_content="One and one.")], key="add:1:1"
    )
    for name in ("prompt", "answer", "language"):
        rows = as_json(good) + b"\n" + as_json({**good, name: " "})
        with pytest.raises(DataError, match=rf"demonstrations\.jsonl: line 2 has no text in '{name}'"):
            list(readers.read_demonstrations(rows, "demonstrations.jsonl"))


# -- the stage

QUESTION = "Which whole number strictly between 539 and 574 can be divided by 6 without a remainder? Give one example."


def write_jsonl(path: Path, rows: list[Any]) -> None:
    path.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows), encoding="utf-8")


@pytest.fixture
def tasks(tmp_path: Path) -> Path:
    folder = tmp_path / "tasks"
    folder.mkdir()
    heldout = [
        {"id": "h1", "prompt": "Sum of 4 and 5?", "answer": "9", "language": "en", "key": "add:4:5"},
        {"id": "h2", "prompt": QUESTION, "answer": "540", "language": "en", "key": "between:539"},
    ]
    shown = [
        {
            "prompt": f"Sum of {a} and {b}?",
            "answer": str(a + b),
            "language": "en",
            "key": f"add:{a}:{b}",
            "thinking": None,
        }
        for a in range(1, 8)
        for b in range(8, 14)
    ]
    shown.append({"prompt": "How much are 4 and 5?", "answer": "9", "language": "en", "key": "add:4:5"})
    shown.append({"prompt": "Sum of 4 and 5?", "answer": "9", "language": "en", "key": "other"})
    write_jsonl(folder / "heldout.jsonl", heldout)
    write_jsonl(folder / "demonstrations.jsonl", shown)
    return folder


def own_rows() -> list[dict[str, Any]]:
    rng = random.Random(3)
    rows = [{"messages": [user(english(rng, 2)), assistant(english(rng, 2))]} for _ in range(20)]
    rows += [{"messages": [user(chinese(rng, 2)), assistant(chinese(rng, 2))]} for _ in range(20)]
    rows += [
        rows[0],
        {"messages": [user(), assistant("long " * 2000)]},
        {"messages": [user("SUM of 4 and 5"), assistant("9")]},
        {"messages": [user(english(rng, 1)), assistant(f"Ask: {QUESTION}")]},
        {"messages": [user(), user()]},
        {"messages": "no list"},
    ]
    return rows


def run_stage(config: DialoguesConfig, tasks: Path, out: Path) -> dict[str, Any]:
    out.mkdir()
    context = StageContext(out, out, {"tasks": tasks}, 0, 1, Display(quiet=True), None, out / "metrics.jsonl")
    return run(config, context)


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture
def config(tmp_path: Path) -> DialoguesConfig:
    write_jsonl(tmp_path / "own.jsonl", own_rows())
    return DialoguesConfig(
        sources=[DialogueChoice("own", str(tmp_path / "own.jsonl")), DialogueChoice("demonstrations")],
        heldout_share=0.1,
    )


def test_the_stage_keeps_what_is_good_and_accounts_for_the_rest(
    tmp_path: Path, tasks: Path, config: DialoguesConfig
) -> None:
    metrics = run_stage(config, tasks, tmp_path / "out")
    train, heldout = read(tmp_path / "out" / "train.jsonl"), read(tmp_path / "out" / "heldout.jsonl")
    rows = train + heldout
    assert metrics == {"train_conversations": len(train), "heldout_conversations": len(heldout)}
    assert sum(row["source"] == "own" for row in rows) == 40
    assert sum(row["source"] == "demonstrations" for row in rows) == 42
    assert all(problem(row["messages"], row.get("tools", [])) is None for row in rows)
    assert {row["language"] for row in rows} == {"en", "zh"}
    prompts = [{row["messages"][0]["content"] for row in part} for part in (train, heldout)]
    assert prompts[1]
    assert not prompts[0] & prompts[1]
    assert "Sum of 4 and 5?" not in prompts[0] | prompts[1]
    gone = {(row["step"], row["reason"], row["id"]) for row in read(tmp_path / "out" / "rejects.jsonl")}
    assert gone == {
        ("exact_duplicates", "same conversation", "own/000041"),
        ("length", "more than 4000 bytes", "own/000042"),
        ("decontamination", "asks an evaluation question", "own/000043"),
        ("decontamination", "holds an evaluation question", "own/000044"),
        ("unreadable", "malformed", "own/000045"),
        ("unreadable", "malformed", "own/000046"),
        ("decontamination", "held-out problem", "demonstrations/000043"),
        ("decontamination", "held-out problem", "demonstrations/000044"),
    }
    funnel = json.loads((tmp_path / "out" / "funnel.json").read_text(encoding="utf-8"))
    assert sum(steps[0]["documents"] for steps in funnel["languages"].values()) == 46 + 44
    assert sum(steps[-1]["documents"] for steps in funnel["languages"].values()) == len(rows)


def test_a_limit_takes_a_part_that_a_larger_one_contains(tmp_path: Path, tasks: Path, config: DialoguesConfig) -> None:
    last: set[str] = set()
    for limit in (5, 20, None):
        sources = [replace(config.sources[0], max_conversations=limit), config.sources[1]]
        run_stage(replace(config, sources=sources), tasks, tmp_path / f"out{limit}")
        rows = read(tmp_path / f"out{limit}" / "train.jsonl") + read(tmp_path / f"out{limit}" / "heldout.jsonl")
        own = {row["id"] for row in rows if row["source"] == "own"}
        assert len(own) == (limit or 40)
        assert last <= own
        last = own


def test_the_same_inputs_give_the_same_bytes_and_keys_keep_their_order(
    tmp_path: Path, tasks: Path, config: DialoguesConfig
) -> None:
    row = {
        "messages": CALLING,
        "tools": [{"type": "function", "function": {"name": "add", "description": "b", "a": 1}}],
    }
    with (tmp_path / "own.jsonl").open("a", encoding="utf-8") as file:
        file.write("\n" + json.dumps(row))
    for name in ("one", "two"):
        run_stage(config, tasks, tmp_path / name)
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()
    both = (tmp_path / "one" / "train.jsonl").read_text() + (tmp_path / "one" / "heldout.jsonl").read_text()
    assert '"tools": [{"type": "function", "function": {"name": "add", "description": "b", "a": 1}}]' in both


def test_topics_of_a_package_are_read_from_its_archive(
    tmp_path: Path, tasks: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = tmp_path / "chatterbot.whl"
    with zipfile.ZipFile(archive, "w") as file:
        for topic in ("food", "botprofile"):
            entry = f"conversations:\n- - What about {topic}?\n  - I like {topic}.\n"
            file.writestr(f"chatterbot_corpus/data/english/{topic}.yml", entry)
        file.writestr("chatterbot_corpus/data/german/food.yml", "conversations:\n- - Was?\n  - Ja.\n")
    monkeypatch.setattr("qwill.data.registry_sources.fetch_package", lambda *_, **__: archive)
    config = DialoguesConfig(sources=[DialogueChoice("chatterbot_en"), DialogueChoice("demonstrations")])
    run_stage(config, tasks, tmp_path / "out")
    rows = read(tmp_path / "out" / "train.jsonl") + read(tmp_path / "out" / "heldout.jsonl")
    assert [r["messages"][0]["content"] for r in rows if r["source"] == "chatterbot_en"] == ["What about food?"]
    (source,) = json.loads((tmp_path / "out" / "sources.json").read_text(encoding="utf-8"))
    assert (source["name"], source["sha256"]) == (CHATTERBOT.name, CHATTERBOT.sha256)
    assert source["paths"] == ["chatterbot_corpus/data/english/food.yml"]


def test_bad_input_is_one_sentence(tmp_path: Path, tasks: Path, config: DialoguesConfig) -> None:
    def sources(*choices: DialogueChoice) -> DialoguesConfig:
        return replace(config, sources=list(choices))

    wrong = {
        r"'alpaca' is no source and has no path; did you mean alpaca_": (
            ConfigError,
            sources(DialogueChoice("alpaca")),
        ),
        r"names 'a' twice": (ConfigError, sources(DialogueChoice("a", "x"), DialogueChoice("a", "y"))),
        r"gone\.jsonl cannot be read": (DataError, sources(DialogueChoice("a", "gone.jsonl"))),
        r"no conversation is left; raise dialogues\.max_bytes": (DataError, replace(config, max_bytes=3)),
    }
    for number, (message, (kind, settings)) in enumerate(wrong.items()):
        with pytest.raises(kind, match=message):
            run_stage(settings, tasks, tmp_path / f"out{number}")


def test_every_default_source_can_be_named() -> None:
    packages = DialoguesConfig().packages()
    assert {package.name for package in packages} == {"llamafactory", "chatterbot-corpus"}
