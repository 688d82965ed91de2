"""What an engine says of itself. For the gateway: no part of the public interface, since only Triton is asked so."""

import json
from typing import Any

from deploykit.client.async_client import AsyncClient
from deploykit.client.async_stream import AsyncTextStream
from deploykit.client.errors import ServerError


async def engine_facts(client: AsyncClient, model: str, *, timeout: float) -> dict[str, Any]:
    """Return what a model's engine is: its version, precision, mode, rows, context and so on.

    Raises:
        InvalidRequestError: the model's backend is older than the question.
        ClientError: it doesn't answer, or not so.
    """
    exchange = client._core.facts(model, timeout)  # noqa: SLF001  # a public method would have to hold for HTTP, too
    answer = await AsyncTextStream(exchange, client._connection).completion()  # noqa: SLF001
    try:
        facts = json.loads(answer.text)
    except (ValueError, RecursionError):
        facts = None
    if not isinstance(facts, dict):
        raise ServerError(f"{exchange.url}: the model {model!r} doesn't answer what its engine is with a JSON object")
    return facts
