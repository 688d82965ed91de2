"""The OpenAPI document, and requests that schemathesis makes of it."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from gateways import Gateway, open_gateway
from hypothesis import HealthCheck, given, settings
from inference_server import Service, inputs, piece, run
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.config import SchemathesisConfig
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_schema_conformance,
    status_code_conformance,
)

PROMISED = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
    negative_data_rejection,
]


@pytest.fixture(scope="module")
def gateway(chatty: Path) -> Iterator[Gateway]:
    """In front of a server that gives every choice one token, with log probabilities where they are wanted."""

    def answer(request: Any, _context: Any) -> Iterator[Any]:
        asked = json.loads(inputs(request)["sampling_parameters"])
        n = asked.get("n", 1)
        named = json.dumps([{"5": {"logprob": -1.5, "rank": 1, "decoded_token": "a"}}])
        logprobs = [named] * n if "logprobs" in asked else ()
        yield piece(*["a"] * n, reasons=["stop"] * n, tokens=[1] * n, logprobs=logprobs)

    running = run(Service(answer=answer, models=[("chatty", "1", "READY")]))
    with open_gateway([chatty], running.url) as gateway:
        yield gateway
    running.server.stop(None)


@pytest.fixture(scope="module")
def document(gateway: Gateway) -> Any:
    return schemathesis.openapi.from_url(f"{gateway.url}/openapi.json", config=SchemathesisConfig())


WITH_BODIES = ("/v1/chat/completions", "/v1/completions", "/tokenize", "/detokenize")
OPERATIONS = [
    *((path, "POST", mode) for path in WITH_BODIES for mode in GenerationMode),
    *((path, "GET", GenerationMode.POSITIVE) for path in ("/v1/models", "/v1/models/{model}", "/health")),
]


@pytest.mark.parametrize(("path", "method", "mode"), OPERATIONS)
def test_whatever_is_made_of_the_document_is_answered_as_it_promises(
    document: Any, path: str, method: str, mode: GenerationMode
) -> None:
    @settings(max_examples=12, derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck))
    @given(case=document[path][method].as_strategy(generation_mode=mode))
    def ask(case: Any) -> None:
        case.call_and_validate(checks=PROMISED)

    ask()


def test_the_document_names_models_errors_and_streams(gateway: Gateway) -> None:
    document = gateway.get("/openapi.json").json()
    assert set(document["paths"]) == {
        "/v1/models",
        "/v1/models/{model}",
        "/v1/chat/completions",
        "/v1/completions",
        "/tokenize",
        "/detokenize",
        "/health",
    }
    for path in document["paths"].values():
        for operation in path.values():
            assert "422" not in operation["responses"]
            for status in ("4XX", "5XX"):
                content = operation["responses"][status]["content"]
                assert content["application/json"]["schema"] == {"$ref": "#/components/schemas/ErrorReply"}
    schemas = document["components"]["schemas"]
    assert schemas["ChatRequest"]["properties"]["model"]["enum"] == ["chatty"]
    answers = document["paths"]["/v1/chat/completions"]["post"]["responses"]["200"]["content"]
    assert set(answers) == {"application/json", "text/event-stream"}
