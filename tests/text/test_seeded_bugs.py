"""The checks of the renderer and of the tokenizer, put to the test: each of these bugs has to be caught."""

import json
import random
import types
import unicodedata
from collections.abc import Iterator

import pytest
from text_support import FIXTURE, ORACLES, check_render, check_training, newer_marks, some_conversation

from qwill.text import chat, tokenizer
from qwill.text.vocabulary import QWEN3_SPECIALS

RENDERER_BUGS = {
    "content that is nothing but a mark becomes one": ("if piece.mark and piece.text in", "if piece.text in"),
    "<|im_end|> is not trained": (
        'return [*pieces, _mark("<|im_end|>", True)]',
        'return [*pieces, _mark("<|im_end|>")]',
    ),
    "user turns are trained": (
        '_Piece(turn.role + "\\n" + turn.content)',
        '_Piece(turn.role + "\\n" + turn.content, trained=True)',
    ),
    "tool results are trained": (
        '_Piece("\\n" + turn.content + "\\n")',
        '_Piece("\\n" + turn.content + "\\n", trained=True)',
    ),
    "tool calls are not trained": ('_Piece("\\n" + call + "\\n", trained=True)', '_Piece("\\n" + call + "\\n")'),
    "thinking is not trained": (
        '_Piece("\\n" + reasoning.strip("\\n") + "\\n", trained=trained)',
        '_Piece("\\n" + reasoning.strip("\\n") + "\\n")',
    ),
    "the role's name is trained": (
        'pieces += [_mark("<|im_start|>"), _Piece("assistant\\n")]\n            if',
        'pieces += [_mark("<|im_start|>"), _Piece("assistant\\n", trained=True)]\n            if',
    ),
    "thinking stays in the history": ("return len(turns) - 1\n", "return -1\n"),
    "thinking stays behind the last query": ("shows_thinking = i > last_query and", "shows_thinking ="),
    "a tool's result passed on counts as a query": (
        'if turns[i].role == "user" and not passed_on',
        'if turns[i].role == "user"',
    ),
    "a text that only begins like a result does not": (
        'text.startswith("<tool_response>") and',
        'text.startswith("<tool_response>") or',
    ),
    "the last reply lacks the empty block": ("(last and thinks)", "False"),
    "non-thinking replies are trained without the closed block": (
        "if not thinking:\n        pieces += [",
        "if False:\n        pieces += [",
    ),
    "the closed block is trained": (
        "block = _block(turn.reasoning) if turn.thought or (thinks and thinking) else []",
        "block = _block(turn.reasoning)",
    ),
    "/no_think is not looked at": ("turn.thought or _asked_not_to_think(turns[:i])", "turn.thought"),
    "the first switch wins": ("switches[-1]", "switches[0]"),
    "the oldest switch wins": (
        "for turn in reversed(turns):\n        if turn.role in",
        "for turn in turns:\n        if turn.role in",
    ),
    "no line break after a turn": (
        'pieces += [*_answer(turn, shows_thinking), _Piece("\\n")]',
        "pieces += _answer(turn, shows_thinking)",
    ),
    "line breaks in front of an answer stay": (
        'turn.content.lstrip("\\n") if behind_block else turn.content',
        "turn.content",
    ),
    "line breaks in front of history are stripped": (
        'turn.content.lstrip("\\n") if behind_block else turn.content',
        'turn.content.lstrip("\\n")',
    ),
    "line breaks around thinking stay": ('reasoning.strip("\\n") + "\\n"', 'reasoning + "\\n"'),
    "a call is always on a line of its own": ("if i > 0 or turn.content:", "if True:"),
    "a call never is": ("if i > 0 or turn.content:", "if i > 0:"),
    "pieces are encoded one by one": ("run.append(piece)\n", "run.append(piece)\n            close_run()\n"),
    "every example goes on": ("if prompt.ids[: len(ids)] != ids:", "if False:"),
    "every turn is an example": ("if prompt.ids[: len(ids)] != ids:", "if ids:"),
    "the prompt of the next turn is trained": (
        "[0] * (len(prompt.ids) - len(ids))",
        "[1] * (len(prompt.ids) - len(ids))",
    ),
    "earlier turns are not trained": ("mask = mask + [0] *", "mask = [0] * len(ids) + [0] *"),
    "non-ASCII arguments are escaped": ("json.dumps(value, ensure_ascii=False)", "json.dumps(value)"),
    "keys are sorted": (
        "json.dumps(value, ensure_ascii=False)",
        "json.dumps(value, ensure_ascii=False, sort_keys=True)",
    ),
    "arguments as text are quoted": ("arguments if isinstance(arguments, str) else _json", "_json"),
    "each tool result is a turn": ('if i == 0 or turns[i - 1].role != "tool":', "if True:"),
    "tool results are never closed": ('if last or turns[i + 1].role != "tool":', "if last:"),
    "a later system message is lost": ('elif turn.role == "user" or i > 0:', 'elif turn.role == "user":'),
    "the system message comes twice": ('elif turn.role == "user" or i > 0:', "else:"),
    "the system message is lost beside tools": ('pieces.append(_Piece(system + "\\n\\n"))', "pass"),
    "thinking inside content is not seen": ('if "</think>" not in content:', "if True:"),
    "it ends at the first mark": ('content.split("</think>")[-1]', 'content.split("</think>", 1)[-1]'),
    "the marks around a call are text": (
        'pieces += [_mark("<tool_call>", True), _Piece',
        'pieces += [_Piece("<tool_call>", trained=True), _Piece',
    ),
    "a default system message": (
        "if system is None:\n            return []",
        'if system is None:\n            system = "You are Qwen."',
    ),
}

TOKENIZER_BUGS = {
    "special tokens are found in text": ('{"added_tokens": [], ', "{"),
    "marks are taken out of text": ("return text\n    try", 'return text.replace("<think>", "")\n    try'),
    "no NFC": ('"truncation": None,', '"truncation": None, "normalizer": None,'),
    "undecodable bytes are dropped": ('decode("utf-8", errors="replace")', 'decode("utf-8", errors="ignore")'),
    "the stream's end is forgotten": ('self._decoder.decode(b"", final=True)', '""'),
    "the stream decodes each token alone": (
        "return self._decoder.decode(self._tokenizer._shown(token_id, self._skip_special))",
        'return self._tokenizer._shown(token_id, self._skip_special).decode("utf-8", "replace")',
    ),
    "nothing is hidden": ('b"" if skip_special and token_id in self._hidden', 'b"" if False'),
    "thinking is hidden": ('if token.get("special"))', ")"),
    "surrogates are dropped": ('.decode("utf-16-le", errors="replace")', '.decode("utf-16-le", errors="ignore")'),
    "a batch keeps surrogates' neighbours apart": (
        "[without_surrogates(text) for text in texts]",
        "[text.encode('utf-8', 'replace').decode() for text in texts]",
    ),
}


def mutant(module: types.ModuleType, old: str, new: str) -> types.ModuleType:
    with open(str(module.__file__), encoding="utf-8") as file:
        source = file.read()
    assert source.count(old) == 1, f"the seeded bug no longer fits the code: {old!r}"
    changed = types.ModuleType(module.__name__)
    exec(compile(source.replace(old, new), f"<bug in {module.__name__}>", "exec"), changed.__dict__)
    return changed


def conversations() -> Iterator[tuple[list[dict], list[dict] | None]]:
    record = json.loads((ORACLES / "text_chat.json").read_text(encoding="utf-8"))
    yield from ((case["messages"], case["tools"]) for case in record["cases"])
    yield from (some_conversation(random.Random(seed)) for seed in range(400))


def check_renderer(module: types.ModuleType) -> None:
    for messages, tools in conversations():
        check_render(module, messages, tools)
        if any(m["role"] == "assistant" and m["content"] for m in messages):
            check_training(module, messages, tools)


def check_tokenizer(module: types.ModuleType) -> None:
    mine = module.Tokenizer.load(FIXTURE)
    record = json.loads((ORACLES / "text_tokenizer.json").read_text(encoding="utf-8"))
    for text, ids in record["plain"]:
        assert mine.encode(text) == ids
        if not newer_marks() & set(text):
            assert mine.decode(ids) == unicodedata.normalize("NFC", text)
    for name in QWEN3_SPECIALS:
        for text in (name, name + " 你"):
            assert mine.decode(mine.encode(text)) == text and mine.special(name) not in mine.encode(text)
        assert (mine.decode([mine.special(name)]) == "") == (mine.special(name) in record["hidden"])
    text = "a\ud83db\ud83d\ude42"
    assert mine.decode(mine.encode(text)) == mine.decode(mine.encode_batch([text])[0]) == "a\ufffdb🙂"
    ids = [*mine.encode("你好🙂"), *mine.encode("🙂")[:-1], mine.special("<think>"), *mine.encode("🙂")[:-1]]
    decoder = module.StreamDecoder(mine)
    assert "".join([*map(decoder.push, ids), decoder.finish()]) == mine.decode(ids) == "你好🙂\ufffd<think>\ufffd"


def test_without_a_bug_every_check_passes() -> None:
    check_renderer(chat)
    check_tokenizer(tokenizer)


@pytest.mark.parametrize("bug", RENDERER_BUGS)
def test_bugs_in_the_renderer_are_caught(bug: str) -> None:
    with pytest.raises(AssertionError):
        check_renderer(mutant(chat, *RENDERER_BUGS[bug]))


@pytest.mark.parametrize("bug", TOKENIZER_BUGS)
def test_bugs_in_the_tokenizer_are_caught(bug: str) -> None:
    with pytest.raises((AssertionError, UnicodeError)):
        check_tokenizer(mutant(tokenizer, *TOKENIZER_BUGS[bug]))
