"""What requests may hold: OpenAI's fields, and those that vLLM's server adds.

Types are strict: `"5"` is no number, and neither is `true`. A field that nobody knows is refused, as OpenAI does, since
passing it over could change an answer. Fields that change no answer (`metadata`, `store`, …) are taken and passed over.
"""

from typing import Any, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ModelWrapValidatorHandler, ValidationError, model_validator

from deploykit.gateway.fields import (
    MAX_CLIENT,
    MAX_TOKEN,
    BadWords,
    Biases,
    Messages,
    Modalities,
    NoFunctions,
    NoSuffix,
    NoTemplate,
    NotServed,
    Prompts,
    ResponseFormat,
    ServiceTier,
    Stops,
    StopTokens,
    TemplateVariables,
    TokenIds,
    ToolChoice,
    Tools,
    wrong,
)

COMPLETION_TOKENS = 16
"""Tokens of a completion where nobody says: OpenAI's own default."""
MAX_ERRORS: Final = 64
"""Errors that are described; there are fewer fields, and a body has room for hundreds of thousands."""


class Strict(BaseModel):
    """A JSON object, its types taken at their word."""

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False, frozen=True)

    @model_validator(mode="wrap")
    @classmethod
    def _bound_errors(cls, value: Any, validate: ModelWrapValidatorHandler[Self]) -> Self:
        try:
            return validate(value)
        except ValidationError as error:
            if error.error_count() <= MAX_ERRORS:
                raise
            # Only the first would be told, but each is described before: for 2 MB that took seconds, in which every
            # other caller waited.
            raise wrong(
                f"holds {error.error_count()} values that can't be; see /openapi.json for those that can"
            ) from None


class StreamOptions(Strict):
    """What a stream holds beside the answer."""

    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class Generation(Strict):
    """What both kinds of requests for text have in common."""

    model: str = Field(min_length=1)
    n: int | None = Field(None, ge=1, le=16)
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: int | None = Field(None, ge=1, le=MAX_TOKEN)
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, ge=0, le=1)
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    seed: int | None = Field(None, ge=-(2**63), le=2**63 - 1)
    stop: Stops = None
    logit_bias: Biases = None
    user: str | None = Field(None, max_length=MAX_CLIENT)

    top_k: int | None = Field(None, ge=-1, le=MAX_TOKEN)
    min_p: float | None = Field(None, ge=0, le=1)
    repetition_penalty: float | None = Field(None, ge=0.01, le=100)
    min_tokens: int | None = Field(None, ge=0, le=MAX_TOKEN)
    ignore_eos: bool | None = None
    stop_token_ids: StopTokens = None
    bad_words: BadWords = None
    priority: int | None = Field(None, ge=-(2**31), le=2**31 - 1)

    @property
    def choices(self) -> int:
        """How many answers are wanted to each prompt."""
        return self.n or 1

    @property
    def include_usage(self) -> bool:
        """Whether a stream ends with its usage."""
        return bool(self.stream_options and self.stream_options.include_usage)

    @model_validator(mode="after")
    def _check_stream_options(self) -> "Generation":
        if self.stream_options is not None and not self.stream:
            raise wrong("is only for requests with stream true; leave it out", param="stream_options")
        return self


class CompletionRequest(Generation):
    """A request to continue texts."""

    prompt: Prompts
    best_of: int | None = Field(None, ge=1, le=16)
    echo: bool | None = None
    logprobs: int | None = Field(None, ge=0, le=20)
    suffix: NoSuffix = None
    add_special_tokens: bool | None = None

    @model_validator(mode="after")
    def _check(self) -> "CompletionRequest":
        if self.best_of is not None and self.best_of != self.choices:
            raise wrong(
                f"must be n, {self.choices}: every answer that is made is returned; leave it out", param="best_of"
            )
        if self.echo and self.logprobs is not None:
            raise wrong(
                "has none of the prompt's tokens, which echo would return; leave one of them out", param="logprobs"
            )
        return self


class ChatTemplateFields(Strict):
    """How messages become a prompt."""

    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    add_special_tokens: bool | None = None
    chat_template: NoTemplate = None
    chat_template_kwargs: TemplateVariables = None

    @property
    def generation_prompt(self) -> bool:
        """Whether the prompt ends with what begins an answer."""
        if self.add_generation_prompt is None:
            return not self.continue_final_message
        return self.add_generation_prompt

    @model_validator(mode="after")
    def _check_end(self) -> "ChatTemplateFields":
        if self.continue_final_message and self.add_generation_prompt:
            raise wrong(
                "leaves no place for add_generation_prompt; leave one of them out", param="continue_final_message"
            )
        return self


class ChatRequest(Generation, ChatTemplateFields):
    """A request for the next message of a conversation."""

    messages: Messages
    max_completion_tokens: int | None = Field(None, ge=1, le=MAX_TOKEN)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=20)
    tools: Tools = None
    tool_choice: ToolChoice = None
    parallel_tool_calls: bool | None = None
    response_format: ResponseFormat = None

    modalities: Modalities = None
    metadata: dict[str, str] | None = None
    store: Literal[False] | None = None
    service_tier: ServiceTier | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: Literal["in_memory", "24h"] | None = None

    functions: NoFunctions = None
    function_call: NoFunctions = None
    audio: NotServed = None
    prediction: NotServed = None
    reasoning_effort: NotServed = None
    verbosity: NotServed = None
    web_search_options: NotServed = None
    moderation: NotServed = None

    @property
    def limit(self) -> int | None:
        """The longest answer wanted, in tokens; None for what the context has room for."""
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens

    @property
    def shown_tools(self) -> list[dict[str, Any]] | None:
        """The tools that the model may be told of."""
        return None if self.tool_choice == "none" else self.tools

    @model_validator(mode="after")
    def _check(self) -> "ChatRequest":
        if self.top_logprobs and not self.logprobs:
            raise wrong("needs logprobs true", param="top_logprobs")
        if None not in (self.max_tokens, self.max_completion_tokens) and self.max_tokens != self.max_completion_tokens:
            raise wrong("is another name of max_tokens; give one of them", param="max_completion_tokens")
        return self


class TokenizeRequest(ChatTemplateFields):
    """A request for the tokens of a text or of a conversation."""

    model: str = Field(min_length=1)
    prompt: str | None = None
    messages: Messages | None = None
    tools: Tools = None
    return_token_strs: bool | None = None

    @model_validator(mode="after")
    def _check_one(self) -> "TokenizeRequest":
        if (self.prompt is None) == (self.messages is None):
            raise wrong("or messages: give one of them", param="prompt")
        return self


class DetokenizeRequest(Strict):
    """A request for the text of tokens."""

    model: str = Field(min_length=1)
    tokens: TokenIds
