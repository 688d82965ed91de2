"""A gateway that listens, in a thread of this process."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import uvicorn
from openai import AsyncOpenAI, OpenAI

from deploykit.client import AsyncClient
from deploykit.config import GatewayConfig
from deploykit.gateway.app import create_app
from deploykit.gateway.catalogue import Catalogue

TEMPLATE = (
    "{% if tools %}<s>system\n{{ tools | tojson }}</s>{% endif %}"
    "{% for message in messages %}<s>{{ message.role }}\n{{ message.content }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<s>assistant\n{% endif %}"
)
"""A chat template for the tiny models."""


class Gateway:
    """A gateway on a thread of its own."""

    def __init__(self, server: uvicorn.Server) -> None:
        self._server = server
        self._thread = threading.Thread(target=server.run, daemon=True)
        self._thread.start()
        while not server.started:
            assert self._thread.is_alive()
            self._thread.join(0.01)
        self.port: int = server.servers[0].sockets[0].getsockname()[1]

        self.http = httpx2.Client(base_url=self.url, timeout=30)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def openai(self) -> OpenAI:
        return OpenAI(base_url=f"{self.url}/v1", api_key="any", max_retries=0, timeout=30)

    def async_openai(self) -> AsyncOpenAI:
        return AsyncOpenAI(base_url=f"{self.url}/v1", api_key="any", max_retries=0, timeout=30)

    def get(self, path: str) -> httpx2.Response:
        return self.http.get(path)

    def post(self, path: str, body: Any) -> httpx2.Response:
        return self.http.post(path, json=body)

    def close(self) -> None:
        self.http.close()
        self._server.should_exit = self._server.force_exit = True
        self._thread.join(10)


@contextmanager
def open_gateway(paths: Sequence[Path], triton: str, *, timeout: float = 30.0) -> Iterator[Gateway]:
    """Run the endpoints alone, without what stands in front of them, on a free port."""
    catalogue = Catalogue(paths)
    client = AsyncClient(triton, tries=1)
    app = create_app(catalogue, client, GatewayConfig(timeout=timeout))
    config = uvicorn.Config(app, host="127.0.0.1", port=0, log_level="critical", timeout_keep_alive=30)
    gateway = Gateway(uvicorn.Server(config))
    try:
        yield gateway
    finally:
        gateway.close()
        catalogue.close()
