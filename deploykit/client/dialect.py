"""What every way of asking a server must be able to say: Triton's gRPC and OpenAI's HTTP are two of them."""

import operator
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

from deploykit.client.answer import Reader
from deploykit.client.errors import InvalidRequestError
from deploykit.client.exchange import Asking, Attempts, Request
from deploykit.client.sampling import utf8
from deploykit.client.values import Health, Model

_LARGEST: Final = 2**63
"""What an INT64 tensor can't hold any more."""

Prompt = str | Sequence[int] | Sequence[Mapping[str, Any]]
"""A text, token ids, or the messages of a chat (see `Message`)."""


@dataclass(frozen=True, kw_only=True)
class Text:
    """A text that is asked for."""

    prompt: str | tuple[int, ...] | tuple[Mapping[str, Any], ...]
    """Checked by `read_prompt`."""
    sampling: Mapping[str, Any]
    """Plain parameters by name."""
    stream: bool
    """Whether the answer comes as it is generated."""
    tools: Sequence[Mapping[str, Any]] | None = None
    """Only with messages."""
    request_id: str
    headers: Mapping[str, str]
    """What goes along with the request, such as its place in a trace."""


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What a model's engine is: its context, precision and so on; the answer's text is a JSON object."""

    request_id: str


class Dialect(Protocol):
    """Requests and answers in the words of one protocol."""

    def text(self, text: Text) -> Request:
        """Return the request for a text; its model is still to be named."""

    def facts(self, facts: Facts) -> Request:
        """Return the request for an engine's facts, answered as a text is; its model is still to be named.

        Raises:
            InvalidRequestError: such a server tells nothing of its engines.
        """

    def name_model(self, request: Request, model: str) -> None:
        """Address a request to a model."""

    def text_reader(self, request: Request) -> Reader:
        """Return what reads the answer to a request."""

    def models(self, attempts: Attempts, headers: Mapping[str, str]) -> Asking[list[Model]]:
        """Return the steps to the models of the server, in alphabetical order."""

    def health(self, attempts: Attempts, headers: Mapping[str, str]) -> Asking[Health]:
        """Return the steps to how the server is: nothing is asked twice, and an error means nobody is there."""


def is_chat(prompt: object) -> bool:
    """Return whether a prompt that was checked has messages."""
    return isinstance(prompt, tuple) and bool(prompt) and isinstance(prompt[0], Mapping)


def read_prompt(prompt: object) -> Any:
    """Return a prompt as text, as a tuple of token ids or as a tuple of messages.

    Raises:
        InvalidRequestError: it is none of these.
    """
    if isinstance(prompt, str):
        utf8("prompt", prompt)
        return prompt
    if isinstance(prompt, bytes | Mapping) or not isinstance(prompt, Iterable):
        raise InvalidRequestError(
            f"prompt must be a str, a list of token ids or a list of messages, got {type(prompt).__name__}"
        )
    parts = tuple(prompt)
    if parts and isinstance(parts[0], Mapping):
        return _messages(parts)
    return _token_ids(parts)


def _token_ids(parts: tuple[Any, ...]) -> tuple[int, ...]:
    """Return token ids as Python's integers; those of numpy count as some, too."""
    try:
        # A long prompt has thousands, so each is looked at one by one only where something is wrong.
        ids = tuple(map(operator.index, parts))
        if not ids or (min(ids) >= -_LARGEST and max(ids) < _LARGEST):
            return ids
    except TypeError:
        pass
    place, token = next(
        (place, token)
        for place, token in enumerate(parts)
        if not hasattr(token, "__index__") or not -_LARGEST <= operator.index(token) < _LARGEST
    )
    raise InvalidRequestError(f"prompt[{place}] must be a token id, got {type(token).__name__}")


def read_chat(messages: object) -> Any:
    """Return messages as a tuple.

    Raises:
        InvalidRequestError: they are none, or empty.
    """
    if not isinstance(messages, str | bytes | Mapping) and isinstance(messages, Iterable):
        parts = tuple(messages)
        if parts:
            return _messages(parts)
    raise InvalidRequestError(f"messages must be a list of dicts, at least one, got {type(messages).__name__}")


def _messages(parts: tuple[Any, ...]) -> tuple[Any, ...]:
    for place, message in enumerate(parts):
        if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
            raise InvalidRequestError(
                f'message {place} must be a dict with a "role" and a "content", got {type(message).__name__}'
            )
    return parts
