"""`qwill chat`: a conversation in the terminal, or one message a line through a pipe."""

from __future__ import annotations

import difflib
import re
import secrets
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qwill.base.errors import QwillError
from qwill.base.files import write_json, write_text

if TYPE_CHECKING:
    from rich.console import Console

    from qwill.engine.language_model import Delta, LanguageModel

COMMANDS = {
    "/think": "let the model think before it answers",
    "/no_think": "answer at once",
    "/budget": "[N]  let it think at most N tokens (nothing: as long as it likes)",
    "/system": "TEXT  set the system prompt (nothing: remove it)",
    "/clear": "forget the conversation",
    "/save": "[FILE]  keep the conversation as Markdown, or as JSON when FILE ends in .json",
    "/help": "this list",
    "/exit": "leave, as Ctrl-D does",
}
KEYS = "Alt-Enter starts a new line, Ctrl-C stops a reply, the up key brings back what you wrote."
# What a terminal would obey: a reply must not move the cursor, change colours or ring the bell.
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


class Leave(Exception):
    """The user is done."""


@dataclass
class Conversation:
    """What has been said, without any terminal: tested as plain logic."""

    model: LanguageModel
    name: str
    seed: int
    thinking: bool = False
    budget: int | None = None
    system: str = ""
    messages: list[dict[str, Any]] = field(default_factory=list)
    turns: int = 0

    def history(self) -> list[dict[str, Any]]:
        return [{"role": "system", "content": self.system}, *self.messages] if self.system else [*self.messages]

    def command(self, line: str) -> str:
        """Obey a line that begins with `/`; returns what to tell the user. Raises `Leave` for /exit."""
        name, _, argument = line.partition(" ")
        argument = argument.strip()
        if name in ("/think", "/no_think"):
            if name == "/think" and not self.model.thinks:
                return "This model has not learned to think: its tokenizer has no <think>."
            self.thinking = name == "/think"
            return "Thinking is on." if self.thinking else "Thinking is off."
        if name == "/budget":
            return self.set_budget(argument)
        if name == "/system":
            self.system = argument
            return "The system prompt is set." if argument else "There is no system prompt now."
        if name == "/clear":
            self.messages.clear()
            return "The conversation is forgotten."
        if name == "/save":
            return f"Saved to {self.save(argument)}."
        if name == "/help":
            width = max(map(len, COMMANDS))
            return "\n".join(f"{command:<{width}}  {what}" for command, what in COMMANDS.items()) + f"\n{KEYS}"
        if name in ("/exit", "/quit"):
            raise Leave
        near = difflib.get_close_matches(name, COMMANDS, n=1)
        return f"There is no command {name}; {f'did you mean {near[0]}?' if near else '/help lists them.'}"

    def set_budget(self, argument: str) -> str:
        """Thinking is on from then: a budget of what isn't done would do nothing."""
        if not self.model.thinks:
            return "This model has not learned to think: its tokenizer has no <think>."
        if argument and not (argument.isascii() and argument.isdecimal()):
            return f"/budget takes a number of tokens, such as /budget 256, and not {argument}."
        self.budget, self.thinking = int(argument) if argument else None, True
        return f"It thinks at most {self.budget:,} tokens." if argument else "It thinks as long as it likes."

    def save(self, name: str) -> Path:
        path = Path(name).expanduser() if name else _unused(Path("chat.md"))
        if path.suffix == ".json":
            write_json(path, {"model": self.name, "messages": self.history()})
            return path
        parts = [f"# Conversation with {self.name}\n"]
        for message in self.history():
            if message.get("reasoning_content"):
                quoted = "\n".join(f"> {line}" for line in message["reasoning_content"].splitlines())
                parts.append(f"**thinking**\n\n{quoted}\n")
            parts.append(f"**{message['role']}**\n\n{message['content']}\n")
        write_text(path, "\n".join(parts))
        return path

    def make_room(self) -> int:
        """Drop the oldest turns until a quarter of the context is free for the reply; how many messages went.

        The newest message always stays: if it alone is too long, generation says so.
        """
        dropped = 0
        context = self.model.context
        while len(self.messages) > 1 and len(self.prompt()) > context - context // 4:
            # A turn is a user's message with all that follows it, so that the rest still begins with a user.
            users = (i for i, m in enumerate(self.messages[1:], start=1) if m["role"] == "user")
            end = next(users, len(self.messages) - 1)
            del self.messages[:end]
            dropped += end
        return dropped

    def prompt(self) -> list[int]:
        return self.model.prompt(self.history(), self.thinking)

    def answer(self, notice: Callable[[str], None]) -> Iterator[Delta]:
        """The reply to the last message. It joins the conversation also when the reader stops halfway; if
        nothing has been said by then, the message that asked is taken back.
        """
        if dropped := self.make_room():
            notice(f"The context of {self.model.context:,} tokens is full: the oldest {dropped} messages were dropped.")
        said: dict[str, list[str]] = {"content": [], "reasoning": []}
        self.turns += 1
        try:
            for delta in self.model.stream(
                self.history(), self.thinking, seed=self.seed + self.turns,
                thinking_budget=self.budget if self.thinking else None,
            ):  # fmt: skip
                said[delta.kind].append(delta.text)
                yield delta
        finally:
            content, reasoning = ("".join(said[kind]).strip("\n") for kind in ("content", "reasoning"))
            if content:
                thought = {"reasoning_content": reasoning} if reasoning else {}
                self.messages.append({"role": "assistant", "content": content, **thought})
            else:
                self.messages.pop()


def _unused(path: Path) -> Path:
    number = 2
    candidate = path
    while candidate.exists():
        candidate, number = path.with_stem(f"{path.stem}-{number}"), number + 1
    return candidate


def run_chat(reference: str, seed: int | None = None) -> int:
    """Talk with a model until Ctrl-D. With a pipe as input every line is a message, every reply goes to the
    output, and the sampling is the same each time; returns 2 if a line could not be answered.
    """
    interactive = sys.stdin.isatty() and sys.stdout.isatty()
    if seed is None:
        seed = secrets.randbits(32) if interactive else 0
    if not interactive:
        return _pipe(Conversation(_load(reference), reference, seed))
    from rich.console import Console

    console = Console(highlight=False)
    with console.status(f"loading {reference}"):
        model = _load(reference)
        model.engine.prepare()
    return _talk(Conversation(model, reference, seed), console)


def _load(reference: str) -> LanguageModel:
    from qwill.engine.language_model import load

    return load(reference)


def _pipe(conversation: Conversation) -> int:
    if hasattr(sys.stdin, "reconfigure"):
        sys.stdin.reconfigure(encoding="utf-8", errors="replace")

    def notice(text: str) -> None:
        print(text, file=sys.stderr)

    failed = False
    for line in sys.stdin:
        message = line.strip()
        if not message:
            continue
        try:
            if message.startswith("/"):
                notice(conversation.command(message))
                continue
            conversation.messages.append({"role": "user", "content": message})
            for delta in conversation.answer(notice):
                if delta.kind == "content":
                    print(CONTROL.sub("", delta.text), end="", flush=True)
            print(flush=True)
        except Leave:
            break
        except QwillError as error:
            notice(f"qwill: {error}")
            failed = True
    return 2 if failed else 0


def _talk(conversation: Conversation, console: Console) -> int:
    session = _line_editor(conversation)
    console.print(f"[bold]{conversation.name}[/bold] [dim]· /help lists the commands · Ctrl-D leaves[/dim]")

    def notice(text: str) -> None:
        console.print(text, style="yellow", markup=False)

    while True:
        try:
            line = session.prompt("› ").strip()
        except KeyboardInterrupt:
            continue  # the line is given up, not the program
        except EOFError:
            return 0
        if not line:
            continue
        try:
            if line.startswith("/"):
                notice(conversation.command(line))
                continue
            conversation.messages.append({"role": "user", "content": line})
            _show(conversation.answer(notice), console, notice)
        except Leave:
            return 0
        except (QwillError, OSError) as error:
            notice(str(error))


def _show(deltas: Iterator[Delta], console: Console, notice: Callable[[str], None]) -> None:
    """Print a reply as it comes, thinking dimmed, and its speed afterwards; Ctrl-C stops it."""
    from qwill.cli.wrapping import Wrapper

    def put(text: str) -> None:
        style = "dim italic" if kind == "reasoning" else None
        console.print(text, end="", style=style, markup=False, soft_wrap=True)

    started = first = time.monotonic()
    count, kind, reason, wrapper = 0, "", None, Wrapper(console.width)
    try:
        for delta in deltas:
            first = first if count else time.monotonic()
            count += 1
            reason = delta.finish_reason
            if delta.text and kind == "reasoning" and delta.kind == "content":
                put(wrapper.finish() + "\n\n")
                wrapper = Wrapper(console.width)
            if delta.text:
                kind = delta.kind
                put(wrapper.push(CONTROL.sub("", delta.text)))
        put(wrapper.finish() + "\n")
    except KeyboardInterrupt:
        put(wrapper.finish() + "\n")
        notice("Stopped.")
    finally:
        deltas.close()  # type: ignore[attr-defined]
    if reason == "length":
        notice("The reply was cut off: it reached the limit of tokens. Say “go on” for more.")
    elapsed = time.monotonic() - first
    if count > 1 and elapsed > 0:
        speed = f"{count} tokens · {(count - 1) / elapsed:.1f} tokens/s · first after {first - started:.1f} s"
        console.print(speed + "\n", style="dim")


def _line_editor(conversation: Conversation) -> Any:
    from prompt_toolkit import PromptSession
    from prompt_toolkit.completion import Completer, Completion
    from prompt_toolkit.formatted_text import HTML
    from prompt_toolkit.key_binding import KeyBindings

    keys = KeyBindings()

    @keys.add("escape", "enter")
    def _(event: Any) -> None:
        event.current_buffer.insert_text("\n")

    class Commands(Completer):
        def get_completions(self, document: Any, event: Any) -> Iterator[Completion]:
            typed = document.text_before_cursor
            for command, what in COMMANDS.items():
                if typed.startswith("/") and command.startswith(typed):
                    yield Completion(command, start_position=-len(typed), display_meta=what)

    def toolbar() -> HTML:
        model, mode = conversation.model, "thinking" if conversation.thinking else "not thinking"
        used = len(model.engine.cached)
        return HTML(f"{mode} · {used:,} of {model.context:,} tokens · /help")

    return PromptSession(
        history=_line_history(),
        completer=Commands(),
        complete_while_typing=True,
        key_bindings=keys,
        bottom_toolbar=toolbar,
        prompt_continuation="  ",
    )


def _line_history() -> Any:
    """What was typed in earlier sessions, readable by its owner only; of this session alone where no file can be."""
    from prompt_toolkit.history import FileHistory, InMemoryHistory

    path = Path.home() / ".qwill" / "chat_history"
    try:
        path.parent.mkdir(mode=0o700, exist_ok=True)
        path.touch(mode=0o600)
    except OSError:
        return InMemoryHistory()
    return FileHistory(str(path))
