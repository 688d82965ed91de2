"""Whether Triton serves what the gateway offers, and what is missing."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Final

from deploykit.client import AsyncClient, ClientError
from deploykit.gateway.catalogue import ServedModel
from deploykit.gateway.errors import RETRY_AFTER, Refusal
from deploykit.gateway.logs import tell

PROBE_TIMEOUT: Final = 10.0
"""Seconds that Triton may take to say which models it has."""
INTERVAL: Final = 5.0
"""Seconds between two looks of the log at how Triton is."""
READY: Final = "Triton is ready, and so is every model"


class Readiness:
    """Asks Triton how it is: one question for all who ask at a time, since whoever has no key may ask, too."""

    def __init__(self, client: AsyncClient) -> None:
        self._client = client
        self._asking: asyncio.Future[str | None] | None = None

    async def trouble(self, models: Sequence[ServedModel]) -> str | None:
        """Return why requests would not be answered, or None where Triton and each of the models are ready."""
        if self._asking is None:
            self._asking = asyncio.ensure_future(self._ask(models))
            self._asking.add_done_callback(self._asked)
        return await asyncio.shield(self._asking)

    async def _ask(self, models: Sequence[ServedModel]) -> str | None:
        try:
            health = await self._client.health()
            if not health.live:
                return "Triton does not answer"
            if not health.ready:
                return "Triton is not ready: it starts, or starts again"
            ready = {model.name for model in await self._client.models(timeout=PROBE_TIMEOUT) if model.ready}
        except ClientError:
            return "Triton does not answer as it should"
        missing = [ascii(model.name) for model in models if model.name not in ready]
        if not missing:
            return None
        return f"Triton does not serve {', '.join(missing)}: it starts, or has other models than the gateway was given"

    def _asked(self, _asking: "asyncio.Future[str | None]") -> None:
        self._asking = None


def not_ready(trouble: str) -> Refusal:
    """Return what a probe is told."""
    return Refusal(
        f"{trouble}; try again", status=503, kind="server_error", code="unavailable", retry_after=RETRY_AFTER
    )


async def watch(
    readiness: Readiness, models: Callable[[], Sequence[ServedModel]], on_first: Callable[[str], None]
) -> None:
    """Log whenever Triton's state has changed, and tell `on_first` the first one, until cancelled.

    That all is well at the start is no event.
    """
    known = told = await readiness.trouble(models())
    on_first(known or READY)
    if known:
        tell(known, level=logging.WARNING)
    while True:
        await asyncio.sleep(INTERVAL)
        told, known = known, await readiness.trouble(models())
        if known != told:
            tell(known or READY, level=logging.WARNING if known else logging.INFO)
