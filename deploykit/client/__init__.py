"""The client SDK: text from a Triton server over gRPC, or from the gateway over HTTP, with threads or an event loop.

Example:
    ```python
    from deploykit.client import Client

    with Client("localhost:8001") as client:
        for chunk in client.generate("def fib(n):", stream=True, max_tokens=64, timeout=30):
            print(chunk.text, end="", flush=True)
    ```

Who passes answers on builds on `AsyncClient.open_stream`, which is synchronous and sends nothing before the stream it
returns is entered or read:

    AsyncClient(url, *, model=None, timeout=60.0, api_key=None, tls=None, tries=3, keepalive=20.0, transport=None)
    AsyncClient.open_stream(
        prompt,             # str | Sequence[int] (token ids) | Sequence[Message]
        *,
        tools=None,         # Sequence[Mapping]; only with messages
        model=None,         # str; else the client's, else the server's only one
        timeout=None,       # seconds until the whole answer must be there
        request_id=None,    # str; made up where None
        trace=None,         # {"traceparent": ..., "tracestate": ...}; where None, of OpenTelemetry's current span
        **sampling,         # the fields of Sampling, n and logprobs among them
    ) -> AsyncTextStream    # async with, async for -> Chunk; cancel(), await aclose(), await completion()
"""

from deploykit.client.address import TLS
from deploykit.client.async_client import AsyncClient
from deploykit.client.async_stream import AsyncTextStream
from deploykit.client.client import Client
from deploykit.client.errors import (
    CancelledError,
    ClientError,
    DeadlineExceededError,
    InvalidRequestError,
    NotFoundError,
    PermissionDeniedError,
    ServerError,
    StreamBrokenError,
    UnavailableError,
)
from deploykit.client.sampling import Options, Sampling
from deploykit.client.stream import TextStream
from deploykit.client.values import Choice, Chunk, Completion, Health, Message, Model, TokenLogprob

__all__ = [
    "TLS",
    "AsyncClient",
    "AsyncTextStream",
    "CancelledError",
    "Choice",
    "Chunk",
    "Client",
    "ClientError",
    "Completion",
    "DeadlineExceededError",
    "Health",
    "InvalidRequestError",
    "Message",
    "Model",
    "NotFoundError",
    "Options",
    "PermissionDeniedError",
    "Sampling",
    "ServerError",
    "StreamBrokenError",
    "TextStream",
    "TokenLogprob",
    "UnavailableError",
]
