"""What an engine says of itself."""

import asyncio
from typing import Any

import pytest
from inference_server import Running, error, piece

from deploykit.client import AsyncClient, ClientError, InvalidRequestError, ServerError, UnavailableError
from deploykit.client.facts import engine_facts
from deploykit.client.testing import MockTransport


def ask(url: str, **options: Any) -> dict[str, Any]:
    async def main() -> dict[str, Any]:
        async with AsyncClient(url, tries=1, **options) as client:
            return await engine_facts(client, "writer", timeout=5)

    return asyncio.run(main())


def test_they_are_what_the_backend_says(running: Running) -> None:
    running.service.facts = {"context": 96, "mode": "größte"}
    assert ask(running.url) == {"context": 96, "mode": "größte"}


def test_a_backend_that_does_not_know_the_question_refuses_it(running: Running) -> None:
    with pytest.raises(InvalidRequestError, match="the prompt is missing"):
        ask(running.url)


def test_who_is_no_triton_is_not_asked() -> None:
    with pytest.raises(InvalidRequestError, match="tells nothing of engines"):
        ask("http://127.0.0.1:9")
    with pytest.raises(InvalidRequestError, match="no engine"):
        ask("", transport=MockTransport("x"))


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        ([1], ServerError),
        (lambda _: piece("{", "stop"), ServerError),
        (lambda _: error("UNAVAILABLE: the engine starts"), UnavailableError),
    ],
)
def test_any_other_answer_is_an_error(running: Running, said: Any, kind: type[ClientError]) -> None:
    running.service.facts = said
    with pytest.raises(kind):
        ask(running.url)
