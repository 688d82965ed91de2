"""The fields of requests whose JSON takes several shapes: each with its reading, and its entry in the OpenAPI document.

pydantic's own unions would name their branches in messages, and bend types where one of them lets it.
"""

from collections.abc import Callable
from typing import Annotated, Any, Final, Literal

from pydantic import PlainValidator, WithJsonSchema
from pydantic_core import PydanticCustomError

from deploykit.chat_template import check_messages, check_tools
from deploykit.errors import RequestError
from deploykit.gateway.message_schema import MESSAGES, TOOLS

MAX_STOPS: Final = 16
"""As many as the engine takes; OpenAI's own limit is 4."""
MAX_BIASES: Final = 300
MAX_BAD_WORDS: Final = 64
MAX_STOP_TOKENS: Final = 64
MAX_PROMPTS: Final = 128
"""Prompts of one request: more than any client sends together, and few enough for the queue."""
MAX_TOKEN: Final = 2**31 - 1
MAX_CLIENT: Final = 256
"""Characters of a user's name, as the engine takes it."""

_TEXT: Final[dict[str, Any]] = {"type": "string", "minLength": 1}
_TOKEN: Final[dict[str, Any]] = {"type": "integer", "minimum": 0, "maximum": MAX_TOKEN}
_TOKENS: Final[dict[str, Any]] = {"type": "array", "items": _TOKEN, "minItems": 1}
_NULL: Final[dict[str, Any]] = {"type": "null"}

Prompt = str | list[int]
"""A text, or token ids."""


def wrong(message: str, *, param: str | None = None) -> PydanticCustomError:
    """Return the error for a value that can't be, in our own words; `param` where it isn't that of one field."""
    return PydanticCustomError("invalid_value", "{said}", {"said": message, "ours": True, "param": param})


def read_prompts(value: Any) -> list[Prompt]:
    """Return the prompts that a field holds: one text or list of token ids, or several of them."""
    if isinstance(value, str):
        return [_text(value)]
    if not isinstance(value, list) or not value:
        raise wrong("must be a text, a list of token ids, or a list of these, not empty")
    if isinstance(value[0], int):
        return [_tokens(value)]
    if len(value) > MAX_PROMPTS:
        raise wrong(f"must be at most {MAX_PROMPTS} prompts, got {len(value)}")
    return [_tokens(each) if isinstance(each, list) else _text(each) for each in value]


def read_stops(value: Any) -> list[str] | None:
    """Return the texts that end an answer."""
    if value is None:
        return None
    return _texts([value] if isinstance(value, str) else value, MAX_STOPS)


def read_biases(value: Any) -> dict[str, float] | None:
    """Return what is added to logits, by token id."""
    if value is None:
        return None
    if not isinstance(value, dict) or len(value) > MAX_BIASES:
        raise wrong(f"must be an object of at most {MAX_BIASES} token ids, each with a number")
    for token, bias in value.items():
        if not (token.isascii() and token.isdecimal() and len(token) <= 10):
            raise wrong('must have token ids for keys, such as "50256"')
        if isinstance(bias, bool) or not isinstance(bias, int | float) or not -100 <= bias <= 100:
            raise wrong(f"must have numbers from -100 to 100; that of token {token} is none")
    if len({int(token) for token in value}) < len(value):
        raise wrong("must have each token id once")
    return value


def _read_bad_words(value: Any) -> list[str] | None:
    return None if value is None else _texts(value, MAX_BAD_WORDS)


def _read_stop_tokens(value: Any) -> list[int] | None:
    if value is None:
        return None
    tokens = _token_ids(value)
    if len(tokens) > MAX_STOP_TOKENS or len(set(tokens)) < len(tokens):
        raise wrong(f"must be at most {MAX_STOP_TOKENS} token ids, all different")
    return tokens


def _read_messages(value: Any) -> list[dict[str, Any]]:
    try:
        return check_messages(value)
    except RequestError as error:
        raise wrong(str(error)) from None


def _read_tools(value: Any) -> list[dict[str, Any]] | None:
    if value is None or value == []:
        return None
    try:
        return check_tools(value)
    except RequestError as error:
        raise wrong(str(error)) from None


def _read_tool_choice(value: Any) -> str | None:
    if value not in (None, "none", "auto"):
        raise wrong("can be none or auto; an answer can't be held to a tool's parameters yet")
    return None if value is None else str(value)


def _read_response_format(value: Any) -> None:
    if value not in (None, {"type": "text"}):
        raise wrong('can be {"type": "text"} only; an answer can\'t be held to JSON or to a schema yet')


def _read_modalities(value: Any) -> None:
    if value not in (None, [], ["text"]):
        raise wrong('can be ["text"] only: this server neither takes nor makes sounds')


def _read_template_variables(value: Any) -> dict[str, Any] | None:
    if value is None:
        return None
    if not isinstance(value, dict):
        raise wrong("must be an object of variables")
    if taken := sorted(_TAKEN.intersection(value)):
        raise wrong(f"can't set {taken[0]}: it is the request's own, or the model's")
    return value


_TAKEN: Final = frozenset(
    {"messages", "tools", "add_generation_prompt", "continue_final_message", "chat_template", "self"}
)
"""Names of variables that a request has fields for, or that aren't a caller's to set."""


def _refuse(reason: str) -> Callable[[Any], None]:
    def refuse(value: Any) -> None:
        if value is not None:
            raise wrong(reason)

    return refuse


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise wrong("must be a text, a list of token ids, or a list of these")
    if not value:
        raise wrong("must not be empty")
    _check_utf8(value)
    return value


def _texts(value: Any, limit: int) -> list[str]:
    if not isinstance(value, list) or len(value) > limit or not all(isinstance(text, str) and text for text in value):
        raise wrong(f"must be a text or at most {limit} texts, none empty")
    for text in value:
        _check_utf8(text)
    return value


def _check_utf8(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise wrong(f"is no valid text: half a character at {error.start}") from None


def _tokens(value: Any) -> list[int]:
    if not isinstance(value, list) or not value:
        raise wrong("must be a list of token ids, not empty")
    return _token_ids(value)


def _token_ids(value: Any) -> list[int]:
    if not isinstance(value, list):
        raise wrong("must be a list of token ids")
    # Not one by one: a body has room for half a million.
    if value and (set(map(type, value)) != {int} or min(value) < 0 or max(value) > MAX_TOKEN):
        raise wrong(f"must hold token ids: whole numbers from 0 to {MAX_TOKEN}")
    return value


def _optional(*schemas: dict[str, Any]) -> WithJsonSchema:
    return WithJsonSchema({"anyOf": [*schemas, _NULL]})


Prompts = Annotated[
    list[Prompt],
    PlainValidator(read_prompts),
    WithJsonSchema(
        {
            "anyOf": [
                _TEXT,
                {"type": "array", "items": _TEXT, "minItems": 1, "maxItems": MAX_PROMPTS},
                _TOKENS,
                {"type": "array", "items": _TOKENS, "minItems": 1, "maxItems": MAX_PROMPTS},
            ]
        }
    ),
]
TokenIds = Annotated[list[int], PlainValidator(_token_ids), WithJsonSchema({"type": "array", "items": _TOKEN})]
Stops = Annotated[
    list[str] | None,
    PlainValidator(read_stops),
    _optional(_TEXT, {"type": "array", "items": _TEXT, "maxItems": MAX_STOPS}),
]
Biases = Annotated[
    dict[str, float] | None,
    PlainValidator(read_biases),
    _optional(
        {
            "type": "object",
            "propertyNames": {"pattern": "^[0-9]{1,10}$"},
            "additionalProperties": {"type": "number", "minimum": -100, "maximum": 100},
            "maxProperties": MAX_BIASES,
        }
    ),
]
BadWords = Annotated[
    list[str] | None,
    PlainValidator(_read_bad_words),
    _optional({"type": "array", "items": _TEXT, "maxItems": MAX_BAD_WORDS}),
]
StopTokens = Annotated[
    list[int] | None,
    PlainValidator(_read_stop_tokens),
    _optional({"type": "array", "items": _TOKEN, "maxItems": MAX_STOP_TOKENS, "uniqueItems": True}),
]
Messages = Annotated[list[dict[str, Any]], PlainValidator(_read_messages), WithJsonSchema(MESSAGES)]
Tools = Annotated[list[dict[str, Any]] | None, PlainValidator(_read_tools), _optional(TOOLS)]
Modalities = Annotated[
    None,
    PlainValidator(_read_modalities),
    _optional({"type": "array", "items": {"const": "text"}, "maxItems": 1}),
]
ToolChoice = Annotated[str | None, PlainValidator(_read_tool_choice), _optional({"enum": ["none", "auto"]})]
ResponseFormat = Annotated[
    None,
    PlainValidator(_read_response_format),
    _optional(
        {
            "type": "object",
            "required": ["type"],
            "properties": {"type": {"const": "text"}},
            "additionalProperties": False,
        }
    ),
]
TemplateVariables = Annotated[
    dict[str, Any] | None,
    PlainValidator(_read_template_variables),
    _optional({"type": "object", "propertyNames": {"not": {"enum": sorted(_TAKEN)}}}),
]
NoTemplate = Annotated[
    None,
    PlainValidator(_refuse("is not taken from requests: a template is a program; the model's own is used")),
    WithJsonSchema(_NULL),
]
NoFunctions = Annotated[
    None, PlainValidator(_refuse("is not taken any more; give tools and tool_choice")), WithJsonSchema(_NULL)
]
NotServed = Annotated[None, PlainValidator(_refuse("is not supported by this server")), WithJsonSchema(_NULL)]
NoSuffix = Annotated[
    None, PlainValidator(_refuse("is not supported: this server only continues texts")), WithJsonSchema(_NULL)
]
ServiceTier = Literal["auto", "default"]
