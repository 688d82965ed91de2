"""A real Triton tells of each request: in spans that a real collector gets, and in lines on standard error."""

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from collector import Collector, attributes, collecting, never_answering
from gateways import open_gateway
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status
from triton_calls import generate, stream
from tritonclient.utils import InferenceServerException

from deploykit.config import ServeConfig
from deploykit.serve import LocalServer, serve

pytestmark = pytest.mark.triton

PROMPT = "def a_secret_name(name):"
ASKED: dict[str, Any] = {"text_input": PROMPT, "max_tokens": 8, "ignore_eos": True}
PARENT = "00f067aa0ba902b7"


@dataclass(frozen=True, kw_only=True)
class Watched:
    """A server that tells of its requests."""

    server: LocalServer
    collector: Collector
    log: Path

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]

    def line(self, request_id: str) -> dict[str, Any]:
        """Return the one line about a request."""
        end = time.monotonic() + 10
        while not (found := [line for line in self.lines() if line["request_id"] == request_id]):
            assert time.monotonic() < end, request_id
            time.sleep(0.02)
        assert len(found) == 1
        return found[0]


@contextmanager
def standard_error(file: Path) -> Iterator[None]:
    """Have what this process writes to standard error, and hands down, go to a file."""
    kept = os.dup(2)
    with file.open("ab") as stream:
        os.dup2(stream.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


@pytest.fixture(scope="module")
def watched(
    slow_repository: Path, anywhere: ServeConfig, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Watched]:
    log = tmp_path_factory.mktemp("watched") / "stderr"
    with collecting() as collector, pytest.MonkeyPatch.context() as patch:
        patch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
        patch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
        with standard_error(log):
            server = serve(slow_repository, replace(anywhere, engine={"log_requests": True}))
        with server:
            yield Watched(server=server, collector=collector, log=log)


def trace_of(number: int) -> str:
    return f"{number:032x}"


def parent(number: int, *, flags: str = "01") -> dict[str, str]:
    return {"traceparent": f"00-{trace_of(number)}-{PARENT}-{flags}", "tracestate": "vendor=1"}


def seconds(span: Span) -> float:
    return (span.end_time_unix_nano - span.start_time_unix_nano) / 1e9


def test_a_request_is_a_span_below_its_callers_with_one_for_each_stage(watched: Watched) -> None:
    before = time.time()
    with stream(watched.server, **ASKED, stream=True, parameters=parent(1), request_id="order-66") as responses:
        assert len(list(responses)) >= 2
    spans = watched.collector.wait(trace_of(1), 4)
    assert set(spans) == {"text_completion tiny", "queue", "prefill", "decode"}
    whole = spans.pop("text_completion tiny")
    assert (whole.kind, whole.parent_span_id.hex(), whole.trace_state) == (Span.SPAN_KIND_SERVER, PARENT, "vendor=1")
    assert {span.parent_span_id for span in spans.values()} == {whole.span_id}
    assert before < whole.start_time_unix_nano / 1e9 < whole.end_time_unix_nano / 1e9 < time.time()
    # One after the other, without a gap, to the end.
    moments = [moment for span in spans.values() for moment in (span.start_time_unix_nano, span.end_time_unix_nano)]
    assert moments == sorted(moments)
    assert moments[1::2] == [*moments[2::2], whole.end_time_unix_nano]
    # Eight tokens of 50 ms, of which the first belongs to the prompt.
    assert 0.3 < seconds(spans["decode"]) < seconds(whole)
    told = attributes(whole)
    assert told["gen_ai.operation.name"] == "text_completion"
    assert told["gen_ai.request.model"] == "tiny"
    assert told["gen_ai.request.max_tokens"] == 8
    assert told["gen_ai.usage.output_tokens"] == 8
    assert told["gen_ai.usage.input_tokens"] > 3
    assert told["gen_ai.response.finish_reasons"] == ["length"]
    assert told["deploykit.request_id"] == "order-66"
    assert watched.collector.services == {"deploykit-engine"}


def test_a_gateways_question_for_the_context_has_no_line(watched: Watched, slow_repository: Path) -> None:
    before = len(watched.lines())
    with open_gateway([slow_repository], watched.server.grpc_url) as gateway:
        reply = gateway.post("/v1/completions", {"model": "tiny", "prompt": "x", "max_tokens": 1})
        assert reply.status_code == 200
    end = time.monotonic() + 10
    while len(watched.lines()) == before:
        assert time.monotonic() < end
        time.sleep(0.02)
    # Lines come in order, so that of the question would be there by now.
    assert [(line["status"], line["generated_tokens"]) for line in watched.lines()[before:]] == [("OK", 1)]


def test_the_log_tells_the_same_and_no_prompt(watched: Watched) -> None:
    with stream(watched.server, **ASKED, n=2, parameters=parent(2), request_id="two\nchoices") as responses:
        list(responses)
    spans = watched.collector.wait(trace_of(2), 4)
    line = watched.line("two\nchoices")
    assert (line["message"], line["model"], line["version"]) == ("request", "tiny", "1")
    assert (line["status"], line["finished"]) == ("OK", ["length", "length"])
    assert (line["generated_tokens"], line["trace_id"]) == (16, trace_of(2))
    assert line["prompt_tokens"] == attributes(spans["text_completion tiny"])["gen_ai.usage.input_tokens"]
    for stage in ("queue", "prefill", "decode"):
        assert line[f"{stage}_ms"] == pytest.approx(seconds(spans[stage]) * 1000, abs=0.01)
    assert line["duration_ms"] == pytest.approx(seconds(spans["text_completion tiny"]) * 1000, abs=0.01)
    assert "secret" not in watched.log.read_text()
    assert not [span for span in watched.collector.spans if "secret" in str(span)]


def test_a_request_id_comes_over_http_as_well(watched: Watched) -> None:
    status, _ = generate(watched.server, **ASKED, id="from-http")
    assert status == 200
    assert watched.line("from-http")["status"] == "OK"


def test_a_caller_that_leaves_is_told_of(watched: Watched) -> None:
    asked = {**ASKED, "max_tokens": 400, "stream": True}
    with stream(watched.server, **asked, parameters=parent(3), request_id="left") as responses:
        next(responses)
    assert watched.line("left")["status"] == "CANCELLED"
    assert watched.line("left")["finished"] == ["cancelled"]
    span = watched.collector.wait(trace_of(3), 4)["text_completion tiny"]
    assert span.status.code == Status.STATUS_CODE_ERROR
    assert attributes(span)["error.type"] == "CANCELLED"


def test_a_request_that_is_refused_is_told_of_without_what_was_wrong_with_it(watched: Watched) -> None:
    with (
        pytest.raises(InferenceServerException, match="temperature"),
        stream(watched.server, **ASKED, temperature=-1.0, parameters=parent(4), request_id="bad") as responses,
    ):
        list(responses)
    line = watched.line("bad")
    assert (line["status"], line["finished"], line["generated_tokens"]) == ("INVALID_ARGUMENT", [], 0)
    assert "queue_ms" not in line
    assert "temperature" not in json.dumps(line)
    span = watched.collector.wait(trace_of(4), 1)["text_completion tiny"]
    assert (span.parent_span_id.hex(), attributes(span)["error.type"]) == (PARENT, "INVALID_ARGUMENT")


@pytest.mark.parametrize(
    ("traceparent", "spans"),
    [
        (f"00-{trace_of(5)}-{PARENT}-00", 0),
        ("", 4),
        ("nonsense", 4),
        (f"00-{'0' * 32}-{PARENT}-01", 4),
    ],
)
def test_what_is_not_sampled_has_no_spans_and_what_is_no_trace_begins_one(
    watched: Watched, traceparent: str, spans: int
) -> None:
    before = len(watched.collector.spans)
    with stream(watched.server, **ASKED, parameters={"traceparent": traceparent}, request_id="s") as responses:
        list(responses)
    # One that comes after it is sent after it.
    with stream(watched.server, **ASKED, parameters=parent(6 + before), request_id="t") as responses:
        list(responses)
    watched.collector.wait(trace_of(6 + before), 4)
    found = watched.collector.spans[before:-4]
    assert len(found) == spans
    assert {span.parent_span_id for span in found if span.name == "text_completion tiny"} <= {b""}


def test_a_collector_that_never_answers_holds_up_neither_requests_nor_the_end(
    packaged: Any, anywhere: ServeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with never_answering() as url:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", f"{url}/v1/traces")
        monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
        log = tmp_path / "triton.log"
        with serve(packaged.path, anywhere, log=log) as server:
            for _ in range(3):
                assert generate(server, **ASKED)[0] == 200
            time.sleep(0.2)
            began = time.monotonic()
            for _ in range(20):
                assert generate(server, **ASKED)[0] == 200
            assert time.monotonic() - began < 5
            began = time.monotonic()
        # Triton's own end takes some four seconds; the exporter would wait for ten, and the exit timeout is twenty.
        assert time.monotonic() - began < 8
    assert url.rpartition(":")[2] not in log.read_text()
