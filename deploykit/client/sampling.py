"""How a text is generated: the parameters of a request."""

from collections.abc import Mapping, Sequence
from typing import Any, Final, TypedDict

from deploykit.client.errors import InvalidRequestError


class Sampling(TypedDict, total=False):
    """How the next token is chosen and when the text ends; the server's defaults where not given.

    Example:
        ```python
        from deploykit.client import Client, Sampling

        careful = Sampling(temperature=0.2, top_p=0.9, max_tokens=64, seed=7)
        with Client("localhost:8001") as client:
            print(client.generate("def fib(n):", **careful).text)
        ```
    """

    max_tokens: int | None
    """Tokens to generate at most."""
    temperature: float | None
    """0 is greedy; higher is more random."""
    top_k: int | None
    """Choose among the k likeliest tokens only."""
    top_p: float | None
    """Choose among the likeliest tokens that together have this probability only."""
    seed: int | None
    """Makes a sampled answer repeatable."""
    stop: str | Sequence[str] | None
    """Texts that end the answer; they are not part of it."""
    ignore_eos: bool
    """Whether to go on past the model's end-of-text token."""
    min_tokens: int | None
    """Tokens to generate at least."""
    min_p: float | None
    """Choose among tokens at least this share as likely as the likeliest only."""
    repetition_penalty: float | None
    """Above 1, tokens of prompt and answer are less likely."""
    presence_penalty: float | None
    """Taken from the logits of the answer's tokens."""
    frequency_penalty: float | None
    """The same, times how often they are in it."""
    logit_bias: Mapping[int, float] | None
    """Added to the logits, by token id."""
    bad_words: Sequence[str] | None
    """Texts that the answer must not hold."""
    stop_token_ids: Sequence[int] | None
    """Tokens that end the answer; they are not part of it."""
    n: int | None
    """Answers to the one prompt, at most 16: `Completion.choices`, and `Chunk.index` says whose a piece is."""
    logprobs: int | None
    """Of how many of the likeliest tokens the log probability is wanted, beside each token's own: 0 to 20."""
    client: str | None
    """Whose request it is: those who ask share the model evenly."""
    priority: int | None
    """Lower goes first."""
    stream_interval: int | None
    """Tokens that a piece of a stream waits for, but for the first and the last."""


class Options(Sampling, total=False):
    """What a call takes by name: how its text is generated, and how it is sent.

    Example:
        ```python
        from deploykit.client import Client, Options

        options = Options(max_tokens=16, timeout=20, request_id="report-7")
        with Client("localhost:8001") as client:
            print(client.generate("def ", **options).text)
        ```
    """

    model: str | None
    """The model to ask; the client's own where not given."""
    timeout: float | None
    """Seconds until the whole answer must be there; the client's own where not given."""
    request_id: str | None
    """What the request is called in the server's logs; made up where not given."""
    trace: Mapping[str, str] | None
    """`traceparent` and `tracestate` (W3C) to send; where not given, those of OpenTelemetry's current span."""


_NUMBERS: Final = frozenset(
    {"max_tokens", "temperature", "top_k", "top_p", "seed", "min_tokens", "min_p", "repetition_penalty"}
    | {"presence_penalty", "frequency_penalty", "n", "logprobs", "priority", "stream_interval"}
)


def plain_parameters(sampling: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters that were given, as JSON can hold them.

    Raises:
        InvalidRequestError: a value that can't be sent at all; any other mistake is for the server to name.
    """
    return {name: _plain(name, value) for name, value in sampling.items() if value is not None}


def utf8(name: str, text: object) -> bytes:
    """Return a text's UTF-8.

    Raises:
        InvalidRequestError: it is no text, or has a lone surrogate.
    """
    if not isinstance(text, str):
        raise InvalidRequestError(f"{name} must be a str, got {type(text).__name__}")
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise InvalidRequestError(
            f"{name} holds half a character (the surrogate U+{ord(text[error.start]):04X}) at {error.start}; "
            "decode it with the encoding it has"
        ) from None


def _plain(name: str, value: object) -> object:
    if name in ("stop", "bad_words") and not isinstance(value, str | bytes) and isinstance(value, Sequence):
        return [utf8(name, text).decode() for text in value]
    if name == "stop_token_ids" and isinstance(value, list | tuple):
        return [_plain(name, token) for token in value]
    if name == "logit_bias" and isinstance(value, Mapping):
        return {str(token): _plain(name, bias) for token, bias in value.items()}
    if name in _NUMBERS and isinstance(value, str):
        # Triton would take it for the number that it spells, and the gateway refuse it.
        raise InvalidRequestError(f"{name} must be a number, got the text {value[:20]!a}")
    if not isinstance(value, str | int | float):
        raise InvalidRequestError(f"{name} must be a plain number, bool or str, got {type(value).__name__}")
    return value
