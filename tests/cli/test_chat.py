import io
import json
import sys

import pytest
from rich.console import Console

from qwill.base.errors import ConfigError
from qwill.cli import chat
from qwill.cli.chat import COMMANDS, Conversation, Leave, run_chat
from qwill.engine.language_model import Delta


class Scripted:
    """A language model that answers by rule: 'echo: …', one character a token, a token a character."""

    thinks = True

    def __init__(self, context: int = 1000) -> None:
        self.context, self.seen = context, []

    def prompt(self, messages, thinking):
        return [0] * sum(len(m["content"]) for m in messages)

    def stream(self, messages, thinking, seed, thinking_budget=None):
        self.seen.append((messages, thinking, seed))
        said = messages[-1]["content"]
        if said == "fail":
            raise ConfigError("it failed: try again")
        if thinking:
            yield from (Delta(c, "reasoning") for c in "hmm")
        if said != "silence":
            yield from (Delta(c, "content") for c in f"echo: {said}")
        yield Delta("", "content", "stop")


def say(conversation: Conversation, text: str) -> str:
    conversation.messages.append({"role": "user", "content": text})
    notices: list[str] = []
    reply = "".join(d.text for d in conversation.answer(notices.append) if d.kind == "content")
    return "\n".join([*notices, reply])


@pytest.fixture
def conversation() -> Conversation:
    return Conversation(Scripted(), "scripted", seed=5)  # type: ignore[arg-type]


def test_turns_add_up_and_every_reply_has_its_own_seed(conversation):
    say(conversation, "one")
    conversation.command("/think")
    conversation.command("/system Be kind.")
    say(conversation, "two")
    first, second = conversation.model.seen
    assert first == ([{"role": "user", "content": "one"}], False, 6)
    assert second == (
        [
            {"role": "system", "content": "Be kind."},
            {"role": "user", "content": "one"},
            {"role": "assistant", "content": "echo: one"},
            {"role": "user", "content": "two"},
        ],
        True,
        7,
    )
    assert conversation.messages[-1] == {
        "role": "assistant",
        "content": "echo: two",
        "reasoning_content": "hmm",
    }


def test_every_command_that_help_lists_is_obeyed(conversation, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = conversation.command("/help")
    for command in COMMANDS:
        assert command in text
        if command == "/exit":
            with pytest.raises(Leave):
                conversation.command(command)
        else:
            assert "no command" not in conversation.command(command)
    assert conversation.command("/thnik") == "There is no command /thnik; did you mean /think?"
    assert conversation.command("/xyz") == "There is no command /xyz; /help lists them."


def test_thinking_can_not_be_asked_of_a_model_that_can_not(conversation):
    conversation.model.thinks = False
    assert "has not learned to think" in conversation.command("/think")
    assert not conversation.thinking


def test_clear_forgets_all_but_the_system_prompt(conversation):
    conversation.command("/system Be kind.")
    say(conversation, "one")
    conversation.command("/clear")
    assert conversation.history() == [{"role": "system", "content": "Be kind."}]


def test_save_keeps_everything_and_overwrites_nothing(conversation, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    conversation.command("/think")
    say(conversation, "你好")
    assert conversation.command("/save") == "Saved to chat.md."
    assert conversation.command("/save") == "Saved to chat-2.md."
    text = (tmp_path / "chat-2.md").read_text(encoding="utf-8")
    assert text == (tmp_path / "chat.md").read_text(encoding="utf-8")
    for part in ("scripted", "**user**\n\n你好", "> hmm", "**assistant**\n\necho: 你好"):
        assert part in text
    conversation.command("/save talk.json")
    assert json.loads((tmp_path / "talk.json").read_text())["messages"] == conversation.history()


def test_the_oldest_turns_make_room_for_the_newest():
    conversation = Conversation(Scripted(context=100), "scripted", seed=0)  # type: ignore[arg-type]
    conversation.command("/system " + "s" * 10)
    for text in ("a" * 10, "b" * 10):
        assert say(conversation, text) == f"echo: {text}"
    noticed = say(conversation, "c" * 20)  # 10 + 26 + 26 + 20 is more than 75
    assert noticed.startswith("The context of 100 tokens is full: the oldest 2 messages were dropped.")
    asked = [m["content"][0] for m in conversation.model.seen[-1][0]]
    assert asked == ["s", "b", "e", "c"]
    say(conversation, "d" * 90)  # never dropped itself: that it is too long is for the engine to say
    assert [m["content"][0] for m in conversation.model.seen[-1][0]] == ["s", "d"]


def test_a_stopped_reply_stays_and_a_failed_one_takes_its_question_back(conversation):
    conversation.messages.append({"role": "user", "content": "hello"})
    deltas = conversation.answer(print)
    for _ in range(4):
        next(deltas)
    deltas.close()
    assert conversation.messages[-1] == {"role": "assistant", "content": "echo"}
    before = list(conversation.messages)
    with pytest.raises(ConfigError):
        say(conversation, "fail")
    say(conversation, "silence")
    assert conversation.messages == before


def run_piped(monkeypatch, capsys, text: str) -> tuple[int, str, str]:
    monkeypatch.setattr(chat, "_load", lambda reference: Scripted())
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode("utf-8", "surrogateescape"))))
    code = run_chat("scripted")
    out, err = capsys.readouterr()
    return code, out, err


def test_a_pipe_is_one_message_a_line(monkeypatch, capsys):
    code, out, err = run_piped(monkeypatch, capsys, "one\n\n/think\n二\n/nonsense\n/exit\nnever\n")
    assert (code, out) == (0, "echo: one\necho: 二\n")
    assert err.splitlines()[:2] == ["Thinking is on.", "There is no command /nonsense; /help lists them."]


def test_a_line_that_fails_does_not_end_the_pipe(monkeypatch, capsys):
    code, out, err = run_piped(monkeypatch, capsys, "fail\nbad \udcff byte\n")
    assert (code, out, err) == (2, "echo: bad \ufffd byte\n", "qwill: it failed: try again\n")


def test_a_reply_can_not_command_the_terminal(monkeypatch, capsys):
    _, out, _ = run_piped(monkeypatch, capsys, "a\x1b[31mred\x07\x9b2Jb\n")
    assert out == "echo: a[31mred2Jb\n"


def shown(deltas) -> tuple[str, list[str]]:
    console, notices = Console(file=io.StringIO(), width=80), []
    chat._show(deltas, console, notices.append)
    return console.file.getvalue(), notices


def test_a_reply_on_the_terminal_has_its_speed_behind_it(conversation):
    conversation.command("/think")
    conversation.messages.append({"role": "user", "content": "[bold]markup[/bold] 你好"})
    text, notices = shown(conversation.answer(print))
    assert text.startswith("hmm\n\necho: [bold]markup[/bold] 你好\n")
    assert " tokens/s · first after " in text and not notices


def test_ctrl_c_stops_the_reply_and_keeps_it(conversation):
    conversation.messages.append({"role": "user", "content": "hello"})

    def interrupted():
        inner = conversation.answer(print)
        try:
            for i, delta in enumerate(inner):
                if i == 3:
                    raise KeyboardInterrupt
                yield delta
        finally:
            inner.close()

    text, notices = shown(interrupted())
    assert text.startswith("ech\n") and notices == ["Stopped."]
    assert conversation.messages[-1]["content"] == "echo"


def test_a_reply_that_was_cut_off_says_so():
    _, notices = shown(iter_closing([Delta("a", "content"), Delta("", "content", "length")]))
    assert notices and "cut off" in notices[0]


def iter_closing(deltas):
    yield from deltas


def test_a_budget_turns_thinking_on_and_goes_with_every_reply(conversation, monkeypatch):
    budgets = []
    own = conversation.model.stream

    def stream(messages, thinking, seed, thinking_budget=None):
        budgets.append((thinking, thinking_budget))
        return own(messages, thinking, seed)

    monkeypatch.setattr(conversation.model, "stream", stream)
    assert "1,000" in conversation.command("/budget 1000")
    say(conversation, "one")
    conversation.command("/no_think")
    say(conversation, "two")
    assert "as long as it likes" in conversation.command("/budget")
    say(conversation, "three")
    assert budgets == [(True, 1000), (False, None), (True, None)]
    for wrong in ("/budget many", "/budget -3", "/budget ２"):
        assert "takes a number" in conversation.command(wrong)
