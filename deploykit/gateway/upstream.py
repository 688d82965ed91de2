"""Triton, as the endpoints ask it."""

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, cast

from deploykit.client import (
    AsyncClient,
    Chunk,
    ClientError,
    Completion,
    InvalidRequestError,
    Options,
    StreamBrokenError,
    UnavailableError,
)
from deploykit.client.facts import engine_facts
from deploykit.gateway.catalogue import ServedModel
from deploykit.gateway.errors import context_of, is_full

PROBE_TIMEOUT: Final = 10.0
"""Seconds that a question about an engine may take: it is answered at once, or nobody answers."""

Piece = tuple[int, Chunk]
"""A choice's number among all of a request, and what it adds."""
Key = tuple[str, str]
"""A model's name and fingerprint."""


@dataclass(frozen=True, kw_only=True)
class Question:
    """What a request wants of Triton."""

    model: ServedModel
    prompts: Sequence[list[int]]
    choices: int
    """Answers to each prompt; those to the first come first."""
    sampling: Mapping[str, Any]
    request_id: str | None
    trace: Mapping[str, str]
    """`traceparent` and `tracestate`, where somebody traces."""

    @property
    def prompt_tokens(self) -> int:
        """Tokens of all prompts."""
        return sum(map(len, self.prompts))


class Upstream:
    """Asks Triton for answers, and knows how much context each engine has."""

    def __init__(self, client: AsyncClient) -> None:
        """Ask through `client`."""
        self._client = client
        self._contexts: dict[Key, int] = {}
        self._asking: dict[Key, asyncio.Future[int]] = {}
        """The questions for those that aren't known yet."""

    async def context(self, model: ServedModel) -> int:
        """Return the tokens that prompt and answer may have together.

        An engine may run with less than its model was made for, as its settings and its memory are, so it is asked.

        Raises:
            ClientError: the engine doesn't answer.
        """
        key = _key(model)
        if key in self._contexts:
            return self._contexts[key]
        # Whoever asks meanwhile waits for the same answer: a Triton that is down is asked by every request.
        asking = self._asking.get(key)
        if asking is None:
            asking = self._asking[key] = asyncio.ensure_future(self._learn_context(model))
            asking.add_done_callback(partial(self._asked, key))
        return await asyncio.shield(asking)

    def known_context(self, model: ServedModel) -> int:
        """Return the context as far as known: the model's own before its engine was asked."""
        return self._contexts.get(_key(model), model.context)

    async def pieces(self, question: Question, *, timeout: float) -> AsyncGenerator[Piece, None]:
        """Yield the pieces of all answers as they come, the last within `timeout` seconds; closing cancels them.

        Raises:
            ClientError: one of the answers failed.
        """
        try:
            if len(question.prompts) == 1:
                options = _options(question, timeout)
                async with self._client.open_stream(question.prompts[0], **options) as stream:
                    async for chunk in stream:
                        yield chunk.index, chunk
            else:
                async with aclosing(self._merged(question, timeout)) as merged:
                    async for piece in merged:
                        yield piece
        except ClientError as error:
            self._heed(question.model, error)
            raise

    async def completions(self, question: Question, *, timeout: float) -> list[Completion]:
        """Return the whole answers to each prompt, all within `timeout` seconds.

        Raises:
            ClientError: one of them failed; the others are cancelled.
        """
        tasks = [
            asyncio.ensure_future(self._client.generate(prompt, **_options(question, timeout)))
            for prompt in question.prompts
        ]
        try:
            return await asyncio.gather(*tasks)
        except ClientError as error:
            self._heed(question.model, error)
            raise
        finally:
            await _end(tasks)

    async def _merged(self, question: Question, timeout: float) -> AsyncGenerator[Piece, None]:
        pieces: asyncio.Queue[Piece | Exception | None] = asyncio.Queue()
        options = _options(question, timeout)

        async def pump(first: int, prompt: list[int]) -> None:
            try:
                async with self._client.open_stream(prompt, **options) as stream:
                    async for chunk in stream:
                        pieces.put_nowait((first + chunk.index, chunk))
                pieces.put_nowait(None)
            except Exception as error:  # whatever it is, the others' reader must hear of it
                pieces.put_nowait(error)

        tasks = [
            asyncio.create_task(pump(number * question.choices, prompt))
            for number, prompt in enumerate(question.prompts)
        ]
        try:
            running = len(tasks)
            while running:
                piece = await pieces.get()
                if isinstance(piece, Exception):
                    raise piece
                if piece is None:
                    running -= 1
                else:
                    yield piece
        finally:
            await _end(tasks)

    async def _learn_context(self, model: ServedModel) -> int:
        try:
            facts = await engine_facts(self._client, model.name, timeout=PROBE_TIMEOUT)
        except InvalidRequestError:
            # A backend older than the question; what it refuses for its length will tell.
            facts = {}
        context = facts.get("context")
        self._contexts[_key(model)] = context if isinstance(context, int) else model.context
        return self._contexts[_key(model)]

    def _asked(self, key: Key, asking: "asyncio.Future[int]") -> None:
        del self._asking[key]
        if not asking.cancelled():
            # Those who waited may all be gone, and asyncio would complain that nobody heard of a failure.
            asking.exception()

    def _heed(self, model: ServedModel, error: ClientError) -> None:
        """Learn from a failure what it tells of an engine: its context, or that another one may come."""
        if context := context_of(error):
            self._contexts[_key(model)] = context
        elif isinstance(error, UnavailableError | StreamBrokenError) and not is_full(error):
            self._contexts.pop(_key(model), None)


def _options(question: Question, timeout: float) -> Options:
    return cast(
        "Options",
        {
            **question.sampling,
            "model": question.model.name,
            "timeout": timeout,
            "request_id": question.request_id,
            "trace": question.trace,
        },
    )


def _key(model: ServedModel) -> Key:
    return model.name, model.fingerprint


async def _end(tasks: Sequence["asyncio.Future[Any]"]) -> None:
    """Cancel what still runs of tasks, and wait for its end."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
