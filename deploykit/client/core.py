"""What `Client` and `AsyncClient` share: everything but waiting."""

import math
import os
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from deploykit.client.answer import Answer
from deploykit.client.dialect import Facts, Text, is_chat, read_prompt
from deploykit.client.errors import (
    ClientError,
    DeadlineExceededError,
    InvalidRequestError,
    NotFoundError,
    UnavailableError,
)
from deploykit.client.exchange import Answering, Asking, Attempts, Request, receive
from deploykit.client.retry import TRIES, Budget
from deploykit.client.sampling import plain_parameters
from deploykit.client.tracing import trace_headers
from deploykit.client.transport import Transport
from deploykit.client.values import Health, Model

PROBE_TIMEOUT: Final = 5.0
"""Seconds that a health check may take: it is asked to learn that a server doesn't answer."""
_OF_THE_CALL: Final = ("model", "timeout", "request_id", "trace")
"""Options that say how a request is sent; the others are sampling."""
_REQUEST_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:=@/+-]{0,127}")
"""Safe in a header and in a line of a log, and what the gateway takes for one."""


@dataclass(kw_only=True)
class Exchange:
    """A text that is asked for: the steps to it, and what has arrived."""

    steps: Answering
    answer: Answer
    request_id: str
    url: str


class Core:
    """What is asked of a server and how, in steps that a client performs."""

    def __init__(self, transport: Transport, *, model: str | None, timeout: object, tries: object) -> None:
        if isinstance(tries, bool) or not isinstance(tries, int) or not 1 <= tries <= TRIES:
            raise InvalidRequestError(f"tries must be 1 to {TRIES}, got {tries!r}")
        self.url = transport.url
        self._dialect = transport.dialect
        self._model = model
        self._timeout = seconds("timeout", timeout)
        self._tries = tries
        self._budget = Budget()

    def exchange(
        self,
        prompt: object,
        options: Mapping[str, Any],
        *,
        stream: bool,
        tools: Sequence[Mapping[str, Any]] | None = None,
    ) -> Exchange:
        """Return the steps to a text; `options` are those of `Options`.

        Raises:
            InvalidRequestError: a prompt or an option that can't be sent.
        """
        sampling = plain_parameters({name: value for name, value in options.items() if name not in _OF_THE_CALL})
        trace = options.get("trace")
        text = Text(
            prompt=read_prompt(prompt),
            sampling=sampling,
            stream=stream,
            tools=tools,
            request_id=_request_id(options.get("request_id")),
            headers=trace_headers() if trace is None else _headers(trace),
        )
        if tools is not None and not is_chat(text.prompt):
            raise InvalidRequestError("tools go with the messages of a chat")
        limit = self._limit(options.get("timeout"))
        # One at least: an answer without choices would be complete, whatever the server says of such a number.
        answer = Answer(max(1, sampling["n"]) if isinstance(sampling.get("n"), int) else 1)
        steps = self._text(self._dialect.text(text), limit, model=options.get("model"), answer=answer)
        return Exchange(steps=steps, answer=answer, request_id=text.request_id, url=self.url)

    def facts(self, model: str | None, timeout: float | None) -> Exchange:
        """Return the steps to what a model's engine is, as a text in JSON.

        Raises:
            InvalidRequestError: such a server can't be asked.
        """
        facts, answer = Facts(request_id=_request_id(None)), Answer()
        steps = self._text(self._dialect.facts(facts), self._limit(timeout), model=model, answer=answer)
        return Exchange(steps=steps, answer=answer, request_id=facts.request_id, url=self.url)

    def models(self, timeout: float | None) -> Asking[list[Model]]:
        """Return the steps to the server's models."""
        return self._dialect.models(self._attempts(self._limit(timeout)), trace_headers())

    def health(self, timeout: float) -> Asking[Health]:
        """Return the steps to how the server is; where nobody answers, that is it."""
        attempts = Attempts(budget=Budget(), deadline=time.monotonic() + seconds("timeout", timeout), tries=1)
        try:
            return (yield from self._dialect.health(attempts, trace_headers()))
        except (UnavailableError, DeadlineExceededError):
            return Health(live=False, ready=False)

    def _limit(self, timeout: float | None) -> float:
        return self._timeout if timeout is None else seconds("timeout", timeout)

    def _attempts(self, limit: float) -> Attempts:
        return Attempts(budget=self._budget, deadline=time.monotonic() + limit, tries=self._tries)

    def _text(self, request: Request, limit: float, *, model: str | None, answer: Answer) -> Answering:
        # The clock starts with the first step, not when the call is made up.
        attempts = self._attempts(limit)
        name = model or self._model
        if name is None:
            name = yield from self._only_model(attempts)
        self._dialect.name_model(request, name)
        reader = self._dialect.text_reader(request)
        try:
            yield from receive(request, attempts, reader=reader, answer=answer, url=self.url)
        except NotFoundError as fault:
            raise (yield from self._missing(name, attempts, fault)) from None

    def _missing(self, name: str, attempts: Attempts, fault: NotFoundError) -> Asking[NotFoundError]:
        """Return what is said where a model isn't there: with those that are."""
        try:
            models = yield from self._dialect.models(attempts, {})
        except ClientError:
            return fault
        names = sorted({model.name for model in models if model.ready})
        if not names or name in names:
            # It isn't the model that is missing, but a version of it.
            return fault
        return NotFoundError(
            f"{self.url}: no model {name!r} there; there {'is' if len(names) == 1 else 'are'} {', '.join(names)}"
        )

    def _only_model(self, attempts: Attempts) -> Asking[str]:
        models = yield from self._dialect.models(attempts, {})
        names = sorted({model.name for model in models})
        if len(names) != 1:
            found = f"has several models ({', '.join(names)}); name one with model=" if names else "has no model"
            raise NotFoundError(f"{self.url}: the server {found}")
        self._model = names[0]
        return self._model


def seconds(name: str, value: object) -> float:
    """Return a number of seconds.

    Raises:
        InvalidRequestError: it isn't one above 0.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise InvalidRequestError(f"{name} must be a positive number of seconds, got {value!r}")
    return float(value)


def _request_id(given: object) -> str:
    if given is None:
        return os.urandom(16).hex()
    if not isinstance(given, str) or not _REQUEST_ID.fullmatch(given):
        raise InvalidRequestError(
            "request_id must be at most 128 letters, digits and . _ : = @ / + -, a letter or a digit first"
        )
    return given


def _headers(trace: Mapping[str, object]) -> dict[str, str]:
    headers = {}
    for name, value in trace.items():
        if name not in ("traceparent", "tracestate"):
            raise InvalidRequestError(f"trace takes traceparent and tracestate, got {name!r}")
        if not isinstance(value, str) or not value.isascii() or not value.isprintable():
            raise InvalidRequestError(f"trace: {name} must be printable ASCII")
        headers[name] = value
    return headers
