"""The body of Anthropic's /v1/messages and its answers."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from qwill.serve.fields import Body, JsonObject, Name, Stop
from qwill.serve.shapes import Answer


class TextBlock(Body):
    type: Literal["text"]
    text: str


class MediaBlock(Body):
    """Known, and refused by models that only read text."""

    type: Literal["image", "document", "search_result"]


class ToolUseBlock(Body):
    type: Literal["tool_use"]
    id: Name
    name: Name
    input: JsonObject


class ToolResultBlock(Body):
    type: Literal["tool_result"]
    tool_use_id: Name
    content: str | list[Annotated[TextBlock | MediaBlock, Field(discriminator="type")]] | None = None
    is_error: bool | None = None


class ThinkingBlock(Body):
    type: Literal["thinking"]
    thinking: str
    signature: str | None = None


class RedactedThinkingBlock(Body):
    type: Literal["redacted_thinking"]
    data: str


UserBlock = Annotated[TextBlock | MediaBlock | ToolResultBlock, Field(discriminator="type")]
AssistantBlock = Annotated[
    TextBlock | ToolUseBlock | ThinkingBlock | RedactedThinkingBlock, Field(discriminator="type")
]


class UserTurn(Body):
    role: Literal["user"]
    content: str | Annotated[list[UserBlock], Field(min_length=1)]


class AssistantTurn(Body):
    role: Literal["assistant"]
    content: str | list[AssistantBlock]


Turn = Annotated[UserTurn | AssistantTurn, Field(discriminator="role")]


class ClientTool(Body):
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.:\-]{1,128}$")]
    description: str | None = None
    input_schema: JsonObject
    type: Literal["custom"] | None = None
    strict: bool | None = None


class ToolChoice(Body):
    type: Literal["auto", "any", "none", "tool"]
    name: Name | None = None
    disable_parallel_tool_use: bool | None = None


class ThinkingConfig(Body):
    type: Literal["enabled", "disabled", "adaptive"]
    budget_tokens: int | None = Field(default=None, ge=1, le=2**31)


class CountRequest(Body):
    model: Name
    messages: Annotated[list[Turn], Field(min_length=1)]
    system: str | list[TextBlock] | None = None
    tools: Annotated[list[ClientTool], Field(max_length=256)] | None = None
    tool_choice: ToolChoice | None = None
    thinking: ThinkingConfig | None = None


class MessagesRequest(CountRequest):
    max_tokens: int = Field(ge=1, le=2**31)
    stop_sequences: Annotated[list[Stop], Field(max_length=16)] | None = None
    stream: bool | None = None
    temperature: float | None = Field(default=None, ge=0, le=1)
    top_k: int | None = Field(default=None, ge=0, le=2**31)
    top_p: float | None = Field(default=None, gt=0, le=1)


class MessageUsage(Answer):
    """`input_tokens`: those that had to be computed; `cache_read_input_tokens`: those found in the cache."""

    input_tokens: int
    output_tokens: int
    cache_read_input_tokens: int
    cache_creation_input_tokens: int


class AnthropicMessage(Answer):
    """The assistant's next message. With `stream`, events as Anthropic documents them."""

    id: str
    type: Literal["message"]
    role: Literal["assistant"]
    model: str
    content: list[dict[str, Any]]
    stop_reason: Literal["end_turn", "max_tokens", "stop_sequence", "tool_use"] | None
    stop_sequence: str | None
    usage: MessageUsage


class MessageEvent(Answer):
    """The data of an event; its `type` is the event's name."""

    type: Literal[
        "message_start", "content_block_start", "content_block_delta", "content_block_stop", "message_delta",
        "message_stop", "ping", "error",
    ]  # fmt: skip


class TokenCount(Answer):
    """What a conversation's prompt comes to."""

    input_tokens: int
