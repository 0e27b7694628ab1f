"""The body of OpenAI's /v1/responses and its answers."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from qwill.serve.chat_schema import Effort, JsonObjectFormat, TextFormat
from qwill.serve.fields import Body, JsonObject, Name, SamplingFields
from qwill.serve.shapes import Answer


class InputText(Body):
    type: Literal["input_text", "output_text", "text", "summary_text", "reasoning_text"]
    text: str


class InputRefusal(Body):
    type: Literal["refusal"]
    refusal: str


class InputMedia(Body):
    """Known, and refused by models that only read text."""

    type: Literal["input_image", "input_file", "input_audio"]


InputPart = Annotated[InputText | InputRefusal | InputMedia, Field(discriminator="type")]


class InputMessage(Body):
    type: Literal["message"] = "message"
    role: Literal["user", "assistant", "system", "developer"]
    content: str | list[InputPart]


class FunctionCallItem(Body):
    type: Literal["function_call"]
    call_id: Name
    name: Name
    arguments: str


class FunctionOutputItem(Body):
    type: Literal["function_call_output"]
    call_id: Name
    output: str | list[InputPart]


class ReasoningItem(Body):
    type: Literal["reasoning"]
    summary: list[InputPart] | None = None
    content: list[InputPart] | None = None


Item = InputMessage | FunctionCallItem | FunctionOutputItem | ReasoningItem


class FunctionTool(Body):
    type: Literal["function"]
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.:\-]{1,128}$")]
    description: str | None = None
    parameters: JsonObject | None = None
    strict: bool | None = None


class FunctionChoice(Body):
    type: Literal["function"]
    name: Name


class SchemaFormat(Body):
    type: Literal["json_schema"]
    name: Name
    schema_: JsonObject = Field(alias="schema")
    description: str | None = None
    strict: bool | None = None


class TextOptions(Body):
    format: Annotated[TextFormat | JsonObjectFormat | SchemaFormat, Field(discriminator="type")] | None = None
    verbosity: Literal["low", "medium", "high"] | None = None


class Reasoning(Body):
    effort: Effort | None = None
    summary: str | None = None


class ResponsesRequest(SamplingFields):
    model: Name
    input: str | Annotated[list[Item], Field(min_length=1)]
    instructions: str | None = None
    max_output_tokens: int | None = Field(default=None, ge=1, le=2**31)
    stream: bool | None = None
    tools: Annotated[list[FunctionTool], Field(max_length=256)] | None = None
    tool_choice: Literal["none", "auto", "required"] | FunctionChoice | None = None
    parallel_tool_calls: bool | None = None
    text: TextOptions | None = None
    reasoning: Reasoning | None = None
    previous_response_id: str | None = Field(default=None, description="not supported: only null is taken")
    background: bool | None = Field(default=None, description="not supported: only null and false are taken")
    store: bool | None = Field(default=None, description="nothing is stored, whatever this says")
    metadata: dict[str, str] | None = None


class InputDetails(Answer):
    cached_tokens: int


class OutputDetails(Answer):
    reasoning_tokens: int


class ResponseUsage(Answer):
    input_tokens: int
    input_tokens_details: InputDetails
    output_tokens: int
    output_tokens_details: OutputDetails
    total_tokens: int


class ResponseObject(Answer):
    """The reply as items. With `stream`, events as OpenAI documents them."""

    id: str
    object: Literal["response"]
    created_at: int
    status: Literal["completed", "incomplete", "in_progress", "failed"]
    model: str
    output: list[dict[str, Any]]
    error: dict[str, Any] | None
    incomplete_details: dict[str, Any] | None
    usage: ResponseUsage | None
    store: Literal[False]


class ResponseEvent(Answer):
    """The data of an event; its `type` is the event's name."""

    type: str
    sequence_number: int
