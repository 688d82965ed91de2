"""What a request is about: a text, token ids, or a conversation; exactly one of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from deploykit.errors import RequestError
from deploykit.serve.tensors import Tensors, text

PROMPTS: Final = ("text_input", "input_ids", "messages")
"""Inputs that are a prompt, each in its way."""
_CHOICE: Final = "text_input, input_ids or messages"


@dataclass(frozen=True, kw_only=True)
class Chat:
    """A conversation as it came, which nobody has read: that takes as long as its template likes."""

    messages: str
    """A JSON array of messages."""
    tools: str | None = None
    """A JSON array of what the model may call."""


Prompt = str | Sequence[int] | Chat
"""A text, the ids of tokens, or a conversation."""


def no_prompt(tensors: Tensors) -> Prompt:
    """Return an empty prompt, for what is none of the model's business.

    Raises:
        RequestError: there is one, which nobody would read.
    """
    for name in (*PROMPTS, "tools"):
        if name in tensors:
            raise RequestError(f"describe asks what the engine is and takes no prompt; leave out {name}, or describe")
    return ""


def read_prompt(tensors: Tensors) -> Prompt:
    """Return the one prompt among a request's inputs.

    Raises:
        RequestError: there is none, or more than one; or tools without messages.
    """
    given = [name for name in PROMPTS if name in tensors]
    if not given:
        raise RequestError(f"the prompt is missing; give {_CHOICE}")
    if len(given) > 1:
        raise RequestError(f"{' and '.join(given)} are {len(given)} prompts in one request; give only one of them")
    if "tools" in tensors and "messages" not in tensors:
        raise RequestError(f"tools belong to messages, but the prompt is {given[0]}; send messages, or no tools")
    if "messages" in tensors:
        tools = text(tensors, "tools") if "tools" in tensors else None
        return Chat(messages=text(tensors, "messages"), tools=tools)
    if "input_ids" in tensors:
        # Not a list: of a million ids only their number is ever looked at. A copy, since the tensor is Triton's own.
        return tensors["input_ids"].flatten().data
    return text(tensors, "text_input")
