"""What a server's answers are made of."""

from dataclasses import dataclass
from typing import Any, Literal, Required, TypedDict

FinishReason = Literal["stop", "length", "cancelled"]
"""Why an answer ended. `stop`: the model or a stop text; `length`: `max_tokens` or the model's context."""


class Message(TypedDict, total=False):
    """A message of a chat, as the checkpoint's chat template reads it.

    Example:
        ```python
        from deploykit.client import Client, Message

        history: list[Message] = [{"role": "user", "content": "Name a prime."}]
        with Client("localhost:8001") as client:
            answer = client.chat(history, max_tokens=16)
        history.append({"role": "assistant", "content": answer.text})
        ```
    """

    role: Required[str]
    """`system`, `user`, `assistant` or `tool`."""
    content: str | list[dict[str, Any]] | None
    """What was said."""
    name: str
    """Who said it, where several have one role."""
    tool_calls: list[dict[str, Any]]
    """Calls of tools that an assistant asked for."""
    tool_call_id: str
    """Which call a tool's message answers."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenLogprob:
    """A token and how likely the model found it, whatever temperature and the like made of that.

    Example:
        ```python
        from deploykit.client import Client

        with Client("localhost:8001") as client:
            answer = client.generate("def ", max_tokens=4, logprobs=2)
        for token in answer.logprobs:
            print(repr(token.token), token.logprob, [(other.token, other.logprob) for other in token.top])
        ```
    """

    token: str
    """Its text; may be a part of a character only."""
    logprob: float
    """The natural logarithm of its probability."""
    token_id: int | None
    """Its number in the vocabulary; None where the server doesn't tell, as OpenAI's HTTP doesn't."""
    top: tuple["TokenLogprob", ...] = ()
    """The likeliest tokens at its place, the likeliest first: as many as `logprobs` asked for."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Chunk:
    """A piece of an answer, as it arrives.

    Example:
        ```python
        from deploykit.client import Client

        with Client("localhost:8001") as client:
            for chunk in client.generate("def ", stream=True):
                print(chunk.text, end="", flush=True)
            print(f"({chunk.num_output_tokens} tokens, ended by {chunk.finish_reason})")
        ```
    """

    text: str
    """What this piece adds; may be empty while a character is incomplete."""
    finish_reason: FinishReason | None
    """Why the answer ends with this piece; None where it goes on."""
    num_input_tokens: int
    """Tokens of the prompt."""
    num_output_tokens: int
    """Tokens generated so far, in this choice."""
    index: int = 0
    """The choice that it belongs to; above 0 only where `n` asked for several."""
    logprobs: tuple[TokenLogprob, ...] = ()
    """This piece's tokens, where `logprobs` asked for them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """One of several answers to the same prompt.

    Example:
        ```python
        from deploykit.client import Client

        with Client("localhost:8001") as client:
            answer = client.generate("def ", n=3, temperature=0.8, max_tokens=16)
            for choice in answer.choices:
                print(choice.index, choice.text, choice.finish_reason)
        ```
    """

    index: int
    text: str
    finish_reason: FinishReason | None
    num_output_tokens: int
    logprobs: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Completion:
    """A whole answer.

    Example:
        ```python
        from deploykit.client import Client

        with Client("localhost:8001") as client:
            answer = client.generate("def ", max_tokens=16)
            print(answer.text, answer.finish_reason, answer.num_output_tokens)
        ```
    """

    text: str
    """The first choice's text."""
    finish_reason: FinishReason | None
    """`stop`: the model or a stop text ended it; `length`: `max_tokens` or the model's context did."""
    num_input_tokens: int
    """Tokens of the prompt."""
    num_output_tokens: int
    """Tokens of the answer, of all choices together."""
    logprobs: tuple[TokenLogprob, ...] = ()
    """The first choice's tokens, where `logprobs` asked for them."""
    choices: tuple[Choice, ...] = ()
    """Every choice, in order; one unless `n` asked for more."""


@dataclass(frozen=True, kw_only=True)
class Model:
    """A model of the server, in one version.

    Example:
        ```python
        from deploykit.client import Client

        with Client("localhost:8001") as client:
            print([model.name for model in client.models() if model.ready])
        ```
    """

    name: str
    version: str
    """Empty where unknown: OpenAI's HTTP names none."""
    ready: bool
    reason: str
    """Why it isn't ready; empty where unknown."""


@dataclass(frozen=True, kw_only=True)
class Health:
    """How a server is.

    Example:
        ```python
        from deploykit.client import Client

        with Client("localhost:8001") as client:
            health = client.health()
            print("alive" if health.live else "gone", "and ready" if health.ready else "but not ready")
        ```
    """

    live: bool
    """Whether it answers at all."""
    ready: bool
    """Whether every model is ready."""
