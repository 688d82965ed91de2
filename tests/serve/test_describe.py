"""A real Triton says what its engine is, without running it."""

import asyncio
import json
import re
import time
import urllib.request
from typing import Any

import pytest
from triton_calls import generate, stream
from tritonclient.utils import InferenceServerException

from deploykit.client import AsyncClient
from deploykit.client.facts import engine_facts
from deploykit.serve import LocalServer

pytestmark = pytest.mark.triton


def counted(server: LocalServer, name: str) -> float:
    """Return a figure of Triton's metrics, summed over its labels."""
    with urllib.request.urlopen(server.metrics_url, timeout=5) as response:
        return sum(map(float, re.findall(rf"^{name}\{{.*\}} (\S+)$", response.read().decode(), re.MULTILINE)))


def ask(server: LocalServer) -> dict[str, Any]:
    async def main() -> dict[str, Any]:
        async with AsyncClient(server.grpc_url) as client:
            return await engine_facts(client, "tiny", timeout=10)

    return asyncio.run(main())


def test_the_answer_is_what_serve_knows_of_the_engine(server: LocalServer) -> None:
    facts = ask(server)
    assert facts == server.facts()["tiny"]
    assert (facts["version"], facts["precision"], facts["context"]) == ("1", "fp32", 128)
    assert not [value for value in facts.values() if isinstance(value, str) and "/" in value]


@pytest.mark.parametrize("more", [{}, {"stream": True}])
def test_it_is_one_response_of_no_tokens(server: LocalServer, more: dict[str, Any]) -> None:
    flags = {f"return_{name}": True for name in ("finish_reason", "num_input_tokens", "num_output_tokens")}
    with stream(server, parameters={"describe": True}, **flags, **more) as responses:
        (response,) = responses
    assert json.loads(response.pop("text_output")[0])["mode"] == "deterministic"
    assert response == {"finish_reason": [b"stop"], "num_input_tokens": [0], "num_output_tokens": [0]}


def test_plain_http_may_ask_too(server: LocalServer) -> None:
    status, body = generate(server, describe=True)
    assert (status, json.loads(json.loads(body)["text_output"])) == (200, ask(server))


def test_triton_counts_it_among_what_went_well(server: LocalServer) -> None:
    success, failure = (f"nv_inference_request_{end}" for end in ("success", "failure"))
    before, failed = counted(server, success), counted(server, failure)
    ask(server)
    end = time.monotonic() + 10
    while counted(server, success) != before + 1:
        assert time.monotonic() < end
        time.sleep(0.02)
    assert counted(server, failure) == failed


def test_a_prompt_beside_it_is_refused(server: LocalServer) -> None:
    with (
        pytest.raises(
            InferenceServerException, match="INVALID_ARGUMENT: describe asks what the engine is and takes no"
        ),
        stream(server, text_input="x", parameters={"describe": True}) as responses,
    ):
        list(responses)
