"""An answer that is still arriving."""

import random
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

import grpc

from deploykit.client.errors import CancelledError, ClientError, UnavailableError
from deploykit.client.faults import fault_of_message, fault_of_status, in_mid_stream
from deploykit.client.messages import Answer, Chunk, Completion
from deploykit.client.retry import waits

Call = Callable[[float], Any]
"""Starts the request with a deadline in seconds and returns gRPC's call object."""


class TextStream:
    """The pieces of an answer in the order in which they arrive; made by `Client.generate(..., stream=True)`.

    Leaving the loop early, an exception in it, `close()`, `cancel()` and forgetting the stream all cancel the request
    on the server.

    Example:
        ```python
        from deploykit.client import Client

        with Client("localhost:8001") as client, client.generate("def ", stream=True) as stream:
            for chunk in stream:
                print(chunk.text, end="", flush=True)
                if "return" in stream.text:
                    break
        ```
    """

    def __init__(self, start: Call, *, url: str, timeout: float) -> None:
        self._start = start
        self._url = url
        self._deadline = time.monotonic() + timeout
        self._waits = waits(random.Random())
        self._answer = Answer()
        self._closed = False
        self._cancelled = threading.Event()
        self._call: Any = None
        self._open()

    @property
    def text(self) -> str:
        """What has arrived so far."""
        return self._answer.text

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Chunk:
        """Return the next piece.

        Raises:
            StopIteration: the answer is complete, or the stream was closed.
            ClientError: the call failed; see `deploykit.client.errors`.
        """
        while not self._closed:
            try:
                chunk = self._receive()
            except UnavailableError as fault:
                if self._answer.begun or not self._try_again():
                    self._fail(fault)
            except ClientError as fault:
                self._fail(fault)
            except BaseException:
                # Ctrl-C, or a bug of ours: nobody will read on.
                self.close()
                raise
            else:
                if chunk:
                    return chunk
                self.close()
        raise StopIteration

    def completion(self) -> Completion:
        """Read to the end and return the whole answer, what was read before included.

        Raises:
            ClientError: the call failed.
        """
        for _ in self:
            pass
        return self._answer.completion()

    def cancel(self) -> None:
        """Cancel the request on the server; whoever waits for the next piece, in any thread, gets a CancelledError."""
        self._cancelled.set()
        self._call.cancel()

    def close(self) -> None:
        """Cancel the request if it still runs, and end the iteration."""
        self._closed = True
        if self._call is not None:
            self._call.cancel()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        # Absent where the constructor failed.
        if getattr(self, "_call", None) is not None:
            self.close()

    def _open(self) -> None:
        # gRPC takes a deadline of 0 for one that has passed; a negative one, too.
        self._call = self._start(self._deadline - time.monotonic())

    def _receive(self) -> Chunk | None:
        """Return the next piece, or None at the proper end.

        Raises:
            ClientError: whatever ended the stream instead.
        """
        if self._cancelled.is_set():
            raise CancelledError(f"{self._url}: the request was cancelled")
        try:
            for message in self._call:
                if message.error_message:
                    raise fault_of_message(message.error_message)
                chunk = self._answer.add(message.infer_response)
                if chunk:
                    return chunk
        except grpc.RpcError as error:
            raise fault_of_status(error.code().name, error.details() or "", url=self._url) from None
        if self._answer.finish_reason is None:
            raise UnavailableError(f"{self._url}: the server ended the stream before the answer was complete")
        return None

    def _try_again(self) -> bool:
        """Wait a moment and start the call anew; return False where tries or time are used up."""
        wait = next(self._waits, None)
        if wait is None or time.monotonic() + wait >= self._deadline:
            return False
        # A cancelled stream isn't asked for again: the next look at it says so.
        if not self._cancelled.wait(wait):
            self._open()
        return True

    def _fail(self, fault: ClientError) -> None:
        self.close()
        if self._answer.begun:
            fault = in_mid_stream(fault, text=self._answer.text, tokens=self._answer.num_output_tokens)
        # The message says it all; the frames of gRPC add nothing.
        raise fault from None
