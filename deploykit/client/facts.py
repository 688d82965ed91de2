"""What an engine says of itself. For the gateway and `chat`, not for others: only Triton is asked so."""

import json
from typing import Any

from deploykit.client.async_client import AsyncClient
from deploykit.client.async_stream import AsyncTextStream
from deploykit.client.client import Client
from deploykit.client.errors import ServerError
from deploykit.client.stream import TextStream


async def engine_facts(client: AsyncClient, model: str, *, timeout: float) -> dict[str, Any]:
    """Return what a model's engine is: its version, precision, mode, rows, context and so on.

    Raises:
        InvalidRequestError: the model's backend is older than the question.
        ClientError: it doesn't answer, or not so.
    """
    exchange = client._core.facts(model, timeout)  # noqa: SLF001  # a public method would have to hold for HTTP, too
    answer = await AsyncTextStream(exchange, client._connection).completion()  # noqa: SLF001
    return _read(answer.text, model, exchange.url)


def engine_facts_for_threads(client: Client, model: str, *, timeout: float) -> dict[str, Any]:
    """Return the same, for a client of threads.

    Raises:
        ClientError: as there; an InvalidRequestError for every model over HTTP.
    """
    exchange = client._core.facts(model, timeout)  # noqa: SLF001
    answer = TextStream(exchange, client._connection).completion()  # noqa: SLF001
    return _read(answer.text, model, exchange.url)


def _read(text: str, model: str, url: str) -> dict[str, Any]:
    try:
        facts = json.loads(text)
    except (ValueError, RecursionError):
        facts = None
    if not isinstance(facts, dict):
        raise ServerError(f"{url}: the model {model!r} doesn't answer what its engine is with a JSON object")
    return facts
