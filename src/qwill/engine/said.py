"""What a model is to say, as ids and a mask: replies behind their prompts, whichever chat template the model has.

One place decides, for fine-tuning, preferences and rewards alike: plain text has no template, the released Qwen3
template has its renderer (`qwill.text.chat`), any other runs in the sandbox (`template_examples.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from qwill.base.errors import DataError
from qwill.data.preferences import Said
from qwill.engine.template_examples import template_examples
from qwill.text.chat import Rendered, training_examples, whole_example
from qwill.text.tokenizer import Tokenizer, released_chat_template


def said_examples(
    prompt: Said,
    said: Said,
    tokenizer: Tokenizer,
    tools: Sequence[dict[str, Any]] = (),
    where: str = "reply",
    template: Literal["inference", "training"] = "inference",
) -> list[Rendered]:
    """Prompt and reply as ids; trained are the turns of the assistant in `said`, each with its end token.

    Plain text has no chat around it: the prompt's ids, the reply's ids and the end token; encoded apart, as they are at
    inference. With an empty prompt (a text of one's own) its first token is predicted by nothing. Several examples only
    where the template does not keep what came before. Raises DataError, beginning with `where`, for what can't be
    rendered, and for turns that end with no token at which generation stops.
    """
    if isinstance(prompt, str) and isinstance(said, str):
        before, after = tokenizer.encode(prompt), [*tokenizer.encode(said), tokenizer.end_id]
        return [Rendered([*before, *after], [0] * len(before) + [1] * len(after))]
    if isinstance(prompt, str) or isinstance(said, str):
        raise DataError(f"{where}: prompt and reply are of two kinds; make both text, or both messages.")
    messages, first = [*prompt, *said], len(prompt)
    if tokenizer.chat_template != released_chat_template():
        examples = template_examples(messages, tools, tokenizer, where, first, template)
    elif template == "training":
        examples = [whole_example(messages, tools, tokenizer, where, first)]
    else:
        examples = training_examples(messages, tools, tokenizer, where, first)
    _check_ends(examples, tokenizer, where)
    return examples


def _check_ends(examples: Sequence[Rendered], tokenizer: Tokenizer, where: str) -> None:
    """A model that never learns to end its turn talks on up to the limit."""
    ends = tokenizer.ends
    for example in examples:
        run: list[int] = []
        for i, trained in [*zip(example.ids, example.loss_mask, strict=True), (-1, 0)]:
            if trained:
                run.append(i)
                continue
            # Some templates mark the line break behind the end token too.
            while len(run) > 1 and not tokenizer.decode(run[-1:], skip_special=False).strip():
                run.pop()
            if run and run[-1] not in ends:
                names = " and ".join(tokenizer.decode([end], skip_special=False) for end in ends)
                stops = f"generation stops at {names}" if names else "the tokenizer has no end token"
                raise DataError(
                    f"{where}: the chat template ends a reply with {tokenizer.decode(run[-1:], skip_special=False)!r}, "
                    f"and {stops}, so the model would never learn to stop; set eos_token in tokenizer_config.json, or "
                    "mend the chat template."
                )
            run = []
