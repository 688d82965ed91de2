"""What is told of a request: one line, the metrics, and nothing of what an error says."""

import asyncio
import io
import json
import logging
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from asgi_calls import Answer, Echo, ask, ask_async

from deploykit.client import AsyncClient
from deploykit.config import GatewayConfig
from deploykit.gateway import logs
from deploykit.gateway.app import create_app
from deploykit.gateway.catalogue import Catalogue
from deploykit.gateway.key_ring import KeyRing
from deploykit.gateway.keys import Keys
from deploykit.gateway.metrics import Metrics
from deploykit.gateway.observe import Observe
from deploykit.gateway.request_id import RequestIds
from deploykit.gateway.watch import RequestWatch, watch_of

HELLO = [{"role": "user", "content": "Hello"}]
SECRET = "/home/someone/a prompt at 10.1.2.3"


@pytest.fixture
def told() -> Iterator[io.StringIO]:
    """What is logged."""
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    stream = io.StringIO()
    logs.set_up(stream)
    yield stream
    root.handlers[:] = before
    root.setLevel(level)


def lines(told: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in told.getvalue().splitlines()]


def observed(app: Any, metrics: Metrics | None = None, *, log_prompts: bool = False) -> RequestIds:
    quiet = frozenset({"/health"})
    return RequestIds(Observe(app, metrics=metrics or Metrics(), tracing=None, log_prompts=log_prompts, quiet=quiet))


def figure(metrics: Metrics, name: str, **labels: str) -> float:
    return metrics.registry.get_sample_value(name, labels) or 0.0


async def answering(scope: Any, receive: Any, send: Any) -> None:
    """Two choices of a model's, one of which has no end."""
    watch = watch_of(scope)
    watch.begin("tiny", prompt_tokens=7, choices=2)
    watch.say(SECRET)
    for choice in (0, 1, 0, 1):
        watch.token(choice=choice)
    watch.token(3)
    watch.end("stop")
    await Echo()(scope, receive, send)


@pytest.mark.usefixtures("told")
def test_counts_and_times_what_an_endpoint_tells() -> None:
    metrics = Metrics()
    ask(observed(answering, metrics), body=[b"x"])
    assert figure(metrics, "prompt_tokens_total", model_name="tiny") == 7
    assert figure(metrics, "generation_tokens_total", model_name="tiny") == 7
    assert figure(metrics, "request_success_total", model_name="tiny", finished_reason="stop") == 1
    assert figure(metrics, "request_success_total", model_name="tiny", finished_reason="cancelled") == 1
    assert figure(metrics, "time_to_first_token_seconds_count", model_name="tiny") == 1
    # Of the first tokens of both choices nobody knows what they took after the one before.
    assert figure(metrics, "time_per_output_token_seconds_count", model_name="tiny") == 5
    assert figure(metrics, "e2e_request_latency_seconds_count", model_name="tiny") == 1
    assert figure(metrics, "num_requests_running", model_name="tiny") == 0


def test_an_answer_that_came_at_once_has_no_times_for_its_tokens() -> None:
    metrics = Metrics()
    watch = RequestWatch(metrics)
    watch.begin("tiny", prompt_tokens=1)
    watch.whole(5)
    watch.end("length")
    watch.close()
    watch.close()
    assert figure(metrics, "generation_tokens_total", model_name="tiny") == 5
    assert figure(metrics, "time_to_first_token_seconds_count", model_name="tiny") == 0
    assert figure(metrics, "e2e_request_latency_seconds_count", model_name="tiny") == 1
    assert watch.reasons == ["length"]


@pytest.mark.parametrize("log_prompts", [False, True])
def test_a_prompt_stands_in_the_log_only_when_asked_for(told: io.StringIO, log_prompts: bool) -> None:
    ask(observed(answering, log_prompts=log_prompts), body=[b"x"], headers={"x-request-id": "mine"})
    (line,) = lines(told)
    assert line["request_id"] == "mine"
    assert (line["prompt_tokens"], line["generated_tokens"], line["finished"]) == (7, 7, ["stop", "cancelled"])
    assert line.get("prompt") == (SECRET if log_prompts else None)


def test_a_failure_is_answered_and_told_without_what_it_says(told: io.StringIO) -> None:
    async def failing(scope: Any, receive: Any, send: Any) -> None:
        raise ValueError(SECRET)

    answer = ask(observed(failing))
    assert (answer.status, answer.error["type"]) == (500, "server_error")
    error, request = lines(told)
    assert (error["error"], error["level"], request["status"]) == ("ValueError", "error", 500)
    assert "in failing" in error["where"][-1]
    assert error["request_id"] == request["request_id"] == answer.headers["x-request-id"]
    assert SECRET not in told.getvalue()
    assert SECRET not in answer.body.decode()


def test_a_failure_in_mid_answer_ends_the_connection(told: io.StringIO) -> None:
    async def failing(scope: Any, receive: Any, send: Any) -> None:
        watch_of(scope).begin("tiny", prompt_tokens=1)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise ValueError(SECRET)

    with pytest.raises(ValueError, match="prompt"):
        ask(observed(failing))
    error, request = lines(told)
    assert (error["error"], request["status"], request["finished"]) == ("ValueError", 200, ["error"])


@pytest.mark.parametrize(
    ("status", "reason"), [(200, "cancelled"), (499, "cancelled"), (400, "error"), (503, "error"), (504, "timeout")]
)
@pytest.mark.usefixtures("told")
def test_counts_what_has_no_end_by_how_the_request_ended(status: int, reason: str) -> None:
    metrics = Metrics()

    async def refused(scope: Any, receive: Any, send: Any) -> None:
        watch_of(scope).begin("tiny", prompt_tokens=1)
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    ask(observed(refused, metrics))
    assert figure(metrics, "request_success_total", model_name="tiny", finished_reason=reason) == 1


def test_a_request_whose_time_is_over_at_shutdown_is_answered(told: io.StringIO) -> None:
    async def waiting(scope: Any, receive: Any, send: Any) -> None:
        watch_of(scope).begin("tiny", prompt_tokens=1)
        await asyncio.sleep(60)

    async def run() -> Answer:
        task = asyncio.create_task(ask_async(observed(waiting)))
        await asyncio.sleep(0.01)
        task.cancel()
        return await task

    answer = asyncio.run(run())
    assert (answer.status, answer.error["type"], "retry-after" in answer.headers) == (503, "server_error", True)
    (line,) = lines(told)
    assert (line["status"], line["finished"]) == (503, ["error"])


def test_a_caller_who_went_is_told_of_as_such(told: io.StringIO) -> None:
    async def gone(scope: Any, receive: Any, send: Any) -> None:
        watch_of(scope).begin("tiny", prompt_tokens=1)

    async def run() -> None:
        with suppress(IndexError):
            # There is no answer to read.
            await ask_async(observed(gone))

    asyncio.run(run())
    (line,) = lines(told)
    assert (line["status"], line["finished"]) == (499, ["cancelled"])


def test_probes_are_logged_only_when_they_fail(told: io.StringIO) -> None:
    left = [200, 503]

    async def healthy(scope: Any, receive: Any, send: Any) -> None:
        scope["state"]["route"] = "/health"
        await send({"type": "http.response.start", "status": left.pop(0), "headers": []})
        await send({"type": "http.response.body", "body": b""})

    for _ in range(2):
        ask(observed(healthy), path="/health", method="GET")
    assert [line["status"] for line in lines(told)] == [503]


def test_what_went_well_is_logged_only_where_it_is_wanted(told: io.StringIO) -> None:
    left = [200, 400, 503]

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": left.pop(0), "headers": []})
        await send({"type": "http.response.body", "body": b""})

    quiet = Observe(
        app, metrics=Metrics(), tracing=None, log_requests=False, log_prompts=False, quiet=frozenset({"/health"})
    )
    for _ in range(3):
        ask(RequestIds(quiet), path="/v1/models", method="GET")
    assert [line["status"] for line in lines(told)] == [400, 503]


def test_a_library_says_a_thing_once_a_minute_and_fills_nothing_in(told: io.StringIO) -> None:
    for _ in range(5):
        logging.getLogger("opentelemetry.exporter").error("cannot reach %s\nmore", SECRET)
        logs.tell("ours")
    assert [line["message"] for line in lines(told)] == ["cannot reach %s", *["ours"] * 5]
    assert SECRET not in told.getvalue()


@pytest.mark.parametrize("text", ["a\nb", "\x1b[31m", "\u2028", "\ud800", '"', "\x9b"])
def test_nothing_in_a_line_ends_it_or_moves_a_terminal(told: io.StringIO, text: str) -> None:
    logs.tell("said", prompt=text)
    written = told.getvalue()
    assert written.count("\n") == 1
    assert written.strip().isascii()
    assert written.strip().isprintable()
    assert json.loads(written)["prompt"] == text


REFUSED: list[tuple[str, dict[str, Any], tuple[Any, ...]]] = [
    ("/v1/completions", {"model": "other", "prompt": "a"}, (404, "model_not_found", "model", "other")),
    ("/v1/completions", {"model": "x" * 500, "prompt": "a"}, (404, "model_not_found", "model", "x" * 128)),
    (
        "/v1/completions",
        {"model": "chatty", "prompt": "a", "temperature": 9},
        (400, "invalid_value", "temperature", "chatty"),
    ),
    (
        "/v1/completions",
        {"model": "chatty", "prompt": "a", "colour": 9},
        (400, "unknown_parameter", "colour", "chatty"),
    ),
    ("/v1/completions", {"model": 5, "prompt": "a"}, (400, "invalid_value", "model", None)),
    # Known to be served, and refused before an engine is asked.
    (
        "/tokenize",
        {"model": "chatty", "messages": HELLO, "chat_template_kwargs": {"range": 1}},
        (400, None, "chat_template_kwargs", "chatty"),
    ),
]


@pytest.fixture(scope="module")
def endpoints(chatty: Path) -> Iterator[Any]:
    """The endpoints, with nobody behind them."""
    catalogue = Catalogue([chatty])
    yield create_app(catalogue, AsyncClient("127.0.0.1:9", tries=1), GatewayConfig())
    catalogue.close()


@pytest.mark.parametrize(("path", "body", "wanted"), REFUSED)
def test_a_refusal_is_told_with_its_reason(
    told: io.StringIO, endpoints: Any, path: str, body: dict[str, Any], wanted: tuple[Any, ...]
) -> None:
    headers = {"content-type": "application/json"}
    ask(observed(endpoints), path=path, body=[json.dumps(body).encode()], headers=headers)
    (line,) = lines(told)
    assert (line["status"], line["code"], line["param"], line.get("model")) == wanted
    assert line["route"] == path


def test_what_the_layers_in_front_refuse_is_told_with_its_reason(told: io.StringIO) -> None:
    ring = KeyRing(None, {"DEPLOYKIT_API_KEYS": "a-key-of-somebody"})
    ask(observed(Keys(Echo(), ring, open_paths=frozenset(), on_trouble=lambda error: None)), path="/v1/models")
    (line,) = lines(told)
    assert (line["status"], line["code"], line["param"]) == (401, "missing_api_key", None)


def test_the_document_is_a_route(told: io.StringIO, endpoints: Any) -> None:
    for path in ("/openapi.json", "/nothing"):
        ask(observed(endpoints), path=path, method="GET")
    assert [(line["route"], line["status"]) for line in lines(told)] == [("/openapi.json", 200), ("none", 404)]
