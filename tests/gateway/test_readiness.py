"""What the gateway says of a Triton that doesn't serve what it offers."""

import asyncio
from pathlib import Path
from typing import Any

from gateways import open_gateway
from inference_server import Service, run

from deploykit.client import AsyncClient
from deploykit.client.testing import MockTransport
from deploykit.gateway.catalogue import Catalogue
from deploykit.gateway.readiness import Readiness, watch


def test_health_names_the_model_that_triton_does_not_serve(chatty: Path) -> None:
    service = Service(models=[("other", "1", "READY")])
    triton = run(service)
    with open_gateway([chatty], triton.url) as gateway:
        answer = gateway.get("/health")
        assert answer.status_code == 503
        assert answer.headers["retry-after"] == "1"
        assert answer.json()["error"]["message"].startswith("Triton does not serve 'chatty': it starts, or has other")
        service.models[:] = [("chatty", "1", "READY")]
        assert gateway.get("/health").json() == {"status": "ok"}
    triton.server.stop(None)


def test_many_who_ask_are_one_question_for_triton() -> None:
    asked: list[str] = []

    class Counting(MockTransport):
        def ask(self, request: Any) -> Any:
            asked.append(request.method)
            return super().ask(request)

    async def main() -> None:
        async with AsyncClient(transport=Counting("x"), tries=1) as client:
            readiness = Readiness(client)
            found = await asyncio.gather(*[readiness.trouble([]) for _ in range(20)])
            assert found == [None] * 20
            assert len(asked) == 2
            assert await readiness.trouble([]) is None
            assert len(asked) == 4

    asyncio.run(main())


def test_the_log_tells_of_each_change_once(chatty: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("deploykit.gateway.readiness.INTERVAL", 0.01)
    logged: list[str] = []
    monkeypatch.setattr("deploykit.gateway.readiness.tell", lambda line, **_: logged.append(line))
    first: list[str] = []
    states = ["down", "down", None, None, "down", None]

    class Scripted(Readiness):
        async def trouble(self, models: Any) -> str | None:
            if not states:
                raise asyncio.CancelledError
            return states.pop(0)

    async def main() -> None:
        async with AsyncClient(transport=MockTransport("x")) as client:
            catalogue = Catalogue([chatty])
            await asyncio.gather(
                watch(Scripted(client), lambda: catalogue.models, first.append), return_exceptions=True
            )
            catalogue.close()

    asyncio.run(main())
    ready = "Triton is ready, and so is every model"
    assert first == ["down"]
    assert logged == ["down", ready, "down", ready]
