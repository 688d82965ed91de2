"""Chat messages and tools as a stranger sends them: checked, and as templates want them."""

import json
import re
from collections.abc import Callable, Mapping
from typing import Any, Final

from deploykit.chat_template.plain import check_plain, check_text
from deploykit.errors import RequestError

MAX_MESSAGES: Final = 4096
MAX_TOOLS: Final = 512
MAX_CALLS: Final = 128
"""Tool calls in one message."""
MAX_CHARACTERS: Final = 8 * 2**20
"""Of all messages together: contexts of a million tokens have about half of that."""
ROLES: Final = ("system", "developer", "user", "assistant", "tool")
_NAME: Final = re.compile(r"[\w.:/-]{1,256}", re.ASCII)
_ECHOED: Final = frozenset(("annotations", "parsed", "audio", "function_call", "refusal"))
"""Fields of the answers that OpenAI's packages hand out, as they come back in the next request."""


def read_messages(raw: str | bytes) -> list[dict[str, Any]]:
    """Return the messages in a JSON text.

    Raises:
        RequestError: it is no JSON, or as `check_messages`.
    """
    return check_messages(_parsed(raw, "messages"))


def read_tools(raw: str | bytes) -> list[dict[str, Any]]:
    """Return the tools in a JSON text.

    Raises:
        RequestError: it is no JSON, or as `check_tools`.
    """
    return check_tools(_parsed(raw, "tools"))


def check_messages(value: object) -> list[dict[str, Any]]:
    """Return untrusted chat messages as templates want them.

    Parts of text become one text, a line each; the arguments of tool calls become objects; fields that are null are
    left out.

    Args:
        value: what JSON holds: a list of objects in OpenAI's form.

    Raises:
        RequestError: it is something else, or larger than a conversation can be.
    """
    items = _items(value, "messages", most=MAX_MESSAGES)
    if not items:
        raise RequestError("messages is empty; send at least one")
    messages = [_message(item, f"messages[{number}]") for number, item in enumerate(items)]
    size = sum(len(text) for message in messages for text in message.values() if isinstance(text, str))
    if size > MAX_CHARACTERS:
        raise RequestError(f"messages have {size} characters together; at most {MAX_CHARACTERS} are taken")
    return messages


def check_tools(value: object) -> list[dict[str, Any]]:
    """Return untrusted tools: functions that the model may call.

    Args:
        value: what JSON holds: a list of `{"type": "function", "function": {"name", "description", "parameters"}}`.

    Raises:
        RequestError: it is something else, or nested too deep.
    """
    return [_tool(item, f"tools[{number}]") for number, item in enumerate(_items(value, "tools", most=MAX_TOOLS))]


def _message(value: object, where: str) -> dict[str, Any]:
    given = {name: field for name, field in _object(value, where).items() if field is not None}
    role = given.get("role")
    if not isinstance(role, str) or role not in ROLES:
        raise RequestError(f"{where}.role is {_shown(role)}; it must be one of {', '.join(ROLES)}")
    _check_known(given, role, where)
    message: dict[str, Any] = {"role": role}
    for name, read in _FIELDS.items():
        if name in given:
            message[name] = read(given[name], f"{where}.{name}")
    if "refusal" in given:
        refusal = _text(given["refusal"], f"{where}.refusal")
        message.setdefault("content", refusal)
    if "content" not in message and not message.get("tool_calls"):
        raise RequestError(f"{where} has no content; only an assistant's message with tool_calls may come without")
    return message


def _check_known(given: Mapping[str, Any], role: str, where: str) -> None:
    """Pass a message that has no fields but those of its role."""
    for name in given:
        if name in ("tool_calls", "reasoning_content", "reasoning") and role != "assistant":
            raise RequestError(f"{where}.{name}: only the assistant has any, and the role is {role!r}")
        if name == "tool_call_id" and role != "tool":
            raise RequestError(f"{where}.{name}: only a message of the role 'tool' has one, and the role is {role!r}")
        if name in ("function_call", "audio"):
            raise RequestError(f"{where}.{name} is not supported; calls go in tool_calls, and all else in content")
        if name != "role" and name not in _FIELDS and name not in _ECHOED:
            raise RequestError(f"{where} has an unknown field {_shown(name)}; leave it out")


def _content(value: object, where: str) -> str:
    """Return a content's text, its parts joined as vLLM and llama.cpp join them."""
    if isinstance(value, str):
        return _text(value, where)
    if not isinstance(value, list):
        raise RequestError(f"{where} is {_kind(value)}; it must be a text or a list of parts of text")
    parts = _items(value, where, most=MAX_MESSAGES)
    return "\n".join(_part(part, f"{where}[{number}]") for number, part in enumerate(parts))


def _part(value: object, where: str) -> str:
    part = _object(value, where)
    kind = part.get("type")
    if kind not in ("text", "refusal"):
        raise RequestError(f"{where} has the type {_shown(kind)}, but the model reads text alone; send parts of text")
    return _text(part.get(kind), f"{where}.{kind}")


def _tool_calls(value: object, where: str) -> list[dict[str, Any]]:
    return [_call(item, f"{where}[{number}]") for number, item in enumerate(_items(value, where, most=MAX_CALLS))]


def _call(value: object, where: str) -> dict[str, Any]:
    given = _object(value, where)
    _check_function(given, where)
    function = _object(given.get("function"), f"{where}.function")
    call: dict[str, Any] = {"type": "function"}
    if given.get("id") is not None:
        call["id"] = _text(given["id"], f"{where}.id")
    arguments = _arguments(function.get("arguments"), f"{where}.function.arguments")
    call["function"] = {"name": _name(function.get("name"), f"{where}.function.name"), "arguments": arguments}
    return call


def _arguments(value: object, where: str) -> Any:
    """Return a call's arguments as an object, since templates look into them; as text where a model wrote no JSON."""
    if value is None or value == "":
        return {}
    if isinstance(value, str):
        _text(value, where)
        try:
            found = json.loads(value)
        except (ValueError, RecursionError):
            return value
        if not isinstance(found, dict):
            return value
        value = found
    if not isinstance(value, dict):
        raise RequestError(f"{where} is {_kind(value)}; it must be an object, or one as JSON text")
    check_plain(value, where)
    return value


def _tool(value: object, where: str) -> dict[str, Any]:
    tool = _object(value, where)
    _check_function(tool, where)
    function = _object(tool.get("function"), f"{where}.function")
    _name(function.get("name"), f"{where}.function.name")
    if function.get("description") is not None:
        _text(function["description"], f"{where}.function.description")
    if function.get("parameters") is not None:
        _object(function["parameters"], f"{where}.function.parameters")
    check_plain(tool, where)
    # OpenAI's packages send null for what wasn't given, which templates would write out.
    described = {name: field for name, field in function.items() if field is not None}
    return {**tool, "type": "function", "function": described}


def _check_function(given: Mapping[str, Any], where: str) -> None:
    if given.get("type", "function") != "function":
        raise RequestError(f"{where}.type is {_shown(given['type'])}; the only kind of tool is 'function'")


def _name(value: object, where: str) -> str:
    if not isinstance(value, str) or not _NAME.fullmatch(value):
        raise RequestError(f"{where} is {_shown(value)}; it must be 1 to 256 letters, digits, or any of _ . : / -")
    return value


def _text(value: object, where: str) -> str:
    if not isinstance(value, str):
        raise RequestError(f"{where} is {_kind(value)}; it must be a text")
    check_text(value, where)
    return value


def _object(value: object, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise RequestError(f"{where} is {_kind(value)}; it must be an object")
    return value


def _items(value: object, where: str, *, most: int) -> list[Any]:
    if not isinstance(value, list):
        raise RequestError(f"{where} is {_kind(value)}; it must be a list")
    if len(value) > most:
        raise RequestError(f"{where} has {len(value)} entries; at most {most} are taken")
    return value


def _parsed(raw: str | bytes, what: str) -> Any:
    try:
        return json.loads(raw)
    except RecursionError:
        raise RequestError(f"{what} are nested too deep; send them flatter") from None
    except UnicodeDecodeError:
        raise RequestError(f"{what} are not valid UTF-8; encode them so") from None
    except ValueError as error:
        raise RequestError(f"{what} are no valid JSON: {error}; send a list of objects") from None


def _kind(value: object) -> str:
    """Return what JSON calls a value's type."""
    if value is None:
        return "missing or null"
    kinds = {bool: "a boolean", str: "a text", list: "a list", dict: "an object"}
    return kinds.get(type(value), "a number")


def _shown(value: object) -> str:
    """Return a short text as it is, and of anything else the kind: an error is no place for a prompt."""
    return repr(value) if isinstance(value, str) and len(value) <= 64 else _kind(value)


_FIELDS: Final[Mapping[str, Callable[[object, str], Any]]] = {
    "content": _content,
    "name": _text,
    "reasoning_content": _text,
    "reasoning": _text,
    "tool_calls": _tool_calls,
    "tool_call_id": _text,
}
"""What a message may have besides its role, in the order in which templates get it."""
