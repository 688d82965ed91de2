"""Bodies read as JSON and nothing else."""

import json
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute
from pydantic_core import from_json

from deploykit.gateway.errors import Refusal


class JsonRequest(Request):
    """A request whose body is read strictly: no NaN, no halves of characters, no nesting beyond reason."""

    async def json(self) -> Any:
        """Return the body's value.

        Raises:
            JSONDecodeError: it is none; the message holds nothing of it.
        """
        try:
            return from_json(await self.body(), allow_inf_nan=False)
        except ValueError as error:
            raise json.JSONDecodeError(str(error), "", 0) from None


class JsonRoute(APIRoute):
    """A route that takes JSON."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return the handler, which refuses another content type."""
        handle = super().get_route_handler()

        async def handle_json(request: Request) -> Response:
            kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
            if kind != "application/json":
                raise Refusal("the body must be JSON; send it with the content type application/json", status=415)
            return await handle(JsonRequest(request.scope, request.receive))

        return handle_json
