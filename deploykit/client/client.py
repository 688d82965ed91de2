"""The client: a connection to a server, and what can be asked of it."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Literal, Self, Unpack, overload

import grpc
from tritonclient.grpc import service_pb2, service_pb2_grpc

from deploykit.client.channel import KEEPALIVE, open_channel, parse_url
from deploykit.client.errors import (
    ClientError,
    DeadlineExceededError,
    InvalidRequestError,
    NotFoundError,
    UnavailableError,
)
from deploykit.client.faults import RESTRICTED, fault_of_status
from deploykit.client.messages import Completion, Model, Sampling, generation_request, read_models, read_statistics
from deploykit.client.stream import TextStream

PROBE_TIMEOUT: Final = 5.0
"""Seconds that a health check may take: it is asked to learn that a server doesn't answer."""


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


class Client:
    """A client of one Triton server over gRPC; safe to use from several threads at once.

    Every call has a deadline, which the server learns, too. A request that finds the server unavailable is tried up to
    three times within its deadline, but never once a part of the answer has arrived.

    Example:
        ```python
        from deploykit.client import Client

        with Client("localhost:8001") as client:
            print(client.generate("def fib(n):", max_tokens=64).text)
        ```
    """

    def __init__(
        self,
        url: str = "localhost:8001",
        *,
        model: str | None = None,
        timeout: float = 60.0,
        keepalive: float = KEEPALIVE,
    ) -> None:
        """Make a client; it connects with the first call.

        Args:
            url: `HOST:PORT` of the server's gRPC endpoint; `grpcs://HOST:PORT` for TLS.
            model: the model to ask; where None, the server's only one.
            timeout: seconds a call may take, unless it is given its own.
            keepalive: seconds of silence after which the connection is checked; a dead one is found after 1.4 times
                that.

        Raises:
            InvalidRequestError: `url` is no address of a gRPC endpoint, or `timeout` or `keepalive` is no time.
        """
        self._url = url
        self._model = model
        self._timeout = _seconds("timeout", timeout)
        self._channel = open_channel(parse_url(url), keepalive=_seconds("keepalive", keepalive))
        self._stub = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)

    @overload
    def generate(
        self, prompt: str, *, stream: Literal[False] = False, timeout: float | None = None, **sampling: Unpack[Sampling]
    ) -> Completion: ...

    @overload
    def generate(
        self, prompt: str, *, stream: Literal[True], timeout: float | None = None, **sampling: Unpack[Sampling]
    ) -> TextStream: ...

    @overload
    def generate(
        self, prompt: str, *, stream: bool, timeout: float | None = None, **sampling: Unpack[Sampling]
    ) -> Completion | TextStream: ...

    def generate(
        self, prompt: str, *, stream: bool = False, timeout: float | None = None, **sampling: Unpack[Sampling]
    ) -> Completion | TextStream:
        """Return the model's continuation of `prompt`.

        Args:
            prompt: the text to continue.
            stream: whether to return the pieces as they are generated, instead of the whole at the end.
            timeout: seconds until the whole answer must be there; the client's own where None.
            sampling: `max_tokens`, `temperature`, `top_p`, `seed`, `stop` and the other fields of `Sampling`.

        Raises:
            ClientError: the call failed; with `stream`, this comes while the stream is read.

        Example:
            ```python
            from deploykit.client import Client

            with Client("localhost:8001") as client:
                for chunk in client.generate("def ", stream=True, max_tokens=64, temperature=0.8, timeout=30):
                    print(chunk.text, end="", flush=True)
            ```
        """
        seconds = self._timeout if timeout is None else _seconds("timeout", timeout)
        request = generation_request(self._model or self._only_model(seconds), prompt, sampling, stream=stream)

        def start(left: float) -> Any:
            return self._start(request, left)

        answer = TextStream(start, url=self._url, timeout=seconds)
        return answer if stream else answer.completion()

    def models(self, *, timeout: float | None = None) -> list[Model]:
        """Return the models in the server's repository, in alphabetical order.

        Those that aren't ready are among them, unless the server tells callers nothing of its repository.

        Raises:
            ClientError: the server doesn't answer or doesn't tell.

        Example:
            ```python
            from deploykit.client import Client

            with Client("localhost:8001") as client:
                for model in client.models():
                    print(model.name, model.version, "ready" if model.ready else model.reason)
            ```
        """
        seconds = self._timeout if timeout is None else _seconds("timeout", timeout)
        try:
            return read_models(self._ask(self._stub.RepositoryIndex, service_pb2.RepositoryIndexRequest(), seconds))
        except UnavailableError as error:
            if RESTRICTED not in str(error):
                raise
        return read_statistics(self._ask(self._stub.ModelStatistics, service_pb2.ModelStatisticsRequest(), seconds))

    def health(self, *, timeout: float = PROBE_TIMEOUT) -> Health:
        """Return how the server is; one that can't be reached is neither live nor ready.

        Raises:
            ClientError: it answers, but not as Triton does, or refuses this caller.

        Example:
            ```python
            from deploykit.client import Client

            with Client("localhost:8001") as client:
                print(client.health(timeout=2))
            ```
        """
        seconds = _seconds("timeout", timeout)
        try:
            live = self._ask(self._stub.ServerLive, service_pb2.ServerLiveRequest(), seconds).live
            ready = self._ask(self._stub.ServerReady, service_pb2.ServerReadyRequest(), seconds).ready
        except (UnavailableError, DeadlineExceededError):
            return Health(live=False, ready=False)
        return Health(live=live, ready=ready)

    def is_ready(self, *, timeout: float = PROBE_TIMEOUT) -> bool:
        """Return whether the server and all its models are ready.

        Example:
            ```python
            import time
            from deploykit.client import Client

            with Client("localhost:8001") as client:
                while not client.is_ready():
                    time.sleep(1)
            ```
        """
        return self.health(timeout=timeout).ready

    def close(self) -> None:
        """Close the connection; streams that still run are cancelled."""
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _only_model(self, timeout: float) -> str:
        names = sorted({model.name for model in self.models(timeout=timeout)})
        if len(names) != 1:
            found = f"has several models ({', '.join(names)}); name one with model=" if names else "has no model"
            raise NotFoundError(f"{self._url}: the server {found}")
        self._model = names[0]
        return self._model

    def _start(self, request: Any, timeout: float) -> Any:
        try:
            return self._stub.ModelStreamInfer(iter([request]), timeout=timeout)
        except ValueError:
            raise _closed(self._url) from None

    def _ask(self, method: Callable[..., Any], request: Any, timeout: float) -> Any:
        try:
            return method(request, timeout=timeout)
        except grpc.RpcError as error:
            raise fault_of_status(error.code().name, error.details() or "", url=self._url) from None
        except ValueError:
            raise _closed(self._url) from None


def _closed(url: str) -> ClientError:
    # gRPC says so with a ValueError.
    return InvalidRequestError(f"{url}: this client is closed; make a new one")


def _seconds(name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise InvalidRequestError(f"{name} must be a positive number of seconds, got {value!r}")
    return float(value)
