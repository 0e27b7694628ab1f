"""POST /tokenize and /detokenize, GET /tokenizer_info: as vLLM has them; lm-eval tokenises through them."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Request
from pydantic import Field

from qwill.base.errors import DataError
from qwill.engine.template import conversation_ids
from qwill.serve.access import service_of
from qwill.serve.chat_completions import plain_messages
from qwill.serve.chat_schema import ChatMessage, TemplateArguments, Tool
from qwill.serve.errors import ApiError
from qwill.serve.fields import Body, Name, check_ids
from qwill.serve.raw_text import encode_raw
from qwill.serve.routes import answers, new_router
from qwill.serve.service import Service, Target
from qwill.serve.shapes import Answer, shown_token

router = new_router()


class TokenizeText(Body):
    prompt: str
    model: Name | None = None
    add_special_tokens: bool | None = None
    return_token_strs: bool | None = None


class TokenizeChat(Body):
    messages: Annotated[list[ChatMessage], Field(min_length=1)]
    model: Name | None = None
    tools: list[Tool] | None = None
    chat_template_kwargs: TemplateArguments | None = None
    return_token_strs: bool | None = None


class Tokens(Answer):
    """Ids of a text or of a conversation up to where the next reply begins."""

    count: int
    max_model_len: int
    tokens: list[int]
    token_strs: list[str] | None = None


class DetokenizeRequest(Body):
    tokens: list[Annotated[int, Field(ge=0, lt=2**31)]]
    model: Name | None = None


class Detokenized(Answer):
    """The text of ids, special tokens by their names."""

    prompt: str


class TokenizerInfo(Answer):
    """What a client needs to tokenise as the model does."""

    tokenizer_class: str
    vocab_size: int
    model_max_length: int
    chat_template: str | None
    bos_token: str | None
    eos_token: str | None
    pad_token: str | None
    unk_token: str | None
    additional_special_tokens: list[str]


def _target(service: Service, name: str | None) -> Target:
    return service.find(next(iter(service.models)) if name is None else name)


@router.post("/tokenize", **answers(Tokens))
async def tokenize(body: TokenizeText | TokenizeChat, request: Request) -> dict[str, Any]:
    """Text to ids; special tokens written in a text are read as such, in a conversation never."""
    target = _target(service_of(request), body.model)
    tokenizer = target.info.tokenizer
    if isinstance(body, TokenizeText):
        ids = encode_raw(tokenizer, body.prompt, body.add_special_tokens is not False)
    else:
        tools = [tool.model_dump(exclude_none=True) for tool in body.tools or ()]
        options = body.chat_template_kwargs
        thinking = bool(options and options.enable_thinking) and target.info.thinks
        try:
            ids = conversation_ids(plain_messages(body.messages), tokenizer, tools or None, thinking)
        except DataError as error:
            raise ApiError(400, str(error), "messages") from error
    shown: dict[str, Any] = {"count": len(ids), "max_model_len": target.info.context, "tokens": ids}
    if body.return_token_strs:
        shown["token_strs"] = [shown_token(tokenizer, token) for token in ids]
    return shown


@router.post("/detokenize", **answers(Detokenized))
async def detokenize(body: DetokenizeRequest, request: Request) -> dict[str, Any]:
    """Ids to text."""
    target = _target(service_of(request), body.model)
    check_ids(body.tokens, target.info, "tokens")
    return {"prompt": target.info.tokenizer.decode(body.tokens, skip_special=False)}


@router.get("/tokenizer_info", **answers(TokenizerInfo))
async def tokenizer_info(request: Request, model: Name | None = None) -> dict[str, Any]:
    """The tokenizer's settings."""
    target = _target(service_of(request), model)
    tokenizer, config = target.info.tokenizer, target.info.tokenizer.config

    def name(field: str) -> str | None:
        value = config.get(field)
        return value.get("content") if isinstance(value, dict) else value

    end = name("eos_token")
    stops = [text for text, i in tokenizer.specials.items() if i in target.info.stop_ids]
    return {
        "tokenizer_class": str(config.get("tokenizer_class", "PreTrainedTokenizerFast")),
        "vocab_size": tokenizer.vocab_size,
        "model_max_length": target.info.context,
        "chat_template": tokenizer.chat_template,
        "bos_token": name("bos_token"),
        "eos_token": end if end in tokenizer.specials else next(iter(stops), None),
        "pad_token": name("pad_token"),
        "unk_token": name("unk_token"),
        "additional_special_tokens": list(tokenizer.specials),
    }
