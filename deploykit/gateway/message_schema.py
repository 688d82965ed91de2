"""How the OpenAPI document describes messages and tools; `deploykit.chat_template` is who reads and checks them."""

from typing import Any, Final

Schema = dict[str, Any]

_TEXT: Final[Schema] = {"type": "string"}
_TEXT_OR_NULL: Final[Schema] = {"type": ["string", "null"]}
_NAME: Final[Schema] = {"type": "string", "pattern": "^[A-Za-z0-9_.:/-]{1,256}$"}


def _object(properties: Schema, *required: str, others: bool = False) -> Schema:
    return {
        "type": "object",
        "properties": properties,
        "required": list(required),
        "additionalProperties": others,
    }


_CONTENT: Final[Schema] = {
    "anyOf": [
        _TEXT,
        {
            "type": "array",
            "items": _object({"type": {"const": "text"}, "text": _TEXT}, "type", "text"),
            "maxItems": 4096,
        },
    ]
}
_CALL: Final = _object(
    {
        "id": _TEXT_OR_NULL,
        "type": {"const": "function"},
        "function": _object({"name": _NAME, "arguments": _TEXT_OR_NULL}, "name"),
    },
    "function",
)
_SPOKEN: Final = _object(
    {"role": {"enum": ["system", "developer", "user"]}, "content": _CONTENT, "name": _TEXT_OR_NULL}, "role", "content"
)
_ANSWERED: Final = _object(
    {
        "role": {"const": "assistant"},
        "content": _CONTENT,
        "name": _TEXT_OR_NULL,
        "refusal": _TEXT_OR_NULL,
        "reasoning_content": _TEXT_OR_NULL,
        "tool_calls": {"anyOf": [{"type": "array", "items": _CALL, "maxItems": 128}, {"type": "null"}]},
    },
    "role",
    "content",
)
_CALLING: Final = _object(
    {
        "role": {"const": "assistant"},
        "content": {"type": "null"},
        "tool_calls": {"type": "array", "items": _CALL, "minItems": 1, "maxItems": 128},
    },
    "role",
    "tool_calls",
)
_RETURNED: Final = _object(
    {"role": {"const": "tool"}, "content": _CONTENT, "name": _TEXT_OR_NULL, "tool_call_id": _TEXT_OR_NULL},
    "role",
    "content",
)

MESSAGES: Final[Schema] = {
    "type": "array",
    "minItems": 1,
    "maxItems": 4096,
    "items": {"anyOf": [_SPOKEN, _ANSWERED, _CALLING, _RETURNED]},
}
TOOLS: Final[Schema] = {
    "type": "array",
    "maxItems": 512,
    "items": _object(
        {
            "type": {"const": "function"},
            "function": _object(
                {
                    "name": _NAME,
                    "description": _TEXT_OR_NULL,
                    "parameters": {"type": ["object", "null"]},
                    "strict": {"type": ["boolean", "null"]},
                },
                "name",
                others=True,
            ),
        },
        "function",
    ),
}
