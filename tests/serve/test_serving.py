"""A real Triton on a tiny model: what a caller gets, and what a caller is refused."""

import json
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from triton_calls import generate, post, stream
from tritonclient.utils import InferenceServerException

from deploykit.artifact import Artifact
from deploykit.engine import Engine, SamplingParams
from deploykit.serve import LocalServer

pytestmark = pytest.mark.triton

PROMPT = "def greet(name):"


@pytest.fixture(scope="module")
def engine(packaged: Artifact) -> Iterator[Engine]:
    with Engine.open(packaged.path) as running:
        yield running


def until_idle(server: LocalServer) -> None:
    end = time.monotonic() + 10
    while server.beats()["tiny"].open_requests:
        assert time.monotonic() < end
        time.sleep(0.01)


def test_health_and_metadata_are_there(server: LocalServer) -> None:
    for path in ("live", "ready"):
        with urllib.request.urlopen(f"{server.health_url}/v2/health/{path}", timeout=5) as response:
            assert response.status == 200
    with urllib.request.urlopen(server.metrics_url, timeout=5) as response:
        assert b"nv_inference_request_success" in response.read()
    assert server.models == ["tiny"]


def test_a_stream_is_the_engines_events(server: LocalServer, engine: Engine) -> None:
    params = SamplingParams(max_tokens=40, temperature=0.7, top_k=20, seed=3, ignore_eos=True)
    expected = list(engine.stream(PROMPT, params))
    asked = {"temperature": np.array([0.7], np.float32), "top_k": np.array([20], np.int32)}
    limits = {"seed": np.array([3], np.int64), "max_tokens": np.array([40], np.int32), "ignore_eos": True}
    flags = {f"return_{name}": True for name in ("finish_reason", "num_input_tokens", "num_output_tokens")}
    with stream(server, text_input=PROMPT, stream=True, **asked, **limits, **flags) as responses:
        got = list(responses)
    assert b"".join(part["text_output"][0] for part in got).decode() == "".join(event.text for event in expected)
    assert [part["finish_reason"] for part in got] == [[b"None"]] * (len(got) - 1) + [[b"length"]]
    assert sum(part["num_output_tokens"][0] for part in got) == 40
    assert {part["num_input_tokens"][0] for part in got} == {expected[0].num_input_tokens}


def test_generate_gives_the_whole_text_at_once(server: LocalServer, engine: Engine) -> None:
    expected = engine.generate(PROMPT, SamplingParams(max_tokens=20))
    status, body = generate(server, text_input=PROMPT, max_tokens=20, exclude_input_in_output=True)
    assert (status, json.loads(body)["text_output"]) == (200, expected.text)
    status, body = generate(server, text_input=PROMPT, max_tokens=20)
    assert json.loads(body)["text_output"] == PROMPT + expected.text


def test_generate_stream_gives_events(server: LocalServer, engine: Engine) -> None:
    expected = list(engine.stream(PROMPT, SamplingParams(max_tokens=12, ignore_eos=True)))
    asked = {"text_input": PROMPT, "stream": True, "max_tokens": 12, "ignore_eos": True}
    status, body = generate(server, verb="generate_stream", **asked)
    events = [json.loads(line.removeprefix("data: ")) for line in body.splitlines() if line]
    assert status == 200
    assert "".join(event["text_output"] for event in events) == "".join(event.text for event in expected)


@pytest.mark.parametrize("place", ["tensor", "parameters"])
def test_a_request_made_for_the_vllm_backend_is_taken(server: LocalServer, engine: Engine, place: str) -> None:
    sampling = {"temperature": "0", "top_p": "0.95", "max_tokens": "9"}
    given = {"sampling_parameters": json.dumps(sampling)} if place == "tensor" else {"parameters": sampling}
    with stream(server, text_input=PROMPT, stream=True, exclude_input_in_output=True, **given) as responses:
        text = b"".join(part["text_output"][0] for part in responses)
    assert text.decode() == engine.generate(PROMPT, SamplingParams(max_tokens=9, temperature=0)).text


def test_vllm_parameters_nested_in_generates_json_are_taken(server: LocalServer, engine: Engine) -> None:
    nested = {"stream": False, "temperature": 0, "max_tokens": 7, "exclude_input_in_output": True}
    status, body = generate(server, text_input=PROMPT, parameters=nested)
    assert (status, json.loads(body).get("text_output")) == (
        200,
        engine.generate(PROMPT, SamplingParams(max_tokens=7)).text,
    )


GOOD: dict[str, Any] = {"text_input": PROMPT, "stream": True}
BAD: dict[str, tuple[dict[str, Any], str]] = {
    "empty prompt": ({"text_input": ""}, "empty"),
    "long prompt": ({"text_input": "x y " * 4000}, r"prompt.* \d+ tokens"),
    "prompt not UTF-8": ({"text_input": np.array([b"a\xff"], np.object_)}, "text_input is not UTF-8: byte 0xff at 1"),
    "two prompts": ({"text_input": ["a", "b"]}, r"(shape|element)"),
    "prompt of numbers": ({"text_input": np.array([1], np.int32)}, "INT32.*(BYTES|STRING)"),
    "max_tokens -1": ({"max_tokens": np.array([-1], np.int32)}, "max_tokens must be 1 to .*, got -1"),
    "max_tokens 0": ({"max_tokens": np.array([0], np.int32)}, "max_tokens must be 1 to .*, got 0"),
    "max_tokens 2^31": (
        {"sampling_parameters": '{"max_tokens": 2147483648}'},
        "max_tokens must be 1 to 2147483647, got 2147483648",
    ),
    "max_tokens of another type": ({"max_tokens": np.array([1.0], np.float32)}, "FP32.*INT32"),
    "temperature NaN": ({"temperature": np.array([np.nan], np.float32)}, "temperature must be .*nan"),
    "temperature inf": ({"temperature": np.array([np.inf], np.float32)}, "temperature must be .*inf"),
    "top_p 2": ({"top_p": np.array([2], np.float32)}, "top_p must be"),
    "min_p -1": ({"min_p": np.array([-1], np.float32)}, "min_p must be"),
    "repetition_penalty 0": ({"repetition_penalty": np.array([0], np.float32)}, "repetition_penalty must be"),
    "presence_penalty NaN": ({"presence_penalty": np.array([np.nan], np.float32)}, "presence_penalty must be .*nan"),
    "min_tokens above max_tokens": (
        {"min_tokens": np.array([9], np.int32), "max_tokens": np.array([8], np.int32)},
        "min_tokens",
    ),
    "n 17": ({"n": np.array([17], np.int32)}, "n must be 1 to 16, got 17"),
    "logprobs 21": ({"sampling_parameters": '{"logprobs": 21}'}, "logprobs must be 0 to 20, got 21"),
    "bias of no token": ({"sampling_parameters": '{"logit_bias": {"99999999": 1}}'}, "logit_bias"),
    "no time": ({"timeout": np.array([0], np.float32)}, "timeout must be a number of seconds above 0, got 0"),
    "priority that is no number": ({"sampling_parameters": '{"priority": "high"}'}, "priority must be an integer"),
    "client of 300 characters": ({"client": "c" * 300}, "client must be a text of at most 256 characters"),
    "interval 0": ({"stream_interval": np.array([0], np.int32)}, "stream_interval must be an integer from 1"),
    "unknown input": ({"beams": np.array([2], np.int32)}, "beams"),
    "unknown parameter": ({"parameters": {"beams": 2}}, "unknown parameter 'beams'"),
    "unknown sampling parameter": ({"sampling_parameters": '{"beams": 2}'}, "unknown parameter 'beams'"),
    "sampling parameters not JSON": ({"sampling_parameters": "{"}, "not valid JSON"),
    "contradiction": (
        {"max_tokens": np.array([4], np.int32), "sampling_parameters": '{"max_tokens": 5}'},
        "max_tokens is given twice",
    ),
    "prompt before a stream": ({"exclude_input_in_output": False}, "can't be false when stream is true"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_request_gets_one_clear_line(server: LocalServer, case: str) -> None:
    fields, message = BAD[case]
    with (
        pytest.raises(InferenceServerException, match=message) as caught,
        stream(server, **{**GOOD, **fields}) as responses,
    ):
        list(responses)
    said = str(caught.value.message())
    assert "\n" not in said
    assert "/" not in said
    with stream(server, **GOOD, max_tokens=np.array([1], np.int32)) as responses:
        assert len(list(responses)) == 1
    assert server.restarts == 0


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b'{"text_input": "x", "max_tokens": 0}', "max_tokens must be 1 to"),
        (b'{"text_input": "x", "max_tokens": 2147483648}', "max_tokens must be 1 to"),
        (b'{"text_input": "x", "temperature": NaN}', "temperature|JSON|data"),
        (b'{"text_input": "x", "beams": 2}', "unknown parameter 'beams'"),
        (b'{"text_input": "a\xffb"}', "not UTF-8|JSON"),
        (b'{"text_input": "\\ud800"}', "surrogate"),
        (b'{"max_tokens": 3}', "text_input|input"),
    ],
)
def test_a_bad_http_request_gets_one_clear_line(server: LocalServer, body: bytes, message: str) -> None:
    status, answer = post(f"{server.http_url}/v2/models/tiny/generate", body)
    assert status in (400, 500)
    error = json.loads(answer)["error"]
    assert "\n" not in error
    assert any(part in error for part in message.split("|")), error


@pytest.mark.parametrize("path", ["v2/systemsharedmemory/status", "v2/cudasharedmemory/status", "v2/logging"])
def test_interfaces_for_administrators_are_closed(server: LocalServer, path: str) -> None:
    with (
        pytest.raises(urllib.error.HTTPError) as caught,
        urllib.request.urlopen(f"{server.http_url}/{path}", timeout=5),
    ):
        pass
    assert caught.value.code in (400, 403)
    caught.value.close()


def test_a_client_that_leaves_frees_its_row(slow_server: LocalServer) -> None:
    long = {"max_tokens": np.array([100], np.int32), "ignore_eos": True}
    restarts = slow_server.restarts
    with stream(slow_server, **GOOD, **long) as responses:
        next(responses)
        assert slow_server.beats()["tiny"].open_requests == 1
    left = time.monotonic()
    until_idle(slow_server)
    # A hundred steps of 50 ms would have taken 5 s.
    assert time.monotonic() - left < 4
    assert slow_server.restarts == restarts
