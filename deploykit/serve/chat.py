"""Makes prompts of conversations, on threads of its own: a template may take seconds, and nobody else waits for it."""

import os
import queue
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, Protocol

from deploykit.chat_template import ChatTemplate, read_messages, read_tools
from deploykit.chat_template.sources import Sources, read_sources
from deploykit.errors import ArtifactError, DeploykitError, QueueFullError, RequestError
from deploykit.serve.prompt import Chat
from deploykit.serve.refusal import GONE, LATE, Refusal, refusal_of

THREADS: Final = 4
"""Conversations at once: as many as a template has processes."""
MOST_CHARACTERS: Final = 64 * 2**20
"""Of all conversations that wait, so that they can't fill the memory."""
_REMEDY: Final = "send the whole prompt as text_input or input_ids"


class Cancellable(Protocol):
    """A request that the engine runs."""

    def cancel(self) -> None:
        """Free its rows."""
        ...


Submit = Callable[[list[int], float | None], Cancellable]
"""Gives a prompt's tokens to the engine, and the seconds that are left of the request's timeout."""


class ChatDesk:
    """Takes conversations, renders and encodes them one after another, and submits what comes out."""

    def __init__(
        self,
        folder: Path,
        encode: Callable[[str], list[int]],
        *,
        most: int,
        on_failure: Callable[[Exception], None],
    ) -> None:
        """Read the template, and start nothing: where a gateway renders, no conversation ever comes here.

        Args:
            folder: the artifact, its chat template in it.
            encode: makes tokens of a rendered prompt.
            most: conversations that may wait.
            on_failure: told of what only the log should tell.
        """
        self._encode = encode
        self._most = most
        self._on_failure = on_failure
        self._waiting: queue.SimpleQueue[_Visit | None] = queue.SimpleQueue()
        self._held = _Held()
        self._threads: list[threading.Thread] = []
        self._compiling = threading.Lock()
        self._template: ChatTemplate | None = None
        self._flaw = f"this model has no chat template; {_REMEDY}"
        self._sources = self._read(folder)

    def take(
        self, chat: Chat, *, timeout: float | None, submit: Submit, refuse: Callable[[Refusal], None]
    ) -> Cancellable:
        """Return at once a handle to a request whose prompt has yet to be made; Triton's own thread alone calls it.

        Args:
            chat: the conversation.
            timeout: seconds that the request may wait.
            submit: called with its tokens, on another thread.
            refuse: called instead, where it comes to nothing.

        Raises:
            QueueFullError: as many wait already as may.
        """
        if self._waiting.qsize() >= self._most:
            raise QueueFullError(f"the queue is full: {self._most} conversations wait; try again later")
        visit = _Visit(chat, timeout, submit, refuse)
        if not self._held.take(visit.size):
            raise QueueFullError(
                "the queue is full: the conversations that wait are too long together; try again later"
            )
        self._waiting.put(visit)
        if len(self._threads) < THREADS:
            # Daemons: a template that is still at work doesn't hold up the end.
            thread = threading.Thread(target=self._run, name="chat", daemon=True)
            self._threads.append(thread)
            thread.start()
        return visit

    def close(self) -> None:
        """End the threads and the template's processes."""
        for _ in self._threads:
            self._waiting.put(None)
        with self._compiling:
            self._sources = None
            if self._template is not None:
                self._template.close()

    def _run(self) -> None:
        while (visit := self._waiting.get()) is not None:
            self._held.give_back(visit.size)
            try:
                refusal = self._serve(visit)
            except Exception as error:  # one request's failure is not the others'
                refusal = refusal_of(error)
                if not isinstance(error, DeploykitError):
                    self._on_failure(error)
            if refusal:
                visit.refuse(refusal)

    def _serve(self, visit: "_Visit") -> Refusal | None:
        """Submit a visit's prompt; or return why not."""
        if visit.is_cancelled():
            return GONE
        if visit.deadline is not None and time.monotonic() > visit.deadline:
            return LATE
        tokens = self._encode(self._render(visit.chat))
        left = None if visit.deadline is None else visit.deadline - time.monotonic()
        if left is not None and left <= 0:
            return LATE
        if visit.is_cancelled():
            return GONE
        visit.request = visit.submit(tokens, left)
        if visit.is_cancelled():
            # Between the two: whoever cancelled found nothing to cancel.
            visit.request.cancel()
        return None

    def _render(self, chat: Chat) -> str:
        messages = read_messages(chat.messages)
        tools = None if chat.tools is None else read_tools(chat.tools)
        return self._compiled().render(messages, tools=tools)

    def _compiled(self) -> ChatTemplate:
        with self._compiling:
            if self._template is None and self._sources is not None:
                try:
                    self._template = ChatTemplate(self._sources)
                except QueueFullError:
                    raise
                except RequestError as error:
                    self._sources, self._flaw = None, f"{error}; {_REMEDY}"
            if self._template is None:
                raise RequestError(self._flaw)
            return self._template

    def _read(self, folder: Path) -> Sources | None:
        try:
            return read_sources(folder)
        except ArtifactError as error:
            # Files by their names: where they lie is no caller's business.
            self._flaw = f"this model's chat template can't be used: {error}".replace(f"{folder}{os.sep}", "")
            return None


class _Held:
    """Characters that wait; several threads may call."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._size = 0

    def take(self, size: int) -> bool:
        """Return whether so many more may wait; then they do."""
        with self._lock:
            # One alone may: how long it can be is for its reader to say.
            fits = not self._size or self._size + size <= MOST_CHARACTERS
            self._size += size if fits else 0
            return fits

    def give_back(self, size: int) -> None:
        with self._lock:
            self._size -= size


class _Visit:
    """A request whose prompt is being made."""

    def __init__(self, chat: Chat, timeout: float | None, submit: Submit, refuse: Callable[[Refusal], None]) -> None:
        self.chat = chat
        self.size = len(chat.messages) + len(chat.tools or "")
        self.deadline = None if timeout is None else time.monotonic() + timeout
        self.submit = submit
        self.refuse = refuse
        self._cancelled = False
        self.request: Cancellable | None = None

    def is_cancelled(self) -> bool:
        return self._cancelled

    def cancel(self) -> None:
        self._cancelled = True
        if self.request is not None:
            self.request.cancel()
