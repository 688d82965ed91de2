"""The client SDK: text from a Triton server, over gRPC.

Example:
    ```python
    from deploykit.client import Client

    with Client("localhost:8001") as client:
        for chunk in client.generate("def fib(n):", stream=True, max_tokens=64, timeout=30):
            print(chunk.text, end="", flush=True)
    ```
"""

from deploykit.client.client import Client, Health
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
from deploykit.client.messages import Chunk, Completion, Model, Sampling
from deploykit.client.stream import TextStream

__all__ = [
    "CancelledError",
    "Chunk",
    "Client",
    "ClientError",
    "Completion",
    "DeadlineExceededError",
    "Health",
    "InvalidRequestError",
    "Model",
    "NotFoundError",
    "PermissionDeniedError",
    "Sampling",
    "ServerError",
    "StreamBrokenError",
    "TextStream",
    "UnavailableError",
]
