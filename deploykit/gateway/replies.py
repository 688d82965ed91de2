"""What responses hold, for the OpenAPI document; the endpoints write them as plain JSON values."""

from typing import Any, Literal

from pydantic import BaseModel

Reason = Literal["stop", "length"]


class ErrorDetail(BaseModel):
    """What is wrong, for people and for programs."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorReply(BaseModel):
    """OpenAI's error object."""

    error: ErrorDetail


class ModelReply(BaseModel):
    """A model that is served."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    max_model_len: int


class ModelsReply(BaseModel):
    """The models that are served."""

    object: Literal["list"]
    data: list[ModelReply]


class Usage(BaseModel):
    """Tokens that a request took."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class Likely(BaseModel):
    """A token and how likely it was."""

    token: str
    logprob: float
    bytes: list[int] | None


class ChosenToken(Likely):
    """A token of the answer."""

    top_logprobs: list[Likely]


class ChatLogprobs(BaseModel):
    """Log probabilities of a message's tokens."""

    content: list[ChosenToken]
    refusal: None


class Message(BaseModel):
    """The model's message."""

    role: Literal["assistant"]
    content: str
    refusal: None


class ChatChoice(BaseModel):
    """One answer."""

    index: int
    message: Message
    logprobs: ChatLogprobs | None
    finish_reason: Reason


class ChatReply(BaseModel):
    """A chat completion."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    system_fingerprint: str
    choices: list[ChatChoice]
    usage: Usage


class CompletionLogprobs(BaseModel):
    """Log probabilities of a text's tokens."""

    text_offset: list[int]
    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]]


class CompletionChoice(BaseModel):
    """One answer."""

    index: int
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: Reason


class CompletionReply(BaseModel):
    """A text completion."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    system_fingerprint: str
    choices: list[CompletionChoice]
    usage: Usage


class TokenizeReply(BaseModel):
    """A text's tokens."""

    count: int
    max_model_len: int
    tokens: list[int]
    token_strs: list[str] | None


class DetokenizeReply(BaseModel):
    """The text of tokens."""

    prompt: str


class HealthReply(BaseModel):
    """Triton and every model are ready."""

    status: Literal["ok"]


Responses = dict[int | str, dict[str, Any]]

ERRORS: Responses = {
    "4XX": {"model": ErrorReply, "description": "The request can't be answered."},
    "5XX": {"model": ErrorReply, "description": "The server can't answer it."},
}
"""What any route may answer instead."""

# Without a schema: some tools hold it against each event, others against the whole body.
_STREAM: dict[str, Any] = {
    "example": 'data: {"id": "…", "choices": […]}\n\ndata: [DONE]\n\n',
}
STREAMED: Responses = {
    200: {
        "description": 'The answer; with `stream`, as server-sent events, where `data: {"error": …}` may come, too.',
        "content": {"text/event-stream": _STREAM},
    },
    **ERRORS,
}
"""What routes answer that can stream."""
