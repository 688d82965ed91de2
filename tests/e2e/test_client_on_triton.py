"""The client and a real Triton: bad requests, leaving early, and a backend that is killed."""

import asyncio
import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tritonclient.grpc import InferenceServerClient, InferInput

from deploykit.artifact import Artifact
from deploykit.client import (
    AsyncClient,
    Client,
    ClientError,
    DeadlineExceededError,
    InvalidRequestError,
    NotFoundError,
    Options,
)
from deploykit.config import ServeConfig
from deploykit.errors import ArtifactError
from deploykit.serve import LocalServer, serve

pytestmark = pytest.mark.triton


def until(condition: Callable[[], bool], seconds: float) -> bool:
    """Return whether `condition` became true in time."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


@pytest.mark.parametrize(
    ("prompt", "parameters", "said"),
    [
        ("", {}, "empty"),
        ("word " * 400, {}, "256"),
        ("x", {"max_tokens": 0}, "max_tokens"),
        ("x", {"max_tokens": -1}, "max_tokens"),
        ("x", {"max_tokens": 2**31}, "max_tokens"),
        ("x", {"temperature": float("nan")}, "temperature"),
        ("x", {"temperature": -0.1}, "temperature"),
        ("x", {"top_p": 1.5}, "top_p"),
        ("x", {"stop": [""]}, "stop"),
        ("\ud800", {}, "surrogate"),
    ],
)
def test_a_bad_request_is_one_clear_line(
    server: LocalServer, prompt: str, parameters: dict[str, Any], said: str
) -> None:
    with Client(server.grpc_url, model="exact") as client:
        with pytest.raises(InvalidRequestError) as caught:
            client.generate(prompt, **parameters)
        assert said in str(caught.value)
        assert "\n" not in str(caught.value)
        assert client.generate("x", max_tokens=1).num_output_tokens == 1


def raw_request(server: LocalServer, **tensors: Any) -> str:
    """Send tensors as they are, and return the error."""
    errors: list[object] = []
    with InferenceServerClient(server.grpc_url) as client:
        client.start_stream(lambda result, error: errors.append(error))
        inputs = []
        for name, value in tensors.items():
            array = np.asarray(value)
            kind = {"O": "BYTES", "i": "INT32", "f": "FP32"}[array.dtype.kind]
            inputs.append(InferInput(name, array.shape, kind))
            inputs[-1].set_data_from_numpy(array)
        client.async_stream_infer("exact", inputs)
        assert until(lambda: bool(errors), 10)
        client.stop_stream()
    return str(errors[0])


def text(*values: bytes) -> Any:
    return np.array(values, dtype=np.object_)


@pytest.mark.parametrize(
    ("tensors", "said"),
    [
        ({"text_input": text(b"\xff\xfe")}, "UTF-8"),
        ({"text_input": np.array([1], np.int32)}, "text_input"),
        ({"text_input": text(b"x"), "max_tokens": np.array([1.0], np.float32)}, "max_tokens"),
        ({"text_input": text(b"x"), "sampling_parameters": text(b'{"beam_width": 4}')}, "beam_width"),
        ({"text_input": text(b"x"), "sampling_parameters": text(b"[")}, "sampling_parameters"),
        ({"text_input": text(b"x"), "colour": text(b"red")}, "colour"),
    ],
)
def test_tensors_that_no_client_of_ours_sends(server: LocalServer, tensors: dict[str, Any], said: str) -> None:
    assert said in raw_request(server, **tensors)


def test_an_unknown_model_is_not_found_and_the_known_are_named(server: LocalServer) -> None:
    with Client(server.grpc_url, model="nobody") as client, pytest.raises(NotFoundError, match="nobody"):
        client.generate("x")
    with Client(server.grpc_url) as client, pytest.raises(NotFoundError, match=r"exact.*small"):
        client.generate("x")


def test_leaving_the_loop_ends_the_request(server: LocalServer) -> None:
    """With a model this fast it may have ended by itself; tests/serve shows on a slow one that it is cancelled."""
    with Client(server.grpc_url, model="exact") as client:
        for chunk in client.generate("def ", stream=True, max_tokens=10_000, ignore_eos=True):
            if chunk.num_output_tokens >= 3:
                break
        assert until(lambda: server.beats()["exact"].open_requests == 0, 5)
        assert client.generate("def ", max_tokens=4, ignore_eos=True).num_output_tokens == 4


def test_leaving_a_loop_and_cancelling_a_task_end_the_request(server: LocalServer) -> None:
    endless = Options(max_tokens=10_000, ignore_eos=True)

    async def main() -> None:
        async with AsyncClient(server.grpc_url, model="exact") as client:
            async with client.generate("def ", stream=True, **endless) as stream:
                assert (await anext(stream)).num_output_tokens >= 1
            assert await asyncio.to_thread(until, lambda: server.beats()["exact"].open_requests == 0, 5)
            task = asyncio.ensure_future(client.generate("def ", **endless))
            await asyncio.sleep(0.05)
            task.cancel()
            # It may have ended by itself.
            await asyncio.gather(task, return_exceptions=True)
            assert await asyncio.to_thread(until, lambda: server.beats()["exact"].open_requests == 0, 5)
            assert [answer.num_output_tokens for answer in await client.batch(["a", [5, 6]], max_tokens=3)] == [3, 3]

    asyncio.run(main())


def test_choices_and_log_probabilities_can_be_read(server: LocalServer) -> None:
    with Client(server.grpc_url, model="exact") as client:
        options = Options(n=2, logprobs=2, seed=4, max_tokens=5, ignore_eos=True)
        whole = client.generate("def ", **options)
        stream = client.generate("def ", stream=True, **options)
        told: dict[int, list[Any]] = {0: [], 1: []}
        for chunk in stream:
            told[chunk.index] += chunk.logprobs
    assert whole.num_output_tokens == 10
    for choice in whole.choices:
        assert list(choice.logprobs) == told[choice.index]
        assert "".join(token.token for token in choice.logprobs) == choice.text
        for token in choice.logprobs:
            assert len(token.top) == 2
            assert token.top[0].logprob >= token.top[1].logprob
            assert token.token_id is not None


def test_a_deadline_ends_the_call_and_the_request(server: LocalServer) -> None:
    with Client(server.grpc_url, model="exact") as client:
        with pytest.raises(DeadlineExceededError):
            client.generate("def ", max_tokens=10_000, ignore_eos=True, timeout=0.05)
        assert until(lambda: server.beats()["exact"].open_requests == 0, 5)


def test_a_killed_backend_serves_again(exact: Artifact, ports: ServeConfig) -> None:
    """What callers hear meanwhile is shown on a slow model in tests/serve; here it is never a time-out."""
    with serve(exact.path, ports) as server, Client(server.grpc_url) as client:
        stream = client.generate("def ", stream=True, max_tokens=10_000, ignore_eos=True, timeout=60)
        next(stream)
        os.kill(server.beats()["exact"].pid, signal.SIGKILL)
        heard: ClientError | None = None
        try:
            list(stream)
        except ClientError as error:
            heard = error
        assert not isinstance(heard, DeadlineExceededError)

        def answers() -> bool:
            try:
                return client.generate("def ", max_tokens=4).num_output_tokens == 4
            except ClientError:
                return False

        assert until(answers, 30)
        assert server.restarts == 1


def test_a_flipped_byte_keeps_the_server_from_starting(exact: Artifact, ports: ServeConfig, tmp_path: Path) -> None:
    shutil.copytree(exact.path, tmp_path / "artifact")
    graph = next((tmp_path / "artifact").rglob("model_repository/**/model.onnx"))
    content = bytearray(graph.read_bytes())
    content[len(content) // 2] ^= 1
    graph.write_bytes(content)
    with pytest.raises(ArtifactError, match=r"model\.onnx"):
        serve(tmp_path / "artifact", ports)
