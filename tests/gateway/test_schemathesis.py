"""What schemathesis makes of the gateway's own document, to real processes: nothing of it is a server error, every
response is what the document says, and the stack answers afterwards what it answered before."""

from collections.abc import Iterator
from typing import Any, Final

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.config import SchemathesisConfig
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from stacks import KEY, Stack

pytestmark = pytest.mark.triton

PROMISED: Final = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    negative_data_rejection,
]
OPERATIONS: Final = [
    *(("POST", path) for path in ("/v1/chat/completions", "/v1/completions", "/tokenize", "/detokenize")),
    *(("GET", path) for path in ("/v1/models", "/v1/models/{model}", "/health")),
]
LIMITS: Final = {"max_tokens", "max_completion_tokens"}
SHORT: Final = 2
"""Tokens of an answer whose request leaves it to the context: a thousand would take seconds."""


@pytest.fixture(scope="module")
def document(stack: Stack) -> Any:
    raw = stack.ask("/openapi.json").json
    assert {(method.upper(), path) for path, methods in raw["paths"].items() for method in methods} == set(OPERATIONS)
    document = schemathesis.openapi.from_dict(raw, config=SchemathesisConfig())
    document.config.update(base_url=stack.url.removesuffix("/v1"))
    return document


@pytest.fixture
def unharmed(stack: Stack) -> Iterator[Stack]:
    """A stack that goes on in the same processes, with the same answers."""
    stack.recovered()
    asked = {"max_tokens": 8, "temperature": 0, "ignore_eos": True}
    before, processes = stack.complete(**asked).json["choices"], stack.processes()
    yield stack
    stack.calm()
    assert stack.complete(**asked).json["choices"] == before
    assert stack.processes() == processes


def ask(document: Any, method: str, path: str, mode: GenerationMode, examples: int) -> None:
    @settings(
        max_examples=examples, derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck)
    )
    @given(case=document[path][method].as_strategy(generation_mode=mode))
    def each(case: Any) -> None:
        if isinstance(case.body, dict) and not LIMITS & case.body.keys() and "completions" in path:
            case.body["max_tokens"] = SHORT
        case.call_and_validate(checks=PROMISED, headers={"Authorization": f"Bearer {KEY}"}, timeout=60)

    each()


@pytest.mark.usefixtures("unharmed")
@pytest.mark.parametrize("mode", GenerationMode)
@pytest.mark.parametrize(("method", "path"), OPERATIONS)
def test_a_few_of_each_kind(document: Any, method: str, path: str, mode: GenerationMode) -> None:
    if method == "GET" and mode is GenerationMode.NEGATIVE:
        pytest.skip("nothing in it can be wrong")
    ask(document, method, path, mode, 5)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.usefixtures("unharmed")
@pytest.mark.parametrize("mode", GenerationMode)
@pytest.mark.parametrize(("method", "path"), OPERATIONS[:4])
def test_many_of_each_kind(document: Any, method: str, path: str, mode: GenerationMode) -> None:
    ask(document, method, path, mode, 400)
