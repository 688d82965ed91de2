"""Lines about requests: what stands in them, and what a reader that is slow or gone costs."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from deploykit.engine import Event, Timing
from deploykit.serve.courier import Delivery
from deploykit.serve.inherited import FILE_VARIABLE, handed_down, inherited_file
from deploykit.serve.prompt import Chat
from deploykit.serve.protocol import Query
from deploykit.serve.record import Record
from deploykit.serve.refusal import LATE, Refusal
from deploykit.serve.request_log import MOST_WAITING, RequestLog
from deploykit.serve.tracing import open_tracing

LABELS = {"model": "tiny", "version": "3"}


def ask(prompt: Any = "a secret", **given: Any) -> Query:
    return Query(prompt=prompt, stream=True, prepend=False, sampling={}, wanted=frozenset(), **given)


def record(**given: Any) -> Record:
    return Record(**{"request_id": "7", "arrived": 1.0, "ended": 5.0, "query": ask(), **given})


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    yield ends
    for end in ends:
        try:
            os.close(end)
        except OSError:
            continue


def written(pipe: tuple[int, int], *records: Record, **options: Any) -> list[dict[str, Any]]:
    log = RequestLog(pipe[1], labels=LABELS, **options)
    for each in records:
        log(each)
    log.close()
    os.close(pipe[1])
    with os.fdopen(os.dup(pipe[0])) as lines:
        return [json.loads(line) for line in lines]


def test_a_line_says_how_long_each_stage_took_and_nothing_of_the_prompt(pipe: tuple[int, int]) -> None:
    whole = record(
        queued=1.25, begun=2.0, first_token=2.5, num_input_tokens=3, num_output_tokens=9, finish_reasons=("stop",)
    )
    (line,) = written(pipe, whole)
    assert line.pop("time").endswith("+00:00")
    assert line == {
        "level": "info",
        "message": "request",
        "logger": "deploykit.serve",
        "model": "tiny",
        "version": "3",
        "request_id": "7",
        "trace_id": "",
        "operation": "text_completion",
        "status": "OK",
        "finished": ["stop"],
        "prompt_tokens": 3,
        "generated_tokens": 9,
        "queue_ms": 750.0,
        "prefill_ms": 500.0,
        "decode_ms": 2500.0,
        "duration_ms": 4000.0,
    }


@pytest.mark.parametrize(
    ("reached", "stages"),
    [
        ({}, {}),
        ({"queued": 2.0}, {"queue_ms": 3000.0}),
        ({"queued": 2.0, "begun": 4.0}, {"queue_ms": 2000.0, "prefill_ms": 1000.0}),
    ],
)
def test_a_stage_that_was_not_reached_has_no_time(
    pipe: tuple[int, int], reached: dict[str, float], stages: dict[str, float]
) -> None:
    (line,) = written(pipe, record(**reached, refusal=LATE, finish_reasons=("timeout",)))
    assert line["status"] == "DEADLINE_EXCEEDED"
    assert {name: value for name, value in line.items() if name in ("queue_ms", "prefill_ms", "decode_ms")} == stages


@pytest.mark.parametrize(
    ("prompt", "shown"),
    [
        ("a secret", "a secret"),
        ([5, 6], [5, 6]),
        (Chat(messages="[]"), {"messages": "[]"}),
        (Chat(messages="[]", tools="[1]"), {"messages": "[]", "tools": "[1]"}),
    ],
)
def test_prompts_stand_in_lines_only_where_asked_for(pipe: tuple[int, int], prompt: Any, shown: Any) -> None:
    (line,) = written(pipe, record(query=ask(prompt)), prompts=True)
    assert line["prompt"] == shown
    assert line["operation"] == ("chat" if isinstance(prompt, Chat) else "text_completion")


def test_a_name_cannot_end_its_line_nor_fill_the_disk(pipe: tuple[int, int]) -> None:
    (line,) = written(pipe, record(request_id='"}\n{"\x1b[2J\u2028' + "x" * 10_000))
    assert line["request_id"].startswith('"}\n{"\x1b[2J\u2028xxx')
    assert len(line["request_id"]) == 128


@pytest.mark.parametrize(
    ("traceparent", "trace_id"),
    [
        (f"00-{'ab' * 16}-{'01' * 8}-01", "ab" * 16),
        (f"00-{'ab' * 16}-{'01' * 8}-01-more", "ab" * 16),
        ("", ""),
        ("00-x", ""),
        (f"00-{'AB' * 16}-{'01' * 8}-01", ""),
        (f"00-{'ab' * 16}-{'01' * 8}-01\n", ""),
    ],
)
def test_a_line_names_its_callers_trace(pipe: tuple[int, int], traceparent: str, trace_id: str) -> None:
    (line,) = written(pipe, record(query=ask(traceparent=traceparent)))
    assert line["trace_id"] == trace_id


def test_a_reader_that_does_not_read_holds_up_nobody_and_hears_what_it_missed(pipe: tuple[int, int]) -> None:
    log = RequestLog(pipe[1], labels=LABELS)
    began = time.monotonic()
    asked = MOST_WAITING + 3000
    for _ in range(asked):
        log(record())
    assert time.monotonic() - began < 5
    # The pipe is full and the thread waits for its reader: the end doesn't.
    began = time.monotonic()
    log.close()
    assert time.monotonic() - began < 3
    lines: list[dict[str, Any]] = []
    with os.fdopen(os.dup(pipe[0])) as reader:
        while len(lines) < MOST_WAITING:
            lines.append(json.loads(reader.readline()))
        assert {line["message"] for line in lines} == {"request"}


def test_lines_that_were_lost_are_counted_once_there_is_room(pipe: tuple[int, int]) -> None:
    log = RequestLog(pipe[1], labels=LABELS)
    asked = MOST_WAITING + 3000
    for _ in range(asked):
        log(record())
    told = lost = 0
    again = False
    with os.fdopen(os.dup(pipe[0])) as reader:
        while told + lost < asked:
            line = json.loads(reader.readline())
            told += line["message"] == "request" and line["request_id"] == "7"
            if line["message"] == "requests not logged":
                # Once more where there was room in between.
                lost += line["requests"]
            if told >= 1000 and not again:
                # There is room by now; this one has the others' number before it.
                again = True
                log(record(request_id="8"))
    assert lost > 0
    log.close()


def test_a_reader_that_has_gone_ends_the_writing_and_nothing_else(pipe: tuple[int, int]) -> None:
    log = RequestLog(pipe[1], labels=LABELS)
    os.close(pipe[0])
    for _ in range(3):
        log(record())
    began = time.monotonic()
    log.close()
    assert time.monotonic() - began < 0.9


def test_a_file_is_known_again_by_what_it_is(tmp_path: Path) -> None:
    with (tmp_path / "one").open("w") as one, (tmp_path / "two").open("w") as two:
        name = handed_down(one.fileno())
        assert inherited_file({FILE_VARIABLE: name}) == one.fileno()
        other = f"{two.fileno()}:{name.partition(':')[2]}"
        assert inherited_file({FILE_VARIABLE: other}) == 2
    for wrong in (name, "", "x", "-1", "5", f"{2**70}:1:1"):
        assert inherited_file({FILE_VARIABLE: wrong}) == 2
    assert inherited_file({}) == 2


class Nobody:
    """A caller that has gone."""

    def is_cancelled(self) -> bool:
        return True

    def send(self, outputs: Any, *, last: bool) -> None:
        pass

    def fail(self, refusal: Refusal) -> None:
        pass

    def close(self) -> None:
        pass


def last(index: int, timing: Timing, tokens: int) -> Event:
    return Event(
        index=index,
        text="",
        token_ids=(),
        logprobs=(),
        finish_reason="length",
        num_input_tokens=4,
        num_output_tokens=tokens,
        cumulative_logprob=None,
        timing=timing,
    )


def test_of_several_choices_the_earliest_and_the_latest_count() -> None:
    early = Timing(queued=1.0, begun=2.0, first_token=None, ended=3.0)
    late = Timing(queued=1.1, begun=2.5, first_token=4.0, ended=6.0)
    delivery = Delivery(Nobody(), ask(request_id="9"), n=2)
    delivery.answer.add([last(1, late, 7), last(0, early, 0)])
    told = Record.of(delivery)
    assert told.stages() == {"queue": (1.0, 2.0), "prefill": (2.0, 4.0), "decode": (4.0, 6.0)}
    assert (told.request_id, told.ended, told.finish_reasons) == ("9", 6.0, ("length", "length"))
    assert (told.num_input_tokens, told.num_output_tokens, told.status) == (4, 7, "OK")


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({}, None),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": ""}, None),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318", "OTEL_SDK_DISABLED": "true"}, None),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318", "OTEL_TRACES_EXPORTER": "none"}, None),
        (
            {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4317", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"},
            "there are no traces: OTEL_EXPORTER_OTLP_PROTOCOL asks for another protocol than http/protobuf",
        ),
    ],
)
def test_no_collector_no_spans(environment: dict[str, str], said: str | None) -> None:
    told: list[str] = []
    assert open_tracing(environment, model="tiny", say=told.append) is None
    assert [line.startswith(said or "-") for line in told] == ([True] if said else [])


@pytest.mark.parametrize(
    ("blocked", "environment", "said"),
    [
        ("none", {}, ""),
        (
            "opentelemetry",
            {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318"},
            "opentelemetry.sdk is not installed; run: pip install 'deploykit[otel]'",
        ),
    ],
)
def test_nothing_of_opentelemetry_is_imported_without_need(
    blocked: str, environment: dict[str, str], said: str
) -> None:
    code = (
        "import sys; sys.modules[sys.argv[1]] = None\n"
        "from deploykit.serve.tracing import open_tracing\n"
        "import os\n"
        "assert open_tracing(os.environ, model='m', say=print) is None\n"
        "assert not [name for name, module in sys.modules.items() if 'opentelemetry' in name and module]"
    )
    command = [sys.executable, "-c", code, blocked]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert said in done.stdout
